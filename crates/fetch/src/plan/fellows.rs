//! Other nodes that want a file, as its fetch records them. The swarm decides by this.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2pfs_types::id::NodeId;

/// Node that wants the same file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SwarmPeer {
    /// End of the time in which it owns no stripes.
    pub lags_until: Option<Instant>,
    /// How often in a row its stripes were late.
    pub lags: u32,
    /// End of its last range.
    pub furthest: u64,
    /// Number of bytes that it has.
    pub has_bytes: u64,
    /// Whether it is a holder that has only a part of the file, as far as is known.
    pub is_partial: bool,
}

/// Nodes that want the same file.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    pub fellows: BTreeMap<NodeId, SwarmPeer>,
    /// Interval of the surveys.
    pub survey_each: Duration,
    /// Last node of the previous survey; the next one begins behind it.
    pub surveyed_last: Option<NodeId>,
    /// Bytes on this node at the previous survey.
    pub had_bytes: u64,
    /// When the stripes of other nodes are examined again, if that is scheduled.
    pub stripe_at: Option<Instant>,
}

impl Swarm {
    /// Records whether a node of the swarm has only a part of the file.
    pub(super) fn note_partial(&mut self, node: &NodeId, is_partial: bool) {
        if let Some(fellow) = self.fellows.get_mut(node) {
            fellow.is_partial = is_partial;
        }
    }
}
