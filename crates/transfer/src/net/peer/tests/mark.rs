//! Marked sockets of a pair of nodes, as the kernel reports them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{SockRef, Socket};

use tokio::net::{TcpListener, TcpStream};

use super::super::mark::mark;
use super::super::{Lane, PeerLimits};
use super::harness::*;

/// Code point of RFC 8622 as a traffic class.
const LE: u32 = 1 << 2;

/// Returns the sockets of this process that are one end of a connection to an address. Returns
/// `None` if a process may not inspect its own sockets.
fn sockets_at(address: SocketAddr) -> Option<Vec<Socket>> {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let own = std::io::stderr().as_fd().as_raw_fd();
    pidfd_getfd(&me, own, PidfdGetfdFlags::empty()).ok()?;
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open = numbers.filter_map(|number: i32| {
        let copy = pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok()?;
        Some(Socket::from(copy))
    });
    let at = |found: std::io::Result<socket2::SockAddr>| {
        found.ok().and_then(|found| found.as_socket()) == Some(address)
    };
    let connected = open.filter(|socket| socket.peer_addr().is_ok());
    let found = connected.filter(|it| at(it.peer_addr()) || at(it.local_addr()));
    let mut found: Vec<_> = found.collect();
    // a copy may get the number of a descriptor that another test closed meanwhile
    let ends = |it: &Socket| {
        let ends = [it.local_addr(), it.peer_addr()];
        ends.map(|end| end.ok().and_then(|end| end.as_socket()))
    };
    found.sort_by_key(ends);
    found.dedup_by_key(|it| ends(it));
    Some(found)
}

fn classes(address: SocketAddr) -> Option<Vec<(u32, u32)>> {
    let sockets = sockets_at(address)?;
    let class = |socket: &Socket| (socket.tos_v4().unwrap(), socket.priority().unwrap());
    let mut classes: Vec<_> = sockets.iter().map(class).collect();
    classes.sort_unstable();
    Some(classes)
}

#[tokio::test]
async fn both_ends_mark_bulk_connections_and_not_urgent_ones() {
    for (code_point, marked) in [(Some(1), (LE, 1)), (None, (0, 0))] {
        let limits = || PeerLimits {
            bulk_code_point: code_point,
            ..PeerLimits::default()
        };
        let one = Node::with_limits(7, limits());
        let (other, _net, _answering) = Node::with_limits(7, limits()).answer_all();
        for lane in [Lane::Urgent, Lane::Bulk] {
            one.ask(&other, lane).await.unwrap();
        }
        let expected = [[(0, 0); 2], [marked; 2]].concat();
        match classes(other.addr) {
            Some(classes) => assert_eq!(classes, expected),
            None => eprintln!("not tried: a process may not copy its own descriptors here"),
        }
    }
}

#[tokio::test]
async fn ipv6_sockets_are_marked_by_their_traffic_class() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return eprintln!("not tried: this machine has no IPv6");
    };
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
    let stream = stream.unwrap();
    mark(&stream, 1).unwrap();
    let socket = SockRef::from(&stream);
    assert_eq!(socket.tclass_v6().unwrap(), LE);
    assert_eq!(socket.priority().unwrap(), 1);
}
