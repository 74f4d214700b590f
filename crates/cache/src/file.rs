//! One cached file in use: what is open of it, what is known of its pages and its map.
//!
//! It knows nothing of other files, of the budget, or of who holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::context::Context;
use super::direct::Direct;
use super::disk::{may_be_readable, open_writable};
use super::layout::{self, Paths, Summary};
use super::map::{self, LoadedMap};
use super::pages::{Counts, PageMap};
use super::recent::RecentOr;
use p2pfs_types::digest::{ContentHash, Grain, InMemory, OnDisk, ReadAt};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::leave_descriptors;

/// Hash pairs by their offset in the outboard.
pub(super) type Pairs = BTreeMap<u64, [u8; 64]>;

/// An open file. Locks are taken in the order `room`, `map`, `state`.
pub(super) struct Shared {
    pub(super) hash: ContentHash,
    pub(super) size_bytes: u64,
    pub(super) paths: Paths,
    /// Made with the first bytes.
    files: OnceLock<Files>,
    complete: AtomicBool,
    cached_bytes: AtomicU64,
    pub(super) backing: OnceLock<Arc<File>>,
    /// What stores that are under way will add at most. Held by whoever changes the charge.
    pub(super) room: Mutex<Counts>,
    charged_bytes: AtomicU64,
    pub(super) map: Mutex<MapState>,
    pub(super) state: Mutex<State>,
    /// Whose turn it is to write where the disk has given no space yet. Taken before the others.
    pub(super) writing: Mutex<Direct>,
    /// Whether some of it went to the disk past the kernel's pages.
    pub(super) is_past_pages: AtomicBool,
    /// Whether somebody wanted its bytes since it was opened, and not only to look after it.
    pub(super) is_used: AtomicBool,
}

/// What is open of it.
pub(super) struct Files {
    pub(super) data: File,
    /// Nothing for a file of one chunk.
    pub(super) outboard: Option<File>,
}

