//! Simulated disk for tests: dies at a chosen step, refuses changes, and loses unsynced data.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::core::Tuning;
use super::disk::Disk;
use super::map::Boot;
use super::{Cache, CacheConfig};

/// Unit that the simulated disk loses or keeps as a whole.
const SECTOR_BYTES: u64 = 512;

/// File and content at the last sync, by inode and sector.
type Unsynced = HashMap<(u64, u64), (Arc<File>, Vec<u8>)>;

/// Injected faults: the last step of the cache, and the data that is not synced.
pub struct Faults {
    steps: AtomicU64,
    cut_at: u64,
    /// Part of an interrupted write that still happens, in eighths.
    torn_eighths: usize,
    /// Number of steps before the disk refuses all changes.
    steps_left: AtomicU64,
    free_bytes: AtomicU64,
    is_full: AtomicBool,
    without_attributes: AtomicBool,
    /// Synced content of each sector that was written since.
    unsynced: Mutex<Unsynced>,
    gates: Gates,
}

/// The conditions for which changes and syncs wait.
struct Gates {
    syncs: Mutex<Syncs>,
    syncs_changed: Condvar,
    /// Whether every change waits until this becomes false.
    halted: Mutex<bool>,
    halted_changed: Condvar,
}

/// State of syncs on a slow disk.
struct Syncs {
    /// Number of syncs that may complete without waiting.
    left: u64,
    waiting: u64,
}

/// Opens a cache on a disk that can be halted.
pub fn cache_that_can_halt(config: CacheConfig) -> (Cache, Arc<Faults>) {
    let faults = Arc::new(Faults::none());
    let tuning = Tuning {
        background: false,
        ..Tuning::default()
    };
    let disk = Disk {
        faults: Some(faults.clone()),
    };
    let (cache, _events) = Cache::open_with(config, tuning, disk).unwrap();
    (cache, faults)
}

/// Opens a cache in another boot of the machine, given by name. It syncs nothing to the disk.
pub fn cache_in_boot(config: CacheConfig, name: &str) -> Cache {
    let tuning = Tuning {
        background: false,
        boot: Some(Boot::named(name.as_bytes())),
        ..Tuning::default()
    };
    let (cache, _events) = Cache::open_with(config, tuning, Disk::default()).unwrap();
    cache
}

impl Faults {
    /// Creates a disk without faults.
    pub fn none() -> Self {
        Self::cut(u64::MAX, 0)
    }

    /// Creates a disk that dies at step `cut_at`. A write at that step still happens by
    /// `torn_eighths` eighths.
    pub fn cut(cut_at: u64, torn_eighths: usize) -> Self {
        Self {
            steps: AtomicU64::new(0),
            cut_at,
            torn_eighths,
            steps_left: AtomicU64::new(u64::MAX),
            free_bytes: AtomicU64::new(u64::MAX),
            is_full: AtomicBool::new(false),
            without_attributes: AtomicBool::new(false),
            unsynced: Mutex::default(),
            gates: Gates {
                syncs: Mutex::new(Syncs {
                    left: u64::MAX,
                    waiting: 0,
                }),
                syncs_changed: Condvar::new(),
                halted: Mutex::new(false),
                halted_changed: Condvar::new(),
            },
        }
    }

    /// Returns the number of steps so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Makes every change fail as on a full or broken disk, or succeed again.
    pub fn refuse(&self, refuses: bool) {
        self.refuse_after(if refuses { 0 } else { u64::MAX });
    }

    /// Makes every change fail after `steps` more steps.
    pub fn refuse_after(&self, steps: u64) {
        self.steps_left.store(steps, Ordering::SeqCst);
    }

    /// Lets `left` more syncs complete. Further syncs wait for the next call.
    pub fn allow_syncs(&self, left: u64) {
        self.gates.syncs.lock().left = left;
        self.gates.syncs_changed.notify_all();
    }

    /// Waits until a sync waits.
    pub fn await_a_sync(&self) {
        let mut syncs = self.gates.syncs.lock();
        while syncs.waiting == 0 {
            self.gates.syncs_changed.wait(&mut syncs);
        }
    }

