//! How far the machine has applied the changes of the cluster's keyring, and the requests for a
//! missing secret.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use p2pfs_membership::{Cluster, Member};
use p2pfs_proto::trust::{Keyring, NodeKey};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Interval between requests for a missing secret, each to a random member.
const SECRET_RETRY: Duration = Duration::from_secs(1);

/// The key of this node, the keyring, and how far its changes are applied.
pub(super) struct TrustProgress {
    pub(super) key: Arc<NodeKey>,
    pub(super) keyring: Arc<Keyring>,
    /// Revision of the keyring that was last applied.
    pub(super) seen_revision: u64,
    /// When to ask the next member for the secret of a new epoch.
    pub(super) secret_due: Option<Instant>,
    /// Chooses the members that are asked for a secret.
    pub(super) rng: StdRng,
}

impl TrustProgress {
    /// Returns the owners of paths in the ledger.
    pub(super) fn owners(&self) -> BTreeMap<SharedPath, NodeId> {
        let Some(ledger) = self.keyring.ledger() else {
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
        self.keyring.wanted_epoch()?;
        self.secret_due = Some(now + SECRET_RETRY);
        cluster.live().choose(&mut self.rng)
    }
}
