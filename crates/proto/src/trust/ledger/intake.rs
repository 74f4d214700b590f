//! Intake of statements into a ledger. Each statement is examined once, and once more whenever its
//! issuer gains the right to make it. Processing stops at the first signature that is checked and
//! wrong, because the sender is dishonest. In a full ledger a member's statement that counts
//! replaces a former member's statement that does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Ledger, STATEMENTS_MAX, STATEMENTS_OF_OTHERS_MAX, STATEMENTS_PER_ADMIN_MAX,
    STATEMENTS_PER_MEMBER_MAX, has_room,
};
use crate::trust::statement::{Claim, SignedStatement, Statement, StatementId};
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
    /// Number of stored certificates for the issuer.
    admitted: usize,
    /// Statements that the issuer has no right to make yet, without its farewells.
    early: Vec<SignedStatement>,
    /// Farewells for which the issuer needs a first or a further certificate.
    farewells: Vec<SignedStatement>,
}

/// All nodes that have made or may make statements.
struct Issuers(BTreeMap<NodeId, Issuer>);

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

impl Issuers {
    fn of(ledger: &Ledger) -> Self {
        let mut issuers = Self(BTreeMap::new());
        issuers.0.entry(ledger.founder).or_default().right = StatementRight::Admit;
        for signed in ledger.statements.values() {
            issuers.record_stored(signed);
        }
        issuers
    }

    /// Counts a stored statement. If it is a certificate, returns the deferred statements that it
    /// permits.
    fn record_stored(&mut self, signed: &SignedStatement) -> Vec<SignedStatement> {
        self.0.entry(signed.statement.by).or_default().kept += 1;
        let Claim::Admit { node, admin, .. } = &signed.statement.claim else {
            return Vec::new();
        };
        let issuer = self.0.entry(*node).or_default();
        issuer.admitted += 1;
        let right = if *admin {
            StatementRight::Admit
        } else {
            StatementRight::Go
        };
        if right <= issuer.right {
            // Each further certificate makes room for one more farewell.
            return issuer.farewells.pop().into_iter().collect();
        }
        issuer.right = right;
        let mut said = std::mem::take(&mut issuer.farewells);
        if right == StatementRight::Admit {
            said.append(&mut issuer.early);
        }
        said
    }

    fn defer(&mut self, signed: SignedStatement) {
        let issuer = self.0.entry(signed.statement.by).or_default();
        if is_farewell(&signed.statement) {
            issuer.farewells.push(signed)
        } else {
            issuer.early.push(signed)
        }
    }
}

/// A batch of statements on its way into a ledger.
struct Intake<'a> {
    ledger: &'a mut Ledger,
    issuers: Issuers,
    /// Number of statements in the ledger from which on only the founder has room.
    most_of_others: usize,
}

