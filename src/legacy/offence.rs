//! What older peers do wrong: counted by address, and told of at a bounded rate.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::rate::PER_SECOND;
use crate::bucket::TokenBucket;

/// Addresses whose offences are remembered. Beyond it those give way that only sent datagrams,
/// whose sender can be forged, and of them the one that was quiet for the longest time.
pub const OFFENDERS_MAX: usize = 64;
/// How long an offence is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long nothing more is told of an address of which something was told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// What is told of all addresses together, at once.
const TOLD_BURST: u32 = 16;
/// And in the long run.
const TOLD_PERIOD: Duration = Duration::from_secs(10);

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// Over its rate; what was over was not read.
    #[error("sends more than {PER_SECOND} datagrams a second")]
    Flood,
    /// A `File` answer from one that is no member and was not asked.
    #[error("answers a question that it was not asked")]
    StrayAnswer,
    /// A transfer's header that says no size, or another name.
    #[error("sent a header that is not of the file asked for")]
    WrongHeader,
    /// Less than it had announced.
    #[error("ended a transfer before the size that it had announced")]
    EarlyEnd,
    /// More than it had announced.
    #[error("sent more than the size that it had announced")]
    Surplus,
    /// Nothing, or a drip.
    #[error("sent too slowly, or nothing")]
    TooSlow,
}

impl Offence {
    /// Whether the sender could have been another than its address says.
    fn is_forgeable(self) -> bool {
        matches!(self, Self::Flood | Self::StrayAnswer)
    }
}

struct Record {
    count: u64,
    last: Offence,
    at: Instant,
    told_at: Option<Instant>,
}

pub(super) struct Offenders {
    records: BTreeMap<SocketAddrV4, Record>,
    telling: TokenBucket,
}

impl Offenders {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            records: BTreeMap::new(),
            telling: TokenBucket::one_in(TOLD_PERIOD, TOLD_BURST, now),
        }
    }

    /// Counts an offence; says whether it is to be told.
    pub(super) fn note(&mut self, now: Instant, who: SocketAddrV4, what: Offence) -> bool {
        let is_fresh = |record: &Record| now.saturating_duration_since(record.at) < REMEMBERED;
        if !self.records.contains_key(&who) && self.records.len() >= OFFENDERS_MAX {
            self.records.retain(|_, record| is_fresh(record));
            self.make_room();
        }
        let record = self.records.entry(who).or_insert(Record {
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

    fn make_room(&mut self) {
        if self.records.len() < OFFENDERS_MAX {
            return;
        }
        let key = |record: &Record| (!record.last.is_forgeable(), record.at);
        let first = self.records.iter().min_by_key(|(_, record)| key(record));
        if let Some(address) = first.map(|(address, _)| *address) {
            self.records.remove(&address);
        }
    }

    /// Whether something that is nobody's offence may be told now, at the same rate.
    pub(super) fn may_tell(&mut self, now: Instant) -> bool {
        self.telling.take(1, now)
    }

    /// How often an address offended, and how the last time.
    pub(super) fn of(&self, who: SocketAddrV4) -> Option<(u64, Offence)> {
        let record = self.records.get(&who)?;
        Some((record.count, record.last))
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.records.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> SocketAddrV4 {
        SocketAddrV4::new((0x0a00_0000 + n).into(), 1378)
    }

    #[test]
    fn every_offence_is_counted_and_one_a_minute_is_told() {
        let now = Instant::now();
        let mut offenders = Offenders::new(now);
        let told = (0..120).filter(|second| {
            let at = now + Duration::from_secs(*second);
            offenders.note(at, address(1), Offence::Surplus)
        });
        assert_eq!(told.count(), 2);
        assert_eq!(offenders.of(address(1)), Some((120, Offence::Surplus)));
        assert_eq!(offenders.of(address(2)), None);
    }

    #[test]
    fn forged_senders_are_bounded_told_seldom_and_push_no_liar_out() {
        let now = Instant::now();
        let mut offenders = Offenders::new(now);
        offenders.note(now, address(0), Offence::EarlyEnd);
        let told = (1..100_000).filter(|n| offenders.note(now, address(*n), Offence::Flood));
        assert_eq!(told.count(), TOLD_BURST as usize - 1);
        assert_eq!(offenders.records.len(), OFFENDERS_MAX);
        assert_eq!(offenders.of(address(0)), Some((1, Offence::EarlyEnd)));
    }
}
