//! The address of another node in settings. A host name is kept as text, because its addresses
//! change.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::units::{Wrong, written_as_text};

/// Maximum bytes of a host name (RFC 1035, section 2.3.4).
const HOST_MAX_BYTES: usize = 253;

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seed {
    host: String,
    port: u16,
}

impl Seed {
    /// Returns the host name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address if the host is not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Seed {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let how = "write HOST:PORT, such as 10.0.0.2:1378 or [fd00::2]:1378";
        parse(text).ok_or_else(|| Wrong(format!("{text:?} is not an address of a node: {how}")))
    }
}

fn parse(text: &str) -> Option<Seed> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    let named = !host.contains(':') || host.parse::<Ipv6Addr>().is_ok() && text.contains('[');
    let fits = (1..=HOST_MAX_BYTES).contains(&host.len());
    (fits && named && host.bytes().all(letters)).then_some(Seed { host, port })
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

written_as_text!(Seed);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_seeds_and_round_trip() {
        for text in [
            "10.0.0.2:1378",
            "lab-3.example.org:21001",
            "[fd00::2]:1378",
            "localhost:1",
        ] {
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), text);
        }
        let seed: Seed = "[::1]:1378".parse().unwrap();
        assert_eq!((seed.host(), seed.port()), ("::1", 1378));
        assert!(seed.ip().is_some());
        assert_eq!("a:1".parse::<Seed>().unwrap().ip(), None);
    }

    #[test]
    fn an_undialable_address_is_not_a_seed() {
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "fd00::2:1",
            "[a]:1",
            "a b:1",
            "[::1:1",
        ] {
            assert!(bad.parse::<Seed>().is_err(), "{bad}");
        }
    }
}
