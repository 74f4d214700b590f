//! Formats and size limits of the older protocols.

pub mod discovery;
pub mod mesh;
