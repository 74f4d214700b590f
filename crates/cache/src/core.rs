//! Cache core behind the handles: opens the directory and its files, makes room, and changes pins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use super::context::CacheContext;
use super::disk::Disk;
use super::file::OpenFileState;
use super::index::{CacheIndex, EvictionVictim, IndexEntry, Presence, ReserveDecision};
use super::layout::{self, FoundFile, Layout, Survey, SurveyStart};
use super::map::Boot;
use super::opening::{ClaimOutcome, ClaimedHash};
use super::pins::Pins;
use super::shared_index::SharedIndex;
use super::{CacheConfig, CacheError, CacheEvent, CacheFile, EVENTS_MAX, FILE_MAX_BYTES};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{HeldLock, is_full};

/// Parameters that tests override.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Whether a background thread writes maps and syncs files.
    pub(super) background: bool,
    /// Bytes stored in one file after which its map is written.
    pub(super) flush_bytes: u64,
    /// Boot to assume; `None` reads it from the kernel.
    pub(super) boot: Option<Boot>,
}

impl Default for Tuning {
    fn default() -> Self {
        // 32 MiB: a kill loses at most this much of one fast stream. At 2 GB/s the map is then
        // written every 16 ms.
        Self {
            background: true,
            flush_bytes: 32 << 20,
            boot: None,
        }
    }
}

/// State shared by all handles; it lives until the last handle is dropped.
pub(super) struct CacheCore {
    pub(super) context: CacheContext,
    pub(super) index: SharedIndex,
    /// Held while pins change. True if a failed change left the content on disk unknown.
    pins_unclear: Mutex<bool>,
    pub(super) problems: Vec<String>,
    pub(super) lock: HeldLock,
}

/// Reference to an open file; dropping the last one closes the file.
pub(super) struct OpenFileHandle {
    pub(super) core: Arc<CacheCore>,
    pub(super) shared: Arc<OpenFileState>,
}

impl Drop for OpenFileHandle {
    fn drop(&mut self) {
        self.core.close(&self.shared);
    }
}

