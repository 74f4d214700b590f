//! One node's log as we hold it: its rows in order, and the sums that its head vouches for.

use super::digest::SetDigest;
use super::row::Row;
use super::rows::Rows;
use super::staged::Staged;
use super::{LogPart, Pull, TOMBSTONE_RATIO, TOMBSTONES_MIN};
use p2pfs_proto::wire::native::record::{Fact, Head, SignedHead};
use p2pfs_types::id::NodeId;

/// A log and how far it has come.
#[derive(Default)]
pub(super) struct Log {
    /// Which life of the log `rows` are of; 0 is none.
    pub epoch: u64,
    /// Everything up to here is in `rows`.
    pub sequence: u64,
    /// Tombstones up to here are gone, or are let go by steps.
    pub floor: u64,
    /// Up to where they are gone.
    pub cleared: u64,
    pub rows: Rows,
    /// Rows of an earlier life: listed until the new life is complete, or they are worked off.
    pub old: Rows,
    /// Whether `old` may still be confirmed by a pull that is under way.
    pub staging: bool,
    /// Live rows.
    pub count: u64,
    pub tombstones: u64,
    pub digest: SetDigest,
    /// What was verified last; of the own log, what was signed last.
    pub head: Option<SignedHead>,
    /// The newest head heard.
    pub wanted: Option<Head>,
    /// While a whole log is pulled: the sequence that its first part's head had.
    pub base: u64,
    /// Whether the rows are what `head` says.
    pub complete: bool,
    /// Pulls that did not fit their head since a log was whole and as new as the newest head.
    pub failures: u32,
    /// The digest with the rows that come is known: it is not computed again.
    pub is_summed: bool,
    /// Being forgotten: ends when `old` is worked off.
    pub forgotten: bool,
    /// It gave way to those who are there: not pulled before its author is.
    pub gave_way: bool,
    /// Which departure of a node its author's last one was; 0 where it was not there yet.
    pub left: u64,
    pub pending: Pending,
    /// Parts of a pull that goes on.
    pub staged: Option<Staged>,
}

/// How far a log has come, with what is staged.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub epoch: u64,
    pub sequence: u64,
    pub base: u64,
    pub records: usize,
}

/// What of a log is not stored yet.
#[derive(Default)]
pub(super) struct Pending {
    /// Nothing that is stored holds any more.
    pub anew: bool,
    /// The head or the counters changed.
    pub state: bool,
    pub touched: Vec<u64>,
}

impl Pending {
    /// The record of a sequence came or went.
    pub(crate) fn touch(&mut self, sequence: u64) {
        self.touched.push(sequence);
    }

    /// Everything stored is void.
    pub(crate) fn restart(&mut self) {
        *self = Self {
            anew: true,
            state: true,
            touched: Vec::new(),
        };
    }

    /// The sequences that came or went, each once, at most `limit`.
    pub(crate) fn take(&mut self, limit: usize) -> Vec<u64> {
        self.touched.sort_unstable();
        self.touched.dedup();
        let rest = self.touched.split_off(self.touched.len().min(limit));
        std::mem::replace(&mut self.touched, rest)
    }
}

impl Log {
    /// Takes a row in at the end.
    pub(crate) fn push(&mut self, row: Row, fact: &Fact) {
        if row.is_tombstone() {
            self.tombstones += 1;
        } else {
            self.count += 1;
            if !self.is_summed {
                self.digest.add(fact);
            }
        }
        self.pending.touch(row.sequence);
        self.rows.push(row);
    }

    /// Takes out a row that is in `rows` or `old`; `fact` is what it says.
    pub(crate) fn take(&mut self, row: &Row, fact: &Fact) {
        if !self.rows.get(row.sequence).is_some_and(|own| own.is(row)) {
            self.old.remove(row.sequence);
            return;
        }
        self.rows.remove(row.sequence);
        self.pending.touch(row.sequence);
        if row.is_tombstone() {
            self.tombstones -= 1;
        } else {
            self.count -= 1;
            if !self.is_summed {
                self.digest.remove(fact);
            }
        }
    }

    /// Makes all rows old ones and begins another life. Rows that were old already are given back:
    /// nothing confirms them any more.
    #[must_use]
    pub(crate) fn begin(&mut self, epoch: u64) -> Rows {
        let outdated = std::mem::replace(&mut self.old, std::mem::take(&mut self.rows));
        self.epoch = epoch;
        self.sequence = 0;
        self.floor = 0;
        self.cleared = 0;
        self.base = 0;
        self.count = 0;
        self.tombstones = 0;
        self.digest = SetDigest::default();
        self.complete = false;
        self.is_summed = false;
        self.staging = false;
        self.staged = None;
        self.pending.restart();
        outdated
    }

    /// Whether the rows are what a head says.
    pub(crate) fn fits(&self, head: &Head) -> bool {
        self.count == head.count && self.digest.digest() == head.digest
    }

    /// What to ask for to come to a head: a suffix where that is safe, else everything.
    ///
    /// A suffix is safe where no tombstone was dropped that we have not seen: none above what we
    /// have, or, while a whole log is pulled, above what its head was when that began.
    pub(crate) fn pull_to(&self, author: NodeId, head: &Head) -> Pull {
        let reach = self.reach();
        let safe = reach.epoch == head.epoch && head.floor <= reach.sequence.max(reach.base);
        Pull {
            author,
            epoch: head.epoch,
            after: if safe { reach.sequence } else { 0 },
        }
    }

    /// Where the floor should be so that tombstones do not outgrow the live rows.
    pub(crate) fn floor_to_be(&self) -> Option<u64> {
        let limit = TOMBSTONES_MIN.max(self.count / TOMBSTONE_RATIO);
        if self.tombstones <= limit {
            return None;
        }
        let half = usize::try_from(self.tombstones / 2).unwrap_or(usize::MAX);
        let mut tombstones = self.rows.after(0).filter(|row| row.is_tombstone());
        tombstones.nth(half).map(|row| row.sequence)
    }

    /// The tombstones up to the floor that end next, of so many rows that are looked at; how many
    /// these are.
    pub(crate) fn tombstones_to_clear(&mut self, limit: usize) -> (Vec<Row>, usize) {
        if self.tombstones == 0 {
            self.cleared = self.floor;
        }
        let rows = self.rows.after(self.cleared).take(limit);
        let rows = rows.take_while(|row| row.sequence <= self.floor);
        let rows: Vec<Row> = rows.cloned().collect();
        let looked_at = rows.len();
        self.cleared = match rows.last() {
            Some(last) if looked_at == limit => last.sequence,
            _ => self.floor,
        };
        let tombstones = rows.into_iter().filter(|row| row.is_tombstone());
        (tombstones.collect(), looked_at)
    }

    /// How far it has come.
    pub(crate) fn reach(&self) -> Reach {
        match &self.staged {
            Some(staged) => Reach {
                epoch: staged.epoch,
                sequence: staged.last_sequence(),
                base: staged.base,
                records: staged.records.len() + if staged.fresh { 0 } else { self.rows.len() },
            },
            None => Reach {
                epoch: self.epoch,
                sequence: self.sequence,
                base: self.base,
                records: self.rows.len(),
            },
        }
    }

    /// Drops what is staged where a part does not go on from it.
    pub(crate) fn drop_staged_unless_continued(&mut self, part: &LogPart) {
        if self
            .staged
            .as_ref()
            .is_some_and(|staged| !staged.is_continued_by(part))
        {
            self.staged = None;
        }
    }

    /// How many parts wait.
    pub(crate) fn staged_parts(&self) -> usize {
        self.staged.as_ref().map_or(0, |staged| staged.parts)
    }
}
