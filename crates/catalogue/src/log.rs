//! One node's log as held here: its rows in order, and the sums that its head states.

use super::digest::SetDigest;
use super::row::Row;
use super::rows::Rows;
use super::staged::StagedParts;
use super::{LogPart, Pull, TOMBSTONE_RATIO, TOMBSTONES_MIN};
use p2pfs_proto::wire::native::record::{Fact, Head, SignedHead};
use p2pfs_types::id::NodeId;

/// A log and its progress.
#[derive(Default)]
pub(super) struct Log {
    /// The epoch of `rows`. 0 means that the log has none yet.
    pub epoch: u64,
    /// The last sequence up to which `rows` is complete.
    pub sequence: u64,
    /// Sequence up to which the author dropped tombstones. Here they are dropped in steps.
    pub floor: u64,
    /// Sequence up to which tombstones are dropped here.
    pub cleared: u64,
    pub rows: Rows,
    /// Rows from before the log was last restarted ([`Log::begin`]): an earlier *life* of the log.
    /// They are listed until the new life is complete, or until they are removed in steps.
    pub old: Rows,
    /// Whether a running pull may still confirm `old`.
    pub staging: bool,
    /// Number of rows that are not tombstones.
    pub count: u64,
    pub tombstones: u64,
    pub digest: SetDigest,
    /// The last verified head. For the own log, the last signed head.
    pub head: Option<SignedHead>,
    /// The newest head received.
    pub wanted: Option<Head>,
    /// The sequence in the head of the first part, while a whole log is being pulled.
    pub base: u64,
    /// Whether the rows match `head`.
    pub complete: bool,
    /// Pulls that did not match their head since a newer head arrived, or since the log last
    /// matched the newest head.
    pub failures: u32,
    /// Whether the digest already includes the rows that are being added. It is then not updated.
    pub is_summed: bool,
    /// Whether the log is being forgotten. It ends when `old` is empty.
    pub forgotten: bool,
    /// Whether the log was dropped in favour of live authors. It is not pulled before its author is
    /// live again.
    pub yielded_to_live: bool,
    /// Number of its author's last departure. 0 if it never departed.
    pub left: u64,
    pub pending: UnsavedRecords,
    /// Parts of a running pull.
    pub staged: Option<StagedParts>,
}

/// Progress of a log, including its staged parts.
#[derive(Clone, Copy)]
pub(super) struct LogProgress {
    pub epoch: u64,
    pub sequence: u64,
    pub base: u64,
    pub records: usize,
}

/// Changes of a log that are not stored yet.
#[derive(Default)]
pub(super) struct UnsavedRecords {
    /// Whether everything stored of the log is outdated.
    pub anew: bool,
    /// Whether the head or the counters changed.
    pub state: bool,
    pub touched: Vec<u64>,
}

impl UnsavedRecords {
    /// Records that the row of a sequence was added or removed.
    pub(crate) fn touch(&mut self, sequence: u64) {
        self.touched.push(sequence);
    }

    /// Marks everything stored as outdated.
    pub(crate) fn restart(&mut self) {
        *self = Self {
            anew: true,
            state: true,
            touched: Vec::new(),
        };
    }

    /// Removes and returns the changed sequences, each once, at most `limit`.
    pub(crate) fn take(&mut self, limit: usize) -> Vec<u64> {
        self.touched.sort_unstable();
        self.touched.dedup();
        let rest = self.touched.split_off(self.touched.len().min(limit));
        std::mem::replace(&mut self.touched, rest)
    }
}

impl Log {
    /// Appends a row.
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

    /// Removes a row from `rows` or `old`. `fact` is the fact of the row.
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

    /// Makes all rows old ones and begins another life. Returns the rows that were old already,
    /// because no pull confirms them any longer.
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

    /// Returns whether the rows match a head.
    pub(crate) fn fits(&self, head: &Head) -> bool {
        self.count == head.count && self.digest.digest() == head.digest
    }

    /// Returns the pull that leads to a head: a suffix if that is safe, otherwise the whole log.
    ///
    /// A suffix is safe if the author dropped no tombstone that is missing here. That holds if the
    /// floor is not above the last sequence held here. While a whole log is being pulled, it also
    /// holds if the floor is not above the sequence that the head had at the start.
    pub(crate) fn pull_to(&self, author: NodeId, head: &Head) -> Pull {
        let reach = self.reach();
        let safe = reach.epoch == head.epoch && head.floor <= reach.sequence.max(reach.base);
        Pull {
            author,
            epoch: head.epoch,
            after: if safe { reach.sequence } else { 0 },
        }
    }

    /// Returns the floor that keeps tombstones in proportion to the other rows. Returns `None` if
    /// there are few enough tombstones.
    pub(crate) fn floor_to_be(&self) -> Option<u64> {
        let limit = TOMBSTONES_MIN.max(self.count / TOMBSTONE_RATIO);
        if self.tombstones <= limit {
            return None;
        }
        let half = usize::try_from(self.tombstones / 2).unwrap_or(usize::MAX);
        let mut tombstones = self.rows.after(0).filter(|row| row.is_tombstone());
        tombstones.nth(half).map(|row| row.sequence)
    }

    /// Returns the next tombstones to drop, among `limit` rows up to the floor, and the number of
    /// rows examined.
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

    /// Returns the progress of the log, including its staged parts.
    pub(crate) fn reach(&self) -> LogProgress {
        match &self.staged {
            Some(staged) => LogProgress {
                epoch: staged.epoch,
                sequence: staged.last_sequence(),
                base: staged.base,
                records: staged.records.len() + if staged.fresh { 0 } else { self.rows.len() },
            },
            None => LogProgress {
                epoch: self.epoch,
                sequence: self.sequence,
                base: self.base,
                records: self.rows.len(),
            },
        }
    }

    /// Drops the staged parts if a part does not continue them.
    pub(crate) fn drop_staged_unless_continued(&mut self, part: &LogPart) {
        if self
            .staged
            .as_ref()
            .is_some_and(|staged| !staged.is_continued_by(part))
        {
            self.staged = None;
        }
    }

    /// Returns the number of staged parts.
    pub(crate) fn staged_parts(&self) -> usize {
        self.staged.as_ref().map_or(0, |staged| staged.parts)
    }
}
