//! Order of each node's statements: each statement names the previous one.

use std::collections::BTreeMap;

use super::statement_set::StatementSet;
use crate::trust::statement::{Statement, StatementId};
use p2pfs_types::id::NodeId;

/// Position of each statement in its issuer's chain.
pub(super) struct Chains(BTreeMap<StatementId, ChainPosition>);

/// Position of one statement. The statements that follow this one, directly or not, have the
/// numbers after `number`, up to `last_follower`.
#[derive(Clone, Copy, Debug)]
struct ChainPosition {
    number: usize,
    last_follower: usize,
    /// Number of known statements before it in the chain.
    length: usize,
    /// Whether the chain is known back to the first statement.
    is_whole: bool,
}

impl Chains {
    pub(super) fn of<'a>(statements: impl Iterator<Item = (StatementId, &'a Statement)>) -> Self {
        let all: BTreeMap<_, _> = statements.collect();
        let mut followers: BTreeMap<StatementId, Vec<StatementId>> = BTreeMap::new();
        // Statements to be numbered, the next one last.
        let mut next = Vec::new();
        for (id, statement) in &all {
            let before = statement.before.filter(|before| {
                let named = all.get(before);
                named.is_some_and(|named| named.by == statement.by)
            });
            match before {
                Some(before) => followers.entry(before).or_default().push(*id),
                None => next.push((*id, 0, statement.before.is_none())),
            }
        }
        let (mut links, mut order) = (BTreeMap::new(), Vec::new());
        while let Some((id, length, is_whole)) = next.pop() {
            let number = order.len();
            let last_follower = number;
            order.push(id);
            links.insert(
                id,
                ChainPosition {
                    number,
                    last_follower,
                    length,
                    is_whole,
                },
            );
            let behind = followers.get(&id).into_iter().flatten();
            next.extend(behind.map(|follower| (*follower, length + 1, is_whole)));
        }
        // Goes from the last to the first, because followers have higher numbers.
        for id in order.iter().rev() {
            let behind = followers.get(id).into_iter().flatten();
            let last = behind.map(|follower| links[follower].last_follower).max();
            if let (Some(last), Some(link)) = (last, links.get_mut(id)) {
                link.last_follower = last;
            }
        }
        Self(links)
    }

    /// Returns whether a statement is `last` or precedes it in the issuer's chain.
    pub(super) fn is_up_to(&self, id: &StatementId, last: &StatementId) -> bool {
        let (Some(link), Some(last)) = (self.0.get(id), self.0.get(last)) else {
            return false;
        };
        (link.number..=link.last_follower).contains(&last.number)
    }

    /// Returns the number of statements before this one, or none if the chain is not completely
    /// known.
    pub(super) fn whole_length(&self, id: &StatementId) -> Option<usize> {
        let link = self.0.get(id).filter(|link| link.is_whole)?;
        Some(link.length)
    }
}

/// Returns the last statement of a node that is a candidate and whose chain is completely known:
/// the one of the latest membership, then the one with the longest chain.
pub(super) fn last_whole(
    statements: &StatementSet,
    node: &NodeId,
    is_candidate: impl Fn(&StatementId, &Statement) -> bool,
) -> Option<StatementId> {
    let chains = Chains::of(statements.by(node));
    let candidates = statements
        .by(node)
        .filter(|(id, statement)| is_candidate(id, statement));
    let whole = candidates.filter_map(|(id, statement)| {
        let length = chains.whole_length(&id)?;
        Some((statement.by_term, length, id))
    });
    whole.max().map(|(_, _, id)| id)
}
