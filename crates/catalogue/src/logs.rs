//! The logs of all nodes, and the merge of their rows.
//!
//! Each row of a log is also in the merge. The operations here add rows to both, remove rows from
//! both, and answer other nodes from the logs.
//!
//! A part of a log consists of the records above a sequence, in order. The part above sequence 0
//! begins with the first record of the log. A log may change between two parts. The record that
//! replaces an earlier one has a higher sequence, so a later part contains it. The same holds for
//! the tombstone of a removed record, unless the author has dropped that tombstone. The floor in
//! the part's head shows that.
//!
//! Changes of node liveness and the removal of nodes are applied in steps. During a *sweep*, the
//! node's rows up to some sequence count by its new liveness and the rows above it as before. The
//! final result does not depend on the number of steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::budget::Cost;
use super::facts::estimated_bytes;
use super::forgotten::ForgottenNodes;
use super::log::Log;
use super::merge::Merge;
use super::merged::NodeState;
use super::row::{Class, NodeIndex, Row, Stamp};
use super::row_facts::{RowBuilder, fact_of};
use super::rows::Rows;
use super::staged::LogPull;
use super::{
    CatalogueError, LogPart, NODES_MAX, PART_MAX_BYTES, PART_MAX_RECORDS, TOLD_NODES_MAX,
    TOLD_NODES_PER_TELLER_MAX,
};
use p2pfs_proto::wire::native::record::{Fact, Record, SignedHead};
use p2pfs_types::id::{NodeId, NodeName};

/// The logs of all nodes and the merge of their rows.
pub struct NodeLogs {
    pub(super) me: NodeIndex,
    indexes: HashMap<NodeId, NodeIndex>,
    /// Nodes that were never live here, each with the member that told of it first.
    told: HashMap<NodeIndex, NodeId>,
    /// Logs in a fixed order, so that a simulated run from the same seed sends the same messages.
    pub(super) logs: BTreeMap<NodeIndex, Log>,
    pub(super) merge: Merge,
    pub(super) forgotten: ForgottenNodes,
    /// Number of departures of nodes so far. It orders departed nodes by their time of departure.
    departures: u64,
}

