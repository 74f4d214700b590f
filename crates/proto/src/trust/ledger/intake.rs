//! How statements of others come into a ledger: each is looked at once, and once more for each
//! step by which its issuer comes into the right to say it. Whoever hands over one that nobody
//! signed is heard no further. Where there is no room, a member's word takes that of one that does
//! not count and that nobody answers for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Ledger, STATEMENTS_MAX, STATEMENTS_OF_OTHERS_MAX, STATEMENTS_PER_ADMIN_MAX,
    STATEMENTS_PER_MEMBER_MAX, has_room,
};
use crate::trust::statement::{Claim, SignedStatement, Statement, StatementId};
use p2pfs_types::id::NodeId;

/// What came of statements that were handed in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::trust) struct Taken {
    /// Those that are new here.
    pub new: Vec<SignedStatement>,
    /// One was not signed by whom it names: those after it were not looked at.
    pub is_forged: bool,
    /// Who has signed more than one node may.
    pub over: Option<NodeId>,
}

/// What a node may say of who is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    #[default]
    None,
    /// That it goes.
    Go,
    /// Who else is in.
    Admit,
}

/// What is known of an issuer while statements are taken in.
#[derive(Default)]
struct Issuer {
    right: Right,
    kept: usize,
    /// By how many certificates that are kept.
    admitted: usize,
    /// Statements for which its right does not suffice yet.
    early: Vec<SignedStatement>,
    /// The same where they say that it goes.
    farewells: Vec<SignedStatement>,
}

/// Everybody who has said or may say something.
struct Issuers(BTreeMap<NodeId, Issuer>);

enum Place {
    /// It may be taken in, where its issuer signed it.
    Here,
    /// Its issuer may get the right to say it.
    Later,
    /// Its issuer has said too much already.
    Over,
    /// The ledger holds no more.
    Full,
    /// Not of this cluster, or here already.
    Nowhere,
}

impl Issuers {
    fn of(ledger: &Ledger) -> Self {
        let mut issuers = Self(BTreeMap::new());
        issuers.0.entry(ledger.founder).or_default().right = Right::Admit;
        for signed in ledger.statements.values() {
            issuers.note(signed);
        }
        issuers
    }

    /// Counts a statement that is kept; gives those that may be said by its word.
    fn note(&mut self, signed: &SignedStatement) -> Vec<SignedStatement> {
        self.0.entry(signed.statement.by).or_default().kept += 1;
        let Claim::Admit { node, admin, .. } = &signed.statement.claim else {
            return Vec::new();
        };
        let issuer = self.0.entry(*node).or_default();
        issuer.admitted += 1;
        let right = if *admin { Right::Admit } else { Right::Go };
        if right <= issuer.right {
            // there is room for one more
            return issuer.farewells.pop().into_iter().collect();
        }
        issuer.right = right;
        let mut said = std::mem::take(&mut issuer.farewells);
        if right == Right::Admit {
            said.append(&mut issuer.early);
        }
        said
    }

    fn wait(&mut self, signed: SignedStatement) {
        let issuer = self.0.entry(signed.statement.by).or_default();
        if is_farewell(&signed.statement) {
            issuer.farewells.push(signed)
        } else {
            issuer.early.push(signed)
        }
    }
}

