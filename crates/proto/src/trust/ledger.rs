//! Who is a member, as the signed statements of the members say.
//!
//! A ledger is a set of statements, and who is in is a function of that set and nothing else: two
//! nodes with the same statements agree, in whatever order they came. It is found by going through
//! those who may admit from the *senior* down: the founder, then those whom it admitted in the
//! order of their admission, then those whom they admitted. A node's word counts while no senior
//! has expelled it, and up to where that expulsion lets it stand; so nobody can bring back, put out
//! or admit anyone after it was put out itself, however it dates what it signs. A junior cannot
//! expel a senior; of itself every node may say that it goes. A node that goes and is let in again
//! begins another *membership*, by the next number: what it says is said in one of them, counts by
//! a certificate for that one, and ends with it.
//!
//! # Nodes that left and keep their keys
//!
//! An expulsion or a farewell names the last statement that stands. Statements form a hash chain, so
//! a node cannot add one before it. A node that left can sign another farewell, with any time, term
//! and place. Three rules limit that:
//!
//! * All farewells of a node hold together, whatever their terms: a statement stands only if each of
//!   them lets it stand. So a later farewell lets no further admission stand.
//! * A senior's statement on the membership sets a cut of its own. A farewell beyond it does not
//!   count, so nothing changes after it. An administrator states this as soon as it has received a
//!   farewell with every statement before it, and when it rotates the secret or expels a node
//!   (`confirming`).
//! * Of several statements by one node on one membership, all hold, so no hash decides.
//!
//! Until an administrator senior to the node has confirmed its farewell, the node can still do two
//! things. It can withdraw its own statements by a farewell that lets less stand: admissions that it
//! signed end, but so do its own expulsions and rotations. And it can show statements that it signed
//! before it left and held back, if its farewell named them. No node is senior to the founder, so
//! both last if the founder itself is the bad node.
//!
//! Read before: tailnet lock signs every node's key by trusted keys in one chain of updates, which
//! needs a server to order it; Nebula has certificates under one authority and leaves revoking to
//! each node's configuration; Syncthing's introducers spread devices and their removal, unsigned.
//! This is the chain without the server, and the certificate with its revocation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};

use super::statement::{Claim, OWNED_PATH_MAX_BYTES, SignedStatement, Statement, StatementId};
use super::{NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

mod admitted;
mod chains;
mod confirming;
mod departed;
mod expelling;
mod history;
mod intake;
mod stating;
mod walk;

use chains::Chains;
use departed::Gone;
use intake::is_farewell;
use walk::Walk;

/// Statements in a ledger; further ones are refused.
pub const STATEMENTS_MAX: usize = 4096;
/// Of these, by all but the founder: whoever fills them, with helpers whom it admits, can still be
/// put out, and others be let in.
const STATEMENTS_OF_OTHERS_MAX: usize = STATEMENTS_MAX - 256;
/// Of these, by one node that may admit; what one makes others keep.
pub const STATEMENTS_PER_ADMIN_MAX: usize = 2048;
/// Of these, by one node that may only go; one more each time that it is let in again.
const STATEMENTS_PER_MEMBER_MAX: usize = 4;
/// Statements that a node presents itself with: from the founding to its own certificate.
pub const CHAIN_MAX: usize = 16;

/// Who comes before whom: steps from the founder, then the time of admission, then the key.
type Rank = (usize, u64, NodeId);

/// One of the times that a node is in, by number from 1.
type Membership = (NodeId, u32);

/// A certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub node: NodeId,
    /// What it called itself when it joined.
    pub name: NodeName,
    /// Whether it may admit and expel.
    pub admin: bool,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
    /// Until when.
    pub until_s: Option<u64>,
    /// By whose word; its own for the founder.
    pub by: NodeId,
    /// Which membership of the key.
    pub term: u32,
    rank: Rank,
    id: StatementId,
}

/// What was said last of something, and by which statement.
#[derive(Clone, Copy, Debug)]
struct Said<T> {
    id: StatementId,
    what: T,
}

