//! Invitations that this node has issued. A used one is kept for the node that used it, because the
//! answer to that node may have been lost. An ended one is remembered for a while, so that this node
//! can report why it refuses the token.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use super::ledger::{DepartureIndex, counting_expulsions};
use super::statement::StatementId;
use super::token::{InviteToken, TOKEN_SEEDS_MAX};
use super::{Channel, Ledger, Role, TrustError, random_bytes};
use p2pfs_types::id::{NodeId, NodeName};

/// Maximum number of unused invitations. Issuing more is refused until one is used or expires.
pub const INVITES_MAX: usize = 64;
/// Maximum number of used invitations that are kept for their nodes. Beyond it the one that was used
/// first is forgotten, and its node needs another one if its answer was lost.
pub const USED_INVITES_MAX: usize = 64;
/// Maximum number of ended invitations that are remembered. Beyond it the one that ended first is
/// forgotten, and a node that uses it is refused as [`InviteRefusal::Unknown`].
const ENDED_INVITES_MAX: usize = 64;

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
    /// Returns the cluster's id and the expulsions and farewells that count in a ledger, to be kept
    /// with an invitation that this node makes.
    pub fn of(ledger: Option<&Ledger>) -> Self {
        let known = ledger.map(|ledger| Self {
            cluster: Some(ledger.cluster()),
            expulsions: counting_expulsions(ledger),
        });
        known.unwrap_or_default()
    }

    /// Returns the knowledge that an invitation must be based on to admit a node: the cluster's id,
    /// and the expulsions that exclude the node.
    pub fn needed_for(node: &NodeId, ledger: Option<&Ledger>) -> Self {
        let needed = ledger.map(|ledger| Self {
            cluster: Some(ledger.cluster()),
            expulsions: DepartureIndex::of(ledger).words_against(node),
        });
        needed.unwrap_or_default()
    }

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

/// Reason why a node is not admitted by an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InviteRefusal {
    /// None of the remembered invitations of this node fits the proof.
    Unknown,
    /// The invitation has expired.
    Expired,
    /// The invitation admitted this node, which is another one.
    Used(NodeId),
    /// This node has changed its cluster since it made the invitation.
    OtherCluster,
    /// The invitation was made without knowledge of an expulsion of the joining node.
    BeforeExpulsion,
    /// Another member has this name.
    NameTaken(NodeName),
    /// The settings of this node give a right to the node of this name, and the invitation does not
    /// give the name.
    NameReserved(NodeName),
}

/// An invitation that no longer admits a node, and the reason.
#[derive(Debug)]
struct EndedInvite {
    key: Zeroizing<[u8; 32]>,
    why: InviteRefusal,
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
    /// Ended invitations, in the order of their ends.
    ended: VecDeque<EndedInvite>,
}

impl InviteTable {
    /// Ends the invitations for which `end_of` returns a reason.
    fn end(&mut self, end_of: impl Fn(&Invite) -> Option<InviteRefusal>) {
        let used = self.used.iter().map(|it| &it.invite);
        let over = self.waiting.iter().chain(used).filter_map(|invite| {
            let key = invite.key.clone();
            end_of(invite).map(|why| EndedInvite { key, why })
        });
        let over: Vec<EndedInvite> = over.collect();
        over.into_iter().for_each(|ended| self.record_ended(ended));
        self.waiting.retain(|it| end_of(it).is_none());
        self.used.retain(|it| end_of(&it.invite).is_none());
    }

    fn record_used(&mut self, invite: Invite, by: NodeId) {
        if self.used.len() >= USED_INVITES_MAX
            && let Some(first) = self.used.pop_front()
        {
            self.record_ended(EndedInvite {
                key: first.invite.key,
                why: InviteRefusal::Used(first.by),
            });
        }
        self.used.push_back(UsedInvite { invite, by });
    }

