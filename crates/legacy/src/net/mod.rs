//! Sockets of the two legacy protocols.

pub mod discovery;
pub mod mesh;
