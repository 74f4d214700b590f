//! Interfaces of this machine, and a multicast DNS socket for each address family of each.
//!
//! A socket is bound to the multicast group, so it receives no datagrams that were sent to this
//! machine alone. The socket joins the group on one interface, so it receives the datagrams of one
//! link.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll};

use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::machine::PORT;
use super::subnet::{LinkId, Subnet, announced};

/// Multicast groups of RFC 6762, section 3.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Hop limit that older implementations expect (RFC 6762, section 11).
const HOPS: u32 = 255;
/// Maximum number of searched links. A machine with many containers has hundreds of interfaces, and
/// they all lead to the same few nodes.
const LINKS: usize = 64;

/// Open sockets of the links.
#[derive(Debug, Default)]
pub(super) struct MulticastLinks {
    open: BTreeMap<LinkId, (UdpSocket, Vec<Subnet>)>,
    /// Link that was read last, and is read last in the next round.
    last: Option<LinkId>,
}

impl MulticastLinks {
    /// Opens sockets for new links, and closes those of removed links and of links with changed
    /// addresses. Returns the first error.
    pub(super) fn renew(&mut self, listen: IpAddr) -> io::Result<()> {
        let present = present(listen)?;
        self.open
            .retain(|id, (_, subnets)| present.get(id) == Some(subnets));
        let mut refused = Ok(());
        for (id, subnets) in present {
            if self.open.contains_key(&id) || self.open.len() >= LINKS {
                continue;
            }
            match open(id, &subnets) {
                Ok(socket) => {
                    self.open.insert(id, (socket, subnets));
                }
                Err(error) if refused.is_ok() => refused = Err(error),
                Err(_) => {}
            }
        }
        refused
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns the links with an open socket.
    pub(super) fn all(&self) -> Vec<(LinkId, Vec<Subnet>)> {
        let link =
            |(id, (_, subnets)): (&LinkId, &(UdpSocket, Vec<Subnet>))| (*id, subnets.clone());
        self.open.iter().map(link).collect()
    }

    /// Sends a datagram to the group on a link. If the kernel does not take it now, it is lost.
    pub(super) fn send(&self, id: LinkId, datagram: &[u8]) -> io::Result<()> {
        match self.open.get(&id) {
            Some((socket, _)) => socket.try_send_to(datagram, group(id)).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Waits for a datagram on any link. Dropping the future loses nothing.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> (LinkId, usize, SocketAddr) {
        poll_fn(|context| self.poll_receive(context, buffer)).await
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(LinkId, usize, SocketAddr)> {
        // start after the link that was read last, so that a busy link does not delay the others
        let last = self.last;
        let behind = self.open.iter().filter(|(id, _)| Some(**id) > last);
        let others = self.open.iter().filter(|(id, _)| Some(**id) <= last);
        let mut broken = Vec::new();
        for (id, (socket, _)) in behind.chain(others) {
            let mut read = ReadBuf::new(buffer);
            match socket.poll_recv_from(context, &mut read) {
                Poll::Ready(Ok(from)) => {
                    self.last = Some(*id);
                    return Poll::Ready((*id, read.filled().len(), from));
                }
                Poll::Ready(Err(_)) => broken.push(*id),
                Poll::Pending => {}
            }
        }
        // they are opened again at the next renewal
        self.open.retain(|id, _| !broken.contains(id));
        Poll::Pending
    }
}

/// Returns the links that a node listening on `listen` can be found on.
fn present(listen: IpAddr) -> io::Result<BTreeMap<LinkId, Vec<Subnet>>> {
    let mut interfaces: BTreeMap<u32, Vec<Subnet>> = BTreeMap::new();
    for interface in if_addrs::get_if_addrs()? {
        let is_usable = interface.is_oper_up() && !interface.is_p2p();
        let is_meant = !interface.is_loopback() || listen.is_loopback();
        let Some(index) = interface.index.filter(|_| is_usable && is_meant) else {
            continue;
        };
        let prefix_bits = match &interface.addr {
            if_addrs::IfAddr::V4(address) => address.prefixlen,
            if_addrs::IfAddr::V6(address) => address.prefixlen,
        };
        interfaces.entry(index).or_default().push(Subnet {
            ip: interface.ip(),
            prefix_bits,
        });
    }
    let mut links = BTreeMap::new();
    for (interface, subnets) in interfaces {
        if announced(&subnets, listen).is_empty() {
            continue;
        }
        for is_v6 in [false, true] {
            let is_spoken = subnets.iter().any(|subnet| subnet.ip.is_ipv6() == is_v6);
            if is_spoken && (!is_v6 || listen.is_ipv6()) {
                links.insert(LinkId { interface, is_v6 }, subnets.clone());
            }
        }
    }
    Ok(links)
}

fn group(id: LinkId) -> SocketAddr {
    if id.is_v6 {
        SocketAddrV6::new(GROUP_V6, PORT, 0, id.interface).into()
    } else {
        (GROUP_V4, PORT).into()
    }
}

fn open(id: LinkId, subnets: &[Subnet]) -> io::Result<UdpSocket> {
    let group = group(id);
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Other programs of this machine also use the port. SO_REUSEPORT must not be set: Linux 6.18
    // passes a multicast datagram to any socket of such a group, chosen by a hash of the sender,
    // although only another socket of the group joined on the datagram's link.
    socket.set_reuse_address(true)?;
    if id.is_v6 {
        socket.set_only_v6(true)?;
        socket.bind(&group.into())?;
        socket.join_multicast_v6(&GROUP_V6, id.interface)?;
        socket.set_multicast_if_v6(id.interface)?;
        socket.set_multicast_hops_v6(HOPS)?;
    } else {
        let interface = InterfaceIndexOrAddress::Index(id.interface);
        // otherwise it also receives from interfaces on which other sockets of this machine joined
        // the group
        socket.set_multicast_all_v4(false)?;
        socket.bind(&group.into())?;
        socket.join_multicast_v4_n(&GROUP_V4, &interface)?;
        // set the source address: otherwise the kernel may take one of another interface
        let own = subnets.iter().find_map(|subnet| match subnet.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        set_ip_multicast_if_with_ifindex(&socket, &GROUP_V4, &own, id.interface)?;
        socket.set_multicast_ttl_v4(HOPS)?;
    }
    UdpSocket::from_std(socket.into())
}
