//! Creation of sockets, adoption of those of an earlier process, and the test for own addresses.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;

use crate::net::NetError;

/// Maximum connections that the kernel queues between two rounds of the accept loop.
const BACKLOG: i32 = 256;

/// Opens a listening socket. The kernel sizes the buffers of its connections and grows them with
/// the link. A size set here would be fixed and cut at `net.core.wmem_max`, far below what a fast
/// link needs.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    // A restarted daemon must get its port again while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Opens a listening socket like [`listen_tcp`]. The error names the address.
pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, NetError> {
    listen_tcp(address).map_err(|error| bind_error(address, &error))
}

/// Wraps a listening socket of an earlier process.
pub fn adopt_tcp(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpListener> {
    check_fits(SockRef::from(&socket), Type::STREAM, address)?;
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Checks the type and the local address of a socket, and that a TCP socket listens.
pub(super) fn check_fits(socket: SockRef<'_>, kind: Type, address: SocketAddr) -> io::Result<()> {
    let has = socket.local_addr()?.as_socket();
    let is_there = has.is_some_and(|has| {
        has.ip() == address.ip() && (address.port() == 0 || has.port() == address.port())
    });
    let listens = kind != Type::STREAM || socket.is_listener()?;
    if is_there && listens && socket.r#type()? == kind {
        Ok(())
    } else {
        Err(io::ErrorKind::AddrNotAvailable.into())
    }
}

/// Opens a socket. It accepts both families if the address is IPv6's "any".
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

/// Returns whether an address is our own: it has our port and the address that we listen on. If we
/// listen on all addresses, any address of this machine counts.
pub fn is_own(bound: SocketAddr, address: SocketAddrV4) -> bool {
    let ip = IpAddr::V4(*address.ip());
    address.port() == bound.port()
        && (ip == bound.ip() || bound.ip().is_unspecified() && is_of_this_machine(ip))
}

/// Returns whether an address is of this machine. Only such addresses can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_recognizes_each_local_address_as_its_own() {
        let is_own = |bound: &str, at: &str| is_own(bound.parse().unwrap(), at.parse().unwrap());
        assert!(is_own("0.0.0.0:1378", "127.0.0.3:1378"));
        assert!(!is_own("0.0.0.0:1378", "127.0.0.3:1379"));
        assert!(!is_own("0.0.0.0:1378", "192.0.2.7:1378"));
        assert!(is_own("192.0.2.7:1378", "192.0.2.7:1378"));
        assert!(!is_own("192.0.2.7:1378", "127.0.0.1:1378"));
    }
}
