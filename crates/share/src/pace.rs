//! Bounds the cost of a file that changes faster than it can be hashed.
//!
//! A file of up to [`SMALL_FILE_MAX_BYTES`] never waits. A larger file is *paced* while it changes
//! again and again. A file counts as paced if a change causes a read soon after the previous read:
//! after the end of the wait that followed it, in less time than reading the file at
//! [`WHOLE_READ_BYTES_PER_S`] takes, or than another such wait if that is longer. So a file that
//! changes less often is read at that rate at most.
//!
//! After each read, a paced file waits as long as the read takes at [`REREAD_BYTES_PER_S`]. So it
//! is read at about that rate, whatever its size. With each further change the wait doubles, up to
//! a limit. The limit is [`PROMISED_WAIT_MAX`] for a file of up to [`PROMISED_MAX_BYTES`], because
//! such a file must be listed within 2 s of its writer's close, and [`LARGE_WAIT_MAX`] for a larger
//! one.
//!
//! If a change ends the read of a file of up to [`PROMISED_MAX_BYTES`], the wait is at most
//! [`CANCELLED_WAIT_MAX`]. Such a file is read at up to twice the rate.
//!
//! If a paced file only grew, it is hashed at the cost of the appended bytes (`extension`), and
//! waits [`EXTENDED_WAIT`].
//!
//! The first read of a file never waits, and neither does the first change after a rest. A file
//! over [`PROMISED_MAX_BYTES`] is not listed at once in any case. So it waits after its first read
//! too, and its first growth is hashed at the cost of the appended bytes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::name_state::BUSY_READ_AFTER;
use super::outboards::SMALL_FILE_MAX_BYTES;
use super::queue::PROMISED_MAX_BYTES;
use super::tree::Slot;

/// Maximum rate in bytes per second at which one file is read again and again: a sixth of what a
/// solid-state disk reads, at the cost of some hundredths of a processor.
pub(super) const REREAD_BYTES_PER_S: u64 = 64 << 20;
/// Rate that determines how long a file must be at rest before it is read whole although it may
/// only have grown: as long as reading it at this rate takes. So a log that gets a line now and
/// then is read at this rate at most, a sixteenth of [`REREAD_BYTES_PER_S`].
const WHOLE_READ_BYTES_PER_S: u64 = 4 << 20;
/// Longest wait of a file of up to [`PROMISED_MAX_BYTES`]: half of the 2 s within which it is
/// listed (p2pfs(7)).
const PROMISED_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait after a read of such a file that a change ended. A wait of a second would end each
/// read of a file that changes a little less than once a second, because the wait begins at the
/// change: the next read would begin just before the next change.
const CANCELLED_WAIT_MAX: Duration = Duration::from_millis(500);
/// Longest wait of a larger file, unless reading the file once takes longer at
/// [`REREAD_BYTES_PER_S`].
const LARGE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Least time between two hashes of a file that only grew. It bounds how often its outboard is
/// written and its listing is sent.
const EXTENDED_WAIT: Duration = Duration::from_secs(1);
/// Least number of remembered files at which those without recent reads are forgotten.
const REMEMBERED_MIN: usize = 1024;

/// Returns how long a file must be at rest before it is read whole although it may only have grown.
pub(super) fn whole_read_rest(size_bytes: u64) -> Duration {
    Duration::from_secs_f64(size_bytes as f64 / WHOLE_READ_BYTES_PER_S as f64)
}

/// A read that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadCost {
    /// Size of the file.
    pub(super) size_bytes: u64,
    pub(super) read_bytes: u64,
    /// Whether only appended bytes were read.
    pub(super) is_extension: bool,
    /// Whether a change ended the read before it gave a hash.
    pub(super) is_cancelled: bool,
    /// When the read began, or `None` if the file had not changed and was only verified.
    pub(super) changed: Option<Instant>,
}

/// Wait of one file.
#[derive(Clone, Copy)]
struct ReadWait {
    until: Instant,
    wait: Duration,
    /// A read because of a change until this time shows that the file changes again and again.
    /// `None` if it was not read because of a change before.
    again_until: Option<Instant>,
    /// Whether the file changed again and again at its last read.
    is_paced: bool,
    /// Until when the status names the file if it waits to be read.
    named_until: Instant,
}

/// Waits of the files that were read lately.
#[derive(Default)]
pub(super) struct ReadPace {
    waits: HashMap<Slot, ReadWait>,
    /// Number of files that were left when files were last forgotten.
    kept: usize,
}

