//! Statements of former members that do not count. In a full ledger, statements of members that
//! count replace them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evaluation, Ledger};
use crate::trust::statement::{Claim, SignedStatement, Statement, StatementId};

/// Takes in those of these statements that count, each in place of a stored statement that is
/// [idle](idle_statements), while there are any. Returns those that were taken in.
pub(super) fn replace_idle(
    ledger: &mut Ledger,
    mut signed: Vec<SignedStatement>,
) -> Vec<SignedStatement> {
    signed.retain(|it| !ledger.statements.contains(&it.id()));
    if signed.is_empty() {
        return signed;
    }
    let mut after = ledger.clone();
    for it in &signed {
        after.statements.insert(it.clone());
    }
    after.evaluation = Evaluation::of(&after.statements);
    signed.retain(|it| {
        let counts = after.counts(it);
        if !counts {
            after.statements.remove(&it.id());
        }
        counts
    });
    // Idle statements are selected only now, because a statement of `signed` may name a stored one
    // or make it count.
    let idle = idle_statements(&after, signed.len());
    for late in signed.split_off(idle.len()) {
        after.statements.remove(&late.id());
    }
    if signed.is_empty() {
        return signed;
    }
    for id in idle {
        after.statements.remove(&id);
    }
    after.evaluation = Evaluation::of(&after.statements);
    *ledger = after;
    signed
}

/// Returns whether a stored statement does not count, and its issuer is neither a member nor the
/// founder. A full ledger takes in no such statement.
pub(super) fn is_idle(ledger: &Ledger, id: &StatementId, statement: &Statement) -> bool {
    let by = statement.by;
    let is_out = by != ledger.statements.founder() && !ledger.evaluation.members.contains_key(&by);
    is_out && !ledger.evaluation.valid.contains(id)
}

/// Returns at most `most` statements that do not count, and that no remaining statement names.
/// Their issuers are neither members nor the founder.
pub(super) fn idle_statements(ledger: &Ledger, most: usize) -> Vec<StatementId> {
    let mut named: BTreeMap<StatementId, usize> = BTreeMap::new();
    for (_, signed) in ledger.statements.iter() {
        for name in names(&signed.statement) {
            *named.entry(name).or_default() += 1;
        }
    }
    let may_go = |id: &StatementId| {
        let signed = ledger.statements.get(id);
        signed.is_some_and(|it| is_idle(ledger, id, &it.statement))
    };
    let ids = ledger.statements.iter().map(|(id, _)| id);
    let free = ids.filter(|id| !named.contains_key(id));
    let mut free: BTreeSet<_> = free.filter(|id| may_go(id)).copied().collect();
    let mut idle = Vec::new();
    while idle.len() < most
        && let Some(id) = free.pop_first()
    {
        idle.push(id);
        let signed = ledger.statements.get(&id);
        for name in signed.into_iter().flat_map(|it| names(&it.statement)) {
            let left = named.entry(name).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 && may_go(&name) {
                free.insert(name);
            }
        }
    }
    idle
}

/// Returns the ids of the statements that this one names.
fn names(statement: &Statement) -> impl Iterator<Item = StatementId> {
    let last = match &statement.claim {
        Claim::Expel { stands, .. } => *stands,
        _ => None,
    };
    statement.before.into_iter().chain(last)
}
