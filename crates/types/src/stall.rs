//! The detector of work that makes no progress, for example a thread that is blocked on a hung
//! disk. Pure.

use std::time::{Duration, Instant};

/// Measures how long work has made no progress. Reads no clock.
#[derive(Clone, Copy, Debug)]
pub struct StallClock {
    /// Number of steps at the last check.
    steps: u64,
    /// Time without progress until the last check.
    still: Duration,
    checked_at: Instant,
}

impl StallClock {
    /// Starts with work that has done `steps` steps.
    pub fn start(steps: u64, now: Instant) -> Self {
        Self {
            steps,
            still: Duration::ZERO,
            checked_at: now,
        }
    }

    /// Checks the number of steps. Returns how long it has not changed, as far as the checks show.
    pub fn check(&mut self, steps: u64, now: Instant) -> Duration {
        self.check_at_most(steps, Duration::MAX, now)
    }

    /// Checks the number of steps. The time since the last check counts as `most` at most. A check
    /// may be late because this process was halted, and the work then had no time either.
    pub fn check_at_most(&mut self, steps: u64, most: Duration, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.checked_at);
        self.checked_at = self.checked_at.max(now);
        self.still = if steps == self.steps {
            self.still.saturating_add(passed.min(most))
        } else {
            Duration::ZERO
        };
        self.steps = steps;
        self.still
    }

    /// Returns how long the work has made no progress, if it made none since the last check.
    pub fn still_for(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.checked_at);
        self.still.saturating_add(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn work_without_a_step_is_still_since_its_last_one() {
        let now = Instant::now();
        let mut clock = StallClock::start(3, now);
        assert_eq!(clock.check(3, now + SECOND), SECOND);
        assert_eq!(clock.check(3, now + 3 * SECOND), 3 * SECOND);
        assert_eq!(clock.still_for(now + 7 * SECOND), 7 * SECOND);
        assert_eq!(clock.check(4, now + 8 * SECOND), Duration::ZERO);
        assert_eq!(clock.check(4, now + 9 * SECOND), SECOND);
    }

    #[test]
    fn a_late_check_counts_as_one_that_is_in_time() {
        let now = Instant::now();
        let mut clock = StallClock::start(0, now);
        let halted = now + 3600 * SECOND;
        assert_eq!(clock.check_at_most(0, SECOND, halted), SECOND);
        assert_eq!(clock.check_at_most(0, SECOND, halted + SECOND), 2 * SECOND);
    }

    #[test]
    fn a_clock_that_goes_back_adds_nothing() {
        let now = Instant::now() + 60 * SECOND;
        let mut clock = StallClock::start(0, now);
        assert_eq!(clock.check(0, now - SECOND), Duration::ZERO);
        assert_eq!(clock.check(0, now + SECOND), SECOND);
        assert_eq!(clock.still_for(now - SECOND), SECOND);
    }
}
