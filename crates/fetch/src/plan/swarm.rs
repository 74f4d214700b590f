//! Distribution of a file from few full holders to many nodes. If more nodes want a file than have
//! all of it, the nodes that want it form a swarm: the uplinks of the full holders are scarce, so
//! each part should leave them once.
//!
//! The file is cut into stripes of [`STRIPE_BYTES`]. Each stripe belongs to one node of the swarm,
//! its owner, by a hash of content, node and stripe (rendezvous hashing): nodes that know the same
//! swarm agree. A node requests its own stripes from full holders at once, except stripes that a
//! partial holder already has and can send fast enough. It takes the other stripes from their
//! owners as those receive them, and asks the other nodes periodically which ranges they have (a
//! survey). No node keeps a list of the whole swarm: a node learns of another one when that one
//! asks for the file.
//!
//! For a sequential reader, a node requests its own stripes within a larger window: the usual
//! read-ahead times the number of nodes in the swarm, up to a limit. It then requests about as many
//! bytes from the full holders as it would alone, and the other nodes find its stripes ready when
//! they reach them.
//!
//! No reader waits long for another node. The first bytes of a file that a reader waits for are
//! requested at once. A later stripe that blocks a reader is requested from a full holder,
//! whichever node owns it: at once if the owner would be much slower, otherwise after a few times
//! the duration of a stripe from the full holder. The owner then owns no stripes for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::holders::ASK_AGAIN;
use super::silence::TRY;
use p2pfs_types::extent::ExtentSet;
use p2pfs_types::id::NodeId;

/// Bytes of one stripe: four chunks, so that a stripe is in flight only briefly.
pub const STRIPE_BYTES: u64 = 256 << 10;

/// Another node that wants the file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SwarmPeer {
    /// End of the time in which it owns no stripes, because one of them was late.
    pub lags_until: Option<Instant>,
    /// How often in a row its stripes were late.
    lags: u32,
    /// End of the last range that it has.
    pub furthest: u64,
    /// Number of bytes that it has.
    pub has_bytes: u64,
    /// Whether it is a holder that has only a part of the file, as far as is known.
    is_partial: bool,
}

impl SwarmPeer {
    /// Removes its stripes for a while, unless they are removed already. The time is longer if they
    /// were removed shortly before.
    fn lag(&mut self, now: Instant) {
        let pause = TRY.after(self.lags);
        if self.lags_until.is_some_and(|until| until > now) {
            return;
        }
        let again = self.lags_until.is_some_and(|until| now < until + pause);
        self.lags = if again { self.lags + 1 } else { 1 };
        self.lags_until = Some(now + TRY.after(self.lags - 1));
    }
}

/// Nodes that want the same file.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    peers: BTreeMap<NodeId, SwarmPeer>,
    /// Interval of the surveys.
    survey_each: Duration,
    /// Last node of the previous survey. The next survey begins after this node.
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
        self.survey_each = ASK_AGAIN.first;
        is_first
    }

    /// Returns the number of nodes that want the file, with this one.
    pub(super) fn size(&self) -> u32 {
        self.peers.len() as u32 + 1
    }

    /// Records whether a node of the swarm has only a part of the file.
    pub(super) fn record_partial(&mut self, node: &NodeId, is_partial: bool) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_partial = is_partial;
        }
    }

    /// Records how far the ranges of a node reach and how many bytes they have, after an offer of
    /// the node.
    pub(super) fn record_ranges(&mut self, node: &NodeId, ranges: &ExtentSet) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.furthest = ranges.iter().map(|range| range.end).max().unwrap_or(0);
            peer.has_bytes = ranges.len();
        }
    }

    /// Removes the stripes of a late node for a while; see [`SwarmPeer::lag`].
    pub(super) fn record_late(&mut self, now: Instant, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.lag(now);
        }
    }

    /// Returns the nodes that have only a part of the file, or nothing yet.
    pub(super) fn partial(&self) -> impl Iterator<Item = (&NodeId, &SwarmPeer)> {
        self.peers.iter().filter(|(_, peer)| peer.is_partial)
    }

    /// Returns whether other nodes are known to want the file, and with this node outnumber the
    /// full holders.
    pub(super) fn is_active(&self, full_holders: usize) -> bool {
        let partial = self.partial().count();
        partial > 0 && partial + 1 > full_holders
    }

    /// Returns the nodes to survey now, at most `most`, in rotation. Nodes for which `may_be_asked`
    /// returns false are skipped.
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

    /// Returns the time until the next survey, within the bounds of [`ASK_AGAIN`]. It halves if
    /// more than two stripes arrived since the last survey, and doubles if nothing arrived. For an
    /// idle file it is the maximum.
    pub(super) fn survey_pace(&mut self, have_bytes: u64, is_idle: bool) -> Duration {
        let gained = have_bytes.saturating_sub(std::mem::replace(&mut self.had_bytes, have_bytes));
        let pace = if is_idle {
            ASK_AGAIN.most
        } else if gained == 0 {
            self.survey_each * 2
        } else if gained > 2 * STRIPE_BYTES {
            self.survey_each / 2
        } else {
            self.survey_each
        };
        self.survey_each = pace.clamp(ASK_AGAIN.first, ASK_AGAIN.most);
        self.survey_each
    }

    /// Schedules the next examination of the stripes of other nodes. Returns whether `due` is
    /// sooner than the scheduled one, or none was scheduled.
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
