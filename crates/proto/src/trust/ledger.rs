//! The members of a cluster, computed from their signed statements.
//!
//! A ledger is a set of statements, and the membership is a function of that set alone. Two nodes
//! with the same statements agree, whatever the order of arrival. The evaluation visits the nodes
//! with the right to admit from the *senior* down: the founder, then the nodes that it admitted in
//! the order of their admission, then the nodes admitted by those. A node's statement counts until
//! a senior has expelled the node, and afterwards up to the statement that the expulsion names. An
//! expelled node therefore cannot admit or expel any node, itself included, however it dates its
//! statements. A junior cannot expel a senior. Every node may state that it leaves. A node that
//! leaves and is admitted again begins another *membership*, with the next number. Each statement
//! belongs to one membership of its issuer, and counts by the certificate of that membership.
//!
//! # Nodes that left and keep their keys
//!
//! A *farewell* is a node's own statement that it leaves. An expulsion or a farewell names the last
//! statement of the node that stands. Statements form a hash chain, so a node cannot insert a
//! statement before the named one. But a node that left can sign another farewell, with any time,
//! term and position in its chain. Three rules limit that:
//!
//! * All farewells of a node that count and that end a membership limit it together: a statement of
//!   that membership stands only if each of them lets it stand. So a further farewell lets no
//!   further admission stand.
//! * A senior's expulsion of the node sets such a limit too, called a *cut*. A farewell beyond the
//!   cut does not count, so the node can change nothing after the senior's statement. An
//!   administrator senior to the node states such an expulsion to *confirm* its farewell
//!   (`confirming`).
//! * If one node signs several expulsions that end the same membership, all of them hold together.
//!   So the hash of a statement never decides which one holds.
//!
//! Until an administrator senior to the node has confirmed its farewell, the node can still do two
//! things. It can withdraw its own statements by a farewell that lets less stand: admissions that
//! it signed end, but so do its own expulsions and rotations. And it can show statements that it
//! signed before it left and held back, if its farewell named them. No node is senior to the
//! founder, so both last if the founder itself is the bad node.
//!
//! # Related designs
//!
//! Tailnet lock signs every node's key by trusted keys in one chain of updates, which needs a
//! server to order it. Nebula has certificates under one authority and leaves revocation to each
//! node's configuration. Syncthing's introducers spread devices and their removal, unsigned. This
//! ledger is tailnet lock's chain without the server, and Nebula's certificate with its revocation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};

use super::statement::{Claim, STATEMENT_MAX_BYTES, SignedStatement, Statement, StatementId};
use super::{NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

mod chains;
mod confirming;
mod departed;
mod expelling;
mod history;
mod idle;
mod intake;
mod last_statement;
mod lost;
mod signer;
mod statement_set;
mod walk;

pub use departed::DepartedNodes;
pub(in crate::trust) use departed::{DepartureIndex, counting_expulsions};
use idle::is_idle;
use intake::{Intake, IntakeResult, Issuers};
pub use signer::LedgerSigner;
use statement_set::StatementSet;
use walk::Replay;

/// Maximum number of statements in a ledger.
pub const STATEMENTS_MAX: usize = 4096;
/// Number of statements in a ledger, the founder's included, from which on only statements of the
/// founder are added. If a node and the helpers that it admits fill the ledger up to here, the
/// founder can still expel them and admit others.
const STATEMENTS_OF_OTHERS_MAX: usize = STATEMENTS_MAX - 256;
/// Maximum number of statements by one node with the right to admit. It bounds what one node alone
/// can make the others store.
pub const STATEMENTS_PER_ADMIN_MAX: usize = 2048;
/// Maximum number of farewells that end one membership, by a node that may not admit. A second one
/// shows that other ledgers may store other farewells of the membership.
pub const FAREWELLS_PER_MEMBERSHIP_MAX: usize = 2;
/// Maximum number of statements in a chain from the founding to a node's own certificate.
pub const CHAIN_MAX: usize = 16;
/// Maximum size in bytes of the chain of certificates that a node shows.
pub const CHAIN_MAX_BYTES: usize = CHAIN_MAX * STATEMENT_MAX_BYTES;

/// Seniority order, the most senior first: steps from the founder, then the time of admission, then
/// the key.
type Seniority = (usize, u64, NodeId);

/// One membership of a node, by its number from 1.
type Membership = (NodeId, u32);

/// A certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Public key of the member.
    pub node: NodeId,
    /// Name of the member when it joined.
    pub name: NodeName,
    /// Whether the member may admit and expel.
    pub admin: bool,
    /// Time of admission in seconds since 1970.
    pub since_s: u64,
    /// End of the certificate in seconds since 1970, or none if it never ends.
    pub until_s: Option<u64>,
    /// The admitting node; the founder itself for the founder.
    pub by: NodeId,
    /// Number of this membership of the key.
    pub term: u32,
    rank: Seniority,
    id: StatementId,
}

