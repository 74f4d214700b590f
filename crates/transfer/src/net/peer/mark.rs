//! DSCP marks of bulk packets, so that a router, a Wi-Fi card or this machine's own queue can send
//! everything else first.
//!
//! The two lanes between two nodes are separate connections. Each end marks only what it sends on
//! the bulk one: urgent packets are never marked. A mark is a request. If the system refuses it or
//! the network ignores it, the bytes travel like any others.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Number of low bits of the traffic class that are not part of the code point. They are the
/// kernel's, for ECN (RFC 3168).
const ECN_BITS: u32 = 2;
/// `TC_PRIO_FILLER` of <linux/pkt_sched.h>: the last band of the kernel's own queues.
const PRIORITY_FILLER: u32 = 1;

/// Sets the code point (DSCP, 0 to 63) of everything that is sent from now on.
pub(super) fn mark(stream: &TcpStream, code_point: u8) -> io::Result<()> {
    let (socket, class) = (SockRef::from(stream), u32::from(code_point) << ECN_BITS);
    if stream.local_addr()?.is_ipv6() {
        socket.set_tclass_v6(class)?;
    }
    // an IPv6 socket may carry IPv4 too
    socket.set_tos_v4(class)?;
    // setting the code point changes the priority, so this comes last
    socket.set_priority(PRIORITY_FILLER)
}
