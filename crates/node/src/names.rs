//! The names of other nodes: the ones that they give themselves, and those in their certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::inbox::ChargedSender;
use p2pfs_catalogue::View;
use p2pfs_proto::trust::{Certificate, Claim, Ledger, TrustReader, TrustView};
use p2pfs_proto::wire::native::record::Sender;
use p2pfs_types::id::{NodeId, NodeName};

/// Number of key digits shown for a node without a known name.
const NAMELESS_DIGITS: usize = 8;

/// The names of nodes. Clones share their state.
#[derive(Clone)]
pub(super) struct Names {
    view: Arc<ArcSwap<View>>,
    trust: TrustReader,
    /// Names in the cluster's history, with the ledger from which they were collected.
    /// Collecting them for each lookup would take too long in a large cluster.
    history: Arc<Mutex<HistoryNames>>,
}

type HistoryNames = (Option<Ledger>, BTreeMap<NodeId, String>);

impl Names {
    pub(super) fn new(view: Arc<ArcSwap<View>>, trust: TrustReader) -> Self {
        Self {
            view,
            trust,
            history: Arc::default(),
        }
    }

    /// Returns the name of a node: the one in its certificate or from its last admission, else the
    /// one that it gives itself, else the start of its key. If several nodes in the catalogue have
    /// one name, a part of its key is appended to each.
    pub(super) fn of(&self, node: &NodeId) -> String {
        self.known(node)
            .unwrap_or_else(|| node.short(NAMELESS_DIGITS))
    }

    /// Returns the name of a node, or `None` if only its key is known.
    pub(super) fn known(&self, node: &NodeId) -> Option<String> {
        // The catalogue shows certified names too, but has only nodes that listed something.
        let label = self.view.load().label(node);
        label.or_else(|| self.in_history(node))
    }

    fn in_history(&self, node: &NodeId) -> Option<String> {
        let trust = self.trust.load();
        let ledger = trust.ledger()?;
        let mut history = self.history.lock();
        if !(history.0.as_ref()).is_some_and(|read| read.is_shared_with(ledger)) {
            *history = (Some(ledger.clone()), in_history(&trust));
        }
        history.1.get(node).cloned()
    }

    /// Returns the sender to which the inbox charges files that a node sends: the member if a
    /// ledger lists the members, else the host. Without a ledger, a host can make up as many keys
    /// as it likes.
    pub(super) fn origin_of(&self, node: &NodeId, address: SocketAddr) -> ChargedSender {
        if self.trust.has_ledger() {
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

    /// Returns whether a setting means this node: `setting` is the node's key, or a name for which
    /// [`member_meant`] returns the node.
    pub(super) fn is_meant(&self, setting: &str, node: &NodeId) -> bool {
        setting == node.to_string() || member_meant(&self.trust.load(), setting) == Some(*node)
    }
}

/// Returns the member that a setting means: the one with that key, or the only one with that name
/// in its certificate, or else with that name and the start of its key. The name that a node gives
/// itself proves nothing, so without certificates a name means no node. A name that the settings
/// gave in an earlier cluster means no node until it is confirmed.
pub(super) fn member_meant(trust: &TrustView, setting: &str) -> Option<NodeId> {
    if let Ok(node) = setting.parse::<NodeId>() {
        return trust.is_member(&node).then_some(node);
    }
    if trust.former_names().contains(setting) {
        return None;
    }
    let ledger = trust.ledger()?;
    let members = || ledger.members().filter(|it| trust.is_member(&it.node));
    let mut called: Vec<_> = members().filter(|it| it.name.as_str() == setting).collect();
    if called.is_empty() {
        called.extend(members().filter(|it| is_namesake_called(it, setting)));
    }
    match called[..] {
        [only] => Some(only.node),
        _ => None,
    }
}

/// Returns whether a setting is the member's name with the start of its key, as it is shown if
/// another node has the same name.
fn is_namesake_called(member: &Certificate, setting: &str) -> bool {
    let rest = setting.strip_prefix(member.name.as_str());
    let digits = rest.and_then(|rest| rest.strip_prefix('-'));
    digits.is_some_and(|digits| member.node.begins_with(digits))
}

/// Returns the name of each node in the cluster's history, including expelled nodes: the name in
/// its certificate, else the one at its last valid admission, else the one at a void admission.
pub(super) fn certified_names(trust: &TrustView) -> BTreeMap<NodeId, NodeName> {
    let Some(ledger) = trust.ledger() else {
        return BTreeMap::new();
    };
    let mut history = ledger.history();
    // A void statement names a node only if no valid one does.
    history.sort_by_key(|(_, counts)| *counts);
    let admitted = history
        .into_iter()
        .filter_map(|(signed, _)| match signed.statement.claim {
            Claim::Found { name } => Some((signed.statement.by, name)),
            Claim::Admit { node, name, .. } => Some((node, name)),
            Claim::Expel { .. } | Claim::Rotate { .. } | Claim::Own { .. } => None,
        });
    let mut names: BTreeMap<_, _> = admitted.collect();
    names.extend(ledger.members().map(|it| (it.node, it.name.clone())));
    names
}

/// Returns the names of `certified_names` as text.
pub fn in_history(trust: &TrustView) -> BTreeMap<NodeId, String> {
    let names = certified_names(trust).into_iter();
    names.map(|(node, name)| (node, name.to_string())).collect()
}
