//! How long a wait goes on. The rule is for readers and fills; requests and stripes use parts of
//! it.
//!
//! A wait ends after its limit without progress. Each progress starts the limit again. Two things
//! can extend a wait without progress: holders of the file work for other requests and may serve
//! this one later, or this node did not run for a time.

use std::time::{Duration, Instant};

/// Maximum extension of a wait, as a multiple of its limit, while the holders work for other
/// requests. It is counted from the time at which the wait's turn began; see [`Waiting::extended`].
pub(super) const TURN_PATIENCE: u32 = 6;
/// Multiple of a reader's limit without progress after which its file may get its next request
/// ahead of all other files.
const OVERDUE_PATIENCE: u32 = 2;

/// One wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// When it began.
    pub since: Instant,
    /// When it last progressed. At first this is its beginning.
    progress_at: Instant,
    /// How long it goes on without progress.
    pub limit: Duration,
}

impl Waiting {
    /// Creates a wait without progress so far.
    pub(super) fn new(since: Instant, limit: Duration) -> Self {
        Self {
            since,
            progress_at: since,
            limit,
        }
    }

    /// Returns the wait with `at` as the time of its last progress. Progress before the wait began
    /// does not count.
    pub(super) fn progressed(self, at: Option<Instant>) -> Self {
        let progress_at = at.map_or(self.since, |at| at.max(self.since));
        Self {
            progress_at,
            ..self
        }
    }

    /// Returns when it last progressed, or began.
    pub(super) fn progress_at(&self) -> Instant {
        self.progress_at
    }

    /// Returns when it ends if nothing happens.
    pub(super) fn ends_at(&self) -> Instant {
        self.progress_at + self.limit
    }

    /// Returns whether it has waited so long without progress that it comes before all others.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.progress_at + self.limit * OVERDUE_PATIENCE <= now
    }

    /// Returns until when it may wait for its turn at holders that serve other requests, counted
    /// from `from`.
    pub(super) fn turn_ends_at(&self, from: Instant) -> Instant {
        from + self.limit * TURN_PATIENCE
    }

    /// Returns until when the wait goes on. `worked_at` is when its holders last worked for any
    /// request, which extends the wait. If `its_turn` is set, the extension ends at
    /// [`TURN_PATIENCE`] times the limit after that time.
    pub(super) fn extended(
        &self,
        worked_at: Option<Instant>,
        its_turn: Option<Instant>,
    ) -> Instant {
        let Some(worked_at) = worked_at else {
            return self.ends_at();
        };
        let until = worked_at + self.limit;
        let until = its_turn.map_or(until, |from| until.min(self.turn_ends_at(from)));
        until.max(self.ends_at())
    }
}

/// End and length of the last time in which this node did not run: it was stopped or frozen, or
/// other programs had the processors. Bytes that arrived meanwhile may wait in its sockets, so it
/// must not end waits at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standstill {
    end: Instant,
    took: Duration,
}

impl Standstill {
    /// Creates a standstill of `took` that ended now.
    pub(super) fn new(end: Instant, took: Duration) -> Self {
        Self { end, took }
    }

    /// Returns until when it extends a wait: for its length after its end, but at most for the
    /// wait's limit. Otherwise a reader would wait for hours more after a suspension of hours.
    pub(super) fn excuses_until(&self, limit: Duration) -> Instant {
        self.end + self.took.min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn progress_starts_the_limit_again() {
        let begun = Instant::now();
        let wait = Waiting::new(begun, LIMIT);
        assert_eq!(wait.ends_at(), begun + LIMIT);
        let later = begun + LIMIT / 2;
        assert_eq!(wait.progressed(Some(later)).ends_at(), later + LIMIT);
        // progress before the wait began is not its own
        let wait = Waiting::new(later, LIMIT).progressed(Some(begun));
        assert_eq!(wait.ends_at(), later + LIMIT);
    }

    #[test]
    fn a_holder_at_work_extends_a_wait_up_to_the_limit_for_turns() {
        let begun = Instant::now();
        let wait = Waiting::new(begun, LIMIT);
        assert_eq!(wait.extended(None, Some(begun)), begun + LIMIT);
        let worked = begun + LIMIT * 2;
        assert_eq!(wait.extended(Some(worked), Some(begun)), worked + LIMIT);
        let long_after = begun + LIMIT * 100;
        let longest = begun + LIMIT * TURN_PATIENCE;
        assert_eq!(wait.extended(Some(long_after), Some(begun)), longest);
        assert_eq!(wait.extended(Some(long_after), None), long_after + LIMIT);
    }

    #[test]
    fn a_standstill_excuses_no_more_than_the_limit() {
        let now = Instant::now();
        let [short, long] = [LIMIT / 2, LIMIT * 2].map(|took| Standstill::new(now, took));
        assert_eq!(short.excuses_until(LIMIT), now + LIMIT / 2);
        assert_eq!(long.excuses_until(LIMIT), now + LIMIT);
    }
}
