//! Local disk cache of verified file contents of other nodes.
//!
//! The crate owns the cache directory. For each content hash the directory has a sparse data file,
//! its outboard and a map of the 4 KiB pages that are present. The crate enforces the byte budget
//! and the free-space floor. It implements eviction, pins and the order of use. It never talks to a
//! peer and never decides what to fetch. It stores verified bytes only: the caller of
//! [`CacheFile::store`] guarantees that the bytes come from `digest::decode` for the same hash and
//! size.
//!
//! # Files on disk
//!
//! | path | content |
//! |---|---|
//! | `ab/HEX.data` | file bytes, sparse, full length from the start |
//! | `ab/HEX.outboard` | hash pairs in pre-order, sparse; absent for files of up to 64 KiB |
//! | `ab/HEX.map` | present pages; each record has a checksum bound to the hash. For files of up to 64 KiB the map is the attribute `user.p2pfs.map` of the data file, if the file system has attributes |
//! | `pins`, `version`, `lock`, `clean` | pinned hashes; format version; lock of the running process; mark of a clean stop |
//! | `pins.aside-N` | copy of a damaged pins file, for inspection |
//! | `trial` | temporary file, written after a refused write to test whether the disk accepts writes again |
//! | `unverified/` | reserved for bytes of foreign files, which have no hash and never mix with verified bytes |
//!
//! Other files in the directory are left alone and reported by [`Cache::problems`].
//!
//! # Crash safety
//!
//! Data is written before its hash pairs, and the pairs before the map that claims the data.
//! Eviction removes the map first. A killed process can therefore lose work but never invent bytes.
//! A power cut can also lose writes that were not synced, so each map record names the boot in
//! which it was written, or is marked as durable. Other records of another boot are *in doubt*:
//! their pages count against the budget, but they are read only after their chunk was checked
//! against the hash. The check happens at the first read or in [`Cache::verify`]. Incomplete chunks
//! cannot be checked and are dropped. A background thread syncs completed and closed files and then
//! marks their records as durable. Doubt is therefore rare, and a store does not sync. A sync does
//! not keep its file open, so the file may be evicted meanwhile. Files of up to 64 KiB are not
//! synced: they are one chunk, and a check costs less than a sync. The scheme relies on the file
//! system keeping the order of renames and unlinks, as ext4, xfs and btrfs do.
//!
//! The files of a content are created with its first bytes, and a small content has one file. File
//! creation is the largest cost of copying many small files (measured on ext4: 90 to 130 µs for
//! each file, 20 µs for an attribute).
//!
//! # Errors
//!
//! See [`CacheError`]. A store on a full or failing disk does not fail: it returns
//! [`Stored::Full`], and the caller goes on without the cache. [`CacheEvent::DiskTrouble`] reports
//! the start of the condition once, and [`CacheEvent::DiskRecovered`] its end.

mod budget;
mod cache;
mod cached_file;
mod content_files;
mod context;
mod core;
mod damage;
mod disk;
mod error;
mod file;
mod file_pages;
mod flush;
mod flusher;
mod index;
mod layout;
mod map;
mod opening;
mod pages;
mod pins;
mod reservation;
mod room;
mod shared_index;
mod store;
mod summary;
mod syncing;
mod verify;
mod write_behind;

#[cfg(any(test, feature = "test-support"))]
pub mod faults;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::SystemTime;

pub use budget::cost_bytes;
pub use cache::{Cache, CachedBytes};
pub use cached_file::{CacheFile, ReadOutcome, Stored};
pub use damage::DamageListener;
pub use error::CacheError;
pub use reservation::Reservation;
pub use room::{Lack, Room};
pub use verify::VerifyProgress;

