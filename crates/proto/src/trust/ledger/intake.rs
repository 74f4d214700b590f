//! Intake of statements into a ledger. Each statement is examined once, and once more whenever its
//! issuer gains the right to make it. Processing stops at the first signature that is checked and
//! wrong, because the sender is dishonest. In a full ledger a member's statement that counts
//! replaces a former member's statement that does not.
//!
//! # Limits that do not depend on the order of arrival
//!
//! A node may sign more statements than a ledger stores of it, and each ledger stores the first
//! ones that arrive. Two ledgers with different statements must not exchange them forever. A node
//! without the right to admit can only leave. Of its farewells, only the last membership
//! that they end matters. So a ledger stores up to [`FAREWELLS_PER_MEMBERSHIP_MAX`] farewells that
//! end the same membership, and only for a membership of which it stores a certificate. Any two
//! ledgers with the same certificates then agree on the memberships that ended, whichever farewells
//! they store. Nothing that is stored is ever dropped in favour of another farewell, so a further
//! farewell cannot bring a membership back, and cannot cause traffic without end.
//!
//! [`Ledger::digest`] names a quota that is used up, and leaves out the statements that used it up:
//! no exchange can add to them. In a full ledger it also leaves out the statements of former
//! members that do not count. For an honest node it names the statements themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::idle::replace_idle;
use super::{
    Evaluation, FAREWELLS_PER_MEMBERSHIP_MAX, Ledger, STATEMENTS_MAX, STATEMENTS_PER_ADMIN_MAX,
};
use crate::trust::statement::{Claim, OWNED_PATH_MAX_BYTES, SignedStatement, Statement};
use p2pfs_types::id::NodeId;

/// The result of a batch of incoming statements.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::trust) struct IntakeResult {
    /// Statements that are new here.
    pub new: Vec<SignedStatement>,
    /// Whether a statement was not signed by the node that it names. The statements after it were
    /// not examined.
    pub is_forged: bool,
    /// An issuer that signed more statements than one node may.
    pub over: Option<NodeId>,
}

/// The statements about the membership that a node may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum StatementRight {
    #[default]
    None,
    /// It may state that it leaves.
    Go,
    /// It may admit and expel others.
    Admit,
}

/// State of an issuer while statements are taken in.
#[derive(Default)]
struct Issuer {
    right: StatementRight,
    kept: usize,
    /// Memberships of which a certificate of the issuer is stored.
    admitted: BTreeSet<u32>,
    /// Number of stored farewells by the membership that they end.
    farewells: BTreeMap<u32, usize>,
    /// Statements that the issuer has no right to make yet, without its farewells.
    early: Vec<SignedStatement>,
    /// Farewells that the issuer has no right to make yet, by the membership that they end.
    early_farewells: BTreeMap<u32, Vec<SignedStatement>>,
}

/// Statements of one node of which a ledger stores a limited number: all of a node that may admit,
/// or the farewells of another node that end the membership with this number.
pub(super) type Quota = (NodeId, Option<u32>);

/// All nodes that have made or may make statements.
pub(super) struct Issuers(BTreeMap<NodeId, Issuer>);

enum IntakeDecision {
    /// The statement is taken in, if its issuer signed it.
    Accept,
    /// Its issuer may still get the right to make it.
    Defer,
    /// Its issuer has made too many statements already.
    OverQuota,
    /// The ledger has no room for a statement of its issuer.
    NoRoom,
    /// It belongs to another cluster, has a wrong form, is already stored, or exceeds the issuer's
    /// quota in a full ledger.
    Irrelevant,
}

impl Issuer {
    /// Returns whether the ledger stores as many farewells of this membership as it takes.
    fn has_left(&self, term: u32) -> bool {
        self.farewells.get(&term).copied().unwrap_or(0) >= FAREWELLS_PER_MEMBERSHIP_MAX
    }

    /// Returns a deferred farewell beyond the number that a ledger stores of one membership.
    fn excess(&self) -> Option<&SignedStatement> {
        let mut beyond = self.early_farewells.iter();
        let (_, farewells) = beyond.find(|(term, _)| self.has_left(**term))?;
        farewells.first()
    }
}

impl Issuers {
    pub(super) fn of(ledger: &Ledger) -> Self {
        let mut issuers = Self(BTreeMap::new());
        issuers
            .0
            .entry(ledger.statements.founder())
            .or_default()
            .right = StatementRight::Admit;
        for (_, signed) in ledger.statements.iter() {
            issuers.record_stored(signed);
        }
        issuers
    }

    /// Returns the quota that a stored statement belongs to, if that quota is used up.
    pub(super) fn used_up(&self, statement: &Statement) -> Option<Quota> {
        let issuer = self.0.get(&statement.by)?;
        match (issuer.right, statement.farewell_term()) {
            (StatementRight::Admit, _) if issuer.kept >= STATEMENTS_PER_ADMIN_MAX => {
                Some((statement.by, None))
            }
            (StatementRight::Go, Some(term)) if issuer.has_left(term) => {
                Some((statement.by, Some(term)))
            }
            _ => None,
        }
    }

    /// Counts a statement towards the quota of its issuer.
    fn count(&mut self, statement: &Statement) {
        let issuer = self.0.entry(statement.by).or_default();
        issuer.kept += 1;
        if let Some(term) = statement.farewell_term() {
            *issuer.farewells.entry(term).or_default() += 1;
        }
    }

