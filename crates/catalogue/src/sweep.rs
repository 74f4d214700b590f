//! Applies changes of node liveness, and the removal of nodes, in bounded steps.
//!
//! During a sweep, the node's rows up to some sequence count by its new liveness and the rows above
//! it as before. The merge is therefore exact at every step, and its result does not depend on the
//! number of steps.

use std::sync::Arc;

use super::row::{NodeIndex, Row};
use super::{Catalogue, CatalogueError};
use p2pfs_types::id::NodeId;

impl Catalogue {
    /// Sets whether a node is live. This node itself is always live. At most
    /// [`SWEEP_STEP_RECORDS`](super::SWEEP_STEP_RECORDS) of the node's records are processed at
    /// once. [`advance`](Self::advance) processes the rest.
    ///
    /// # Errors
    /// [`CatalogueError::TooManyNodes`] for a node not known before.
    pub fn set_live(&mut self, node: NodeId, live: bool) -> Result<(), CatalogueError> {
        let index = self.admit(node)?;
        if live {
            self.forgetting.forgotten_to.remove(&node);
        }
        if index == self.me || self.merge.state.node(index).live == live {
            return Ok(());
        }
        self.finish_sweep(index);
        if !live {
            self.dropped_logs.departures += 1;
            let departure = self.dropped_logs.departures;
            self.log_mut(index).left = departure;
        }
        self.log_mut(index).pull.yielded_to_live &= !live;
        let has_rows = self
            .logs
            .get(&index)
            .is_some_and(|log| !log.rows.is_empty() || !log.old.is_empty());
        let node = self.merge.node_mut(index);
        node.live = live;
        node.sweep = has_rows.then_some(0);
        self.advance(self.merge.settling.step_records);
        Ok(())
    }

    /// Forgets a node and its log. All of it is unlisted once [`advance`](Self::advance) returns
    /// `false`.
    pub fn forget(&mut self, node: &NodeId) {
        let Some(index) = self.index_of(node).filter(|index| *index != self.me) else {
            return;
        };
        let log = self.log_mut(index);
        let outdated = log.begin(0);
        log.head = None;
        log.pull.wanted = None;
        log.forgotten = true;
        self.intakes.cancel(index);
        self.drop_rows(outdated);
        self.advance(self.merge.settling.step_records);
    }

    /// Processes up to about `limit` of the remaining records, including the directories that end
    /// with them. Returns whether more are left. Call it between other work until it returns
    /// `false`, and take a view now and then.
    pub fn advance(&mut self, limit: usize) -> bool {
        let mut left = limit;
        left -= self.refresh_if_many(left).min(left);
        left -= self.merge.reassign_renamed(left).min(left);
        left -= self.merge.settle_waiting(left).min(left);
        if left == 0 {
            return true;
        }
        let sweeping: Vec<NodeIndex> = self
            .merge
            .state
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
        let outdated = |(index, log): (&NodeIndex, &super::log::Log)| {
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
        self.merge.is_unsettled() || self.merge.naming.renames.is_amid()
    }

    /// Reassigns stale conflict names if their number would delay a view. Returns the
    /// steps taken.
    pub(super) fn refresh_if_many(&mut self, limit: usize) -> usize {
        if self.merge.naming.stale_aliases.steps() > self.merge.settling.step_records {
            self.merge.refresh_stale(limit)
        } else {
            0
        }
    }

    /// Removes the last of a log's old rows from the merge. Returns the steps taken, including the
    /// directories that ended.
    pub(super) fn remove_old_row(&mut self, index: NodeIndex) -> usize {
        let Some(row) = self.log_mut(index).old.pop() else {
            return 0;
        };
        let before = self.merge.costs.of(index).directories;
        let looks = self.merge.settling.looks;
        self.merge.change(Some(&row), None);
        let ended = before.saturating_sub(self.merge.costs.of(index).directories) as usize;
        1 + ended + self.merge.steps_since(looks)
    }

    /// Finishes the sweep of a node.
    pub(super) fn finish_sweep(&mut self, index: NodeIndex) {
        while self.merge.state.node(index).sweep.is_some() {
            self.sweep_step(index, self.merge.settling.step_records);
        }
    }

    /// Sweeps about `limit` more rows of a node. Returns the steps taken.
    fn sweep_step(&mut self, index: NodeIndex, limit: usize) -> usize {
        let Some(done) = self.merge.state.node(index).sweep else {
            return 0;
        };
        let log = self.log_mut(index);
        let next = |rows: &super::rows::Rows| -> Vec<Row> {
            rows.after(done).take(limit).cloned().collect()
        };
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
        let (looks, mut steps) = (self.merge.settling.looks, 0);
        for same in rows.chunk_by(|a, b| a.sequence == b.sequence) {
            if steps + self.merge.steps_since(looks) >= limit {
                return limit;
            }
            self.merge.sweep(index, same, same[0].sequence);
            steps += same.len();
        }
        if end == u64::MAX {
            self.merge.node_mut(index).sweep = None;
        }
        steps + self.merge.steps_since(looks)
    }

    fn drop_forgotten(&mut self, index: NodeIndex) {
        if !self.logs.get(&index).is_some_and(|log| log.forgotten) {
            return;
        }
        let id = self.merge.state.node(index).id;
        self.logs.remove(&index);
        self.indexes.remove(&id);
        self.forgetting.forgotten.push(id);
        Arc::make_mut(&mut self.merge.state.nodes)[usize::from(index.0)] = None;
        self.merge.state.unserved.authors.remove(&index);
        self.merge.dirty = true;
        self.forget_name(index);
    }
}