impl ReadPace {
    /// Records a read that ended at `now`.
    pub(super) fn record_read(&mut self, slot: Slot, read: ReadCost, now: Instant) {
        if read.size_bytes <= SMALL_FILE_MAX_BYTES || read.read_bytes == 0 {
            return;
        }
        let is_promised = read.size_bytes <= PROMISED_MAX_BYTES;
        let once = Duration::from_secs_f64(read.read_bytes as f64 / REREAD_BYTES_PER_S as f64);
        let first = if is_promised { Duration::ZERO } else { once };
        let last = self.waits.get(&slot).copied();
        let Some(changed) = read.changed else {
            // a verification neither ends nor begins the pacing
            let last = last.unwrap_or(ReadWait::none(now));
            let until = last.until.max(now + first);
            return self.insert(slot, ReadWait { until, ..last }, now);
        };
        let before = last.filter(|last| last.is_again(changed));
        let longest = if is_promised {
            PROMISED_WAIT_MAX
        } else {
            LARGE_WAIT_MAX
        };
        let wait = match before {
            Some(_) if is_promised && read.is_cancelled => once.min(CANCELLED_WAIT_MAX),
            _ if read.is_extension => EXTENDED_WAIT,
            None => first,
            Some(before) => (2 * before.wait).min(longest).max(once),
        };
        let until = now + wait;
        let named_until = if before.is_some() { until } else { now };
        let noted = ReadWait {
            until,
            wait,
            again_until: Some(until + wait.max(whole_read_rest(read.size_bytes))),
            is_paced: before.is_some(),
            named_until: last.map_or(named_until, |last| last.named_until.max(named_until)),
        };
        self.insert(slot, noted, now);
    }

    /// Records that a file is read although it was written for [`BUSY_READ_AFTER`] without a rest.
    /// The status names it until some time after the next such read.
    pub(super) fn record_unrested(&mut self, slot: Slot, now: Instant) {
        let last = self.waits.get(&slot).copied();
        let named_until = now + 2 * BUSY_READ_AFTER;
        let noted = ReadWait {
            named_until,
            ..last.unwrap_or(ReadWait::none(now))
        };
        self.insert(slot, noted, now);
    }

    fn insert(&mut self, slot: Slot, noted: ReadWait, now: Instant) {
        self.waits.insert(slot, noted);
        if self.waits.len() > REMEMBERED_MIN + 2 * self.kept {
            self.waits.retain(|_, wait| wait.is_due(now));
            self.kept = self.waits.len();
        }
    }

    /// Returns when a file may be read again, if it must wait.
    pub(super) fn waits_until(&self, slot: Slot, now: Instant) -> Option<Instant> {
        let until = self.waits.get(&slot).map(|wait| wait.until);
        until.filter(|until| *until > now)
    }

    /// Returns whether a file that is read now because of a change is paced already.
    pub(super) fn is_paced(&self, slot: Slot, now: Instant) -> bool {
        let wait = self.waits.get(&slot);
        wait.is_some_and(|wait| wait.is_paced && wait.is_again(now))
    }

    /// Returns whether a file that waits to be read changes faster than it is read, or was written
    /// without a rest ([`Self::record_unrested`]).
    pub(super) fn is_busy(&self, slot: Slot, now: Instant) -> bool {
        let wait = self.waits.get(&slot);
        wait.is_some_and(|wait| wait.named_until > now)
    }

    /// Forgets a name that is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.waits.remove(&slot);
    }
}

impl ReadWait {
    /// Returns the state of a file without a wait.
    fn none(now: Instant) -> Self {
        Self {
            until: now,
            wait: Duration::ZERO,
            again_until: None,
            is_paced: false,
            named_until: now,
        }
    }

    /// Returns whether the wait may still matter after `now`.
    fn is_due(&self, now: Instant) -> bool {
        self.is_again(now) || now < self.until || now < self.named_until
    }