impl Ledger {
    /// Takes statements in. What is of another cluster, by nobody known, or beyond a limit is
    /// passed over.
    pub(in crate::trust) fn take_in(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Taken {
        self.take_in_up_to(STATEMENTS_OF_OTHERS_MAX, statements)
    }

    /// The same; gives those that are new.
    pub fn merge(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Vec<SignedStatement> {
        self.take_in(statements).new
    }

    /// As [`Self::take_in`], where others than the founder may have said so many.
    pub(super) fn take_in_up_to(
        &mut self,
        most_of_others: usize,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Taken {
        let mut issuers = Issuers::of(self);
        let mut taken = Taken::default();
        let mut queue: VecDeque<_> = statements.into_iter().collect();
        let mut without_room = Vec::new();
        while let Some(signed) = queue.pop_front() {
            match self.place_of(&issuers, most_of_others, &signed) {
                Place::Nowhere => {}
                Place::Later => issuers.wait(signed),
                // one proof is enough
                Place::Over if taken.over.is_some() => {}
                Place::Full if !self.is_answered_for(&signed.statement) => {}
                Place::Here | Place::Over | Place::Full if !signed.is_genuine() => {
                    taken.is_forged = true;
                    break;
                }
                Place::Over => taken.over = Some(signed.statement.by),
                Place::Full => without_room.push(signed),
                Place::Here => {
                    self.statements.insert(signed.id(), signed.clone());
                    // an issuer's certificate may stand behind what it issued
                    queue.extend(issuers.note(&signed));
                    taken.new.push(signed);
                }
            }
        }
        if !taken.new.is_empty() {
            self.standing = self.evaluate();
        }
        taken.new.extend(self.take_for_idle(without_room));
        taken
    }

    /// Whether a member says it, in its present membership.
    fn is_answered_for(&self, statement: &Statement) -> bool {
        let member = self.standing.members.get(&statement.by);
        member.is_some_and(|it| it.term == statement.by_term)
    }

    /// Takes in those of these that count, each for one that is idle then; gives those that there
    /// was one for.
    fn take_for_idle(&mut self, mut signed: Vec<SignedStatement>) -> Vec<SignedStatement> {
        signed.retain(|it| !self.statements.contains_key(&it.id()));
        if signed.is_empty() {
            return signed;
        }
        let mut after = self.clone();
        let each = signed.iter().map(|it| (it.id(), it.clone()));
        after.statements.extend(each);
        after.standing = after.evaluate();
        signed.retain(|it| {
            let counts = after.counts(it);
            if !counts {
                after.statements.remove(&it.id());
            }
            counts
        });
        // by now: what is taken in may name one of them, or let it count
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
        after.standing = after.evaluate();
        *self = after;
        signed
    }

    /// Statements that can go without anything that counts being another: they do not count, who
    /// has signed them is out, and none that stays names them. At most so many.
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
                by != self.founder && !self.standing.members.contains_key(&by)
            };
            !self.standing.valid.contains(id) && signed.is_some_and(is_out)
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

    /// Whether a statement is worth a look at its signature.
    fn place_of(
        &self,
        issuers: &Issuers,
        most_of_others: usize,
        signed: &SignedStatement,
    ) -> Place {
        let statement = &signed.statement;
        let is_of_here = statement.cluster == self.cluster
            && has_room(&statement.claim)
            && !matches!(statement.claim, Claim::Found { .. })
            && !self.statements.contains_key(&signed.id());
        let by = statement.by;
        let most = if by == self.founder {
            STATEMENTS_MAX
        } else {
            most_of_others
        };
        if !is_of_here {
            return Place::Nowhere;
        }
        let issuer = issuers.0.get(&by);
        let (right, kept) = issuer.map_or((Right::None, 0), |it| (it.right, it.kept));
        // as often as it was let in it can go
        let again = issuer.map_or(0, |it| it.admitted.saturating_sub(1));
        let may_go = is_farewell(statement) && kept < STATEMENTS_PER_MEMBER_MAX + again;
        let is_full = self.statements.len() >= most;
        match right {
            Right::Admit if kept >= STATEMENTS_PER_ADMIN_MAX && !is_full => Place::Over,
            Right::Admit if kept >= STATEMENTS_PER_ADMIN_MAX => Place::Nowhere,
            Right::Go if !may_go => Place::Later,
            Right::Admit | Right::Go if is_full => Place::Full,
            Right::Admit | Right::Go => Place::Here,
            Right::None => Place::Later,
        }
    }
}

/// Whether a node says that it goes.
pub(super) fn is_farewell(statement: &Statement) -> bool {
    matches!(&statement.claim, Claim::Expel { node, .. } if *node == statement.by)
}

/// Which other statements one names.
fn names(statement: &Statement) -> impl Iterator<Item = StatementId> {
    let last = match &statement.claim {
        Claim::Expel { stands, .. } => *stands,
        _ => None,
    };
    statement.before.into_iter().chain(last)
}
