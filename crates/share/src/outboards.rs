//! The hash trees (outboards) of shared files. The outboards of files over [`SMALL_FILE_MAX_BYTES`]
//! are kept on disk within a budget, and the least recently used one is evicted first. Recently
//! used outboards of up to [`IN_MEMORY_MAX_BYTES`] are also kept in memory. An outboard that is in
//! neither place is rebuilt from the file.
//!
//! Outboards are not trusted. Every group of bytes is checked against the hash before it is served,
//! so a damaged outboard costs a rebuild and never delivers a wrong byte.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::error::ShareError;
use super::extension::KnownStart;
use super::part::{
    BuildError, HashPairs, IN_MEMORY_MAX_BYTES, OutboardBuilder, PairStore, UnfinishedOutboards,
    outboard_bytes,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{PRIVATE_MODE, create_anew, is_want, open_own, read_full_at};

/// Size up to which a file has no outboard on disk. Hashing such a file takes a millisecond.
pub(super) const SMALL_FILE_MAX_BYTES: u64 = 1 << 20;
/// Maximum bytes of all outboards in the cache in memory. Each has at most an eighth of it.
const MEMORY_BUDGET_BYTES: u64 = 8 << 20;
/// Maximum number of outboards in the cache in memory. It bounds the overhead of the entries,
/// because most outboards are tiny.
const MEMORY_MAX_OUTBOARDS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Maximum concurrent rebuilds of different contents.
const REBUILD_LANES: usize = 16;

pub(super) struct Outboards {
    dir: PathBuf,
    budget_bytes: u64,
    held: Mutex<OutboardCache>,
    rebuilding: [Mutex<()>; REBUILD_LANES],
    parts: UnfinishedOutboards,
}

struct OutboardCache {
    disk: LruCache<ContentHash, u64>,
    disk_bytes: u64,
    memory: LruCache<ContentHash, Arc<[u8]>>,
    memory_bytes: u64,
}

impl Outboards {
    /// Registers the outboards that an earlier run left in `dir`. Deletes the oldest ones beyond
    /// the budget, and all files that are not outboards.
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
            held: Mutex::new(OutboardCache {
                disk: LruCache::unbounded(),
                disk_bytes: 0,
                memory: LruCache::new(MEMORY_MAX_OUTBOARDS),
                memory_bytes: 0,
            }),
            rebuilding: std::array::from_fn(|_| Mutex::default()),
            parts: UnfinishedOutboards::default(),
        };
        found
            .into_iter()
            .for_each(|(_, hash, bytes)| outboards.note_on_disk(hash, bytes));
        Ok(outboards)
    }

    /// Starts the outboard of a file. Unfinished outboards may together take the disk budget once
    /// more, besides the finished ones.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] if it does not fit beside the other unfinished
    /// ones.
    pub(super) fn begin(&self, size_bytes: u64) -> io::Result<OutboardBuilder> {
        self.parts.begin(&self.dir, size_bytes, self.budget_bytes)
    }

    /// Hashes a file from start to end, and passes its outboard to [`Self::store`].
    ///
    /// # Errors
    /// The error of `reader`, an error of [`Self::begin`], or [`io::ErrorKind::StorageFull`] if the
    /// outboard cannot be written.
    pub(super) fn make(
        &self,
        reader: &mut impl io::Read,
        size_bytes: u64,
    ) -> io::Result<(ContentHash, HashPairs)> {
        let mut part = self.begin(size_bytes)?;
        let read = part.read_on(reader, u64::MAX, &mut Vec::new());
        read.map_err(BuildError::into_io)?;
        let (hash, made) = part.finish().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.store(hash, size_bytes, &made);
        Ok((hash, made.pairs()))
    }

    /// Stores a newly built outboard on disk, if its file is over [`SMALL_FILE_MAX_BYTES`] and the
    /// outboard fits the budget.
    pub(super) fn store(&self, hash: ContentHash, size_bytes: u64, made: &PairStore) {
        let bytes = outboard_bytes(size_bytes);
        let is_wanted = size_bytes > SMALL_FILE_MAX_BYTES
            && bytes <= self.budget_bytes
            && !self.held.lock().disk.contains(&hash);
        let path = self.path(&hash);
        let kept = is_wanted
            && match made {
                PairStore::Memory(pairs) => self.write(pairs, &path).is_ok(),
                PairStore::Disk(on_disk) => on_disk.persist_as(&path).is_ok(),
            };
        if kept {
            self.note_on_disk(hash, bytes);
        }
    }

    /// Returns whether the outboard of a content is in memory or on disk. Reads memory only.
    pub(super) fn has(&self, hash: &ContentHash) -> bool {
        let held = self.held.lock();
        held.memory.contains(hash) || held.disk.contains(hash)
    }

    /// Returns the hash pairs of a content, if they are in memory or on disk.
    pub(super) fn stored(&self, hash: &ContentHash, size_bytes: u64) -> Option<HashPairs> {
        let on_disk = || self.read(hash, size_bytes).ok().flatten();
        self.recall(hash).or_else(on_disk)
    }

    /// Returns the hash pairs of a content, from memory, from disk, or by hashing `file` again.
    /// `newer` is the hash and the size of another version of the file, which may begin with the
    /// content or be its beginning. The missing outboard is made from that of `newer` if that one
    /// is stored and can be used.
    ///
    /// # Errors
    /// [`ShareError::Gone`] if `file` no longer has the content; [`ShareError::Io`].
    pub(super) fn load(
        &self,
        hash: ContentHash,
        size_bytes: u64,
        file: &File,
        newer: Option<(ContentHash, u64)>,
    ) -> Result<HashPairs, ShareError> {
        if outboard_bytes(size_bytes) == 0 {
            return Ok(HashPairs::Memory(Arc::default()));
        }
        // a caller that waits for another's rebuild finds the result afterwards
        let lane = usize::from(hash.as_bytes()[0]) % REBUILD_LANES;
        if let Some(pairs) = self.recall(&hash) {
            return Ok(pairs);
        }
        let _alone = self.rebuilding[lane].lock();
        if let Some(pairs) = self.recall(&hash) {
            return Ok(pairs);
        }
        if let Some(pairs) = self.read(&hash, size_bytes)? {
            return Ok(self.note_in_memory(hash, pairs));
        }
        let made = match newer.and_then(|newer| self.derive(size_bytes, file, newer).transpose()) {
            Some(made) => made,
            None => self.make(&mut Sequential { file, offset: 0 }, size_bytes),
        };
        let (found, pairs) = made.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ShareError::Gone,
            _ => ShareError::Io(error),
        })?;
        if found != hash {
            return Err(ShareError::Gone);
        }
        Ok(self.note_in_memory(hash, pairs))
    }

    /// Hashes the first `size_bytes` of a file by means of the outboard of another version of the
    /// file. Returns `None` if that outboard is not stored or cannot be used. The new outboard is
    /// not stored on disk, because it can be made again.
    fn derive(
        &self,
        size_bytes: u64,
        file: &File,
        (newer, newer_bytes): (ContentHash, u64),
    ) -> io::Result<Option<(ContentHash, HashPairs)>> {
        let Some(pairs) = self.stored(&newer, newer_bytes) else {
            return Ok(None);
        };
        let start = KnownStart::new(newer, newer_bytes, pairs);
        let mut part = self.begin(size_bytes)?;
        let Some(offset) = part.start_from(&start)? else {
            return Ok(None);
        };
        let mut reader = Sequential { file, offset };
        let read = part.read_on(&mut reader, u64::MAX, &mut Vec::new());
        read.map_err(BuildError::into_io)?;
        let (hash, made) = part.finish().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Some((hash, made.pairs())))
    }

    /// Drops an outboard that no file needs or that is damaged.
    pub(super) fn forget(&self, hash: &ContentHash) {
        let mut held = self.held.lock();
        if let Some(bytes) = held.disk.pop(hash) {
            held.disk_bytes -= bytes;
            let _ = std::fs::remove_file(self.path(hash));
        }
        if let Some(pairs) = held.memory.pop(hash) {
            held.memory_bytes -= pairs.len() as u64;
        }
    }

    /// Returns the bytes of all outboards on disk.
    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> u64 {
        self.held.lock().disk_bytes
    }

    fn recall(&self, hash: &ContentHash) -> Option<HashPairs> {
        let mut held = self.held.lock();
        held.memory.get(hash).cloned().map(HashPairs::Memory)
    }

    /// Reads an outboard from disk. Drops an outboard that is incomplete or cannot be read, except
    /// after a shortage of resources.
    fn read(&self, hash: &ContentHash, size_bytes: u64) -> io::Result<Option<HashPairs>> {
        if self.held.lock().disk.get(hash).is_none() {
            return Ok(None);
        }
        match read_pairs(&self.path(hash), outboard_bytes(size_bytes)) {
            Ok(Some(pairs)) => return Ok(Some(pairs)),
            Err(error) if is_want(&error) => return Err(error),
            Ok(None) | Err(_) => self.forget(hash),
        }
        Ok(None)
    }

    /// Writes an outboard. It gets its name only when it is complete.
    fn write(&self, pairs: &[u8], path: &Path) -> io::Result<()> {
        let part = self.parts.path(&self.dir);
        let written = create_anew(&part, PRIVATE_MODE)
            .and_then(|mut file| file.write_all(pairs))
            .and_then(|()| std::fs::rename(&part, path));
        if written.is_err() {
            let _ = std::fs::remove_file(part);
        }
        written
    }

    fn note_on_disk(&self, hash: ContentHash, bytes: u64) {
        let mut held = self.held.lock();
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

    fn note_in_memory(&self, hash: ContentHash, pairs: HashPairs) -> HashPairs {
        let HashPairs::Memory(in_memory) = &pairs else {
            return pairs;
        };
        let mut held = self.held.lock();
        held.memory_bytes += in_memory.len() as u64;
        if let Some((_, replaced)) = held.memory.push(hash, in_memory.clone()) {
            held.memory_bytes -= replaced.len() as u64;
        }
        while held.memory_bytes > MEMORY_BUDGET_BYTES {
            let Some((_, oldest)) = held.memory.pop_lru() else {
                break;
            };
            held.memory_bytes -= oldest.len() as u64;
        }
        drop(held);
        pairs
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        Path::new(&self.dir).join(hash.to_string())
    }
}

