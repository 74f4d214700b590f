//! The cache behind its handles: opening the directory, making room, pins, and what is asked of
//! all files together.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::budget::charge_bytes;
use super::context::Context;
use super::disk::Disk;
use super::file::Shared;
use super::index::{Entry, Index, Presence, Verdict, Victim};
use super::layout::{self, FoundFile, Layout, Start, Survey};
use super::map::Boot;
use super::pins::Pins;
use super::{
    Cache, CacheConfig, CacheError, CacheEvent, CacheUsage, CachedFile, Cleared, EVENTS_MAX,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{HeldLock, Whereabouts, is_full};

/// What tests set otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Whether a thread writes maps by time and syncs.
    pub(super) background: bool,
    /// After how many stored bytes of one file its map is written.
    pub(super) flush_bytes: u64,
    /// The boot to believe to be in.
    pub(super) boot: Option<Boot>,
}

impl Default for Tuning {
    fn default() -> Self {
        // 32 MiB: what a kill can lose of one fast stream, at one map write in 16 ms at 2 GB/s.
        Self {
            background: true,
            flush_bytes: 32 << 20,
            boot: None,
        }
    }
}

/// See the module. Lives as long as any handle.
pub(super) struct Core {
    pub(super) context: Context,
    pub(super) index: Mutex<Index<Handle>>,
    /// Signalled when a hash is no longer busy, or a file is no longer open.
    pub(super) settled: Condvar,
    /// Held while pins change: whether a failed change left it open what is on disk.
    pins_unclear: Mutex<bool>,
    problems: Vec<String>,
    lock: HeldLock,
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

impl Core {
    pub(super) fn open(
        config: CacheConfig,
        tuning: Tuning,
        disk: Disk,
    ) -> Result<(Arc<Self>, Receiver<CacheEvent>), CacheError> {
        let layout = Layout { dir: config.dir };
        let boot = tuning.boot.unwrap_or_else(layout::this_boot);
        let claim = layout.claim(&disk)?;
        let (pins, damage) = Pins::open(&layout, &disk)?;
        let stopped_at = layout.stopped_at();
        disk.remove(&layout.clean())
            .map_err(|error| CacheError::io("remove", layout.clean(), error))?;
        let mut survey = layout.survey(&disk, Start { boot, stopped_at })?;
        survey.problems.extend(damage);
        let (events, receiver) = sync_channel(EVENTS_MAX);
        let core = Arc::new(Self {
            context: Context::new(layout, disk, boot, tuning.flush_bytes, events),
            index: Mutex::new(Index::new(config.budget_bytes, config.floor_bytes, pins)),
            settled: Condvar::new(),
            pins_unclear: Mutex::new(false),
            problems: std::mem::take(&mut survey.problems),
            lock: claim,
        });
        core.adopt(survey, stopped_at.is_some());
        core.shrink();
        Ok((core, receiver))
    }

    /// Takes in what was found on disk, in the order of last use.
    fn adopt(&self, mut survey: Survey, was_clean: bool) {
        for hash in survey.broken {
            self.context.tell(CacheEvent::Evicted {
                hash,
                was_complete: false,
            });
        }
        survey.files.sort_by_key(|found| found.last_use);
        let mut index = self.index.lock();
        for FoundFile {
            hash,
            summary,
            last_use,
        } in survey.files
        {
            let unchecked = !was_clean;
            index.recharge(0, charge_bytes(summary.size_bytes, summary.counts));
            index.insert(hash, Entry::closed(summary, last_use, unchecked));
        }
    }

