//! Distribution from few to many: if more nodes want a file than have all of it, the uplinks of the
//! full holders are scarce. Each part should leave them once.
//!
//! The file is cut into stripes of [`STRIPE_BYTES`]. Each stripe belongs to one of the nodes that
//! want the file, by a hash of stripe and node that all nodes compute alike (rendezvous hashing). A
//! node requests its own stripes from full holders at once, except stripes that another partial
//! holder already has. It takes the other stripes from their owners as those receive them, and asks
//! each owner periodically which ranges it has. No node keeps a list of all readers: a node learns
//! of the others by their requests and by offers.
//!
//! A sequential reader requests its own stripes as far ahead as all nodes together would. Its
//! requests to the full holders then amount to as much as if it were alone, and the other nodes
//! find its stripes ready when they reach them.
//!
//! No reader waits long for another node. Every node requests the first bytes of a file at once. A
//! stripe that blocks a reader is requested from a full holder, whichever node owns it. This
//! happens after a few times the duration of a stripe from there, or at once if the owner would be
//! much slower. The late owner then owns no stripes for a while.

use std::time::{Duration, Instant};

use super::fellows::SwarmPeer;
use super::fetch::{Coverage, Fetch};
use super::peer::Peer;
use super::schedule::{WORSE_MULTIPLE, WORSE_SLACK};
use super::{Lane, Plan, PlanEvent, RequestId, TakeBackReason, Timer};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;

/// Bytes of one stripe: four chunks, so that a stripe is in flight only briefly.
pub const STRIPE_BYTES: u64 = 256 << 10;
/// How long a reader waits for a stripe from its owner, in multiples of a full holder's time for a
/// stripe. A queue at a full holder delays all nodes alike.
const STRIPE_PATIENCE_MULTIPLE: u32 = 3;
/// Minimum wait of a reader for a stripe from its owner.
const STRIPE_PATIENCE: Duration = Duration::from_millis(400);
/// Maximum wait of a reader for a stripe from its owner.
const STRIPE_PATIENCE_MAX: Duration = Duration::from_secs(1);
/// A reader with less of a file than this asks full holders at once, since this is its first read.
const FIRST_BYTES: u64 = super::URGENT_MAX_BYTES;
/// Maximum stripes examined for one request.
const STRIPES_SEEN_MAX: usize = 96;
/// Maximum of the examined stripes that are tried for one request.
const STRIPES_TRIED_MAX: usize = 8;
/// Minimum interval between two examinations of the stripes of other nodes.
const STRIPE_AGAIN: Duration = Duration::from_millis(50);
/// First pause in which a node owns no stripes after a stripe of it was late.
const LAGGING: Duration = Duration::from_secs(2);
/// Maximum number of times that [`LAGGING`] doubles, once each time.
const LAGS_DOUBLED_MAX: u32 = 4;
/// Maximum distance in bytes between a node's last range and a stripe that it may own: as far as is
/// fetched ahead of a reader.
const NEAR_BYTES: u64 = super::AHEAD_MAX_BYTES;
/// A node that has less than 1/`SLOW_PART` of what this node has is too slow, or too late, to own
/// stripes.
const SLOW_PART: u64 = 4;
/// Bytes on this node before [`SLOW_PART`] applies.
const BEGUN_BYTES: u64 = 1 << 20;
/// How long a peer with an open request may send nothing before the swarm stops relying on it.
const LIVELY: Duration = Duration::from_millis(200);
/// Maximum requests of a file examined to see whether all of them are in vain.
const ASKED_SEEN_MAX: usize = 32;
/// Minimum interval between two surveys of a file.
const SURVEY_MIN: Duration = Duration::from_millis(100);
/// Maximum interval between two surveys of a file.
const SURVEY_MAX: Duration = Duration::from_secs(2);
/// Maximum nodes asked by one survey, in rotation.
const SURVEYED_AT_ONCE_MAX: usize = 16;

