//! The hash trees of shared files: on disk for large files, under a budget, the least recently
//! used going first; in memory for those in use; made anew from the file where they are neither.
//!
//! Nothing here is trusted: who serves from an outboard checks every group against the hash, so a
//! damaged one costs a rebuild and never a wrong byte.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::error::ShareError;
use crate::digest::{ContentHash, Outboard, outboard_bytes};

/// Files up to this size have no outboard on disk: hashing them takes a millisecond.
pub(super) const SMALL_FILE_MAX_BYTES: u64 = 1 << 20;
/// What outboards in memory may take together.
const MEMORY_BUDGET_BYTES: u64 = 8 << 20;
/// And how many, since most are tiny.
const MEMORY_MAX_OUTBOARDS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Rebuilds that go on at the same time, of different contents.
const REBUILD_LANES: usize = 16;

/// Hash pairs in pre-order, shared by who serves from them.
pub(super) type Pairs = Arc<[u8]>;

pub(super) struct Outboards {
    dir: PathBuf,
    budget_bytes: u64,
    held: Mutex<Held>,
    rebuilding: [Mutex<()>; REBUILD_LANES],
    written: AtomicU64,
}

struct Held {
    disk: LruCache<ContentHash, u64>,
    disk_bytes: u64,
    memory: LruCache<ContentHash, Pairs>,
    memory_bytes: u64,
}