/// What is known of a path that was spoken of.
#[derive(Clone, Copy, Debug)]
struct Owned {
    /// Whose it is.
    node: Option<NodeId>,
    /// What was said of it last, also of one that is in no more.
    said: Option<Said<Option<Membership>>>,
    /// How many words on it stand.
    words: u64,
}

/// What a ledger comes to.
#[derive(Clone, Debug, Default)]
struct Standing {
    members: BTreeMap<NodeId, Certificate>,
    /// Up to which term each expelled node's memberships are over.
    over: BTreeMap<NodeId, u32>,
    /// Up to which of its memberships nothing stands that a node has said.
    void: BTreeMap<NodeId, u32>,
    /// The words that made it so: none of what they speak of was heard before.
    voiding: BTreeSet<StatementId>,
    /// Statements that count.
    valid: BTreeSet<StatementId>,
    /// By which certificate each that may admit was heard, also one that is a member no more: what
    /// it said before stands.
    heard_by: BTreeMap<Membership, StatementId>,
    /// The last membership for which each node has a certificate.
    last_terms: BTreeMap<NodeId, u32>,
    epoch: Option<Said<EpochId>>,
    /// How many words stand that make an epoch the cluster's.
    rotations: u64,
    /// Memberships that are over up to a statement that is not known here to the first of all, so
    /// that more can come to stand of them; by whose word.
    open: BTreeMap<Membership, NodeId>,
    /// Memberships of nodes with the right to admit that only the node's own farewells limit.
    unconfirmed: BTreeSet<Membership>,
    owners: BTreeMap<Vec<u8>, Owned>,
    /// By which word each is out that is; found once, when somebody asks.
    gone: OnceLock<Arc<Gone>>,
}

impl Standing {
    /// Up to which term a node's memberships are over; 0 where none is.
    fn over_up_to(&self, node: &NodeId) -> u32 {
        self.over.get(node).copied().unwrap_or(0)
    }

    /// Whether a membership goes on, also by a later certificate.
    fn is_in(&self, (node, term): &Membership) -> bool {
        let member = self.members.get(node);
        *term > self.over_up_to(node) && member.is_some_and(|it| *term <= it.term)
    }

    fn end(&mut self, node: NodeId, term: u32) {
        let over = self.over.entry(node).or_default();
        *over = (*over).max(term);
    }
}

/// A cluster's statements, and what they come to.
#[derive(Clone, Debug)]
pub struct Ledger {
    cluster: StatementId,
    founder: NodeId,
    statements: BTreeMap<StatementId, SignedStatement>,
    standing: Standing,
}

impl Ledger {
    /// A new cluster.
    pub fn found(key: &NodeKey, name: NodeName, at_s: u64) -> Self {
        let founding = Statement {
            cluster: StatementId::default(),
            by: key.node_id(),
            by_term: 1,
            at_s,
            before: None,
            claim: Claim::Found { name },
        };
        Self::begun_by(founding.sign(key)).expect("a founding that was just signed is one")
    }

    /// The ledger of these statements, of which the first is the founding; those that do not
    /// belong to it are passed over. None where there is no founding.
    pub fn of(statements: Vec<SignedStatement>) -> Option<Self> {
        let mut statements = statements.into_iter();
        let mut ledger = Self::begun_by(statements.next()?)?;
        // one that was spoilt on the disk takes no other with it, nor has it any that the founder
        // said when there was no more room for others
        let genuine = statements.filter(SignedStatement::is_genuine);
        ledger.take_in_up_to(STATEMENTS_MAX, genuine);
        Some(ledger)
    }

    fn begun_by(founding: SignedStatement) -> Option<Self> {
        let is_founding = matches!(founding.statement.claim, Claim::Found { .. })
            && founding.statement.cluster == StatementId::default()
            && founding.is_genuine();
        if !is_founding {
            return None;
        }
        let id = founding.id();
        let mut ledger = Self {
            cluster: id,
            founder: founding.statement.by,
            statements: BTreeMap::from([(id, founding)]),
            standing: Standing::default(),
        };
        ledger.standing = ledger.evaluate();
        Some(ledger)
    }