impl Plan {
    /// Records a node that also wants an open file and will have parts of it soon.
    pub fn fellow(&mut self, now: Instant, content: &ContentKey, node: NodeId) {
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        let known = fetch.swarm.fellows.contains_key(&node);
        if known || node == self.config.me || fetch.is_complete() {
            return;
        }
        if self.peer_or_new(node).is_none() {
            return;
        }
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.add_holder(node, Coverage::Part(ExtentSet::new()));
            // beyond the limit of holders it was not added
            if let Some(coverage) = fetch.holders().get(&node) {
                let is_partial = *coverage != Coverage::All;
                let first = fetch.swarm.fellows.is_empty();
                let fellow = SwarmPeer {
                    is_partial,
                    ..SwarmPeer::default()
                };
                fetch.swarm.fellows.insert(node, fellow);
                fetch.swarm.survey_each = SURVEY_MIN;
                if first {
                    self.timers
                        .insert((now + SURVEY_MIN, Timer::Survey(*content)));
                }
            }
        }
        self.cancel_foreign_stripes(now, content);
        self.requeue(content);
    }

    /// Cancels requests to full holders for stripes that now belong to other nodes. They were sent
    /// while no other node was known to want the file. A request stays if bytes of it arrived or a
    /// reader needs it next.
    fn cancel_foreign_stripes(&mut self, now: Instant, content: &ContentKey) {
        let me = self.config.me;
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        if !fetch.is_swarm() || fetch.have_bytes() > FIRST_BYTES {
            return;
        }
        let is_of_others = |id: &RequestId| {
            let Some(entry) = self.requests.get(*id) else {
                return false;
            };
            let (node, range) = (entry.request.node, entry.request.range);
            self.step();
            entry.arrived_bytes() == 0
                && fetch.holders().get(&node) == Some(&Coverage::All)
                && fetch.owner(now, content, me, range.start / STRIPE_BYTES) != me
                && !self.is_next_to_be_read(content, range)
        };
        let ids: Vec<_> = fetch.asked.ids().filter(is_of_others).collect();
        ids.into_iter()
            .for_each(|id| self.abandon(id, TakeBackReason::OfAnotherNode));
    }

    /// Returns whether a range is among the first bytes that a reader waits for.
    fn is_next_to_be_read(&self, content: &ContentKey, range: ByteRange) -> bool {
        let waiting = self.waiting_for(content, range);
        let demands = waiting.iter().filter_map(|id| self.demands.get(id));
        demands
            .filter(|demand| range.start < demand.range.start + FIRST_BYTES)
            .any(|demand| !self.is_preceded(demand))
    }

    /// Asks the partial holders which ranges they have by now. The faster bytes arrive, the shorter
    /// the interval.
    pub(super) fn survey(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.fetches.get_mut(&content) else {
            return;
        };
        let have_bytes = fetch.have_bytes();
        let idle = fetch.is_idle();
        let swarm = &mut fetch.swarm;
        let gained = have_bytes.saturating_sub(std::mem::replace(&mut swarm.had_bytes, have_bytes));
        swarm.survey_each = match (idle, gained) {
            (true, _) => SURVEY_MAX,
            (false, 0) => swarm.survey_each * 2,
            (false, gained) if gained > 2 * STRIPE_BYTES => swarm.survey_each / 2,
            _ => swarm.survey_each,
        };
        swarm.survey_each = swarm.survey_each.clamp(SURVEY_MIN, SURVEY_MAX);
        let next = now + swarm.survey_each;
        if fetch.is_complete() {
            return;
        }
        self.timers.insert((next, Timer::Survey(content)));
        if idle {
            return;
        }
        let peers = &self.peers;
        let may_be_asked = |node: &NodeId| {
            let peer = peers.get(node);
            peer.is_some_and(|peer| peer.backoff.resting_until(now).is_none())
        };
        let partial = fetch.partial_fellows().map(|(node, _)| *node);
        let partial: Vec<_> = partial.filter(may_be_asked).collect();
        let after = fetch.swarm.surveyed_last;
        let begin = partial
            .iter()
            .position(|node| Some(*node) > after)
            .unwrap_or(0);
        let in_turn = partial[begin..].iter().chain(&partial[..begin]);
        let asked: Vec<_> = in_turn.take(SURVEYED_AT_ONCE_MAX).copied().collect();
        fetch.swarm.surveyed_last = asked.last().copied().or(after);
        let surveys = asked
            .into_iter()
            .map(|node| PlanEvent::Survey(content, node));
        self.events.extend(surveys);
    }

    /// Returns whether full holders may be asked for the beginning of a gap now. `waits_since` is
    /// the time since when a reader waits for it, if one does.
    pub(super) fn may_ask_full_holders(
        &self,
        now: Instant,
        fetch: &Fetch,
        content: &ContentKey,
        gap: ByteRange,
        waits_since: Option<Instant>,
    ) -> bool {
        if !fetch.is_swarm() {
            return true;
        }
        let owner = fetch.owner(now, content, self.config.me, gap.start / STRIPE_BYTES);
        let is_mine = if owner == self.config.me {
            !self.is_at_a_fellow(now, fetch, gap)
        } else {
            self.is_too_slow(fetch, &owner)
        };
        let first_bytes = waits_since.is_some() && fetch.have_bytes() < FIRST_BYTES;
        if first_bytes || is_mine {
            return true;
        }
        let since = match waits_since {
            Some(since) => since,
            None if self.is_asked_in_vain(now, fetch) => fetch.last_progress(fetch.begun),
            None => return false,
        };
        since + STRIPE_PATIENCE <= now && since + self.stripe_patience(fetch) <= now
    }

    /// Returns whether a file has no requests in flight, or only requests to silent peers while a
    /// live full holder exists.
    fn is_asked_in_vain(&self, now: Instant, fetch: &Fetch) -> bool {
        let in_vain = fetch.asked.ids().take(ASKED_SEEN_MAX).all(|id| {
            self.step();
            let asked = self.requests.get(id);
            let peer = asked.and_then(|it| self.peers.get(&it.request.node));
            peer.is_some_and(Peer::is_silent)
        });
        in_vain && (fetch.asked.is_empty() || self.has_lively_full_holder(now, fetch))
    }

    /// Returns whether a full holder may be asked and is not silent.
    pub(super) fn has_lively_full_holder(&self, now: Instant, fetch: &Fetch) -> bool {
        let mut full = fetch.holders().iter().filter(|(_, c)| **c == Coverage::All);
        full.any(|(node, _)| {
            self.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|it| !it.is_silent() && it.backoff.resting_until(now).is_none())
        })
    }

    /// Returns whether a partial holder has the beginning of a range and is not much slower than
    /// the full holders.
    fn is_at_a_fellow(&self, now: Instant, fetch: &Fetch, range: ByteRange) -> bool {
        let first = ByteRange::at(range.start, 1);
        let has = |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges.contains(first),
            Coverage::All => false,
        };
        let having = fetch.holders().iter().filter(|(_, it)| has(it));
        let lively = having.filter(|(node, _)| {
            self.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|peer| peer.is_lively(now, LIVELY))
        });
        let usual = lively.filter_map(|(node, _)| self.time_of_a_stripe(node));
        let of_full = self.least_of_full_holders(fetch);
        let bearable = of_full.map(|it| it * WORSE_MULTIPLE + WORSE_SLACK);
        usual
            .min()
            .is_some_and(|it| bearable.is_none_or(|most| it <= most))
    }

    /// Returns whether an owner is too slow to help: its stripe would take much longer than the
    /// stripes of all nodes would take from a full holder.
    fn is_too_slow(&self, fetch: &Fetch, owner: &NodeId) -> bool {
        let among = fetch.swarm.fellows.len() as u32 + 1;
        let of_full = self.least_of_full_holders(fetch);
        let bearable = of_full.map(|it| it * among * WORSE_MULTIPLE + WORSE_SLACK);
        let usual = self.time_of_a_stripe(owner);
        usual.is_some_and(|it| bearable.is_some_and(|most| it > most))
    }

    /// Returns the expected time of a stripe from a node, if that is known.
    fn time_of_a_stripe(&self, node: &NodeId) -> Option<Duration> {
        self.step();
        let peer = self.peers.get(node).filter(|peer| peer.link.is_known())?;
        Some(peer.link.expected(Lane::Bulk, STRIPE_BYTES))
    }

    /// Returns the expected time of a stripe from the fastest full holder.
    fn least_of_full_holders(&self, fetch: &Fetch) -> Option<Duration> {
        let full = fetch.holders().iter().filter(|(_, c)| **c == Coverage::All);
        full.filter_map(|(node, _)| self.time_of_a_stripe(node))
            .min()
    }

    /// Returns how long to wait for a stripe that belongs to another node.
    fn stripe_patience(&self, fetch: &Fetch) -> Duration {
        let least = self.least_of_full_holders(fetch).unwrap_or_default();
        (least * STRIPE_PATIENCE_MULTIPLE).clamp(STRIPE_PATIENCE, STRIPE_PATIENCE_MAX)
    }

    /// Schedules another examination after a request was withheld because the stripe belongs to
    /// another node.
    pub(super) fn wait_for_stripe(
        &mut self,
        now: Instant,
        content: &ContentKey,
        waits_since: Option<Instant>,
    ) {
        let due = (waits_since.unwrap_or(now) + STRIPE_PATIENCE).max(now + STRIPE_AGAIN);
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        if fetch.swarm.stripe_at.is_none_or(|at| at > due) {
            fetch.swarm.stripe_at = Some(due);
            self.timers.insert((due, Timer::Stripe(*content)));
        }
    }

    pub(super) fn recheck_stripes(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.swarm.stripe_at = None;
        }
        self.enqueue_all(content);
    }

    /// Marks the owner of a stripe as late if a full holder is asked for it instead.
    pub(super) fn mark_if_late(
        &mut self,
        now: Instant,
        content: &ContentKey,
        start: u64,
        asked: NodeId,
    ) {
        let me = self.config.me;
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        let of_full = fetch.holders().get(&asked) == Some(&Coverage::All);
        if !of_full || !fetch.is_swarm() || fetch.have_bytes() < FIRST_BYTES {
            return;
        }
        let owner = fetch.owner(now, content, me, start / STRIPE_BYTES);
        if let Some(fellow) = fetch.swarm.fellows.get_mut(&owner) {
            fellow.lag(now);
        }
    }

    /// Marks a node of the swarm as late that cannot be reached. Its stripes go to the others.
    pub(super) fn mark_peer_late(&mut self, now: Instant, content: &ContentKey, node: NodeId) {
        let fetch = self.fetches.get_mut(content);
        if let Some(fellow) = fetch.and_then(|fetch| fetch.swarm.fellows.get_mut(&node)) {
            fellow.lag(now);
        }
    }
}

