//! Silence of a peer: whether it answers nothing, and when it is tried again.

use std::time::{Duration, Instant};

use super::hedge_policy::{LOST_MIN, SILENT_MIN};
use super::pause::GrowingPause;

/// Pause before a silent peer gets another request although an answering peer has the range, and
/// before a node of a swarm owns stripes again after one of its stripes was late. It is longer than
/// the occasional halt of a machine.
pub(super) const TRY: GrowingPause = GrowingPause {
    first: Duration::from_secs(1),
    most: Duration::from_secs(16),
};

/// How long the longest recent pause of a peer counts, unless another one is at least half as long.
const PAUSE_LASTS: Duration = Duration::from_secs(60);

/// Longest recent pause between bytes of a peer while a request to it was open. A holder with a rate
/// limit pauses as long as others use its limit, so its pauses are not silence. A pause of
/// [`LOST_MIN`] or more does not count: it is the halt of a machine.
#[derive(Debug, Default)]
pub(super) struct RecentPause {
    longest: Duration,
    recorded_at: Option<Instant>,
}

impl RecentPause {
    /// Records a pause that bytes ended.
    pub(super) fn record(&mut self, now: Instant, pause: Duration) {
        let before = self.longest_at(now);
        if pause < LOST_MIN && pause * 2 >= before {
            self.longest = pause.max(before);
            self.recorded_at = Some(now);
        }
    }

    /// Returns the pause, or zero if none is recent.
    pub(super) fn longest_at(&self, now: Instant) -> Duration {
        let is_recent = |at| now.saturating_duration_since(at) < PAUSE_LASTS;
        if self.recorded_at.is_some_and(is_recent) {
            self.longest
        } else {
            Duration::ZERO
        }
    }
}

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

    /// Returns the minimum time for which the peer may send nothing before it counts as silent again.
    /// It doubles with each try. Otherwise a try could never show that the peer pauses for longer
    /// than [`SILENT_MIN`].
    pub(super) fn patience(&self) -> Duration {
        let doubled = SILENT_MIN * (1 << self.tries.min(8));
        doubled.min(LOST_MIN)
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

    #[test]
    fn the_longest_pause_counts_while_similar_ones_follow_and_is_forgotten_then() {
        let (start, mut recent) = (Instant::now(), RecentPause::default());
        let ms = Duration::from_millis;
        let mut after = |seconds, pause| {
            let now = start + Duration::from_secs(seconds);
            recent.record(now, pause);
            recent.longest_at(now)
        };
        assert_eq!(after(0, ms(300)), ms(300));
        assert_eq!(after(1, LOST_MIN), ms(300), "a halt does not count");
        assert_eq!(after(50, ms(150)), ms(300));
        assert_eq!(after(100, ms(1)), ms(300));
        assert_eq!(after(110, ms(1)), ms(1));
    }
}