impl CacheCore {
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
        let mut survey = layout.survey(&disk, SurveyStart { boot, stopped_at })?;
        survey.problems.extend(damage);
        let (events, receiver) = sync_channel(EVENTS_MAX);
        let core = Arc::new(Self {
            context: CacheContext::new(layout, disk, boot, tuning.flush_bytes, events),
            index: SharedIndex::new(CacheIndex::new(
                config.budget_bytes,
                config.floor_bytes,
                pins,
            )),
            pins_unclear: Mutex::new(false),
            problems: std::mem::take(&mut survey.problems),
            lock: claim,
        });
        core.adopt(survey, stopped_at.is_some());
        core.shrink();
        Ok((core, receiver))
    }

    /// Adds the files found on disk to the index, in the order of last use.
    fn adopt(&self, mut survey: Survey, was_clean: bool) {
        for hash in survey.broken {
            self.context.send_event(CacheEvent::Evicted {
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
            index.recharge(0, summary.charge_bytes());
            index.insert(hash, IndexEntry::closed(summary, last_use, unchecked));
        }
    }

    pub(super) fn file(
        self: &Arc<Self>,
        hash: ContentHash,
        size_bytes: u64,
    ) -> Result<CacheFile, CacheError> {
        let empty_of_another = size_bytes == 0 && hash != ContentHash::of(b"");
        if size_bytes > FILE_MAX_BYTES || empty_of_another {
            return Err(CacheError::ImpossibleSize { hash, size_bytes });
        }
        let handle = match ClaimedHash::claim(self, hash) {
            ClaimOutcome::Open(handle) => handle,
            ClaimOutcome::Closed(claimed, entry) => claimed.reopen(entry, Some(size_bytes))?,
            ClaimOutcome::Absent(claimed) => claimed.begin(size_bytes)?,
        };
        let have_bytes = handle.shared.files.size_bytes;
        if have_bytes != size_bytes {
            return Err(CacheError::SizeConflict {
                hash,
                have_bytes,
                asked_bytes: size_bytes,
            });
        }
        Ok(CacheFile::used(handle))
    }

    pub(super) fn existing(
        self: &Arc<Self>,
        hash: &ContentHash,
    ) -> Result<Option<CacheFile>, CacheError> {
        let file = self.existing_unused(hash)?;
        Ok(file.map(|file| CacheFile::used(file.handle)))
    }

    /// Opens an existing file for maintenance. This does not count as a use of the file, which
    /// keeps its position in the order of eviction.
    pub(super) fn existing_unused(
        self: &Arc<Self>,
        hash: &ContentHash,
    ) -> Result<Option<CacheFile>, CacheError> {
        if self.index.lock().get(hash).is_none() {
            return Ok(None);
        }
        let handle = match ClaimedHash::claim(self, *hash) {
            ClaimOutcome::Open(handle) => handle,
            ClaimOutcome::Closed(claimed, entry) => claimed.reopen(entry, None)?,
            ClaimOutcome::Absent(claimed) => {
                claimed.release(None);
                return Ok(None);
            }
        };
        Ok(Some(CacheFile { handle }))
    }

    /// Writes the map and makes the file evictable, after the last handle is gone. A file of which
    /// nothing remains on disk is removed from the index.
    pub(super) fn close(&self, shared: &Arc<OpenFileState>) {
        let is_used = shared.is_used.load(Ordering::Relaxed);
        let used_before =
            |index: &CacheIndex<OpenFileHandle>| Some(index.get(&shared.files.hash)?.last_use);
        let last_use = if is_used {
            None
        } else {
            used_before(&self.index.lock())
        };
        let last_use = last_use.unwrap_or_else(SystemTime::now);
        let (kept, is_to_sync) = shared.retire(&self.context, last_use);
        if shared.pages.is_complete() && !kept.is_some_and(|summary| summary.is_complete()) {
            // The disk refused the map. Nodes that were told of the complete file must learn of the
            // loss.
            self.context
                .report_loss(shared.files.hash, shared.files.size_bytes);
        }
        let charged_bytes = shared.charge.bytes();
        let mut index = self.index.lock();
        let Some(summary) = kept else {
            index.recharge(charged_bytes, 0);
            index.take(&shared.files.hash);
            drop(index);
            self.index.notify_settled();
            return;
        };
        let new_bytes = summary.charge_bytes();
        index.recharge(charged_bytes, new_bytes);
        if let Some(entry) = index.take(&shared.files.hash) {
            let closed = IndexEntry {
                summary,
                last_use,
                presence: Presence::Closed,
                ..entry
            };
            if is_used {
                index.insert(shared.files.hash, closed)
            } else {
                index.put_back(shared.files.hash, closed)
            }
        }
        drop(index);
        self.index.notify_settled();
        if is_to_sync {
            shared.sync_later(&self.context);
        }
        self.shrink();
    }

    /// Charges `bytes` to the budget and evicts files if needed. Returns `false` if the bytes do
    /// not fit, or if the disk fails.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        loop {
            let mut index = self.index.lock();
            let verdict = index.reserve(bytes, Instant::now());
            if matches!(verdict, ReserveDecision::Wait) {
                self.index.wait(&mut index);
            }
            drop(index);
            match verdict {
                ReserveDecision::Granted => return true,
                ReserveDecision::Refused => return false,
                ReserveDecision::Wait => {}
                ReserveDecision::Measure => {
                    match self.context.disk.free_bytes(&self.context.layout.dir) {
                        Ok(free_bytes) => self.index.lock().measured(free_bytes, Instant::now()),
                        Err(error) => {
                            self.context.record_failed_measurement(&error);
                            return false;
                        }
                    }
                }
                ReserveDecision::Evict(victim) => {
                    if self.evict(victim).is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Removes the files of a victim. Returns the number of freed bytes, or `None` if the disk
    /// refuses.
    pub(super) fn evict(&self, victim: EvictionVictim<OpenFileHandle>) -> Option<u64> {
        let paths = self.context.layout.paths(&victim.hash);
        let removed = self
            .context
            .record_result(layout::remove(&self.context.disk, &paths));
        let (hash, was_complete) = (victim.hash, victim.was_complete());
        let given_bytes = removed.is_ok().then(|| victim.charge_bytes());
        if given_bytes.is_some() {
            self.index.lock().removed(&victim, Instant::now());
            self.context
                .send_event(CacheEvent::Evicted { hash, was_complete });
        } else {
            self.index.lock().spared(victim);
        }
        self.index.notify_settled();
        given_bytes
    }

    /// Evicts at least `bytes` bytes, or as much as possible. Returns `false` if nothing was
    /// evicted.
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

    /// Tests whether the disk accepts writes again after a refusal. Stores are not a reliable
    /// signal: there may be none, and one small successful store does not prove that the disk
    /// works.
    pub(super) fn check_disk(&self) {
        let tried = self.context.disk.try_out(&self.context.layout.trial());
        let is_well = match tried {
            // The next store can evict files to make room.
            Err(error) if is_full(&error) => self.index.lock().space.evictable_bytes > 0,
            tried => tried.is_ok(),
        };
        let is_well = is_well
            && self
                .context
                .disk
                .free_bytes(&self.context.layout.dir)
                .is_ok();
        if is_well {
            self.context.report_recovery();
        }
    }

    /// Evicts files until the budget is kept or nothing more can be evicted.
    pub(super) fn shrink(&self) {
        loop {
            let mut index = self.index.lock();
            if index.space.charged_bytes <= index.space.budget_bytes {
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

    pub(super) fn change_pins(
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

    /// Saves pins to a disk without room. Evicts files until the write succeeds or no file can be
    /// evicted, so that an unpin that would free space does not fail because the disk is full. On
    /// failure puts the previous pins back in memory.
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

    /// Records that all maps are written, so that the next start can detect later changes.
    pub(super) fn record_clean_stop(&self) {
        if !self.context.disk_refuses() {
            let (disk, clean) = (&self.context.disk, self.context.layout.clean());
            // Created again so that the file has the current time.
            let _ = disk.remove(&clean).and_then(|()| disk.create(&clean));
        }
    }

    /// Writes the maps of all open files.
    pub(super) fn flush_all(&self) {
        for shared in self.index.open_files() {
            // A failed flush is counted, and its data stays pending.
            let _ = shared.flush(&self.context);
        }
    }
}

impl Drop for CacheCore {
    /// Marks the stop as clean: the last handle is gone, so every map is written. The mark is
    /// omitted if the disk refuses writes.
    fn drop(&mut self) {
        self.record_clean_stop();
    }
}