impl Files {
    /// Opens those that are there: for reading alone, which is noted, where the disk refuses more.
    /// What is complete is none the worse for that, and the rest is as on a full disk.
    pub(super) fn open(context: &Context, paths: &Paths, size_bytes: u64) -> io::Result<Self> {
        match Self::open_with(open_writable, paths, size_bytes) {
            Err(error) if may_be_readable(&error) => {
                let files = Self::open_with(|path| File::open(path), paths, size_bytes)?;
                let _ = context.noted::<()>(Err(error));
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

    /// Brings what was written to the disk.
    pub(super) fn sync(&self, context: &Context) -> io::Result<()> {
        let files = [Some(&self.data), self.outboard.as_ref()];
        let mut files = files.into_iter().flatten();
        files.try_for_each(|file| context.disk.sync(file))
    }

    /// Makes the files of a content of which `first` will be written first. What fails leaves
    /// nothing, or what the survey of the next start removes.
    pub(super) fn make(
        context: &Context,
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
        context: &Context,
        paths: &Paths,
        size_bytes: u64,
        first: ByteRange,
    ) -> io::Result<Self> {
        if let Some(shard) = paths.data.parent() {
            context.disk.make_dir(shard)?;
        }
        // What an earlier life left here is no data of ours.
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

/// What is known of a file's map on disk. Its lock is held while the map is written.
pub(super) struct MapState {
    /// Whether it is an attribute of the data file.
    pub(super) in_attribute: bool,
    pub(super) records: u64,
    pub(super) on_disk: bool,
    /// Whether nothing may be appended: a record was torn, or pages were taken out.
    pub(super) must_rewrite: bool,
    /// Whether the file was closed: its map belongs to whoever opens it next.
    pub(super) retired: bool,
}

impl MapState {
    /// Of a map that was read.
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

/// What is known of the file's pages. The four page maps are disjoint.
#[derive(Default)]
pub(super) struct State {
    /// Written and proven.
    pub(super) present: PageMap,
    /// On disk since another boot, to be proven before use.
    pub(super) doubt: PageMap,
    /// On disk, worth nothing: failed its proof, or was half written.
    pub(super) stale: PageMap,
    /// Given by the disk, and not written yet.
    pub(super) preallocated: PageMap,
    /// Hash pairs to be written with the next map.
    pub(super) pending: Pairs,
    /// Hash pairs that are being written.
    pub(super) flushing: Arc<Pairs>,
    /// Blocks of the map that have changed.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) unflushed_bytes: u64,
    /// Whether something was stored that was not synced since.
    pub(super) unsynced: bool,
}

impl State {
    /// All that takes disk space.
    pub(super) fn counts(&self) -> Counts {
        let unreadable = self.stale.counts() + self.preallocated.counts();
        self.present.counts() + self.doubt.counts() + unreadable
    }
}

impl Shared {
    pub(super) fn new(
        hash: ContentHash,
        paths: Paths,
        files: Option<Files>,
        loaded: LoadedMap,
        map: MapState,
        charged_bytes: u64,
    ) -> Self {
        let size_bytes = loaded.size_bytes;
        let state = State {
            present: loaded.present,
            doubt: loaded.doubt,
            // a small one never is
            unsynced: loaded.unsynced && !loaded.in_attribute,
            ..State::default()
        };
        let shared = Self {
            hash,
            size_bytes,
            paths,
            files: files.map_or_else(OnceLock::new, OnceLock::from),
            complete: AtomicBool::new(false),
            cached_bytes: AtomicU64::new(0),
            backing: OnceLock::new(),
            room: Mutex::default(),
            charged_bytes: AtomicU64::new(charged_bytes),
            map: Mutex::new(map),
            state: Mutex::new(state),
            writing: Mutex::default(),
            is_past_pages: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
        };
        shared.publish(&shared.state.lock());
        shared
    }

    /// The open files, made now where there are none yet. To be called by one thread at a time.
    pub(super) fn files_for(&self, context: &Context, first: ByteRange) -> io::Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = Files::make(context, &self.paths, self.size_bytes, first)?;
        Ok(self.files.get_or_init(|| files))
    }

    /// The open files, where there are any.
    pub(super) fn files(&self) -> Option<&Files> {
        self.files.get()
    }

    /// The bytes.
    pub(super) fn data(&self) -> io::Result<&File> {
        let files = self.files.get();
        files.map(|files| &files.data).ok_or_else(not_there)
    }

    /// What was stored lately from memory, and the rest from elsewhere.
    pub(super) fn recent_or<'a, R>(&self, context: &'a Context, rest: R) -> RecentOr<'a, R> {
        let is_past_pages = self.is_past_pages.load(Ordering::Relaxed);
        RecentOr {
            recent: is_past_pages.then_some(&context.recent),
            hash: self.hash,
            rest,
        }
    }

    /// The hash pairs.
    pub(super) fn outboard(&self) -> io::Result<&File> {
        let files = self.files.get();
        let outboard = files.and_then(|files| files.outboard.as_ref());
        outboard.ok_or_else(not_there)
    }

    /// Brings a file that is complete or closed to the disk when there is time. Small ones are
    /// not worth it: to check one after a power cut costs less than to sync it.
    pub(super) fn sync_later(&self, context: &Context) {
        if !map::is_small(self.size_bytes) {
            context.write_behind.sync_later(self.hash);
        }
    }

    /// Makes what changed in the state visible to those who do not lock. Says whether the file
    /// became complete by it.
    pub(super) fn publish(&self, state: &State) -> bool {
        let bytes = state.present.byte_count(self.size_bytes);
        self.cached_bytes.store(bytes, Ordering::Relaxed);
        let complete = bytes == self.size_bytes;
        !self.complete.swap(complete, Ordering::AcqRel) && complete
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// What the file takes of the budget.
    pub(super) fn charged_bytes(&self) -> u64 {
        self.charged_bytes.load(Ordering::Relaxed)
    }

    /// Says what the file takes; `room` is held meanwhile.
    pub(super) fn set_charged_bytes(&self, bytes: u64) {
        self.charged_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn summary(&self) -> Summary {
        let state = self.state.lock();
        Summary {
            size_bytes: self.size_bytes,
            cached_bytes: self.cached_bytes(),
            counts: state.counts(),
            in_doubt: !state.doubt.is_empty(),
        }
    }

    /// A hash pair that is not in the outboard yet.
    pub(super) fn unwritten_pair(&self, offset: u64) -> Option<[u8; 64]> {
        let state = self.state.lock();
        let pending = state.pending.get(&offset);
        pending.or_else(|| state.flushing.get(&offset)).copied()
    }
}

/// The outboard as it will be once all pending pairs are written.
pub(super) struct PairSource<'a> {
    pub(super) shared: &'a Shared,
    /// Whether it gives only what takes no waiting.
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