/// The claim that decides a subject, and the id of the statement that made it.
#[derive(Clone, Copy, Debug)]
struct LastClaim<T> {
    id: StatementId,
    what: T,
}

/// Ownership of a path that a statement has named.
#[derive(Clone, Copy, Debug)]
struct PathOwnership {
    /// The current owner.
    node: Option<NodeId>,
    /// The claim that decides the owner of the path. The node in it may have left since.
    said: Option<LastClaim<Option<Membership>>>,
    /// Number of claims on the path that stand, or that only their authors' own farewells withdraw.
    words: u64,
}

/// The result of evaluating a ledger.
#[derive(Debug, Default)]
struct Evaluation {
    members: BTreeMap<NodeId, Certificate>,
    /// The last membership that ended, for each node that was expelled or left.
    over: BTreeMap<NodeId, u32>,
    /// For each node with void memberships, the last of them. Only statements that were applied
    /// before an expulsion voided the membership stand.
    void: BTreeMap<NodeId, u32>,
    /// Expulsions that void a node's statements, and that were applied before any of these
    /// statements.
    voiding: BTreeSet<StatementId>,
    /// Statements that count.
    valid: BTreeSet<StatementId>,
    /// For each membership whose statements were applied, the certificate that gave it the right to
    /// admit. Includes memberships of former members, because their earlier statements stand.
    heard_by: BTreeMap<Membership, StatementId>,
    /// The last membership for which each node has a certificate that counts.
    last_terms: BTreeMap<NodeId, u32>,
    rotations: Rotations,
    /// Ended memberships of which more statements can still come to stand. The cut names a last
    /// statement, and not all statements before it are known here. The value is the node that set
    /// the cut.
    open: BTreeMap<Membership, NodeId>,
    /// Memberships with the right to admit that only the node's own farewells limit, because no
    /// senior has confirmed any of these.
    unconfirmed: BTreeSet<Membership>,
    owners: BTreeMap<Vec<u8>, PathOwnership>,
    /// The former members. Computed at the first request.
    gone: OnceLock<DepartedNodes>,
}

/// The changes of the cluster's secret.
#[derive(Clone, Debug, Default)]
struct Rotations {
    /// The last one that stands.
    last: Option<LastClaim<EpochId>>,
    /// Number of those that stand, or that only their authors' own farewells withdraw.
    count: u64,
}

impl Evaluation {
    /// Evaluates a set of statements.
    fn of(statements: &StatementSet) -> Arc<Self> {
        let mut replay = Replay::new(statements);
        while let Some(membership) = replay.pop_senior() {
            replay.apply_statements(membership);
        }
        Arc::new(replay.finish())
    }

    /// Returns the last membership of a node that is over; 0 if there is none.
    fn over_up_to(&self, node: &NodeId) -> u32 {
        self.over.get(node).copied().unwrap_or(0)
    }

