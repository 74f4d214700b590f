//! Ports that no other test uses at the same time.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// First port of the range. It lies below the ports that the kernel assigns (`ip_local_port_range`,
/// ip(7)), so a restarted node finds its address free.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;

/// Returns a port without a listener, which no other caller in this process gets.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let here = ("127.0.0.1", port);
        if UdpSocket::bind(here).is_ok() && TcpListener::bind(here).is_ok() {
            return port;
        }
    }
}
