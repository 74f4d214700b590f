//! The contents that this node can serve: whole or in part in the cache, or in a share.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use super::MadeAnswer;
use super::fair_queue::ServeTurn;
use super::opened::{OpenSources, ServeError, Source};
use p2pfs_cache::Cache;
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_share::ShareSet;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::pool::PiecePool;

/// The cache and the shares, and the files of both that are open.
pub(super) struct ServedContents {
    cache: Cache,
    pub shares: ShareSet,
    opened: Mutex<OpenSources>,
    /// Buffers of the answers.
    pub pieces: PiecePool,
}

impl ServedContents {
    pub(super) fn new(cache: Cache, shares: ShareSet, pieces: PiecePool) -> Self {
        Self {
            cache,
            shares,
            opened: Mutex::new(OpenSources::new()),
            pieces,
        }
    }

    /// Closes the files without recent requests. Deleted files stay open for longer. Returns
    /// whether any file is still open. Touches the disk. Blocking.
    pub(super) fn close_expired(&self) -> bool {
        let now = Instant::now();
        let old = self.opened.lock().remove_expired(now);
        let (lost, unused): (Vec<_>, Vec<_>) = old.into_iter().partition(|it| it.1.is_nameless());
        drop(unused);
        let mut opened = self.opened.lock();
        let mut closed = opened.remove_expired_deleted(now);
        closed.extend(opened.retain_deleted(now, lost));
        opened.swept = !opened.is_empty();
        let swept = opened.swept;
        drop(opened);
        drop(closed);
        swept
    }

    /// Makes an answer. Reads and hashes. Blocking.
    pub(super) fn make(
        &self,
        hash: &ContentHash,
        size_bytes: u64,
        range: ByteRange,
        mut turn: ServeTurn,
    ) -> Response {
        let mut outcome = ServeError::NotHere;
        // an open source may be gone while another one has the bytes
        for _ in 0..2 {
            let source = match self.open(hash, range) {
                Ok(source) => source,
                Err(ServeError::NotHere) => break,
                Err(why) => return why.into(),
            };
            if source.size_bytes() != size_bytes {
                return Response::NotHere;
            }
            match source.encode(range, &self.pieces) {
                Ok(bytes) => {
                    turn.mark_made();
                    let proof = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
                    return Response::Data { proof };
                }
                // the cache's partial file was used because no share could prove the content; the
                // share's reason may be a passing one, and then it is the better answer
                Err(ServeError::NotHere) if !source.is_whole() => {
                    let shared = self.shares.source(hash).err();
                    outcome = shared.map_or(ServeError::NotHere, ServeError::from);
                }
                Err(why) => outcome = why,
            }
            let stale = self.opened.lock().remove(hash);
            drop(stale);
        }
        outcome.into()
    }

    /// Returns the open source of a content, or opens one and keeps it open for the next request.
    fn open(&self, hash: &ContentHash, range: ByteRange) -> Result<Source, ServeError> {
        let now = Instant::now();
        if let Some(source) = self.opened.lock().get(now, hash, range) {
            return Ok(source);
        }
        let source = self.find(hash)?;
        let mut opened = self.opened.lock();
        let closed = opened.put(now, *hash, source.clone(), range);
        drop(opened);
        closed.into_iter().for_each(close_beside);
        Ok(source)
    }

    /// Returns a complete source if there is one, otherwise a partial one.
    pub(super) fn find(&self, hash: &ContentHash) -> Result<Source, ServeError> {
        let cached = || match self.cache.existing(hash)? {
            Some(file) => Ok(Source::Cached(file)),
            None => Err(ServeError::NotHere),
        };
        if self.cache.is_complete(hash) {
            return cached();
        }
        match self.shares.provable(hash) {
            Ok(file) => Ok(Source::Shared(file)),
            Err(_) if self.cache.cached_bytes(hash) > 0 => cached(),
            Err(why) => Err(why.into()),
        }
    }

    /// Returns the open source of a content, if there is one, and records a request for `range`.
    pub(super) fn already_open(&self, hash: &ContentHash, range: ByteRange) -> Option<Source> {
        self.opened.lock().get(Instant::now(), hash, range)
    }

    /// Returns whether the caller must start a task that closes files without recent requests: a
    /// file is open and no such task runs.
    pub(super) fn needs_sweep(&self) -> bool {
        let mut opened = self.opened.lock();
        !opened.is_empty() && !std::mem::replace(&mut opened.swept, true)
    }

    /// Returns the location of a content: the first share that has it, or `None` for the cache.
    pub(super) fn disk_of(&self, hash: &ContentHash) -> Option<PathBuf> {
        let is_cached = self.cache.is_complete(hash);
        let dirs = (!is_cached).then(|| self.shares.dirs_with(hash));
        dirs.into_iter().flatten().next()
    }
}

/// Closes a file on another thread if that may take long. The filesystem frees a deleted file at
/// its last close. This can take the journal a millisecond, longer than the answer for which this
/// file was displaced.
fn close_beside(file: Source) {
    if file.is_nameless() {
        drop(tokio::task::spawn_blocking(move || drop(file)));
    }
}