impl SwarmPeer {
    /// Removes its stripes for a while, longer each time.
    fn lag(&mut self, now: Instant) {
        let pause = LAGGING * (1 << self.lags.min(LAGS_DOUBLED_MAX));
        if self.lags_until.is_some_and(|until| until > now) {
            return;
        }
        let again = self.lags_until.is_some_and(|until| now < until + pause);
        self.lags = if again { self.lags + 1 } else { 1 };
        self.lags_until = Some(now + LAGGING * (1 << (self.lags - 1).min(LAGS_DOUBLED_MAX)));
    }
}

impl Fetch {
    /// Returns how far to fetch this node's own stripes ahead of a reader with the read-ahead
    /// `range`, at most `limit_bytes`. Before the first bytes of the file are here, the read-ahead
    /// is not extended, because the first bytes come first.
    pub(super) fn own_stripes_ahead(&self, range: ByteRange, limit_bytes: u64) -> ByteRange {
        if !self.is_swarm() || self.have_bytes() < FIRST_BYTES {
            return range;
        }
        let among = self.partial_fellows().count() as u64 + 1;
        let far = range.start + (range.len() * among).min(limit_bytes.max(range.len()));
        let far = if far < self.size_bytes {
            far / CHUNK_BYTES * CHUNK_BYTES
        } else {
            self.size_bytes
        };
        ByteRange::new(range.start, far.max(range.end))
    }

