//! Fetches of many files into the cache.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::FileError;
use super::contents::{Contents, LocalContents};
use p2pfs_fetch::{FillProgress, TransferError};
use p2pfs_transfer::Fetcher;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum number of whole files fetched at once for one call, whatever their size.
const FILLS_AT_ONCE: usize = 4;
/// Maximum number of small files fetched at once. Each takes a round trip, and this many share it.
const SMALL_FILLS_AT_ONCE: usize = 64;
/// Maximum total size of small files fetched at once. It keeps a link of 100 MB/s busy over 20 ms.
/// At the lowest rate limit that can be set (64 KiB/s), it arrives within the minute that a fill
/// waits for bytes.
const SMALL_FILLS_BYTES: u64 = 2 << 20;
/// Files being fetched into the cache. Dropping it cancels the unfinished fetches. Bytes that
/// arrived stay, as far as there is room.
#[must_use = "dropping it cancels the fetches"]
pub struct Prefetch {
    fetcher: Fetcher,
    here: LocalContents,
    /// Files not yet begun, the smallest first, so that none waits long behind a large one.
    waiting: Peekable<vec::IntoIter<(ContentHash, (u64, SharedPath))>>,
    running: JoinSet<(ContentHash, Fetched)>,
    /// Progress of the running fetches.
    on_their_way: BTreeMap<ContentHash, watch::Receiver<FillProgress>>,
    running_bytes: u64,
    files: usize,
    bytes: u64,
    come_bytes: u64,
}

/// The result of fetching one file.
#[derive(Debug)]
pub struct Fetched {
    /// One of the names of the file.
    pub path: SharedPath,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// `Ok` once the cache holds every byte.
    pub outcome: Result<(), TransferError>,
}

impl Fetched {
    /// Returns whether the only failure is that the cache did not keep the file.
    pub fn is_not_kept(&self) -> bool {
        self.outcome == Err(TransferError::CacheFull)
    }
}

impl Prefetch {
    /// Fetches contents into the cache, except those that are already here.
    pub(super) fn of(contents: Contents, here: LocalContents, fetcher: Fetcher) -> Self {
        let missing = contents.into_iter().filter(|(hash, _)| !here.has(hash));
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

    /// Returns the number of files that were not here. Files of equal content count once.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns the total size of these files in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of these bytes are here by now. Bytes of a failed file no longer count.
    pub fn ready_bytes(&self) -> u64 {
        let ready = self.on_their_way.values().map(|it| it.borrow().ready_bytes);
        self.come_bytes + ready.sum::<u64>()
    }

    /// Returns the next file that has ended, or `None` after the last one. The future may be
    /// dropped early without losing a result.
    pub async fn next(&mut self) -> Option<Fetched> {
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

    /// Begins as many fetches as may run at once. Returns early with the first file that is here in
    /// the meantime.
    pub(super) fn begin(&mut self) -> Option<Fetched> {
        while let Some((hash, (size_bytes, path))) = self.waiting.next_if(|(_, (size_bytes, _))| {
            may_fetch_beside(self.running.len(), self.running_bytes, *size_bytes)
        }) {
            if self.here.has(&hash) {
                // Another fetch brought it in the meantime.
                self.come_bytes += size_bytes;
                let outcome = Ok(());
                return Some(Fetched {
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
                let fetched = Fetched {
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
        while let Some(Fetched { path, outcome, .. }) = self.next().await {
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
