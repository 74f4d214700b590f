//! Limits the lines that other programs cause in the journal at INFO: per subject by time, and over
//! all subjects by number. The other lines are logged at DEBUG, and their number at INFO.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use p2pfs_types::bucket::TokenBucket;

/// How long a line about the same subject is not repeated.
const TOLD_AGAIN: Duration = Duration::from_secs(600);
/// Maximum burst of lines over all subjects.
const TOLD_BURST: u32 = 64;
/// Time that restores one line of the burst.
const TOLD_EACH: Duration = Duration::from_secs(60);
/// Maximum remembered subjects. While this many lines are too recent to be repeated, lines about
/// other subjects are suppressed.
const SUBJECTS_MAX: usize = 1024;
/// Minimum interval between reports of the number of suppressed lines.
const SUM_PERIOD: Duration = Duration::from_secs(600);

/// The lines logged lately.
pub(super) struct Paced {
    told: HashMap<String, Instant>,
    all: TokenBucket,
    untold: u64,
    summed_at: Instant,
}

impl Paced {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            all: TokenBucket::one_in(TOLD_EACH, TOLD_BURST, now),
            untold: 0,
            summed_at: now,
        }
    }

    /// Returns whether a line about a subject may be logged now; counts it if not.
    pub(super) fn is_told(&mut self, now: Instant, subject: &str) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < TOLD_AGAIN;
        if self.told.len() >= SUBJECTS_MAX {
            self.told.retain(|_, at| is_recent(at));
        }
        let is_due = self.told.get(subject).is_none_or(|at| !is_recent(at));
        let is_room = self.told.len() < SUBJECTS_MAX || self.told.contains_key(subject);
        let is_told = is_due && is_room && self.all.take(1, now);
        if is_told {
            self.told.insert(subject.to_owned(), now);
        } else {
            self.untold += 1;
        }
        is_told
    }

    /// Returns the number of lines suppressed since the last sum, once a period has passed.
    pub(super) fn sum(&mut self, now: Instant) -> Option<u64> {
        if self.untold == 0 || now.saturating_duration_since(self.summed_at) < SUM_PERIOD {
            return None;
        }
        self.summed_at = now;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_peer_is_reported_occasionally_with_a_summary() {
        let begin = Instant::now();
        let mut paced = Paced::new(begin);
        let at = |s| begin + Duration::from_secs(s);
        let told = (0..600).filter(|s| paced.is_told(at(*s), "up bob 192.0.2.1"));
        assert_eq!(told.count(), 1);
        assert_eq!(paced.sum(at(599)), None);
        assert_eq!(paced.sum(at(600)), Some(599));
        assert_eq!(paced.sum(at(1200)), None);
        assert!(paced.is_told(at(600), "up bob 192.0.2.1"));
        assert!(paced.is_told(at(601), "down bob 192.0.2.1"));
    }

    #[test]
    fn new_peer_names_write_few_lines_and_are_bounded() {
        let begin = Instant::now();
        let mut paced = Paced::new(begin);
        let told = (0..100_000).filter(|n| paced.is_told(begin, &format!("up {n}")));
        assert_eq!(told.count(), TOLD_BURST as usize);
        let day = 24 * 3600;
        let later = |s| begin + Duration::from_secs(s);
        let told = (0..day).filter(|s| paced.is_told(later(*s), &format!("up again {s}")));
        assert!(told.count() <= (day / TOLD_EACH.as_secs()) as usize + TOLD_BURST as usize);
        assert!(paced.told.len() <= SUBJECTS_MAX);
    }
}
