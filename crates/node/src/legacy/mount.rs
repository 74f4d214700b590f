//! The filesystem's calls into the plane, made from its own threads. The replies arrive later.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{CopyError, Legacy, LegacyAbsence, RemoteBytes, RemoteFile};
use p2pfs_fs::{FsError, LaterReply, LegacyFile, ReadReply, ReadTicket, Timestamp};
use p2pfs_legacy::discovery::{Absence, NEGATIVE, Patience, is_probe};
use p2pfs_legacy::wire::discovery::Name;
use p2pfs_types::extent::ByteRange;

/// Ticket of every read of a legacy peer's file. These reads cannot be cancelled: they end with the
/// bytes, or when the transfer stalls or fails. No read of another file has this number.
pub(crate) const LEGACY_READ: ReadTicket = ReadTicket(1 << 62);

/// Maximum number of names remembered as absent.
const ABSENT_MAX: usize = 4096;
/// How long an open may take in addition to the lookup: to connect and to read a header.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Maximum number of responders that one open tries.
const RESPONDERS_MAX: usize = 4;

impl Legacy {
    /// Returns whether legacy peers may be asked for a name now.
    pub fn may_have(&self, name: &[u8]) -> bool {
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(why) => {
                self.refuse(name, why);
                return false;
            }
        };
        let is_absent = || {
            let absent = self.absent.lock();
            absent
                .get(&name)
                .is_some_and(|until| *until > Instant::now())
        };
        !is_probe(&name) && !is_absent()
    }

    /// Returns a known file.
    pub fn known(&self, name: &[u8]) -> Option<LegacyFile> {
        let file = self.files.get(&Name::new(name).ok()?)?;
        Some(shown(&file))
    }

    /// Returns the names of the known files.
    pub fn names(&self) -> Vec<Box<[u8]>> {
        let files = self.files.all();
        files
            .iter()
            .map(|file| file.name.as_bytes().into())
            .collect()
    }

    /// Asks for a file, as a lookup does.
    pub fn find_later(&self, name: &[u8], reply: LaterReply<LegacyFile>) {
        let Ok(name) = Name::new(name) else {
            return reply(Err(FsError::NotFound));
        };
        let legacy = self.clone();
        self.runtime.spawn(async move {
            reply(legacy.look_up(name).await.map(|file| shown(&file)));
        });
    }

    /// Asks for a file and begins its transfer.
    pub fn open_later(&self, name: &[u8], reply: LaterReply<RemoteBytes>) {
        let Ok(name) = Name::new(name) else {
            return reply(Err(FsError::NotFound));
        };
        let legacy = self.clone();
        self.runtime.spawn(async move {
            let limit = legacy.lookup + OPEN_LIMIT;
            let opened = tokio::time::timeout(limit, legacy.open(name)).await;
            reply(opened.unwrap_or(Err(FsError::DeadlinePassed)));
        });
    }

    /// Reads a range, for as long as the transfer progresses.
    pub fn read(
        &self,
        bytes: RemoteBytes,
        range: ByteRange,
        patience: Duration,
        reply: ReadReply,
    ) -> ReadTicket {
        self.runtime.spawn(async move {
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let read = bytes.read(range.start, length, patience);
            reply(read.await.map_err(|error| error.as_fs_error()));
        });
        LEGACY_READ
    }

    async fn look_up(&self, name: Name) -> Result<Arc<RemoteFile>, FsError> {
        match self.find(name.clone(), Patience::Lookup, &[]).await {
            Ok(file) => Ok(file),
            Err(LegacyAbsence::Stopping) => Err(FsError::Stopping),
            // It is unknown whether the file exists.
            Err(LegacyAbsence::NotAsked(Absence::Busy)) => Err(FsError::Busy),
            Err(LegacyAbsence::NotAsked(Absence::NoMembers)) => Err(FsError::NotFound),
            Err(_) => {
                self.record_absent(name);
                Err(FsError::NotFound)
            }
        }
    }

    /// Opens the file at the first responder that begins to send it.
    async fn open(&self, name: Name) -> Result<RemoteBytes, FsError> {
        let (mut failure, mut passed) = (None, Vec::new());
        while passed.len() < RESPONDERS_MAX {
            let file = match failure {
                None => self.look_up(name.clone()).await?,
                Some(failure) => {
                    let next = self.find(name.clone(), Patience::Lookup, &passed).await;
                    next.map_err(|_| failure)?
                }
            };
            let bytes = match self.files.copy(&file).await {
                Err(CopyError::NoRoom { .. }) => {
                    let window = self.files.window(&file).await;
                    window.map(RemoteBytes::Window)
                }
                copied => copied.map(RemoteBytes::Copy),
            };
            match bytes {
                // Nothing of an empty file is read, so surplus bytes would remain unnoticed.
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

    fn record_absent(&self, name: Name) {
        let now = Instant::now();
        let mut absent = self.absent.lock();
        if absent.len() >= ABSENT_MAX {
            absent.retain(|_, until| *until > now);
        }
        if absent.len() < ABSENT_MAX {
            let until = absent.entry(name).or_insert(now);
            if *until <= now {
                *until = now + NEGATIVE;
            }
        }
    }
}

fn shown(file: &RemoteFile) -> LegacyFile {
    let since = file
        .first_seen
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    LegacyFile {
        size_bytes: file.size_bytes,
        mtime: Timestamp {
            seconds: since.as_secs().cast_signed(),
            nanoseconds: since.subsec_nanos(),
        },
        cached_bytes: file.cached_bytes(),
        holder: file.peer.to_string(),
    }
}
