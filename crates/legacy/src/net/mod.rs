//! Sockets of the older protocols.

pub mod discovery;
pub mod mesh;
