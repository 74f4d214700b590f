//! Encoding and decoding of the messages that native nodes exchange.
//!
//! This module owns the formats and their limits. It opens no socket and keeps no state. It trusts
//! no input: a decoded message is within its limits, but its content is not verified.

pub mod native;

use std::net::SocketAddr;

/// The reason why bytes are not a message, or why a message cannot be encoded. The fault is the
/// sender's if the bytes were received, otherwise the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length is over its limit.
    #[error("{what} of {length_bytes} bytes is over the limit of {limit_bytes}")]
    TooLong {
        /// The object that is too long.
        what: &'static str,
        /// Its length.
        length_bytes: usize,
        /// Its limit.
        limit_bytes: usize,
    },
    /// Bytes are missing, have no meaning, or hold a value that is not allowed.
    #[error("{what} is malformed")]
    Malformed {
        /// The expected object.
        what: &'static str,
    },
}

/// Returns the one canonical form of an address. An IPv4 peer that a dual-stack socket reports as
/// IPv6 becomes IPv4. The flow label, which the sender may change, is cleared.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(mut six) => match six.ip().to_ipv4_mapped() {
            Some(four) => SocketAddr::from((four, six.port())),
            None => {
                six.set_flowinfo(0);
                SocketAddr::V6(six)
            }
        },
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_one_address_in_any_notation_of_the_socket() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:5".parse().unwrap());
        let six: SocketAddr = "[fd00::1]:5".parse().unwrap();
        assert_eq!(canonical(six), six);
    }
}
