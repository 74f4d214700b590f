//! Invitations that this node has issued. A used one is kept for the node that used it, because the
//! answer to that node may have been lost.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use super::statement::StatementId;
use super::token::{InviteToken, TOKEN_SEEDS_MAX};
use super::{Channel, Role, TrustError, random_bytes};
use p2pfs_types::id::{NodeId, NodeName};

/// Maximum number of unused invitations. Issuing more is refused until one is used or expires.
pub const INVITES_MAX: usize = 64;
/// Maximum number of used invitations that are kept for their nodes. Beyond it the one that was used
/// first is forgotten, and its node needs another one if its answer was lost.
pub const USED_INVITES_MAX: usize = 64;

/// One invitation.
#[derive(Debug)]
struct Invite {
    key: Zeroizing<[u8; 32]>,
    expires_unix_s: u64,
    grant: Grant,
    /// This node's knowledge when it made the invitation. The invitation is for that cluster only,
    /// and not for a node that was expelled later.
    known: Known,
}

impl Invite {
    fn redeemed(&self, is_repeated: bool) -> Redeemed {
        Redeemed {
            key: self.key.clone(),
            grant: self.grant.clone(),
            known: self.known.clone(),
            is_repeated,
        }
    }
}

/// Knowledge about a cluster's membership on which an invitation is based.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The cluster, or none if a configured secret file defines the members.
    pub cluster: Option<StatementId>,
    /// The expulsions and farewells that are known.
    pub expulsions: BTreeSet<StatementId>,
}

impl Known {
    /// Returns whether both are of the same cluster and this one has all needed statements.
    pub(super) fn covers(&self, needed: &Self) -> bool {
        self.cluster == needed.cluster && needed.expulsions.is_subset(&self.expulsions)
    }
}

/// The rights and the name in the joining node's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Whether the joining node may admit and expel.
    pub admin: bool,
    /// Its fixed name, or none if the joining node may choose its name.
    pub name: Option<NodeName>,
}

/// An invitation that admitted a node, and that node.
#[derive(Debug)]
struct UsedInvite {
    invite: Invite,
    by: NodeId,
}

/// An invitation that was used.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// The one-use key, to prove to the joining node that this node knows it too.
    pub key: Zeroizing<[u8; 32]>,
    /// The rights and the name promised with the invitation.
    pub grant: Grant,
    /// This node's knowledge when it made the invitation.
    pub known: Known,
    /// Whether the same node used it before.
    pub is_repeated: bool,
}

/// A check whether the settings of this node give a right to the node of this name.
pub type IsReserved = Box<dyn Fn(&NodeName) -> bool + Send + Sync>;

/// The names that a joining node may not choose; none until the check is set.
#[derive(Default)]
struct Reserved(OnceLock<IsReserved>);

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reserved")
    }
}

/// The invitations into one cluster.
#[derive(Debug, Default)]
struct InviteTable {
    waiting: Vec<Invite>,
    /// Used invitations, in the order of their use.
    used: VecDeque<UsedInvite>,
}

impl InviteTable {
    fn retain(&mut self, is_current: impl Fn(&Invite) -> bool) {
        self.waiting.retain(&is_current);
        self.used.retain(|it| is_current(&it.invite));
    }

    fn record_used(&mut self, invite: Invite, by: NodeId) {
        if self.used.len() >= USED_INVITES_MAX {
            self.used.pop_front();
        }
        self.used.push_back(UsedInvite { invite, by });
    }
}

/// Invitations with their one-use keys. They are in memory only, so they end when the node that
/// made them stops.
#[derive(Debug, Default)]
pub struct Invites {
    table: Mutex<InviteTable>,
    reserved: Reserved,
}

impl Invites {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the names that a joining node may not choose. Only the first call has an effect.
    pub fn reserve(&self, is_reserved: IsReserved) {
        let _set_before = self.reserved.0.set(is_reserved);
    }

    /// Returns whether a joining node may not choose this name.
    pub fn is_reserved(&self, name: &NodeName) -> bool {
        let reserved = self.reserved.0.get();
        reserved.is_some_and(|is_reserved| is_reserved(name))
    }

    /// Makes an invitation by `issuer`, which listens at `seeds`, into the cluster of `known`.
    ///
    /// # Errors
    /// [`TrustError::BadSeeds`] for no seed or too many, [`TrustError::TooManyInvites`].
    pub fn issue(
        &self,
        issuer: NodeId,
        seeds: Vec<SocketAddr>,
        lifetime: Duration,
        grant: Grant,
        known: Known,
        now_unix_s: u64,
    ) -> Result<InviteToken, TrustError> {
        if !(1..=TOKEN_SEEDS_MAX).contains(&seeds.len()) {
            return Err(TrustError::BadSeeds { count: seeds.len() });
        }
        let mut table = self.lock_current(known.cluster, now_unix_s);
        if table.waiting.len() >= INVITES_MAX {
            return Err(TrustError::TooManyInvites);
        }
        let key = Zeroizing::new(random_bytes());
        let expires_unix_s = now_unix_s.saturating_add(lifetime.as_secs());
        table.waiting.push(Invite {
            key: key.clone(),
            expires_unix_s,
            grant,
            known,
        });
        Ok(InviteToken {
            issuer,
            seeds,
            key,
            expires_unix_s,
        })
    }

