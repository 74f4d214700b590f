//! Labels of nodes in conflict names.
//!
//! When labels change, all conflict names are reassigned in bounded steps, because there may be
//! millions. If a node changes its name repeatedly, the next name takes effect after a pause.

use std::collections::BTreeMap;

use super::conflicts::ContestedName;
use super::merge::Merge;
use super::row::{DirId, NodeIndex};
use super::rules;
use p2pfs_types::id::{NodeId, NodeName};

/// Minimum time between two name changes of a node. An honest node changes its name at most when it
/// starts.
pub(super) const RENAME_PAUSE_SECONDS: i64 = 60;

/// Returns the place before all names of all directories.
fn begin() -> ContestedName {
    (DirId::ROOT, Box::default())
}

impl Merge {
    /// Sets the name that a node gives itself, unless the cluster has certified another one. If
    /// labels change, the conflict names are reassigned too.
    pub(crate) fn set_name(&mut self, node: NodeIndex, name: &NodeName) {
        self.naming.renames.waiting.remove(&node);
        let certified = self.certified_names.get(&self.state.node(node).id);
        if let Some(certified) = certified.cloned() {
            if self.change_name(node, certified) {
                self.relabel();
            }
            return;
        }
        let known = self.state.node(node).name.as_ref();
        if known == Some(name) {
            return;
        }
        if let (Some(_), Some(now)) = (known, self.state.horizon) {
            let changed = self.naming.renames.changed.get(&node);
            if changed.is_some_and(|at| now.seconds < at.seconds + RENAME_PAUSE_SECONDS) {
                self.naming.renames.waiting.insert(node, name.clone());
                return;
            }
            self.naming.renames.changed.insert(node, now);
        }
        self.node_mut(node).name = Some(name.clone());
        self.relabel();
    }

    /// Sets the name of a node without updating labels. Returns whether the name changed.
    fn change_name(&mut self, node: NodeIndex, name: NodeName) -> bool {
        let is_new = self.state.node(node).name.as_ref() != Some(&name);
        if is_new {
            self.node_mut(node).name = Some(name);
        }
        is_new
    }

    /// Sets the names that waited, if their pause has ended.
    pub(crate) fn apply_waiting_names(&mut self) {
        for (node, name) in std::mem::take(&mut self.naming.renames.waiting) {
            self.set_name(node, &name);
        }
    }

    /// Computes the label of each node.
    fn relabel(&mut self) {
        let mut named: BTreeMap<&NodeName, Vec<NodeId>> = BTreeMap::new();
        for (_, node) in self.state.known() {
            if let Some(name) = &node.name {
                named.entry(name).or_default().push(node.id);
            }
        }
        let labels: Vec<(NodeIndex, String)> = self
            .state
            .known()
            .filter_map(|(index, node)| {
                let name = node.name.as_ref()?;
                let others = named[name].iter().filter(|id| **id != node.id);
                let others: Vec<NodeId> = others.copied().collect();
                let label = rules::label(name.as_str(), &node.id, &others);
                (*node.label != *label).then_some((index, label))
            })
            .collect();
        if labels.is_empty() {
            return;
        }
        for (index, label) in labels {
            self.node_mut(index).label = label.into();
        }
        self.naming.renames.is_due_again = self.naming.renames.is_amid();
        self.naming.renames.at.get_or_insert_with(begin);
        self.reassign_renamed(self.settling.step_records);
    }

    /// Reassigns conflict names after a rename, for about `limit` steps. Returns the steps taken.
    pub(crate) fn reassign_renamed(&mut self, limit: usize) -> usize {
        let mut steps = 0;
        while steps < limit {
            let Some(at) = &self.naming.renames.at else {
                break;
            };
            let Some((dir, name)) = self.conflict_after(at) else {
                let is_due = std::mem::take(&mut self.naming.renames.is_due_again);
                self.naming.renames.at = is_due.then(begin);
                continue;
            };
            let before = self.settling.looks;
            self.refresh_aliases(dir, &name);
            self.naming.renames.at = Some((dir, name));
            steps += 1 + self.steps_since(before);
        }
        steps
    }

    /// Sets the names that the cluster has certified.
    pub(crate) fn set_certified_names(&mut self, names: BTreeMap<NodeId, NodeName>) {
        if self.certified_names == names {
            return;
        }
        let known = self.state.known();
        let named: Vec<(NodeIndex, NodeName)> = known
            .filter(|(_, node)| node.name.is_some())
            .filter_map(|(index, node)| Some((index, names.get(&node.id)?.clone())))
            .collect();
        self.certified_names = names;
        let mut is_any_new = false;
        for (index, name) in named {
            self.naming.renames.waiting.remove(&index);
            is_any_new |= self.change_name(index, name);
        }
        if is_any_new {
            self.relabel();
        }
    }

    /// Removes the name of a node that was forgotten, and updates the labels.
    pub(crate) fn forget_name(&mut self, node: NodeIndex) {
        self.naming.renames.forget(node);
        self.relabel();
    }
}
