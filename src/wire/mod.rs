//! Encoding and decoding of everything that crosses a network, with every size limit.
//!
//! Owns the formats and their limits; opens no socket, keeps no state, and trusts nothing: what
//! decodes is well formed and within limits, not true. The only module with legacy text.

pub mod legacy;
pub mod mesh;
pub mod native;

/// Why bytes from outside are not a message. The sender is at fault; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Over the limit named.
    #[error("{what} of {length_bytes} bytes is over the limit of {limit_bytes}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length.
        length_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Too few bytes, or bytes that mean nothing.
    #[error("{what} is malformed")]
    Malformed {
        /// What it should have been.
        what: &'static str,
    },
}
