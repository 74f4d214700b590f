//! One cached file in use: what is present, reading it, and proving it to others.
//!
//! Reading a complete file takes no lock. Bytes on disk are never taken away while a handle lives,
//! so a range that was present once can be read without looking again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::budget::Counts;
use super::core::{Core, lock};
use super::flush::MapState;
use super::layout::{Paths, Summary};
use super::map::{self, LoadedMap};
use super::pages::{PageMap, bytes_of, pages_around};
use super::{CacheError, CacheEvent};
use crate::digest::{self, ContentHash, DigestError, InMemory, ReadAt};
use crate::extent::{ByteRange, CHUNK_BYTES, ExtentSet};

/// Hash pairs by their offset in the outboard.
pub(super) type Pairs = BTreeMap<u64, [u8; 64]>;

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes were read: all that were asked for, but for the file's end.
    Ready(usize),
    /// This is the first gap, in whole pages; nothing was read.
    Missing(ByteRange),
}

/// What became of verified bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Their whole pages are in the cache.
    Kept,
    /// There is no room, or the disk refuses: the cache is as before; use the bytes uncached.
    Full,
}

/// A file of the cache that is held open. Clones share it; while one lives it is not evicted.
#[derive(Clone)]
pub struct CacheFile {
    pub(super) handle: Arc<Handle>,
}

/// The one hold on an open file; its end closes the file.
pub(super) struct Handle {
    pub(super) core: Arc<Core>,
    pub(super) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close(&self.shared);
    }
}

/// An open file. Locks are taken in the order `room`, `map`, `state`.
pub(super) struct Shared {
    pub(super) hash: ContentHash,
    pub(super) size_bytes: u64,
    pub(super) paths: Paths,
    /// Made with the first bytes.
    files: OnceLock<Files>,
    complete: AtomicBool,
    cached_bytes: AtomicU64,
    backing: OnceLock<Arc<File>>,
    pub(super) room: Mutex<Room>,
    pub(super) map: Mutex<MapState>,
    pub(super) state: Mutex<State>,
    /// Whose turn it is to write to the data file. Taken with no other lock.
    pub(super) writing: Mutex<()>,
}

/// What is open of it.
pub(super) struct Files {
    pub(super) data: File,
    /// Nothing for a file of one chunk.
    pub(super) outboard: Option<File>,
}

/// What the file takes of the budget.
#[derive(Default)]
pub(super) struct Room {
    /// What stores that are under way will add at most.
    pub(super) in_flight: Counts,
    pub(super) charged_bytes: u64,
}

