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

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fetch::FileFetch;
use super::silence::DOUBLED_MAX;
use super::{AHEAD_MAX_BYTES, URGENT_MAX_BYTES};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;

/// Bytes of one stripe: four chunks, so that a stripe is in flight only briefly.
pub const STRIPE_BYTES: u64 = 256 << 10;
/// Maximum stripes examined for one request.
const STRIPES_SEEN_MAX: usize = 96;
/// Maximum of the examined stripes that are tried for one request.
const STRIPES_TRIED_MAX: usize = 8;
/// First pause in which a node owns no stripes after a stripe of it was late.
const LAGGING: Duration = Duration::from_secs(2);
/// A node that has less than 1/`SLOW_PART` of what this node has is too slow, or too late, to own
/// stripes.
const SLOW_PART: u64 = 4;
/// Bytes on this node before [`SLOW_PART`] applies.
const BEGUN_BYTES: u64 = 1 << 20;
/// Minimum interval between two surveys of a file.
pub(super) const SURVEY_MIN: Duration = Duration::from_millis(100);
/// Maximum interval between two surveys of a file.
const SURVEY_MAX: Duration = Duration::from_secs(2);

/// Node that wants the same file.
#[derive(Clone, Copy, Debug, Default)]
struct SwarmPeer {
    /// End of the time in which it owns no stripes.
    lags_until: Option<Instant>,
    /// How often in a row its stripes were late.
    lags: u32,
    /// End of its last range.
    furthest: u64,
    /// Number of bytes that it has.
    has_bytes: u64,
    /// Whether it is a holder that has only a part of the file, as far as is known.
    is_partial: bool,
}

impl SwarmPeer {
    /// Removes its stripes for a while, longer each time.
    fn lag(&mut self, now: Instant) {
        let pause = LAGGING * (1 << self.lags.min(DOUBLED_MAX));
        if self.lags_until.is_some_and(|until| until > now) {
            return;
        }
        let again = self.lags_until.is_some_and(|until| now < until + pause);
        self.lags = if again { self.lags + 1 } else { 1 };
        self.lags_until = Some(now + LAGGING * (1 << (self.lags - 1).min(DOUBLED_MAX)));
    }
}

/// Nodes that want the same file.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    peers: BTreeMap<NodeId, SwarmPeer>,
    /// Interval of the surveys.
    survey_each: Duration,
    /// Last node of the previous survey; the next one begins behind it.
    surveyed_last: Option<NodeId>,
    /// Bytes on this node at the previous survey.
    had_bytes: u64,
    /// When the stripes of other nodes are examined again, if that is scheduled.
    stripe_at: Option<Instant>,
}

impl Swarm {
    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.peers.contains_key(node)
    }

    /// Adds a node that wants the file. Returns whether it is the first.
    pub(super) fn add(&mut self, node: NodeId, is_partial: bool) -> bool {
        let is_first = self.peers.is_empty();
        let peer = SwarmPeer {
            is_partial,
            ..SwarmPeer::default()
        };
        self.peers.insert(node, peer);
        self.survey_each = SURVEY_MIN;
        is_first
    }

    /// Returns the number of nodes that want the file, with this one.
    pub(super) fn size(&self) -> u32 {
        self.peers.len() as u32 + 1
    }

    /// Records whether a node of the swarm has only a part of the file.
    pub(super) fn note_partial(&mut self, node: &NodeId, is_partial: bool) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_partial = is_partial;
        }
    }

    /// Records the extent of a node's ranges after its offer.
    pub(super) fn note_ranges(&mut self, node: &NodeId, ranges: &ExtentSet) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.furthest = ranges.iter().map(|range| range.end).max().unwrap_or(0);
            peer.has_bytes = ranges.len();
        }
    }

    /// Removes the stripes of a late node for a while, longer each time.
    pub(super) fn note_late(&mut self, now: Instant, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.lag(now);
        }
    }

    fn partial(&self) -> impl Iterator<Item = (&NodeId, &SwarmPeer)> {
        self.peers.iter().filter(|(_, peer)| peer.is_partial)
    }

    /// Returns whether more nodes want the file, including this one, than have all of it.
    pub(super) fn is_active(&self, full_holders: usize) -> bool {
        let partial = self.partial().count();
        partial > 0 && partial + 1 > full_holders
    }

    /// Returns the nodes to survey now, at most `most`, in rotation. Only those count for which
    /// `may_be_asked` returns true.
    pub(super) fn next_surveyed(
        &mut self,
        most: usize,
        may_be_asked: impl Fn(&NodeId) -> bool,
    ) -> Vec<NodeId> {
        let partial = self.partial().map(|(node, _)| *node);
        let partial: Vec<_> = partial.filter(may_be_asked).collect();
        let after = self.surveyed_last;
        let begin = partial
            .iter()
            .position(|node| Some(*node) > after)
            .unwrap_or(0);
        let in_turn = partial[begin..].iter().chain(&partial[..begin]);
        let asked: Vec<_> = in_turn.take(most).copied().collect();
        self.surveyed_last = asked.last().copied().or(after);
        asked
    }

    /// Returns the time until the next survey. The faster bytes arrive, the shorter it is.
    pub(super) fn survey_pace(&mut self, have_bytes: u64, is_idle: bool) -> Duration {
        let gained = have_bytes.saturating_sub(std::mem::replace(&mut self.had_bytes, have_bytes));
        self.survey_each = match (is_idle, gained) {
            (true, _) => SURVEY_MAX,
            (false, 0) => self.survey_each * 2,
            (false, gained) if gained > 2 * STRIPE_BYTES => self.survey_each / 2,
            _ => self.survey_each,
        };
        self.survey_each = self.survey_each.clamp(SURVEY_MIN, SURVEY_MAX);
        self.survey_each
    }

    /// Schedules the next examination of the stripes of other nodes. Returns whether it is sooner
    /// than the scheduled one.
    pub(super) fn schedule_stripes(&mut self, due: Instant) -> bool {
        let is_sooner = self.stripe_at.is_none_or(|at| at > due);
        if is_sooner {
            self.stripe_at = Some(due);
        }
        is_sooner
    }

    /// Ends the scheduled examination of stripes.
    pub(super) fn end_stripes(&mut self) {
        self.stripe_at = None;
    }
}