    /// Returns the gaps of a range that are worth a try. Outside a swarm that is the first gap. In
    /// a swarm it is the first gap of each stripe that this node owns or that a partial holder has.
    /// Beyond `end` only own stripes count.
    pub(super) fn gaps_to_try(
        &self,
        now: Instant,
        content: &ContentKey,
        me: NodeId,
        (range, end): (ByteRange, u64),
    ) -> Vec<ByteRange> {
        if !self.is_swarm() {
            return self.first_gap(range).into_iter().collect();
        }
        let (mut gaps, mut at) = (Vec::new(), range.start);
        for _ in 0..STRIPES_SEEN_MAX {
            let Some(gap) = self.first_gap(ByteRange::new(at, range.end.max(at))) else {
                break;
            };
            let stripe = gap.start / STRIPE_BYTES;
            let part = gap.first_grain(STRIPE_BYTES);
            at = ByteRange::new(gap.start, range.end)
                .first_grain(STRIPE_BYTES)
                .end;
            let is_there = gap.start < end && self.is_in_parts(part);
            if is_there || self.owner(now, content, me, stripe) == me {
                gaps.push(part);
            }
            if gaps.len() == STRIPES_TRIED_MAX {
                break;
            }
        }
        // without such a stripe the first gap is worth a try once its wait is over
        if gaps.is_empty() {
            gaps.extend(self.first_gap(ByteRange::new(range.start, end.max(range.start))));
        }
        gaps
    }

