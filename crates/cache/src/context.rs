//! What an open file uses of the cache around it: the directory and its disk, events, and what is
//! to be written behind. It knows of no file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use parking_lot::Mutex;

use super::CacheEvent;
use super::direct::DiskPace;
use super::disk::Disk;
use super::layout::Layout;
use super::map::Boot;
use super::prealloc::Preallocated;
use super::recent::Recent;
use super::write_behind::WriteBehind;
use p2pfs_types::files::limit_of_open_files;

pub(super) struct Context {
    pub(super) layout: Layout,
    pub(super) disk: Disk,
    pub(super) pace: DiskPace,
    pub(super) recent: Recent,
    pub(super) preallocated: Preallocated,
    /// Whether a file is being brought into the kernel's pages.
    pub(super) is_warming: Arc<AtomicBool>,
    pub(super) boot: Boot,
    /// After how many stored bytes of one file its map is written.
    pub(super) flush_bytes: u64,
    pub(super) write_behind: WriteBehind,
    events: SyncSender<CacheEvent>,
    events_lost: AtomicU64,
    disk_errors: AtomicU64,
    disk_refuses: AtomicBool,
    /// Whether a refusal was told of, and no end of it yet.
    trouble_told: Mutex<bool>,
}

impl Context {
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
            pace: DiskPace::default(),
            recent: Recent::default(),
            preallocated: Preallocated::default(),
            is_warming: Arc::default(),
            boot,
            flush_bytes,
            write_behind: WriteBehind::default(),
            events,
            events_lost: AtomicU64::new(0),
            disk_errors: AtomicU64::new(0),
            disk_refuses: AtomicBool::new(false),
            trouble_told: Mutex::new(false),
        }
    }

    /// Sends an event, or counts that it was lost.
    pub(super) fn tell(&self, event: CacheEvent) {
        if self.events.try_send(event).is_err() {
            self.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a failed change of the disk, and tells of the first since all was well.
    pub(super) fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match &result {
            // Asked first: this is on the path of every store, and a load shares the cache line.
            Ok(_) if self.disk_refuses.load(Ordering::Relaxed) => {
                self.disk_refuses.store(false, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                self.disk_errors.fetch_add(1, Ordering::Relaxed);
                self.disk_refuses.store(true, Ordering::Relaxed);
                let mut is_told = self.trouble_told.lock();
                if !std::mem::replace(&mut *is_told, true) {
                    let limit = limit_of_open_files(error);
                    let why = limit
                        .unwrap_or_else(|| format!("the cache's disk refuses writes: {error}"));
                    self.tell(CacheEvent::DiskTrouble { why });
                    self.write_behind.look_again(true);
                }
            }
        }
        result
    }

    /// Tells that what was told of the disk is over.
    pub(super) fn tell_of_recovery(&self) {
        let mut is_told = self.trouble_told.lock();
        self.write_behind.look_again(false);
        if std::mem::replace(&mut *is_told, false) {
            self.tell(CacheEvent::DiskRecovered);
        }
    }

    /// How many events nobody read in time.
    pub(super) fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }

    /// How many changes the disk refused.
    pub(super) fn disk_errors(&self) -> u64 {
        self.disk_errors.load(Ordering::Relaxed)
    }

    /// Whether it refused the last one.
    pub(super) fn disk_refuses(&self) -> bool {
        self.disk_refuses.load(Ordering::Relaxed)
    }
}
