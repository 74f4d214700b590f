//! One address for both protocols.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::net::NetError;
use crate::net::gossip::UdpPort;

/// Connections that the kernel keeps for us between two turns of the accept loop.
const BACKLOG: i32 = 256;
/// How often another free port is tried where only one of the two protocols had it.
const FREE_PORT_TRIES: usize = 32;

/// A TCP listener and a UDP socket on one address and port number, so that a node needs one hole
/// in a firewall.
#[derive(Debug)]
pub struct PortPair {
    /// For `peer::PeerNet`.
    pub listener: TcpListener,
    /// For the gossip.
    pub udp: UdpPort,
}

impl PortPair {
    /// Binds both; port 0 takes one that is free for both. Needs a running tokio runtime.
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

    /// The address that both have.
    pub fn local_addr(&self) -> SocketAddr {
        self.udp.local_addr()
    }
}

/// A listening socket. Its buffers are left to the kernel, which grows them with the link; a fixed
/// size would be cut at `net.core.wmem_max`, far below what it grows to.
pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, NetError> {
    let open = || -> io::Result<TcpListener> {
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        // A restarted daemon takes its port again while old connections are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| bind_error(address, &error))
}

/// A socket that takes both families where the address is IPv6's "any".
pub(super) fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub(super) fn bind_error(address: SocketAddr, error: &io::Error) -> NetError {
    NetError::Bind {
        address,
        kind: error.kind(),
    }
}

/// The address as everyone writes it: an IPv4 peer of a socket for both families is IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
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
    async fn a_port_in_use_names_the_address_and_the_remedy() {
        let pair = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = pair.local_addr();
        let error = PortPair::bind(taken).unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        assert!(
            error.contains("another program") && error.contains("--listen"),
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

    #[test]
    fn an_ipv4_peer_is_ipv4_on_a_socket_for_both_families() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:7".parse().unwrap());
        let v6: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
