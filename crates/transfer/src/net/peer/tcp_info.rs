//! Kernel figures of a TCP connection: `TCP_INFO` of `tcp(7)`.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use tokio::net::TcpStream;

use super::low_water::set_low_water;
use super::mark::mark;

/// Figures of a connection at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Smoothed round trip of recently sent bytes.
    pub round_trip: Duration,
    /// Least round trip of the last minutes (`tcp_min_rtt_wlen`).
    pub least: Duration,
    /// Time since the other end's kernel last acknowledged anything.
    pub acked_ago: Duration,
    /// Time since bytes of the other end last arrived, even if their record is incomplete.
    pub came_ago: Duration,
    /// Bytes that the other end has acknowledged since the beginning.
    pub taken_bytes: u64,
    /// Bytes handed to the kernel and not acknowledged yet, counted in full segments once sent.
    pub queued_bytes: u64,
    /// Bytes of these that the kernel has not sent yet.
    pub unsent_bytes: u64,
    /// Maximum bytes of one segment: 1,448 on Ethernet, up to 64 KiB within one machine.
    pub segment_bytes: u64,
}

/// Connection with readable kernel figures.
pub(super) trait TcpGauge {
    /// Returns the figures, or `None` if the system does not give them.
    fn read_gauge(&self) -> Option<TcpInfo>;
    /// Marks outgoing packets; see [`mark`].
    fn mark(&self, code_point: u8) -> io::Result<()>;
    /// Sets the low-water mark; see [`set_low_water`].
    fn set_low_water(&self, bytes: usize) -> io::Result<()>;
}

impl TcpGauge for TcpStream {
    fn read_gauge(&self) -> Option<TcpInfo> {
        let info = info_of(self)?;
        let segment_bytes = u64::from(info.tcpi_snd_mss);
        let unacked_bytes = u64::from(info.tcpi_unacked) * segment_bytes;
        let unsent_bytes = u64::from(info.tcpi_notsent_bytes);
        Some(TcpInfo {
            round_trip: Duration::from_micros(info.tcpi_rtt.into()),
            least: Duration::from_micros(info.tcpi_min_rtt.into()),
            acked_ago: Duration::from_millis(info.tcpi_last_ack_recv.into()),
            came_ago: Duration::from_millis(info.tcpi_last_data_recv.into()),
            taken_bytes: info.tcpi_bytes_acked,
            queued_bytes: unacked_bytes + unsent_bytes,
            unsent_bytes,
            segment_bytes,
        })
    }

    fn mark(&self, code_point: u8) -> io::Result<()> {
        mark(self, code_point)
    }

    fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        set_low_water(self, bytes)
    }
}

#[cfg(test)]
impl TcpGauge for tokio::io::DuplexStream {
    fn read_gauge(&self) -> Option<TcpInfo> {
        None
    }

    fn mark(&self, _: u8) -> io::Result<()> {
        Ok(())
    }

    fn set_low_water(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

fn info_of(socket: &impl AsFd) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is open for the length of the call, and `length` is the size in bytes
    // of `info`, which has numbers alone: zeroes are one of its values, as is what an older kernel
    // leaves of them.
    let (outcome, info) = unsafe {
        let outcome = libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (outcome, info.assume_init())
    };
    (outcome == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_reports_acknowledged_bytes_and_their_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (mut near, (mut far, _)) = (dialled.await.unwrap(), listener.accept().await.unwrap());
        near.write_all(&[7; 1000]).await.unwrap();
        let mut bytes = [0; 1000];
        far.read_exact(&mut bytes).await.unwrap();
        let reading = near.read_gauge().unwrap();
        assert!(reading.taken_bytes >= 1000, "{reading:?}");
        assert_eq!(reading.queued_bytes, 0);
        let zero = Duration::ZERO;
        assert!(zero < reading.least && reading.least <= reading.round_trip);
    }
}
