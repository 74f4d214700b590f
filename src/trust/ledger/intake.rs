//! How statements of others come into a ledger: each is looked at once, and once more for each
//! step by which its issuer comes into the right to say it. Whoever hands over one that nobody
//! signed is heard no further.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Ledger, STATEMENTS_MAX, STATEMENTS_OF_OTHERS_MAX, STATEMENTS_PER_ADMIN_MAX,
    STATEMENTS_PER_MEMBER_MAX, has_room,
};
use crate::id::NodeId;
use crate::trust::statement::{Claim, SignedStatement};

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
    /// Statements for which its right does not suffice yet.
    early: Vec<SignedStatement>,
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
    /// Not of this cluster, here already, or beyond what a ledger holds.
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
        let right = if *admin { Right::Admit } else { Right::Go };
        if right <= issuer.right {
            return Vec::new();
        }
        issuer.right = right;
        std::mem::take(&mut issuer.early)
    }

    fn wait(&mut self, signed: SignedStatement) {
        let issuer = self.0.entry(signed.statement.by).or_default();
        issuer.early.push(signed);
    }
}

impl Ledger {
    /// Takes statements in. What is of another cluster, by nobody known, or beyond a limit is
    /// passed over.
    pub(in crate::trust) fn take_in(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Taken {
        let mut issuers = Issuers::of(self);
        let mut taken = Taken::default();
        let mut queue: VecDeque<_> = statements.into_iter().collect();
        while let Some(signed) = queue.pop_front() {
            match self.place_of(&issuers, &signed) {
                Place::Nowhere => {}
                Place::Later => issuers.wait(signed),
                // one proof is enough
                Place::Over if taken.over.is_some() => {}
                Place::Here | Place::Over if !signed.is_genuine() => {
                    taken.is_forged = true;
                    break;
                }
                Place::Over => taken.over = Some(signed.statement.by),
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
        taken
    }

    /// The same; gives those that are new.
    pub fn merge(
        &mut self,
        statements: impl IntoIterator<Item = SignedStatement>,
    ) -> Vec<SignedStatement> {
        self.take_in(statements).new
    }

    /// Whether a statement is worth a look at its signature.
    fn place_of(&self, issuers: &Issuers, signed: &SignedStatement) -> Place {
        let statement = &signed.statement;
        let is_of_here = statement.cluster == self.cluster
            && has_room(&statement.claim)
            && !matches!(statement.claim, Claim::Found { .. })
            && !self.statements.contains_key(&signed.id());
        let by = statement.by;
        let most = match by == self.founder {
            true => STATEMENTS_MAX,
            false => STATEMENTS_OF_OTHERS_MAX,
        };
        if !is_of_here || self.statements.len() >= most {
            return Place::Nowhere;
        }
        let is_farewell = matches!(&statement.claim, Claim::Expel { node, .. } if *node == by);
        let issuer = issuers.0.get(&by);
        let (right, kept) = issuer.map_or((Right::None, 0), |it| (it.right, it.kept));
        match right {
            Right::Admit if kept < STATEMENTS_PER_ADMIN_MAX => Place::Here,
            Right::Admit => Place::Over,
            Right::Go if is_farewell && kept < STATEMENTS_PER_MEMBER_MAX => Place::Here,
            Right::Go | Right::None => Place::Later,
        }
    }
}
