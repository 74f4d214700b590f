//! The next request: demands in their order, then read-ahead and fills, each file in turn.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::fetch::Coverage;
use super::{
    DemandId, IN_FLIGHT_MAX_BYTES, InFlight, Lane, PIECE_MAX_BYTES, Plan, PlanEvent, RangeRequest,
    RequestId, Timer, URGENT_MAX_BYTES,
};
use crate::digest::ContentHash;
use crate::extent::ByteRange;
use crate::id::NodeId;

/// Read-ahead and fills leave this much of [`IN_FLIGHT_MAX_BYTES`] to demands.
const DEMAND_RESERVE_BYTES: u64 = 16 << 20;
/// How many peers that never answered are tried for one file at one time.
const UNKNOWN_AT_ONCE_MAX: usize = 4;
/// One bulk request in so many goes to a peer that is not known yet, though a known one has room.
const EXPLORE_ONE_IN: u32 = 32;
/// A peer is not asked in bulk while another would, although it is busy, be so many times sooner.
const WORSE_MULTIPLE: u32 = 4;
/// Or would be sooner by less than this.
const WORSE_SLACK: Duration = Duration::from_millis(100);

/// Whom to ask for the beginning of a gap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Ask(NodeId, ByteRange),
    /// Those that have it have enough to do.
    Full,
    /// No reachable peer has it.
    Nobody,
    /// Of a range that is to be asked as a whole, some have parts and nobody has all.
    InParts,
}

/// The holders of a gap that may be asked now.
#[derive(Default)]
struct Candidates {
    any: bool,
    any_in_part: bool,
    /// The best score of all, those without room included.
    least: Option<Duration>,
    best: Option<(Duration, NodeId, ByteRange)>,
    best_is_silent: bool,
    unknown: Vec<(NodeId, ByteRange)>,
    unknown_in_use: usize,
}

impl Plan {
    /// What to ask next; `None` until something changes.
    pub fn poll_request(&mut self, now: Instant) -> Option<RangeRequest> {
        while let Some(hedge) = self.hedges.pop_front() {
            if self.in_flight.contains_key(&hedge.id) {
                return Some(hedge);
            }
        }
        if self.settled {
            return None;
        }
        let found = self.next_demanded(now).or_else(|| {
            let room = IN_FLIGHT_MAX_BYTES - DEMAND_RESERVE_BYTES;
            let room = self.in_flight_bytes + PIECE_MAX_BYTES <= room;
            room.then(|| self.next_ahead(now).or_else(|| self.next_filling(now)))
                .flatten()
        });
        self.settled = found.is_none();
        found
    }

    fn next_demanded(&mut self, now: Instant) -> Option<RangeRequest> {
        // what cannot be asked for one demand cannot for the next of the same file
        let mut hopeless = BTreeSet::new();
        let mut last: Option<DemandId> = None;
        loop {
            if self.in_flight_bytes + PIECE_MAX_BYTES > IN_FLIGHT_MAX_BYTES {
                return None;
            }
            let after = last.map_or(Unbounded, Excluded);
            let id = *self.hungry.range((after, Unbounded)).next()?;
            last = Some(id);
            let Some(demand) = self.demands.get(&id) else {
                continue;
            };
            let (hash, range) = (demand.hash, demand.range);
            let small = range.len() <= URGENT_MAX_BYTES;
            let lane = if small { Lane::Urgent } else { Lane::Bulk };
            if hopeless.contains(&(hash, small)) {
                continue;
            }
            let Some(gap) = self.fetches.get(&hash).and_then(|f| f.first_gap(range)) else {
                self.hungry.remove(&id);
                continue;
            };
            match self.choose(now, &hash, gap, lane, &[]) {
                Choice::Ask(node, part) => {
                    return Some(self.issue(now, node, lane, hash, part, true));
                }
                Choice::Full => {}
                Choice::Nobody | Choice::InParts => self.starve(now, &hash),
            }
            if !self.has_partial_holders(&hash) {
                hopeless.insert((hash, small));
            }
        }
    }

    fn has_partial_holders(&self, hash: &ContentHash) -> bool {
        let part = |coverage: &Coverage| matches!(coverage, Coverage::Part(_));
        self.fetches
            .get(hash)
            .is_some_and(|fetch| fetch.holders.values().any(part))
    }

    fn next_ahead(&mut self, now: Instant) -> Option<RangeRequest> {
        for _ in 0..self.ahead_turns.len() {
            let hash = self.ahead_turns.pop_front()?;
            let Some(fetch) = self.fetches.get(&hash) else {
                continue;
            };
            let ahead = fetch.streams.ahead();
            let gaps: Vec<_> = ahead
                .into_iter()
                .filter_map(|r| fetch.first_gap(r))
                .collect();
            if gaps.is_empty() {
                continue;
            }
            self.ahead_turns.push_back(hash);
            for gap in gaps {
                let choice = self.choose(now, &hash, gap, Lane::Bulk, &[]);
                if let Choice::Ask(node, part) = choice {
                    return Some(self.issue(now, node, Lane::Bulk, hash, part, false));
                }
            }
        }
        None
    }

    fn next_filling(&mut self, now: Instant) -> Option<RangeRequest> {
        for _ in 0..self.fill_turns.len() {
            let hash = self.fill_turns.pop_front()?;
            let Some(fetch) = self.fetches.get_mut(&hash) else {
                continue;
            };
            let Some(filling) = &fetch.filling else {
                continue;
            };
            let rest = ByteRange::new(filling.cursor, fetch.size_bytes);
            let first = fetch.first_gap(rest);
            let cursor = first.map_or(fetch.size_bytes, |gap| gap.start);
            if let Some(filling) = &mut fetch.filling {
                filling.cursor = cursor;
            }
            self.fill_turns.push_back(hash);
            let Some(first) = first else { continue };
            match self.choose(now, &hash, first, Lane::Bulk, &[]) {
                Choice::Ask(node, part) => {
                    return Some(self.issue(now, node, Lane::Bulk, hash, part, false));
                }
                Choice::Full => {}
                Choice::Nobody | Choice::InParts => {
                    let elsewhere = self.fill_from_parts(now, &hash, first.start);
                    if elsewhere.is_some() {
                        return elsewhere;
                    }
                    self.starve(now, &hash);
                }
            }
        }
        None
    }

