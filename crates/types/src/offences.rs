//! The log of protocol violations: their number and the last kind for each offender, and whether to
//! report the next one.
//!
//! Each part of a node that detects violations, for example the membership or the mesh, has its own
//! log, with its own offences and its own identifiers of offenders. A log only remembers, for a
//! limited number of offenders; the consequences are up to its owner. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bucket::TokenBucket;

/// Maximum number of remembered offenders. To make room for another one, a full log drops all
/// offenders without an offence in the last 24 hours. If there are none, it drops the offender with
/// the oldest last offence. It chooses among those whose last offence another node could have
/// forged, or among all if there are none.
pub const OFFENDERS_MAX: usize = 64;
/// Time since its last offence after which an offender is dropped from a full log.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Minimum time between two reports about one offender.
const REPORTED_AGAIN: Duration = Duration::from_secs(60);
/// Maximum number of reports about all offenders in a burst.
const REPORT_BURST: u32 = 16;
/// Time after which one more report about any offender is allowed, after a burst.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

/// An offence of a peer, as the owner of the log defines it.
pub trait Offending: Copy {
    /// Returns whether another node could have forged the offence in the peer's name.
    fn is_forgeable(self) -> bool {
        false
    }
}

struct OffenceRecord<What> {
    count: u64,
    last: What,
    at: Instant,
    reported_at: Option<Instant>,
}

/// When an offence is reported.
enum ReportPolicy {
    /// At the first offence of each offender.
    Once,
    /// At most once a minute for each offender, and at the rate of the bucket for all.
    Paced(TokenBucket),
}

impl ReportPolicy {
    /// Returns whether to report an offender now that was last reported at `reported_at`.
    fn allows(&mut self, reported_at: Option<Instant>, now: Instant) -> bool {
        match self {
            Self::Once => reported_at.is_none(),
            Self::Paced(bucket) => {
                let age = reported_at.map(|at| now.saturating_duration_since(at));
                age.is_none_or(|age| age >= REPORTED_AGAIN) && bucket.take(1, now)
            }
        }
    }
}

/// The log of one owner, with offenders `Who` and offences `What`.
pub struct OffenceLog<Who, What> {
    records: BTreeMap<Who, OffenceRecord<What>>,
    offenders_max: usize,
    policy: ReportPolicy,
}

impl<Who: Ord + Clone, What: Offending> OffenceLog<Who, What> {
    /// Creates an empty log of up to [`OFFENDERS_MAX`] offenders that reports again and again, at a
    /// limited rate.
    pub fn new(now: Instant) -> Self {
        Self::paced(REPORT_PERIOD, REPORT_BURST, now)
    }

    /// Creates an empty log of up to [`OFFENDERS_MAX`] offenders that makes up to `burst` reports
    /// at once, and then one in each `period`.
    pub fn paced(period: Duration, burst: u32, now: Instant) -> Self {
        Self {
            records: BTreeMap::new(),
            offenders_max: OFFENDERS_MAX,
            policy: ReportPolicy::Paced(TokenBucket::one_in(period, burst, now)),
        }
    }

    /// Creates an empty log of up to `offenders_max` offenders that reports each remembered one
    /// once.
    pub fn reporting_once(offenders_max: usize) -> Self {
        Self {
            records: BTreeMap::new(),
            offenders_max,
            policy: ReportPolicy::Once,
        }
    }

    /// Counts an offence. Returns whether to report it.
    pub fn record(&mut self, now: Instant, who: &Who, what: What) -> bool {
        if !self.records.contains_key(who) && self.records.len() >= self.offenders_max {
            self.make_room(now);
        }
        let record = self.records.entry(who.clone()).or_insert(OffenceRecord {
            count: 0,
            last: what,
            at: now,
            reported_at: None,
        });
        record.count += 1;
        record.last = what;
        record.at = now;
        let is_reported = self.policy.allows(record.reported_at, now);
        if is_reported {
            record.reported_at = Some(now);
        }
        is_reported
    }

    fn make_room(&mut self, now: Instant) {
        let is_fresh =
            |record: &OffenceRecord<What>| now.saturating_duration_since(record.at) < REMEMBERED;
        self.records.retain(|_, record| is_fresh(record));
        if self.records.len() < self.offenders_max {
            return;
        }
        let key = |record: &OffenceRecord<What>| (!record.last.is_forgeable(), record.at);
        let first = self.records.iter().min_by_key(|(_, record)| key(record));
        if let Some(who) = first.map(|(who, _)| who.clone()) {
            self.records.remove(&who);
        }
    }

    /// Returns whether an event that is not an offence may be reported now. Such reports share the
    /// rate of the reports about offences, if the log has one.
    pub fn may_tell(&mut self, now: Instant) -> bool {
        match &mut self.policy {
            ReportPolicy::Once => true,
            ReportPolicy::Paced(bucket) => bucket.take(1, now),
        }
    }

    /// Returns the number of offences of one offender, and the last one.
    pub fn of(&self, who: &Who) -> Option<(u64, What)> {
        let record = self.records.get(who)?;
        Some((record.count, record.last))
    }

    /// Returns when one offender last offended.
    pub fn last_at(&self, who: &Who) -> Option<Instant> {
        Some(self.records.get(who)?.at)
    }

    /// Iterates over all offenders, each with the number of offences and the last one.
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
    fn every_offence_is_counted_and_one_a_minute_is_reported() {
        let now = Instant::now();
        let mut ledger = OffenceLog::new(now);
        let told = (0..120).filter(|second| {
            let at = now + Duration::from_secs(*second);
            ledger.record(at, &1, Deed::Proven)
        });
        assert_eq!(told.count(), 2);
        assert_eq!(ledger.of(&1), Some((120, Deed::Proven)));
        assert_eq!(ledger.of(&2), None);
        assert_eq!(ledger.last_at(&1), Some(now + Duration::from_secs(119)));
        assert_eq!(ledger.all().collect::<Vec<_>>(), [(&1, 120, Deed::Proven)]);
    }

    #[test]
    fn new_names_are_bounded_rarely_reported_and_displace_no_proven_offender() {
        let now = Instant::now();
        let mut ledger = OffenceLog::new(now);
        ledger.record(now, &0, Deed::Proven);
        let told = (1..100_000).filter(|who| ledger.record(now, who, Deed::Forgeable));
        assert_eq!(told.count(), REPORT_BURST as usize - 1);
        assert_eq!(ledger.records.len(), OFFENDERS_MAX);
        assert_eq!(ledger.of(&0), Some((1, Deed::Proven)));
    }

    #[test]
    fn an_offender_quiet_for_a_day_is_the_first_to_be_forgotten() {
        let now = Instant::now();
        let mut ledger = OffenceLog::new(now);
        ledger.record(now, &0, Deed::Proven);
        let later = now + REMEMBERED;
        for who in 1..=OFFENDERS_MAX {
            ledger.record(later, &who, Deed::Forgeable);
        }
        assert_eq!(ledger.of(&0), None);
        assert_eq!(ledger.all().count(), OFFENDERS_MAX);
    }

    #[test]
    fn a_log_that_reports_once_never_reports_an_offender_again() {
        let now = Instant::now();
        let mut log = OffenceLog::reporting_once(1000);
        for day in 0..10 {
            let at = now + REMEMBERED * day;
            let reported = (0..1000).filter(|who| log.record(at, who, Deed::Proven));
            assert_eq!(reported.count(), if day == 0 { 1000 } else { 0 });
        }
        assert_eq!(log.of(&7), Some((10, Deed::Proven)));
    }
}
