//! TCP of the discovery protocol: one file per connection. A [`Transfer`] fetches a file from a
//! legacy peer within the download limit, and a [`Served`] connection sends one to a legacy peer.
//!
//! This module has the deadlines and limits of the sockets. It answers or closes each connection
//! promptly, because an original program waits forever. A peer cannot occupy this node for long by
//! what it sends or withholds. If a transfer ends in an error, the caller must discard its bytes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::discovery::DiscoveryOffence;
use crate::wire::discovery::{
    HEADER_BYTES, HeaderError, Name, REQUEST_MAX_BYTES, TransferHeader, decode_request,
    encode_request,
};
use p2pfs_fs::FsError;
use p2pfs_node::ForeignThrottle;

/// Maximum connections of legacy peers served at one time. Further ones are closed at once.
pub const SERVED_MAX: usize = 64;
/// Maximum connections served for one IP address.
pub const SERVED_PER_ADDRESS: usize = 16;
/// How long a peer may take to send its request, to accept some of the sent bytes, or to send a
/// header. Also the timeout of dialling, as in the original programs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long this node reads on after its answer until the peer closes the connection. A close with
/// unread bytes would destroy the bytes that are still on their way to the peer.
const LINGER: Duration = Duration::from_secs(2);
/// How long a transfer may take for [`PACE_BYTES`]. Slower ones are abandoned.
const PACE: Duration = Duration::from_secs(20);
/// Minimum bytes of a transfer in each [`PACE`].
const PACE_BYTES: u64 = 16 << 10;
/// How long this node waits after the last byte for surplus bytes or the end of the connection. If
/// neither arrives, the transfer is complete.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Maximum bytes of one read.
const STEP_BYTES: usize = 128 << 10;

/// Why the bytes of a legacy peer's file cannot be had. Those that were received must be discarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The peer does not answer at this address; a later attempt may succeed.
    #[error("{at} cannot be reached: {why}")]
    Unreachable {
        /// Address that was dialled.
        at: SocketAddrV4,
        /// Error of the connection attempt.
        why: String,
    },
    /// The connection ended before a header. In this protocol that is how a peer refuses a file.
    #[error("{at} does not give that file")]
    NotThere {
        /// Address that was dialled.
        at: SocketAddrV4,
    },
    /// The header is not valid.
    #[error("{at}: {source}")]
    Header {
        /// Address that was dialled.
        at: SocketAddrV4,
        /// Error in the header.
        source: HeaderError,
    },
    /// The transfer ended before the announced size.
    #[error("{at} ended the transfer {missing_bytes} bytes early")]
    Early {
        /// Address that was dialled.
        at: SocketAddrV4,
        /// Number of missing bytes.
        missing_bytes: u64,
    },
    /// The peer sent more than the announced size.
    #[error("{at} sent more than the {size_bytes} bytes that it had announced")]
    Surplus {
        /// Address that was dialled.
        at: SocketAddrV4,
        /// Announced size.
        size_bytes: u64,
    },
    /// No bytes arrived, or too few.
    #[error("{at} sends too slowly")]
    TooSlow {
        /// Address that was dialled.
        at: SocketAddrV4,
    },
    /// The transfer does not continue for a reader.
    #[error("{0}")]
    Interrupted(&'static str),
    /// The cache has no room for the file.
    #[error("no room in the cache for its {size_bytes} bytes")]
    NoRoom {
        /// Bytes needed.
        size_bytes: u64,
    },
    /// `COPIES_MAX` copies are open.
    #[error("too many files of legacy peers are open")]
    Busy,
    /// The local disk failed.
    #[error("the cache's disk: {0}")]
    Disk(String),
}

impl CopyError {
    /// Returns whether the failure is that of the peer, so that another peer may succeed.
    pub fn is_the_peers(&self) -> bool {
        !matches!(self, Self::NoRoom { .. } | Self::Busy | Self::Disk(_))
    }

    /// Returns the rule that the peer broke. Returns `None` if the peer is only unreachable or
    /// lacks the file.
    pub(super) fn offence(&self) -> Option<DiscoveryOffence> {
        match self {
            Self::Header { .. } => Some(DiscoveryOffence::WrongHeader),
            Self::Early { .. } => Some(DiscoveryOffence::EarlyEnd),
            Self::Surplus { .. } => Some(DiscoveryOffence::Surplus),
            Self::TooSlow { .. } => Some(DiscoveryOffence::TooSlow),
            _ => None,
        }
    }

