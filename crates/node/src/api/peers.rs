//! The other nodes: their names, their state, and the bytes exchanged with them.

use std::fs::File;

use crate::names::Names;
use crate::{MemberReport, Node, NodeError, Offence};
use p2pfs_fetch::{FetchReport, PeerRate};
use p2pfs_fs::FileVersion;
use p2pfs_types::files::opened_anew;
use p2pfs_types::id::NodeId;

/// One other node.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// Its state and address in the membership.
    pub member: MemberReport,
    /// Bytes fetched from it and their rate; `None` if nothing was requested from it.
    pub rate: Option<PeerRate>,
    /// Bytes of files received from it, fetched or pushed.
    pub received_bytes: u64,
    /// Bytes of files sent to it.
    pub sent_bytes: u64,
    /// How often it broke a rule, and the last case.
    pub offences: Option<(u64, Offence)>,
}

/// Rate limits for traffic between nodes, including foreign peers. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Limit for all traffic to others, in bytes per second.
    pub up_bytes_per_s: Option<u64>,
    /// Limit for all traffic from others, in bytes per second.
    pub down_bytes_per_s: Option<u64>,
}

impl Node {
    /// Returns every other known node and its state.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn peers(&self) -> Result<Vec<PeerReport>, NodeError> {
        let members = self.members().await?;
        let rates = self.rates();
        let report = |member: MemberReport| {
            let node = member.status.member.node;
            let rate = rates.iter().find(|rate| rate.node == node).cloned();
            let fetched_bytes = rate.as_ref().map_or(0, |rate| rate.delivered_bytes);
            PeerReport {
                received_bytes: fetched_bytes + self.handles.traffic.taken.of(&node),
                rate,
                sent_bytes: self.handles.traffic.sent.of(&node),
                offences: self.handles.offenders.of(&node),
                member,
            }
        };
        Ok(members.into_iter().map(report).collect())
    }

    /// Returns the bytes fetched from each node that received a request, and their rate.
    pub fn rates(&self) -> Vec<PeerRate> {
        self.handles.fetcher.peers()
    }

    /// Returns how many bytes of files came from others since the start, fetched or pushed,
    /// including foreign peers.
    pub fn received_bytes(&self) -> u64 {
        let rates = self.rates();
        let fetched_bytes: u64 = rates.iter().map(|rate| rate.delivered_bytes).sum();
        fetched_bytes + self.handles.traffic.taken.total()
    }

    /// Returns how many bytes of files each node that answered has sent to this one.
    pub fn received_bytes_by_peer(&self) -> Vec<(NodeId, u64)> {
        let taken = &self.handles.traffic.taken;
        let rates = self.rates().into_iter();
        let received = rates.map(|rate| (rate.node, rate.delivered_bytes + taken.of(&rate.node)));
        received.collect()
    }

    /// Returns how many bytes of files went to others since the start, including foreign peers.
    pub fn sent_bytes(&self) -> u64 {
        self.handles.traffic.sent.total()
    }

    /// Returns how many bytes of logs, as compressed for transfer, went to others since the start.
    pub fn sent_log_bytes(&self) -> u64 {
        self.handles.published.sent_log_bytes()
    }

    /// Returns the memory of buffers that were not used for ten seconds to the kernel. Call it once a
    /// second.
    pub fn release_unused_buffers(&self) {
        self.handles.net.pieces().release_unused();
    }

    /// Returns the files that are being fetched.
    pub fn fetches(&self) -> Vec<FetchReport> {
        self.handles.fetcher.fetches()
    }

    /// Returns the name of a node: the one in its certificate or from its last admission, else the
    /// one that it gives itself, else the start of its key.
    pub fn name_of(&self, node: &NodeId) -> String {
        self.names().of(node)
    }

    /// Returns the name of a node, once known.
    pub fn label_of(&self, node: &NodeId) -> Option<String> {
        self.names().known(node)
    }

    fn names(&self) -> &Names {
        &self.handles.names
    }

    /// Returns the node of this name that has listed anything, alive or not.
    pub fn author_called(&self, name: &str) -> Option<NodeId> {
        self.view().node_called(name)
    }

    /// Returns whether `wanted` means that node: its name, or the start of its key.
    pub fn is_called(&self, node: &NodeId, wanted: &str) -> bool {
        node.begins_with(wanted) || self.name_of(node) == wanted
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

    /// Sets whether the network is metered. On a metered network only requested bytes are fetched:
    /// there is no read-ahead, and pinned contents are fetched later.
    pub fn set_metered(&self, metered: bool) {
        self.handles.fetcher.set_metered(metered);
    }

    /// Returns whether the network is metered.
    pub fn is_metered(&self) -> bool {
        self.handles.fetcher.is_metered()
    }

    /// Returns a version as a complete local file, open for reading: an own file that still is that
    /// version, or a complete copy in the cache. Reads the disk.
    pub fn local_file(&self, version: &FileVersion) -> Option<File> {
        let own = version.own.as_ref();
        let own = own.and_then(|(share, path)| {
            let opened = self.shares.own_with(*share, path, &version.hash);
            opened.ok()
        });
        own.or_else(|| {
            let cached = self.cache.existing(&version.hash).ok()??;
            opened_anew(&*cached.backing()?).ok()
        })
    }
}