    /// Nobody has the first gap; those that have parts of the file may fill others.
    fn fill_from_parts(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        from: u64,
    ) -> Option<RangeRequest> {
        let fetch = self.fetches.get(hash)?;
        let rest = ByteRange::new(from, fetch.size_bytes);
        let gap_of = |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges
                .present_in(rest)
                .iter()
                .find_map(|run| fetch.first_gap(run)),
            Coverage::All => None,
        };
        let gaps: Vec<_> = fetch.holders.values().filter_map(gap_of).collect();
        for gap in gaps {
            if let Choice::Ask(node, part) = self.choose(now, hash, gap, Lane::Bulk, &[]) {
                return Some(self.issue(now, node, Lane::Bulk, *hash, part, false));
            }
        }
        None
    }

    /// The best holder of the beginning of `gap` but for those in `exclude`.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        gap: ByteRange,
        lane: Lane,
        exclude: &[NodeId],
    ) -> Choice {
        let found = self.candidates(now, hash, gap, lane, exclude);
        if !found.any {
            return if found.any_in_part {
                Choice::InParts
            } else {
                Choice::Nobody
            };
        }
        let may_explore = !found.unknown.is_empty() && found.unknown_in_use < UNKNOWN_AT_ONCE_MAX;
        if let Some((score, node, part)) = found.best {
            let explore = may_explore
                && (found.best_is_silent
                    || lane == Lane::Bulk && self.rng.random_ratio(1, EXPLORE_ONE_IN));
            let least = found.least.unwrap_or(score);
            let bearable = least * WORSE_MULTIPLE + WORSE_SLACK;
            if !explore {
                let worse = lane == Lane::Bulk && exclude.is_empty() && score > bearable;
                return if worse {
                    Choice::Full
                } else {
                    Choice::Ask(node, part)
                };
            }
        }
        if !may_explore {
            return Choice::Full;
        }
        let (node, part) = found.unknown[self.rng.random_range(0..found.unknown.len())];
        Choice::Ask(node, part)
    }

    fn candidates(
        &self,
        now: Instant,
        hash: &ContentHash,
        gap: ByteRange,
        lane: Lane,
        exclude: &[NodeId],
    ) -> Candidates {
        let mut found = Candidates::default();
        let Some(fetch) = self.fetches.get(hash) else {
            return found;
        };
        for (node, coverage) in &fetch.holders {
            let (Some(peer), Some(part)) = (self.peers.get(node), coverage.first_in(gap)) else {
                continue;
            };
            if exclude.contains(node) || peer.resting_until(now).is_some() {
                continue;
            }
            // a hedge asks for just what was asked before
            let hedged = !exclude.is_empty();
            if hedged && part != gap {
                found.any_in_part = true;
                continue;
            }
            found.any = true;
            let grain = if hedged {
                PIECE_MAX_BYTES
            } else {
                peer.piece_bytes()
            };
            let part = ByteRange::new(part.start, part.end.min((part.start / grain + 1) * grain));
            let score = peer.score(lane, part.len());
            if peer.is_known() {
                found.least = Some(found.least.map_or(score, |least| least.min(score)));
            } else if peer.in_flight_bytes() > 0 {
                found.unknown_in_use += 1;
            }
            if !peer.has_room(lane, part.len()) {
                continue;
            }
            if !peer.is_known() && !peer.is_silent() {
                found.unknown.push((*node, part));
            } else if found.best.is_none_or(|(best, ..)| score < best) {
                found.best = Some((score, *node, part));
                found.best_is_silent = peer.is_silent();
            }
        }
        found
    }

    /// Notes a request as sent.
    pub(super) fn issue(
        &mut self,
        now: Instant,
        node: NodeId,
        lane: Lane,
        hash: ContentHash,
        range: ByteRange,
        waited: bool,
    ) -> RangeRequest {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let sent = self
            .peers
            .entry(node)
            .or_default()
            .sent(now, lane, range.len());
        let hedge_at = now + self.hedge_span(sent.usual, waited);
        let expire_at = now + self.config.request_limit;
        self.timers.insert((hedge_at, Timer::Hedge(id)));
        self.timers.insert((expire_at, Timer::Expire(id)));
        self.in_flight_bytes += range.len();
        let mut size_bytes = 0;
        if let Some(fetch) = self.fetches.get_mut(&hash) {
            fetch.pending.insert(range);
            fetch.in_flight.insert(id);
            fetch.starved = false;
            size_bytes = fetch.size_bytes;
        }
        let request = RangeRequest {
            id,
            node,
            lane,
            hash,
            size_bytes,
            range,
        };
        self.in_flight.insert(
            id,
            InFlight {
                request,
                sent,
                hedge_at,
                expire_at,
            },
        );
        request
    }

    /// A wish that nobody can grant: look for holders, again and again.
    pub(super) fn starve(&mut self, now: Instant, hash: &ContentHash) {
        let Some(fetch) = self.fetches.get_mut(hash) else {
            return;
        };
        fetch.starved = true;
        if let Some(next) = fetch.want(now) {
            self.events.push_back(PlanEvent::Wanted(*hash));
            self.timers.insert((next, Timer::Wanted(*hash)));
        }
    }
}