/// What is known of the file's pages. The three page maps are disjoint.
#[derive(Default)]
pub(super) struct State {
    /// Written and proven.
    pub(super) present: PageMap,
    /// On disk since another boot, to be proven before use.
    pub(super) doubt: PageMap,
    /// On disk, worth nothing: failed its proof, or was half written.
    pub(super) stale: PageMap,
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
        self.present.counts() + self.doubt.counts() + self.stale.counts()
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
            room: Mutex::new(Room {
                in_flight: Counts::default(),
                charged_bytes,
            }),
            map: Mutex::new(map),
            state: Mutex::new(state),
            writing: Mutex::new(()),
        };
        shared.publish(&lock(&shared.state));
        shared
    }

    /// The open files, made now where there are none yet. To be called by one thread at a time.
    pub(super) fn files_for(&self, core: &Core, first: ByteRange) -> io::Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = core.make_files(&self.paths, self.size_bytes, first)?;
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

    /// The hash pairs.
    pub(super) fn outboard(&self) -> io::Result<&File> {
        let files = self.files.get();
        let outboard = files.and_then(|files| files.outboard.as_ref());
        outboard.ok_or_else(not_there)
    }

    /// Brings a file that is complete or closed to the disk when there is time. Small ones are
    /// not worth it: to check one after a power cut costs less than to sync it.
    pub(super) fn sync_later(&self, core: &Core) {
        if !map::is_small(self.size_bytes) {
            core.chores.sync_later(self.hash);
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

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn summary(&self) -> Summary {
        let state = lock(&self.state);
        Summary {
            size_bytes: self.size_bytes,
            cached_bytes: self.cached_bytes(),
            counts: state.counts(),
            in_doubt: !state.doubt.is_empty(),
        }
    }

    fn first_missing(&self, core: &Core, range: ByteRange) -> Option<Range<u64>> {
        if self.is_complete() {
            return None;
        }
        let pages = pages_around(range, self.size_bytes);
        let state = lock(&self.state);
        let missing = state.present.first_missing(pages.clone())?;
        if !state.doubt.touches(pages.clone()) {
            return Some(missing);
        }
        drop(state);
        self.settle(core, range);
        lock(&self.state).present.first_missing(pages)
    }

    /// A hash pair that is not in the outboard yet.
    fn unwritten_pair(&self, offset: u64) -> Option<[u8; 64]> {
        let state = lock(&self.state);
        let pending = state.pending.get(&offset);
        pending.or_else(|| state.flushing.get(&offset)).copied()
    }

    /// Proves a range that is all present. What does not prove is dropped.
    pub(super) fn prove(&self, core: &Core, range: ByteRange) -> Result<Vec<u8>, CacheError> {
        let pairs = PairSource(self);
        let data = self.data().map_err(DigestError::Io)?;
        let proof = digest::encode(self.hash, self.size_bytes, range, data, pairs);
        match proof {
            Ok(proof) => Ok(proof),
            Err(DigestError::LocalMismatch) => {
                self.drop_unproven(core, range);
                Err(CacheError::Damaged { hash: self.hash })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The outboard as it will be once all pending pairs are written.
pub(super) struct PairSource<'a>(pub(super) &'a Shared);

impl ReadAt for PairSource<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.unwritten_pair(offset) {
            Some(pair) => Ok(copy_pair(&pair, buffer)),
            None => FileExt::read_at(self.0.outboard()?, buffer, offset),
        }
    }
}

/// The same as far as it takes no waiting.
struct PairsInMemory<'a>(&'a Shared);

impl ReadAt for PairsInMemory<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.unwritten_pair(offset) {
            Some(pair) => Ok(copy_pair(&pair, buffer)),
            None => InMemory(self.0.outboard()?).read_at(offset, buffer),
        }
    }
}

fn copy_pair(pair: &[u8; 64], buffer: &mut [u8]) -> usize {
    let length = buffer.len().min(pair.len());
    buffer[..length].copy_from_slice(&pair[..length]);
    length
}

impl CacheFile {
    /// The content.
    pub fn hash(&self) -> ContentHash {
        self.shared().hash
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.shared().size_bytes
    }

