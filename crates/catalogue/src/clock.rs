//! The clock, as the owner sets it. Versions dated ahead of it wait until their time comes. The
//! merge is a function of this clock in the same way as of node liveness. Nothing here reads the
//! system clock.

use super::merge::Merge;
use super::row::{Class, Row};
use super::{Catalogue, EARLY_TOLERANCE_SECONDS};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::id::NodeId;

impl Merge {
    /// Settles the names of rows, the first step at once. An author may give very many rows the
    /// same date.
    fn settle_rows(&mut self, rows: Vec<Row>) {
        let is_record = |row: &&Row| row.class == Class::Directory;
        for row in rows.iter().filter(is_record) {
            self.retime_directory(row);
        }
        let at_once = rows.len().min(self.settling.step_records);
        self.settling.unsettled.extend(rows);
        self.settle_waiting(at_once);
    }
}

impl Catalogue {
    /// Sets the clock, in seconds since 1970. The owner calls it regularly. Versions at most
    /// [`EARLY_TOLERANCE_SECONDS`] ahead of it are shown. A clock that goes back hides nothing.
    pub fn set_clock(&mut self, now_seconds: i64) {
        let horizon = Timestamp {
            seconds: now_seconds.saturating_add(EARLY_TOLERANCE_SECONDS),
            nanoseconds: 0,
        };
        let before = self.merge.state.horizon;
        if before.is_some_and(|before| before >= horizon) {
            return;
        }
        self.merge.state.horizon = Some(horizon);
        if before.is_none() {
            return self.hide_early();
        }
        let due = self.merge.settling.early.take_up_to(horizon);
        self.merge.dirty |= !due.is_empty();
        self.merge.settle_rows(due);
        self.merge.apply_waiting_names();
    }

    /// Returns whether versions of files or links wait for their time. Waiting directory times do
    /// not count.
    pub fn has_early_versions(&self) -> bool {
        self.merge.settling.early.has_versions()
    }

    /// Returns the next node that sent versions dated ahead of the clock and was not reported yet.
    pub fn poll_dated_ahead(&mut self) -> Option<NodeId> {
        let index = self.merge.settling.dated_ahead.pop_first()?;
        // The node may have been forgotten in the meantime.
        let node = self.merge.state.nodes.get(usize::from(index.0))?;
        node.as_ref().map(|node| node.id)
    }

    /// Hides the early rows when the clock is set for the first time.
    fn hide_early(&mut self) {
        let state = &self.merge.state;
        let logs = self.logs.values().flat_map(|log| [&log.rows, &log.old]);
        let rows = logs.flat_map(|rows| rows.after(0));
        let early = rows.filter(|row| !row.is_tombstone() && state.is_ahead(row));
        let early: Vec<Row> = early.cloned().collect();
        self.merge.dirty |= !early.is_empty();
        for row in &early {
            self.merge.settling.early.insert(row);
            if self.merge.state.is_early(row) {
                self.merge.settling.dated_ahead.insert(row.author);
            }
        }
        self.merge.settle_rows(early);
    }
}
