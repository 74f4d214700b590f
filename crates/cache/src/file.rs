//! State of one open file: its descriptors, its pages and its map.
//!
//! This module does not know other files, the budget, or the holders of handles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::context::CacheContext;
use super::disk::may_be_readable;
use super::layout::{self, Paths};
use super::map::{self, LoadedMap};
use super::pages::{Counts, PageMap};
use super::summary::FileSummary;
use p2pfs_types::digest::{ContentHash, Grain, InMemory, OnDisk, ReadAt};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::{leave_descriptors, open_own, open_own_writable};

/// Hash pairs by their offset in the outboard.
pub(super) type Pairs = BTreeMap<u64, [u8; 64]>;

/// An open file. Locks are taken in the order `writing`, `room` (in `charge`), `map`, `state`.
pub(super) struct OpenFileState {
    pub(super) hash: ContentHash,
    pub(super) size_bytes: u64,
    pub(super) paths: Paths,
    /// Empty until the first bytes are stored.
    files: OnceLock<Files>,
    complete: AtomicBool,
    cached_bytes: AtomicU64,
    pub(super) backing: OnceLock<Arc<File>>,
    pub(super) charge: FileCharge,
    pub(super) map: Mutex<MapState>,
    pub(super) state: Mutex<PageState>,
    /// Serializes the creation of the files and the writes to the data file. Taken before the other
    /// locks.
    pub(super) writing: Mutex<()>,
    /// Whether a user requested the file since it was opened. Maintenance does not count as use.
    pub(super) is_used: AtomicBool,
}

/// The space that the index counts for a file.
pub(super) struct FileCharge {
    /// Upper bound of the pages that stores in flight will add. Locked during every change of the
    /// charge.
    pub(super) room: Mutex<Counts>,
    charged_bytes: AtomicU64,
}

/// Open descriptors of a file.
pub(super) struct Files {
    pub(super) data: File,
    /// `None` for a file of one chunk.
    pub(super) outboard: Option<File>,
}

impl Files {
    /// Opens the existing files. If the disk refuses write access, opens them for reading only and
    /// records the failure. A complete file is then fully usable, and an incomplete one behaves as
    /// on a full disk.
    pub(super) fn open(context: &CacheContext, paths: &Paths, size_bytes: u64) -> io::Result<Self> {
        match Self::open_with(open_own_writable, paths, size_bytes) {
            Err(error) if may_be_readable(&error) => {
                let files = Self::open_with(open_own, paths, size_bytes)?;
                let _ = context.record_result::<()>(Err(error));
                Ok(files)
            }
            opened => opened,
        }
    }

    fn open_with(
        open: impl Fn(&Path) -> io::Result<File>,
        paths: &Paths,
        size_bytes: u64,
    ) -> io::Result<Self> {
        let data = open(&paths.data)?;
        leave_descriptors(&data)?;
        let outboard = match Grain::CHUNK.outboard_bytes(size_bytes) {
            0 => None,
            _ => Some(open(&paths.outboard)?),
        };
        Ok(Self { data, outboard })
    }

    /// Syncs the written data and outboard to the disk.
    pub(super) fn sync(&self, context: &CacheContext) -> io::Result<()> {
        let files = [Some(&self.data), self.outboard.as_ref()];
        let mut files = files.into_iter().flatten();
        files.try_for_each(|file| context.disk.sync(file))
    }

    /// Creates the files of a content whose first write is `first`. A failure leaves nothing, or
    /// leftovers that the survey of the next start removes.
    pub(super) fn make(
        context: &CacheContext,
        paths: &Paths,
        size_bytes: u64,
        first: ByteRange,
    ) -> io::Result<Self> {
        let made = Self::try_make(context, paths, size_bytes, first);
        if made.is_err() {
            let _ = layout::remove(&context.disk, paths);
        }
        made
    }

    fn try_make(
        context: &CacheContext,
        paths: &Paths,
        size_bytes: u64,
        first: ByteRange,
    ) -> io::Result<Self> {
        if let Some(shard) = paths.data.parent() {
            context.disk.make_dir(shard)?;
        }
        // Leftover files of an earlier run are not valid data.
        layout::remove(&context.disk, paths)?;
        let data = context.disk.create(&paths.data)?;
        leave_descriptors(&data)?;
        if first.len() < size_bytes {
            context.disk.set_len(&data, size_bytes)?;
        }
        let outboard = match Grain::CHUNK.outboard_bytes(size_bytes) {
            0 => None,
            length_bytes => {
                let outboard = context.disk.create(&paths.outboard)?;
                context.disk.set_len(&outboard, length_bytes)?;
                Some(outboard)
            }
        };
        Ok(Self { data, outboard })
    }
}

/// State of the map on disk. Its lock is held while the map is written.
pub(super) struct MapState {
    /// Whether the map is an attribute of the data file.
    pub(super) in_attribute: bool,
    pub(super) records: u64,
    pub(super) on_disk: bool,
    /// Whether records can no longer be appended, because one may be torn or is from another boot,
    /// or because pages were removed.
    pub(super) must_rewrite: bool,
    /// Whether the file was closed. The map on disk then belongs to the next opener, and is not
    /// written from here any longer.
    pub(super) retired: bool,
}