    /// Returns the error for a program on the mount.
    pub(super) fn as_fs_error(&self) -> FsError {
        match self {
            Self::NotThere { .. } => FsError::NotFound,
            Self::NoRoom { .. } => FsError::NoRoom,
            Self::Busy => FsError::TooManyHandles,
            Self::Disk(_) => FsError::Disk,
            _ => FsError::Unreachable,
        }
    }
}

/// Counts the served connections by IP address, and limits them.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    served: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A slot of a served connection; released when dropped.
#[derive(Debug)]
pub struct ServedPlace {
    served: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Admission {
    /// Returns a slot if one is free for this IP address.
    pub fn enter(&self, ip: IpAddr) -> Option<ServedPlace> {
        let mut served = self.served.lock();
        let all: usize = served.values().sum();
        let of_same = served.get(&ip).copied().unwrap_or_default();
        if all >= SERVED_MAX || of_same >= SERVED_PER_ADDRESS {
            return None;
        }
        served.insert(ip, of_same + 1);
        Some(ServedPlace {
            served: self.served.clone(),
            ip,
        })
    }
}

impl Drop for ServedPlace {
    fn drop(&mut self) {
        let mut served = self.served.lock();
        if let Some(count) = served.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                served.remove(&self.ip);
            }
        }
    }
}

/// A connection with a complete request.
#[derive(Debug)]
pub struct Served {
    stream: TcpStream,
    /// Requested name.
    pub name: Name,
}

impl Served {
    /// Reads the request. Closes the connection and returns `None` if no valid one arrives in time.
    pub async fn accept(mut stream: TcpStream) -> Option<Self> {
        let mut request = Vec::with_capacity(REQUEST_MAX_BYTES);
        let deadline = Instant::now() + PATIENCE;
        // one write of the peer may arrive in parts, and its line end is optional
        let name = loop {
            let read = stream.read_buf(&mut request);
            let count = timeout_at(deadline, read).await.ok()?.ok()?;
            let is_whole = count == 0 || request.contains(&b'\n');
            match decode_request(&request) {
                Some(name) if is_whole || settled(&stream).await => break name,
                _ if count == 0 || is_whole || request.len() >= REQUEST_MAX_BYTES => return None,
                _ => {}
            }
        };
        Some(Self { stream, name })
    }

    /// Sends the header of a file. The data follows with [`Self::send`].
    ///
    /// # Errors
    /// An error of the connection, which is then unusable.
    pub async fn send_header(&mut self, header: &TransferHeader) -> io::Result<()> {
        self.send(&header.encode()).await
    }

    /// Sends some of the file.
    ///
    /// # Errors
    /// As [`Self::send_header`]; also if the peer accepts nothing for ten seconds.
    pub async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = timeout(PATIENCE, self.stream.write(bytes)).await;
            match written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Closes the connection in a way that lets all sent bytes arrive.
    pub async fn close(mut self) {
        let drain = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 512];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _either_way = timeout(LINGER, drain).await;
    }
}

/// How long to wait for the rest of a request that has no line end. The original programs do not
/// wait: they read once.
const REQUEST_GAP: Duration = Duration::from_millis(100);

/// Returns whether no bytes arrive within [`REQUEST_GAP`].
async fn settled(stream: &TcpStream) -> bool {
    timeout(REQUEST_GAP, stream.readable()).await.is_err()
}

/// A file in transfer from a legacy peer. While nothing is read from the connection, TCP slows the
/// peer down.
#[derive(Debug)]
pub struct Transfer {
    stream: TcpStream,
    at: SocketAddrV4,
    size_bytes: u64,
    left_bytes: u64,
    pace_ends: Option<Instant>,
    pace_left_bytes: u64,
    /// When [`Self::next`] last returned.
    left_at: Option<Instant>,
    limit: ForeignThrottle,
    /// Bytes that arrived and must pass the rate limit before more is read.
    owed_bytes: u64,
}

