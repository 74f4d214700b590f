//! The invitations that this node has issued and that wait to be used.

use std::collections::BTreeSet;
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

/// The most invitations that wait at once; issuing more is refused until one is used or ends.
pub const INVITES_MAX: usize = 64;

/// One invitation: gone once it is used.
#[derive(Debug)]
struct Invite {
    key: Zeroizing<[u8; 32]>,
    expires_unix_s: u64,
    grant: Grant,
    /// When it was made: it is for that cluster, and for nobody who was put out since.
    known: Known,
}

/// What was known of who is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// In which cluster; none where whoever has a secret file is in.
    pub cluster: Option<StatementId>,
    /// By which words anybody is out.
    pub expulsions: BTreeSet<StatementId>,
}

impl Known {
    /// Whether that is of the same cluster and holds all of these words.
    pub(super) fn covers(&self, needed: &Self) -> bool {
        self.cluster == needed.cluster && needed.expulsions.is_subset(&self.expulsions)
    }
}

/// What the joiner's certificate will say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Whether the joiner may admit and expel.
    pub admin: bool,
    /// Its name, whatever it calls itself; none where its own word is taken.
    pub name: Option<NodeName>,
}

/// An invitation that was used.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// Its key, to prove to the joiner that we know it too.
    pub key: Zeroizing<[u8; 32]>,
    /// What was promised with it.
    pub grant: Grant,
    /// What was known when it was made.
    pub known: Known,
}

/// Tells whether the settings of this node give a right to the node of this name.
pub type IsReserved = Box<dyn Fn(&NodeName) -> bool + Send + Sync>;

/// The names that no joiner may give itself; none until they are set.
#[derive(Default)]
struct Reserved(OnceLock<IsReserved>);

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reserved")
    }
}

/// The one-use keys that wait. In memory only: an invitation lives as long as the node that made
/// it runs.
#[derive(Debug, Default)]
pub struct Invites {
    waiting: Mutex<Vec<Invite>>,
    reserved: Reserved,
}

impl Invites {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which names no joiner may give itself. Only the first call has an effect.
    pub fn reserve(&self, is_reserved: IsReserved) {
        let _set_before = self.reserved.0.set(is_reserved);
    }

    /// Whether a joiner may give itself this name.
    pub fn is_reserved(&self, name: &NodeName) -> bool {
        let reserved = self.reserved.0.get();
        reserved.is_some_and(|is_reserved| is_reserved(name))
    }

    /// Makes an invitation by `issuer`, who can be reached at `seeds`, into the cluster that is
    /// `known` here.
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
        let mut waiting = self.lock_current(known.cluster, now_unix_s);
        if waiting.len() >= INVITES_MAX {
            return Err(TrustError::TooManyInvites);
        }
        let key = Zeroizing::new(random_bytes());
        let expires_unix_s = now_unix_s.saturating_add(lifetime.as_secs());
        waiting.push(Invite {
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

    /// Uses the invitation that `proof` was made with, if one waits: it is gone then. One that is
    /// older than any of the words that are `needed`, by which who comes with it was put out, stays
    /// for another. So does one whose grant is not `accepted`.
    pub fn redeem(
        &self,
        channel: &Channel,
        proof: &[u8; 32],
        needed: &Known,
        now_unix_s: u64,
        accepted: impl Fn(&Grant) -> bool,
    ) -> Option<Redeemed> {
        let mut waiting = self.lock_current(needed.cluster, now_unix_s);
        let fits = |it: &Invite| {
            it.known.covers(needed)
                && channel.verify_enrolment(&it.key, Role::Client, proof)
                && accepted(&it.grant)
        };
        let place = waiting.iter().position(fits)?;
        let Invite {
            key, grant, known, ..
        } = waiting.swap_remove(place);
        Some(Redeemed { key, grant, known })
    }

    /// How many wait, of those into this cluster.
    pub fn waiting(&self, cluster: Option<StatementId>, now_unix_s: u64) -> usize {
        self.lock_current(cluster, now_unix_s).len()
    }

    /// Those that are in time, and into the cluster that this node is in now: whoever has one into
    /// another was promised nothing here.
    fn lock_current(
        &self,
        cluster: Option<StatementId>,
        now_unix_s: u64,
    ) -> MutexGuard<'_, Vec<Invite>> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|it| now_unix_s < it.expires_unix_s && it.known.cluster == cluster);
        waiting
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

    #[test]
    fn an_invitation_serves_once() {
        let invites = Invites::new();
        let token = issue(&invites);
        let redeem = || invites.redeem(&CHANNEL, &proof(&token), &known(&[]), 1001, |_| true);
        let redeemed = redeem().unwrap();
        assert_eq!(redeemed.key, token.key);
        assert_eq!(redeemed.grant, Grant::default());
        assert_eq!(redeem(), None);
    }

    #[test]
    fn an_expired_invitation_serves_nobody() {
        let invites = Invites::new();
        let token = issue(&invites);
        assert_eq!(token.expires_unix_s, 4600);
        assert_eq!(
            invites.redeem(&CHANNEL, &proof(&token), &known(&[]), 4600, |_| true),
            None
        );
    }

    #[test]
    fn an_invitation_is_for_nobody_who_was_put_out_after_it_was_made() {
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
    fn an_invitation_is_gone_with_the_cluster_that_it_was_into() {
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
    fn a_proof_for_another_connection_uses_nothing_up() {
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
    fn the_table_has_a_limit_and_forgets_what_expired() {
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
    fn an_invitation_names_at_least_one_address_and_not_too_many() {
        let invites = Invites::new();
        let seed: SocketAddr = "192.0.2.1:1378".parse().unwrap();
        for seeds in [vec![], vec![seed; TOKEN_SEEDS_MAX + 1]] {
            let refused = invites.issue(ISSUER, seeds, HOUR, Grant::default(), known(&[]), 1000);
            assert!(matches!(refused, Err(TrustError::BadSeeds { .. })));
        }
    }
}