impl MapState {
    /// Describes a map that was read from disk.
    pub(super) fn of(loaded: &LoadedMap) -> Self {
        Self {
            in_attribute: loaded.in_attribute,
            records: loaded.records,
            on_disk: true,
            must_rewrite: !loaded.sound,
            retired: false,
        }
    }
}

/// State of the pages. The three page maps are disjoint.
#[derive(Default)]
pub(super) struct PageState {
    /// Pages that are written and verified.
    pub(super) present: PageMap,
    /// Pages on disk that must be verified before use, because they are from another boot or
    /// another program may have changed them.
    pub(super) doubt: PageMap,
    /// Absent pages that may take disk space: they failed verification, or their write failed.
    pub(super) stale: PageMap,
    /// Hash pairs to be written with the next map.
    pub(super) pending: Pairs,
    /// Hash pairs that are being written.
    pub(super) flushing: Arc<Pairs>,
    /// Changed blocks of the map.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) unflushed_bytes: u64,
    /// Whether bytes were stored since the last sync.
    pub(super) unsynced: bool,
}

impl PageState {
    /// Counts all pages that take disk space.
    pub(super) fn counts(&self) -> Counts {
        self.present.counts() + self.doubt.counts() + self.stale.counts()
    }
}

impl OpenFileState {
    pub(super) fn new(
        hash: ContentHash,
        paths: Paths,
        files: Option<Files>,
        loaded: LoadedMap,
        map: MapState,
        charged_bytes: u64,
    ) -> Self {
        let size_bytes = loaded.size_bytes;
        let state = PageState {
            present: loaded.present,
            doubt: loaded.doubt,
            // Small files are never synced.
            unsynced: loaded.unsynced && !loaded.in_attribute,
            ..PageState::default()
        };
        let shared = Self {
            hash,
            size_bytes,
            paths,
            files: files.map_or_else(OnceLock::new, OnceLock::from),
            complete: AtomicBool::new(false),
            cached_bytes: AtomicU64::new(0),
            backing: OnceLock::new(),
            charge: FileCharge {
                room: Mutex::default(),
                charged_bytes: AtomicU64::new(charged_bytes),
            },
            map: Mutex::new(map),
            state: Mutex::new(state),
            writing: Mutex::default(),
            is_used: AtomicBool::new(false),
        };
        shared.publish(&shared.state.lock());
        shared
    }

    /// Returns the open files and creates them if needed. Must be called by one thread at a time.
    pub(super) fn files_for(&self, context: &CacheContext, first: ByteRange) -> io::Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = Files::make(context, &self.paths, self.size_bytes, first)?;
        Ok(self.files.get_or_init(|| files))
    }

    /// Returns the open files, if they exist.
    pub(super) fn files(&self) -> Option<&Files> {
        self.files.get()
    }

    /// Returns the data file.
    pub(super) fn data(&self) -> io::Result<&File> {
        let files = self.files.get();
        files.map(|files| &files.data).ok_or_else(not_there)
    }

    /// Returns the outboard file.
    pub(super) fn outboard(&self) -> io::Result<&File> {
        let files = self.files.get();
        let outboard = files.and_then(|files| files.outboard.as_ref());
        outboard.ok_or_else(not_there)
    }

    /// Queues a complete or closed file for syncing. Small files are skipped: a check after a power
    /// cut costs less than a sync.
    pub(super) fn sync_later(&self, context: &CacheContext) {
        if !map::is_small(self.size_bytes) {
            context.write_behind.sync_later(self.hash);
        }
    }

    /// Publishes the state to readers that take no lock. Returns whether the file became complete.
    pub(super) fn publish(&self, state: &PageState) -> bool {
        let bytes = state.present.byte_count(self.size_bytes);
        self.cached_bytes.store(bytes, Ordering::Relaxed);
        let complete = bytes == self.size_bytes;
        !self.complete.swap(complete, Ordering::AcqRel) && complete
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Returns the bytes that the file takes of the budget.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.charge.charged_bytes.load(Ordering::Relaxed)
    }

    /// Sets the bytes that the file takes of the budget. The caller holds `room`.
    pub(super) fn set_charged_bytes(&self, bytes: u64) {
        self.charge.charged_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn summary(&self) -> FileSummary {
        let state = self.state.lock();
        FileSummary {
            size_bytes: self.size_bytes,
            cached_bytes: self.cached_bytes(),
            counts: state.counts(),
            in_doubt: !state.doubt.is_empty(),
        }
    }

    /// Returns a hash pair that is not in the outboard yet.
    pub(super) fn unwritten_pair(&self, offset: u64) -> Option<[u8; 64]> {
        let state = self.state.lock();
        let pending = state.pending.get(&offset);
        pending.or_else(|| state.flushing.get(&offset)).copied()
    }
}

/// The outboard including the pairs that are not written yet.
pub(super) struct PairSource<'a> {
    pub(super) shared: &'a OpenFileState,
    /// Whether to return only pairs that need no disk access.
    pub(super) in_memory: bool,
}

impl ReadAt for PairSource<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.shared.unwritten_pair(offset) {
            Some(pair) => pair.as_slice().read_at(0, buffer),
            None if self.in_memory => InMemory(self.shared.outboard()?).read_at(offset, buffer),
            None => OnDisk(self.shared.outboard()?).read_at(offset, buffer),
        }
    }
}

fn not_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}
