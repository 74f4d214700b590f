//! The sender to which the space of a pushed file is charged.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use p2pfs_proto::wire::canonical;
use p2pfs_types::id::NodeId;

/// Length of the network part of an IPv6 address. One host can use every address of such a network
/// (RFC 4291, section 2.5.1).
const V6_NETWORK_BITS: u32 = 64;

/// A sender, identified by a property that it cannot change at will. Holders of a secret file and
/// foreign peers can make up as many keys and names as they like. So only their address
/// identifies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChargedSender {
    /// A member, by the key in its certificate.
    Node(NodeId),
    /// All senders at one host: at one IPv4 address, or in one IPv6 network of 64 bits.
    Address(IpAddr),
}

impl ChargedSender {
    /// Returns the host at the other end of a connection from that address.
    pub fn at(address: SocketAddr) -> Self {
        Self::of_host(canonical(address).ip())
    }

    fn of_host(ip: IpAddr) -> Self {
        Self::Address(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(six) => {
                let network = six.to_bits() & (u128::MAX << V6_NETWORK_BITS);
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

impl fmt::Display for ChargedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "{node}"),
            Self::Address(ip) => write!(f, "{ip}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_host_are_one_origin() {
        let at = |text: &str| ChargedSender::at(text.parse().unwrap());
        assert_eq!(at("192.0.2.1:1"), at("192.0.2.1:2"));
        assert_eq!(at("192.0.2.1:1"), at("[::ffff:192.0.2.1]:1"));
        assert_ne!(at("192.0.2.1:1"), at("192.0.2.2:1"));
        assert_eq!(at("[2001:db8::1]:1"), at("[2001:db8::2:3]:1"));
        assert_ne!(at("[2001:db8::1]:1"), at("[2001:db8:0:1::1]:1"));
    }
}