use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// Maximum size of a cached file: the limit of ext4 with 4 KiB blocks (ext4 documentation).
pub const FILE_MAX_BYTES: u64 = 16 << 40;
/// Maximum number of pinned hashes. Each change rewrites the whole list.
pub const PINS_MAX: usize = 1 << 20;
/// Maximum number of unread events. Further events are dropped and counted; the reader then calls
/// [`Cache::complete`] for the current state.
pub const EVENTS_MAX: usize = 4096;
/// Maximum number of unknown or unreadable files that [`Cache::problems`] names.
pub const PROBLEMS_MAX: usize = 64;
/// Name of the subdirectory reserved for unverified bytes of foreign files.
pub const UNVERIFIED_DIR: &str = "unverified";

/// Location and limits of the cache.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Cache directory; created with mode 0700 if it does not exist.
    pub dir: PathBuf,
    /// Maximum disk space of the cached files, in bytes.
    pub budget_bytes: u64,
    /// Free space that the cache leaves on its file system, in bytes.
    pub floor_bytes: u64,
}

/// An event that no caller requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheEvent {
    /// The last missing page of a file was stored, or the file was verified as complete again.
    Completed {
        /// Content hash of the file.
        hash: ContentHash,
        /// Size of the file in bytes.
        size_bytes: u64,
    },
    /// A file was evicted for room, or removed at the start because its map was broken or its data
    /// missing.
    Evicted {
        /// Content hash of the removed file.
        hash: ContentHash,
        /// Whether the file was complete. Peers may have been told so.
        was_complete: bool,
    },
    /// Bytes on the disk were wrong or unreadable, or their map was lost. They are missing now.
    Dropped {
        /// Content hash of the file.
        hash: ContentHash,
        /// Range that is missing now.
        range: ByteRange,
        /// Whether the file was complete before.
        was_complete: bool,
    },
    /// The disk refused a change, such as a write, or a file could not be opened for writing. Until
    /// the condition ends, bytes that the disk refuses are not cached. Sent once per occurrence.
    DiskTrouble {
        /// Problem in words, with a remedy if there is one.
        why: String,
    },
    /// The condition reported by [`CacheEvent::DiskTrouble`] has ended.
    DiskRecovered,
}

/// Current usage and limits of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Budget in bytes.
    pub budget_bytes: u64,
    /// Disk space used or reserved, in bytes: pages, outboards, maps and reservations
    /// ([`Reservation`]). The actual usage is at most this, if the file system can punch holes.
    pub used_bytes: u64,
    /// Part of `used_bytes` that could be evicted now.
    pub evictable_bytes: u64,
    /// Readable bytes of pinned files.
    pub pinned_bytes: u64,
    /// Budget bytes of the pinned files that have an entry, once they are complete.
    pub pinned_cost_bytes: u64,
    /// Number of files that are open or on disk.
    pub files: usize,
    /// Number of complete files among them.
    pub complete_files: usize,
    /// Number of changes, such as writes, that the disk refused since the start, and of failed
    /// measurements of its free space.
    pub disk_errors: u64,
    /// Bytes found wrong or unreadable and dropped, since the start.
    pub damaged_bytes: u64,
    /// Time when damage was last found; `None` once [`Cache::verify`] finds none.
    pub damaged_at: Option<SystemTime>,
}

/// One line of `p2pfs cache ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Content hash.
    pub hash: ContentHash,
    /// Size of the whole file in bytes.
    pub size_bytes: u64,
    /// Bytes of the file that can be read from the cache.
    pub cached_bytes: u64,
    /// Whether the whole file is cached.
    pub complete: bool,
    /// Whether the file is exempt from eviction.
    pub pinned: bool,
    /// Whether a handle to the file exists.
    pub open: bool,
    /// Time of the close after the last use; the current time for an open file.
    pub last_use: SystemTime,
}

/// Result of [`Cache::clear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Number of removed files.
    pub removed_files: usize,
    /// Disk space of the removed files, in bytes.
    pub removed_bytes: u64,
    /// Number of files that remain because they are open.
    pub open_files: usize,
    /// Number of files that remain because they are pinned and not open.
    pub pinned_files: usize,
}
