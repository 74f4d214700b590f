//! Counters of the sessions that ended. A challenge is valid for up to 20 s, so its answer could be
//! repeated by anyone after the session that gave it has ended, as at a restart of the peer. The
//! process that ended would then seem to be alive beside the next one, as if its key were copied.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::window::ReplayWindow;
use p2pfs_proto::wire::native::udp::Salt;

/// Maximum number of ended sessions whose counters are remembered, about 300 bytes each. The one
/// that ended first is forgotten first. Only members have sessions.
pub(crate) const ENDED_SESSIONS_MAX: usize = 1024;

/// The replay windows of ended sessions, by the salt of their process.
pub(super) struct EndedSessions(LruCache<Salt, ReplayWindow>);

impl EndedSessions {
    pub(super) fn new() -> Self {
        let capacity = NonZeroUsize::new(ENDED_SESSIONS_MAX).expect("a capacity above zero");
        Self(LruCache::new(capacity))
    }

    /// Records a session that ended.
    pub(super) fn add(&mut self, salt: Salt, window: ReplayWindow) {
        self.0.push(salt, window);
    }

    /// Returns whether the ended session of this salt, if there is one, has not seen this counter
    /// ([`ReplayWindow::is_fresh`]).
    pub(super) fn is_fresh(&self, salt: &Salt, counter: u64) -> bool {
        let window = self.0.peek(salt);
        window.is_none_or(|window| window.is_fresh(counter))
    }

    /// Removes and returns the window of a session that begins again, or an empty one.
    pub(super) fn resume(&mut self, salt: &Salt) -> ReplayWindow {
        self.0.pop(salt).unwrap_or_else(ReplayWindow::new)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
