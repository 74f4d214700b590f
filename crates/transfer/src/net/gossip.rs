//! UDP socket of the gossip. It sends and receives datagrams without interpreting them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Protocol, SockRef, Type};
use tokio::net::UdpSocket;

use crate::net::NetError;
use crate::net::socket::{bind_error, check_fits, open};
use p2pfs_proto::wire::canonical;

/// Buffer size requested from the kernel for each direction. The kernel may grant less
/// (`net.core.rmem_max`, `net.core.wmem_max`). 4 MiB hold some 3,000 datagrams while the owner is
/// busy.
const BUFFER_BYTES: usize = 4 << 20;

/// UDP socket that never blocks its sender. Clones share it.
#[derive(Clone, Debug)]
pub struct UdpPort {
    socket: Arc<std::net::UdpSocket>,
    local: SocketAddr,
}

/// Receiving end of a [`UdpPort`], registered with the runtime that it was opened in.
#[derive(Debug)]
pub struct UdpInlet {
    port: UdpPort,
    socket: UdpSocket,
}

impl UdpPort {
    /// Binds a socket.
    ///
    /// # Errors
    /// [`NetError::Bind`] names the address and the remedy.
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        Self::open(address).map_err(|error| bind_error(address, &error))
    }

    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address, Type::DGRAM, Protocol::UDP)?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        Self::over(socket.into())
    }

    /// Wraps the socket of an earlier process, if it fits the address.
    pub(super) fn adopt(socket: OwnedFd, address: SocketAddr) -> io::Result<Self> {
        check_fits(SockRef::from(&socket), Type::DGRAM, address)?;
        let socket = std::net::UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        Self::over(socket)
    }

    fn over(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self {
            socket: Arc::new(socket),
            local,
        })
    }

    /// Returns the bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Opens the receiving end. Needs a running tokio runtime, which watches the socket. Only one
    /// receiving end may exist at a time.
    ///
    /// # Errors
    /// Error of the system, for example because no descriptors are left.
    pub fn inlet(&self) -> io::Result<UdpInlet> {
        Ok(UdpInlet {
            port: self.clone(),
            socket: UdpSocket::from_std(self.socket.try_clone()?)?,
        })
    }

    /// Hands a datagram to the kernel if the kernel takes it now, otherwise drops it. The protocol
    /// above repeats what matters. Returns whether the kernel took it.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        let to = self.of_our_family(to).into();
        SockRef::from(&*self.socket).send_to(datagram, &to).is_ok()
    }

    /// Maps an IPv4 address for a socket of both families.
    fn of_our_family(&self, to: SocketAddr) -> SocketAddr {
        match (self.local, to.ip()) {
            (SocketAddr::V6(_), IpAddr::V4(ip)) => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        }
    }
}

impl UdpInlet {
    /// Waits for the next datagram. Returns how much of `buffer` it fills, and its sender. Longer
    /// datagrams are truncated, so the buffer should be one byte longer than the longest valid
    /// datagram. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Errors of the socket itself. A peer's ICMP message is not an error.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(buffer).await {
                Ok((length, from)) => return Ok((length, canonical(from))),
                Err(error) if is_of_a_peer(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the next datagram, or `None` if none has arrived or the socket reports an error.
    pub fn try_recv(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        // read from the kernel: the runtime's own call returns nothing until its poller has
        // reported the datagram
        let (length, from) = self.port.socket.recv_from(buffer).ok()?;
        Some((length, canonical(from)))
    }

    /// Sends a datagram like [`UdpPort::send`].
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        self.port.send(to, datagram)
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns whether the error only reports that an earlier datagram did not reach its destination.
fn is_of_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    let kinds = [
        ConnectionRefused,
        ConnectionReset,
        HostUnreachable,
        NetworkUnreachable,
    ];
    kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str) -> UdpPort {
        UdpPort::bind(address.parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_datagram_arrives_with_its_senders_address() {
        let (a, b) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        assert!(a.send(b.local_addr(), b"hello"));
        let mut buffer = [0; 16];
        let inlet = b.inlet().unwrap();
        assert_eq!(inlet.recv(&mut buffer).await.unwrap(), (5, a.local_addr()));
        assert_eq!(&buffer[..5], b"hello");
    }

    #[tokio::test]
    async fn a_failed_datagram_causes_no_error_for_the_next() {
        let (a, b) = (port("127.0.0.1:0"), port("127.0.0.1:0"));
        let gone = b.local_addr();
        drop(b);
        a.send(gone, b"x");
        a.send(a.local_addr(), b"to myself");
        let mut buffer = [0; 16];
        let inlet = a.inlet().unwrap();
        assert_eq!(inlet.recv(&mut buffer).await.unwrap(), (9, a.local_addr()));
    }

    #[tokio::test]
    async fn datagrams_refused_by_the_kernel_are_dropped_and_reported() {
        let a = port("127.0.0.1:0");
        assert!(!a.send(a.local_addr(), &[0; 70_000]));
        assert!(!a.send("[::1]:9".parse().unwrap(), b"other family"));
    }

    #[tokio::test]
    async fn a_socket_for_both_families_talks_to_ipv4() {
        let Ok(any) = UdpPort::bind("[::]:0".parse().unwrap()) else {
            return;
        };
        let four = port("127.0.0.1:0");
        assert!(any.send(four.local_addr(), b"hi"));
        let mut buffer = [0; 4];
        let (_, from) = four.inlet().unwrap().recv(&mut buffer).await.unwrap();
        assert!(four.send(from, b"back"));
        let inlet = any.inlet().unwrap();
        assert_eq!(
            inlet.recv(&mut buffer).await.unwrap(),
            (4, four.local_addr())
        );
    }
}
