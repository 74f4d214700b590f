//! Silence of a peer: whether it answers nothing, and when it is tried again.

use std::time::{Duration, Instant};

use super::pause::GrowingPause;

/// Pause before a silent peer gets another request although an answering peer has the range, and
/// before a node of a swarm owns stripes again after one of its stripes was late. It is longer than
/// the occasional halt of a machine.
pub(super) const TRY: GrowingPause = GrowingPause {
    first: Duration::from_secs(1),
    most: Duration::from_secs(16),
};

/// State of a peer's silence.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When the peer is tried again, if it is silent.
    try_at: Option<Instant>,
    tries: u32,
}

impl Silence {
    /// Returns whether the peer is silent.
    pub(super) fn is_silent(&self) -> bool {
        self.try_at.is_some()
    }

    /// Marks the peer as silent. Returns whether that is news.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let news = !self.is_silent();
        self.try_at.get_or_insert(now + TRY.first);
        news
    }

    /// Returns whether the peer may be asked although an answering peer has the range: it is not
    /// silent, or its next try is due.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        self.try_at.is_none_or(|at| at <= now)
    }

    /// Records a request to the peer. If a try of the silent peer was due, this request is the try,
    /// and the next try is scheduled. Requests sent before the next try is due count as the same
    /// try.
    pub(super) fn tried(&mut self, now: Instant) {
        if self.is_silent() && self.may_be_tried(now) {
            self.tries += 1;
            self.try_at = Some(now + TRY.after(self.tries));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_tried_after_growing_pauses_up_to_a_limit() {
        let (mut silence, mut now) = (Silence::default(), Instant::now());
        assert!(silence.may_be_tried(now));
        assert!(silence.begin(now) && !silence.begin(now));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(!silence.may_be_tried(now));
            let at = silence.try_at.unwrap();
            pauses.push((at - now).as_secs());
            now = at;
            silence.tried(now);
            silence.tried(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16, 16]);
    }
}
