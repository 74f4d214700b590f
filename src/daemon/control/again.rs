//! When a question is asked again: what a caller goes through while its daemon restarts. Owns how
//! often, and for how long; what may be asked twice is known to the call, and the client asks.

use std::time::{Duration, Instant};

/// How long a daemon that went is waited for; as long as readers of the mount wait.
const AWAY_MAX: Duration = Duration::from_secs(15);
/// How often one question may break off: it may be what the daemon breaks at.
const BREAKS_MAX: u32 = 3;
/// How long the next daemon has to meet the other nodes and hear what they list.
const MEETING_MAX: Duration = Duration::from_secs(15);

/// How often one question broke off, and since when.
#[derive(Debug, Default)]
pub struct Breaks {
    count: u32,
    since: Option<Instant>,
    /// Since when there is a next daemon.
    back: Option<Instant>,
}

impl Breaks {
    /// Until when the next daemon is waited for; none where it was asked often enough.
    pub(super) fn wait_until(&mut self) -> Option<Instant> {
        let until = *self.since.get_or_insert_with(Instant::now) + AWAY_MAX;
        (self.count <= BREAKS_MAX && Instant::now() < until).then_some(until)
    }

    /// The daemon went with the question unanswered.
    pub(super) fn count(&mut self) {
        self.count += 1;
    }

    /// There is a next daemon.
    pub(super) fn is_back(&mut self) {
        self.back = Some(Instant::now());
    }

    /// For how long yet the next daemon may not know what the one before knew; none where there
    /// was no other before.
    pub(super) fn left_to_meet(&self) -> Option<Duration> {
        MEETING_MAX.checked_sub(self.back?.elapsed())
    }
}