/// Opens a stored outboard, or returns `None` if its length is not `bytes`. An outboard over
/// [`IN_MEMORY_MAX_BYTES`] is not loaded into memory.
fn read_pairs(path: &Path, bytes: u64) -> io::Result<Option<HashPairs>> {
    if bytes <= IN_MEMORY_MAX_BYTES {
        // one byte more shows a file that is too long
        let mut pairs = vec![0; bytes as usize + 1];
        let length = read_full_at(&open_own(path)?, &mut pairs, 0)?;
        pairs.truncate(length);
        let is_whole = length as u64 == bytes;
        return Ok(is_whole.then(|| HashPairs::Memory(pairs.into())));
    }
    let file = open_own(path)?;
    let is_whole = file.metadata()?.len() == bytes;
    Ok(is_whole.then(|| HashPairs::Disk(Arc::new(file))))
}

/// Reads a file from `offset` on without moving the shared file position.
struct Sequential<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = FileExt::read_at(self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::part::grain_of;
    use super::*;
    use p2pfs_types::digest::{OnDisk, Outboard, ReadAt};

    struct OutboardSample {
        _dir: tempfile::TempDir,
        file: File,
        outboard: Outboard,
    }

    fn sample(seed: u8, size: usize) -> OutboardSample {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8 ^ seed).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let file = File::open(dir.path().join("f")).unwrap();
        OutboardSample {
            _dir: dir,
            file,
            outboard: Outboard::compute(&bytes[..], size as u64, grain_of(size as u64)).unwrap(),
        }
    }

    fn load(outboards: &Outboards, sample: &OutboardSample) -> Result<HashPairs, ShareError> {
        outboards.load(
            sample.outboard.hash,
            sample.outboard.size_bytes,
            &sample.file,
            None,
        )
    }

    fn store(outboards: &Outboards, sample: &OutboardSample) {
        let Outboard {
            hash,
            size_bytes,
            ref pairs,
        } = sample.outboard;
        outboards.store(hash, size_bytes, &PairStore::Memory(pairs[..].into()));
    }

    fn bytes_of(pairs: &HashPairs, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        pairs.read_exact_at(0, &mut bytes).unwrap();
        bytes
    }

    fn assert_loads(outboards: &Outboards, sample: &OutboardSample) {
        let pairs = load(outboards, sample).unwrap();
        let wanted = &sample.outboard.pairs;
        assert!(bytes_of(&pairs, wanted.len()) == *wanted);
    }

    const LARGE: usize = SMALL_FILE_MAX_BYTES as usize + 100_000;

    #[test]
    fn an_outboard_on_disk_survives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let sample = sample(1, LARGE);
        store(
            &Outboards::open(dir.path().join("o"), 1 << 20).unwrap(),
            &sample,
        );
        let outboards = Outboards::open(dir.path().join("o"), 1 << 20).unwrap();
        assert_eq!(outboards.disk_bytes(), sample.outboard.pairs.len() as u64);
        assert_loads(&outboards, &sample);
    }

    #[test]
    fn the_budget_is_respected_and_the_least_recently_used_is_dropped_first() {
        let dir = tempfile::tempdir().unwrap();
        let samples = [sample(1, LARGE), sample(2, LARGE), sample(3, LARGE)];
        let each = samples[0].outboard.pairs.len() as u64;
        let outboards = Outboards::open(dir.path().to_owned(), 2 * each + 10).unwrap();
        store(&outboards, &samples[0]);
        store(&outboards, &samples[1]);
        load(&outboards, &samples[0]).unwrap();
        store(&outboards, &samples[2]);
        assert_eq!(outboards.disk_bytes(), 2 * each);
        assert!(
            !dir.path()
                .join(samples[1].outboard.hash.to_string())
                .exists()
        );
        assert_loads(&outboards, &samples[1]);
    }

    #[test]
    fn a_missing_outboard_is_rebuilt_only_from_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let outboards = Outboards::open(dir.path().to_owned(), 0).unwrap();
        let (small, large) = (sample(1, 200_000), sample(2, LARGE));
        for sample in [&small, &large] {
            assert_loads(&outboards, sample);
        }
        let other = ContentHash::of(b"other");
        let wrong = outboards.load(other, 200_000, &small.file, None);
        assert!(matches!(wrong, Err(ShareError::Gone)));
        let short = outboards.load(other, 300_000, &small.file, None);
        assert!(matches!(short, Err(ShareError::Gone)));
    }

    #[test]
    fn a_truncated_outboard_and_a_left_over_part_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let sample = sample(1, LARGE);
        std::fs::write(dir.path().join("part-7"), b"x").unwrap();
        std::fs::write(dir.path().join(sample.outboard.hash.to_string()), b"cut").unwrap();
        let outboards = Outboards::open(dir.path().to_owned(), 1 << 20).unwrap();
        assert!(!dir.path().join("part-7").exists());
        assert_loads(&outboards, &sample);
    }

    #[test]
    fn the_outboard_of_a_huge_file_is_never_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("sparse")).unwrap();
        let size_bytes = (1 << 30) + (128 << 10);
        file.set_len(size_bytes).unwrap();
        let file = File::open(dir.path().join("sparse")).unwrap();
        let budget_bytes = outboard_bytes(size_bytes);
        let outboards = Outboards::open(dir.path().join("o"), budget_bytes).unwrap();
        let (hash, made) = outboards
            .make(
                &mut Sequential {
                    file: &file,
                    offset: 0,
                },
                size_bytes,
            )
            .unwrap();
        assert_eq!(outboards.disk_bytes(), budget_bytes);
        let loaded = outboards.load(hash, size_bytes, &file, None).unwrap();
        for pairs in [&made, &loaded] {
            assert!(matches!(pairs, HashPairs::Disk(_)));
            let proof = p2pfs_types::digest::encode_from(
                grain_of(size_bytes),
                hash,
                size_bytes,
                p2pfs_types::extent::ByteRange::at(777 << 20, 5000),
                OnDisk(&file),
                pairs,
            );
            assert!(proof.is_ok());
        }
        assert_eq!(outboards.held.lock().memory_bytes, 0);
    }
}
