//! Statements in the order in which an audit reads them.

use std::collections::BTreeMap;

use super::{Ledger, SignedStatement, StatementId};

impl Ledger {
    /// Returns all statements by time, and whether each counts. Within one second the founder's
    /// come first, and those of one node keep the order of its chain.
    pub fn history(&self) -> Vec<(SignedStatement, bool)> {
        let places = self.places();
        let mut all: Vec<_> = self.statements.iter().collect();
        all.sort_by_key(|(id, signed)| {
            let (by, at_s) = (signed.statement.by, signed.statement.at_s);
            (at_s, by != self.founder, by, places.get(id))
        });
        let each = all.into_iter().map(|(_, signed)| signed);
        each.map(|it| (it.clone(), self.counts(it))).collect()
    }

    /// Returns for each statement how many statements of its issuer's chain stand before it.
    fn places(&self) -> BTreeMap<StatementId, usize> {
        let mut places = BTreeMap::new();
        for id in self.statements.keys() {
            let (mut chain, mut next) = (Vec::new(), Some(*id));
            while let Some(id) = next.filter(|id| !places.contains_key(id)) {
                chain.push(id);
                let signed = self.statements.get(&id);
                next = signed.and_then(|signed| signed.statement.before);
            }
            let first = next.map_or(0, |before| places[&before] + 1);
            let places_of = chain.into_iter().rev().zip(first..);
            places.extend(places_of);
        }
        places
    }
}
