//! Encoding and decoding of everything that crosses a network, with every size limit.
//!
//! Owns the formats and their limits; opens no socket, keeps no state, and trusts nothing: what
//! decodes is well formed and within limits, not true. The only module with legacy text.

pub mod native;

use std::net::SocketAddr;

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

/// One form for each address: an IPv4 peer that a dual-stack socket shows in IPv6 is itself, and
/// the flow label, which the sender may change, is left out.
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
    fn one_peer_has_one_address_however_the_socket_shows_it() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:5".parse().unwrap());
        let six: SocketAddr = "[fd00::1]:5".parse().unwrap();
        assert_eq!(canonical(six), six);
    }
}