    /// Charges bytes, evicting others for them; `false` where there is no room.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        loop {
            let mut index = self.index.lock();
            let verdict = index.reserve(bytes, Instant::now());
            if matches!(verdict, Verdict::Wait) {
                self.settled.wait(&mut index);
            }
            drop(index);
            match verdict {
                Verdict::Granted => return true,
                Verdict::Refused => return false,
                Verdict::Wait => {}
                Verdict::Measure => {
                    let Ok(free_bytes) = self.context.disk.free_bytes(&self.context.layout.dir)
                    else {
                        return false;
                    };
                    self.index.lock().measured(free_bytes, Instant::now());
                }
                Verdict::Evict(victim) => {
                    if self.evict(victim).is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Removes a victim's files; says how many bytes that gave, or `None` where the disk refuses.
    fn evict(&self, victim: Victim<Handle>) -> Option<u64> {
        let paths = self.context.layout.paths(&victim.hash);
        let removed = self
            .context
            .noted(layout::remove(&self.context.disk, &paths));
        let (hash, was_complete) = (victim.hash, victim.was_complete());
        let given_bytes = removed.is_ok().then(|| victim.charge_bytes());
        if given_bytes.is_some() {
            self.index.lock().removed(&victim, Instant::now());
            self.context
                .tell(CacheEvent::Evicted { hash, was_complete });
        } else {
            self.index.lock().spared(victim);
        }
        self.settled.notify_all();
        given_bytes
    }

    /// Evicts so many bytes, or what there is; `false` where nothing may go.
    pub(super) fn evict_bytes(&self, bytes: u64) -> bool {
        let mut given_bytes = 0;
        while given_bytes < bytes {
            let victim = self.index.lock().take_victim();
            let Some(more_bytes) = victim.and_then(|victim| self.evict(victim)) else {
                break;
            };
            given_bytes += more_bytes;
        }
        given_bytes > 0
    }

    /// Tries whether the disk takes writes again, of which it was told that it does not: that
    /// nobody stores anything says nothing, and that one small thing was stored not enough.
    pub(super) fn look_at_disk(&self) {
        let tried = self.context.disk.try_out(&self.context.layout.trial());
        let is_well = match tried {
            // who stores something makes room
            Err(error) if is_full(&error) => self.index.lock().evictable_bytes > 0,
            tried => tried.is_ok(),
        };
        if is_well {
            self.context.tell_of_recovery();
        }
    }

    /// Evicts until the budget is kept or nothing more may go.
    pub(super) fn shrink(&self) {
        loop {
            let mut index = self.index.lock();
            if index.charged_bytes <= index.budget_bytes {
                return;
            }
            let Some(victim) = index.take_victim() else {
                return;
            };
            drop(index);
            if self.evict(victim).is_none() {
                return;
            }
        }
    }

    pub(super) fn cached_bytes(&self, hash: &ContentHash) -> u64 {
        self.index.lock().get(hash).map_or(0, Entry::cached_bytes)
    }

    /// A file was checked from end to end.
    pub(super) fn checked(&self, hash: &ContentHash) {
        self.index.lock().checked(hash);
    }

    fn change_pins(
        &self,
        hashes: &[ContentHash],
        change: impl FnOnce(&Pins) -> Result<Pins, CacheError>,
    ) -> Result<(), CacheError> {
        let mut unclear = self.pins_unclear.lock();
        let changed = change(self.index.lock().pins())?;
        if changed == *self.index.lock().pins() && !*unclear {
            return Ok(());
        }
        *unclear = true;
        match changed.save(&self.context.layout, &self.context.disk) {
            Err(error) if error.is_full() => self.save_making_room(changed, hashes)?,
            saved => {
                saved?;
                self.index.lock().set_pins(changed, hashes);
            }
        }
        *unclear = false;
        self.shrink();
        Ok(())
    }

    /// Puts pins on a disk without room: what may go makes some, so that who lets go of files to
    /// have room is not refused for want of it. Where that fails all stays pinned as it was.
    fn save_making_room(&self, changed: Pins, hashes: &[ContentHash]) -> Result<(), CacheError> {
        let known = self.index.lock().pins().clone();
        self.index.lock().set_pins(changed.clone(), hashes);
        loop {
            let has_room = self.evict_bytes(1);
            match changed.save(&self.context.layout, &self.context.disk) {
                Err(error) if error.is_full() && has_room => {}
                Err(error) => {
                    self.index.lock().set_pins(known, hashes);
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Says that all maps are written, for a start that finds no file changed since.
    pub(super) fn note_clean_stop(&self) {
        if !self.context.disk_refuses() {
            let (disk, clean) = (&self.context.disk, self.context.layout.clean());
            // anew, so that it has the time of now
            let _ = disk.remove(&clean).and_then(|()| disk.create(&clean));
        }
    }

    /// Writes the maps of all open files.
    pub(super) fn flush_all(&self) {
        for shared in self.open_files() {
            // What fails stays to be written, and was counted.
            let _ = shared.flush(&self.context);
        }
    }

    fn open_files(&self) -> Vec<Arc<Shared>> {
        let index = self.index.lock();
        let open = index.open().filter_map(|entry| match &entry.presence {
            Presence::Open(_, shared) => Some(shared.clone()),
            Presence::Closed => None,
        });
        open.collect()
    }
}

/// What is asked of all files together, and of one without opening it.
impl Cache {
    /// How long the file is, where the cache has any of it. From memory.
    pub fn size_bytes(&self, hash: &ContentHash) -> Option<u64> {
        let index = self.core().index.lock();
        index.get(hash).map(|entry| entry.summary.size_bytes)
    }

    /// Whether all of the file is cached. From memory.
    pub fn is_complete(&self, hash: &ContentHash) -> bool {
        let index = self.core().index.lock();
        index.get(hash).is_some_and(Entry::is_complete)
    }

    /// All complete files with their sizes.
    pub fn complete(&self) -> Vec<(ContentHash, u64)> {
        self.select(Entry::is_complete)
    }

    /// Files that were not checked since an unclean stop, and files in doubt since a power cut,
    /// with their sizes.
    pub fn unverified(&self) -> Vec<(ContentHash, u64)> {
        self.select(|entry| entry.unchecked || entry.summary.in_doubt)
    }

    fn select(&self, wanted: impl Fn(&Entry<Handle>) -> bool) -> Vec<(ContentHash, u64)> {
        let index = self.core().index.lock();
        let chosen = index.iter().filter(|(_, entry)| wanted(entry));
        chosen
            .map(|(hash, entry)| (*hash, entry.summary.size_bytes))
            .collect()
    }

    /// What the cache takes. From memory.
    pub fn usage(&self) -> CacheUsage {
        let core = self.core();
        let index = core.index.lock();
        let tally = index.tally();
        CacheUsage {
            budget_bytes: index.budget_bytes,
            used_bytes: index.charged_bytes,
            evictable_bytes: index.evictable_bytes,
            pinned_bytes: tally.pinned_bytes,
            files: index.iter().len(),
            complete_files: tally.complete_files,
            events_lost: core.context.events_lost(),
            disk_errors: core.context.disk_errors(),
        }
    }

    /// All files, least recently used first. May wait for the disk.
    pub fn list(&self) -> Vec<CachedFile> {
        let index = self.core().index_at_rest();
        let now = std::time::SystemTime::now();
        let line = |(hash, entry): (&ContentHash, &Entry<Handle>)| CachedFile {
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

    /// Removes all files that are neither open nor pinned. Waits for the disk.
    pub fn clear(&self) -> Cleared {
        let core = self.core();
        let mut cleared = Cleared::default();
        loop {
            let Some(victim) = core.index_at_rest().take_victim() else {
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

    /// Sets the budget, and evicts down to it as far as open and pinned files allow.
    pub fn resize(&self, budget_bytes: u64) -> CacheUsage {
        self.core().index.lock().budget_bytes = budget_bytes;
        self.core().shrink();
        self.usage()
    }

    /// Keeps a file from eviction, or lets it go. The hash need not be cached yet. On disk when
    /// this returns.
    ///
    /// # Errors
    /// [`CacheError::TooManyPins`]: the pins are as before. [`CacheError::Io`]: they are as before
    /// until a restart, which may find the change made; call again.
    pub fn pin(&self, hash: ContentHash, pinned: bool) -> Result<(), CacheError> {
        if pinned {
            self.pin_all(&[(hash, Box::default())])
        } else {
            self.unpin_all(&[hash])
        }
    }

    /// Keeps many at once, with one write. Each may have a label, which is what its user calls it
    /// and means nothing here; an empty one leaves the label that it had.
    ///
    /// # Errors
    /// As [`Cache::pin`].
    pub fn pin_all(&self, pins: &[(ContentHash, Box<[u8]>)]) -> Result<(), CacheError> {
        let hashes: Vec<ContentHash> = pins.iter().map(|(hash, _)| *hash).collect();
        self.core().change_pins(&hashes, |known| known.with(pins))
    }

    /// Lets many go at once, with one write.
    ///
    /// # Errors
    /// [`CacheError::Io`], as [`Cache::pin`].
    pub fn unpin_all(&self, hashes: &[ContentHash]) -> Result<(), CacheError> {
        let core = self.core();
        core.change_pins(hashes, |known| Ok(known.without(hashes)))
    }

    /// All pinned hashes, cached or not, in order.
    pub fn pins(&self) -> Vec<ContentHash> {
        let index = self.core().index.lock();
        index.pins().iter().map(|(hash, _)| hash).collect()
    }

    /// The same with their labels, empty where they have none.
    pub fn labelled_pins(&self) -> Vec<(ContentHash, Box<[u8]>)> {
        let index = self.core().index.lock();
        let pins = index.pins().iter();
        pins.map(|(hash, label)| (hash, label.into())).collect()
    }

    /// The label of one that is pinned.
    pub fn pin_label(&self, hash: &ContentHash) -> Option<Box<[u8]>> {
        let index = self.core().index.lock();
        index.pins().label(hash).map(Box::from)
    }

    /// Whether something of it is here, or about to come.
    pub fn has_begun(&self, hash: &ContentHash) -> bool {
        self.core().index.lock().get(hash).is_some()
    }

    /// Whether the hash is pinned.
    pub fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.core().index.lock().pins().contains(hash)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.core().context.layout.dir
    }

    /// Whether that is where it was when it was opened.
    pub fn whereabouts(&self) -> Whereabouts {
        self.core().lock.whereabouts()
    }

    /// What was strange in the directory when it was opened: at most [`super::PROBLEMS_MAX`]
    /// lines, each naming a path.
    pub fn problems(&self) -> Vec<String> {
        self.core().problems.clone()
    }
}

impl Drop for Core {
    /// The last handle is gone, so every map is written: the stop was clean, unless the disk
    /// refuses to say so.
    fn drop(&mut self) {
        self.note_clean_stop();
    }
}
