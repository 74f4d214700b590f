//! Sockets as the planes need them, new or of an earlier process, and which addresses are theirs.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;

use crate::net::NetError;

/// Connections that the kernel keeps for us between two turns of the accept loop.
const BACKLOG: i32 = 256;

/// A listening socket. Its buffers are left to the kernel, which grows them with the link; a fixed
/// size would be cut at `net.core.wmem_max`, far below what it grows to.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    // A restarted daemon takes its port again while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// As [`listen_tcp`], with the address in the error.
pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, NetError> {
    listen_tcp(address).map_err(|error| bind_error(address, &error))
}

/// A listening socket of an earlier process.
pub fn take_up_tcp(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpListener> {
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
    if is_there && listens && socket.r#type()? == kind {
        Ok(())
    } else {
        Err(io::ErrorKind::AddrNotAvailable.into())
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

/// Whether an address is ours: our port, on the address that we listen on or, where that is all of
/// them, on any of this machine.
pub fn is_own(bound: SocketAddr, address: SocketAddrV4) -> bool {
    let ip = IpAddr::V4(*address.ip());
    address.port() == bound.port()
        && (ip == bound.ip() || bound.ip().is_unspecified() && is_of_this_machine(ip))
}

/// Only addresses of this machine can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_on_all_addresses_knows_each_of_this_machine_as_its_own() {
        let is_own = |bound: &str, at: &str| is_own(bound.parse().unwrap(), at.parse().unwrap());
        assert!(is_own("0.0.0.0:1378", "127.0.0.3:1378"));
        assert!(!is_own("0.0.0.0:1378", "127.0.0.3:1379"));
        assert!(!is_own("0.0.0.0:1378", "192.0.2.7:1378"));
        assert!(is_own("192.0.2.7:1378", "192.0.2.7:1378"));
        assert!(!is_own("192.0.2.7:1378", "127.0.0.1:1378"));
    }
}
