//! Decides which node of a swarm requests a stripe from the full holders, and when. Pure. The
//! module `swarm` explains swarms and stripes.

use std::time::{Duration, Instant};

use super::fetch::FileFetch;
use super::hedge_policy::LOST_MIN;
use super::link::USUAL_DELAY;
use super::peer::Peer;
use super::requests::RequestTable;
use super::schedule::WORSE_MULTIPLE;
use super::state::{FetchState, StepCounter};
use super::swarm::{STRIPE_BYTES, SwarmPeer};
use super::terms::LATE_MULTIPLE;
use super::{AHEAD_MAX_BYTES, Lane, PeerTable, STEP_ITEMS_MAX, URGENT_MAX_BYTES};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};
use p2pfs_types::id::NodeId;

/// Minimum wait of a reader for a stripe that belongs to another node, unless that node is too
/// slow. The maximum is [`LOST_MIN`].
pub(super) const STRIPE_PATIENCE: Duration = Duration::from_millis(400);
/// A node of the swarm owns no stripes while it has less than 1/`SLOW_PART` of the bytes that this
/// node has: it is slow, or it began late. The rule applies only while 1/`SLOW_PART` of this node's
/// bytes is more than a stripe.
const SLOW_PART: u64 = 4;

/// Decides which stripes of a file this node requests from full holders, and when.
pub(super) struct SwarmPolicy<'a> {
    me: NodeId,
    content: &'a ContentKey,
    file: &'a FileFetch,
    peers: &'a PeerTable,
    requests: &'a RequestTable,
    steps: &'a StepCounter,
}

impl<'a> SwarmPolicy<'a> {
    /// Creates the policy for the stripes of an open file.
    pub(super) fn new(state: &'a FetchState, content: &'a ContentKey, file: &'a FileFetch) -> Self {
        Self {
            me: state.config.me,
            content,
            file,
            peers: &state.peers,
            requests: &state.requests,
            steps: &state.steps,
        }
    }

    /// Returns whether this node owns a stripe.
    pub(super) fn is_mine(&self, now: Instant, stripe: u64) -> bool {
        self.owner(now, stripe) == self.me
    }

    /// Returns the read-ahead `range` of a reader, in a swarm extended for this node's own stripes.
    /// Its length is multiplied by the number of nodes that share the stripes, up to `limit_bytes`.
    /// It is not extended before [`URGENT_MAX_BYTES`] of the file are on this node, because the
    /// first bytes of a file come first.
    pub(super) fn own_stripes_ahead(&self, range: ByteRange, limit_bytes: u64) -> ByteRange {
        if !self.file.is_swarm() || self.file.presence.bytes() < URGENT_MAX_BYTES {
            return range;
        }
        let among = self.file.swarm.partial().count() as u64 + 1;
        let far = range.start + (range.len() * among).min(limit_bytes.max(range.len()));
        let far = if far < self.file.size_bytes {
            far / CHUNK_BYTES * CHUNK_BYTES
        } else {
            self.file.size_bytes
        };
        ByteRange::new(range.start, far.max(range.end))
    }

    /// Returns the gaps of `range` to request from some holder. Outside a swarm this is the first
    /// gap, in blocks that are counted from `origin`. In a swarm it is the first gap of each stripe
    /// that this node owns, and, before the offset `end`, of each stripe whose gap begins with
    /// bytes of a partial holder. If there is none, it is the first gap before `end`. The number of
    /// examined stripes is bounded.
    pub(super) fn gaps_to_try(
        &self,
        now: Instant,
        (range, end): (ByteRange, u64),
        origin: u64,
    ) -> Vec<ByteRange> {
        if !self.file.is_swarm() {
            let first = self.file.first_gap_from(origin, range);
            return first.into_iter().collect();
        }
        let (mut gaps, mut at) = (Vec::new(), range.start);
        // the stripes of a full read-ahead window
        for _ in 0..AHEAD_MAX_BYTES / STRIPE_BYTES {
            let Some(gap) = self.file.first_gap(ByteRange::new(at, range.end.max(at))) else {
                break;
            };
            let stripe = gap.start / STRIPE_BYTES;
            let part = gap.first_grain(STRIPE_BYTES);
            at = ByteRange::new(gap.start, range.end)
                .first_grain(STRIPE_BYTES)
                .end;
            let is_there =
                gap.start < end && self.file.holders().partial_with(part).next().is_some();
            if is_there || self.is_mine(now, stripe) {
                gaps.push(part);
            }
        }
        // otherwise the first gap: it may be requested from a full holder once its wait for the
        // owner is over
        if gaps.is_empty() {
            gaps.extend(
                self.file
                    .first_gap(ByteRange::new(range.start, end.max(range.start))),
            );
        }
        gaps
    }

    /// Returns the owner of a stripe, this node or another. Another node must be a partial holder
    /// that is reachable and neither slow nor late. Once this node has [`AHEAD_MAX_BYTES`] of the
    /// file, the ranges of the owner must also reach near this part of the file.
    pub(super) fn owner(&self, now: Instant, stripe: u64) -> NodeId {
        let start = stripe * STRIPE_BYTES;
        let have = self.file.presence.bytes();
        let begins = have < AHEAD_MAX_BYTES;
        let is_near = |fellow: &SwarmPeer| {
            let is_slow = have > SLOW_PART * STRIPE_BYTES && fellow.has_bytes < have / SLOW_PART;
            !is_slow && (begins || fellow.furthest.saturating_add(AHEAD_MAX_BYTES) >= start)
        };
        let lively = self
            .file
            .swarm
            .partial()
            .filter(|(_, fellow)| fellow.lags_until.is_none_or(|until| until <= now))
            .filter(|(node, _)| self.is_reachable(node));
        let near = lively.filter(|(_, fellow)| is_near(fellow));
        let weighed = near.map(|(node, _)| *node).chain([self.me]);
        let weighed = weighed.map(|node| (weight(self.content, &node, stripe), node));
        weighed.max().map_or(self.me, |(_, node)| node)
    }