    /// Returns whether a read because of a change at this time is one of several in a row.
    fn is_again(&self, changed: Instant) -> bool {
        self.again_until.is_some_and(|until| changed <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Returns the cost of a whole read because of a change at `now`.
    fn whole(size_bytes: u64, now: Instant) -> ReadCost {
        ReadCost {
            size_bytes,
            read_bytes: size_bytes,
            is_extension: false,
            is_cancelled: false,
            changed: Some(now),
        }
    }

    /// Reads a file whenever it may be read for `seconds`, and returns the bytes that were read.
    /// The file changes 50 times a second.
    fn bytes_read(size_bytes: u64, seconds: u64) -> u64 {
        let (mut pace, start) = (ReadPace::default(), Instant::now());
        let (mut now, mut total) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            pace.record_read(Slot::FIRST, whole(size_bytes, now), now);
            total += size_bytes;
            let next = now + Duration::from_millis(20);
            now = pace
                .waits_until(Slot::FIRST, now)
                .map_or(next, |it| it.max(next));
        }
        total
    }

    #[test]
    fn a_file_that_always_changes_is_read_at_a_bounded_rate() {
        assert!(bytes_read(GIB, 30) <= 3 * GIB);
        assert!(bytes_read(150 * MIB, 600) <= 600 * (4 * MIB));
        for mib in [2, 8, 38, 58, 64] {
            let (size_bytes, seconds) = (mib * MIB, 600);
            let read = bytes_read(size_bytes, seconds);
            // soon once a second, after some reads at the beginning
            assert!(read <= size_bytes * (seconds + 10), "{mib} MiB: {read}");
            assert!(
                read >= size_bytes * (seconds - 10),
                "it is listed every second"
            );
        }
    }

    #[test]
    fn a_file_that_was_at_rest_waits_only_once_and_a_small_one_never() {
        let (mut pace, start) = (ReadPace::default(), Instant::now());
        let slot = Slot::FIRST;
        assert_eq!(pace.waits_until(slot, start), None);
        pace.record_read(slot, whole(GIB, start), start);
        let first = pace.waits_until(slot, start).unwrap();
        let later = start + 100 * LARGE_WAIT_MAX;
        pace.record_read(slot, whole(GIB, later), later);
        let second = pace.waits_until(slot, later).unwrap();
        assert_eq!(first - start, second - later);
        pace.forget(slot);
        for _ in 0..100 {
            pace.record_read(slot, whole(SMALL_FILE_MAX_BYTES, later), later);
            assert_eq!(pace.waits_until(slot, later), None);
        }
    }

    #[test]
    fn the_first_change_after_a_rest_waits_for_nothing() {
        let (mut pace, mut now) = (ReadPace::default(), Instant::now());
        let (slot, size_bytes) = (Slot::FIRST, 40 * MIB);
        for _ in 0..3 {
            pace.record_read(slot, whole(size_bytes, now), now);
            assert_eq!(pace.waits_until(slot, now), None);
            assert!(!pace.is_paced(slot, now) && !pace.is_busy(slot, now));
            // a second change soon after is read at once too, and further ones wait
            pace.record_read(slot, whole(size_bytes, now), now);
            let until = pace.waits_until(slot, now).unwrap();
            assert_eq!(until - now, Duration::from_millis(625));
            assert!(pace.is_paced(slot, now) && pace.is_busy(slot, now));
            // its verification at rest makes no difference
            let verified = ReadCost {
                changed: None,
                ..whole(size_bytes, now)
            };
            now = until;
            pace.record_read(slot, verified, now);
            assert_eq!(pace.waits_until(slot, now), None);
            assert!(pace.is_paced(slot, now) && !pace.is_busy(slot, now));
            now += 2 * whole_read_rest(size_bytes);
        }
    }

    #[test]
    fn a_read_that_a_change_ended_is_tried_again_in_less_than_a_second() {
        let (mut pace, now) = (ReadPace::default(), Instant::now());
        let (slot, size_bytes) = (Slot::FIRST, PROMISED_MAX_BYTES);
        for _ in 0..10 {
            pace.record_read(slot, whole(size_bytes, now), now);
        }
        assert_eq!(pace.waits_until(slot, now), Some(now + PROMISED_WAIT_MAX));
        for is_extension in [false, true] {
            let cancelled = ReadCost {
                is_cancelled: true,
                is_extension,
                ..whole(size_bytes, now)
            };
            pace.record_read(slot, cancelled, now);
            assert_eq!(pace.waits_until(slot, now), Some(now + CANCELLED_WAIT_MAX));
        }
    }

    #[test]
    fn a_paced_file_that_grows_may_be_hashed_every_second() {
        let (mut pace, now) = (ReadPace::default(), Instant::now());
        let (slot, size_bytes) = (Slot::FIRST, 40 * MIB);
        pace.record_read(slot, whole(size_bytes, now), now);
        let grown = ReadCost {
            read_bytes: 5,
            is_extension: true,
            ..whole(size_bytes, now)
        };
        for _ in 0..10 {
            pace.record_read(slot, grown, now);
            assert_eq!(pace.waits_until(slot, now), Some(now + EXTENDED_WAIT));
            assert!(pace.is_paced(slot, now) && pace.is_busy(slot, now));
        }
    }
}
