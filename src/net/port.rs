//! One address for both protocols.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
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

    /// Takes up both as an earlier process left them, for the address that is asked for. Needs a
    /// running tokio runtime.
    ///
    /// # Errors
    /// Where they are not what [`PortPair::bind`] makes for this address.
    pub fn take_up(tcp: OwnedFd, udp: OwnedFd, address: SocketAddr) -> io::Result<Self> {
        let listener = take_up_tcp(tcp, address)?;
        let udp = UdpPort::take_up(udp, listener.local_addr()?)?;
        Ok(Self { listener, udp })
    }

    /// Both once more, TCP first, for whoever keeps them for the process that comes after.
    ///
    /// # Errors
    /// Where there are no descriptors left.
    pub fn try_clone_fds(&self) -> io::Result<[OwnedFd; 2]> {
        let tcp = self.listener.as_fd().try_clone_to_owned()?;
        Ok([tcp, self.udp.as_fd().try_clone_to_owned()?])
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

/// A listening socket of an earlier process.
pub(super) fn take_up_tcp(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpListener> {
    check_fits(SockRef::from(&socket), Type::STREAM, address)?;
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Whether a socket is what would be opened for an address.
pub(super) fn check_fits(socket: SockRef<'_>, kind: Type, address: SocketAddr) -> io::Result<()> {
    let has = socket.local_addr()?.as_socket();
    let is_there = has.is_some_and(|has| {
        has.ip() == address.ip() && (address.port() == 0 || has.port() == address.port())
    });
    let listens = kind != Type::STREAM || socket.is_listener()?;
    match is_there && listens && socket.r#type()? == kind {
        true => Ok(()),
        false => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
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

    #[tokio::test]
    async fn who_connects_while_a_socket_changes_hands_is_not_refused() {
        let pair = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = pair.local_addr();
        let kept = pair.try_clone_fds().unwrap();
        drop(pair);
        let waiting = tokio::net::TcpStream::connect(at).await.unwrap();
        let [tcp, udp] = kept;
        let pair = PortPair::take_up(tcp, udp, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (_, from) = pair.listener.accept().await.unwrap();
        assert_eq!(from, waiting.local_addr().unwrap());
        let [tcp, udp] = pair.try_clone_fds().unwrap();
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
        assert!(PortPair::take_up(tcp, udp, elsewhere).is_err());
        let [tcp, udp] = pair.try_clone_fds().unwrap();
        assert!(
            PortPair::take_up(udp, tcp, at).is_err(),
            "each in its place"
        );
    }

    #[test]
    fn an_ipv4_peer_is_ipv4_on_a_socket_for_both_families() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:7".parse().unwrap());
        let v6: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