    /// Uses up the invitation that `proof` was made with, and returns it. Later only the node of
    /// this connection may use it again, because the answer to that node may have been lost.
    /// Returns none in two cases: if the invitation was made without knowledge of all `needed`
    /// statements, by which the joining node was expelled, or if it is unused and its grant is not
    /// `accepted`. The invitation then stays for another node.
    pub fn redeem(
        &self,
        channel: &Channel,
        proof: &[u8; 32],
        needed: &Known,
        now_unix_s: u64,
        accepted: impl Fn(&Grant) -> bool,
    ) -> Option<Redeemed> {
        let mut table = self.lock_current(needed.cluster, now_unix_s);
        let fits = |it: &Invite| {
            it.known.covers(needed) && channel.verify_enrolment(&it.key, Role::Client, proof)
        };
        let by = channel.client;
        if let Some(used) = table.used.iter().find(|it| it.by == by && fits(&it.invite)) {
            return Some(used.invite.redeemed(true));
        }
        let is_open = |it: &Invite| fits(it) && accepted(&it.grant);
        let place = table.waiting.iter().position(is_open)?;
        let invite = table.waiting.swap_remove(place);
        let redeemed = invite.redeemed(false);
        table.record_used(invite, by);
        Some(redeemed)
    }

    /// Returns the number of unused invitations into this cluster.
    pub fn waiting(&self, cluster: Option<StatementId>, now_unix_s: u64) -> usize {
        self.lock_current(cluster, now_unix_s).waiting.len()
    }

    /// Locks the table after removing expired invitations and those into another cluster. An
    /// invitation into another cluster promises nothing in this one.
    fn lock_current(
        &self,
        cluster: Option<StatementId>,
        now_unix_s: u64,
    ) -> MutexGuard<'_, InviteTable> {
        let mut table = self.table.lock();
        table.retain(|it| now_unix_s < it.expires_unix_s && it.known.cluster == cluster);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: NodeId = NodeId::new([1; 32]);
    const CHANNEL: Channel = Channel {
        client: NodeId::new([2; 32]),
        server: ISSUER,
        exporter: [9; 32],
    };
    const OLD: StatementId = StatementId([4; 16]);
    const HERE: Option<StatementId> = Some(StatementId([6; 16]));
    const HOUR: Duration = Duration::from_secs(3600);

    fn known(expulsions: &[StatementId]) -> Known {
        Known {
            cluster: HERE,
            expulsions: expulsions.iter().copied().collect(),
        }
    }

    fn issue(invites: &Invites) -> InviteToken {
        invites
            .issue(
                ISSUER,
                vec!["192.0.2.1:1378".parse().unwrap()],
                HOUR,
                Grant::default(),
                known(&[OLD]),
                1000,
            )
            .unwrap()
    }

    fn proof(token: &InviteToken) -> [u8; 32] {
        CHANNEL.enrolment_proof(&token.key, Role::Client)
    }

    /// Returns a connection of another node, and its proof.
    fn another(token: &InviteToken) -> (Channel, [u8; 32]) {
        let channel = Channel {
            client: NodeId::new([3; 32]),
            ..CHANNEL
        };
        let proof = channel.enrolment_proof(&token.key, Role::Client);
        (channel, proof)
    }

    #[test]
    fn an_invitation_can_be_used_once_and_repeated_by_the_same_node_until_it_expires() {
        let invites = Invites::new();
        let token = issue(&invites);
        let redeem = |now_s| {
            let later = Channel {
                exporter: [now_s as u8; 32],
                ..CHANNEL
            };
            let proof = later.enrolment_proof(&token.key, Role::Client);
            // a repetition is not judged by its grant again
            invites.redeem(&later, &proof, &known(&[]), now_s, |_| now_s == 1001)
        };
        let redeemed = redeem(1001).unwrap();
        assert_eq!(redeemed.key, token.key);
        assert_eq!(redeemed.grant, Grant::default());
        assert!(!redeemed.is_repeated);
        let (channel, proof) = another(&token);
        let refused = invites.redeem(&channel, &proof, &known(&[]), 1002, |_| true);
        assert_eq!(refused, None);
        for now_s in [1003, 4599] {
            assert_eq!(redeem(now_s).map(|it| it.is_repeated), Some(true));
        }
        assert_eq!(redeem(4600), None);
        assert_eq!(invites.waiting(HERE, 1001), 0);
    }

