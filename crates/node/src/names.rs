//! The names of other nodes: the ones that they give themselves, and those in their certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::inbox::ChargedSender;
use p2pfs_catalogue::View;
use p2pfs_proto::trust::{Claim, Keyring};
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_types::id::NodeId;

/// Number of key digits shown for a node without a known name.
const NAMELESS_DIGITS: usize = 8;

/// The names of nodes. Clones share their state.
#[derive(Clone)]
pub(super) struct Names {
    view: Arc<ArcSwap<View>>,
    keyring: Arc<Keyring>,
}

impl Names {
    pub(super) fn new(view: Arc<ArcSwap<View>>, keyring: Arc<Keyring>) -> Self {
        Self { view, keyring }
    }

    /// Returns the name of a node: its own name if known, else the one in its certificate, else the
    /// one from its last admission, else the start of its key.
    pub(super) fn of(&self, node: &NodeId) -> String {
        let label = self.view.load().label(node);
        label
            .or_else(|| {
                let mut all = self.keyring.certificates().into_iter();
                all.find(|it| it.node == *node)
                    .map(|it| it.name.to_string())
            })
            .or_else(|| in_history(&self.keyring).remove(node))
            .unwrap_or_else(|| node.short(NAMELESS_DIGITS))
    }

    /// Returns the sender to which files of a node are charged. With certificates it is the member.
    /// Without them keys can be made up, so it is the host.
    pub(super) fn origin_of(&self, node: &NodeId, address: SocketAddr) -> ChargedSender {
        if self.keyring.has_ledger() {
            ChargedSender::Node(*node)
        } else {
            ChargedSender::at(address)
        }
    }

    /// Returns the name of the sender of a file.
    pub(super) fn of_sender(&self, sender: &Sender) -> String {
        match sender {
            Sender::Node(node) => self.of(node),
            Sender::Peer(name) => name.clone(),
        }
    }

    /// Returns whether a setting means this node. It does if it is the node's key, or the name in
    /// its certificate and in no other member's. The name that a node gives itself proves nothing.
    pub(super) fn is_meant(&self, setting: &str, node: &NodeId) -> bool {
        setting == node.to_string() || member_meant(&self.keyring, setting) == Some(*node)
    }
}

/// Returns the member that a setting means: the one with that key, or the only one with that name
/// in its certificate. The name that a node gives itself proves nothing, so without certificates a
/// name means no node.
pub(super) fn member_meant(keyring: &Keyring, setting: &str) -> Option<NodeId> {
    if let Ok(node) = setting.parse::<NodeId>() {
        return keyring.is_member(&node).then_some(node);
    }
    let mut called = keyring.certificates();
    called.retain(|it| it.name.as_str() == setting && keyring.is_member(&it.node));
    match &called[..] {
        [only] => Some(only.node),
        _ => None,
    }
}

/// Returns the name of each node in the cluster's history at its last admission, including expelled
/// nodes.
pub fn in_history(keyring: &Keyring) -> BTreeMap<NodeId, String> {
    let history = keyring.history();
    let named = history
        .iter()
        .filter_map(|(signed, _)| match &signed.statement.claim {
            Claim::Found { name } => Some((signed.statement.by, name.to_string())),
            Claim::Admit { node, name, .. } => Some((*node, name.to_string())),
            Claim::Expel { .. } | Claim::Rotate { .. } | Claim::Own { .. } => None,
        });
    named.collect()
}
