//! The address of the metrics in settings: `127.0.0.1:9178`, or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::units::{Wrong, written_as_text};

/// An address that only this machine can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A loopback address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for MetricsAddress {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let address: Option<SocketAddr> = text.parse().ok();
        let local = address.filter(|address| address.ip().is_loopback());
        local.map(Self::Tcp).ok_or_else(|| {
            Wrong(format!(
                "{text:?} is not an address of this machine alone: write 127.0.0.1:PORT, [::1]:PORT, \
                 or the absolute path of a Unix socket"
            ))
        })
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

written_as_text!(MetricsAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_readable_on_this_machine_only() {
        for text in ["127.0.0.1:9178", "[::1]:1", "/run/p2pfs/metrics.sock"] {
            assert_eq!(text.parse::<MetricsAddress>().unwrap().to_string(), text);
        }
        for text in [
            "0.0.0.0:9178",
            "10.0.0.1:9178",
            "localhost",
            "",
            "metrics.sock",
        ] {
            let error = text.parse::<MetricsAddress>().unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:PORT"), "{error}");
        }
    }
}
