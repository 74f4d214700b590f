//! Sockets of the discovery protocol.

pub mod discovery;
