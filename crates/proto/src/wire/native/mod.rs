//! Formats of the native plane: records and heads of logs, sealed datagrams, TCP frames.

pub mod link;
pub mod record;
pub mod tcp;
pub mod udp;
