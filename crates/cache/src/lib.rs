//! The verified bytes of other nodes' files, kept on the local disk.
//!
//! Owns the cache directory: for each content hash a sparse data file, its outboard and a map of
//! the 4 KiB pages that are present; the byte budget and the free-space floor; eviction, pins and
//! the order of use. Never talks to a peer, never decides what to fetch, and never stores a byte
//! that was not verified: [`CacheFile::store`] takes only what `digest::decode` gave out for the
//! same hash and size, which the caller promises.
//!
//! # What is on disk
//!
//! | path | what |
//! |---|---|
//! | `ab/HEX.data` | the bytes, sparse, as long as the file from the start; while it is open with space for what a stream brings next |
//! | `ab/HEX.outboard` | hash pairs in pre-order, sparse; none for a file of up to 64 KiB |
//! | `ab/HEX.map` | which pages are present, each record with a checksum bound to the hash; of a file of up to 64 KiB it is the attribute `user.p2pfs.map` of the data, where the file system has such |
//! | `pins`, `version`, `lock`, `clean` | pinned hashes; the format; who works here; a clean stop |
//! | `pins.aside-1` | pins as they were found damaged, for whoever wants to look what they were |
//! | `trial` | there for a moment, where the disk refused a write: whether it takes one again |
//! | `legacy/` | reserved for bytes of legacy peers, which have no hash and never mix with these |
//!
//! Anything else in the directory is left alone and reported by [`Cache::problems`].
//!
//! # What survives what
//!
//! Data is written before its hash pairs, those before the map that claims the data, and eviction
//! takes the map away first: a killed process can lose work, never invent bytes. A power cut can
//! also lose writes that were never synced, so each map record names the boot it was written in; a
//! record of another boot is *in doubt*: its pages count against the budget but are read only
//! after their chunk was checked against the hash (when it is read, or by
//! [`Cache::verify`]); chunks that are not whole cannot be checked and are dropped. A background
//! thread syncs files that were completed or closed and then marks their records as durable, so
//! doubt is rare and nothing on the hot path waits for the disk; what it syncs is not in use by
//! that and may be evicted. Files of up to 64 KiB are not synced: they are one chunk, and to check
//! it costs less. This relies on the file system keeping the order of renames and unlinks, as
//! ext4, xfs and btrfs do.
//!
//! Nothing of a file is made before its first bytes are written, and a small file is one file: to
//! make files is what copying many small ones costs most (measured on ext4: 90 to 130 µs for each,
//! 20 µs for an attribute).
//!
//! # Errors
//!
//! See [`CacheError`]. A full or failing disk is not an error but [`Stored::Full`]: reads go on
//! uncached, and [`CacheEvent::DiskTrouble`] says so once,
//! [`CacheEvent::DiskRecovered`] when it is over.

mod budget;
mod cached_file;
mod context;
mod core;
mod direct;
mod disk;
mod error;
mod file;
mod flush;
mod flusher;
mod index;
mod layout;
mod map;
mod opening;
mod pages;
mod pins;
mod prealloc;
mod proving;
mod recent;
mod reservation;
mod room;
mod space;
mod store;
mod syncing;
mod verify;
mod warming;
mod write_behind;

#[cfg(any(test, feature = "test-support"))]
pub mod faults;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::SystemTime;

pub use budget::cost_bytes;
pub use cached_file::{CacheFile, ReadOutcome, Stored};
pub use error::CacheError;

pub use reservation::Reservation;
pub use room::{Lack, Room};
pub use verify::VerifyProgress;

use self::core::{Core, Tuning};
use disk::Disk;
use flusher::Flusher;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// The largest file that is cached: what ext4 with 4 KiB blocks can hold (its documentation).
pub const FILE_MAX_BYTES: u64 = 16 << 40;
/// How many hashes can be pinned: their list is rewritten as a whole with each change.
pub const PINS_MAX: usize = 1 << 20;
/// How many events wait for their reader; further ones are dropped and counted, after which the
/// reader takes the state itself ([`Cache::complete`]).
pub const EVENTS_MAX: usize = 4096;
/// How many strange files [`Cache::problems`] names.
pub const PROBLEMS_MAX: usize = 64;
/// The name of the subdirectory that is reserved for unverified bytes of legacy peers.
pub const LEGACY_DIR: &str = "legacy";

/// Where the cache is and how much it may take.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The directory; made (mode 0700) where it does not exist.
    pub dir: PathBuf,
    /// The most that cached files may take, in bytes of disk.
    pub budget_bytes: u64,
    /// How many bytes the cache leaves free on its file system.
    pub floor_bytes: u64,
}

