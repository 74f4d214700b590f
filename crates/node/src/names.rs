//! What other nodes are called, by their own word and by that of who admitted them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::inbox::Origin;
use p2pfs_catalogue::View;
use p2pfs_proto::trust::{Claim, Keyring};
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_types::id::NodeId;

/// Digits of its key that stand for a node whose name is not known.
const NAMELESS_DIGITS: usize = 8;

/// The names. Clones are the same.
#[derive(Clone)]
pub(super) struct Names {
    view: Arc<ArcSwap<View>>,
    keyring: Arc<Keyring>,
}

impl Names {
    pub(super) fn new(view: Arc<ArcSwap<View>>, keyring: Arc<Keyring>) -> Self {
        Self { view, keyring }
    }

    /// What a node is called: by itself where that is known, else in its certificate, else by who
    /// let it in once.
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

    /// Returns the sender that is charged for what a node sends: the member by its certificate, or
    /// where there are none, and keys are made up, all that comes from its host.
    pub(super) fn origin_of(&self, node: &NodeId, address: SocketAddr) -> Origin {
        if self.keyring.has_ledger() {
            Origin::Node(*node)
        } else {
            Origin::at(address)
        }
    }

    /// What the sender of a file is called.
    pub(super) fn of_sender(&self, sender: &Sender) -> String {
        match sender {
            Sender::Node(node) => self.of(node),
            Sender::Peer(name) => name.clone(),
        }
    }

    /// Whether a setting means a node: its key, or the name of its certificate where no other
    /// member's certificate has that name. What it calls itself proves nothing.
    pub(super) fn is_meant(&self, setting: &str, node: &NodeId) -> bool {
        setting == node.to_string() || member_meant(&self.keyring, setting) == Some(*node)
    }
}

/// Which member a setting means: that of its key, or the one whose certificate has that name. What
/// a node calls itself proves nothing, so without certificates a name means nobody.
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

/// What the nodes of a cluster's history called themselves when they were let in, the last time;
/// those that are out included.
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
