//! Whether a peer answers nothing, and when it is asked again to see whether it does.

use std::time::{Duration, Instant};

/// The first pause before a silent peer is tried again although another would do: longer than a
/// machine halts now and then.
const TRY_MIN: Duration = Duration::from_secs(1);
/// It doubles with each try, so many times.
const TRIES_DOUBLED_MAX: u32 = 4;

/// Whether a peer answers nothing.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When it is tried again, where it is silent.
    try_at: Option<Instant>,
    tries: u32,
}

impl Silence {
    /// Whether it answers nothing.
    pub(super) fn is_kept(&self) -> bool {
        self.try_at.is_some()
    }

    /// It answers nothing. Whether that is news.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let news = !self.is_kept();
        self.try_at.get_or_insert(now + TRY_MIN);
        news
    }

    /// Whether it may be asked where another would do: it answers, or it is time to see whether it
    /// does again.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        self.try_at.is_none_or(|at| at <= now)
    }

    /// Something is asked of it: the next try is later. What is asked at one time is one try.
    pub(super) fn tried(&mut self, now: Instant) {
        if self.is_kept() && self.may_be_tried(now) {
            self.tries = (self.tries + 1).min(TRIES_DOUBLED_MAX);
            self.try_at = Some(now + TRY_MIN * (1 << self.tries));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_tried_after_pauses_that_grow_to_a_limit() {
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
