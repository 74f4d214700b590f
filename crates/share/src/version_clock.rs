//! The clock that dates versions. It is the system clock, unless that was set back.
//!
//! A machine without a battery starts with a clock that is behind, until a time server sets it. A
//! version that was first seen before would then get an earlier time, and an older version of
//! another node would win. So the time goes on from the latest one that the system clock showed, in
//! this run or an earlier one. If the system clock is more than [`BEHIND_MAX`] behind that time,
//! either may be wrong. It is then followed at once, and the ledger keeps the times of versions that
//! seem to lie in the future.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::identity::FileTimestamp;

/// How far behind its latest time the system clock may be. A day is more than a clock that was stored
/// at the last stop loses, and a clock that was ahead for a time does not date versions for longer.
const BEHIND_MAX: Duration = Duration::from_secs(24 * 3600);
/// Least change of the system clock against the time since the boot that counts as a step. Time
/// servers correct less than that without a step.
const STEP_MIN: Duration = Duration::from_secs(1);
/// How far ahead of their clocks other nodes accept versions (p2pfs(7)).
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(60);
/// How far behind the clock must be before the owner is told.
const TELL_MIN: Duration = AHEAD_MAX;

/// The clock that dates versions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VersionClock {
    /// Nanoseconds since 1970 at the last check.
    now: i128,
    system: i128,
    /// Time since the boot at the last check.
    boot: i128,
    /// System time when this run began, or when the clock was last set.
    set_at: i128,
    /// Whether a test sets the clock, and the clocks of this machine are not read.
    #[cfg(test)]
    is_set_by_test: bool,
}

/// A step of the system clock to a later time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockStep {
    /// Times that the wrong clock showed.
    pub(super) from: FileTimestamp,
    pub(super) until: FileTimestamp,
    nanoseconds: i128,
}

/// A change of the clock after which versions have other times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockChange {
    /// The system clock was set to a later time.
    Late(ClockStep),
    /// The clock went back by more than [`BEHIND_MAX`], as the system clock did.
    Back,
}

impl ClockStep {
    /// Returns the right time when the clock showed `time`.
    pub(super) fn corrected(&self, time: FileTimestamp) -> FileTimestamp {
        FileTimestamp::from_nanoseconds(time.total_nanoseconds() + self.nanoseconds)
    }
}

impl VersionClock {
    /// Starts from the latest time that the system clock showed in an earlier run.
    pub(super) fn new(latest: Option<FileTimestamp>) -> Self {
        let (system, boot) = (FileTimestamp::now(), boot_time());
        Self::starting(latest.unwrap_or(system), system, boot)
    }

    /// Starts from `latest` with these readings of the clocks.
    fn starting(latest: FileTimestamp, system: FileTimestamp, boot: i128) -> Self {
        let mut clock = Self {
            now: latest.total_nanoseconds(),
            system: system.total_nanoseconds(),
            boot,
            set_at: system.total_nanoseconds(),
            #[cfg(test)]
            is_set_by_test: false,
        };
        clock.follow();
        clock
    }

    /// Returns a clock that only [`Self::advance`] changes.
    #[cfg(test)]
    pub(super) fn at(latest: FileTimestamp, system: FileTimestamp, boot: i128) -> Self {
        Self {
            is_set_by_test: true,
            ..Self::starting(latest, system, boot)
        }
    }

    /// Returns the time. The clocks are read for it, because a file that was written since the last
    /// check must not seem to be of the future.
    pub(super) fn now(&self) -> FileTimestamp {
        FileTimestamp::from_nanoseconds(self.read().now)
    }

    /// Returns by how much the system clock is behind now, if the owner must be told.
    pub(super) fn behind(&self) -> Option<Duration> {
        let read = self.read();
        let behind = read.now - read.system;
        let behind = Duration::from_nanos(u64::try_from(behind).unwrap_or(0));
        (behind >= TELL_MIN).then_some(behind)
    }

    /// Returns the clock after a reading of the system clock. This clock stays as it is, so that its
    /// next check still finds a step.
    fn read(mut self) -> Self {
        self.check();
        self
    }

    /// Reads the system clock. Returns a change since the last call.
    pub(super) fn check(&mut self) -> Option<ClockChange> {
        #[cfg(test)]
        if self.is_set_by_test {
            return None;
        }
        self.advance(FileTimestamp::now(), boot_time())
    }