    /// Returns whether a partial holder has the beginning of a range.
    fn is_in_parts(&self, range: ByteRange) -> bool {
        let has = |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges.contains(ByteRange::at(range.start, 1)),
            Coverage::All => false,
        };
        self.holders().values().any(has)
    }

    /// Records the extent of a node's ranges after its offer.
    pub(super) fn note_furthest(&mut self, node: &NodeId) {
        let Some(Coverage::Part(ranges)) = self.holders().get(node) else {
            return;
        };
        let furthest = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        let has_bytes = ranges.len();
        if let Some(fellow) = self.swarm.fellows.get_mut(node) {
            (fellow.furthest, fellow.has_bytes) = (furthest, has_bytes);
        }
    }

    fn partial_fellows(&self) -> impl Iterator<Item = (&NodeId, &SwarmPeer)> {
        let fellows = self.swarm.fellows.iter();
        fellows.filter(|(_, fellow)| fellow.is_partial)
    }

    /// Returns whether more nodes want the file, including this one, than have all of it.
    pub(super) fn is_swarm(&self) -> bool {
        let partial = self.partial_fellows().count();
        partial > 0 && partial + 1 > self.full_holders()
    }

    /// Returns the owner of a stripe, chosen among the nodes that are near this part of the file.
    fn owner(&self, now: Instant, content: &ContentKey, me: NodeId, stripe: u64) -> NodeId {
        let start = stripe * STRIPE_BYTES;
        let have = self.have_bytes();
        let begins = have < NEAR_BYTES;
        let is_near = |fellow: &SwarmPeer| {
            let is_slow = have > BEGUN_BYTES && fellow.has_bytes < have / SLOW_PART;
            !is_slow && (begins || fellow.furthest.saturating_add(NEAR_BYTES) >= start)
        };
        let lively = self
            .partial_fellows()
            .filter(|(_, fellow)| fellow.lags_until.is_none_or(|until| until <= now));
        let near = lively.filter(|(_, fellow)| is_near(fellow));
        let weighed = near.map(|(node, _)| *node).chain([me]);
        let weighed = weighed.map(|node| (weight(content, &node, stripe), node));
        weighed.max().map_or(me, |(_, node)| node)
    }
}

/// Returns the weight of a node for a stripe: equal on all nodes and without a pattern
/// (SplitMix64's last step).
fn weight(content: &ContentKey, node: &NodeId, stripe: u64) -> u64 {
    let number = |bytes: &[u8; 32]| {
        let (first, _) = bytes.split_first_chunk().expect("32 bytes");
        u64::from_le_bytes(*first)
    };
    let mut mixed = number(content.hash.as_bytes()) ^ number(node.as_bytes()).rotate_left(17);
    mixed = mixed.wrapping_add(stripe.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
