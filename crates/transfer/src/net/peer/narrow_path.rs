//! Dials through paths that lose large packets and do not report it, such as a VPN behind a firewall
//! that drops ICMP. The connection is established, since its first packets are small, and then
//! brings nothing.
//!
//! The handshake has a packet of full size in each direction, because its keys are post-quantum. If
//! it stalls, a second connection with small segments is opened beside the first one, and the first
//! that completes its handshake is used. The other end sends small segments, too: it keeps to the
//! size that this end announces. The kernel has a search of its own (`net.ipv4.tcp_mtu_probing`),
//! which is off by default.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::pin;

use lru::LruCache;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, timeout};

/// Segment size of a connection through a narrow path. Its packets are as large as those of the
/// largest datagrams of gossip (1200 bytes and 8 of UDP, against 20 of TCP), by which the nodes
/// know each other.
const SMALL_SEGMENT_BYTES: u32 = 1188;
/// Minimum time without a complete handshake until the second connection is opened. A handshake
/// takes some milliseconds of computing.
const STALL_MIN: Duration = Duration::from_millis(600);
/// Round trips that a handshake may take before it counts as stalled. It needs one, and one more if
/// a packet is lost.
const STALL_ROUND_TRIPS: u32 = 4;
/// How long the first connection may complete its handshake after the second one. A busy machine
/// completes both at about the same time.
const GRACE: Duration = Duration::from_millis(200);
/// How long connections to an address begin with small segments after a dial found its path to be
/// narrow.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Maximum remembered addresses. The least recently used one is forgotten first.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Addresses behind narrow paths, each with the end of its time.
#[derive(Debug)]
pub(super) struct NarrowPaths {
    until: Mutex<LruCache<IpAddr, Instant>>,
}

impl NarrowPaths {
    pub(super) fn new() -> Self {
        Self {
            until: Mutex::new(LruCache::new(ADDRESSES_MAX)),
        }
    }

    fn record(&self, address: IpAddr) {
        self.until.lock().put(address, Instant::now() + REMEMBERED);
    }

    fn contains(&self, address: IpAddr) -> bool {
        let mut until = self.until.lock();
        until.get(&address).is_some_and(|end| Instant::now() < *end)
    }

    /// Opens a connection within `dial`, and runs its handshake. Opens a second connection if the
    /// handshake stalls. Returns the result of the handshake.
    ///
    /// # Errors
    /// If no connection was opened.
    pub(super) async fn open<T, E, F>(
        &self,
        address: SocketAddr,
        dial: Duration,
        handshake: impl Fn(TcpStream) -> F,
    ) -> io::Result<Result<T, E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let small = Some(SMALL_SEGMENT_BYTES);
        if self.contains(address.ip()) {
            return Ok(handshake(connect(address, dial, small).await?).await);
        }
        let begun = Instant::now();
        let stream = connect(address, dial, None).await?;
        let stall = STALL_MIN.max(begun.elapsed() * STALL_ROUND_TRIPS);
        let mut first = pin!(handshake(stream));
        if let Ok(outcome) = timeout(stall, &mut first).await {
            return Ok(outcome);
        }
        let second = async {
            let stream = connect(address, dial, small).await.ok()?;
            handshake(stream).await.ok()
        };
        let mut second = pin!(second);
        let (of_first, of_second) = tokio::select! {
            outcome = &mut first => match outcome {
                Ok(greeted) => return Ok(Ok(greeted)),
                Err(error) => (Some(Err(error)), second.await),
            },
            outcome = &mut second => (timeout(GRACE, &mut first).await.ok(), outcome),
        };
        match (of_first, of_second) {
            (Some(Ok(greeted)), _) => Ok(Ok(greeted)),
            (_, Some(greeted)) => {
                self.record(address.ip());
                Ok(Ok(greeted))
            }
            (Some(outcome), None) => Ok(outcome),
            (None, None) => Ok(first.await),
        }
    }
}

/// Opens a connection whose both ends send segments of at most this many bytes.
async fn connect(
    address: SocketAddr,
    dial: Duration,
    segment_bytes: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(bytes) = segment_bytes {
        SockRef::from(&socket).set_tcp_mss(bytes)?;
    }
    let connected = timeout(dial, socket.connect(address)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::tcp_info::TcpGauge;
    use super::*;

    const HERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
    const DIAL: Duration = Duration::from_secs(60);

    /// Handshake of the tests: each end sends a byte.
    async fn exchange(mut stream: TcpStream) -> io::Result<TcpStream> {
        stream.write_all(b"a").await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    }

    fn segment_bytes(stream: &TcpStream) -> u64 {
        stream.read_gauge().unwrap().segment_bytes
    }

    #[tokio::test]
    async fn a_handshake_that_stalls_succeeds_with_small_segments_in_both_directions() {
        let listener = TcpListener::bind(SocketAddr::from(HERE)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut streams = Vec::new();
            for _ in 0..3 {
                streams.push(listener.accept().await.unwrap().0);
                // The first connection stalls.
                if let [_, .., answered] = &mut streams[..] {
                    answered.write_all(b"b").await.unwrap();
                }
            }
            streams
        });
        let paths = NarrowPaths::new();
        for _ in 0..2 {
            // The second dial begins with small segments: the listener accepts three connections.
            let opened = paths.open(address, DIAL, exchange).await.unwrap().unwrap();
            assert!(segment_bytes(&opened) <= u64::from(SMALL_SEGMENT_BYTES));
        }
        for accepted in &serving.await.unwrap()[1..] {
            assert!(segment_bytes(accepted) <= u64::from(SMALL_SEGMENT_BYTES));
        }
    }

    #[tokio::test]
    async fn a_slow_first_connection_wins_over_a_second_one_that_fails() {
        let listener = TcpListener::bind(SocketAddr::from(HERE)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut first = listener.accept().await.unwrap().0;
            drop(listener.accept().await.unwrap());
            first.write_all(b"b").await.unwrap();
            first
        });
        let paths = NarrowPaths::new();
        let opened = paths.open(address, DIAL, exchange).await.unwrap().unwrap();
        assert!(segment_bytes(&opened) > u64::from(SMALL_SEGMENT_BYTES));
        assert!(!paths.contains(address.ip()));
        drop(serving.await.unwrap());
    }
}
