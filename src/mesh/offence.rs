//! What mesh peers do wrong: counted by who they say they are and where from, and told of at a
//! bounded rate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::rate::Bucket;
use crate::wire::mesh::{BYTES_MAX, LINE_MAX_BYTES, LISTED_MAX};

/// Culprits that are remembered; beyond it the one that was quiet for the longest time gives way.
pub const OFFENDERS_MAX: usize = 64;
/// How long an offence is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long nothing more is told of one of whom something was told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// What is told of all together, at once.
const TOLD_BURST: u32 = 16;
/// And in the long run.
const TOLD_PER_SECOND: f64 = 0.1;

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// A first line that is none.
    #[error("begins with what is no line of the protocol")]
    NoHello,
    /// Too many lines.
    #[error("sends more lines than anyone says or reads")]
    Flood,
    /// No line end.
    #[error("sent a line of more than {LINE_MAX_BYTES} bytes")]
    EndlessLine,
    /// A payload that may not be.
    #[error("announced a payload that is not of 0 to {BYTES_MAX} bytes")]
    BadBytes,
    /// A payload's length that is no number.
    #[error("sent a payload's length that is no number")]
    BadLength,
    /// A long list.
    #[error("listed more than {LISTED_MAX} addresses at once")]
    ManyAddresses,
    /// Nothing, or a drip.
    #[error("sent too slowly, or nothing")]
    TooSlow,
    /// It takes nothing of what it is sent.
    #[error("does not read what it is sent")]
    NeverReads,
    /// A file message that means nothing.
    #[error("sent a message about a file that means nothing")]
    BadFile,
    /// More files at a time, or a second, than are taken.
    #[error("pushes more files at once than are taken")]
    ManyFiles,
    /// A file that does not come to its hash.
    #[error("sent a file that does not fit its hash")]
    WrongHash,
    /// A file that does not come to its size.
    #[error("sent a file that does not fit the size that it had announced")]
    WrongSize,
}

/// Who it was: an ID alone is whatever its sender says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Where its connection came from, or was made to.
    pub ip: IpAddr,
    /// The ID that it gave; empty before it gave one.
    pub id: String,
    /// The name that it gave; empty before it gave one.
    pub name: String,
}

struct Record {
    count: u64,
    last: Offence,
    at: Instant,
    told_at: Option<Instant>,
}

pub(super) struct Offenders {
    records: BTreeMap<Culprit, Record>,
    telling: Bucket,
}

impl Offenders {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            records: BTreeMap::new(),
            telling: Bucket::full(now, TOLD_BURST, TOLD_PER_SECOND),
        }
    }

    /// Counts an offence; says whether it is to be told.
    pub(super) fn note(&mut self, now: Instant, who: &Culprit, what: Offence) -> bool {
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
        let is_told = self.telling.take(now);
        if is_told {
            record.told_at = Some(now);
        }
        is_told
    }

    fn make_room(&mut self, now: Instant) {
        let is_fresh = |record: &Record| now.saturating_duration_since(record.at) < REMEMBERED;
        self.records.retain(|_, record| is_fresh(record));
        if self.records.len() >= OFFENDERS_MAX {
            let first = self.records.iter().min_by_key(|(_, record)| record.at);
            if let Some(who) = first.map(|(who, _)| who.clone()) {
                self.records.remove(&who);
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Culprit, u64, Offence)> {
        let records = self.records.iter();
        records.map(|(who, record)| (who, record.count, record.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn culprit(n: usize) -> Culprit {
        Culprit {
            ip: [10, 0, 0, 1].into(),
            id: format!("{n:032x}"),
            name: "eve".to_owned(),
        }
    }

    #[test]
    fn every_offence_is_counted_and_one_a_minute_is_told() {
        let now = Instant::now();
        let mut offenders = Offenders::new(now);
        let told = (0..120).filter(|second| {
            let at = now + Duration::from_secs(*second);
            offenders.note(at, &culprit(1), Offence::Flood)
        });
        assert_eq!(told.count(), 2);
        let counted: Vec<_> = offenders
            .all()
            .map(|(_, count, last)| (count, last))
            .collect();
        assert_eq!(counted, [(120, Offence::Flood)]);
    }

    #[test]
    fn ever_new_names_are_bounded_and_told_seldom() {
        let now = Instant::now();
        let mut offenders = Offenders::new(now);
        let told = (0..100_000).filter(|n| offenders.note(now, &culprit(*n), Offence::NoHello));
        assert_eq!(told.count(), TOLD_BURST as usize);
        assert_eq!(offenders.records.len(), OFFENDERS_MAX);
    }
}
