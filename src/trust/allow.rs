//! Narrowing the cluster to nodes named by hand.

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Which nodes may be talked to at all, besides having the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    only: Option<BTreeSet<NodeId>>,
}

impl AllowList {
    /// Every node that has the secret.
    pub fn everyone() -> Self {
        Self::default()
    }

    /// These nodes alone.
    pub fn only(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            only: Some(nodes.into_iter().collect()),
        }
    }

    /// Whether the node may be talked to.
    pub fn allows(&self, node: &NodeId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_allows_those_it_names_and_no_list_allows_all() {
        let [a, b] = [NodeId::new([1; 32]), NodeId::new([2; 32])];
        assert!(AllowList::everyone().allows(&a));
        let list = AllowList::only([a]);
        assert!(list.allows(&a) && !list.allows(&b));
        assert!(!AllowList::only([]).allows(&a));
    }
}
