//! One node's log as held here: its rows in order, and the sums that its head states.

use super::digest::SetDigest;
use super::row::Row;
use super::rows::Rows;
use super::staged::LogPull;
use super::writes::LogState;
use super::{
    Applied, FRESH_PULLS_MAX, HeadOutcome, Pull, RESTART_GAP, TOMBSTONE_RATIO, TOMBSTONES_MIN,
};
use p2pfs_proto::wire::native::record::{Fact, Head, SignedHead};
use p2pfs_types::id::NodeId;

/// A log and its progress.
#[derive(Default)]
pub(super) struct Log {
    /// The epoch of `rows`. 0 means that the log has none yet.
    pub epoch: u64,
    /// The last sequence up to which `rows` is complete.
    pub sequence: u64,
    pub cleanup: TombstoneCleanup,
    pub rows: Rows,
    /// Rows from before the log was last restarted ([`Log::begin`]): an earlier *life* of the log.
    /// They stay in the merge until a row of the new life replaces them, or until they are removed
    /// in steps.
    pub old: Rows,
    pub totals: LogTotals,
    /// The last verified head. For the own log, the last signed head.
    pub head: Option<SignedHead>,
    pub pull: LogPull,
    /// Whether the log is being forgotten. The log is removed when `old` is empty.
    pub forgotten: bool,
    /// Position of the author's last departure among the departures of all nodes. 0 if the author
    /// never departed.
    pub left: u64,
    pub pending: UnsavedRecords,
}

/// The removal of tombstones.
#[derive(Default)]
pub(super) struct TombstoneCleanup {
    /// Sequence up to which the author dropped tombstones. Here they are dropped in steps.
    pub floor: u64,
    /// Sequence up to which tombstones are dropped here.
    pub cleared: u64,
}

