//! The keyring of the node within its machine, and the requests for a missing secret.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use p2pfs_membership::{Cluster, Member};
use p2pfs_proto::trust::{Keyring, NodeKey, TrustView, TrustWrite};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Interval between requests for a missing secret, each to a random member.
const SECRET_RETRY: Duration = Duration::from_secs(1);

/// The key of this node, its keyring, and the keyring's actions for the owner of the machine.
pub(super) struct ClusterTrust {
    pub(super) key: Arc<NodeKey>,
    pub(super) keyring: Keyring,
    /// Write to hand to the disk's thread.
    pub(super) write: Option<TrustWrite>,
    /// Answers to commands, to be called after the changes are enforced.
    pub(super) answers: VecDeque<Box<dyn FnOnce() + Send>>,
    /// When to ask the next member for the secret of a new epoch.
    pub(super) secret_due: Option<Instant>,
    /// Chooses the members that are asked for a secret.
    pub(super) rng: StdRng,
}

impl ClusterTrust {
    /// Returns the members and the secrets that are known now.
    pub(super) fn view(&self) -> &TrustView {
        self.keyring.view()
    }

    /// Returns the owners of paths in the ledger.
    pub(super) fn owners(&self) -> BTreeMap<SharedPath, NodeId> {
        let Some(ledger) = self.view().ledger() else {
            return BTreeMap::new();
        };
        let sound = |(path, node): (&[u8], _)| Some((SharedPath::new(path.to_vec()).ok()?, node));
        ledger.owners().filter_map(sound).collect()
    }

    /// Returns a random live member to ask now for the secret of the epoch that the ledger names.
    /// Returns `None` if this node has that secret, if the next request is not due, or if no member
    /// is live.
    pub(super) fn secret_source(&mut self, now: Instant, cluster: &Cluster) -> Option<Member> {
        if self.secret_due.is_none_or(|due| now < due) {
            return None;
        }
        self.secret_due = None;
        self.view().wanted_epoch()?;
        self.secret_due = Some(now + SECRET_RETRY);
        cluster.live().choose(&mut self.rng)
    }
}
