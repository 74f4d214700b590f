//! Checking what is on disk against the hashes: all of it on demand or after an unclean stop, a
//! doubtful chunk when it is read.
//!
//! Only whole chunks can be checked: an outboard has no hash for less. Single pages of a chunk
//! are believed because their record says that they were written in this boot, or synced.

use std::ops::ControlFlow;

use super::core::{Core, lock};
use super::file::{CacheFile, PairSource, Shared};
use super::pages::{bytes_of, pages_around};
use super::{Cache, CacheEvent};
use crate::digest::{self, ContentHash};
use crate::extent::{ByteRange, CHUNK_BYTES, ChunkIndex};

/// How much is read and checked between two looks at whether to stop: 1 MiB.
const STRIDE_BYTES: u64 = 16 * CHUNK_BYTES;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Files done.
    pub files: usize,
    /// Files to do.
    pub files_total: usize,
    /// Bytes of files done or looked at.
    pub bytes: u64,
    /// Bytes of all files to do.
    pub bytes_total: u64,
    /// Bytes that were found damaged and dropped.
    pub dropped_bytes: u64,
}

impl Cache {
    /// Checks every whole chunk of every file, the least recently used file first (so the order
    /// of use stays); drops what is damaged, each with an event. `progress` is called about once a
    /// MiB, and ends the work by breaking.
    pub fn verify(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        let files = self
            .list()
            .into_iter()
            .map(|line| (line.hash, line.size_bytes))
            .collect();
        self.core().verify_files(files, progress)
    }

    /// The same for [`Cache::unverified`] alone: what a daemon does in the background.
    pub fn verify_unverified(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        self.core().verify_files(self.unverified(), progress)
    }
}

impl Core {
    fn verify_files(
        self: &std::sync::Arc<Self>,
        files: Vec<(ContentHash, u64)>,
        mut progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        let bytes_total = files.iter().map(|(_, size_bytes)| size_bytes).sum();
        let mut done = VerifyProgress {
            files_total: files.len(),
            bytes_total,
            ..VerifyProgress::default()
        };
        for (hash, _) in files {
            if let Some(file) = self.existing(&hash)
                && file.verify(&mut done, &mut progress).is_break()
            {
                return done;
            }
            done.files += 1;
        }
        let _ = progress(&done);
        done
    }
}

impl CacheFile {
    fn verify(
        &self,
        done: &mut VerifyProgress,
        progress: &mut impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (shared, core) = (self.shared(), &self.handle.core);
        let whole = ByteRange::new(0, shared.size_bytes);
        let mut start = 0;
        while start < shared.size_bytes {
            let stride = ByteRange::at(start, STRIDE_BYTES).intersection(&whole);
            done.dropped_bytes += shared.settle(core, stride);
            done.dropped_bytes += shared.check(core, stride);
            done.bytes += stride.len();
            start = stride.end;
            progress(done)?;
        }
        core.checked(&shared.hash);
        ControlFlow::Continue(())
    }
}

impl Shared {
    /// Checks the whole chunks of a range; says how many bytes were dropped.
    fn check(&self, core: &Core, range: ByteRange) -> u64 {
        let before = self.cached_bytes();
        let pages = pages_around(range, self.size_bytes);
        if lock(&self.state).present.contains(pages) {
            // What fails is dropped chunk by chunk inside.
            let _ = self.prove(core, range);
        } else {
            self.drop_unproven(core, range);
        }
        before.saturating_sub(self.cached_bytes())
    }

    /// Drops the whole chunks of a range that do not prove themselves.
    pub(super) fn drop_unproven(&self, core: &Core, range: ByteRange) {
        for chunk in self.chunks_of(range) {
            let pages = pages_around(chunk, self.size_bytes);
            let whole = lock(&self.state).present.contains(pages);
            if whole && !self.proves(chunk) {
                self.drop_range(core, chunk);
            }
        }
    }

    /// Makes up its mind about the doubtful chunks of a range: they are present, or worth nothing.
    /// Says how many bytes were worth nothing.
    pub(super) fn settle(&self, core: &Core, range: ByteRange) -> u64 {
        let mut lost_bytes = 0;
        for chunk in self.chunks_of(range) {
            let pages = pages_around(chunk, self.size_bytes);
            if !lock(&self.state).doubt.touches(pages.clone()) {
                continue;
            }
            let proven = self.proves(chunk);
            let mut state = lock(&self.state);
            let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
            for run in doubtful {
                if proven {
                    state.present.insert(run);
                } else {
                    lost_bytes += bytes_of(&run, self.size_bytes).len();
                    state.stale.insert(run);
                }
            }
            state.doubt.remove(pages.clone());
            let blocks = super::pages::masks(pages).map(|(block, _)| block);
            state.dirty.extend(blocks);
            state.unsynced = true;
            let completed = self.publish(&state);
            drop(state);
            if completed {
                let _ = self.flush(core);
                self.sync_later(core);
                let size_bytes = self.size_bytes;
                core.tell(CacheEvent::Completed {
                    hash: self.hash,
                    size_bytes,
                });
            }
        }
        lost_bytes
    }

    fn chunks_of(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + use<> {
        let size_bytes = self.size_bytes;
        let end = range.end.min(size_bytes).div_ceil(CHUNK_BYTES);
        (range.start / CHUNK_BYTES..end).map(move |index| ChunkIndex(index).range(size_bytes))
    }

    /// Whether a chunk on disk matches the hash.
    fn proves(&self, chunk: ByteRange) -> bool {
        let pairs = PairSource(self);
        let proves = |data| digest::encode(self.hash, self.size_bytes, chunk, data, pairs).is_ok();
        self.data().is_ok_and(proves)
    }
}