/// What happened in the cache without a caller having asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheEvent {
    /// The last missing page of a file was stored, or it was found whole again.
    Completed { hash: ContentHash, size_bytes: u64 },
    /// A file left the cache for room, or because its map was broken.
    Evicted {
        hash: ContentHash,
        /// Whether it had been complete (others may have been told so).
        was_complete: bool,
    },
    /// Bytes on our disk were found damaged, or the disk refused to write down that they are
    /// there; they are missing now.
    Dropped {
        hash: ContentHash,
        /// What is missing now.
        range: ByteRange,
        was_complete: bool,
    },
    /// The disk refused a write, or no file could be opened for one: nothing more is cached until
    /// that is over. Sent once for each time that it begins.
    DiskTrouble {
        /// What is wrong, in words, and what helps where that is clear.
        why: String,
    },
    /// What was told so is over.
    DiskRecovered,
}

/// What the cache takes and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// The budget in bytes.
    pub budget_bytes: u64,
    /// Bytes of disk taken or promised: pages, outboards and maps, never less than the disk says,
    /// and what is reserved for others ([`Reservation`]).
    pub used_bytes: u64,
    /// Of those, what could be evicted now.
    pub evictable_bytes: u64,
    /// What can be read of pinned files.
    pub pinned_bytes: u64,
    /// Files with at least one page, or open.
    pub files: usize,
    /// Of those, whole ones.
    pub complete_files: usize,
    /// Events that nobody read in time and that were dropped since the start.
    pub events_lost: u64,
    /// Writes that the disk refused since the start.
    pub disk_errors: u64,
}

/// One line of `p2pfs cache ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// How many of them can be read from the cache.
    pub cached_bytes: u64,
    /// Whether all can.
    pub complete: bool,
    /// Whether it is never evicted.
    pub pinned: bool,
    /// Whether someone has it open.
    pub open: bool,
    /// When it was last closed, or now for an open one.
    pub last_use: SystemTime,
}

/// What [`Cache::clear`] did and what it had to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Files removed.
    pub removed_files: usize,
    /// Bytes of disk that they took.
    pub removed_bytes: u64,
    /// Files left because they are open.
    pub open_files: usize,
    /// Files left because they are pinned (and not open).
    pub pinned_files: usize,
}

/// The cache of one node. Clones are the same cache; all calls are blocking and may be made from
/// any thread.
#[derive(Clone)]
pub struct Cache {
    owner: Arc<Owner>,
}

/// Ends the background thread with the last [`Cache`].
struct Owner {
    core: Arc<Core>,
    _flusher: Option<Flusher>,
}

impl Cache {
    /// Opens the directory, or makes it; reads the maps, removes what a crash left half done, and
    /// evicts what is over the budget.
    ///
    /// # Errors
    /// [`CacheError::Locked`], [`CacheError::NewerVersion`], [`CacheError::NotACache`], and
    /// [`CacheError::Io`] where the directory cannot be made or read. Nothing is deleted then.
    pub fn open(config: CacheConfig) -> Result<(Self, Receiver<CacheEvent>), CacheError> {
        Self::open_with(config, Tuning::default(), Disk::default())
    }

    fn open_with(
        config: CacheConfig,
        tuning: Tuning,
        disk: Disk,
    ) -> Result<(Self, Receiver<CacheEvent>), CacheError> {
        let background = tuning.background;
        let (core, events) = Core::open(config, tuning, disk)?;
        let flusher = if background {
            Some(Flusher::start(core.clone())?)
        } else {
            None
        };
        Ok((
            Self {
                owner: Arc::new(Owner {
                    core,
                    _flusher: flusher,
                }),
            },
            events,
        ))
    }

    /// Opens a file of the cache, or begins an empty one. While any clone of the handle lives,
    /// the file is not evicted.
    ///
    /// # Errors
    /// [`CacheError::SizeConflict`], [`CacheError::ImpossibleSize`], [`CacheError::Io`]: the
    /// caller reads on uncached.
    pub fn file(&self, hash: ContentHash, size_bytes: u64) -> Result<CacheFile, CacheError> {
        self.core().file(hash, size_bytes)
    }

    /// Opens a file, where the cache has some of it.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn existing(&self, hash: &ContentHash) -> Result<Option<CacheFile>, CacheError> {
        self.core().existing(hash)
    }

    /// How many bytes of the file are cached. From memory: never touches the disk.
    pub fn cached_bytes(&self, hash: &ContentHash) -> u64 {
        self.core().cached_bytes(hash)
    }

    /// Writes down all that is known to be stored, as closing does. Not synced to the disk.
    pub fn flush(&self) {
        self.core().flush_all();
    }

    /// The same at the end of a process that leaves handles to go with it, as threads that wait for
    /// the kernel have them: the stop is a clean one. What is stored after it is in doubt at the
    /// next start.
    pub fn flush_at_end(&self) {
        self.flush();
        self.core().note_clean_stop();
    }

    fn core(&self) -> &Arc<Core> {
        &self.owner.core
    }
}