    #[test]
    fn used_invitations_are_kept_up_to_their_limit() {
        let invites = Invites::new();
        let redeem = |token: &InviteToken| {
            let redeemed = invites.redeem(&CHANNEL, &proof(token), &known(&[]), 1001, |_| true);
            redeemed.is_some()
        };
        let issue_and_redeem = |_| {
            let token = issue(&invites);
            assert!(redeem(&token));
            token
        };
        let tokens: Vec<_> = (0..=USED_INVITES_MAX).map(issue_and_redeem).collect();
        assert!(!redeem(&tokens[0]));
        assert!(tokens[1..].iter().all(redeem));
        assert_eq!(invites.table.lock().used.len(), USED_INVITES_MAX);
    }

    #[test]
    fn an_expired_invitation_admits_no_node() {
        let invites = Invites::new();
        let token = issue(&invites);
        assert_eq!(token.expires_unix_s, 4600);
        assert_eq!(
            invites.redeem(&CHANNEL, &proof(&token), &known(&[]), 4600, |_| true),
            None
        );
    }

    #[test]
    fn an_invitation_does_not_admit_a_node_expelled_after_it_was_made() {
        let invites = Invites::new();
        let token = issue(&invites);
        let redeem = |words: &[StatementId]| {
            invites.redeem(&CHANNEL, &proof(&token), &known(words), 1001, |_| true)
        };
        let later = StatementId([5; 16]);
        assert_eq!(redeem(&[later]), None);
        assert_eq!(
            redeem(&[OLD, later]),
            None,
            "one that is known is not enough"
        );
        assert_eq!(invites.waiting(HERE, 1001), 1, "another may use it");
        assert!(redeem(&[OLD]).is_some(), "it was made for who was out");
    }

    #[test]
    fn an_invitation_disappears_with_its_cluster() {
        let invites = Invites::new();
        let token = issue(&invites);
        let elsewhere = Known {
            cluster: Some(StatementId([7; 16])),
            ..known(&[OLD])
        };
        let redeem = |needed| invites.redeem(&CHANNEL, &proof(&token), needed, 1001, |_| true);
        assert_eq!(redeem(&elsewhere), None);
        assert_eq!(redeem(&known(&[])), None);
    }

    #[test]
    fn a_proof_for_another_connection_uses_no_invitation_up() {
        let invites = Invites::new();
        let token = issue(&invites);
        let proof = proof(&token);
        let elsewhere = Channel {
            exporter: [0; 32],
            ..CHANNEL
        };
        let of_another = Channel {
            client: ISSUER,
            ..CHANNEL
        };
        assert_eq!(
            invites.redeem(&elsewhere, &proof, &known(&[]), 1001, |_| true),
            None
        );
        assert_eq!(
            invites.redeem(&of_another, &proof, &known(&[]), 1001, |_| true),
            None
        );
        assert_eq!(invites.waiting(HERE, 1001), 1);
        assert!(
            invites
                .redeem(&CHANNEL, &proof, &known(&[]), 1001, |_| true)
                .is_some()
        );
    }

    #[test]
    fn each_of_several_invitations_is_found() {
        let invites = Invites::new();
        let tokens: Vec<_> = (0..3).map(|_| issue(&invites)).collect();
        for token in tokens.iter().rev() {
            assert!(
                invites
                    .redeem(&CHANNEL, &proof(token), &known(&[]), 1001, |_| true)
                    .is_some()
            );
        }
        assert_eq!(invites.waiting(HERE, 1001), 0);
    }

    #[test]
    fn the_table_is_bounded_and_drops_expired_invitations() {
        let invites = Invites::new();
        let seeds = vec!["192.0.2.1:1378".parse().unwrap()];
        for _ in 0..INVITES_MAX {
            issue(&invites);
        }
        let full = invites.issue(
            ISSUER,
            seeds.clone(),
            HOUR,
            Grant::default(),
            known(&[]),
            1001,
        );
        assert!(matches!(full, Err(TrustError::TooManyInvites)));
        assert!(
            invites
                .issue(ISSUER, seeds, HOUR, Grant::default(), known(&[]), 4600)
                .is_ok()
        );
        assert_eq!(invites.waiting(HERE, 4600), 1);
    }

    #[test]
    fn an_invitation_has_at_least_one_and_not_too_many_addresses() {
        let invites = Invites::new();
        let seed: SocketAddr = "192.0.2.1:1378".parse().unwrap();
        for seeds in [vec![], vec![seed; TOKEN_SEEDS_MAX + 1]] {
            let refused = invites.issue(ISSUER, seeds, HOUR, Grant::default(), known(&[]), 1000);
            assert!(matches!(refused, Err(TrustError::BadSeeds { .. })));
        }
    }
}