    fn record_ended(&mut self, ended: EndedInvite) {
        if self.ended.len() >= ENDED_INVITES_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// Returns why no waiting or used invitation has a key that `fits`.
    fn why_none(&self, fits: impl Fn(&[u8; 32]) -> bool) -> InviteRefusal {
        let ended = self.ended.iter().find(|it| fits(&it.key));
        ended.map_or(InviteRefusal::Unknown, |it| it.why.clone())
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
    /// this connection may use it again, because the answer to that node may have been lost. If the
    /// invitation is refused, it stays for another node. `check` decides about the grant of an
    /// unused invitation.
    ///
    /// # Errors
    /// The reason of the refusal. It is [`InviteRefusal::BeforeExpulsion`] if the invitation was
    /// made without knowledge of all `needed` statements, by which the joining node was expelled.
    pub fn redeem(
        &self,
        channel: &Channel,
        proof: &[u8; 32],
        needed: &Known,
        now_unix_s: u64,
        check: impl Fn(&Grant) -> Result<(), InviteRefusal>,
    ) -> Result<Redeemed, InviteRefusal> {
        let mut table = self.lock_current(needed.cluster, now_unix_s);
        let fits = |key: &[u8; 32]| channel.verify_enrolment(key, Role::Client, proof);
        let covers = |it: &Invite| {
            let is_covered = it.known.covers(needed);
            is_covered
                .then_some(())
                .ok_or(InviteRefusal::BeforeExpulsion)
        };
        let by = channel.client;
        if let Some(used) = table.used.iter().find(|it| fits(&it.invite.key)) {
            if used.by != by {
                return Err(InviteRefusal::Used(used.by));
            }
            covers(&used.invite)?;
            return Ok(used.invite.redeemed(true));
        }
        let place = table.waiting.iter().position(|it| fits(&it.key));
        let place = place.ok_or_else(|| table.why_none(fits))?;
        covers(&table.waiting[place])?;
        check(&table.waiting[place].grant)?;
        let invite = table.waiting.swap_remove(place);
        let redeemed = invite.redeemed(false);
        table.record_used(invite, by);
        Ok(redeemed)
    }

    /// Returns the number of unused invitations into this cluster.
    pub fn waiting(&self, cluster: Option<StatementId>, now_unix_s: u64) -> usize {
        self.lock_current(cluster, now_unix_s).waiting.len()
    }

    /// Locks the table after ending expired invitations and those into another cluster. An
    /// invitation into another cluster promises nothing in this one.
    fn lock_current(
        &self,
        cluster: Option<StatementId>,
        now_unix_s: u64,
    ) -> MutexGuard<'_, InviteTable> {
        let mut table = self.table.lock();
        table.end(|it| {
            if now_unix_s >= it.expires_unix_s {
                Some(InviteRefusal::Expired)
            } else if it.known.cluster != cluster {
                Some(InviteRefusal::OtherCluster)
            } else {
                None
            }
        });
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
            invites.redeem(&later, &proof, &known(&[]), now_s, |_| match now_s {
                1001 => Ok(()),
                _ => Err(InviteRefusal::NameTaken(NodeName::from_host("taken"))),
            })
        };
        let redeemed = redeem(1001).unwrap();
        assert_eq!(redeemed.key, token.key);
        assert_eq!(redeemed.grant, Grant::default());
        assert!(!redeemed.is_repeated);
        let (channel, proof) = another(&token);
        let refused = invites.redeem(&channel, &proof, &known(&[]), 1002, |_| Ok(()));
        assert_eq!(refused, Err(InviteRefusal::Used(CHANNEL.client)));
        for now_s in [1003, 4599] {
            assert_eq!(redeem(now_s).map(|it| it.is_repeated), Ok(true));
        }
        assert_eq!(redeem(4600), Err(InviteRefusal::Expired));
        assert_eq!(invites.waiting(HERE, 1001), 0);
    }