    /// Which cluster it is.
    pub fn cluster(&self) -> StatementId {
        self.cluster
    }

    /// All statements, the founding first.
    pub fn statements(&self) -> impl Iterator<Item = &SignedStatement> {
        let others = self
            .statements
            .iter()
            .filter(|(id, _)| **id != self.cluster);
        let founding = self.statements.get(&self.cluster);
        founding
            .into_iter()
            .chain(others.map(|(_, statement)| statement))
    }

    /// Whether a statement counts; one that does not is kept all the same.
    pub fn counts(&self, statement: &SignedStatement) -> bool {
        self.standing.valid.contains(&statement.id())
    }

    /// The same for every ledger of the same statements.
    pub fn digest(&self) -> [u8; 32] {
        let ids: Vec<u8> = self.statements.keys().flat_map(|id| id.0).collect();
        digest(&SHA256, &ids)
            .as_ref()
            .try_into()
            .expect("SHA-256 gives 32 bytes")
    }

    /// The members, by node; also those whose certificate has ended.
    pub fn members(&self) -> impl Iterator<Item = &Certificate> {
        self.standing.members.values()
    }

    /// A node's certificate, ended or not.
    pub fn certificate(&self, node: &NodeId) -> Option<&Certificate> {
        self.standing.members.get(node)
    }

    /// Whether the node is a member at this time.
    pub fn is_member(&self, node: &NodeId, now_s: u64) -> bool {
        let certificate = self.certificate(node);
        certificate.is_some_and(|it| it.until_s.is_none_or(|until| now_s < until))
    }

    /// Whether the node may admit and expel at this time.
    pub fn is_admin(&self, node: &NodeId, now_s: u64) -> bool {
        self.is_member(node, now_s) && self.certificate(node).is_some_and(|it| it.admin)
    }

    /// Whether the node was a member and is none any more.
    pub fn is_expelled(&self, node: &NodeId) -> bool {
        !self.standing.members.contains_key(node) && self.standing.over.contains_key(node)
    }

    /// The epoch whose secret is the cluster's; none where nobody has said so yet.
    pub fn epoch(&self) -> Option<EpochId> {
        self.standing.epoch.map(|said| said.what)
    }

    /// Whose each path is that has an owner.
    pub fn owners(&self) -> impl Iterator<Item = (&[u8], NodeId)> {
        let spoken_of = self.standing.owners.iter();
        spoken_of.filter_map(|(path, owned)| Some((&path[..], owned.node?)))
    }

    /// What a node shows to one that has not heard of it: the certificates from the founding to
    /// its own, also those of nodes that are members no more.
    pub fn chain(&self, node: &NodeId) -> Vec<SignedStatement> {
        self.chain_up_to(self.certificate(node).map(|certificate| certificate.id))
    }

    /// The same of who has said this, up to the certificate by which it could.
    pub fn chain_behind(&self, said: &Statement) -> Vec<SignedStatement> {
        let certificate = self.standing.heard_by.get(&(said.by, said.by_term));
        self.chain_up_to(certificate.copied())
    }

    fn chain_up_to(&self, last: Option<StatementId>) -> Vec<SignedStatement> {
        let (mut chain, mut next): (Vec<SignedStatement>, _) = (Vec::new(), last);
        while let Some(signed) = next.and_then(|id| self.statements.get(&id))
            && chain.len() < CHAIN_MAX
        {
            chain.push(signed.clone());
            let is_founding = next == Some(self.cluster);
            let (by, term) = (signed.statement.by, signed.statement.by_term);
            let before = self.standing.heard_by.get(&(by, term));
            next = before.filter(|_| !is_founding).copied();
        }
        chain.reverse();
        chain
    }

