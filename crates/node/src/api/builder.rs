//! The builder of a node. [`Node::builder`] takes the settings that have no good default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::defaults;
use crate::inbox::{Accept, InboxSettings};
use crate::{ForeignPeers, Node, NodeConfig, NodeError};
use p2pfs_types::id::NodeName;

/// Settings of a node before its start. [`Node::builder`] returns it.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    config: NodeConfig,
    shares: Vec<PathBuf>,
}

impl NodeBuilder {
    /// Returns a builder with the default settings. [`Node::builder`] describes them.
    pub(crate) fn new(name: NodeName, dir: &Path) -> Self {
        let config = NodeConfig::new(name, dir);
        Self {
            config,
            shares: Vec::new(),
        }
    }

    /// Sets the address to listen on, for UDP and TCP. Port 0 takes any free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.network.listen = address;
        self
    }

    /// Adds the address of another node to join through. May be called several times.
    #[must_use]
    pub fn seed(mut self, address: SocketAddr) -> Self {
        self.config.network.seeds.push(address);
        self
    }

    /// Sets the file with the cluster's secret: 64 hexadecimal digits, mode 0600. Without a file,
    /// the first start founds a cluster, and [`NodeMembership::join`](super::NodeMembership::join)
    /// brings the node into another one.
    #[must_use]
    pub fn secret_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.secret_file = Some(file.into());
        self
    }

    /// Sets whether the node finds others on the LAN and is found there.
    #[must_use]
    pub fn lan(mut self, on: bool) -> Self {
        self.config.network.mdns = on;
        self
    }

    /// Sets the budget of the cache and the space that it leaves free on the filesystem, in bytes.
    #[must_use]
    pub fn cache(mut self, budget_bytes: u64, floor_bytes: u64) -> Self {
        self.config.cache.budget_bytes = budget_bytes;
        self.config.cache.floor_bytes = floor_bytes;
        self
    }

    /// Sets how long a read may wait while no byte of its file arrives. While holders of the file
    /// serve other requests of this node, the read may wait up to six times as long. It may wait
    /// longer still while a rate limit of this node delays its requests.
    #[must_use]
    pub fn read_deadline(mut self, deadline: Duration) -> Self {
        self.config.read_deadline = deadline;
        self
    }

    /// Adds a folder to share from the start. May be called several times.
    #[must_use]
    pub fn share(mut self, dir: impl Into<PathBuf>) -> Self {
        self.shares.push(dir.into());
        self
    }

    /// Sets the folder for files that others send. Accepts files from every member of the cluster,
    /// unless [`Self::inbox_from`] restricts the members, and always from every foreign peer. The
    /// folder is shared like any other folder. All files in it together have at most 10 GiB, and
    /// 1 GiB stays free on its filesystem.
    #[must_use]
    pub fn inbox(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.giving.inbox = Some(InboxSettings {
            dir: dir.into(),
            budget_bytes: defaults::INBOX_BYTES,
            floor_bytes: defaults::FLOOR_BYTES,
        });
        if self.config.giving.accept == Accept::Nobody {
            self.config.giving.accept = Accept::Members;
        }
        self
    }

    /// Restricts the members that may send files to the listed ones. Each is named by the 64
    /// hexadecimal digits of its key or by the name in its certificate.
    #[must_use]
    pub fn inbox_from(mut self, members: impl IntoIterator<Item = String>) -> Self {
        self.config.giving.accept = Accept::Listed(members.into_iter().collect());
        self
    }

    /// Sets the peers of other protocols that the node speaks to. Their identity is not proven,
    /// because these protocols have no authentication.
    #[must_use]
    pub fn foreign(mut self, peers: Arc<dyn ForeignPeers>) -> Self {
        self.config.foreign = Some(peers);
        self
    }

    /// Starts the node, without a mount. When this returns, the node gossips and serves, while its
    /// shares may still be scanned.
    ///
    /// # Errors
    /// [`NodeError`]. Then the node does not run.
    pub async fn start(mut self) -> Result<Node, NodeError> {
        let giving = &mut self.config.giving;
        if self.config.foreign.is_some() {
            giving.foreign_inbox = giving.inbox.clone();
        }
        let inbox = giving.inbox.as_ref().map(|inbox| inbox.dir.clone());
        let mut node = Node::start(self.config).await?;
        // Without a mount, no receiver needs the namespace changes.
        drop(node.take_changes());
        for dir in self.shares.into_iter().chain(inbox) {
            node.shares().share(dir).await?;
        }
        node.shares().all_added();
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_may_send_stay_restricted_in_any_order_of_calls() {
        let builder = || NodeBuilder::new("one".parse().unwrap(), Path::new("/nowhere"));
        let listed = || ["two".to_owned()];
        let accepted = |builder: NodeBuilder| builder.config.giving.accept;
        let restricted = Accept::Listed(listed().into());
        let before = builder().inbox_from(listed()).inbox("/inbox");
        assert_eq!(accepted(before), restricted);
        let after = builder().inbox("/inbox").inbox_from(listed());
        assert_eq!(accepted(after), restricted);
        assert_eq!(accepted(builder().inbox("/inbox")), Accept::Members);
    }
}
