//! Who broke the rules of a protocol: how often, in which way the last time, and whether a person
//! is to be told again.
//!
//! One ledger for every plane, each with its own offences and its own way to name who it was. It
//! only remembers, at most [`OFFENDERS_MAX`] of them: what follows from an offence is its owner's.
//! Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bucket::TokenBucket;

/// Offenders that are remembered. Beyond it those give way whose last offence somebody else could
/// have made in their name, and of them the one that was quiet for the longest time.
pub const OFFENDERS_MAX: usize = 64;
/// How long an offence is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long nothing more is told of one of whom something was told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// What is told of all together, at once.
const TOLD_BURST: u32 = 16;
/// And in the long run.
const TOLD_PERIOD: Duration = Duration::from_secs(10);

/// What a peer did, as its plane names it.
pub trait Offending: Copy {
    /// Whether another could have done it in the peer's name.
    fn is_forgeable(self) -> bool {
        false
    }
}

struct Record<What> {
    count: u64,
    last: What,
    at: Instant,
    told_at: Option<Instant>,
}

/// The ledger of one plane.
pub struct Ledger<Who, What> {
    records: BTreeMap<Who, Record<What>>,
    telling: TokenBucket,
}

impl<Who: Ord + Clone, What: Offending> Ledger<Who, What> {
    pub fn new(now: Instant) -> Self {
        Self {
            records: BTreeMap::new(),
            telling: TokenBucket::one_in(TOLD_PERIOD, TOLD_BURST, now),
        }
    }

    /// Counts an offence; says whether it is to be told.
    pub fn note(&mut self, now: Instant, who: &Who, what: What) -> bool {
        if !self.records.contains_key(who) && self.records.len() >= OFFENDERS_MAX {
            self.make_room(now);
        }
        let record = self.records.entry(who.clone()).or_insert(Record {
            count: 0,
            last: what,
            at: now,
            told_at: None,
        });
        record.count += 1;
        record.last = what;
        record.at = now;
        let told = record.told_at;
        if told.is_some_and(|at| now.saturating_duration_since(at) < TOLD_AGAIN) {
            return false;
        }
        let is_told = self.telling.take(1, now);
        if is_told {
            record.told_at = Some(now);
        }
        is_told
    }

    fn make_room(&mut self, now: Instant) {
        let is_fresh =
            |record: &Record<What>| now.saturating_duration_since(record.at) < REMEMBERED;
        self.records.retain(|_, record| is_fresh(record));
        if self.records.len() < OFFENDERS_MAX {
            return;
        }
        let key = |record: &Record<What>| (!record.last.is_forgeable(), record.at);
        let first = self.records.iter().min_by_key(|(_, record)| key(record));
        if let Some(who) = first.map(|(who, _)| who.clone()) {
            self.records.remove(&who);
        }
    }

    /// Whether something that is nobody's offence may be told now, at the same rate.
    pub fn may_tell(&mut self, now: Instant) -> bool {
        self.telling.take(1, now)
    }

    /// How often somebody offended, and how the last time.
    pub fn of(&self, who: &Who) -> Option<(u64, What)> {
        let record = self.records.get(who)?;
        Some((record.count, record.last))
    }

    /// Everybody, with how often and how the last time.
    pub fn all(&self) -> impl Iterator<Item = (&Who, u64, What)> {
        let records = self.records.iter();
        records.map(|(who, record)| (who, record.count, record.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Deed {
        Proven,
        Forgeable,
    }

    impl Offending for Deed {
        fn is_forgeable(self) -> bool {
            self == Self::Forgeable
        }
    }

    #[test]
    fn every_offence_is_counted_and_one_a_minute_is_told() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        let told = (0..120).filter(|second| {
            let at = now + Duration::from_secs(*second);
            ledger.note(at, &1, Deed::Proven)
        });
        assert_eq!(told.count(), 2);
        assert_eq!(ledger.of(&1), Some((120, Deed::Proven)));
        assert_eq!(ledger.of(&2), None);
        assert_eq!(ledger.all().collect::<Vec<_>>(), [(&1, 120, Deed::Proven)]);
    }

    #[test]
    fn ever_new_names_are_bounded_told_seldom_and_push_no_proven_offender_out() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        ledger.note(now, &0, Deed::Proven);
        let told = (1..100_000).filter(|who| ledger.note(now, who, Deed::Forgeable));
        assert_eq!(told.count(), TOLD_BURST as usize - 1);
        assert_eq!(ledger.records.len(), OFFENDERS_MAX);
        assert_eq!(ledger.of(&0), Some((1, Deed::Proven)));
    }

    #[test]
    fn an_offender_that_was_quiet_for_a_day_is_the_first_to_be_forgotten() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        ledger.note(now, &0, Deed::Proven);
        let later = now + REMEMBERED;
        for who in 1..=OFFENDERS_MAX {
            ledger.note(later, &who, Deed::Forgeable);
        }
        assert_eq!(ledger.of(&0), None);
        assert_eq!(ledger.all().count(), OFFENDERS_MAX);
    }
}
