//! How long and how often a client retries a call while its daemon restarts. The call knows whether
//! it may be repeated, and the client sends it.

use std::time::{Duration, Instant};

/// How long a client waits for the next daemon after one ended. Readers of the mount wait equally
/// long.
const AWAY_MAX: Duration = Duration::from_secs(15);
/// Maximum broken connections after which a call is repeated. The limit exists because the call
/// itself may be what crashes the daemon.
const BREAKS_MAX: u32 = 3;
/// How long a new daemon has to meet the other nodes and receive their listings.
const MEETING_MAX: Duration = Duration::from_secs(15);

/// Number of broken connections of one call, and when the first one broke.
#[derive(Debug, Default)]
pub struct Breaks {
    count: u32,
    since: Option<Instant>,
    /// When the client connected to the next daemon.
    back: Option<Instant>,
}

impl Breaks {
    /// Returns the deadline for the next daemon. Returns `None` after more than [`BREAKS_MAX`]
    /// broken connections or once the deadline has passed.
    pub(super) fn wait_until(&mut self) -> Option<Instant> {
        let until = *self.since.get_or_insert_with(Instant::now) + AWAY_MAX;
        (self.count <= BREAKS_MAX && Instant::now() < until).then_some(until)
    }

    /// Counts a connection that the daemon closed before it answered.
    pub(super) fn count(&mut self) {
        self.count += 1;
    }

    /// Records that the client has connected to the next daemon.
    pub(super) fn is_back(&mut self) {
        self.back = Some(Instant::now());
    }

    /// Returns how much longer the next daemon may lack the names that the previous daemon knew.
    /// Returns `None` if the client has not reconnected, or once the time is over.
    pub(super) fn left_to_meet(&self) -> Option<Duration> {
        MEETING_MAX.checked_sub(self.back?.elapsed())
    }
}