    /// Takes these readings of the clocks.
    pub(super) fn advance(&mut self, system: FileTimestamp, boot: i128) -> Option<ClockChange> {
        let system = system.total_nanoseconds();
        let passed = (boot - self.boot).max(0);
        let (before, step) = (self.system + passed, system - self.system - passed);
        self.now += passed;
        (self.system, self.boot) = (system, boot);
        let from = self.set_at;
        if step.unsigned_abs() >= STEP_MIN.as_nanos() {
            self.set_at = system;
        }
        // a clock that is back where it was before was wrong in between, and not before
        let is_late = system > self.now + STEP_MIN.as_nanos() as i128;
        if self.follow() {
            return Some(ClockChange::Back);
        }
        (step >= STEP_MIN.as_nanos() as i128 && is_late).then(|| {
            ClockChange::Late(ClockStep {
                from: FileTimestamp::from_nanoseconds(from),
                until: FileTimestamp::from_nanoseconds(before),
                nanoseconds: step,
            })
        })
    }

    /// Follows the system clock if it is ahead, or too far behind. Returns whether it was too far
    /// behind.
    fn follow(&mut self) -> bool {
        let is_back = self.now - self.system > BEHIND_MAX.as_nanos() as i128;
        if is_back || self.system > self.now {
            self.now = self.system;
        }
        is_back
    }
}

/// Returns the nanoseconds since the boot, suspended time included.
fn boot_time() -> i128 {
    let time = clock_gettime(ClockId::Boottime);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn at(seconds: i64) -> FileTimestamp {
        FileTimestamp::new(1_800_000_000 + seconds, 0)
    }

    #[test]
    fn clock_that_is_set_back_for_a_time_dates_no_version_earlier() {
        let mut clock = VersionClock::at(at(0), at(0), 0);
        assert_eq!(clock.advance(at(10), 10 * SECOND), None);
        assert_eq!(clock.advance(at(-3580), 20 * SECOND), None);
        assert_eq!(clock.now(), at(20));
        assert_eq!(clock.behind(), Some(Duration::from_secs(3600)));
        assert_eq!(clock.advance(at(95), 95 * SECOND), None);
        assert_eq!((clock.now(), clock.behind()), (at(95), None));
    }

    #[test]
    fn what_was_written_since_the_last_check_is_not_of_the_future() {
        let clock = VersionClock::new(None);
        for _ in 0..100 {
            let written = FileTimestamp::now();
            assert!(clock.now() >= written);
        }
    }

    #[test]
    fn clock_goes_on_from_the_latest_time_of_an_earlier_run() {
        let clock = VersionClock::at(at(0), at(-3600), 7);
        assert_eq!(clock.now(), at(0));
        assert_eq!(clock.behind(), Some(Duration::from_secs(3600)));
        let day = i64::try_from(BEHIND_MAX.as_secs()).unwrap();
        let clock = VersionClock::at(at(day + 1), at(0), 7);
        assert_eq!((clock.now(), clock.behind()), (at(0), None));
    }

    #[test]
    fn step_to_a_later_time_corrects_the_times_of_the_wrong_clock() {
        let mut clock = VersionClock::at(at(0), at(0), 0);
        assert_eq!(clock.advance(at(10), 10 * SECOND), None);
        let change = clock.advance(at(3620), 20 * SECOND);
        let Some(ClockChange::Late(step)) = change else {
            panic!("{change:?}");
        };
        assert_eq!((step.from, step.until), (at(0), at(20)));
        assert_eq!(step.corrected(at(5)), at(3605));
        assert_eq!(clock.now(), at(3620));
        // a suspended machine
        assert_eq!(clock.advance(at(9620), 6020 * SECOND), None);
    }

    #[test]
    fn clock_that_was_more_than_a_day_ahead_follows_the_system_clock_back() {
        let day = i64::try_from(BEHIND_MAX.as_secs()).unwrap();
        let mut clock = VersionClock::at(at(day + 1), at(day + 1), 0);
        assert_eq!(clock.advance(at(5), 5 * SECOND), Some(ClockChange::Back));
        assert_eq!((clock.now(), clock.behind()), (at(5), None));
    }
}
