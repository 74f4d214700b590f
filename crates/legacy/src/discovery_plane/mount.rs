//! The filesystem's calls into the plane. The threads of the filesystem make them and do not wait
//! for the replies, which tasks send later.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::files::RemoteBytes;
use super::{Legacy, LegacyAbsence, RemoteFile};
use crate::discovery::{Absence, Requester, is_probe};
use crate::wire::discovery::Name;
use p2pfs_content::OpenSlot;
use p2pfs_fs::{
    ForeignFile, ForeignFiles, FsError, LaterReply, OpenContent, ReadNow, ReadReply, ReadWait,
    Timestamp,
};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::read::ReadSupplier;

/// How long an open may take in addition to the lookup: to connect and to read a header.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Maximum number of responders that one open tries.
const RESPONDERS_MAX: usize = 4;

impl ForeignFiles for Legacy {
    fn may_have(&self, name: &[u8]) -> bool {
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(why) => {
                self.refuse(name, why);
                return false;
            }
        };
        let is_absent = || self.absent.contains(Instant::now(), &name);
        self.state.has_peers.load(Ordering::Relaxed) && !is_probe(&name) && !is_absent()
    }

    fn known(&self, name: &[u8]) -> Option<ForeignFile> {
        let file = self.files.get(&Name::new(name).ok()?)?;
        Some(shown(&file))
    }

    fn names(&self) -> Vec<Box<[u8]>> {
        let files = self.files.all();
        files
            .iter()
            .map(|file| file.name.as_bytes().into())
            .collect()
    }

    fn find(&self, name: &[u8], uid: u32, reply: LaterReply<ForeignFile>) {
        let Ok(name) = Name::new(name) else {
            return reply(Err(FsError::NotFound));
        };
        let legacy = self.clone();
        self.runtime.spawn(async move {
            reply(look_up(&legacy, name, uid).await.map(|file| shown(&file)));
        });
    }

    fn open(&self, name: &[u8], uid: u32, reply: LaterReply<(Arc<dyn OpenContent>, u64)>) {
        let Ok(name) = Name::new(name) else {
            return reply(Err(FsError::NotFound));
        };
        let legacy = self.clone();
        self.runtime.spawn(async move {
            let limit = legacy.lookup + OPEN_LIMIT;
            let found = tokio::time::timeout(limit, open_bytes(&legacy, name, uid)).await;
            let bytes = found.unwrap_or(Err(FsError::DeadlinePassed));
            reply(bytes.and_then(|bytes| opened(&legacy, bytes)));
        });
    }
}

/// Reads of legacy peers' files, which wait this long without progress. They cannot be cancelled:
/// they end with the bytes, or when the transfer stalls or fails.
struct RemoteWait(Duration);

impl ReadSupplier for RemoteWait {
    fn waits_until(&self, _: u64) -> Option<Instant> {
        Some(Instant::now() + self.0)
    }

    fn cancel(self: Arc<Self>, _: u64) {}
}

/// One open of a legacy peer's file.
struct OpenRemote {
    bytes: RemoteBytes,
    runtime: tokio::runtime::Handle,
    /// How long a read waits without progress.
    patience: Duration,
    _slot: OpenSlot,
}

impl OpenContent for OpenRemote {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        self.bytes.read_now(offset, buffer)
    }

    fn read(&self, range: ByteRange, _ahead: bool, reply: ReadReply) -> ReadWait {
        let (bytes, patience) = (self.bytes.clone(), self.patience);
        self.runtime.spawn(async move {
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let read = bytes.read(range.start, length, patience);
            reply(read.await.map_err(|error| error.as_fs_error()));
        });
        ReadWait::new(Arc::new(RemoteWait(self.patience)), 0)
    }

    /// Returns 0. An open transfers the whole file, so a range never costs a transfer of its own.
    fn missing_bytes(&self, _range: ByteRange) -> u64 {
        0
    }

    fn arrived_bytes(&self, range: ByteRange) -> u64 {
        range.len()
    }

    /// Returns `None`, because nothing verified these bytes and they may change while they are
    /// read.
    fn backing(&self) -> Option<Arc<File>> {
        None
    }
}

fn opened(legacy: &Legacy, bytes: RemoteBytes) -> Result<(Arc<dyn OpenContent>, u64), FsError> {
    let size_bytes = bytes.size_bytes();
    let open = OpenRemote {
        bytes,
        runtime: legacy.runtime.clone(),
        patience: legacy.read_deadline,
        _slot: legacy.open_versions.enter()?,
    };
    Ok((Arc::new(open), size_bytes))
}

async fn look_up(legacy: &Legacy, name: Name, uid: u32) -> Result<Arc<RemoteFile>, FsError> {
    let requester = Requester::program(uid);
    match legacy.find(name, requester, &[]).await {
        Ok(file) => Ok(file),
        Err(LegacyAbsence::Stopping) => Err(FsError::Stopping),
        // It is unknown whether the file exists.
        Err(LegacyAbsence::NotAsked(Absence::Busy)) => Err(FsError::Busy),
        Err(_) => Err(FsError::NotFound),
    }
}

/// Opens the file at the first responder that begins to send it.
async fn open_bytes(legacy: &Legacy, name: Name, uid: u32) -> Result<RemoteBytes, FsError> {
    let (mut failure, mut passed) = (None, Vec::new());
    while passed.len() < RESPONDERS_MAX {
        let file = match failure {
            None => look_up(legacy, name.clone(), uid).await?,
            Some(failure) => {
                let requester = Requester::program(uid);
                let next = legacy.find(name.clone(), requester, &passed).await;
                next.map_err(|_| failure)?
            }
        };
        match legacy.files.bytes(&file).await {
            // An empty file is received as a whole first. The peer may send bytes although it
            // announced none, and no read of an empty file would notice that.
            Ok(RemoteBytes::Copy(copy)) if copy.size_bytes == 0 => match copy.whole().await {
                Ok(()) => return Ok(RemoteBytes::Copy(copy)),
                Err(error) => failure = Some(error.as_fs_error()),
            },
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_the_peers() => failure = Some(error.as_fs_error()),
            Err(error) => return Err(error.as_fs_error()),
        }
        passed.push(file.at);
    }
    Err(failure.unwrap_or(FsError::NotFound))
}

fn shown(file: &RemoteFile) -> ForeignFile {
    let since = file
        .first_seen
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ForeignFile {
        size_bytes: file.size_bytes,
        mtime: Timestamp {
            seconds: since.as_secs().cast_signed(),
            nanoseconds: since.subsec_nanos(),
        },
        cached_bytes: file.cached_bytes(),
        holder: file.peer.to_string(),
    }
}
