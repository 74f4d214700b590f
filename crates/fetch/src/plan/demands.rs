//! The waiting demands of all readers, and questions about them: for example, whether a reader
//! waits for a range of a file.

use std::collections::BTreeMap;
use std::time::Instant;

use super::fetch::FileFetch;
use super::patience::Waiting;
use super::state::StepCounter;
use super::{DemandId, STEP_ITEMS_MAX, URGENT_MAX_BYTES};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;

/// Reader that waits.
#[derive(Debug)]
pub(super) struct Demand {
    pub content: ContentKey,
    pub range: ByteRange,
    pub waiting: Waiting,
    /// First byte that blocks the reader and has not been requested from any peer, and since when.
    pub stuck: Option<(u64, Instant)>,
    /// When the wait is checked next.
    pub deadline: Instant,
}

/// The waiting demands of all readers. The ranges of a file's demands are indexed at the file.
#[derive(Debug, Default)]
pub(super) struct DemandTable {
    demands: BTreeMap<DemandId, Demand>,
    /// Number of demands examined by all calls together.
    examined: StepCounter,
}

impl DemandTable {
    pub(super) fn get(&self, id: DemandId) -> Option<&Demand> {
        self.demands.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: DemandId) -> Option<&mut Demand> {
        self.demands.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: DemandId, demand: Demand) {
        self.demands.insert(id, demand);
    }

    pub(super) fn remove(&mut self, id: DemandId) -> Option<Demand> {
        self.demands.remove(&id)
    }

    pub(super) fn count(&self) -> usize {
        self.demands.len()
    }

    /// Returns the number of demands examined by all calls together.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn examined(&self) -> u64 {
        self.examined.count()
    }

    /// Returns the demands of a file that touch a range.
    pub(super) fn touching(
        &self,
        file: &FileFetch,
        range: ByteRange,
    ) -> impl Iterator<Item = (DemandId, &Demand)> {
        let ids = file.readers.touching(range).into_iter();
        ids.filter_map(|id| {
            self.examined.step();
            Some((id, self.demands.get(&id)?))
        })
    }

    /// Returns whether a reader waits for a part of a range of a file.
    pub(super) fn is_waited_for(&self, file: &FileFetch, range: ByteRange) -> bool {
        self.touching(file, range).next().is_some()
    }

    /// Returns since when the longest-waiting reader of a range waits.
    pub(super) fn waits_since(&self, file: &FileFetch, range: ByteRange) -> Option<Instant> {
        let waiting = self.touching(file, range);
        waiting.map(|(_, demand)| demand.waiting.since).min()
    }

    /// Returns whether another demand ends where this one begins. The reader has not reached this
    /// demand then.
    fn is_preceded(&self, file: &FileFetch, demand: &Demand) -> bool {
        let start = demand.range.start;
        let before = ByteRange::new(start.saturating_sub(1), start);
        let mut waiting = self.touching(file, before);
        waiting.any(|(_, other)| other.range.end == start)
    }

    /// Returns whether a range has some of the first [`URGENT_MAX_BYTES`] of a demand that its
    /// reader has reached.
    pub(super) fn is_next_to_be_read(&self, file: &FileFetch, range: ByteRange) -> bool {
        let demands = self.touching(file, range).map(|(_, demand)| demand);
        let mut near = demands.filter(|it| range.start < it.range.start + URGENT_MAX_BYTES);
        near.any(|demand| !self.is_preceded(file, demand))
    }

    /// Returns the first missing part of a range, within the first demand that touches the range if
    /// there is one.
    pub(super) fn first_waited(&self, file: &FileFetch, range: ByteRange) -> Option<ByteRange> {
        let demands = self.touching(file, range);
        let parts = demands.map(|(_, demand)| demand.range.intersection(&range));
        let first = parts.min_by_key(|part| part.start).unwrap_or(range);
        file.presence.here().missing_in(first).iter().next()
    }

    /// Goes back from a demand to the demand that ends where it begins, and so on, as long as these
    /// are not completely requested, over at most [`STEP_ITEMS_MAX`] demands. Returns the first of
    /// this row. The kernel reads ahead with several threads, so the demands of one reader arrive
    /// in any order.
    pub(super) fn first_in_row(&self, file: &FileFetch, id: DemandId) -> DemandId {
        let before = |id: &DemandId| {
            let start = self.get(*id)?.range.start;
            let last = ByteRange::new(start.checked_sub(1)?, start);
            let mut unissued = self.touching(file, last);
            let found = unissued
                .find(|(id, demand)| demand.range.end == start && file.readers.is_unissued(*id));
            found.map(|(id, _)| id)
        };
        let row = std::iter::successors(Some(id), before).take(STEP_ITEMS_MAX);
        row.last().unwrap_or(id)
    }

    /// Returns since when a gap blocks the reader of a demand, and remembers it. Returns `None` if
    /// an earlier byte of the demand is missing, or if another demand ends where this one begins.
    pub(super) fn stuck_since(
        &mut self,
        file: &FileFetch,
        now: Instant,
        id: DemandId,
        gap: u64,
    ) -> Option<Instant> {
        let demand = self.get(id)?;
        let missing = file.presence.here().missing_in(demand.range);
        let is_asked_before = missing.iter().next().is_some_and(|it| it.start < gap);
        let is_here = !is_asked_before && !self.is_preceded(file, demand);
        let known = demand.stuck.filter(|(at, _)| *at == gap);
        let stuck = is_here.then(|| known.unwrap_or((gap, now)));
        self.get_mut(id)?.stuck = stuck;
        stuck.map(|(_, since)| since)
    }

    /// Returns all demands.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&DemandId, &Demand)> {
        self.demands.iter()
    }
}
