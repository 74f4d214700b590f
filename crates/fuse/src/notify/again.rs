//! Repeated notifications. An answer can cross a notification: it was made from the old namespace,
//! but the kernel received or processed it after the notification.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::WAITING_MAX;
use p2pfs_fs::Stale;

/// Delay after which a notification is repeated.
const CROSSING_TIME: Duration = Duration::from_millis(100);
/// How long an answer may remain unprocessed by the program that requested it. A listing is
/// invalidated once more after this time. The kernel guards names and attributes against answers
/// that cross a notification (fs/fuse/dir.c), but not the pages of a listing.
pub(super) const SETTLING_TIME: Duration = Duration::from_secs(1);

/// Sent notifications, by the time at which they are repeated.
#[derive(Default)]
pub(super) struct RepeatQueue {
    crossing: VecDeque<(Instant, Vec<Stale>)>,
    settling: VecDeque<(Instant, Vec<Stale>)>,
    /// Number of notifications in both queues.
    count: usize,
}

impl RepeatQueue {
    /// Records notifications that were sent now. If too many are pending, they become one for
    /// everything.
    pub(super) fn record(&mut self, mut stale: Vec<Stale>, now: Instant) {
        if stale.is_empty() {
            return;
        }
        if self.count + stale.len() > WAITING_MAX {
            *self = Self::default();
            stale = vec![Stale::Everything];
        }
        self.count += stale.len();
        self.crossing.push_back((now + CROSSING_TIME, stale));
    }

    /// Returns the time at which the first repetition is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = |words: &VecDeque<(Instant, Vec<Stale>)>| words.front().map(|it| it.0);
        first(&self.crossing)
            .into_iter()
            .chain(first(&self.settling))
            .min()
    }

    /// Takes the notifications that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Stale> {
        let mut due = Vec::new();
        while let Some((_, settled)) = self.settling.pop_front_if(|it| it.0 <= now) {
            self.count -= settled.len();
            due.extend(settled);
        }
        while let Some((_, crossed)) = self.crossing.pop_front_if(|it| it.0 <= now) {
            let listings = crossed.iter().filter(|stale| is_of_listings(stale));
            let listings: Vec<Stale> = listings.cloned().collect();
            self.count = self.count + listings.len() - crossed.len();
            if !listings.is_empty() {
                self.settling.push_back((now + SETTLING_TIME, listings));
            }
            due.extend(crossed);
        }
        due
    }
}

fn is_of_listings(stale: &Stale) -> bool {
    matches!(stale, Stale::Listing { .. } | Stale::Everything)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Stale = Stale::Listing { ino: 7 };
    const ATTRIBUTES: Stale = Stale::Attributes { ino: 8 };

    #[test]
    fn each_notification_is_repeated_once_and_a_listing_twice() {
        let (mut again, now) = (RepeatQueue::default(), Instant::now());
        again.record(vec![], now);
        assert_eq!(again.next_due(), None);
        again.record(vec![LISTING, ATTRIBUTES], now);
        assert_eq!(again.next_due(), Some(now + CROSSING_TIME));
        assert_eq!(again.take_due(now), []);
        let crossed = now + CROSSING_TIME;
        assert_eq!(again.take_due(crossed), [LISTING, ATTRIBUTES]);
        assert_eq!(again.next_due(), Some(crossed + SETTLING_TIME));
        assert_eq!(again.take_due(crossed + SETTLING_TIME), [LISTING]);
        assert_eq!((again.next_due(), again.count), (None, 0));
    }

    #[test]
    fn repeats_beyond_the_limit_become_one_notification() {
        let (mut again, now) = (RepeatQueue::default(), Instant::now());
        (0..=WAITING_MAX).for_each(|_| again.record(vec![ATTRIBUTES], now));
        assert_eq!(again.take_due(now + CROSSING_TIME), [Stale::Everything]);
    }
}