impl Outboards {
    /// Takes up what an earlier run left in `dir`, oldest first, within the budget.
    pub(super) fn open(dir: PathBuf, budget_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let stat = entry.metadata()?;
            match entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                Some(hash) => found.push((stat.modified()?, hash, stat.len())),
                None => drop(std::fs::remove_file(entry.path())),
            }
        }
        found.sort_unstable_by_key(|(modified, hash, _)| (*modified, *hash));
        let outboards = Self {
            dir,
            budget_bytes,
            held: Mutex::new(Held {
                disk: LruCache::unbounded(),
                disk_bytes: 0,
                memory: LruCache::new(MEMORY_MAX_OUTBOARDS),
                memory_bytes: 0,
            }),
            rebuilding: std::array::from_fn(|_| Mutex::default()),
            written: AtomicU64::new(0),
        };
        found
            .into_iter()
            .for_each(|(_, hash, bytes)| outboards.note_on_disk(hash, bytes));
        Ok(outboards)
    }

    /// Keeps an outboard that was just computed, where it is worth it.
    pub(super) fn keep(&self, outboard: &Outboard) {
        if outboard.size_bytes > SMALL_FILE_MAX_BYTES
            && outboard.pairs.len() as u64 <= self.budget_bytes
            && !self.lock().disk.contains(&outboard.hash)
            && self.write(outboard).is_ok()
        {
            self.note_on_disk(outboard.hash, outboard.pairs.len() as u64);
        }
    }

    /// The pairs for a content, from memory, disk, or by hashing `file` again.
    ///
    /// # Errors
    /// [`ShareError::Gone`] where `file` does not have the content any more.
    pub(super) fn load(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        file: &File,
    ) -> Result<Pairs, ShareError> {
        if outboard_bytes(size_bytes) == 0 {
            return Ok(Pairs::default());
        }
        // who waits for another's rebuild finds it in memory afterwards
        let lane = usize::from(hash.as_bytes()[0]) % REBUILD_LANES;
        if let Some(pairs) = self.recall(&hash) {
            return Ok(pairs);
        }
        let _alone = self.rebuilding[lane].lock();
        if let Some(pairs) = self.recall(&hash).or_else(|| self.read(&hash, size_bytes)) {
            return Ok(self.note_in_memory(hash, pairs));
        }
        let outboard = Outboard::compute(Sequential { file, offset: 0 }, size_bytes);
        let outboard = outboard.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ShareError::Gone,
            _ => ShareError::Io(error),
        })?;
        if outboard.hash != hash {
            return Err(ShareError::Gone);
        }
        self.keep(&outboard);
        Ok(self.note_in_memory(hash, outboard.pairs.into()))
    }

    /// Drops an outboard that no file needs, or that is damaged.
    pub(super) fn forget(&self, hash: &ContentHash) {
        let mut held = self.lock();
        if let Some(bytes) = held.disk.pop(hash) {
            held.disk_bytes -= bytes;
            let _ = std::fs::remove_file(self.path(hash));
        }
        if let Some(pairs) = held.memory.pop(hash) {
            held.memory_bytes -= pairs.len() as u64;
        }
    }

    /// Bytes on disk.
    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> u64 {
        self.lock().disk_bytes
    }

    fn recall(&self, hash: &ContentHash) -> Option<Pairs> {
        self.lock().memory.get(hash).cloned()
    }

    fn read(&self, hash: &ContentHash, size_bytes: u64) -> Option<Pairs> {
        self.lock().disk.get(hash)?;
        let bytes = std::fs::read(self.path(hash)).ok();
        match bytes.filter(|bytes| bytes.len() as u64 == outboard_bytes(size_bytes)) {
            Some(bytes) => Some(bytes.into()),
            None => {
                self.forget(hash);
                None
            }
        }
    }

    /// Under its name only when it is whole.
    fn write(&self, outboard: &Outboard) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.join(format!("part-{number}"));
        let written = std::fs::write(&part, &outboard.pairs)
            .and_then(|()| std::fs::rename(&part, self.path(&outboard.hash)));
        if written.is_err() {
            let _ = std::fs::remove_file(part);
        }
        written
    }

    fn note_on_disk(&self, hash: ContentHash, bytes: u64) {
        let mut held = self.lock();
        held.disk_bytes += bytes;
        if let Some(replaced) = held.disk.put(hash, bytes) {
            held.disk_bytes -= replaced;
        }
        while held.disk_bytes > self.budget_bytes {
            let Some((oldest, bytes)) = held.disk.pop_lru() else {
                break;
            };
            held.disk_bytes -= bytes;
            let _ = std::fs::remove_file(self.path(&oldest));
        }
    }

    fn note_in_memory(&self, hash: ContentHash, pairs: Pairs) -> Pairs {
        let bytes = pairs.len() as u64;
        if bytes > MEMORY_BUDGET_BYTES {
            return pairs;
        }
        let mut held = self.lock();
        held.memory_bytes += bytes;
        if let Some((_, replaced)) = held.memory.push(hash, pairs.clone()) {
            held.memory_bytes -= replaced.len() as u64;
        }
        while held.memory_bytes > MEMORY_BUDGET_BYTES {
            let Some((_, oldest)) = held.memory.pop_lru() else {
                break;
            };
            held.memory_bytes -= oldest.len() as u64;
        }
        pairs
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        Path::new(&self.dir).join(hash.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

/// Reads a file from the start without moving its own position, which others may use.
struct Sequential<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample {
        _dir: tempfile::TempDir,
        file: File,
        outboard: Outboard,
    }

    fn sample(seed: u8, size: usize) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8 ^ seed).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        Sample {
            _dir: dir,
            file,
            outboard: Outboard::of(&bytes),
        }
    }

    fn load(outboards: &Outboards, sample: &Sample) -> Result<Pairs, ShareError> {
        outboards.load(
            sample.outboard.hash,
            sample.outboard.size_bytes,
            &sample.file,
        )
    }

    const LARGE: usize = SMALL_FILE_MAX_BYTES as usize + 100_000;

    #[test]
    fn an_outboard_on_disk_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let sample = sample(1, LARGE);
        Outboards::open(dir.path().join("o"), 1 << 20)
            .unwrap()
            .keep(&sample.outboard);
        let outboards = Outboards::open(dir.path().join("o"), 1 << 20).unwrap();
        assert_eq!(outboards.disk_bytes(), sample.outboard.pairs.len() as u64);
        assert_eq!(
            &*load(&outboards, &sample).unwrap(),
            &sample.outboard.pairs[..]
        );
    }

    #[test]
    fn the_budget_holds_and_the_least_recently_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let samples = [sample(1, LARGE), sample(2, LARGE), sample(3, LARGE)];
        let each = samples[0].outboard.pairs.len() as u64;
        let outboards = Outboards::open(dir.path().to_owned(), 2 * each + 10).unwrap();
        outboards.keep(&samples[0].outboard);
        outboards.keep(&samples[1].outboard);
        load(&outboards, &samples[0]).unwrap();
        outboards.keep(&samples[2].outboard);
        assert_eq!(outboards.disk_bytes(), 2 * each);
        assert!(
            !dir.path()
                .join(samples[1].outboard.hash.to_string())
                .exists()
        );
        assert_eq!(
            &*load(&outboards, &samples[1]).unwrap(),
            &samples[1].outboard.pairs[..]
        );
    }

    #[test]
    fn what_was_never_kept_is_made_from_the_file_and_only_if_it_is_that_file() {
        let dir = tempfile::tempdir().unwrap();
        let outboards = Outboards::open(dir.path().to_owned(), 0).unwrap();
        let (small, large) = (sample(1, 200_000), sample(2, LARGE));
        for sample in [&small, &large] {
            assert_eq!(
                &*load(&outboards, sample).unwrap(),
                &sample.outboard.pairs[..]
            );
        }
        let other = ContentHash::of(b"other");
        let wrong = outboards.load(other, 200_000, &small.file);
        assert!(matches!(wrong, Err(ShareError::Gone)));
        let short = outboards.load(other, 300_000, &small.file);
        assert!(matches!(short, Err(ShareError::Gone)));
    }

    #[test]
    fn a_cut_outboard_and_a_left_over_part_are_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let sample = sample(1, LARGE);
        std::fs::write(dir.path().join("part-7"), b"x").unwrap();
        std::fs::write(dir.path().join(sample.outboard.hash.to_string()), b"cut").unwrap();
        let outboards = Outboards::open(dir.path().to_owned(), 1 << 20).unwrap();
        assert!(!dir.path().join("part-7").exists());
        assert_eq!(
            &*load(&outboards, &sample).unwrap(),
            &sample.outboard.pairs[..]
        );
    }
}
