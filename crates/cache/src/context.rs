//! Context that all open files share: directory, disk, events and write-behind work. It does not
//! refer to any file.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use parking_lot::Mutex;

use super::CacheEvent;
use super::damage::DamageReports;
use super::disk::Disk;
use super::layout::Layout;
use super::map::Boot;
use super::write_behind::WriteBehind;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::disk::{usage_command, usage_command_after_failure};
use p2pfs_types::files::limit_of_open_files;

pub(super) struct CacheContext {
    pub(super) layout: Layout,
    pub(super) disk: Disk,
    pub(super) boot: Boot,
    /// Bytes stored in one file after which its map is written.
    pub(super) flush_bytes: u64,
    pub(super) write_behind: WriteBehind,
    events: SyncSender<CacheEvent>,
    events_lost: AtomicU64,
    refusals: DiskRefusals,
    /// The bytes that were found wrong or unreadable.
    pub(super) damage: DamageReports,
}

/// The refusals of the cache's disk.
#[derive(Default)]
struct DiskRefusals {
    disk_errors: AtomicU64,
    disk_refuses: AtomicBool,
    /// Whether a refusal was reported whose end was not reported yet.
    trouble_reported: Mutex<bool>,
}

impl CacheContext {
    pub(super) fn new(
        layout: Layout,
        disk: Disk,
        boot: Boot,
        flush_bytes: u64,
        events: SyncSender<CacheEvent>,
    ) -> Self {
        Self {
            layout,
            disk,
            boot,
            flush_bytes,
            write_behind: WriteBehind::default(),
            events,
            events_lost: AtomicU64::new(0),
            refusals: DiskRefusals::default(),
            damage: DamageReports::default(),
        }
    }

    /// Sends an event, or counts it as lost.
    pub(super) fn send_event(&self, event: CacheEvent) {
        if self.events.try_send(event).is_err() {
            self.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports that a file that was complete is missing as a whole.
    pub(super) fn report_loss(&self, hash: ContentHash, size_bytes: u64) {
        self.send_event(CacheEvent::Dropped {
            hash,
            range: ByteRange::new(0, size_bytes),
            was_complete: true,
        });
    }

    /// Describes a refused write, with the remedy after a semicolon.
    fn refused_write(&self, error: &io::Error) -> String {
        let usage = usage_command_after_failure(&self.layout.dir);
        format!(
            "the cache's disk refuses writes: {error}; check that disk ({usage}), or name another \
             with cache_dir; reads go on meanwhile"
        )
    }

    /// Counts a failed query of the free space, and reports the first failure since the last
    /// recovery. It says nothing about writes, so the disk does not count as one that refuses them.
    pub(super) fn record_failed_measurement(&self, error: &io::Error) {
        self.refusals.disk_errors.fetch_add(1, Ordering::Relaxed);
        let usage = usage_command(&self.layout.dir);
        self.report_trouble(|| {
            format!(
                "the free space of the cache's disk is unknown: {error}; check that disk ({usage}), \
                 or name another with cache_dir; reads go on uncached"
            )
        });
    }

    fn report_trouble(&self, why: impl FnOnce() -> String) {
        let mut is_reported = self.refusals.trouble_reported.lock();
        if !std::mem::replace(&mut *is_reported, true) {
            self.send_event(CacheEvent::DiskTrouble { why: why() });
            self.write_behind.schedule_disk_checks(true);
        }
    }

    /// Counts a failed access to the disk, and reports the first failure since the last recovery.
    pub(super) fn record_result<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match &result {
            // The flag is read before it is written, because this runs at every store of bytes:
            // reading it leaves the processor's cache line shared.
            Ok(_) if self.refusals.disk_refuses.load(Ordering::Relaxed) => {
                self.refusals.disk_refuses.store(false, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                self.refusals.disk_errors.fetch_add(1, Ordering::Relaxed);
                self.refusals.disk_refuses.store(true, Ordering::Relaxed);
                let limit = limit_of_open_files(error);
                self.report_trouble(|| limit.unwrap_or_else(|| self.refused_write(error)));
            }
        }
        result
    }

    /// Reports that the disk accepts writes again, if a refusal was reported.
    pub(super) fn report_recovery(&self) {
        let mut is_reported = self.refusals.trouble_reported.lock();
        self.write_behind.schedule_disk_checks(false);
        if std::mem::replace(&mut *is_reported, false) {
            self.send_event(CacheEvent::DiskRecovered);
        }
    }

    /// Returns the number of events that were not read in time.
    pub(super) fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }

    /// Returns the number of accesses that the disk refused.
    pub(super) fn disk_errors(&self) -> u64 {
        self.refusals.disk_errors.load(Ordering::Relaxed)
    }

    /// Returns whether the disk refused the last change.
    pub(super) fn disk_refuses(&self) -> bool {
        self.refusals.disk_refuses.load(Ordering::Relaxed)
    }
}
