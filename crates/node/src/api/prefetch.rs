//! Fetches of many files into the cache.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::FileError;
use super::contents::Contents;
use p2pfs_content::ContentStore;
use p2pfs_fetch::{FillProgress, TransferError};
use p2pfs_transfer::Fetcher;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// One [`Prefetch`] fetches this many files of any size at once, and more only if they are small.
const FILLS_AT_ONCE: usize = 4;
/// Maximum number of small files that one [`Prefetch`] fetches at once, so that they share a round
/// trip.
const SMALL_FILLS_AT_ONCE: usize = 64;
/// Maximum total size of the files fetched at once, if they are more than [`FILLS_AT_ONCE`]. These
/// bytes take 20 ms on a link of 100 MB/s, and 32 s at the lowest rate limit that can be set (64
/// KiB/s).
const SMALL_FILLS_BYTES: u64 = 2 << 20;
/// Files being fetched into the cache. Dropping this cancels the unfinished fetches. Bytes that
/// have arrived stay in the cache, as far as it has room.
#[must_use = "dropping it cancels the fetches"]
pub struct Prefetch {
    fetcher: Fetcher,
    here: ContentStore,
    /// Files whose fetch has not begun, the smallest first, so that no file waits for a larger one.
    waiting: Peekable<vec::IntoIter<(ContentHash, (u64, SharedPath))>>,
    running: JoinSet<(ContentHash, PrefetchedFile)>,
    /// Progress of the running fetches.
    on_their_way: BTreeMap<ContentHash, watch::Receiver<FillProgress>>,
    running_bytes: u64,
    files: usize,
    bytes: u64,
    come_bytes: u64,
}

/// The result of fetching one file.
#[derive(Debug)]
pub struct PrefetchedFile {
    /// One of the names of the file.
    pub path: SharedPath,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// `Ok` once the cache holds every byte.
    pub outcome: Result<(), TransferError>,
}

impl PrefetchedFile {
    /// Returns whether the fetch failed only because the cache had no room to keep the file.
    pub fn is_not_kept(&self) -> bool {
        self.outcome == Err(TransferError::CacheFull)
    }
}

impl Prefetch {
    /// Creates the fetches of contents into the cache, except those that this node has already.
    /// [`Self::next`] begins them.
    pub(super) fn of(contents: Contents, here: ContentStore, fetcher: Fetcher) -> Self {
        let missing = contents
            .into_iter()
            .filter(|(hash, _)| !here.is_whole(hash));
        let mut contents: Vec<_> = missing.collect();
        contents.sort_by_key(|(_, (size_bytes, _))| *size_bytes);
        Self {
            fetcher,
            files: contents.len(),
            bytes: contents.iter().map(|(_, (size_bytes, _))| size_bytes).sum(),
            waiting: contents.into_iter().peekable(),
            running: JoinSet::new(),
            on_their_way: BTreeMap::new(),
            running_bytes: 0,
            come_bytes: 0,
            here,
        }
    }

    /// Returns the number of files that this node did not have when this was created. Files of
    /// equal content count once.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns the total size in bytes of the files that [`Self::files`] counts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of the [`Self::bytes`] have arrived by now. Bytes of a failed file no
    /// longer count.
    pub fn ready_bytes(&self) -> u64 {
        let ready = self.on_their_way.values().map(|it| it.borrow().ready_bytes);
        self.come_bytes + ready.sum::<u64>()
    }

    /// Returns the next file whose fetch has ended, or `None` after the last file. The future may
    /// be dropped early without losing a result.
    pub async fn next(&mut self) -> Option<PrefetchedFile> {
        if let Some(came) = self.begin() {
            return Some(came);
        }
        // A fetch task neither panics nor is aborted while the prefetch exists.
        let (hash, fetched) = self.running.join_next().await?.ok()?;
        self.on_their_way.remove(&hash);
        self.running_bytes -= fetched.size_bytes;
        if fetched.outcome.is_ok() {
            self.come_bytes += fetched.size_bytes;
        }
        Some(fetched)
    }

    /// Begins as many fetches as may run at once. Returns early with the first file that has
    /// arrived here since the prefetch was created.
    pub(super) fn begin(&mut self) -> Option<PrefetchedFile> {
        while let Some((hash, (size_bytes, path))) = self.waiting.next_if(|(_, (size_bytes, _))| {
            may_fetch_beside(self.running.len(), self.running_bytes, *size_bytes)
        }) {
            if self.here.is_whole(&hash) {
                self.come_bytes += size_bytes;
                let outcome = Ok(());
                return Some(PrefetchedFile {
                    path,
                    size_bytes,
                    outcome,
                });
            }
            let fill = self.fetcher.fill(hash, size_bytes);
            self.on_their_way.insert(hash, fill.progress());
            self.running_bytes += size_bytes;
            self.running.spawn(async move {
                let outcome = fill.done().await;
                let fetched = PrefetchedFile {
                    path,
                    size_bytes,
                    outcome,
                };
                (hash, fetched)
            });
        }
        None
    }

    /// Waits until all fetches have ended.
    ///
    /// # Errors
    /// [`FileError::NotFetched`] for the first file that failed. The other fetches are cancelled.
    pub async fn finish(mut self) -> Result<(), FileError> {
        while let Some(PrefetchedFile { path, outcome, .. }) = self.next().await {
            outcome.map_err(|source| FileError::NotFetched { path, source })?;
        }
        Ok(())
    }
}

/// Returns whether a file of this size may be fetched beside `running` others of `running_bytes`.
fn may_fetch_beside(running: usize, running_bytes: u64, size_bytes: u64) -> bool {
    running < FILLS_AT_ONCE
        || (running < SMALL_FILLS_AT_ONCE && running_bytes + size_bytes <= SMALL_FILLS_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of these files are fetched at once.
    fn at_once(sizes_bytes: &[u64]) -> usize {
        let mut running_bytes = 0;
        let goes = |(running, size_bytes): &(usize, &u64)| {
            let goes = may_fetch_beside(*running, running_bytes, **size_bytes);
            running_bytes += **size_bytes;
            goes
        };
        sizes_bytes.iter().enumerate().take_while(goes).count()
    }

    #[test]
    fn many_small_files_share_a_round_trip_and_four_large_ones_the_link() {
        assert_eq!(at_once(&[0; 1000]), 64);
        assert_eq!(at_once(&[64 << 10; 1000]), 32);
        assert_eq!(at_once(&[1 << 30; 1000]), 4);
        // a large file waits for the small ones before it
        assert_eq!(at_once(&[&[1 << 10; 10][..], &[1 << 30; 10]].concat()), 10);
    }
}
