//! How the packets of bulk connections are marked, so that a router, a Wi-Fi card or this
//! machine's own queue lets everything else go first.
//!
//! The two lanes of a pair of nodes are connections of their own, and each end marks what it sends
//! on the bulk one alone: what a reader waits for is never marked. A mark is a wish: where the
//! system refuses it, or the network ignores it, the bytes go as any others.

use std::io;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Bits of the traffic class below the code point; they are the kernel's, for ECN (RFC 3168).
const ECN_BITS: u32 = 2;
/// `TC_PRIO_FILLER` of <linux/pkt_sched.h>: the last band of the kernel's own queues.
const PRIORITY_FILLER: u32 = 1;

/// Asks for this code point (DSCP, 0 to 63) on everything that is sent from now on.
pub(super) fn mark(stream: &TcpStream, code_point: u8) -> io::Result<()> {
    let (socket, class) = (SockRef::from(stream), u32::from(code_point) << ECN_BITS);
    if stream.local_addr()?.is_ipv6() {
        socket.set_tclass_v6(class)?;
    }
    // also of an IPv6 socket: it may carry IPv4
    socket.set_tos_v4(class)?;
    // the code point has set another one, so this comes after it
    socket.set_priority(PRIORITY_FILLER)
}
