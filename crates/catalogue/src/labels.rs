//! Labels of nodes in conflict names.
//!
//! When labels change, all conflict names are reassigned in bounded steps, because there may be
//! millions. If a node changes its name repeatedly, the next name takes effect after a pause.

use std::collections::BTreeMap;

use super::conflicts::ContestedName;
use super::row::{DirId, NodeIndex};
use super::rules;
use super::settle::NameSettler;
use p2pfs_types::id::{NodeId, NodeName};

/// Minimum seconds between two changes of the name that a node gives itself. An honest node changes
/// it at most when it starts.
pub(super) const RENAME_PAUSE_SECONDS: i64 = 60;

/// Returns the place before all names of all directories.
fn begin() -> ContestedName {
    (DirId::ROOT, Box::default())
}

/// The names of nodes, and their labels in conflict names.
pub(super) struct NodeNames<'a> {
    pub settler: NameSettler<'a>,
    /// Node names that the cluster has certified.
    pub certified: &'a mut BTreeMap<NodeId, NodeName>,
}

impl NodeNames<'_> {
    /// Sets the name that a node gives itself, unless the cluster has certified a name. A name that
    /// follows within [`RENAME_PAUSE_SECONDS`] of the last change waits.
    pub(crate) fn set(&mut self, node: NodeIndex, name: &NodeName) {
        self.settler.naming.renames.waiting.remove(&node);
        let certified = self
            .certified
            .get(&self.settler.tracked.state.node(node).id);
        if let Some(certified) = certified.cloned() {
            if self.change(node, certified) {
                self.relabel();
            }
            return;
        }
        let known = self.settler.tracked.state.node(node).name.as_ref();
        if known == Some(name) {
            return;
        }
        if let (Some(_), Some(now)) = (known, self.settler.tracked.state.horizon) {
            let changed = self.settler.naming.renames.changed.get(&node);
            if changed.is_some_and(|at| now.seconds < at.seconds + RENAME_PAUSE_SECONDS) {
                self.settler
                    .naming
                    .renames
                    .waiting
                    .insert(node, name.clone());
                return;
            }
            self.settler.naming.renames.changed.insert(node, now);
        }
        self.settler.tracked.node_mut(node).name = Some(name.clone());
        self.relabel();
    }

    /// Sets the name of a node without updating labels. Returns whether the name changed.
    fn change(&mut self, node: NodeIndex, name: NodeName) -> bool {
        let is_new = self.settler.tracked.state.node(node).name.as_ref() != Some(&name);
        if is_new {
            self.settler.tracked.node_mut(node).name = Some(name);
        }
        is_new
    }

    /// Sets the names that waited, if their pause has ended.
    pub(crate) fn apply_waiting(&mut self) {
        for (node, name) in std::mem::take(&mut self.settler.naming.renames.waiting) {
            self.set(node, &name);
        }
    }

    /// Computes the label of each node. If one changed, begins to reassign all conflict names.
    fn relabel(&mut self) {
        let mut named: BTreeMap<&NodeName, Vec<NodeId>> = BTreeMap::new();
        for (_, node) in self.settler.tracked.state.known() {
            if let Some(name) = &node.name {
                named.entry(name).or_default().push(node.id);
            }
        }
        named.values_mut().for_each(|ids| ids.sort_unstable());
        let labels: Vec<(NodeIndex, String)> = self
            .settler
            .tracked
            .state
            .known()
            .filter_map(|(index, node)| {
                let name = node.name.as_ref()?;
                let ids = &named[name];
                let at = ids.binary_search(&node.id).ok()?;
                // No other key has more of the first digits in common than a neighbor in the order
                // of keys.
                let before = at.checked_sub(1).and_then(|at| ids.get(at));
                let neighbors: Vec<NodeId> =
                    before.into_iter().chain(ids.get(at + 1)).copied().collect();
                let label = rules::label(name.as_str(), &node.id, &neighbors);
                (*node.label != *label).then_some((index, label))
            })
            .collect();
        if labels.is_empty() {
            return;
        }
        for (index, label) in labels {
            self.settler.tracked.node_mut(index).label = label.into();
        }
        self.settler.naming.renames.is_due_again = self.settler.naming.renames.is_amid();
        self.settler.naming.renames.at.get_or_insert_with(begin);
        self.reassign_renamed(self.settler.settling.step_records);
    }

    /// Continues the pass over all conflict names that follows a change of labels of nodes, for
    /// about `limit` steps from where the last call ended. If labels changed during a pass, another
    /// one follows. Returns the steps taken.
    pub(crate) fn reassign_renamed(&mut self, limit: usize) -> usize {
        let mut steps = 0;
        while steps < limit {
            let Some(at) = &self.settler.naming.renames.at else {
                break;
            };
            let Some((dir, name)) = self.settler.naming.conflict_after(at) else {
                let is_due = std::mem::take(&mut self.settler.naming.renames.is_due_again);
                self.settler.naming.renames.at = is_due.then(begin);
                continue;
            };
            let before = self.settler.settling.looks;
            let NameSettler {
                tracked,
                settling,
                naming,
            } = &mut self.settler;
            naming.refresh_aliases(tracked, settling, dir, &name);
            self.settler.naming.renames.at = Some((dir, name));
            steps += 1 + self.settler.settling.steps_since(before);
        }
        steps
    }

    /// Sets the names that the cluster has certified.
    pub(crate) fn set_certified(&mut self, names: BTreeMap<NodeId, NodeName>) {
        if *self.certified == names {
            return;
        }
        let known = self.settler.tracked.state.known();
        let named: Vec<(NodeIndex, NodeName)> = known
            .filter(|(_, node)| node.name.is_some())
            .filter_map(|(index, node)| Some((index, names.get(&node.id)?.clone())))
            .collect();
        *self.certified = names;
        let mut is_any_new = false;
        for (index, name) in named {
            self.settler.naming.renames.waiting.remove(&index);
            is_any_new |= self.change(index, name);
        }
        if is_any_new {
            self.relabel();
        }
    }

    /// Removes the name of a node that was forgotten, and updates the labels.
    pub(crate) fn forget(&mut self, node: NodeIndex) {
        self.settler.naming.renames.forget(node);
        self.relabel();
    }
}
