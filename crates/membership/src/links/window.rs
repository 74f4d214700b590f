//! Replay protection of a session: a sliding window of the counters seen (the algorithm of RFC
//! 6479).

/// Number of counters, up to the highest one seen, for which the window knows whether they were
/// seen. A sender counts all its datagrams, so a burst to a thousand members may lie between two
/// datagrams to one member.
pub(super) const WINDOW: u64 = 2048;

const WORD: u64 = u64::BITS as u64;
const WORDS: u64 = WINDOW / WORD + 1;

/// The counters seen among the last [`WINDOW`].
#[derive(Clone, Debug)]
pub(super) struct ReplayWindow {
    /// One more than the highest counter seen; 0 if none was seen.
    next: u64,
    words: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// Creates an empty window.
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            words: [0; WORDS as usize],
        }
    }

    /// Returns whether this counter was not seen and is not too old to tell.
    pub(super) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= WINDOW && self.words[slot(counter)] & bit(counter) == 0
    }

    /// Marks this counter as seen. The sender of its datagram must be authenticated before.
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            self.clear_words_up_to(counter / WORD);
            self.next = counter.saturating_add(1);
        }
        self.words[slot(counter)] |= bit(counter);
    }

    /// Clears the words that the window enters when its end moves into word `last`.
    fn clear_words_up_to(&mut self, last: u64) {
        let first = self.next.div_ceil(WORD);
        let count = (last + 1).saturating_sub(first).min(WORDS);
        for word in (last + 1 - count)..=last {
            self.words[(word % WORDS) as usize] = 0;
        }
    }
}

fn slot(counter: u64) -> usize {
    (counter / WORD % WORDS) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_is_accepted_once() {
        let mut window = ReplayWindow::new();
        for counter in [0, 5, 3, 2047, 2048, 2100, 63, 64, u64::MAX - 1] {
            if counter == 63 || counter == 64 {
                assert_eq!(window.is_fresh(counter), 2101 - counter <= WINDOW);
                continue;
            }
            assert!(window.is_fresh(counter), "{counter}");
            window.mark(counter);
            assert!(!window.is_fresh(counter), "{counter} again");
        }
        assert!(!window.is_fresh(2100), "too old to tell");
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_seen_counters(
            steps in prop::collection::vec((0u64..3, 0u64..4200), 1..300),
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut base = 0u64;
            for (kind, offset) in steps {
                let counter = match kind {
                    0 => base + offset % 70,
                    1 => base.saturating_sub(offset % 2100),
                    _ => base + offset,
                };
                let next = seen.last().map_or(0, |highest| highest + 1);
                let recent = counter >= next || next - counter <= WINDOW;
                let fresh = recent && !seen.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), fresh, "counter {}", counter);
                if fresh {
                    window.mark(counter);
                    seen.insert(counter);
                }
                base = base.max(counter);
            }
        }
    }
}
