//! What the event loop publishes for everyone else, and what it tells of changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::catalogue::{Change, View};
use crate::digest::ContentHash;
use crate::id::NodeId;

/// What is published. Clones are the same.
#[derive(Clone)]
pub(super) struct Published {
    /// The namespace as it is now.
    pub(super) view: Arc<ArcSwap<View>>,
    /// Where others reach this node.
    pub(super) own_address: Arc<ArcSwap<SocketAddr>>,
    /// Where each reachable member is.
    pub(super) addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    /// Where members were reached the last time that any was, in this life or an earlier one.
    pub(super) last_addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// What `.p2pfs/status.json` shows.
    pub(super) status: Arc<ArcSwap<Vec<u8>>>,
}

impl Published {
    pub(super) fn new(
        view: Arc<View>,
        own_address: SocketAddr,
        last_addresses: Vec<SocketAddr>,
    ) -> Self {
        Self {
            own_address: Arc::new(ArcSwap::from_pointee(own_address)),
            view: Arc::new(ArcSwap::new(view)),
            addresses: Arc::default(),
            last_addresses: Arc::new(ArcSwap::from_pointee(last_addresses)),
            status: Arc::new(ArcSwap::from_pointee(b"{}\n".to_vec())),
        }
    }

    /// Where each member is reached from now on.
    pub(super) fn set_addresses(&self, addresses: BTreeMap<NodeId, SocketAddr>) {
        if !addresses.is_empty() {
            let all = addresses.values().copied().collect();
            self.last_addresses.store(Arc::new(all));
        }
        self.addresses.store(Arc::new(addresses));
    }
}

/// What whoever shows the namespace must look at again.
#[derive(Clone)]
pub enum Outdated {
    /// Names, in the order in which they changed.
    Names {
        /// The namespace that shows them so; none where they are legacy peers'.
        view: Option<Arc<View>>,
        /// What changed.
        changes: Vec<Change>,
    },
    /// Another part of this content is cached than before.
    CachedBytes(ContentHash),
}
