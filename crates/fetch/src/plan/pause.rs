//! Pauses that grow with each repetition: between tries of a peer, surveys and searches.

use std::time::Duration;

/// Pause that doubles with each repetition, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GrowingPause {
    pub first: Duration,
    pub most: Duration,
}

impl GrowingPause {
    /// Returns the pause after this many earlier ones.
    pub(super) fn after(self, earlier: u32) -> Duration {
        let factor = 1u32.checked_shl(earlier).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_limit_however_often_it_repeats() {
        let [first, most] = [10, 55].map(Duration::from_millis);
        let pause = GrowingPause { first, most };
        let pauses = [0, 1, 2, 3, 31, 32, u32::MAX].map(|earlier| pause.after(earlier));
        assert_eq!(
            pauses.map(|it| it.as_millis()),
            [10, 20, 40, 55, 55, 55, 55]
        );
    }
}