    #[test]
    fn used_invitations_are_kept_up_to_their_limit() {
        let invites = Invites::new();
        let redeem = |token: &InviteToken| {
            let redeemed = invites.redeem(&CHANNEL, &proof(token), &known(&[]), 1001, |_| Ok(()));
            redeemed.is_ok()
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
    fn a_refused_grant_leaves_the_invitation_to_another_node() {
        let invites = Invites::new();
        let token = issue(&invites);
        let taken = InviteRefusal::NameTaken(NodeName::from_host("taken"));
        let refuse = |_: &Grant| Err(taken.clone());
        let refused = invites.redeem(&CHANNEL, &proof(&token), &known(&[]), 1001, refuse);
        assert_eq!(refused, Err(taken));
        assert_eq!(invites.waiting(HERE, 1001), 1);
    }

    #[test]
    fn ended_invitations_are_remembered_up_to_their_limit() {
        let invites = Invites::new();
        let redeem = |token: &InviteToken| {
            let (channel, proof) = another(token);
            invites.redeem(&channel, &proof, &known(&[]), 1001, |_| Ok(()))
        };
        let tokens: Vec<_> = (0..=USED_INVITES_MAX + ENDED_INVITES_MAX)
            .map(|_| {
                let token = issue(&invites);
                let proof = proof(&token);
                let used = invites.redeem(&CHANNEL, &proof, &known(&[]), 1001, |_| Ok(()));
                assert!(used.is_ok());
                token
            })
            .collect();
        assert_eq!(redeem(&tokens[0]), Err(InviteRefusal::Unknown));
        for token in &tokens[1..] {
            let by = CHANNEL.client;
            assert_eq!(redeem(token), Err(InviteRefusal::Used(by)));
        }
        assert_eq!(invites.table.lock().ended.len(), ENDED_INVITES_MAX);
    }

    #[test]
    fn an_expired_invitation_admits_no_node() {
        let invites = Invites::new();
        let token = issue(&invites);
        assert_eq!(token.expires_unix_s, 4600);
        assert_eq!(
            invites.redeem(&CHANNEL, &proof(&token), &known(&[]), 4600, |_| Ok(())),
            Err(InviteRefusal::Expired)
        );
    }

    #[test]
    fn an_invitation_does_not_admit_a_node_expelled_after_it_was_made() {
        let invites = Invites::new();
        let token = issue(&invites);
        let redeem = |words: &[StatementId]| {
            invites.redeem(&CHANNEL, &proof(&token), &known(words), 1001, |_| Ok(()))
        };
        let later = StatementId([5; 16]);
        let refused = Err(InviteRefusal::BeforeExpulsion);
        assert_eq!(redeem(&[later]), refused);
        assert_eq!(
            redeem(&[OLD, later]),
            refused,
            "one that is known is not enough"
        );
        assert_eq!(invites.waiting(HERE, 1001), 1, "another may use it");
        assert!(redeem(&[OLD]).is_ok(), "it was made for who was out");
    }

    #[test]
    fn an_invitation_disappears_with_its_cluster() {
        let invites = Invites::new();
        let token = issue(&invites);
        let elsewhere = Known {
            cluster: Some(StatementId([7; 16])),
            ..known(&[OLD])
        };
        let redeem = |needed| invites.redeem(&CHANNEL, &proof(&token), needed, 1001, |_| Ok(()));
        for needed in [&elsewhere, &known(&[])] {
            assert_eq!(redeem(needed), Err(InviteRefusal::OtherCluster));
        }
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
            invites.redeem(&elsewhere, &proof, &known(&[]), 1001, |_| Ok(())),
            Err(InviteRefusal::Unknown)
        );
        assert_eq!(
            invites.redeem(&of_another, &proof, &known(&[]), 1001, |_| Ok(())),
            Err(InviteRefusal::Unknown)
        );
        assert_eq!(invites.waiting(HERE, 1001), 1);
        assert!(
            invites
                .redeem(&CHANNEL, &proof, &known(&[]), 1001, |_| Ok(()))
                .is_ok()
        );
    }

    #[test]
    fn each_of_several_invitations_is_found() {
        let invites = Invites::new();
        let tokens: Vec<_> = (0..3).map(|_| issue(&invites)).collect();
        for token in tokens.iter().rev() {
            assert!(
                invites
                    .redeem(&CHANNEL, &proof(token), &known(&[]), 1001, |_| Ok(()))
                    .is_ok()
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
