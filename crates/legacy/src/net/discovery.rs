//! TCP of the legacy peers' protocol: one file a connection, in both directions.
//!
//! Owns the sockets' deadlines and limits: a connection is answered or closed promptly, since an
//! original program waits for ever, and nothing that a peer sends or withholds holds us for long.
//! Knows nothing of where bytes come from or go to; a transfer that ends in an error gave bytes
//! that are not to be kept.

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

use crate::wire::discovery::{
    HEADER_BYTES, HeaderError, Name, REQUEST_MAX_BYTES, TransferHeader, decode_request,
    encode_request,
};

/// Connections of legacy peers that are served at one time; others are closed at once.
pub const SERVED_MAX: usize = 64;
/// Of these, for one address.
pub const SERVED_PER_ADDRESS: usize = 16;
/// How long a peer may take to say what it wants, to take some bytes of what it gets, and to say a
/// header; also how long dialling may take, as in the old programs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the rest of a request is taken from a peer that was answered, so that closing does not
/// destroy what is still on its way to it.
const LINGER: Duration = Duration::from_secs(2);
/// How long a transfer may take for [`PACE_BYTES`]: slower ones are given up.
const PACE: Duration = Duration::from_secs(20);
/// The least that a transfer must bring in each [`PACE`].
const PACE_BYTES: u64 = 16 << 10;
/// How long the sender may take to close after the last byte.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// What is read at once.
const STEP_BYTES: usize = 128 << 10;

/// Why a file did not come from a legacy peer. Nothing of it is to be kept.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// It does not answer there; it may later.
    #[error("{at} cannot be reached: {source}")]
    Unreachable { at: SocketAddrV4, source: io::Error },
    /// It closed without a word, which is how this protocol says no.
    #[error("{at} does not give that file")]
    NotThere { at: SocketAddrV4 },
    /// Its header cannot be trusted.
    #[error("{at}: {source}")]
    Header {
        at: SocketAddrV4,
        source: HeaderError,
    },
    /// It ended before the size it had said.
    #[error("{at} ended the transfer {missing_bytes} bytes early")]
    Early {
        at: SocketAddrV4,
        /// What is missing.
        missing_bytes: u64,
    },
    /// It sent more than the size it had said.
    #[error("{at} sent more than the {size_bytes} bytes that it had announced")]
    Surplus {
        at: SocketAddrV4,
        /// What it had said.
        size_bytes: u64,
    },
    /// Nothing came, or too little.
    #[error("{at} sends too slowly")]
    TooSlow { at: SocketAddrV4 },
}

/// Counts the connections that are served.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    served: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among the served; free when dropped.
#[derive(Debug)]
pub struct ServedPlace {
    served: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Admission {
    /// A place, if there is one for this address.
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

/// A connection whose request was read.
#[derive(Debug)]
pub struct Served {
    stream: TcpStream,
    /// What is asked for.
    pub name: Name,
}

impl Served {
    /// Reads the request. None where there is none in time: the connection is closed.
    pub async fn accept(mut stream: TcpStream) -> Option<Self> {
        let mut request = Vec::with_capacity(REQUEST_MAX_BYTES);
        let deadline = Instant::now() + PATIENCE;
        // one write of the peer may come in parts, and its line end is optional
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

    /// Sends the header of the file that follows by [`Self::send`].
    ///
    /// # Errors
    /// Those of the connection; it is of no use any more.
    pub async fn send_header(&mut self, header: &TransferHeader) -> io::Result<()> {
        self.send(&header.encode()).await
    }

    /// Sends some of the file.
    ///
    /// # Errors
    /// As [`Self::send_header`]; also where the peer takes nothing for ten seconds.
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

    /// Closes so that what was sent arrives.
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

/// How long a request without a line end may still grow: the old programs read once, at once.
const REQUEST_GAP: Duration = Duration::from_millis(100);

/// Whether nothing more comes for a moment.
async fn settled(stream: &TcpStream) -> bool {
    timeout(REQUEST_GAP, stream.readable()).await.is_err()
}

/// A file on its way from a legacy peer.
#[derive(Debug)]
pub struct Transfer {
    stream: TcpStream,
    at: SocketAddrV4,
    size_bytes: u64,
    left_bytes: u64,
    pace_ends: Option<Instant>,
    pace_left_bytes: u64,
    /// Since when nobody asks for more.
    left_at: Option<Instant>,
}

impl Transfer {
    /// Dials, asks, and reads the header.
    ///
    /// # Errors
    /// [`LegacyError`]; another responder may do better.
    pub async fn begin(at: SocketAddrV4, name: &Name) -> Result<Self, LegacyError> {
        let unreachable = |source| LegacyError::Unreachable { at, source };
        let dialled = timeout(PATIENCE, TcpStream::connect(SocketAddr::V4(at))).await;
        let mut stream = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let mut header = [0; HEADER_BYTES];
        let asked = async {
            stream.write_all(&encode_request(name)).await?;
            stream.read_exact(&mut header).await
        };
        match timeout(PATIENCE, asked).await {
            Err(_) => return Err(LegacyError::TooSlow { at }),
            Ok(Err(_)) => return Err(LegacyError::NotThere { at }),
            Ok(Ok(_)) => {}
        }
        let header = TransferHeader::decode(&header, name)
            .map_err(|source| LegacyError::Header { at, source })?;
        Ok(Self {
            stream,
            at,
            size_bytes: header.size_bytes,
            left_bytes: header.size_bytes,
            pace_ends: None,
            pace_left_bytes: 0,
            left_at: None,
        })
    }

    /// Whom it comes from.
    pub fn at(&self) -> SocketAddrV4 {
        self.at
    }

    /// How many bytes it has announced.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The next bytes; none when all have come and the peer has closed.
    ///
    /// # Errors
    /// [`LegacyError`]; what came before is not to be kept.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LegacyError> {
        // how long the reader was away is not the peer's fault
        if let (Some(ends), Some(left_at)) = (&mut self.pace_ends, self.left_at.take()) {
            *ends += left_at.elapsed();
        }
        let part = self.receive().await;
        self.left_at = Some(Instant::now());
        part
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, LegacyError> {
        if self.left_bytes == 0 {
            return self.end().await.map(|()| None);
        }
        let mut buffer = BytesMut::with_capacity(STEP_BYTES);
        let deadline = self.pace();
        let read = timeout_at(deadline, self.stream.read_buf(&mut buffer)).await;
        let count = read
            .map_err(|_| LegacyError::TooSlow { at: self.at })?
            .unwrap_or(0) as u64;
        if count == 0 {
            return Err(LegacyError::Early {
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

    /// Until when the bytes of this stretch must have come.
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

    async fn end(&mut self) -> Result<(), LegacyError> {
        match timeout(CLOSE_WAIT, self.stream.read(&mut [0; 1])).await {
            Ok(Ok(1..)) => Err(self.surplus()),
            _ => Ok(()),
        }
    }

    fn surplus(&self) -> LegacyError {
        LegacyError::Surplus {
            at: self.at,
            size_bytes: self.size_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
