//! An observer that can read every packet on the loopback interface.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Maximum packet length on loopback.
const PACKET_MAX_BYTES: usize = 65_536 + 64;
/// Length of loopback's link-layer header, which is an Ethernet header, before the IP header.
const LINK_HEADER_BYTES: usize = 14;

/// A packet socket (packet(7)) that collects all packets.
pub(super) struct Listener {
    packets: mpsc::Receiver<Vec<u8>>,
}

/// All collected packets, in order.
pub(super) struct Heard {
    packets: Vec<Vec<u8>>,
}

impl Listener {
    /// Begins to listen. Returns `None` if the system does not permit it.
    pub(super) fn on_loopback() -> Option<Self> {
        let socket = packet_socket().ok()?;
        let (found, packets) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = vec![0u8; PACKET_MAX_BYTES];
            loop {
                // SAFETY: the buffer is writable for the length given, and the socket is open.
                let length = unsafe {
                    libc::recv(
                        socket.as_raw_fd(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                        0,
                    )
                };
                let Ok(length) = usize::try_from(length) else {
                    return;
                };
                if found.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Some(Self { packets })
    }

    /// Returns all packets up to the one that holds `marker`.
    #[track_caller]
    pub(super) fn hear_until(self, marker: &[u8], limit: Duration) -> Heard {
        let mut packets = Vec::new();
        loop {
            let packet = self.packets.recv_timeout(limit).expect("the marker passes");
            let is_last = holds(&packet, marker);
            packets.push(packet);
            if is_last {
                return Heard { packets };
            }
        }
    }
}

impl Heard {
    /// Returns how many packets went to one of these ports.
    pub(super) fn to_ports(&self, ports: &[u16]) -> usize {
        let goes_there = |packet: &&Vec<u8>| {
            let header = LINK_HEADER_BYTES + 20;
            let port = packet.get(header + 2..header + 4);
            port.is_some_and(|p| ports.contains(&u16::from_be_bytes([p[0], p[1]])))
        };
        self.packets.iter().filter(goes_there).count()
    }

    /// Returns whether any packet contains these bytes.
    pub(super) fn contains(&self, bytes: &[u8]) -> bool {
        self.packets.iter().any(|packet| holds(packet, bytes))
    }
}

fn holds(packet: &[u8], bytes: &[u8]) -> bool {
    packet.windows(bytes.len()).any(|window| window == bytes)
}

fn packet_socket() -> io::Result<OwnedFd> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain system calls; the descriptor is owned from the first moment.
    let socket = unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    let mut address: libc::sockaddr_ll =
        // SAFETY: all fields of this struct may be zero.
        unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: the name ends in a NUL.
    address.sll_ifindex = unsafe { libc::if_nametoindex(c"lo".as_ptr()) } as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is initialised and has the stated length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(socket)
    }
}
