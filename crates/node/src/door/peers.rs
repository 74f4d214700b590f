//! The other nodes: what they are called, how they do, and what goes to and fro.

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
    /// Where and how it is.
    pub member: MemberReport,
    /// What came from it and how fast; none where nothing was asked of it.
    pub rate: Option<PeerRate>,
    /// How many bytes of files came from it, fetched or pushed by it.
    pub received_bytes: u64,
    /// How many bytes of files went to it.
    pub sent_bytes: u64,
    /// How often it broke a rule, and how last.
    pub offences: Option<(u64, Offence)>,
}

/// The most bytes a second that go between nodes, legacy peers included; none stands for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// To all others.
    pub up_bytes_per_s: Option<u64>,
    /// From all others.
    pub down_bytes_per_s: Option<u64>,
}

impl Node {
    /// Every other node that is known, and how it does.
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
                received_bytes: fetched_bytes + self.running.traffic.taken.of(&node),
                rate,
                sent_bytes: self.running.traffic.sent.of(&node),
                offences: self.running.offenders.of(&node),
                member,
            }
        };
        Ok(members.into_iter().map(report).collect())
    }

    /// What came from each node that something was asked of, and how fast.
    pub fn rates(&self) -> Vec<PeerRate> {
        self.running.fetcher.peers()
    }

    /// How many bytes of files came from others since the start, fetched or pushed by them, legacy
    /// peers included.
    pub fn received_bytes(&self) -> u64 {
        let rates = self.rates();
        let fetched_bytes: u64 = rates.iter().map(|rate| rate.delivered_bytes).sum();
        fetched_bytes + self.running.traffic.taken.total()
    }

    /// How many bytes of files went to others since the start, legacy peers included.
    pub fn sent_bytes(&self) -> u64 {
        self.running.traffic.sent.total()
    }

    /// How many bytes of logs, as they are packed for the way, went to others since the start.
    pub fn told_bytes(&self) -> u64 {
        self.published.told_bytes()
    }

    /// The files that are on their way here.
    pub fn fetches(&self) -> Vec<FetchReport> {
        self.running.fetcher.fetches()
    }

    /// What a node is called: by itself where that is known, else by who let it in, else the start
    /// of its key.
    pub fn name_of(&self, node: &NodeId) -> String {
        Names::new(self.published.view.clone(), self.keyring.clone()).of(node)
    }

    /// What a node calls itself, once it has said so.
    pub fn label_of(&self, node: &NodeId) -> Option<String> {
        self.view().label(node)
    }

    /// The node that has listed something under this name, here or not.
    pub fn author_called(&self, name: &str) -> Option<NodeId> {
        self.view().node_called(name)
    }

    /// Whether a person means that node: its name, or the start of its key.
    pub fn is_called(&self, node: &NodeId, wanted: &str) -> bool {
        node.begins_with(wanted) || self.name_of(node) == wanted
    }

    /// How fast bytes may go now.
    pub fn limits(&self) -> RateLimits {
        RateLimits {
            up_bytes_per_s: self.running.server.upload().bytes_per_s(),
            down_bytes_per_s: self.running.fetcher.download().bytes_per_s(),
        }
    }

    /// How fast bytes may go from now on.
    pub fn set_limits(&self, limits: RateLimits) {
        self.running.server.upload().set(limits.up_bytes_per_s);
        self.running.fetcher.download().set(limits.down_bytes_per_s);
    }

    /// Whether nothing is fetched from now on that nobody asked for, since the network costs by the
    /// byte: nothing ahead of readers, and what is pinned comes later.
    pub fn set_metered(&self, metered: bool) {
        self.running.fetcher.set_metered(metered);
    }

    /// Whether it is so now.
    pub fn is_metered(&self) -> bool {
        self.running.fetcher.is_metered()
    }

    /// The whole of a version as a local file, open for reading: an own file that still is that
    /// version, or a complete copy in the cache. Asks the disk.
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