    /// Returns whether a membership goes on, by its own certificate or by one for a later
    /// membership.
    fn is_in(&self, (node, term): &Membership) -> bool {
        let member = self.members.get(node);
        *term > self.over_up_to(node) && member.is_some_and(|it| *term <= it.term)
    }

    /// Returns the last membership for which a node has a certificate that counts.
    fn last_term(&self, node: &NodeId) -> Option<u32> {
        self.last_terms.get(node).copied()
    }

    fn end(&mut self, node: NodeId, term: u32) {
        let over = self.over.entry(node).or_default();
        *over = (*over).max(term);
    }
}

/// A cluster's statements and their evaluation. Clones share both until one of them changes.
#[derive(Clone, Debug)]
pub struct Ledger {
    statements: StatementSet,
    evaluation: Arc<Evaluation>,
}

impl Ledger {
    /// Founds a new cluster.
    pub fn found(key: &NodeKey, name: NodeName, at_s: u64) -> Self {
        let founding = Statement {
            cluster: StatementId::default(),
            by: key.node_id(),
            by_term: 1,
            at_s,
            before: None,
            claim: Claim::Found { name },
        };
        let ledger = Self::of(vec![founding.sign(key)]);
        ledger.expect("a founding that was just signed is one")
    }

    /// Builds the ledger of these statements. Skips statements that are forged or do not belong to
    /// the ledger. Returns none if the first one is not a founding.
    pub fn of(statements: Vec<SignedStatement>) -> Option<Self> {
        let mut statements = statements.into_iter();
        let founded = StatementSet::founded_by(statements.next()?)?;
        let mut ledger = Self {
            evaluation: Evaluation::of(&founded),
            statements: founded,
        };
        // A statement corrupted on disk does not invalidate the others. The limit is that of the
        // founder: the file may have more than `STATEMENTS_OF_OTHERS_MAX` statements, and those of
        // the other nodes must be taken in again wherever they are in the file.
        let genuine = statements.filter(SignedStatement::is_genuine);
        Intake::new(&mut ledger, STATEMENTS_MAX).take(genuine);
        Some(ledger)
    }