impl Transfer {
    /// Dials the peer, sends the request, and reads the header.
    ///
    /// # Errors
    /// [`CopyError`]; another responder may succeed.
    pub(super) async fn begin(
        at: SocketAddrV4,
        name: &Name,
        limit: ForeignThrottle,
    ) -> Result<Self, CopyError> {
        let dialled = timeout(PATIENCE, TcpStream::connect(SocketAddr::V4(at))).await;
        let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut stream = dialled.map_err(|error| CopyError::Unreachable {
            at,
            why: error.to_string(),
        })?;
        let mut header = [0; HEADER_BYTES];
        let asked = async {
            stream.write_all(&encode_request(name)).await?;
            stream.read_exact(&mut header).await
        };
        match timeout(PATIENCE, asked).await {
            Err(_) => return Err(CopyError::TooSlow { at }),
            Ok(Err(_)) => return Err(CopyError::NotThere { at }),
            Ok(Ok(_)) => {}
        }
        let header = TransferHeader::decode(&header, name)
            .map_err(|source| CopyError::Header { at, source })?;
        Ok(Self {
            stream,
            at,
            size_bytes: header.size_bytes,
            left_bytes: header.size_bytes,
            pace_ends: None,
            pace_left_bytes: 0,
            left_at: None,
            limit,
            owed_bytes: 0,
        })
    }

    /// Returns the address at which the peer serves the file.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// Returns the announced size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Waits until the rate limit allows further bytes. It is separate from [`Self::next`], so that
    /// a caller does not count the wait as silence of the peer. The future may be dropped early
    /// without loss.
    pub(super) async fn allowed(&mut self, is_waited_for: bool) {
        if self.owed_bytes > 0 {
            let passed = self.limit.pass(self.owed_bytes, is_waited_for).await;
            passed.mark_transferred();
            self.owed_bytes = 0;
        }
    }

    /// Returns the next bytes once the rate limit allows them, or `None` when all bytes have
    /// arrived and no surplus bytes followed within [`CLOSE_WAIT`].
    ///
    /// # Errors
    /// [`CopyError`]; all received data must be discarded.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        self.allowed(false).await;
        // the time between two calls does not count against the peer
        if let (Some(ends), Some(left_at)) = (&mut self.pace_ends, self.left_at.take()) {
            *ends += left_at.elapsed();
        }
        let part = self.receive().await;
        self.left_at = Some(Instant::now());
        if let Ok(Some(part)) = &part {
            self.owed_bytes = part.len() as u64;
            self.limit.count(self.owed_bytes);
        }
        part
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, CopyError> {
        if self.left_bytes == 0 {
            return self.end().await.map(|()| None);
        }
        let mut buffer = BytesMut::with_capacity(STEP_BYTES);
        let deadline = self.pace();
        let read = timeout_at(deadline, self.stream.read_buf(&mut buffer)).await;
        let count = read
            .map_err(|_| CopyError::TooSlow { at: self.at })?
            .unwrap_or(0) as u64;
        if count == 0 {
            return Err(CopyError::Early {
                at: self.at,
                missing_bytes: self.left_bytes,
            });
        }
        if count > self.left_bytes {
            return Err(self.surplus());
        }
        self.left_bytes -= count;
        self.pace_left_bytes = self.pace_left_bytes.saturating_sub(count);
        Ok(Some(buffer.freeze()))
    }

    /// Returns the deadline for the current [`PACE_BYTES`]. When they have arrived, starts the time
    /// of the next ones.
    fn pace(&mut self) -> Instant {
        match self.pace_ends {
            Some(ends) if self.pace_left_bytes > 0 => ends,
            _ => {
                let ends = Instant::now() + PACE;
                self.pace_left_bytes = PACE_BYTES.min(self.left_bytes);
                self.pace_ends = Some(ends);
                ends
            }
        }
    }

    async fn end(&mut self) -> Result<(), CopyError> {
        match timeout(CLOSE_WAIT, self.stream.read(&mut [0; 1])).await {
            Ok(Ok(1..)) => Err(self.surplus()),
            _ => Ok(()),
        }
    }

    fn surplus(&self) -> CopyError {
        CopyError::Surplus {
            at: self.at,
            size_bytes: self.size_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