    /// Whether the node may admit another, whose certificates then still lead to the founding.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::TooFar`].
    pub fn check_admits(&self, node: &NodeId, now_s: u64) -> Result<(), TrustError> {
        if !self.is_admin(node, now_s) {
            return Err(self.not_admin(now_s));
        }
        let chain = self.chain(node);
        let is_whole = chain.first().is_some_and(|it| it.id() == self.cluster);
        let has_room = is_whole && chain.len() < CHAIN_MAX;
        has_room.then_some(()).ok_or(TrustError::TooFar)
    }

    fn evaluate(&self) -> Standing {
        let mut walk = Walk::new(self);
        while let Some(membership) = walk.pop_senior() {
            walk.hear(membership);
        }
        walk.finish()
    }

    fn all(&self) -> impl Iterator<Item = (StatementId, &Statement)> {
        self.statements
            .iter()
            .map(|(id, signed)| (*id, &signed.statement))
    }

    fn by<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = (StatementId, &'a Statement)> {
        self.all()
            .filter(move |(_, statement)| statement.by == *node)
    }

    /// The last statement of a node that leads back to its first; of several, that of the last
    /// membership and with most before it. What stands up to it does whatever is heard later.
    fn last_of(&self, node: &NodeId) -> Option<StatementId> {
        let chains = Chains::of(self.by(node));
        let had = self.last_term(node).unwrap_or(u32::MAX);
        let said = self
            .by(node)
            .filter(|(_, statement)| statement.by_term <= had);
        let whole = said.filter_map(|(id, statement)| {
            let length = chains.whole_length(&id)?;
            Some((statement.by_term, length, id))
        });
        whole.max().map(|(_, _, id)| id)
    }

    /// The same of what counts, in memberships up to this one; that it goes is none of it.
    fn last_counting(&self, node: &NodeId, up_to_term: u32) -> Option<StatementId> {
        let chains = Chains::of(self.by(node));
        let counting = self.by(node).filter(|(id, statement)| {
            let is_in_time = statement.by_term <= up_to_term;
            is_in_time && !is_farewell(statement) && self.standing.valid.contains(id)
        });
        let whole = counting.filter_map(|(id, statement)| {
            let length = chains.whole_length(&id)?;
            Some((statement.by_term, length, id))
        });
        whole.max().map(|(_, _, id)| id)
    }

    /// Admits a node. One that went out with who had let it in comes back as a new member: nothing
    /// counts again of what it signed or owned before.
    ///
    /// # Errors
    /// As [`Self::check_admits`], [`TrustError::LedgerFull`], [`TrustError::KeyWorn`]; nothing was
    /// changed then.
    pub fn admit(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        name: NodeName,
        admin: bool,
        now_s: u64,
    ) -> Result<SignedStatement, TrustError> {
        self.check_admits(&key.node_id(), now_s)?;
        let mut after = self.clone();
        if let Some(term) = self.fallen_term(&node) {
            // of what it said before it fell there stands what does, whatever it says itself
            let stands = self.last_counting(&node, term);
            after.state(key, Claim::Expel { node, term, stands }, now_s)?;
        }
        let over = after.standing.over_up_to(&node);
        let claim = Claim::Admit {
            node,
            name,
            admin,
            until_s: None,
            term: over.checked_add(1).ok_or(TrustError::KeyWorn)?,
        };
        let admitted = after.state(key, claim, now_s)?;
        *self = after;
        Ok(admitted)
    }

    fn check_admin(&self, key: &NodeKey, now_s: u64) -> Result<(), TrustError> {
        if self.is_admin(&key.node_id(), now_s) {
            Ok(())
        } else {
            Err(self.not_admin(now_s))
        }
    }

    fn not_admin(&self, now_s: u64) -> TrustError {
        if self.members().any(|it| self.is_admin(&it.node, now_s)) {
            TrustError::NotAdmin
        } else {
            TrustError::NobodyMay
        }
    }
}

/// Whether a statement can say it.
fn has_room(claim: &Claim) -> bool {
    !matches!(claim, Claim::Own { path, .. } if path.len() > OWNED_PATH_MAX_BYTES)
}

#[cfg(test)]
mod tests;
