//! Ports that no other test takes meanwhile.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports from here on, below those that the kernel gives to who asks for any
/// (`ip_local_port_range`, ip(7)): whoever starts again at its address finds it free.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;

/// A port that nothing listens on, and that is given to nobody else in this process.
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
