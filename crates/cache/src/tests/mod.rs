//! Guarantees of the cache, one test for each.

mod behaviour;
mod crash;
mod damage;
mod directory;
mod large;
mod model;
mod order;
mod reservations;
mod room;
mod syncing;
mod threads;
mod unreadable;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::CachedBytes;
use super::core::Tuning;
use super::disk::Disk;
use super::faults::Faults;
use super::map::Boot;
use super::{Cache, CacheConfig, CacheError, CacheEvent, CacheFile, ReadOutcome, Room, Stored};
use super::{CacheUsage, Cleared};
use p2pfs_types::digest::{self, ContentHash, Outboard, Verified};
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};

/// A file of another node, with the content that the cache should hold.
pub(super) struct Source {
    pub(super) data: Vec<u8>,
    pub(super) outboard: Outboard,
}

impl Source {
    pub(super) fn new(seed: u64, size: usize) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let data: Vec<u8> = (0..size).map(|_| byte()).collect();
        let outboard = Outboard::of(&data);
        Self { data, outboard }
    }

    pub(super) fn hash(&self) -> ContentHash {
        self.outboard.hash
    }

    pub(super) fn size(&self) -> u64 {
        self.data.len() as u64
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size())
    }

    /// Returns a range as an honest peer would send it.
    pub(super) fn verified(&self, range: ByteRange) -> Verified {
        let (hash, size) = (self.hash(), self.size());
        let proof =
            digest::encode(hash, size, range, &self.data[..], &self.outboard.pairs[..]).unwrap();
        digest::decode(hash, size, range, proof.into()).unwrap()
    }

    pub(super) fn store(&self, file: &CacheFile, range: ByteRange) -> Stored {
        file.store(&self.verified(range)).unwrap()
    }

    /// Reads page by page and compares every byte with the true content. Returns the number of
    /// bytes read.
    pub(super) fn check_all(&self, file: &CacheFile) -> u64 {
        let mut good = 0;
        for start in (0..self.size()).step_by(PAGE_BYTES as usize) {
            let mut page = [0; PAGE_BYTES as usize];
            if let ReadOutcome::Ready(length) = file.read_at(start, &mut page).unwrap() {
                let truth = &self.data[start as usize..][..length];
                assert!(
                    page[..length] == *truth,
                    "wrong bytes at {start} of {}",
                    self.hash()
                );
                good += length as u64;
            }
        }
        good
    }
}

/// A cache directory that can be opened repeatedly.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) budget_bytes: u64,
    pub(super) floor_bytes: u64,
    pub(super) boot: &'static str,
}

impl Place {
    pub(super) fn new(budget_bytes: u64) -> Self {
        // In memory if possible, because the tests check the order of calls.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir())
        } else {
            tempfile::tempdir()
        };
        Self {
            dir: dir.unwrap(),
            budget_bytes,
            floor_bytes: 0,
            boot: "first",
        }
    }

    pub(super) fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub(super) fn try_open(
        &self,
        faults: Option<Arc<Faults>>,
    ) -> Result<(Cache, Receiver<CacheEvent>), CacheError> {
        self.open_on(Disk { faults }, false)
    }

    /// Opens the cache with or without the background thread.
    pub(super) fn open_on(
        &self,
        disk: Disk,
        background: bool,
    ) -> Result<(Cache, Receiver<CacheEvent>), CacheError> {
        let config = CacheConfig {
            dir: self.cache_dir(),
            budget_bytes: self.budget_bytes,
            floor_bytes: self.floor_bytes,
        };
        let boot = Some(Boot::named(self.boot.as_bytes()));
        let tuning = Tuning {
            background,
            flush_bytes: 96 << 10,
            boot,
        };
        Cache::open_with(config, tuning, disk)
    }

    pub(super) fn open(&self) -> (Cache, Receiver<CacheEvent>) {
        self.try_open(None).unwrap()
    }

    /// Returns the disk space that the cached files really take, in bytes.
    pub(super) fn taken_bytes(&self) -> u64 {
        let shards = std::fs::read_dir(self.cache_dir()).unwrap().flatten();
        let files = shards
            .filter(|entry| entry.path().is_dir())
            .flat_map(|shard| std::fs::read_dir(shard.path()).unwrap().flatten());
        files
            .map(|file| file.metadata().unwrap().blocks() * 512)
            .sum()
    }
}

/// Cuts a file into pieces of one length; the last piece may be shorter.
pub(super) fn cut(size_bytes: u64, length_bytes: u64) -> Vec<ByteRange> {
    let starts = (0..size_bytes).step_by(length_bytes as usize);
    let whole = ByteRange::new(0, size_bytes);
    starts
        .map(|start| ByteRange::at(start, length_bytes).intersection(&whole))
        .collect()
}

/// Pins or unpins a file.
pub(super) fn pin(cache: &Cache, hash: ContentHash, pinned: bool) -> Result<(), CacheError> {
    if pinned {
        cache.pin_all(&[(hash, Box::default())])
    } else {
        cache.unpin_all(&[hash])
    }
}

/// Begins or opens the cached copy of a source.
pub(super) fn open_file(cache: &Cache, source: &Source) -> CacheFile {
    cache.file(source.hash(), source.size()).unwrap()
}

/// Stores a whole source and closes it.
pub(super) fn fill(cache: &Cache, source: &Source) -> Stored {
    source.store(&open_file(cache, source), source.whole())
}
