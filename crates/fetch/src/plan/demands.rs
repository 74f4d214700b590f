//! What readers wait for, and the next request for it.
//!
//! A reader that has asked for much at one time, as a command does that copies a whole file, waits
//! for the first of it that is not here. That alone is asked of full holders in a swarm whosever it
//! is, when its time has come; of the rest what need not wait for others.

use std::ops::Bound::{Excluded, Unbounded};
use std::time::Instant;

use super::schedule::{Asking, Choice};
use super::turns::Want;
use super::{
    DEMANDS_MAX, Demand, DemandId, Lane, Plan, PlanError, PlanEvent, RangeRequest, Timer,
    WHOLE_MAX_BYTES,
};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};

/// Demands of one file that are tried at one go, where its holders have different parts; the others
/// follow in the next.
const DEMANDS_TRIED_MAX: usize = 16;
/// Demands that follow each other, of which the first is looked for: the kernel reads ahead by no
/// more than some dozen at one time.
const ROW_MAX: usize = 32;

/// What became of a look at one demand.
enum Tried {
    Asked(RangeRequest),
    /// All of it is asked or here.
    AllAsked,
    /// Nobody can be asked for it now.
    InVain,
}

impl Plan {
    /// A reader waits for `range` of an open file until `deadline`, or longer: for as long as bytes
    /// of the file come. Ends in [`PlanEvent::Ready`] or [`PlanEvent::Failed`].
    ///
    /// # Errors
    /// The remembered failure of a moment ago, or [`PlanError::TooMany`].
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

    /// As [`Plan::demand`], for a reader that nothing is to be fetched ahead of.
    ///
    /// # Errors
    /// As [`Plan::demand`].
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

