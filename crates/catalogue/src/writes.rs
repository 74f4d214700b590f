//! Pending writes of logs to the store, and their restoration at the start.
//!
//! The owner stores the writes that it takes at once in one transaction. A log of another node is
//! written only when it matches its head, so the stored log also matches. The exception is a log so
//! large that it takes several writes. It is marked incomplete until the last of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::audience::Mark;
use super::budget::{LOOK_RECORDS, LogBudget, LogEviction};
use super::digest::SetDigest;
use super::facts::check_fact;
use super::forgotten::Rank;
use super::intake::IntakeQueue;
use super::log::UnsavedRecords;
use super::logs::NodeLogs;
use super::own::OwnState;
use super::row::NodeIndex;
use super::row_facts::fact_of;
use super::{CatalogueError, RECORDS_PER_AUTHOR_MAX};
use p2pfs_proto::wire::native::record::{Record, SignedHead};
use p2pfs_types::id::NodeId;

/// Stored state of a log besides its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The epoch of the log.
    pub epoch: u64,
    /// The last sequence.
    pub sequence: u64,
    /// The compaction floor.
    pub floor: u64,
    /// The lanes of the set digest ([`SetDigest::to_bytes`]).
    pub lanes: Vec<u8>,
    /// The verified head. `None` for the own log.
    pub head: Option<SignedHead>,
    /// Whether the stored records are the complete log.
    pub complete: bool,
}

/// A change of one log's stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogWrite {
    /// The author of the log.
    pub author: NodeId,
    /// Whether to delete everything stored of the log first.
    pub anew: bool,
    /// Records to store under their sequence.
    pub puts: Vec<Record>,
    /// Sequences to delete.
    pub deletes: Vec<u64>,
    /// The state to store. `None` if nothing of the log is to be stored.
    pub state: Option<LogState>,
    /// Marks that were added (`true`) or removed since the writes were last taken. Only the first
    /// write has them, whatever its author. Without another change they come with the state of the
    /// own log.
    pub marks: BTreeMap<Mark, bool>,
    /// The rank up to which the log was forgotten and is refused.
    pub forgotten_to: Option<Rank>,
}

/// Stores and restores the state of a catalogue.
/// [`Catalogue::storage`](super::Catalogue::storage) returns it.
pub struct CatalogueStorage<'a> {
    pub(super) logs: &'a mut NodeLogs,
    pub(super) queue: &'a mut IntakeQueue,
    pub(super) budget: &'a mut LogBudget,
    pub(super) own: &'a mut OwnState,
}