/// Decides which stripes of a file this node requests from full holders. Pure.
pub(super) struct SwarmPolicy<'a> {
    pub me: NodeId,
    pub content: &'a ContentKey,
    pub file: &'a FileFetch,
}

impl SwarmPolicy<'_> {
    /// Returns whether this node owns a stripe.
    pub(super) fn is_mine(&self, now: Instant, stripe: u64) -> bool {
        self.owner(now, stripe) == self.me
    }

    /// Returns how far to fetch this node's own stripes ahead of a reader with the read-ahead
    /// `range`, at most `limit_bytes`. Before the first bytes of the file are here, the read-ahead
    /// is not extended, because the first bytes come first.
    pub(super) fn own_stripes_ahead(&self, range: ByteRange, limit_bytes: u64) -> ByteRange {
        if !self.file.is_swarm() || self.file.have_bytes() < URGENT_MAX_BYTES {
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

    /// Returns the gaps of a range that are worth a try. Outside a swarm that is the first gap. In
    /// a swarm it is the first gap of each stripe that this node owns or that a partial holder has.
    /// Beyond `end` only own stripes count.
    pub(super) fn gaps_to_try(
        &self,
        now: Instant,
        (range, end): (ByteRange, u64),
    ) -> Vec<ByteRange> {
        if !self.file.is_swarm() {
            return self.file.first_gap(range).into_iter().collect();
        }
        let (mut gaps, mut at) = (Vec::new(), range.start);
        for _ in 0..STRIPES_SEEN_MAX {
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
            if gaps.len() == STRIPES_TRIED_MAX {
                break;
            }
        }
        // without such a stripe the first gap is worth a try once its wait is over
        if gaps.is_empty() {
            gaps.extend(
                self.file
                    .first_gap(ByteRange::new(range.start, end.max(range.start))),
            );
        }
        gaps
    }

    /// Returns the owner of a stripe, chosen among the nodes that are near this part of the file.
    pub(super) fn owner(&self, now: Instant, stripe: u64) -> NodeId {
        let start = stripe * STRIPE_BYTES;
        let have = self.file.have_bytes();
        let begins = have < AHEAD_MAX_BYTES;
        let is_near = |fellow: &SwarmPeer| {
            let is_slow = have > BEGUN_BYTES && fellow.has_bytes < have / SLOW_PART;
            !is_slow && (begins || fellow.furthest.saturating_add(AHEAD_MAX_BYTES) >= start)
        };
        let lively = self
            .file
            .swarm
            .partial()
            .filter(|(_, fellow)| fellow.lags_until.is_none_or(|until| until <= now));
        let near = lively.filter(|(_, fellow)| is_near(fellow));
        let weighed = near.map(|(node, _)| *node).chain([self.me]);
        let weighed = weighed.map(|node| (weight(self.content, &node, stripe), node));
        weighed.max().map_or(self.me, |(_, node)| node)
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