/// The figures about the rows that a head states.
#[derive(Default)]
pub(super) struct LogTotals {
    /// Number of rows that are not tombstones.
    pub count: u64,
    pub tombstones: u64,
    /// Number of rows that releases which speak `p2pfs/3` or less cannot decode.
    pub of_later_form: u64,
    pub digest: SetDigest,
    /// Whether `digest` is not updated for each row, because it is set to a known value once the
    /// rows that arrive now are added.
    pub is_summed: bool,
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
            self.totals.tombstones += 1;
        } else {
            self.totals.count += 1;
            if !self.totals.is_summed {
                self.totals.digest.add(fact);
            }
        }
        self.totals.of_later_form += u64::from(!row.is_of_first_form());
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
        self.totals.of_later_form -= u64::from(!row.is_of_first_form());
        self.pending.touch(row.sequence);
        if row.is_tombstone() {
            self.totals.tombstones -= 1;
        } else {
            self.totals.count -= 1;
            if !self.totals.is_summed {
                self.totals.digest.remove(fact);
            }
        }
    }

    /// Restarts the log at `epoch`: moves all rows to `old`, and begins another life of the log
    /// without rows. Returns the rows that were in `old` before, because no pull confirms them any
    /// longer.
    #[must_use]
    pub(crate) fn begin(&mut self, epoch: u64) -> Rows {
        let outdated = std::mem::replace(&mut self.old, std::mem::take(&mut self.rows));
        self.epoch = epoch;
        self.sequence = 0;
        self.cleanup.floor = 0;
        self.cleanup.cleared = 0;
        self.pull.base = 0;
        self.totals.count = 0;
        self.totals.tombstones = 0;
        self.totals.of_later_form = 0;
        self.totals.digest = SetDigest::default();
        self.pull.complete = false;
        self.totals.is_summed = false;
        self.pull.staging = false;
        self.pull.staged = None;
        self.pending.restart();
        outdated
    }

    /// Returns whether the rows match a head.
    pub(crate) fn fits(&self, head: &Head) -> bool {
        self.totals.count == head.count && self.totals.digest.digest() == head.digest
    }

    /// Returns the pull that leads to a head: a suffix if that is safe, otherwise the whole log.
    ///
    /// A suffix is safe if the epoch is the same and the author dropped no tombstone that is
    /// missing here. The latter holds if the floor is not above the last sequence here. While a
    /// whole log is being pulled, it also holds if the floor is not above the sequence that the
    /// head had at the start.
    pub(crate) fn pull_to(&self, author: NodeId, head: &Head) -> Pull {
        let reach = self.reach();
        let safe = reach.epoch == head.epoch && head.floor <= reach.sequence.max(reach.base);
        Pull {
            author,
            epoch: head.epoch,
            after: if safe { reach.sequence } else { 0 },
        }
    }

    /// Compares a newly received head with the known ones. A newer head becomes the `wanted` one.
    /// The log must be that of another node.
    pub(crate) fn compare_head(&mut self, head: &Head) -> HeadOutcome {
        if self.pull.yielded_to_live {
            return HeadOutcome::Known;
        }
        let verified = self.head.as_ref().map(|signed| &signed.head);
        for known in verified.into_iter().chain(&self.pull.wanted) {
            if known.rank() == head.rank() && known.digest != head.digest {
                return HeadOutcome::CopiedKey {
                    author: head.author,
                };
            }
        }
        let verified = verified.map(Head::rank).unwrap_or_default();
        let wanted = self.pull.wanted.as_ref();
        let wanted = wanted.map(Head::rank).unwrap_or_default();
        if head.rank() < wanted || head.rank() <= verified {
            return HeadOutcome::Known;
        }
        if head.rank() > wanted {
            self.pull.wanted = Some(head.clone());
            self.pull.failures = 0;
        }
        if self.pull.failures > FRESH_PULLS_MAX {
            return HeadOutcome::Known;
        }
        HeadOutcome::Pull(self.pull_to(head.author, head))
    }

    /// Counts a mismatch between the log and its head. Returns a pull of the whole log, up to
    /// [`FRESH_PULLS_MAX`] times.
    pub(crate) fn count_mismatch(&mut self, head: &Head) -> Applied {
        self.pull.failures += 1;
        let again = self.pull.failures <= FRESH_PULLS_MAX;
        let pull = Pull {
            author: head.author,
            epoch: self.pull.wanted.get_or_insert_with(|| head.clone()).epoch,
            after: 0,
        };
        Applied::Mismatch {
            retry: again.then_some(pull),
        }
    }

    /// Returns the floor that keeps tombstones in proportion to the other rows. Returns `None` if
    /// there are few enough tombstones.
    pub(crate) fn floor_to_be(&self) -> Option<u64> {
        let limit = TOMBSTONES_MIN.max(self.totals.count / TOMBSTONE_RATIO);
        if self.totals.tombstones <= limit {
            return None;
        }
        let half = usize::try_from(self.totals.tombstones / 2).unwrap_or(usize::MAX);
        let mut tombstones = self.rows.after(0).filter(|row| row.is_tombstone());
        tombstones.nth(half).map(|row| row.sequence)
    }

    /// Returns the next tombstones to drop, among `limit` rows up to the floor, and the number of
    /// rows examined.
    pub(crate) fn tombstones_to_clear(&mut self, limit: usize) -> (Vec<Row>, usize) {
        if self.totals.tombstones == 0 {
            self.cleanup.cleared = self.cleanup.floor;
        }
        let rows = self.rows.after(self.cleanup.cleared).take(limit);
        let rows = rows.take_while(|row| row.sequence <= self.cleanup.floor);
        let rows: Vec<Row> = rows.cloned().collect();
        let looked_at = rows.len();
        self.cleanup.cleared = match rows.last() {
            Some(last) if looked_at == limit => last.sequence,
            _ => self.cleanup.floor,
        };
        let tombstones = rows.into_iter().filter(|row| row.is_tombstone());
        (tombstones.collect(), looked_at)
    }

    /// Returns the progress of the log, including its staged parts.
    pub(crate) fn reach(&self) -> LogProgress {
        match &self.pull.staged {
            Some(staged) => LogProgress {
                epoch: staged.epoch,
                sequence: staged.last_sequence(),
                base: staged.base,
                records: staged.records.len() + if staged.fresh { 0 } else { self.rows.len() },
            },
            None => LogProgress {
                epoch: self.epoch,
                sequence: self.sequence,
                base: self.pull.base,
                records: self.rows.len(),
            },
        }
    }

    /// Applies the stored state after the stored rows were added. `lanes` is the stored digest of a
    /// complete log. The sequence of the own log increases by [`RESTART_GAP`].
    pub(super) fn restore_state(&mut self, state: LogState, lanes: Option<SetDigest>, own: bool) {
        self.pending = UnsavedRecords::default();
        self.epoch = state.epoch;
        self.sequence = self.sequence.max(state.sequence);
        self.cleanup.floor = state.floor;
        self.totals.digest = lanes.unwrap_or_else(|| self.totals.digest.clone());
        self.pull.complete = own
            || state
                .head
                .as_ref()
                .is_some_and(|signed| self.fits(&signed.head));
        self.head = state.head;
        if own {
            self.sequence += RESTART_GAP;
            self.pending.state = true;
        }
    }
}
