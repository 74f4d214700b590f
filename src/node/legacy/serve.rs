//! Giving a file to a legacy peer: header, exactly its bytes, a close.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::offered::Offered;
use crate::extent::ByteRange;
use crate::fs::{Content, FileVersion, FsError, OpenContent, ReadNow};
use crate::net::legacy::{Served, ServedPlace};
use crate::node::{EventLog, Given, News, NodeContent};
use crate::wire::legacy::TransferHeader;

/// What is read and sent at once: the largest request between native nodes.
const STEP_BYTES: u64 = 1 << 20;

/// Serves one connection to its end. Whatever goes wrong, it is closed: an original program waits
/// for ever on an open one.
pub(super) async fn serve(
    (stream, peer): (TcpStream, SocketAddr),
    place: ServedPlace,
    offered: Arc<Offered>,
    content: Arc<NodeContent>,
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
        events.note(News::Given(Given {
            peer,
            name: served_name.clone(),
            size_bytes: file.size_bytes,
            is_done,
        }));
    };
    match give(&mut served, &file, content, &note).await {
        Ok(()) => note(true),
        Err(FsError::Interrupted) => tracing::debug!(%peer, "{} was not taken", file.path),
        Err(why) => offered.tell_unfinished(&file.path, why),
    }
    served.close().await;
}

/// Sends the file. The first bytes are read before the header is sent, so that what cannot be
/// given is refused by an empty close.
async fn give(
    served: &mut Served,
    file: &FileVersion,
    content: Arc<NodeContent>,
    note: &(dyn Fn(bool) + Sync),
) -> Result<(), FsError> {
    let header = TransferHeader::new(served.name.clone(), file.size_bytes);
    let header = header.map_err(|_| FsError::Fault)?;
    let opened = content.open(file)?;
    note(false);
    send_all(served, &header, &*opened.content).await
}

async fn send_all(
    served: &mut Served,
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
        let sent = served.send(&bytes).await;
        sent.map_err(|_| FsError::Interrupted)?;
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
    let _ticket = content.read(range, reply);
    bytes.await.map_err(|_| FsError::Fault)?
}
