//! The native plane's formats: records and heads of catalogues, sealed datagrams, TCP frames.

pub mod link;
pub mod record;
pub mod tcp;
pub mod udp;