    /// Fills `buffer` from `offset` on, up to the file's end, if all of that is present; else
    /// says what is missing first. A range that the disk cannot read becomes missing.
    ///
    /// # Errors
    /// None at present: a disk that fails to read makes the range missing.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadOutcome, CacheError> {
        let shared = self.shared();
        let whole = ByteRange::new(0, shared.size_bytes);
        let range = ByteRange::at(offset, buffer.len() as u64).intersection(&whole);
        if range.is_empty() {
            return Ok(ReadOutcome::Ready(0));
        }
        if let Some(gap) = shared.first_missing(&self.handle.core, range) {
            return Ok(ReadOutcome::Missing(bytes_of(&gap, shared.size_bytes)));
        }
        let length = range.len() as usize;
        let data = shared.data();
        match data.and_then(|data| FileExt::read_exact_at(data, &mut buffer[..length], offset)) {
            Ok(()) => Ok(ReadOutcome::Ready(length)),
            Err(_) => {
                let lost = range.align_out(CHUNK_BYTES, shared.size_bytes);
                shared.drop_range(&self.handle.core, lost);
                Ok(ReadOutcome::Missing(lost))
            }
        }
    }

    /// What can be read now.
    pub fn present(&self) -> ExtentSet {
        lock(&self.shared().state)
            .present
            .extents(self.size_bytes())
    }

    /// How many bytes can be read now, without a lock.
    pub fn cached_bytes(&self) -> u64 {
        self.shared().cached_bytes()
    }

    /// What can be offered to others: the present chunks that are whole. Each came with its proof,
    /// so [`CacheFile::encode`] can prove any part of them.
    pub fn offered(&self) -> ExtentSet {
        let size_bytes = self.size_bytes();
        let whole = |run: ByteRange| run.align_in(CHUNK_BYTES, size_bytes);
        self.present().iter().map(whole).collect()
    }

    /// What of `range` is missing, in whole pages cut at the file's size.
    pub fn missing_in(&self, range: ByteRange) -> ExtentSet {
        let shared = self.shared();
        if shared.is_complete() {
            return ExtentSet::new();
        }
        let pages = pages_around(range, shared.size_bytes);
        let mut missing = ExtentSet::of(bytes_of(&pages, shared.size_bytes));
        for run in lock(&shared.state).present.runs(pages) {
            missing.remove(bytes_of(&run, shared.size_bytes));
        }
        missing
    }

    /// Encodes `range` with its proof for another node.
    ///
    /// # Errors
    /// [`CacheError::NotCached`] where it is not within [`CacheFile::offered`];
    /// [`CacheError::Damaged`] where our disk has it wrong: it is missing then, and
    /// [`CacheEvent::Dropped`] was sent; [`CacheError::Digest`] for a range outside the file or a
    /// disk that cannot be read.
    pub fn encode(&self, range: ByteRange) -> Result<Vec<u8>, CacheError> {
        let shared = self.shared();
        let chunks = range.align_out(CHUNK_BYTES, shared.size_bytes);
        if shared.first_missing(&self.handle.core, chunks).is_some() {
            return Err(CacheError::NotCached { range });
        }
        shared.prove(&self.handle.core, range)
    }

    /// The same where that takes no waiting, since the bytes are in memory, and nothing is wrong or
    /// in doubt; else nothing.
    pub fn encode_at_once(&self, range: ByteRange) -> Option<Vec<u8>> {
        let shared = self.shared();
        let pages = pages_around(
            range.align_out(CHUNK_BYTES, shared.size_bytes),
            shared.size_bytes,
        );
        if !shared.is_complete() && !lock(&shared.state).present.contains(pages) {
            return None;
        }
        let (data, pairs) = (InMemory(shared.data().ok()?), PairsInMemory(shared));
        digest::encode(shared.hash, shared.size_bytes, range, data, pairs).ok()
    }

    /// Whether all of it is present.
    pub fn is_complete(&self) -> bool {
        self.shared().is_complete()
    }

    /// The file itself, opened read-only, once it is complete: for the kernel to read without us.
    /// It stays as it is while a handle lives.
    pub fn backing(&self) -> Option<Arc<File>> {
        let shared = self.shared();
        if !shared.is_complete() {
            return None;
        }
        if let Some(file) = shared.backing.get() {
            return Some(file.clone());
        }
        let file = Arc::new(File::open(&shared.paths.data).ok()?);
        Some(shared.backing.get_or_init(|| file).clone())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

fn not_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Shared {
    /// Takes a range of whole chunks as missing, on disk first of all. Its bytes stay on disk,
    /// where they cost budget, until they are stored anew.
    pub(super) fn drop_range(&self, core: &Core, range: ByteRange) {
        let mut map = lock(&self.map);
        let pages = pages_around(range, self.size_bytes);
        let mut state = lock(&self.state);
        let lost: Vec<_> = state.present.runs(pages.clone()).collect();
        if lost.is_empty() && !state.doubt.touches(pages.clone()) {
            return;
        }
        let doubtful: Vec<_> = state.doubt.runs(pages.clone()).collect();
        for run in lost.iter().chain(&doubtful).cloned() {
            state.stale.insert(run);
        }
        state.present.remove(pages.clone());
        state.doubt.remove(pages);
        let was_complete = self.is_complete();
        self.publish(&state);
        drop(state);
        self.rewrite(core, &mut map);
        drop(map);
        if !lost.is_empty() {
            core.tell(CacheEvent::Dropped {
                hash: self.hash,
                range,
                was_complete,
            });
        }
    }
}