impl Intake<'_> {
    /// Takes the statements in.
    fn take(mut self, statements: impl IntoIterator<Item = SignedStatement>) -> IntakeResult {
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
                IntakeDecision::NoRoom => without_room.push(signed),
                IntakeDecision::Accept => {
                    self.ledger.statements.insert(signed.id(), signed.clone());
                    // The certificate may come after the statements that it permits, which were
                    // deferred.
                    queue.extend(self.issuers.record_stored(&signed));
                    taken.new.push(signed);
                }
            }
        }
        if !taken.new.is_empty() {
            self.ledger.evaluation = self.ledger.evaluate();
        }
        taken.new.extend(self.ledger.replace_idle(without_room));
        taken
    }

    /// Returns whether a member made the statement in its present membership.
    fn is_answered_for(&self, statement: &Statement) -> bool {
        let member = self.ledger.evaluation.members.get(&statement.by);
        member.is_some_and(|it| it.term == statement.by_term)
    }

    /// Classifies a statement before its signature is checked.
    fn classify(&self, signed: &SignedStatement) -> IntakeDecision {
        let statement = &signed.statement;
        let is_of_here = statement.cluster == self.ledger.cluster
            && has_room(&statement.claim)
            && !matches!(statement.claim, Claim::Found { .. })
            && !self.ledger.statements.contains_key(&signed.id());
        let by = statement.by;
        let most = if by == self.ledger.founder {
            STATEMENTS_MAX
        } else {
            self.most_of_others
        };
        if !is_of_here {
            return IntakeDecision::Irrelevant;
        }
        let issuer = self.issuers.0.get(&by);
        let (right, kept) = issuer.map_or((StatementRight::None, 0), |it| (it.right, it.kept));
        // Each certificate after the first permits one more farewell.
        let again = issuer.map_or(0, |it| it.admitted.saturating_sub(1));
        let may_go = is_farewell(statement) && kept < STATEMENTS_PER_MEMBER_MAX + again;
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

impl Ledger {
    /// Takes statements in. Skips those of another cluster, of unknown issuers, beyond a limit, and
    /// after a forged one.
    pub(in crate::trust) fn take_in(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> IntakeResult {
        self.take_in_up_to(STATEMENTS_OF_OTHERS_MAX, statements)
    }

    /// Takes statements in as `take_in` does. Returns those that are new.
    pub fn merge(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Vec<SignedStatement> {
        self.take_in(statements).new
    }

    /// Takes statements in as `take_in` does, with this limit for all nodes except the
    /// founder.
    pub(super) fn take_in_up_to(
        &mut self,
        most_of_others: usize,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> IntakeResult {
        let intake = Intake {
            issuers: Issuers::of(self),
            ledger: self,
            most_of_others,
        };
        intake.take(statements)
    }

    /// Takes in those of these statements that count, each in place of a stored statement that is
    /// [`Self::idle`], while there are any. Returns those that were taken in.
    fn replace_idle(&mut self, mut signed: Vec<SignedStatement>) -> Vec<SignedStatement> {
        signed.retain(|it| !self.statements.contains_key(&it.id()));
        if signed.is_empty() {
            return signed;
        }
        let mut after = self.clone();
        let each = signed.iter().map(|it| (it.id(), it.clone()));
        after.statements.extend(each);
        after.evaluation = after.evaluate();
        signed.retain(|it| {
            let counts = after.counts(it);
            if !counts {
                after.statements.remove(&it.id());
            }
            counts
        });
        // Idle statements are selected only now, because a statement of `signed` may name a stored
        // one or make it count.
        let idle = after.idle(signed.len());
        for late in signed.split_off(idle.len()) {
            after.statements.remove(&late.id());
        }
        if signed.is_empty() {
            return signed;
        }
        for id in idle {
            after.statements.remove(&id);
        }
        after.evaluation = after.evaluate();
        *self = after;
        signed
    }

    /// Returns at most `most` statements that do not count, and that no remaining statement names.
    /// Their issuers are neither members nor the founder.
    pub(super) fn idle(&self, most: usize) -> Vec<StatementId> {
        let mut named: BTreeMap<StatementId, usize> = BTreeMap::new();
        for signed in self.statements.values() {
            for name in names(&signed.statement) {
                *named.entry(name).or_default() += 1;
            }
        }
        let is_idle = |id: &StatementId| {
            let signed = self.statements.get(id);
            let is_out = |it: &SignedStatement| {
                let by = it.statement.by;
                by != self.founder && !self.evaluation.members.contains_key(&by)
            };
            !self.evaluation.valid.contains(id) && signed.is_some_and(is_out)
        };
        let free = self.statements.keys().filter(|id| !named.contains_key(id));
        let mut free: BTreeSet<_> = free.filter(|id| is_idle(id)).copied().collect();
        let mut idle = Vec::new();
        while idle.len() < most
            && let Some(id) = free.pop_first()
        {
            idle.push(id);
            let signed = self.statements.get(&id);
            for name in signed.into_iter().flat_map(|it| names(&it.statement)) {
                let left = named.entry(name).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 && is_idle(&name) {
                    free.insert(name);
                }
            }
        }
        idle
    }
}

/// Returns whether the issuer states that it leaves.
pub(super) fn is_farewell(statement: &Statement) -> bool {
    matches!(&statement.claim, Claim::Expel { node, .. } if *node == statement.by)
}

/// Returns the ids of the statements that this one names.
fn names(statement: &Statement) -> impl Iterator<Item = StatementId> {
    let last = match &statement.claim {
        Claim::Expel { stands, .. } => *stands,
        _ => None,
    };
    statement.before.into_iter().chain(last)
}
