//! Serving a file to a legacy peer: the header, exactly the announced bytes within the rate limit,
//! and the end of the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::offered::OfferedFiles;
use super::tcp::{Admission, Served};
use crate::wire::discovery::{Name, TransferHeader};
use p2pfs_content::ContentOpener;
use p2pfs_fs::{FileVersion, FsError, OpenContent, ReadNow};
use p2pfs_node::ForeignThrottle;
use p2pfs_node::{EventLog, Given, News};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Number of bytes read at once: the largest request between native nodes.
const STEP_BYTES: u64 = 1 << 20;
/// Number of bytes sent at once. A changed limit applies from the next piece.
const PIECE_BYTES: usize = CHUNK_BYTES as usize;

/// Gives the offered files to legacy peers.
pub(super) struct FileServer {
    pub(super) offered: Arc<OfferedFiles>,
    opener: ContentOpener,
    limit: ForeignThrottle,
    events: EventLog,
    door: Admission,
}

impl FileServer {
    pub(super) fn new(
        offered: Arc<OfferedFiles>,
        opener: ContentOpener,
        limit: ForeignThrottle,
        events: EventLog,
    ) -> Self {
        Self {
            offered,
            opener,
            limit,
            events,
            door: Admission::default(),
        }
    }

    /// Serves a connection in a task of its own. Without a free slot the connection is closed at
    /// once, which is a valid answer.
    pub(super) fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Some(place) = self.door.enter(peer.ip()) {
            let this = self.clone();
            tokio::spawn(async move {
                this.serve_one(stream, peer).await;
                drop(place);
            });
        }
    }

    /// Serves one connection to its end. Closes the connection even after an error, because an
    /// original program waits forever on an open one.
    async fn serve_one(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(mut served) = Served::accept(stream).await else {
            return;
        };
        let (name, offered) = (served.name.clone(), self.offered.clone());
        let looked = tokio::task::spawn_blocking(move || offered.find(&name)).await;
        let Ok(Some(file)) = looked else {
            return served.close().await;
        };
        match self.give(&mut served, &file, peer).await {
            Ok(()) => self.record(&served.name, &file, peer, true),
            Err(FsError::Interrupted) => tracing::debug!(%peer, "{} was not taken", file.path),
            Err(why) => self.offered.warn_unfinished(&file.path, why),
        }
        served.close().await;
    }

    fn record(&self, name: &Name, file: &FileVersion, peer: SocketAddr, is_done: bool) {
        self.events.record(News::Given(Given {
            peer,
            name: name.as_bytes().to_vec(),
            size_bytes: file.size_bytes,
            is_done,
        }));
    }

    /// Sends the file. The first bytes are read before the header is sent, so that a file that
    /// cannot be read is refused with an empty close.
    async fn give(
        &self,
        served: &mut Served,
        file: &FileVersion,
        peer: SocketAddr,
    ) -> Result<(), FsError> {
        let header = TransferHeader::new(served.name.clone(), file.size_bytes);
        let header = header.map_err(|_| FsError::Fault)?;
        let opened = self.opener.open(file)?;
        self.record(&served.name, file, peer, false);
        send_all(served, &self.limit, &header, &*opened.content).await
    }
}

async fn send_all(
    served: &mut Served,
    limit: &ForeignThrottle,
    header: &TransferHeader,
    content: &dyn OpenContent,
) -> Result<(), FsError> {
    let size_bytes = header.size_bytes;
    let mut offset = 0;
    loop {
        let range = ByteRange::at(offset, STEP_BYTES.min(size_bytes - offset));
        let bytes = if range.is_empty() {
            bytes::Bytes::new()
        } else {
            read(content, range).await?
        };
        if offset == 0 {
            let said = served.send_header(header).await;
            said.map_err(|_| FsError::Interrupted)?;
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            let length = piece.len() as u64;
            // Wait before the send: the time for which the rate limit delays this node must not
            // count as time in which the peer accepts no bytes.
            let passed = limit.pass(length, false).await;
            let sent = served.send(piece).await;
            sent.map_err(|_| FsError::Interrupted)?;
            passed.mark_transferred();
            limit.count(length);
        }
        offset += bytes.len() as u64;
        if offset >= size_bytes {
            return Ok(());
        }
    }
}

async fn read(content: &dyn OpenContent, range: ByteRange) -> Result<bytes::Bytes, FsError> {
    let local = tokio::task::block_in_place(|| {
        let mut buffer = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        match content.read_now(range.start, &mut buffer) {
            ReadNow::Done(length) if length == buffer.len() => Some(Ok(buffer.into())),
            ReadNow::Done(_) => Some(Err(FsError::Gone)),
            ReadNow::Failed(error) => Some(Err(error)),
            ReadNow::Wait => None,
        }
    });
    if let Some(done) = local {
        return done;
    }
    let (answer, bytes) = oneshot::channel();
    let reply = Box::new(move |result| {
        let _gone = answer.send(result);
    });
    let _wait = content.read(range, true, reply);
    bytes.await.map_err(|_| FsError::Fault)?
}
