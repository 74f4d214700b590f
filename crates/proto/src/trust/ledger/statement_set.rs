//! The statements of one cluster, whether they count or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::trust::statement::{Claim, SignedStatement, Statement, StatementId};
use p2pfs_types::id::NodeId;

/// The statements of one cluster by their ids. One of them founds the cluster. Clones share the
/// statements until one of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatementSet {
    cluster: StatementId,
    founder: NodeId,
    by_id: Arc<BTreeMap<StatementId, SignedStatement>>,
}

impl StatementSet {
    /// Returns the set of only this statement, or none if it is not a genuine founding.
    pub(super) fn founded_by(founding: SignedStatement) -> Option<Self> {
        let is_founding = matches!(founding.statement.claim, Claim::Found { .. })
            && founding.statement.cluster == StatementId::default()
            && founding.is_genuine();
        if !is_founding {
            return None;
        }
        let id = founding.id();
        Some(Self {
            cluster: id,
            founder: founding.statement.by,
            by_id: Arc::new(BTreeMap::from([(id, founding)])),
        })
    }

    /// Returns the cluster's id, which is the id of its founding statement.
    pub(super) fn cluster(&self) -> StatementId {
        self.cluster
    }

    /// Returns the node that founded the cluster.
    pub(super) fn founder(&self) -> NodeId {
        self.founder
    }

    /// Returns whether both are clones of one set, which has not changed since.
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.by_id, &other.by_id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn contains(&self, id: &StatementId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn get(&self, id: &StatementId) -> Option<&SignedStatement> {
        self.by_id.get(id)
    }

    /// Returns all statements in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&StatementId, &SignedStatement)> {
        self.by_id.iter()
    }

    /// Returns the statements of one node in the order of their ids.
    pub(super) fn by<'a>(
        &'a self,
        node: &'a NodeId,
    ) -> impl Iterator<Item = (StatementId, &'a Statement)> {
        let all = self.iter().map(|(id, signed)| (*id, &signed.statement));
        all.filter(move |(_, statement)| statement.by == *node)
    }

    /// Returns the last membership that this statement ends, if it is a farewell of the node.
    pub(super) fn farewell_term(&self, node: &NodeId, id: &StatementId) -> Option<u32> {
        let statement = &self.get(id)?.statement;
        statement.farewell_term().filter(|_| statement.by == *node)
    }

    pub(super) fn insert(&mut self, signed: SignedStatement) {
        Arc::make_mut(&mut self.by_id).insert(signed.id(), signed);
    }

    /// Removes a statement, which must not be the founding one.
    pub(super) fn remove(&mut self, id: &StatementId) {
        debug_assert_ne!(*id, self.cluster, "a cluster keeps its founding");
        Arc::make_mut(&mut self.by_id).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::NodeKey;
    use p2pfs_types::id::NodeName;

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed(&[n; 32])
    }

    fn name() -> NodeName {
        NodeName::new("n").unwrap()
    }

    fn said(by: u8, cluster: StatementId, claim: Claim) -> Statement {
        Statement {
            cluster,
            by: key(by).node_id(),
            by_term: 1,
            at_s: 10,
            before: None,
            claim,
        }
    }

    fn founded() -> StatementSet {
        let founding = said(1, StatementId::default(), Claim::Found { name: name() });
        StatementSet::founded_by(founding.sign(&key(1))).unwrap()
    }

    #[test]
    fn only_a_genuine_founding_of_no_other_cluster_begins_a_set() {
        let founded = founded();
        assert_eq!((founded.len(), founded.founder()), (1, key(1).node_id()));
        assert!(founded.contains(&founded.cluster()));
        let founding = || Claim::Found { name: name() };
        let expulsion = Claim::Expel {
            node: key(1).node_id(),
            term: 1,
            stands: None,
        };
        for (statement, signer) in [
            (said(1, StatementId::default(), expulsion), 1),
            (said(1, StatementId::default(), founding()), 2),
            (said(1, founded.cluster(), founding()), 1),
        ] {
            let refused = StatementSet::founded_by(statement.clone().sign(&key(signer)));
            assert_eq!(refused, None, "{statement:?}");
        }
    }

    #[test]
    fn a_farewell_is_found_for_its_own_node_only() {
        let mut set = founded();
        let ends = |by, node: u8| {
            let node = key(node).node_id();
            let claim = Claim::Expel {
                node,
                term: 3,
                stands: None,
            };
            said(by, set.cluster(), claim).sign(&key(by))
        };
        let (farewell, expulsion) = (ends(2, 2), ends(1, 2));
        let ids = [farewell.id(), expulsion.id()];
        for signed in [farewell, expulsion] {
            set.insert(signed);
        }
        let term_of =
            |set: &StatementSet, node: u8, id| set.farewell_term(&key(node).node_id(), &id);
        assert_eq!(term_of(&set, 2, ids[0]), Some(3));
        assert_eq!(term_of(&set, 1, ids[0]), None);
        assert_eq!([1, 2].map(|node| term_of(&set, node, ids[1])), [None, None]);
        let by_2: Vec<_> = set.by(&key(2).node_id()).map(|(id, _)| id).collect();
        assert_eq!(by_2, [ids[0]]);
        set.remove(&ids[0]);
        assert_eq!(set.get(&ids[0]), None);
        assert_eq!(term_of(&set, 2, ids[0]), None);
    }
}