impl CatalogueStorage<'_> {
    /// Returns the pending writes, of at most `limit` records. The result is empty if no log has
    /// anything to store now. The owner must store them before it announces the own head. A restart
    /// then never contradicts the heads that other nodes received.
    ///
    /// A log that began anew is not written while the merge still has rows from before. When a
    /// sealed name among these rows leaves the merge, a mark keeps its content private. So a stored
    /// log lacks no sealed name of which the mark is not stored too.
    pub fn take_writes(&mut self, limit: usize) -> Vec<LogWrite> {
        let gone = std::mem::take(&mut self.logs.forgotten.to_delete).into_iter();
        let mut writes: Vec<LogWrite> = gone.map(|author| self.void(author)).collect();
        let mut left = limit.max(1);
        let indexes: Vec<NodeIndex> = self.logs.logs.keys().copied().collect();
        for index in indexes {
            if left == 0 {
                break;
            }
            // The log is between two heads. The stored form of the previous head stays until the
            // next one.
            if self.queue.is_amid(index) {
                continue;
            }
            let (me, log) = (self.logs.me, self.logs.log_mut(index));
            if index != me && !log.old.is_empty() {
                continue;
            }
            let due = log.pending.anew || log.pending.state || !log.pending.touched.is_empty();
            if due && (log.pull.complete || index == me) {
                let write = self.log_write(index, left);
                left -= (write.puts.len() + write.deletes.len()).min(left);
                writes.push(write);
            } else if log.pending.anew && !log.pull.staging {
                log.pending = UnsavedRecords::default();
                writes.push(self.void(self.logs.merge.state().node(index).id));
            }
        }
        let marks = std::mem::take(&mut self.logs.merge.sealed.new_marks);
        if writes.is_empty() && !marks.is_empty() {
            writes.push(self.log_write(self.logs.me, left));
        }
        if let Some(first) = writes.first_mut() {
            first.marks = marks;
        }
        writes
    }

    /// Makes [`take_writes`](Self::take_writes) return everything again, after a store failed or
    /// was replaced.
    pub fn store_anew(&mut self) {
        let marks = self.marks().into_iter();
        self.logs
            .merge
            .sealed
            .new_marks
            .extend(marks.map(|mark| (mark, true)));
        let forgotten = &mut self.logs.forgotten;
        forgotten.to_delete.extend(forgotten.refused_to.keys());
        for log in self.logs.logs.values_mut() {
            log.pending.restart();
            let sequences: Vec<u64> = log.rows.after(0).map(|row| row.sequence).collect();
            sequences
                .into_iter()
                .for_each(|sequence| log.pending.touch(sequence));
        }
    }

    fn log_write(&mut self, index: NodeIndex, limit: usize) -> LogWrite {
        let own = index == self.logs.me;
        let log = self.logs.log_mut(index);
        let touched = log.pending.take(limit);
        let anew = std::mem::take(&mut log.pending.anew);
        let complete = log.pending.touched.is_empty();
        log.pending.state = !complete;
        let state = LogState {
            epoch: log.epoch,
            sequence: log.sequence,
            floor: log.cleanup.floor,
            lanes: log.totals.digest.to_bytes(),
            head: log.head.clone().filter(|_| !own),
            complete,
        };
        let log = &self.logs.logs[&index];
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for sequence in touched {
            match log.rows.get(sequence) {
                Some(row) => puts.push(Record {
                    sequence,
                    fact: fact_of(self.logs.merge.state(), row),
                }),
                None if !anew => deletes.push(sequence),
                None => {}
            }
        }
        let author = self.logs.merge.state().node(index).id;
        LogWrite {
            author,
            anew,
            puts,
            deletes,
            state: Some(state),
            marks: BTreeMap::new(),
            forgotten_to: None,
        }
    }

    fn void(&self, author: NodeId) -> LogWrite {
        LogWrite {
            author,
            anew: true,
            puts: Vec::new(),
            deletes: Vec::new(),
            state: None,
            marks: BTreeMap::new(),
            forgotten_to: self.logs.forgotten.refused_to.get(&author).copied(),
        }
    }

    /// Restores a stored log at the start, before any other call. `records` are in ascending
    /// sequence. Returns `false` if the log is incomplete, does not match its head or exceeds a
    /// budget. It is then left out. The own log is always restored, and its sequence increases by
    /// [`RESTART_GAP`](super::RESTART_GAP).
    ///
    /// The sealed names of a log that was not read to its end are unknown. Therefore no content
    /// without a name is then given to another node, as after [`lose_marks`](Self::lose_marks).
    ///
    /// # Errors
    /// [`CatalogueError::TooManyNodes`].
    pub fn restore(
        &mut self,
        author: NodeId,
        state: LogState,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<bool, CatalogueError> {
        let index = self.logs.admit(author)?;
        let own = index == self.logs.me;
        if !own && (!state.complete || state.head.is_none()) {
            self.logs.log_mut(index).pending.anew = true;
            self.lose_marks();
            return Ok(false);
        }
        let lanes = SetDigest::from_bytes(&state.lanes).filter(|_| state.complete);
        if let Some(signed) = &state.head {
            self.logs.merge.node_names().set(index, &signed.head.name);
        }
        // The store has the digest of its records.
        self.logs.log_mut(index).totals.is_summed = lanes.is_some();
        let mut last = self.logs.log_mut(index).sequence;
        let is_next = |record: &Record| {
            let is_next = record.sequence > std::mem::replace(&mut last, record.sequence);
            // Stored records may be from an earlier release of this program that accepted more
            // facts.
            is_next && (own || check_fact(&record.fact).is_ok())
        };
        let records = records.into_iter().take(RECORDS_PER_AUTHOR_MAX);
        let has_room = self.apply_stored(index, records.filter(is_next));
        let log = self.logs.log_mut(index);
        log.totals.is_summed = false;
        if !has_room {
            self.lose_marks();
            return Ok(false);
        }
        log.restore_state(state, lanes, own);
        if own {
            self.own.restore_numbers(self.logs);
            return Ok(true);
        }
        let log = self.logs.log_mut(index);
        if log.pull.complete {
            return Ok(true);
        }
        let rows = std::mem::take(&mut self.logs.discard(index).old);
        self.logs.drop_rows(rows);
        Ok(false)
    }

    /// Applies stored records while they fit the budgets. Returns whether all fitted.
    fn apply_stored(
        &mut self,
        index: NodeIndex,
        records: impl IntoIterator<Item = Record>,
    ) -> bool {
        for (taken, record) in records.into_iter().enumerate() {
            self.logs.apply_record(index, record.sequence, &record.fact);
            let is_look_due = (taken + 1).is_multiple_of(LOOK_RECORDS);
            let mut eviction = self.eviction();
            if eviction.enforce_author(index) || (is_look_due && eviction.enforce_total(index)) {
                return false;
            }
        }
        !self.eviction().enforce_total(index)
    }

    fn eviction(&mut self) -> LogEviction<'_> {
        LogEviction {
            logs: self.logs,
            queue: self.queue,
            budget: self.budget,
        }
    }

    /// Restores the ranks up to which nodes were forgotten before the restart.
    pub fn restore_forgotten(&mut self, all: impl IntoIterator<Item = (NodeId, Rank)>) {
        for (node, rank) in all {
            self.logs.forgotten.refuse_to(node, rank);
        }
    }

    /// Restores the marks of contents that stay private although their author's last sealed name
    /// is gone. A mark whose author lists the content again is skipped. So call this at the start,
    /// after the logs were restored.
    pub fn restore_marks(&mut self, marks: impl IntoIterator<Item = Mark>) {
        for mark in marks {
            let author = self.logs.index_of(&mark.author);
            let state = &mut self.logs.merge.tracked.state;
            if !author.is_some_and(|author| state.contents.is_listed_by(mark.content, author)) {
                state.marks.add(mark);
            }
        }
        self.logs.merge.tracked.dirty = true;
    }

    /// Records that the stored marks of private contents were lost. From now on no content without
    /// a name is given to another node, because it may be private.
    pub fn lose_marks(&mut self) {
        self.logs.merge.tracked.state.marks.lose();
        self.logs.merge.tracked.dirty = true;
    }

    /// Removes marks. They must be of contents of which this node has no bytes, and so cannot give
    /// any.
    pub fn drop_marks(&mut self, gone: &[Mark]) {
        for mark in gone {
            self.logs.merge.tracked.state.marks.remove(mark);
        }
        self.logs.merge.tracked.dirty = true;
    }

    /// Returns all marks: contents that are private without a name.
    pub fn marks(&self) -> Vec<Mark> {
        self.logs
            .merge
            .tracked
            .state
            .marks
            .iter()
            .copied()
            .collect()
    }
}