impl NodeLogs {
    /// Creates the empty log of this node.
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        let index = NodeIndex(0);
        let own = Log {
            epoch: 1,
            pull: LogPull {
                complete: true,
                ..LogPull::default()
            },
            ..Log::default()
        };
        Self {
            me: index,
            indexes: HashMap::from([(me, index)]),
            told: HashMap::new(),
            logs: BTreeMap::from([(index, own)]),
            merge: Merge::new(me, name),
            forgotten: ForgottenNodes::default(),
            departures: 0,
        }
    }

    /// Returns the part of a log above the sequence `after`. If `epoch` is not the epoch of the log
    /// here, the part begins with the first record. Returns `None` if the log is not complete here,
    /// or if it ends before `after`. Also returns `None` for the own log until
    /// [`OwnLog::sign`](super::OwnLog::sign) has stored its current head.
    pub fn part(&self, author: &NodeId, epoch: u64, after: u64) -> Option<LogPart> {
        self.part_within(author, epoch, after, PART_MAX_RECORDS)
    }

    pub(super) fn part_within(
        &self,
        author: &NodeId,
        epoch: u64,
        after: u64,
        limit: usize,
    ) -> Option<LogPart> {
        let log = self.logs.get(&self.index_of(author)?)?;
        let head = log.head.as_ref().filter(|_| log.pull.complete)?;
        let current = head.head.rank() == (log.epoch, log.sequence);
        let fresh = epoch != log.epoch || after == 0;
        if !current || (!fresh && after > log.sequence) {
            return None;
        }
        let (records, last) = self.records_after(log, if fresh { 0 } else { after }, limit);
        Some(LogPart {
            head: head.clone(),
            fresh,
            records,
            last,
        })
    }

    /// Returns whether nodes that speak `p2pfs/3` or less can decode all records of a log.
    pub fn is_of_first_form(&self, author: &NodeId) -> bool {
        let log = self
            .index_of(author)
            .and_then(|index| self.logs.get(&index));
        log.is_none_or(|log| log.totals.of_later_form == 0)
    }

    fn records_after(&self, log: &Log, after: u64, limit: usize) -> (Vec<Record>, bool) {
        let mut rows = log.rows.after(after).peekable();
        let (mut records, mut part_bytes) = (Vec::new(), 0);
        while let Some(row) = rows.peek() {
            let fact = fact_of(self.merge.state(), row);
            let fact_bytes = estimated_bytes(&fact);
            let full = records.len() == limit
                || (part_bytes + fact_bytes > PART_MAX_BYTES && !records.is_empty());
            if full {
                return (records, false);
            }
            part_bytes += fact_bytes;
            records.push(Record {
                sequence: row.sequence,
                fact,
            });
            rows.next();
        }
        (records, true)
    }

    /// Returns the last stored signed heads of all logs that are complete here.
    pub fn heads(&self) -> Vec<SignedHead> {
        let complete = self.logs.values().filter(|log| log.pull.complete);
        complete.filter_map(|log| log.head.clone()).collect()
    }

    /// Returns the other nodes that have a log here, which may be empty. Nodes that are being
    /// forgotten are left out.
    pub fn authors(&self) -> Vec<NodeId> {
        let others = self.logs.iter();
        let others = others.filter(|(index, log)| **index != self.me && !log.forgotten);
        let id = |(index, _): (&NodeIndex, &Log)| self.merge.state().node(*index).id;
        others.map(id).collect()
    }

    /// Returns whether a node has a log here, which may be empty, or a known liveness.
    pub fn is_known(&self, node: &NodeId) -> bool {
        self.indexes.contains_key(node)
    }

    /// Returns the signed head of one log that is complete here.
    pub fn head_of(&self, author: &NodeId) -> Option<&SignedHead> {
        let log = self.logs.get(&self.index_of(author)?)?;
        log.head.as_ref().filter(|_| log.pull.complete)
    }

    /// Returns the current cost of a node's log, including dropped rows that are still being
    /// removed.
    pub fn cost_of(&self, node: &NodeId) -> Cost {
        let index = self.index_of(node);
        index.map_or_else(Cost::default, |index| self.merge.costs.of(index))
    }

    /// Returns the index of a known node.
    pub(super) fn index_of(&self, node: &NodeId) -> Option<NodeIndex> {
        self.indexes.get(node).copied()
    }

    /// Returns the index of a node, and assigns one if it has none.
    pub(super) fn admit(&mut self, id: NodeId) -> Result<NodeIndex, CatalogueError> {
        if let Some(known) = self.index_of(&id) {
            if self.logs.get(&known).is_some_and(|log| log.forgotten) {
                while self.advance_step() {}
                return self.admit(id);
            }
            return Ok(known);
        }
        if self.indexes.len() >= NODES_MAX {
            return Err(CatalogueError::TooManyNodes);
        }
        let nodes = Arc::make_mut(&mut self.merge.tracked.state.nodes);
        let free = nodes
            .iter()
            .position(Option::is_none)
            .unwrap_or(nodes.len());
        nodes.resize(nodes.len().max(free + 1), None);
        nodes[free] = Some(NodeState {
            id,
            name: None,
            label: "".into(),
            live: false,
            sweep: None,
        });
        let index = NodeIndex(free as u16);
        self.indexes.insert(id, index);
        Ok(index)
    }

    /// Returns the index of a node that `teller` told of. Assigns one if it has none and if there
    /// are fewer than [`TOLD_NODES_MAX`] such nodes, [`TOLD_NODES_PER_TELLER_MAX`] of them from this
    /// teller.
    pub(super) fn admit_told(
        &mut self,
        id: NodeId,
        teller: NodeId,
    ) -> Result<NodeIndex, CatalogueError> {
        if let Some(known) = self.index_of(&id)
            && self.logs.get(&known).is_none_or(|log| !log.forgotten)
        {
            return Ok(known);
        }
        let of_teller = self.told.values().filter(|it| **it == teller).count();
        if self.told.len() >= TOLD_NODES_MAX || of_teller >= TOLD_NODES_PER_TELLER_MAX {
            return Err(CatalogueError::TooManyNodes);
        }
        let index = self.admit(id)?;
        self.told.insert(index, teller);
        Ok(index)
    }

    /// Returns the node that makes room for a live one in a full table: one that is not live,
    /// preferably one that was never live, then one without a record, then the one that departed
    /// first.
    pub(super) fn displaced_node(&self) -> Option<NodeId> {
        let state = self.merge.state();
        let others = state
            .known()
            .filter(|(index, node)| *index != self.me && !node.live);
        let rank = |index: &NodeIndex| {
            let log = self.logs.get(index);
            let has_rows = log.is_some_and(|log| !log.rows.is_empty() || !log.old.is_empty());
            let left = log.map_or(0, |log| log.left);
            (!self.told.contains_key(index), has_rows, left)
        };
        let first = others.min_by_key(|(index, _)| rank(index))?;
        Some(first.1.id)
    }

    /// Returns the log of a node, and creates an empty one if it has none.
    pub(super) fn log_mut(&mut self, index: NodeIndex) -> &mut Log {
        self.logs.entry(index).or_default()
    }

    /// Returns this node's log.
    pub(super) fn own_log(&self) -> &Log {
        &self.logs[&self.me]
    }

    /// Adds a fact to a log and the merge. It replaces the author's previous fact about the same
    /// name in the same share, or about the same content.
    pub(super) fn apply_record(&mut self, index: NodeIndex, sequence: u64, fact: &Fact) {
        let stamp = Stamp {
            author: index,
            sequence,
        };
        let mut builder = RowBuilder {
            merge: &mut self.merge,
            logs: &self.logs,
        };
        let row = builder.row_of(stamp, fact);
        let known = match row.class {
            _ if row.is_opaque() => self.merge.sealed.row_of_seal(&row),
            Class::Have | Class::HaveNot => {
                self.merge.state().contents.cached_row(row.hash(), index)
            }
            Class::Open | Class::Closed | Class::Keeps | Class::KeepsNot => {
                self.merge.state().terms.get(&(index, row.share)).cloned()
            }
            _ => self
                .merge
                .state()
                .dir(row.dir)
                .row_of(row.name(), index, row.share)
                .cloned(),
        };
        let said = known
            .as_ref()
            .map(|known| fact_of(self.merge.state(), known));
        let log = self.log_mut(index);
        if let (Some(known), Some(said)) = (&known, &said) {
            log.take(known, said);
        }
        log.push(row.clone(), fact);
        log.sequence = sequence;
        self.merge.change(known.as_ref(), Some(&row));
        if row.is_terms() {
            self.settle_changed_terms(self.merge.settling.step_records);
        }
    }

    /// Discards all rows of a log. [`Self::advance`] unlists and removes them in steps. Only rows
    /// from before the log's last restart are removed at once. Returns the log.
    pub(super) fn discard(&mut self, index: NodeIndex) -> &mut Log {
        let log = self.log_mut(index);
        let outdated = log.begin(0);
        log.head = None;
        self.drop_rows(outdated);
        self.log_mut(index)
    }

    /// Removes rows from the merge that are no longer in any log.
    pub(super) fn drop_rows(&mut self, rows: Rows) {
        rows.after(0)
            .for_each(|row| self.merge.change(Some(row), None));
    }

    /// Drops tombstones up to a floor. For this node's own log all are dropped at once. For another
    /// log only one step is done at once, because it may have very many.
    pub(super) fn raise_floor(&mut self, index: NodeIndex, floor: u64) {
        let is_own = index == self.me;
        let log = self.log_mut(index);
        if floor <= log.cleanup.floor {
            return;
        }
        log.cleanup.floor = floor;
        let at_once = self.merge.settling.step_records;
        self.clear_tombstones(index, if is_own { usize::MAX } else { at_once });
    }

    /// Drops tombstones up to the floor among the next `limit` rows. Returns the number of rows
    /// examined.
    fn clear_tombstones(&mut self, index: NodeIndex, limit: usize) -> usize {
        let (tombstones, looked_at) = self.log_mut(index).tombstones_to_clear(limit);
        for row in tombstones {
            let fact = fact_of(self.merge.state(), &row);
            self.log_mut(index).take(&row, &fact);
            self.merge.change(Some(&row), None);
        }
        looked_at
    }

    /// Sets whether a node is live, and begins the sweep of its rows. A previous sweep of the node
    /// is finished first.
    pub(super) fn set_live(&mut self, index: NodeIndex, live: bool) {
        self.finish_sweep(index);
        if !live {
            self.departures += 1;
            let departure = self.departures;
            self.log_mut(index).left = departure;
        } else {
            self.told.remove(&index);
        }
        self.log_mut(index).pull.yielded_to_live &= !live;
        let has_rows = self
            .logs
            .get(&index)
            .is_some_and(|log| !log.rows.is_empty() || !log.old.is_empty());
        let node = self.merge.tracked.node_mut(index);
        node.live = live;
        node.sweep = has_rows.then_some(0);
        self.advance_step();
    }

    /// Processes one step of the remaining records. Returns whether more are left.
    pub(super) fn advance_step(&mut self) -> bool {
        self.advance(self.merge.settling.step_records)
    }

    /// Processes up to about `limit` of the remaining records and of the directories that are
    /// removed with them. Returns whether more are left.
    pub(super) fn advance(&mut self, limit: usize) -> bool {
        let mut left = limit;
        left -= self.merge.refresh_if_many(left).min(left);
        left -= self.merge.node_names().reassign_renamed(left).min(left);
        left -= self.settle_changed_terms(left).min(left);
        left -= self.merge.settler().settle_waiting(left).min(left);
        if left == 0 {
            return true;
        }
        let sweeping: Vec<NodeIndex> = self
            .merge
            .state()
            .known()
            .filter(|(_, n)| n.sweep.is_some())
            .map(|(i, _)| i)
            .collect();
        for index in sweeping {
            left -= self.sweep_step(index, left).min(left);
            if left == 0 {
                return true;
            }
        }
        let uncleared = self
            .logs
            .iter()
            .filter(|(_, log)| log.cleanup.cleared < log.cleanup.floor);
        let uncleared: Vec<NodeIndex> = uncleared.map(|(index, _)| *index).collect();
        for index in uncleared {
            left -= self.clear_tombstones(index, left);
            if left == 0 {
                return true;
            }
        }
        let outdated = |(index, log): (&NodeIndex, &Log)| {
            let idle = log.old.is_empty() && !log.forgotten;
            (!idle && !log.pull.staging).then_some(*index)
        };
        let outdated: Vec<NodeIndex> = self.logs.iter().filter_map(outdated).collect();
        for index in outdated {
            while !self.log_mut(index).old.is_empty() {
                left = left.saturating_sub(self.remove_old_row(index));
                if left == 0 {
                    return true;
                }
            }
            self.drop_forgotten(index);
        }
        !self.merge.settling.is_done() || self.merge.naming.renames.is_amid()
    }

    /// Removes the last of a log's old rows from the merge. Returns the steps taken, including the
    /// removed directories. Returns 0 if there is no old row.
    pub(super) fn remove_old_row(&mut self, index: NodeIndex) -> usize {
        let Some(row) = self.log_mut(index).old.pop() else {
            return 0;
        };
        let before = self.merge.costs.of(index).directories;
        let looks = self.merge.settling.looks;
        self.merge.change(Some(&row), None);
        let ended = before.saturating_sub(self.merge.costs.of(index).directories) as usize;
        1 + ended + self.merge.settling.steps_since(looks)
    }

    /// Queues the names of about `limit` rows of shares with changed terms. Returns the steps taken.
    fn settle_changed_terms(&mut self, limit: usize) -> usize {
        let mut steps = 0;
        while steps < limit {
            let Some(((author, share), after)) = self.merge.settling.changed_terms.pop_first()
            else {
                break;
            };
            let Some(log) = self.logs.get(&author) else {
                continue;
            };
            let (mut rows, end) = rows_after(log, after, limit - steps);
            steps += 1 + rows.len();
            if end < u64::MAX {
                let places = &mut self.merge.settling.changed_terms;
                places.insert((author, share), end);
            }
            let state = self.merge.state();
            rows.retain(|row| row.has_name() && [row.share, state.share_of(row)].contains(&share));
            self.merge.settler().settle_rows(rows);
        }
        steps
    }

    /// Finishes the sweep of a node.
    fn finish_sweep(&mut self, index: NodeIndex) {
        while self.merge.state().node(index).sweep.is_some() {
            self.sweep_step(index, self.merge.settling.step_records);
        }
    }

    /// Sweeps about `limit` more rows of a node. Returns the steps taken.
    fn sweep_step(&mut self, index: NodeIndex, limit: usize) -> usize {
        let Some(done) = self.merge.state().node(index).sweep else {
            return 0;
        };
        let (rows, end) = rows_after(self.log_mut(index), done, limit);
        let (looks, mut steps) = (self.merge.settling.looks, 0);
        for same in rows.chunk_by(|a, b| a.sequence == b.sequence) {
            if steps + self.merge.settling.steps_since(looks) >= limit {
                return limit;
            }
            self.merge.sweep(index, same, same[0].sequence);
            steps += same.len();
        }
        if end == u64::MAX {
            self.merge.tracked.node_mut(index).sweep = None;
        }
        steps + self.merge.settling.steps_since(looks)
    }

    fn drop_forgotten(&mut self, index: NodeIndex) {
        if !self.logs.get(&index).is_some_and(|log| log.forgotten) {
            return;
        }
        let id = self.merge.state().node(index).id;
        self.logs.remove(&index);
        self.indexes.remove(&id);
        self.told.remove(&index);
        self.forgotten.to_delete.push(id);
        Arc::make_mut(&mut self.merge.tracked.state.nodes)[usize::from(index.0)] = None;
        self.merge.tracked.state.unserved.forget(index);
        self.merge.tracked.dirty = true;
        self.merge.node_names().forget(index);
    }

    /// Hides the rows dated ahead of the clock, when the clock is set for the first time.
    pub(super) fn hide_early(&mut self) {
        let state = self.merge.state();
        let logs = self.logs.values().flat_map(|log| [&log.rows, &log.old]);
        let rows = logs.flat_map(|rows| rows.after(0));
        let early = rows.filter(|row| !row.is_tombstone() && state.is_ahead(row));
        let early: Vec<Row> = early.cloned().collect();
        self.merge.settler().hide_early(early);
    }
}

/// Returns about `limit` rows of a log after a sequence in its order, including those of its
/// earlier life. Also returns the sequence up to which the rows are complete, or the highest one if
/// no row follows.
fn rows_after(log: &Log, done: u64, limit: usize) -> (Vec<Row>, u64) {
    let next = |rows: &Rows| -> Vec<Row> { rows.after(done).take(limit).cloned().collect() };
    let mut rows = next(&log.rows);
    // A truncated list shows nothing about the sequences beyond its end.
    let mut end = u64::MAX;
    for part in [&log.rows, &log.old] {
        let last = part.after(done).nth(limit.saturating_sub(1));
        end = end.min(last.map_or(u64::MAX, |row| row.sequence));
    }
    rows.extend(next(&log.old));
    rows.retain(|row| row.sequence <= end);
    rows.sort_by_key(|row| row.sequence);
    (rows, end)
}
