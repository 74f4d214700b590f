//! Order of the statements within the chains of their issuers.

use std::collections::BTreeMap;

use super::StatementId;
use super::statement_set::StatementSet;

/// Returns for each statement the number of known statements before it in its chain.
pub(super) fn places(statements: &StatementSet) -> BTreeMap<StatementId, usize> {
    let mut places = BTreeMap::new();
    for (id, _) in statements.iter() {
        let (mut chain, mut next) = (Vec::new(), Some(*id));
        while let Some(id) = next.filter(|id| !places.contains_key(id)) {
            chain.push(id);
            let signed = statements.get(&id);
            next = signed.and_then(|signed| signed.statement.before);
        }
        let first = next.map_or(0, |before| places[&before] + 1);
        let places_of = chain.into_iter().rev().zip(first..);
        places.extend(places_of);
    }
    places
}