    /// Counts a stored statement. If it is a certificate, returns the deferred statements that it
    /// permits.
    fn record_stored(&mut self, signed: &SignedStatement) -> Vec<SignedStatement> {
        self.count(&signed.statement);
        let Claim::Admit {
            node, admin, term, ..
        } = &signed.statement.claim
        else {
            return Vec::new();
        };
        let issuer = self.0.entry(*node).or_default();
        let is_first = issuer.admitted.insert(*term);
        let right = if *admin {
            StatementRight::Admit
        } else {
            StatementRight::Go
        };
        let gains = right > issuer.right;
        issuer.right = issuer.right.max(right);
        if gains && right == StatementRight::Admit {
            let farewells = std::mem::take(&mut issuer.early_farewells);
            let mut said: Vec<_> = farewells.into_values().flatten().collect();
            said.append(&mut issuer.early);
            return said;
        }
        // Only the first certificate of a membership makes room for its farewells.
        let said = is_first.then(|| issuer.early_farewells.remove(term));
        said.flatten().unwrap_or_default()
    }

    fn defer(&mut self, signed: SignedStatement) {
        let issuer = self.0.entry(signed.statement.by).or_default();
        match signed.statement.farewell_term() {
            Some(term) => issuer.early_farewells.entry(term).or_default().push(signed),
            None => issuer.early.push(signed),
        }
    }
}

/// A batch of statements on its way into a ledger.
pub(super) struct Intake<'a> {
    ledger: &'a mut Ledger,
    issuers: Issuers,
    /// Number of statements in the ledger from which on only the founder has room.
    most_of_others: usize,
}

impl<'a> Intake<'a> {
    pub(super) fn new(ledger: &'a mut Ledger, most_of_others: usize) -> Self {
        Self {
            issuers: Issuers::of(ledger),
            ledger,
            most_of_others,
        }
    }

    /// Takes the statements in. Skips those of another cluster, of unknown issuers, beyond a limit,
    /// and after a forged one.
    pub(super) fn take(
        mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> IntakeResult {
        let mut taken = IntakeResult::default();
        let mut queue: VecDeque<_> = statements.into_iter().collect();
        let mut without_room = Vec::new();
        while let Some(signed) = queue.pop_front() {
            match self.classify(&signed) {
                IntakeDecision::Irrelevant => {}
                IntakeDecision::Defer => self.issuers.defer(signed),
                // One proof of excess is enough.
                IntakeDecision::OverQuota if taken.over.is_some() => {}
                IntakeDecision::NoRoom if !self.is_answered_for(&signed.statement) => {}
                IntakeDecision::Accept | IntakeDecision::OverQuota | IntakeDecision::NoRoom
                    if !signed.is_genuine() =>
                {
                    taken.is_forged = true;
                    break;
                }
                IntakeDecision::OverQuota => taken.over = Some(signed.statement.by),
                IntakeDecision::NoRoom => {
                    self.issuers.count(&signed.statement);
                    without_room.push(signed);
                }
                IntakeDecision::Accept => {
                    self.ledger.statements.insert(signed.clone());
                    // The certificate may come after the statements that it permits, which were
                    // deferred.
                    queue.extend(self.issuers.record_stored(&signed));
                    taken.new.push(signed);
                }
            }
        }
        self.report_excess(&mut taken);
        if !taken.new.is_empty() {
            self.ledger.evaluation = Evaluation::of(&self.ledger.statements);
        }
        taken.new.extend(replace_idle(self.ledger, without_room));
        taken
    }

    /// Records a node without the right to admit that signed more farewells of one membership than
    /// a ledger stores. Checks one signature at most.
    fn report_excess(&self, taken: &mut IntakeResult) {
        if taken.is_forged || taken.over.is_some() {
            return;
        }
        if let Some(signed) = self.issuers.0.values().find_map(Issuer::excess) {
            taken.is_forged = !signed.is_genuine();
            taken.over = (!taken.is_forged).then_some(signed.statement.by);
        }
    }

    /// Returns whether a member made the statement in its present membership.
    fn is_answered_for(&self, statement: &Statement) -> bool {
        let member = self.ledger.evaluation.members.get(&statement.by);
        member.is_some_and(|it| it.term == statement.by_term)
    }

    /// Classifies a statement before its signature is checked.
    fn classify(&self, signed: &SignedStatement) -> IntakeDecision {
        let statement = &signed.statement;
        let is_of_here = statement.cluster == self.ledger.cluster()
            && has_room(&statement.claim)
            && !matches!(statement.claim, Claim::Found { .. })
            && !self.ledger.statements.contains(&signed.id());
        let by = statement.by;
        let most = if by == self.ledger.statements.founder() {
            STATEMENTS_MAX
        } else {
            self.most_of_others
        };
        if !is_of_here {
            return IntakeDecision::Irrelevant;
        }
        let issuer = self.issuers.0.get(&by);
        let (right, kept) = issuer.map_or((StatementRight::None, 0), |it| (it.right, it.kept));
        let ends = issuer.zip(statement.farewell_term());
        let may_go =
            ends.is_some_and(|(it, term)| it.admitted.contains(&term) && !it.has_left(term));
        let is_full = self.ledger.statements.len() >= most;
        match right {
            StatementRight::Admit if kept >= STATEMENTS_PER_ADMIN_MAX && !is_full => {
                IntakeDecision::OverQuota
            }
            StatementRight::Admit if kept >= STATEMENTS_PER_ADMIN_MAX => IntakeDecision::Irrelevant,
            StatementRight::Go if !may_go => IntakeDecision::Defer,
            StatementRight::Admit | StatementRight::Go if is_full => IntakeDecision::NoRoom,
            StatementRight::Admit | StatementRight::Go => IntakeDecision::Accept,
            StatementRight::None => IntakeDecision::Defer,
        }
    }
}

/// Returns whether the claim fits into a statement.
fn has_room(claim: &Claim) -> bool {
    !matches!(claim, Claim::Own { path, .. } if path.len() > OWNED_PATH_MAX_BYTES)
}