    /// As [`Plan::demand_just`], for one that had ended in [`PlanEvent::Ready`] and got nothing:
    /// who cancels it, or asks how long it waits, knows it by that name.
    ///
    /// # Errors
    /// As [`Plan::demand`].
    pub fn demand_again(
        &mut self,
        now: Instant,
        id: DemandId,
        content: ContentKey,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<(), PlanError> {
        let full = self.demands.len() >= DEMANDS_MAX;
        let fetch = self.fetches.get_mut(&content).ok_or(PlanError::NoHolder)?;
        let range = if fetch.size_bytes <= WHOLE_MAX_BYTES {
            fetch.whole()
        } else {
            range.align_out(PAGE_BYTES, fetch.size_bytes)
        };
        let present = fetch.have().contains(range);
        match fetch.remembered_failure(now, range) {
            Some(why) if !present => return Err(why),
            None if !present && fetch.is_just_gone_in(now, range) => return Err(PlanError::Gone),
            _ if full => return Err(PlanError::TooMany),
            _ => {}
        }
        if present {
            self.events.push_back(PlanEvent::Ready(id));
            return Ok(());
        }
        fetch.waits.insert(range, id);
        fetch.hungry.insert(id);
        let gets = std::mem::take(&mut fetch.is_to_get);
        let demand = Demand {
            content,
            range,
            since: now,
            stuck: None,
            patience: deadline.saturating_duration_since(now),
            deadline,
        };
        self.demands.insert(id, demand);
        self.timers.insert((deadline, Timer::Deadline(id)));
        self.get_soon(now, content, gets);
        self.call_up(&content, Want::Demand);
        self.hurry_what_is_asked(now, &content, range);
        Ok(())
    }

    /// Asks for the oldest demand of a file that can be asked for; parks the file where none can.
    pub(super) fn next_demanded(
        &mut self,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        for _ in 0..DEMANDS_TRIED_MAX {
            let fetch = self.fetches.get_mut(content)?;
            let begins = fetch.tried.is_none();
            let after = fetch.tried.map_or(Unbounded, Excluded);
            let next = fetch.hungry.range((after, Unbounded)).next().copied();
            fetch.tried = next;
            let Some(next) = next else {
                self.park(content, Want::Demand);
                return None;
            };
            let in_parts = fetch.has_partial_holders();
            let row = begins.then(|| self.first_in_row(content, next));
            // who has nothing of the first of a row may have what is behind
            for id in row.filter(|first| *first != next).into_iter().chain([next]) {
                match self.ask_for_demand(now, content, id) {
                    Tried::Asked(request) => return Some(request),
                    Tried::AllAsked => return None,
                    // what cannot be asked for one cannot for the next where all have all
                    Tried::InVain if !in_parts => {
                        self.park(content, Want::Demand);
                        return None;
                    }
                    Tried::InVain => {}
                }
            }
        }
        None
    }

    /// Asks for the next of one demand.
    fn ask_for_demand(&mut self, now: Instant, content: &ContentKey, id: DemandId) -> Tried {
        let range = self.demands.get(&id).map(|demand| demand.range);
        let Some(fetch) = self.fetches.get_mut(content) else {
            return Tried::AllAsked;
        };
        let gap = range.and_then(|range| Some((range, fetch.first_gap(range)?)));
        let Some((range, first)) = gap else {
            fetch.no_longer_hungry(&id);
            // what others have wanted by now comes before its next
            fetch.turn_from = self.next_id;
            self.next_id += 1;
            self.call_up(content, Want::Demand);
            return Tried::AllAsked;
        };
        for (gap, asking) in self.gaps_of_demand(now, content, id, range, first) {
            match self.choose(now, content, gap, asking, &[]) {
                Choice::Ask(node, part) => {
                    let request = self.issue(now, node, Lane::Urgent, *content, part, true);
                    return Tried::Asked(request);
                }
                Choice::Full | Choice::Reserved => {}
                Choice::Nobody | Choice::InParts => self.starve(now, content),
            }
        }
        Tried::InVain
    }

    /// Of what is to be asked for that follows each other, up to a demand, the first: the kernel
    /// reads ahead by several threads, which come in any order.
    fn first_in_row(&self, content: &ContentKey, id: DemandId) -> DemandId {
        let before = |id: &DemandId| {
            let start = self.demands.get(id)?.range.start;
            let last = ByteRange::new(start.checked_sub(1)?, start);
            let hungry = &self.fetches.get(content)?.hungry;
            let ends_there = |id: &DemandId| {
                let demand = self.demands.get(id);
                hungry.contains(id) && demand.is_some_and(|it| it.range.end == start)
            };
            self.waiting_for(content, last).into_iter().find(ends_there)
        };
        let row = std::iter::successors(Some(id), before).take(ROW_MAX);
        row.last().unwrap_or(id)
    }

    /// What of a demand to try: its first gap, which its reader waits for if it has come there, and
    /// in a swarm those behind it that need not wait for others.
    fn gaps_of_demand(
        &mut self,
        now: Instant,
        content: &ContentKey,
        id: DemandId,
        range: ByteRange,
        first: ByteRange,
    ) -> Vec<(ByteRange, Asking)> {
        let since = self.stuck_since(now, id, first.start);
        let asking = since.map_or(Asking::new(Lane::Urgent), Asking::waiting);
        let mut tried = vec![(first, asking)];
        let Some(fetch) = self.fetches.get(content).filter(|it| it.is_swarm()) else {
            return tried;
        };
        let gaps = fetch.gaps_to_try(now, content, self.config.me, (range, range.end));
        let behind = gaps.into_iter().filter(|gap| gap.start > first.start);
        tried.extend(behind.map(|gap| (gap, Asking::new(Lane::Urgent))));
        tried
    }

    /// Since when the reader of a demand has come to a gap in it; nothing while it waits for
    /// something before.
    fn stuck_since(&mut self, now: Instant, id: DemandId, gap: u64) -> Option<Instant> {
        let demand = self.demands.get(&id)?;
        let have = self.fetches.get(&demand.content)?.have();
        let missing = have.missing_in(demand.range);
        let is_asked_before = missing.iter().next().is_some_and(|it| it.start < gap);
        let is_here = !is_asked_before && !self.is_preceded(demand);
        let known = demand.stuck.filter(|(at, _)| *at == gap);
        let stuck = is_here.then(|| known.unwrap_or((gap, now)));
        self.demands.get_mut(&id)?.stuck = stuck;
        stuck.map(|(_, since)| since)
    }

    /// Whether somebody waits for what ends where a demand begins: its reader has not come to it.
    pub(super) fn is_preceded(&self, demand: &Demand) -> bool {
        let start = demand.range.start;
        let before = ByteRange::new(start.saturating_sub(1), start);
        let waiting = self.waiting_for(&demand.content, before);
        let mut waiting = waiting.iter().filter_map(|id| self.demands.get(id));
        waiting.any(|other| other.range.end == start)
    }
}
