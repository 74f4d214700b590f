//! Serving a file to a legacy peer: the header, exactly the announced bytes within the rate limit,
//! and the end of the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::offered::OfferedFiles;
use crate::net::discovery::{Served, ServedPlace};
use crate::wire::discovery::TransferHeader;
use p2pfs_content::ContentOpener;
use p2pfs_fs::{FileVersion, FsError, OpenContent, ReadNow};
use p2pfs_node::ForeignThrottle;
use p2pfs_node::{EventLog, Given, News};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Number of bytes read at once: the largest request between native nodes.
const STEP_BYTES: u64 = 1 << 20;
/// Number of bytes sent at once. A changed limit applies from the next piece.
const PIECE_BYTES: usize = CHUNK_BYTES as usize;

/// Serves one connection to its end. Closes the connection even after an error, because an original
/// program waits forever on an open one.
pub(super) async fn serve(
    (stream, peer): (TcpStream, SocketAddr),
    place: ServedPlace,
    offered: Arc<OfferedFiles>,
    opener: ContentOpener,
    passage: ForeignThrottle,
    events: EventLog,
) {
    let _place = place;
    let Some(mut served) = Served::accept(stream).await else {
        return;
    };
    let (name, served_name) = (served.name.clone(), served.name.clone());
    let looker = offered.clone();
    let looked = tokio::task::spawn_blocking(move || looker.find(&name)).await;
    let Ok(Some(file)) = looked else {
        return served.close().await;
    };
    let note = |is_done| {
        events.record(News::Given(Given {
            peer,
            name: served_name.as_bytes().to_vec(),
            size_bytes: file.size_bytes,
            is_done,
        }));
    };
    match give((&mut served, &passage), &file, opener, &note).await {
        Ok(()) => note(true),
        Err(FsError::Interrupted) => tracing::debug!(%peer, "{} was not taken", file.path),
        Err(why) => offered.warn_unfinished(&file.path, why),
    }
    served.close().await;
}

/// Sends the file. The first bytes are read before the header is sent, so that a file that cannot
/// be read is refused with an empty close.
async fn give(
    (served, passage): (&mut Served, &ForeignThrottle),
    file: &FileVersion,
    opener: ContentOpener,
    note: &(dyn Fn(bool) + Sync),
) -> Result<(), FsError> {
    let header = TransferHeader::new(served.name.clone(), file.size_bytes);
    let header = header.map_err(|_| FsError::Fault)?;
    let opened = opener.open(file)?;
    note(false);
    send_all(served, passage, &header, &*opened.content).await
}

async fn send_all(
    served: &mut Served,
    passage: &ForeignThrottle,
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
            let passed = passage.pass(length, false).await;
            let sent = served.send(piece).await;
            sent.map_err(|_| FsError::Interrupted)?;
            passed.mark_transferred();
            passage.count(length);
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
