//! The bytes exchanged with other nodes, and the limits on them.

use crate::run::NodeHandles;
use p2pfs_fetch::PeerRate;
use p2pfs_types::id::NodeId;

/// Rate limits for traffic between nodes, including foreign peers. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Limit for all traffic to others, in bytes per second.
    pub up_bytes_per_s: Option<u64>,
    /// Limit for all traffic from others, in bytes per second.
    pub down_bytes_per_s: Option<u64>,
}

/// The traffic of a node. [`Node::traffic`](crate::Node::traffic) returns it. Clones share their
/// state.
#[derive(Clone)]
pub struct NodeTraffic {
    pub(crate) handles: NodeHandles,
}

impl NodeTraffic {
    /// Returns the bytes fetched from each node that the fetcher knows, and their rate.
    pub fn rates(&self) -> Vec<PeerRate> {
        self.handles.fetcher.peers()
    }

    /// Returns how many bytes of files this node has received from nodes and foreign peers since
    /// the start, fetched or pushed.
    pub fn received_bytes(&self) -> u64 {
        let rates = self.rates();
        let fetched_bytes: u64 = rates.iter().map(|rate| rate.delivered_bytes).sum();
        fetched_bytes + self.handles.traffic.taken.total()
    }

    /// Returns for each node that the fetcher knows how many bytes of files this node has received
    /// from it, fetched or pushed.
    pub fn received_bytes_by_peer(&self) -> Vec<(NodeId, u64)> {
        let taken = &self.handles.traffic.taken;
        let rates = self.rates().into_iter();
        let received = rates.map(|rate| (rate.node, rate.delivered_bytes + taken.of(&rate.node)));
        received.collect()
    }

    /// Returns how many bytes of files this node has sent to nodes and foreign peers since the
    /// start, requested or pushed.
    pub fn sent_bytes(&self) -> u64 {
        self.handles.traffic.sent.total()
    }

    /// Returns how many bytes of logs, compressed, this node has sent to other nodes since the
    /// start.
    pub fn sent_log_bytes(&self) -> u64 {
        self.handles.published.sent_log_bytes()
    }

    /// Gives the memory of buffers that were not used during the last ten calls back to the kernel.
    /// Call this once per second.
    pub fn release_unused_buffers(&self) {
        self.handles.net.pieces().release_unused();
    }

    /// Returns the current rate limits.
    pub fn limits(&self) -> RateLimits {
        RateLimits {
            up_bytes_per_s: self.handles.server.upload().bytes_per_s(),
            down_bytes_per_s: self.handles.fetcher.download().bytes_per_s(),
        }
    }

    /// Sets the rate limits.
    pub fn set_limits(&self, limits: RateLimits) {
        self.handles.server.upload().set(limits.up_bytes_per_s);
        self.handles.fetcher.download().set(limits.down_bytes_per_s);
    }

    /// Sets whether the network is metered. On a metered network, the node does not read ahead, and
    /// [`NodePins::maintain`](super::NodePins::maintain) fetches nothing.
    pub fn set_metered(&self, metered: bool) {
        self.handles.fetcher.set_metered(metered);
    }

    /// Returns whether the network is metered.
    pub fn is_metered(&self) -> bool {
        self.handles.fetcher.is_metered()
    }
}
