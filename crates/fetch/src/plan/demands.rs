//! Demands of waiting readers, and the next request for them.
//!
//! A reader that requests much at once, as a command does that copies a whole file, is blocked by
//! the first missing byte. In a swarm only that gap is requested from full holders after a delay,
//! whichever node owns its stripe. Of the rest, only gaps that need not wait for other nodes are
//! requested.

use std::time::Instant;

use super::patience::Waiting;
use super::queue::WorkClass;
use super::schedule::{HolderChoice, RequestPurpose};
use super::{
    DEMANDS_MAX, Decision, Demand, DemandId, HoldBack, Lane, Plan, PlanError, PlanEvent,
    RangeRequest, RequestCause, Timer,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, PAGE_BYTES};

/// Maximum demands of one file tried in one step if its holders have different parts. The others
/// follow in the next step.
const DEMANDS_TRIED_MAX: usize = 16;
/// Maximum length of a search for the first of several adjacent demands. The kernel reads ahead by
/// a few dozen at a time at most.
const ROW_MAX: usize = 32;

/// Result of trying one demand.
enum DemandAttempt {
    Asked(RangeRequest),
    /// All of it is in flight or on this node.
    AllAsked,
    /// No peer can be asked for it now.
    InVain,
}

impl Plan {
    /// Adds a reader that waits for `range` of an open file. It waits until `deadline`, or longer
    /// while bytes of the file arrive. Ends in [`PlanEvent::Ready`] or [`PlanEvent::Failed`].
    ///
    /// # Errors
    /// The remembered failure of a recent attempt; [`PlanError::Gone`] if the holders recently
    /// reported the range gone; [`PlanError::TooMany`].
    pub fn demand(
        &mut self,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<DemandId, PlanError> {
        self.note_read(now, &content, range);
        self.demand_just(now, content, range, deadline)
    }

    /// Adds a waiting reader like [`Plan::demand`], but without read-ahead.
    ///
    /// # Errors
    /// Those of [`Plan::demand`].
    pub fn demand_just(
        &mut self,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<DemandId, PlanError> {
        let id = DemandId(self.next_id);
        self.demand_again(now, id, content, range, deadline)?;
        self.next_id += 1;
        Ok(id)
    }

    /// Adds a demand again that had ended in [`PlanEvent::Ready`] without its bytes being readable.
    /// It keeps its id, because its reader cancels it and queries its deadline by that id.
    ///
    /// # Errors
    /// Those of [`Plan::demand`].
    pub fn demand_again(
        &mut self,
        now: Instant,
        id: DemandId,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(), PlanError> {
        let full = self.demands.len() >= DEMANDS_MAX;
        let fetch = self.files.get_mut(&content).ok_or(PlanError::NoHolder)?;
        // a file of one chunk is requested as a whole
        let range = if fetch.size_bytes <= CHUNK_BYTES {
            fetch.whole()
        } else {
            range.align_out(PAGE_BYTES, fetch.size_bytes)
        };
        let present = fetch.have().contains(range);
        match fetch.failures.of(now, range) {
            Some(why) if !present => return Err(why),
            None if !present && fetch.is_just_gone_in(now, range) => return Err(PlanError::Gone),
            _ if full => return Err(PlanError::TooMany),
            _ => {}
        }
        if present {
            self.events.push_back(PlanEvent::Ready(id));
            return Ok(());
        }
        fetch.readers.insert(range, id);
        let gets = fetch.holders_mut().take_to_get();
        let asked = &fetch.asked;
        self.decisions.note(|| Decision::ReadBegan {
            read: id,
            content,
            range,
            joined: asked.touching(range).into_iter().collect(),
        });
        let demand = Demand {
            content,
            range,
            waiting: Waiting::new(now, deadline.saturating_duration_since(now)),
            stuck: None,
            deadline,
        };
        self.demands.insert(id, demand);
        self.timers.insert((deadline, Timer::Deadline(id)));
        self.get_soon(now, content, gets);
        self.enqueue(&content, WorkClass::Demand);
        self.hasten_checks(now, &content, range);
        Ok(())
    }

    /// Requests the next part of the oldest demand of a file that can be requested. Parks the file
    /// if none can.
    pub(super) fn next_demanded(
        &mut self,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        for _ in 0..DEMANDS_TRIED_MAX {
            let fetch = self.files.get_mut(content)?;
            let Some((next, begins)) = fetch.readers.scan_next() else {
                self.park(content, WorkClass::Demand);
                return None;
            };
            let in_parts = fetch.holders().has_partial();
            let row = begins.then(|| self.first_in_row(content, next));
            // a peer that lacks the first demand of a row may have a later one
            for id in row.filter(|first| *first != next).into_iter().chain([next]) {
                match self.ask_for_demand(now, content, id) {
                    DemandAttempt::Asked(request) => return Some(request),
                    DemandAttempt::AllAsked => return None,
                    // if all holders have everything, the next demand cannot be requested either
                    DemandAttempt::InVain if !in_parts => {
                        self.park(content, WorkClass::Demand);
                        return None;
                    }
                    DemandAttempt::InVain => {}
                }
            }
        }
        None
    }

    /// Requests the next part of one demand.
    fn ask_for_demand(
        &mut self,
        now: Instant,
        content: &ContentKey,
        id: DemandId,
    ) -> DemandAttempt {
        let range = self.demands.get(&id).map(|demand| demand.range);
        let Some(fetch) = self.files.get_mut(content) else {
            return DemandAttempt::AllAsked;
        };
        let gap = range.and_then(|range| Some((range, fetch.first_gap(range)?)));
        let Some((range, first)) = gap else {
            fetch.readers.finish_issuing(id, self.next_id);
            self.next_id += 1;
            self.enqueue(content, WorkClass::Demand);
            return DemandAttempt::AllAsked;
        };
        for (gap, asking) in self.gaps_of_demand(now, content, id, range, first) {
            let why = match self.choose(now, content, gap, asking, &[]) {
                HolderChoice::Ask(node, part) => {
                    let request = self.issue(now, node, RequestCause::Demand, *content, part);
                    return DemandAttempt::Asked(request);
                }
                HolderChoice::Full => HoldBack::NoRoom,
                HolderChoice::Reserved => HoldBack::OfAnotherNode,
                HolderChoice::Nobody | HolderChoice::InParts => {
                    self.starve(now, content);
                    HoldBack::NoHolder
                }
            };
            let held_back = Decision::ReadHeldBack { read: id, gap, why };
            self.decisions.note(|| held_back);
        }
        DemandAttempt::InVain
    }

    /// Returns the first of the adjacent unrequested demands that end at this one. The kernel reads
    /// ahead with several threads, and their reads arrive in any order.
    fn first_in_row(&self, content: &ContentKey, id: DemandId) -> DemandId {
        let before = |id: &DemandId| {
            let start = self.demands.get(id)?.range.start;
            let last = ByteRange::new(start.checked_sub(1)?, start);
            let readers = &self.files.get(content)?.readers;
            let ends_there = |id: &DemandId| {
                let demand = self.demands.get(id);
                readers.is_unissued(*id) && demand.is_some_and(|it| it.range.end == start)
            };
            self.waiting_for(content, last).into_iter().find(ends_there)
        };
        let row = std::iter::successors(Some(id), before).take(ROW_MAX);
        row.last().unwrap_or(id)
    }

    /// Returns the gaps of a demand to try: its first gap, which blocks the reader if it has
    /// reached it. In a swarm the later gaps that need not wait for other nodes follow.
    fn gaps_of_demand(
        &mut self,
        now: Instant,
        content: &ContentKey,
        id: DemandId,
        range: ByteRange,
        first: ByteRange,
    ) -> Vec<(ByteRange, RequestPurpose)> {
        let since = self.stuck_since(now, id, first.start);
        let asking = since.map_or(RequestPurpose::new(Lane::Urgent), RequestPurpose::waiting);
        let mut tried = vec![(first, asking)];
        let Some(fetch) = self.files.get(content).filter(|it| it.is_swarm()) else {
            return tried;
        };
        let gaps = self
            .swarm_policy(content, fetch)
            .gaps_to_try(now, (range, range.end));
        let behind = gaps.into_iter().filter(|gap| gap.start > first.start);
        tried.extend(behind.map(|gap| (gap, RequestPurpose::new(Lane::Urgent))));
        tried
    }

    /// Returns since when a gap blocks the reader of a demand, or `None` while an earlier byte
    /// blocks it.
    fn stuck_since(&mut self, now: Instant, id: DemandId, gap: u64) -> Option<Instant> {
        let demand = self.demands.get(&id)?;
        let have = self.files.get(&demand.content)?.have();
        let missing = have.missing_in(demand.range);
        let is_asked_before = missing.iter().next().is_some_and(|it| it.start < gap);
        let is_here = !is_asked_before && !self.is_preceded(demand);
        let known = demand.stuck.filter(|(at, _)| *at == gap);
        let stuck = is_here.then(|| known.unwrap_or((gap, now)));
        self.demands.get_mut(&id)?.stuck = stuck;
        stuck.map(|(_, since)| since)
    }

    /// Returns whether another demand ends where this one begins: its reader has not reached it
    /// yet.
    pub(super) fn is_preceded(&self, demand: &Demand) -> bool {
        let start = demand.range.start;
        let before = ByteRange::new(start.saturating_sub(1), start);
        let waiting = self.waiting_for(&demand.content, before);
        let mut waiting = waiting.iter().filter_map(|id| self.demands.get(id));
        waiting.any(|other| other.range.end == start)
    }
}
