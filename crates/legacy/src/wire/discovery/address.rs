//! Addresses of peers, as the lists of both legacy protocols have them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Maximum length of a host name (RFC 1035, section 2.3.4).
pub const HOST_MAX_BYTES: usize = 255;

/// An entry of a member list that may be the address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberName {
    /// An address and port.
    Address(SocketAddrV4),
    /// A host name, to be resolved.
    Host {
        /// Letters, digits, `-`, `.` and `_`.
        host: Box<str>,
        /// Port number; never 0.
        port: u16,
    },
}

impl MemberName {
    /// Parses an entry. Returns `None` for garbage, IPv6 (which the original programs do not
    /// support), port 0, and addresses that do not belong to a single machine.
    pub fn parse(entry: &[u8]) -> Option<Self> {
        let entry = std::str::from_utf8(entry).ok()?.trim();
        let (host, port) = entry.rsplit_once(':')?;
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|port| is_number && *port != 0)?;
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return is_of_one_machine(ip).then(|| Self::Address(SocketAddrV4::new(ip, port)));
        }
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let has_letter = host.bytes().any(|b| b.is_ascii_alphabetic());
        let good = has_letter && host.len() <= HOST_MAX_BYTES && host.bytes().all(is_host);
        good.then(|| Self::Host {
            host: host.into(),
            port,
        })
    }
}

/// Returns whether the address can reach a single peer: it is not unspecified, broadcast or
/// multicast.
pub(crate) fn is_of_one_machine(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast())
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_host_names_are_members() {
        let address = MemberName::parse(b"127.0.0.1:21001").unwrap();
        assert_eq!(
            address,
            MemberName::Address("127.0.0.1:21001".parse().unwrap())
        );
        let host = MemberName::parse(b" node2:1378").unwrap();
        assert_eq!(host.to_string(), "node2:1378");
    }

    #[test]
    fn a_host_name_is_accepted_up_to_its_limit() {
        for (length, fits) in [
            (HOST_MAX_BYTES - 1, true),
            (HOST_MAX_BYTES, true),
            (HOST_MAX_BYTES + 1, false),
        ] {
            let entry = format!("{}:1378", "h".repeat(length));
            assert_eq!(
                MemberName::parse(entry.as_bytes()).is_some(),
                fits,
                "{length}"
            );
        }
    }

    #[test]
    fn garbage_is_not_a_member() {
        let garbage: [&[u8]; 14] = [
            b"",
            b"bad",
            b"[::1]:1",
            b"127.0.0",
            b"1.2.3.4:",
            b"1.2.3.4:0",
            b"1.2.3.4:65536",
            b"1.2.3.4:+7",
            b"0.0.0.0:5",
            b"255.255.255.255:5",
            b"224.0.0.1:5",
            b"300.1.1.1:5",
            b"a b:5",
            b"\xff:5",
        ];
        for entry in garbage {
            assert_eq!(MemberName::parse(entry), None, "{}", entry.escape_ascii());
        }
    }
}
