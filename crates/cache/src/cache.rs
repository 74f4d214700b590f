//! The cache of a node: its interface for other crates.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use super::budget::cost_bytes;
use super::core::{CacheCore, OpenFileHandle, Tuning};
use super::disk::Disk;
use super::flusher::Flusher;
use super::index::IndexEntry;
use super::verify::{VerifyProgress, verify_files};
use super::{
    CacheConfig, CacheError, CacheEvent, CacheFile, CacheUsage, CachedFile, Cleared,
    DamageListener, Reservation,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::Whereabouts;

/// Maximum rate of the check of complete files that goes on while a node runs, in bytes per second.
/// It is 1 % of what a hard disk reads, and passes 84 GiB a day.
const CHECK_BYTES_PER_S: f64 = 1_048_576.0;
/// Pause before each round of that check. Without it a small cache would be read all the time.
pub(super) const CHECK_PAUSE: Duration = Duration::from_hours(1);

/// Cache of one node. Clones share the cache. All calls are blocking and may be made from any
/// thread.
#[derive(Clone)]
pub struct Cache {
    owner: Arc<Owner>,
}

/// Owner of the background thread, which ends with the last [`Cache`].
struct Owner {
    core: Arc<CacheCore>,
    _flusher: Option<Flusher>,
}

impl Cache {
    /// Opens or creates the cache directory. Reads the maps, removes partial work of a crash, and
    /// evicts unpinned files until the budget is kept.
    ///
    /// # Errors
    /// [`CacheError::Locked`], [`CacheError::NewerVersion`], [`CacheError::NotACache`], and
    /// [`CacheError::Io`] if the system refuses a step. No usable file is deleted in these cases.
    pub fn open(config: CacheConfig) -> Result<(Self, Receiver<CacheEvent>), CacheError> {
        Self::open_with(config, Tuning::default(), Disk::default())
    }

    pub(super) fn open_with(
        config: CacheConfig,
        tuning: Tuning,
        disk: Disk,
    ) -> Result<(Self, Receiver<CacheEvent>), CacheError> {
        let background = tuning.background;
        let (core, events) = CacheCore::open(config, tuning, disk)?;
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

    /// Returns how many bytes of the file are cached. Reads memory only, never the disk.
    pub fn cached_bytes(&self, hash: &ContentHash) -> u64 {
        self.core().index.cached_bytes(hash)
    }

    /// Writes the maps of all open files, as closing them does. Does not sync the disk.
    pub fn flush(&self) {
        self.core().flush_all();
    }

    /// Writes all maps and marks the stop as clean, unless the disk refuses changes. Call it at the
    /// end of a process that exits with open handles, such as those of threads that wait for the
    /// kernel. A file that is stored to after this call is in doubt at the next start.
    pub fn flush_at_end(&self) {
        self.flush();
        self.core().record_clean_stop();
    }

    pub(super) fn core(&self) -> &Arc<CacheCore> {
        &self.owner.core
    }

    /// Checks every complete chunk of every file, and drops damaged chunks. Sends
    /// [`CacheEvent::Dropped`] for each one that could be read before. The check is not a use of a
    /// file, so the eviction order stays. Calls `progress` about once per MiB; a break ends the
    /// verification.
    pub fn verify(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        let files: Vec<_> = self.list().into_iter().map(|line| line.hash).collect();
        let total = files.len();
        let done = verify_files(self.core(), files, progress);
        if done.files == total && done.dropped_bytes == 0 && done.unopened_files == 0 {
            self.core().context.damage.found.lock().at = None;
        }
        done
    }

    /// Checks only the files of [`Cache::unverified`]. The daemon runs this in the background.
    pub fn verify_unverified(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        let files = self.unverified().into_iter().map(|(hash, _)| hash);
        verify_files(self.core(), files.collect(), progress)
    }

    /// Checks all complete files again and again, at up to 1 MiB/s. Calls `wait` with the time to
    /// wait: an hour before each round, and shorter pauses in it. A break ends the
    /// checks. A round without damage leaves [`CacheUsage::damaged_at`] as it is.
    pub fn verify_continually(&self, mut wait: impl FnMut(Duration) -> ControlFlow<()>) {
        while wait(CHECK_PAUSE).is_continue() {
            let files = self.complete().into_iter().map(|(hash, _)| hash);
            let mut paid_bytes = 0;
            verify_files(self.core(), files.collect(), |done| {
                let bytes = done.bytes - paid_bytes;
                paid_bytes = done.bytes;
                wait(Duration::from_secs_f64(bytes as f64 / CHECK_BYTES_PER_S))
            });
        }
    }

    /// Sets a function that drops the copies that readers have of damaged bytes. It also receives
    /// the damage that was found while there was no such function. [`Cache::verify`] waits for it
    /// before it reports the damage.
    pub fn add_damage_listener(&self, listener: DamageListener) {
        self.core().context.damage.add_listener(listener);
    }

    /// Creates an empty reservation.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            core: self.core().clone(),
            charged_bytes: 0,
        }
    }

    /// Returns the size of the file, if the cache has an entry for it: cached bytes, or an open
    /// file. Reads memory only.
    pub fn size_bytes(&self, hash: &ContentHash) -> Option<u64> {
        let index = self.core().index.lock();
        index.get(hash).map(|entry| entry.summary.size_bytes)
    }

    /// Returns whether the whole file is cached. Reads memory only.
    pub fn is_complete(&self, hash: &ContentHash) -> bool {
        let index = self.core().index.lock();
        index.get(hash).is_some_and(IndexEntry::is_complete)
    }

    /// Returns all complete files with their sizes.
    pub fn complete(&self) -> Vec<(ContentHash, u64)> {
        let index = self.core().index.lock();
        index.sizes(IndexEntry::is_complete)
    }

    /// Returns the files, with their sizes, that were not checked since an unclean stop or that
    /// have pages in doubt.
    pub fn unverified(&self) -> Vec<(ContentHash, u64)> {
        let index = self.core().index.lock();
        index.sizes(|entry| entry.unchecked || entry.summary.in_doubt)
    }

    /// Returns how many events were lost because their queue was full. Unlike [`Cache::usage`], its
    /// cost does not depend on the number of open files.
    pub fn events_lost(&self) -> u64 {
        self.core().context.events_lost()
    }

    /// Returns the current usage. Reads memory only.
    pub fn usage(&self) -> CacheUsage {
        let core = self.core();
        let index = core.index.lock();
        let tally = index.tally();
        let damage = core.context.damage.found.lock();
        CacheUsage {
            budget_bytes: index.space.budget_bytes,
            used_bytes: index.space.charged_bytes,
            evictable_bytes: index.space.evictable_bytes,
            pinned_bytes: tally.pinned_bytes,
            pinned_cost_bytes: tally.pinned_cost_bytes,
            files: index.iter().len(),
            complete_files: tally.complete_files,
            disk_errors: core.context.disk_errors(),
            damaged_bytes: damage.bytes,
            damaged_at: damage.at,
        }
    }

    /// Returns the budget bytes that a content takes once it is complete, less those that it takes
    /// now if it cannot be evicted.
    pub fn bytes_to_come(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        let index = self.core().index.lock();
        let kept = index.get(hash).filter(|_| !index.is_evictable(hash));
        let kept_bytes = kept.map_or(0, IndexEntry::charge_bytes);
        cost_bytes(size_bytes).saturating_sub(kept_bytes)
    }

    /// Lists all files, least recently used first. May wait for the disk.
    pub fn list(&self) -> Vec<CachedFile> {
        let index = self.core().index.lock_idle();
        let now = SystemTime::now();
        let line = |(hash, entry): (&ContentHash, &IndexEntry<OpenFileHandle>)| CachedFile {
            hash: *hash,
            size_bytes: entry.summary.size_bytes,
            cached_bytes: entry.cached_bytes(),
            complete: entry.is_complete(),
            pinned: index.pins().contains(hash),
            open: entry.is_open(),
            last_use: if entry.is_open() { now } else { entry.last_use },
        };
        let mut lines: Vec<_> = index.iter().map(line).collect();
        lines.sort_by_key(|line| (line.last_use, line.hash));
        lines
    }

    /// Removes all files that are neither open nor pinned. Stops if the disk refuses a removal.
    /// Waits for the disk.
    pub fn clear(&self) -> Cleared {
        let core = self.core();
        let mut cleared = Cleared::default();
        loop {
            let Some(victim) = core.index.lock_idle().take_victim() else {
                break;
            };
            let Some(given_bytes) = core.evict(victim) else {
                break;
            };
            cleared.removed_files += 1;
            cleared.removed_bytes += given_bytes;
        }
        let index = core.index.lock();
        cleared.open_files = index.open().count();
        let left = index.iter().filter(|(_, entry)| !entry.is_open());
        cleared.pinned_files = left.filter(|(hash, _)| index.pins().contains(hash)).count();
        cleared
    }

    /// Sets the budget. Evicts files until it is kept, except open and pinned files.
    pub fn resize(&self, budget_bytes: u64) -> CacheUsage {
        self.core().index.lock().space.budget_bytes = budget_bytes;
        self.core().shrink();
        self.usage()
    }

    /// Pins several files with one write. The hashes need not be cached yet. Each pin may have a
    /// label, which is opaque to the cache. An empty label leaves the existing one. The change is
    /// on disk when this returns.
    ///
    /// # Errors
    /// [`CacheError::TooManyPins`]: the pins are unchanged. [`CacheError::Io`]: the pins are
    /// unchanged until a restart, which may find the change applied; call again.
    pub fn pin_all(&self, pins: &[(ContentHash, Box<[u8]>)]) -> Result<(), CacheError> {
        let hashes: Vec<ContentHash> = pins.iter().map(|(hash, _)| *hash).collect();
        self.core().change_pins(&hashes, |known| known.with(pins))
    }

    /// Unpins several files with one write.
    ///
    /// # Errors
    /// [`CacheError::Io`], as for [`Cache::pin_all`].
    pub fn unpin_all(&self, hashes: &[ContentHash]) -> Result<(), CacheError> {
        let core = self.core();
        core.change_pins(hashes, |known| Ok(known.without(hashes)))
    }

    /// Returns all pinned hashes, cached or not, in order.
    pub fn pins(&self) -> Vec<ContentHash> {
        let index = self.core().index.lock();
        index.pins().iter().map(|(hash, _)| hash).collect()
    }

    /// Returns all pinned hashes with their labels, in order. A label may be empty.
    pub fn labelled_pins(&self) -> Vec<(ContentHash, Box<[u8]>)> {
        let index = self.core().index.lock();
        let pins = index.pins().iter();
        pins.map(|(hash, label)| (hash, label.into())).collect()
    }

    /// Returns the label of a pinned hash.
    pub fn pin_label(&self, hash: &ContentHash) -> Option<Box<[u8]>> {
        let index = self.core().index.lock();
        index.pins().label(hash).map(Box::from)
    }

    /// Returns whether the hash is pinned.
    pub fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.core().index.lock().pins().contains(hash)
    }

    /// Returns the cache directory.
    pub fn dir(&self) -> &Path {
        &self.core().context.layout.dir
    }

    /// Returns whether the directory is still where it was when it was opened.
    pub fn whereabouts(&self) -> Whereabouts {
        self.core().lock.whereabouts()
    }

    /// Returns the problems found in the directory when it was opened: damage of the list of pins,
    /// and at most [`super::PROBLEMS_MAX`] unknown or unreadable files. Each line names a path or a
    /// hash.
    pub fn problems(&self) -> Vec<String> {
        self.core().problems.clone()
    }
}

/// Opening of the cached files: the half of [`Cache`] that gives bytes. A crate that does not depend
/// on this one cannot name the trait, so the [`Cache`] that it is handed is its administration only.
pub trait CachedBytes {
    /// Opens a cached file, or begins an empty one. The file is not evicted while a clone of the
    /// handle lives.
    ///
    /// # Errors
    /// [`CacheError::SizeConflict`], [`CacheError::ImpossibleSize`], [`CacheError::Io`]. The caller
    /// continues uncached.
    fn file(&self, hash: ContentHash, size_bytes: u64) -> Result<CacheFile, CacheError>;

    /// Opens a file if the cache has an entry for it ([`Cache::size_bytes`]).
    ///
    /// # Errors
    /// [`CacheError::Io`].
    fn existing(&self, hash: &ContentHash) -> Result<Option<CacheFile>, CacheError>;
}

impl CachedBytes for Cache {
    fn file(&self, hash: ContentHash, size_bytes: u64) -> Result<CacheFile, CacheError> {
        self.core().file(hash, size_bytes)
    }

    fn existing(&self, hash: &ContentHash) -> Result<Option<CacheFile>, CacheError> {
        self.core().existing(hash)
    }
}
