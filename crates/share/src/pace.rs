//! Bounds the cost of a file that changes faster than it can be hashed.
//!
//! After a large file was read, it is not read again for a while. The wait is as long as reading it
//! at [`REREAD_BYTES_PER_S`] takes. If the file changes again soon after each wait, the wait
//! doubles, up to [`LARGE_WAIT_MAX`]. The first read of a file never waits, and neither does a file
//! of up to [`PROMISED_MAX_BYTES`], because it must be listed within 2 s of its writer's close. A
//! file that only grew is hashed at the cost of the appended bytes (`extension`), and waits
//! [`EXTENDED_WAIT`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::outboards::SMALL_FILE_MAX_BYTES;
use super::queue::PROMISED_MAX_BYTES;
use super::tree::Slot;

/// Maximum rate in bytes per second at which one file is read again and again: a sixth of what a
/// solid-state disk reads, at the cost of some hundredths of a processor.
pub(super) const REREAD_BYTES_PER_S: u64 = 64 << 20;
/// Longest wait, unless reading the file once takes longer at [`REREAD_BYTES_PER_S`].
const LARGE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Least time between two hashes of a large file that only grew. It bounds how often its outboard
/// is written and its listing is sent.
pub(super) const EXTENDED_WAIT: Duration = Duration::from_secs(1);
/// Least number of remembered files at which those without recent reads are forgotten.
const REMEMBERED_MIN: usize = 1024;

/// Wait of one file.
#[derive(Clone, Copy)]
struct ReadWait {
    until: Instant,
    wait: Duration,
    /// Whether the file was read soon after its previous wait, because it had changed again.
    is_busy: bool,
}

impl ReadWait {
    /// Returns whether `now` is before the end of the wait, or after it by at most the length of
    /// the wait. A file that changed and is read again within this time counts as busy.
    fn is_recent(&self, now: Instant) -> bool {
        now <= self.until + self.wait
    }
}

/// Waits of the files that were read lately.
#[derive(Default)]
pub(super) struct ReadPace {
    waits: HashMap<Slot, ReadWait>,
    /// Number of files that were left when files were last forgotten.
    kept: usize,
}

impl ReadPace {
    /// Records that `read_bytes` of a file of `size_bytes` were read until `now`. `changed` is when
    /// the read began, or `None` if the file had not changed and was only verified. A file of up to
    /// [`PROMISED_MAX_BYTES`], or a read of up to [`SMALL_FILE_MAX_BYTES`], does not count.
    pub(super) fn record_read(
        &mut self,
        slot: Slot,
        size_bytes: u64,
        read_bytes: u64,
        changed: Option<Instant>,
        now: Instant,
    ) {
        if size_bytes <= PROMISED_MAX_BYTES || read_bytes <= SMALL_FILE_MAX_BYTES {
            return;
        }
        let once = Duration::from_secs_f64(read_bytes as f64 / REREAD_BYTES_PER_S as f64);
        let before = self.waits.get(&slot);
        let before = before.filter(|wait| changed.is_some_and(|at| wait.is_recent(at)));
        let doubled = before.map_or(once, |before| once.max(2 * before.wait));
        let wait = doubled.min(LARGE_WAIT_MAX).max(once);
        let noted = ReadWait {
            until: now + wait,
            wait,
            is_busy: before.is_some(),
        };
        self.insert(slot, noted, now);
    }

    /// Records that a file that only grew was hashed without being read whole.
    pub(super) fn note_extended(&mut self, slot: Slot, now: Instant) {
        let noted = ReadWait {
            until: now + EXTENDED_WAIT,
            wait: EXTENDED_WAIT,
            is_busy: false,
        };
        self.insert(slot, noted, now);
    }

    fn insert(&mut self, slot: Slot, noted: ReadWait, now: Instant) {
        self.waits.insert(slot, noted);
        if self.waits.len() > REMEMBERED_MIN + 2 * self.kept {
            self.waits.retain(|_, wait| wait.is_recent(now));
            self.kept = self.waits.len();
        }
    }

    /// Returns when a file may be read again, if it must wait.
    pub(super) fn waits_until(&self, slot: Slot, now: Instant) -> Option<Instant> {
        let until = self.waits.get(&slot).map(|wait| wait.until);
        until.filter(|until| *until > now)
    }

    /// Returns whether a file must wait again because it had changed soon after its previous wait.
    pub(super) fn is_busy(&self, slot: Slot, now: Instant) -> bool {
        let wait = self.waits.get(&slot);
        wait.is_some_and(|wait| wait.is_busy && wait.until > now)
    }

    /// Forgets a name that is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.waits.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Reads a file whenever it may be read for `seconds`, and returns the bytes that were read.
    fn bytes_read(size_bytes: u64, seconds: u64) -> u64 {
        let (mut pace, start) = (ReadPace::default(), Instant::now());
        let (mut now, mut total) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            pace.record_read(Slot::FIRST, size_bytes, size_bytes, Some(now), now);
            total += size_bytes;
            now = pace.waits_until(Slot::FIRST, now).unwrap();
        }
        total
    }

    #[test]
    fn a_file_that_always_changes_is_read_at_a_bounded_rate() {
        assert!(bytes_read(GIB, 30) <= 3 * GIB);
        assert!(bytes_read(150 << 20, 600) <= 600 * (4 << 20));
    }

    #[test]
    fn a_file_that_was_at_rest_waits_only_once_and_a_small_one_never() {
        let (mut pace, start) = (ReadPace::default(), Instant::now());
        let slot = Slot::FIRST;
        assert_eq!(pace.waits_until(slot, start), None);
        pace.record_read(slot, GIB, GIB, Some(start), start);
        let first = pace.waits_until(slot, start).unwrap();
        let later = start + 100 * LARGE_WAIT_MAX;
        pace.record_read(slot, GIB, GIB, Some(later), later);
        let second = pace.waits_until(slot, later).unwrap();
        assert_eq!(first - start, second - later);
        pace.forget(slot);
        let small = PROMISED_MAX_BYTES;
        pace.record_read(slot, small, small, Some(later), later);
        assert_eq!(pace.waits_until(slot, later), None);
    }
}