    /// Takes statements in. Skips those of another cluster, of unknown issuers, beyond a limit, and
    /// after a forged one.
    pub(super) fn take_in(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> IntakeResult {
        Intake::new(self, STATEMENTS_OF_OTHERS_MAX).take(statements)
    }

    /// Takes statements in as `take_in` does. Returns those that are new.
    pub fn merge(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Vec<SignedStatement> {
        self.take_in(statements).new
    }

    /// Returns whether both are clones of one ledger, which has not changed since.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        self.statements.is_shared_with(&other.statements)
    }

    /// Returns the cluster's id, which is the id of its founding statement.
    pub fn cluster(&self) -> StatementId {
        self.statements.cluster()
    }

    /// Returns all statements, the founding first.
    pub fn statements(&self) -> impl Iterator<Item = &SignedStatement> {
        let cluster = self.cluster();
        let others = self
            .statements
            .iter()
            .filter(move |(id, _)| **id != cluster);
        let founding = self.statements.get(&cluster);
        founding
            .into_iter()
            .chain(others.map(|(_, statement)| statement))
    }

    /// Returns whether a statement counts. The ledger also stores statements that do not count.
    pub fn counts(&self, statement: &SignedStatement) -> bool {
        self.evaluation.valid.contains(&statement.id())
    }

    /// Returns a digest that is equal for every ledger with the same statements. If a node signed
    /// more statements than a ledger stores, two ledgers may store different ones. The digest names
    /// the used-up quota in their place (see `intake`). Two ledgers that exchanged their statements
    /// have equal digests, unless they are full of statements that count.
    pub fn digest(&self) -> [u8; 32] {
        let issuers = Issuers::of(self);
        let (mut names, mut used_up) = (Vec::new(), BTreeSet::new());
        let is_full = self.statements.len() >= STATEMENTS_OF_OTHERS_MAX;
        for (id, signed) in self.statements.iter() {
            match issuers.used_up(&signed.statement) {
                _ if is_full && is_idle(self, id, &signed.statement) => {}
                Some(quota) => drop(used_up.insert(quota)),
                None => names.extend(id.0),
            }
        }
        for (node, term) in used_up {
            names.extend(node.as_bytes());
            names.extend(term.unwrap_or(0).to_be_bytes());
        }
        digest(&SHA256, &names)
            .as_ref()
            .try_into()
            .expect("SHA-256 gives 32 bytes")
    }

    /// Returns the members by node, including those with an expired certificate.
    pub fn members(&self) -> impl Iterator<Item = &Certificate> {
        self.evaluation.members.values()
    }

    /// Returns a node's certificate, which may have ended.
    pub fn certificate(&self, node: &NodeId) -> Option<&Certificate> {
        self.evaluation.members.get(node)
    }

    /// Returns whether the node is a member at this time.
    pub fn is_member(&self, node: &NodeId, now_s: u64) -> bool {
        let certificate = self.certificate(node);
        certificate.is_some_and(|it| it.until_s.is_none_or(|until| now_s < until))
    }

    /// Returns whether the node is a member, or a former member by a statement that counts.
    pub fn was_member(&self, node: &NodeId) -> bool {
        // `expulsion` finds the end of the node itself or of an issuer of its certificates.
        self.certificate(node).is_some() || self.departed().expulsion(node).is_some()
    }

    /// Returns whether the node may admit and expel at this time.
    pub fn is_admin(&self, node: &NodeId, now_s: u64) -> bool {
        self.is_member(node, now_s) && self.certificate(node).is_some_and(|it| it.admin)
    }

    /// Returns whether the node is a former member that was expelled itself or left. A node that is
    /// out only because an issuer of its certificates was expelled does not count.
    pub fn is_expelled(&self, node: &NodeId) -> bool {
        !self.evaluation.members.contains_key(node) && self.evaluation.over.contains_key(node)
    }

    /// Returns the former members. Computed at most once for each change of the statements.
    pub fn departed(&self) -> &DepartedNodes {
        let gone = &self.evaluation.gone;
        gone.get_or_init(|| DepartedNodes::of(self))
    }

    /// Returns the epoch of the cluster's secret, or none if no statement that counts names one.
    pub fn epoch(&self) -> Option<EpochId> {
        self.evaluation.rotations.last.map(|said| said.what)
    }

    /// Returns each path that has an owner, with its owner.
    pub fn owners(&self) -> impl Iterator<Item = (&[u8], NodeId)> {
        let spoken_of = self.evaluation.owners.iter();
        spoken_of.filter_map(|(path, owned)| Some((&path[..], owned.node?)))
    }

    /// Returns the chain that a node shows to another one that does not know it: the certificates
    /// from the founding to its own, those of former members included. Empty without a certificate
    /// of the node.
    pub fn chain(&self, node: &NodeId) -> Vec<SignedStatement> {
        self.chain_up_to(self.certificate(node).map(|certificate| certificate.id))
    }

    /// Returns the certificates from the founding to the one that gave the issuer the right to make
    /// this statement.
    pub fn chain_behind(&self, said: &Statement) -> Vec<SignedStatement> {
        let certificate = self.evaluation.heard_by.get(&(said.by, said.by_term));
        self.chain_up_to(certificate.copied())
    }

    fn chain_up_to(&self, last: Option<StatementId>) -> Vec<SignedStatement> {
        let (mut chain, mut next): (Vec<SignedStatement>, _) = (Vec::new(), last);
        while let Some(signed) = next.and_then(|id| self.statements.get(&id))
            && chain.len() < CHAIN_MAX
        {
            chain.push(signed.clone());
            let is_founding = next == Some(self.cluster());
            let (by, term) = (signed.statement.by, signed.statement.by_term);
            let before = self.evaluation.heard_by.get(&(by, term));
            next = before.filter(|_| !is_founding).copied();
        }
        chain.reverse();
        chain
    }

    /// Checks that the node may admit others, and that its chain to the founding is short enough.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::TooFar`].
    pub fn check_admits(&self, node: &NodeId, now_s: u64) -> Result<(), TrustError> {
        if !self.is_admin(node, now_s) {
            return Err(self.not_admin(now_s));
        }
        let chain = self.chain(node);
        let is_whole = chain.first().is_some_and(|it| it.id() == self.cluster());
        let has_room = is_whole && chain.len() < CHAIN_MAX;
        has_room.then_some(()).ok_or(TrustError::TooFar)
    }

    /// Returns all statements by time, and whether each counts. Within one second the founder's
    /// come first, and those of one node keep the order of its chain.
    pub fn history(&self) -> Vec<(SignedStatement, bool)> {
        let (places, founder) = (history::places(&self.statements), self.statements.founder());
        let mut all: Vec<_> = self.statements.iter().collect();
        all.sort_by_key(|(id, signed)| {
            let (by, at_s) = (signed.statement.by, signed.statement.at_s);
            (at_s, by != founder, by, places.get(id))
        });
        let each = all.into_iter().map(|(_, signed)| signed);
        each.map(|it| (it.clone(), self.counts(it))).collect()
    }

    /// Returns the name in the latest certificate of a node, whether that certificate still counts
    /// or not. For the founder, it can be the name in the statement that founded the cluster.
    pub fn last_name_of(&self, who: &NodeId) -> Option<NodeName> {
        let all = self.statements.iter().map(|(_, signed)| &signed.statement);
        let named = all.filter_map(|statement| match &statement.claim {
            Claim::Admit { node, name, .. } if node == who => Some((statement.at_s, name)),
            Claim::Found { name } if statement.by == *who => Some((statement.at_s, name)),
            _ => None,
        });
        named.max_by_key(|(at_s, _)| *at_s).map(|it| it.1.clone())
    }

    /// Returns whether a member other than `node` has the name. Two members with one name would be
    /// indistinguishable as readers of a share.
    pub fn is_name_taken(&self, node: &NodeId, name: &NodeName) -> bool {
        let mut members = self.members();
        members.any(|it| it.node != *node && it.name == *name)
    }

    /// Returns whether a node with the right to admit, other than `me`, left and no senior has
    /// confirmed it yet.
    pub fn has_unconfirmed(&self, me: &NodeId) -> bool {
        self.evaluation
            .unconfirmed
            .iter()
            .any(|(node, _)| node != me)
    }

    /// Returns whether a statement only confirms that a node left. It is then another node's
    /// expulsion of that node, and names as the last statement that stands a farewell of the node.
    /// The farewell counts, and ends at least the memberships that the expulsion ends.
    pub fn confirms(&self, signed: &SignedStatement) -> bool {
        let Claim::Expel { node, term, stands } = &signed.statement.claim else {
            return false;
        };
        let farewell = stands.and_then(|it| Some((it, self.statements.farewell_term(node, &it)?)));
        let is_it = |(id, ends)| ends >= *term && self.evaluation.valid.contains(&id);
        signed.statement.by != *node && farewell.is_some_and(is_it)
    }

    /// Returns the members that [`LedgerSigner::expel_with_admitted`] would remove besides the node
    /// itself.
    ///
    /// # Errors
    /// Those of [`LedgerSigner::expel_with_admitted`].
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<Certificate>, TrustError> {
        let mut after = self.clone();
        after.signer(key, now_s).expel_with_admitted(node)?;
        let members = self.members().filter(|it| self.is_member(&it.node, now_s));
        let gone = members.filter(|it| it.node != node && after.certificate(&it.node).is_none());
        Ok(gone.cloned().collect())
    }

    /// Returns this node as the author of further statements.
    pub fn signer<'a>(&'a mut self, key: &'a NodeKey, now_s: u64) -> LedgerSigner<'a> {
        LedgerSigner {
            ledger: self,
            key,
            now_s,
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

#[cfg(test)]
mod tests;
