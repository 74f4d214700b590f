//! The waiting readers of one file, and the order in which their bytes are requested.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use super::DemandId;
use super::queue::QueuePosition;
use super::range_index::RangeIndex;
use p2pfs_types::extent::ByteRange;

/// The waiting readers of one file.
#[derive(Debug, Default)]
pub(super) struct ReaderSet {
    /// Ranges of the waiting readers.
    waits: RangeIndex<DemandId>,
    /// Demands with bytes that still have to be requested.
    unissued: BTreeSet<DemandId>,
    /// Lower bound of the file's queue number for demands. Each time a demand is requested
    /// completely, it is set to the next free demand id, so the file then comes behind the demands
    /// that other files have by then.
    turn_from: u64,
    /// Whether the readers have waited too long for their turn. The next request for the file then
    /// comes before those of all other files.
    is_overdue: bool,
    /// Demand that the current pass returned last. `None` before the first and after the last.
    scan_cursor: Option<DemandId>,
}

impl ReaderSet {
    /// Adds a reader that waits.
    pub(super) fn insert(&mut self, range: ByteRange, id: DemandId) {
        self.waits.insert(range, id);
        self.unissued.insert(id);
    }

    /// Removes a reader.
    pub(super) fn remove(&mut self, id: DemandId) {
        self.waits.remove(id);
        self.remove_unissued(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.waits.count()
    }

    /// Returns the readers whose ranges touch `range`.
    pub(super) fn touching(&self, range: ByteRange) -> BTreeSet<DemandId> {
        self.waits.touching(range)
    }

    /// Returns the oldest demand with bytes that still have to be requested.
    pub(super) fn first_unissued(&self) -> Option<DemandId> {
        self.unissued.first().copied()
    }

    pub(super) fn is_unissued(&self, id: DemandId) -> bool {
        self.unissued.contains(&id)
    }

    /// Marks the demands that touch a range as having bytes that still have to be requested.
    pub(super) fn add_unissued(&mut self, range: ByteRange) {
        self.unissued.extend(self.waits.touching(range));
    }

    /// Marks a demand as having nothing left to request.
    fn remove_unissued(&mut self, id: DemandId) {
        self.unissued.remove(&id);
        self.is_overdue &= !self.unissued.is_empty();
    }

    /// Records that all of a demand was requested. `number` is the next free id: the present
    /// demands of all other files come before the next demand of this file.
    pub(super) fn finish_issuing(&mut self, id: DemandId, number: u64) {
        self.remove_unissued(id);
        self.turn_from = number;
    }

    /// Returns the queue position of the file for its demands: the id of the oldest unrequested
    /// one, or `turn_from` if that is higher. An overdue file comes first. Returns `None` if
    /// everything was requested.
    pub(super) fn position(&self) -> Option<QueuePosition> {
        let oldest = self.unissued.first()?;
        Some(if self.is_overdue {
            QueuePosition::First
        } else {
            QueuePosition::At(oldest.0.max(self.turn_from))
        })
    }

    /// Marks the readers as overdue. Returns whether that is news.
    pub(super) fn mark_overdue(&mut self) -> bool {
        !std::mem::replace(&mut self.is_overdue, true)
    }

    /// Ends the precedence of overdue readers after a request for them.
    pub(super) fn end_overdue(&mut self) {
        self.is_overdue = false;
    }

    #[cfg(test)]
    pub(super) fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Starts a new pass over the demands.
    pub(super) fn restart_scan(&mut self) {
        self.scan_cursor = None;
    }

    /// Returns the next demand of the pass, and whether it is the first one. Returns `None` after
    /// the last, and the next call begins a new pass.
    pub(super) fn scan_next(&mut self) -> Option<(DemandId, bool)> {
        let is_first = self.scan_cursor.is_none();
        let after = self.scan_cursor.map_or(Unbounded, Excluded);
        self.scan_cursor = self.unissued.range((after, Unbounded)).next().copied();
        Some((self.scan_cursor?, is_first))
    }
}