    fn wait_for_the_disk(&self) {
        let mut syncs = self.gates.syncs.lock();
        syncs.waiting += 1;
        self.gates.syncs_changed.notify_all();
        while syncs.left == 0 {
            self.gates.syncs_changed.wait(&mut syncs);
        }
        syncs.waiting -= 1;
        syncs.left = syncs.left.saturating_sub(u64::from(syncs.left < u64::MAX));
    }

    /// Removes support for attributes from the file system.
    pub fn remove_attribute_support(&self) {
        self.without_attributes.store(true, Ordering::SeqCst);
    }

    pub(super) fn allow_attribute(&self) -> io::Result<()> {
        if self.without_attributes.load(Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
        } else {
            self.allow_change()
        }
    }

    /// Makes writes fail as on a full disk, whatever free space it reports, until another change
    /// such as a removal.
    pub fn fill(&self) {
        self.is_full.store(true, Ordering::SeqCst);
    }

    /// Sets the free space that the disk reports, in bytes.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.free_bytes.store(free_bytes, Ordering::SeqCst);
    }

    /// Returns the free space that the disk reports, in bytes.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.load(Ordering::SeqCst))
    }

    /// Halts the disk, or resumes it.
    pub fn halt(&self, halted: bool) {
        *self.gates.halted.lock() = halted;
        self.gates.halted_changed.notify_all();
    }

    /// Counts a step. Returns whether the cache is killed in it.
    fn step(&self) -> io::Result<bool> {
        let is_halted = |halted: &mut bool| *halted;
        self.gates
            .halted_changed
            .wait_while(&mut self.gates.halted.lock(), is_halted);
        let number = self.steps.fetch_add(1, Ordering::SeqCst);
        if number > self.cut_at {
            return Err(io::Error::other("killed"));
        }
        match self.steps_left.load(Ordering::SeqCst) {
            0 => return Err(io::ErrorKind::StorageFull.into()),
            u64::MAX => {}
            left => self.steps_left.store(left - 1, Ordering::SeqCst),
        }
        Ok(number == self.cut_at)
    }

    /// Permits a write. A write in which the cache is killed happens in part and fails.
    pub(super) fn allow_write(
        &self,
        file: &File,
        slices: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<()> {
        let killed_now = self.step()?;
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let length = if killed_now {
            bytes.len() * self.torn_eighths / 8
        } else {
            bytes.len()
        };
        self.remember(file, offset, length)?;
        if length < bytes.len() {
            file.write_all_at(&bytes[..length], offset)?;
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    pub(super) fn allow_sync(&self, file: &File) -> io::Result<()> {
        self.wait_for_the_disk();
        self.allow_change()?;
        let inode = file.metadata()?.ino();
        self.unsynced
            .lock()
            .retain(|(number, _), _| *number != inode);
        Ok(())
    }

    pub(super) fn allow_change(&self) -> io::Result<()> {
        self.is_full.store(false, Ordering::SeqCst);
        if self.step()? {
            Err(io::Error::other("killed"))
        } else {
            Ok(())
        }
    }

    fn remember(&self, file: &File, offset: u64, length: usize) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let kept = Arc::new(file.try_clone()?);
        let mut unsynced = self.unsynced.lock();
        let end = (offset + length as u64).div_ceil(SECTOR_BYTES);
        for sector in offset / SECTOR_BYTES..end {
            if unsynced.contains_key(&(inode, sector)) {
                continue;
            }
            let mut old = vec![0; SECTOR_BYTES as usize];
            let length = file.read_at(&mut old, sector * SECTOR_BYTES)?;
            old[length..].fill(0);
            unsynced.insert((inode, sector), (kept.clone(), old));
        }
        Ok(())
    }

    /// Simulates a power cut: each unsynced sector is lost or kept, depending on the seed.
    pub fn lose_power(&self, seed: u64) {
        let mut unsynced = self.unsynced.lock();
        for ((inode, sector), (file, old)) in unsynced.drain() {
            let coin = blake3::hash(format!("{seed} {inode} {sector}").as_bytes()).as_bytes()[0];
            let length = file.metadata().unwrap().len();
            let kept = (length.saturating_sub(sector * SECTOR_BYTES)).min(SECTOR_BYTES) as usize;
            if coin.is_multiple_of(2) {
                file.write_all_at(&old[..kept], sector * SECTOR_BYTES)
                    .unwrap();
            }
        }
    }
}
