//! Pair of sockets on one address: one for TCP, one for UDP.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::TcpListener;

use crate::net::NetError;
use crate::net::gossip::UdpPort;
use crate::net::socket::{adopt_tcp, bind_error, bind_tcp};

/// Maximum attempts to find a port that is free for both protocols.
const FREE_PORT_TRIES: usize = 32;

/// TCP listener and UDP socket on the same address and port number, so that a firewall has to open
/// one port number for a node.
#[derive(Debug)]
pub struct PortPair {
    /// Listener for `peer::PeerNet`.
    pub listener: TcpListener,
    /// Socket for the gossip.
    pub udp: UdpPort,
}

impl PortPair {
    /// Binds both sockets. Port 0 selects a port that is free for both. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// [`NetError::Bind`] names the address and the remedy.
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        let tries = if address.port() == 0 {
            FREE_PORT_TRIES
        } else {
            1
        };
        let mut refused = io::ErrorKind::AddrInUse;
        for _ in 0..tries {
            let listener = bind_tcp(address)?;
            let bound = listener
                .local_addr()
                .map_err(|error| bind_error(address, &error))?;
            match UdpPort::bind(bound) {
                Ok(udp) => return Ok(Self { listener, udp }),
                Err(NetError::Bind { kind, .. }) => refused = kind,
                Err(error) => return Err(error),
            }
        }
        Err(NetError::Bind {
            address,
            kind: refused,
        })
    }

    /// Wraps both sockets of an earlier process, for the requested address. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// The sockets are not what [`PortPair::bind`] makes for this address.
    pub fn adopt(tcp: OwnedFd, udp: OwnedFd, address: SocketAddr) -> io::Result<Self> {
        let listener = adopt_tcp(tcp, address)?;
        let udp = UdpPort::adopt(udp, listener.local_addr()?)?;
        Ok(Self { listener, udp })
    }

    /// Duplicates both descriptors, TCP first, to keep them for the next process.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn try_clone_fds(&self) -> io::Result<[OwnedFd; 2]> {
        let tcp = self.listener.as_fd().try_clone_to_owned()?;
        Ok([tcp, self.udp.as_fd().try_clone_to_owned()?])
    }

    /// Returns the address of both sockets.
    pub fn local_addr(&self) -> SocketAddr {
        self.udp.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_0_takes_one_number_for_both_protocols() {
        let pair = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(pair.local_addr().port(), 0);
        assert_eq!(pair.listener.local_addr().unwrap(), pair.local_addr());
    }

    #[tokio::test]
    async fn a_port_in_use_is_reported_with_address_and_remedy() {
        let pair = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = pair.local_addr();
        let error = PortPair::bind(taken).unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        assert!(
            error.contains("another program") && error.contains("set listen to another"),
            "{error}"
        );
        drop(pair.listener);
        let error = PortPair::bind(taken).unwrap_err();
        assert!(matches!(
            error,
            NetError::Bind {
                kind: io::ErrorKind::AddrInUse,
                ..
            }
        ));
    }

    #[tokio::test]
    async fn a_connection_made_while_a_socket_changes_hands_is_not_refused() {
        let pair = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = pair.local_addr();
        let kept = pair.try_clone_fds().unwrap();
        drop(pair);
        let waiting = tokio::net::TcpStream::connect(at).await.unwrap();
        let [tcp, udp] = kept;
        let pair = PortPair::adopt(tcp, udp, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (_, from) = pair.listener.accept().await.unwrap();
        assert_eq!(from, waiting.local_addr().unwrap());
        let [tcp, udp] = pair.try_clone_fds().unwrap();
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
        assert!(PortPair::adopt(tcp, udp, elsewhere).is_err());
        let [tcp, udp] = pair.try_clone_fds().unwrap();
        assert!(PortPair::adopt(udp, tcp, at).is_err(), "each in its place");
    }
}
