//! What each node has said, in the order in which it says to have said it: each statement names the
//! one before it.

use std::collections::BTreeMap;

use crate::trust::statement::{Statement, StatementId};

/// The places of statements behind those that they name.
pub(super) struct Chains(BTreeMap<StatementId, Link>);

/// One statement, numbered so that all that follow it, directly or not, have the numbers behind.
#[derive(Clone, Copy, Debug)]
struct Link {
    number: usize,
    last_follower: usize,
    /// How many statements stand before it.
    length: usize,
    /// Whether these are known to the first of all.
    is_whole: bool,
}

impl Chains {
    pub(super) fn of<'a>(statements: impl Iterator<Item = (StatementId, &'a Statement)>) -> Self {
        let all: BTreeMap<_, _> = statements.collect();
        let mut followers: BTreeMap<StatementId, Vec<StatementId>> = BTreeMap::new();
        // what is to be numbered next, the last first
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
                Link {
                    number,
                    last_follower,
                    length,
                    is_whole,
                },
            );
            let behind = followers.get(&id).into_iter().flatten();
            next.extend(behind.map(|follower| (*follower, length + 1, is_whole)));
        }
        // from the last to the first: who follows was numbered behind whom it follows
        for id in order.iter().rev() {
            let behind = followers.get(id).into_iter().flatten();
            let last = behind.map(|follower| links[follower].last_follower).max();
            if let (Some(last), Some(link)) = (last, links.get_mut(id)) {
                link.last_follower = last;
            }
        }
        Self(links)
    }

    /// Whether a statement is this last one, or one that its issuer says to have said before it.
    pub(super) fn is_up_to(&self, id: &StatementId, last: &StatementId) -> bool {
        let (Some(link), Some(last)) = (self.0.get(id), self.0.get(last)) else {
            return false;
        };
        (link.number..=link.last_follower).contains(&last.number)
    }

    /// The length of what is known to the first of all; none where something in between is not.
    pub(super) fn whole_length(&self, id: &StatementId) -> Option<usize> {
        let link = self.0.get(id).filter(|link| link.is_whole)?;
        Some(link.length)
    }
}
