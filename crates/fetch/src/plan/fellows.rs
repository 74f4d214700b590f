//! Who else wants a file, as far as its fetch keeps that: what the swarm goes by.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2pfs_types::id::NodeId;

/// A node that wants a file too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fellow {
    /// Until when it has no stripes.
    pub lags_until: Option<Instant>,
    /// How often in a row its stripes were late.
    pub lags: u32,
    /// The end of the last range that it has.
    pub furthest: u64,
    /// How much it has.
    pub has_bytes: u64,
    /// Whether it is a holder that has but a part of the file, as far as is known.
    pub is_partial: bool,
}

/// The nodes that want a file too.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    pub fellows: BTreeMap<NodeId, Fellow>,
    pub survey_each: Duration,
    pub surveyed_last: Option<NodeId>,
    pub had_bytes: u64,
    /// When what belongs to others is looked at again, where that is set.
    pub stripe_at: Option<Instant>,
}

impl Swarm {
    /// Whether a node, if it is one of these, has but a part of the file.
    pub(super) fn note_partial(&mut self, node: &NodeId, is_partial: bool) {
        if let Some(fellow) = self.fellows.get_mut(node) {
            fellow.is_partial = is_partial;
        }
    }
}
