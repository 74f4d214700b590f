//! What is to be persisted, and taking it back in at the start.
//!
//! The owner takes writes after each batch and stores them in one transaction. A log of others is
//! given out only at moments when it is what its head says, so what is stored always is, but for
//! a log so large that it takes several writes: it is marked incomplete until the last of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::audience::Mark;
use super::digest::SetDigest;
use super::facts::check_fact;
use super::forgotten::Rank;
use super::log::{Log, Pending};
use super::row::NodeIndex;
use super::{Catalogue, CatalogueError, RECORDS_PER_AUTHOR_MAX, RESTART_GAP};
use p2pfs_proto::wire::native::record::{Record, SignedHead};
use p2pfs_types::id::NodeId;

/// What is stored of a log besides its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// Which life of the log.
    pub epoch: u64,
    /// The last sequence.
    pub sequence: u64,
    /// The compaction floor.
    pub floor: u64,
    /// The lanes of the set digest ([`SetDigest::to_bytes`]).
    pub lanes: Vec<u8>,
    /// What was verified; none for the own log.
    pub head: Option<SignedHead>,
    /// Whether the stored records are all of it.
    pub complete: bool,
}

/// A change of one log's stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogWrite {
    /// Whose log.
    pub author: NodeId,
    /// First delete all that is stored of it.
    pub anew: bool,
    /// Records to store under their sequence.
    pub puts: Vec<Record>,
    /// Sequences to delete.
    pub deletes: Vec<u64>,
    /// What to store besides; none where the log is no more.
    pub state: Option<LogState>,
    /// Marks that came (true) or went by what this write stores, or one before.
    pub marks: BTreeMap<Mark, bool>,
    /// Up to which rank of its heads the log was forgotten and is not to be taken again.
    pub forgotten_to: Option<Rank>,
}

impl Catalogue {
    /// What is to be stored now, at most about `limit` records of it; empty when all is. Written
    /// before the own head is announced, a restart never contradicts what others heard.
    pub fn take_writes(&mut self, limit: usize) -> Vec<LogWrite> {
        let gone = std::mem::take(&mut self.forgotten).into_iter();
        let mut writes: Vec<LogWrite> = gone.map(|author| self.void(author)).collect();
        let mut left = limit.max(1);
        let indexes: Vec<NodeIndex> = self.logs.keys().copied().collect();
        for index in indexes {
            if left == 0 {
                break;
            }
            // it is between two heads, and what was stored of the one before stays until the next
            if self.intakes.is_amid(index) {
                continue;
            }
            let (me, log) = (self.me, self.log_mut(index));
            let due = log.pending.anew || log.pending.state || !log.pending.touched.is_empty();
            if due && (log.complete || index == me) {
                let write = self.log_write(index, left);
                left -= (write.puts.len() + write.deletes.len()).min(left);
                writes.push(write);
            } else if log.pending.anew && !log.staging {
                log.pending = Pending::default();
                writes.push(self.void(self.merge.state.node(index).id));
            }
        }
        if let Some(first) = writes.first_mut() {
            first.marks = std::mem::take(&mut self.merge.new_marks);
        }
        writes
    }

    /// Has everything given out again by [`take_writes`](Self::take_writes): for a store that
    /// failed or was replaced.
    pub fn store_anew(&mut self) {
        let marks = self.marks().into_iter();
        self.merge.new_marks.extend(marks.map(|mark| (mark, true)));
        self.forgotten.extend(self.forgotten_to.keys());
        for log in self.logs.values_mut() {
            log.pending.restart();
            let sequences: Vec<u64> = log.rows.after(0).map(|row| row.sequence).collect();
            sequences
                .into_iter()
                .for_each(|sequence| log.pending.touch(sequence));
        }
    }

    fn log_write(&mut self, index: NodeIndex, limit: usize) -> LogWrite {
        let own = index == self.me;
        let log = self.log_mut(index);
        let touched = log.pending.take(limit);
        let anew = std::mem::take(&mut log.pending.anew);
        let complete = log.pending.touched.is_empty();
        log.pending.state = !complete;
        let state = LogState {
            epoch: log.epoch,
            sequence: log.sequence,
            floor: log.floor,
            lanes: log.digest.to_bytes(),
            head: log.head.clone().filter(|_| !own),
            complete,
        };
        let log = &self.logs[&index];
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for sequence in touched {
            match log.rows.get(sequence) {
                Some(row) => puts.push(Record {
                    sequence,
                    fact: self.fact_of(row),
                }),
                None if !anew => deletes.push(sequence),
                None => {}
            }
        }
        let author = self.merge.state.node(index).id;
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
            forgotten_to: self.forgotten_to.get(&author).copied(),
        }
    }

    /// Takes in a stored log at the start, before anything else; `records` ascend. False where it
    /// is not whole and so was left out: it will be pulled anew. (The own log is always taken; its
    /// sequence jumps by [`RESTART_GAP`].)
    ///
    /// # Errors
    /// [`CatalogueError::TooManyNodes`].
    pub fn restore(
        &mut self,
        author: NodeId,
        state: LogState,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<bool, CatalogueError> {
        let index = self.admit(author)?;
        let own = index == self.me;
        if !own && (!state.complete || state.head.is_none()) {
            self.log_mut(index).pending.anew = true;
            return Ok(false);
        }
        let lanes = SetDigest::from_bytes(&state.lanes).filter(|_| state.complete);
        if let Some(signed) = &state.head {
            self.merge.set_name(index, &signed.head.name);
        }
        // the store keeps the digest of what it has
        self.log_mut(index).is_summed = lanes.is_some();
        let mut last = self.log_mut(index).sequence;
        let is_next = |record: &Record| {
            let is_next = record.sequence > std::mem::replace(&mut last, record.sequence);
            // what is stored may be of a time when more was let in
            is_next && (own || check_fact(&record.fact).is_ok())
        };
        let records = records.into_iter().take(RECORDS_PER_AUTHOR_MAX);
        let has_room = self.take_records(index, records.filter(is_next));
        let log = self.log_mut(index);
        log.is_summed = false;
        if !has_room {
            return Ok(false);
        }
        log.restore_state(state, lanes, own);
        if own {
            self.take_up_numbers();
            return Ok(true);
        }
        let log = self.log_mut(index);
        if log.complete {
            return Ok(true);
        }
        let outdated = log.begin(0);
        log.head = None;
        let rows = std::mem::take(&mut log.old);
        self.drop_rows(outdated);
        self.drop_rows(rows);
        Ok(false)
    }
}

impl Log {
    fn restore_state(&mut self, state: LogState, lanes: Option<SetDigest>, own: bool) {
        self.pending = Pending::default();
        self.epoch = state.epoch;
        self.sequence = self.sequence.max(state.sequence);
        self.floor = state.floor;
        self.digest = lanes.unwrap_or_else(|| self.digest.clone());
        self.complete = own
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