    /// Returns whether a node has answered since the last failure to reach it, or never failed.
    /// Surveys still ask an unreachable node after its back-off, and its answer makes it reachable
    /// again.
    fn is_reachable(&self, node: &NodeId) -> bool {
        let peer = self.peers.get(node);
        peer.is_none_or(|it| it.backoff.unanswered() == 0)
    }

    /// Returns whether the beginning of a gap may be requested from full holders now. `waits_since`
    /// is the time from which on the gap has blocked a reader, if it does.
    pub(super) fn may_ask_full_holders(
        &self,
        now: Instant,
        gap: ByteRange,
        waits_since: Option<Instant>,
    ) -> bool {
        if !self.file.is_swarm() {
            return true;
        }
        let owner = self.owner(now, gap.start / STRIPE_BYTES);
        let is_mine = if owner == self.me {
            !self.is_at_a_fellow(now, gap)
        } else {
            self.is_too_slow(&owner)
        };
        let first_bytes = waits_since.is_some() && self.file.presence.bytes() < URGENT_MAX_BYTES;
        if first_bytes || is_mine {
            return true;
        }
        let since = match waits_since {
            Some(since) => since,
            None if self.is_asked_in_vain(now) => self.file.times.progressed_or_begun_at(),
            None => return false,
        };
        // the patience is never shorter, so this only saves its search among the full holders
        if since + STRIPE_PATIENCE > now {
            return false;
        }
        since + self.stripe_patience() <= now
    }

    /// Returns whether the requests in flight for the file will bring nothing soon: there are none,
    /// or all go to silent peers while a live full holder exists. Examines at most
    /// [`STEP_ITEMS_MAX`].
    fn is_asked_in_vain(&self, now: Instant) -> bool {
        let in_vain = self.file.asked.ids().take(STEP_ITEMS_MAX).all(|id| {
            self.steps.step();
            let asked = self.requests.get(id);
            let peer = asked.and_then(|it| self.peers.get(&it.request.node));
            peer.is_some_and(Peer::is_silent)
        });
        in_vain && (self.file.asked.is_empty() || self.has_lively_full_holder(now))
    }

    /// Returns whether there is a live full holder: one that is neither silent nor resting.
    pub(super) fn has_lively_full_holder(&self, now: Instant) -> bool {
        self.file.holders().full().any(|node| {
            self.steps.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|it| !it.is_silent() && it.backoff.resting_until(now).is_none())
        })
    }

    /// Returns whether a live partial holder of known speed has the beginning of a range and is not
    /// much slower than the fastest full holder.
    fn is_at_a_fellow(&self, now: Instant, range: ByteRange) -> bool {
        let having = self.file.holders().partial_with(range);
        let lively = having.filter(|node| {
            self.steps.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|peer| peer.is_lively(now))
        });
        let usual = lively.filter_map(|node| self.time_of_a_stripe(node));
        let of_full = self.least_of_full_holders();
        let bearable = of_full.map(|it| it * WORSE_MULTIPLE + USUAL_DELAY);
        usual
            .min()
            .is_some_and(|it| bearable.is_none_or(|most| it <= most))
    }

    /// Returns whether an owner is too slow to help: one stripe from it would take much longer than
    /// one stripe for each node of the swarm would take from the fastest full holder.
    fn is_too_slow(&self, owner: &NodeId) -> bool {
        let among = self.file.swarm.size();
        let of_full = self.least_of_full_holders();
        let bearable = of_full.map(|it| it * among * WORSE_MULTIPLE + USUAL_DELAY);
        let usual = self.time_of_a_stripe(owner);
        usual.is_some_and(|it| bearable.is_some_and(|most| it > most))
    }

    /// Returns the expected time of a stripe from a node, if that is known.
    fn time_of_a_stripe(&self, node: &NodeId) -> Option<Duration> {
        self.steps.step();
        let peer = self.peers.get(node).filter(|peer| peer.link.is_known())?;
        Some(peer.link.expected(Lane::Bulk, STRIPE_BYTES))
    }

    /// Returns the expected time of a stripe from the fastest full holder.
    fn least_of_full_holders(&self) -> Option<Duration> {
        let full = self.file.holders().full();
        full.filter_map(|node| self.time_of_a_stripe(node)).min()
    }

    /// Returns how long a reader waits for a stripe that belongs to another node: [`LATE_MULTIPLE`]
    /// times the expected duration of a stripe from the fastest full holder, from
    /// [`STRIPE_PATIENCE`] to [`LOST_MIN`].
    fn stripe_patience(&self) -> Duration {
        let least = self.least_of_full_holders().unwrap_or_default();
        (least * LATE_MULTIPLE).clamp(STRIPE_PATIENCE, LOST_MIN)
    }
}

/// Returns the weight of a node for a stripe. Of the nodes that may own the stripe, the one with
/// the highest weight owns it. All nodes compute the same weights. The last step of SplitMix64
/// spreads the stripes over the nodes without a pattern.
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
