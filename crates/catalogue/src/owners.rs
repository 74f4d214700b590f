//! Owners of paths. At and below an owned path, only the owner's versions are listed. At a path
//! above it, no link of another node is listed. Otherwise the link would lead the owned path to
//! files of that node as soon as the owner's directories are gone.
//!
//! [`Catalogue::set_owners`](super::Catalogue::set_owners) sets them.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::merged::{Merged, Owners};
use super::orders::DirRef;
use super::row::{Class, DirId, Row};
use super::settle::NameSettler;
use super::versions::listed_name;
use super::view::View;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Queries of the [`Owners`] that are set. [`View::owners`] returns it.
#[derive(Clone, Default)]
pub struct PathOwners(Arc<Owners>);

impl PathOwners {
    /// Returns whether no path has an owner.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a node other than `author` owns a path below this one.
    pub(crate) fn is_owned_beneath(&self, path: &SharedPath, author: &NodeId) -> bool {
        let after = self.0.range((Excluded(path), Unbounded));
        let mut below =
            after.take_while(|(owned, _)| owned.as_bytes().starts_with(path.as_bytes()));
        below.any(|(owned, owner)| owned.is_beneath(path) && owner != author)
    }

    /// Returns the owner of a path, if it has one. Only the owner's versions are listed there.
    pub fn owner_of(&self, path: &SharedPath) -> Option<NodeId> {
        self.owned_above(path).map(|(_, owner)| owner)
    }

    /// Returns the nearest owned path at or above a path, with its owner.
    pub fn owned_above(&self, path: &SharedPath) -> Option<(SharedPath, NodeId)> {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if let Some(owner) = self.0.get(&path) {
                return Some((path, *owner));
            }
            at = path.parent();
        }
        None
    }
}

/// Returns how many listed files and links of other nodes a new owner of a path would hide, by
/// their authors. Names with a nearer owner do not count. Versions that the new owner has too do
/// not count either.
pub fn hidden_by_owner(view: &View, top: &SharedPath, owner: &NodeId) -> BTreeMap<NodeId, u64> {
    let state = &view.merged;
    let mut hidden = BTreeMap::new();
    for row in rows_at_and_below(state, top)
        .into_iter()
        .chain(links_above(state, top))
    {
        let dir = state.dir(row.dir);
        let author = state.node_of(&row);
        let is_content = matches!(row.class, Class::File | Class::Symlink);
        if !is_content || author == owner || listed_name(dir, &row).is_none() {
            continue;
        }
        let path = state.path_of(row.dir, row.name());
        let nearer = state.owners.owned_above(&path).map(|(owned, _)| owned);
        if nearer.is_some_and(|owned| owned.is_beneath(top)) {
            continue;
        }
        let mut same = dir.candidates(row.name());
        if !same.any(|it| it.same_content(&row) && state.node_of(it) == owner) {
            *hidden.entry(*author).or_default() += 1;
        }
    }
    hidden
}

/// Replaces the owners of paths. A first step of the affected rows is settled at once, and
/// [`NameSettler::settle_waiting`] settles the rest.
pub(super) fn set_owners(settler: &mut NameSettler<'_>, owners: Owners) {
    let before = &settler.tracked.state.owners.0;
    if **before == owners {
        return;
    }
    let (old, new) = (before.iter(), owners.iter());
    let changed = old.filter(|(path, node)| owners.get(*path) != Some(*node));
    let changed = changed.chain(new.filter(|(path, node)| before.get(*path) != Some(*node)));
    let state = &settler.tracked.state;
    let (mut rows, mut tops) = (Vec::new(), Vec::new());
    for (top, _) in changed {
        rows.extend(rows_at_and_below(state, top));
        rows.extend(links_above(state, top));
        for path in at_and_above(top) {
            let around = path.parent().and_then(|parent| state.find_dir(&parent));
            tops.extend(around.map(|dir| (dir, Box::from(path.file_name()))));
        }
    }
    // A version that lost another name may now use one of these as its conflict name, or no
    // longer do so.
    for (dir, name) in tops {
        if settler.naming.conflicts.contains_key(&dir) {
            settler.naming.stale_aliases.insert(dir, &name, 1);
        }
    }
    settler.tracked.state.owners = PathOwners(Arc::new(owners));
    settler.tracked.dirty = true;
    settler.settle_rows(rows);
}

/// Returns a path and all paths above it except the root.
fn at_and_above(path: &SharedPath) -> impl Iterator<Item = SharedPath> {
    let all = iter::successors(Some(path.clone()), SharedPath::parent);
    all.take_while(|path| !path.is_root())
}

/// Returns the links at the paths above this one.
fn links_above(state: &Merged, path: &SharedPath) -> Vec<Row> {
    let mut links = Vec::new();
    for above in at_and_above(path).skip(1) {
        let dir = above.parent().and_then(|dir| state.find_dir(&dir));
        let rows = dir.map(|dir| state.dir(dir).candidates(above.file_name()));
        let rows = rows.into_iter().flatten();
        links.extend(rows.filter(|row| row.class == Class::Symlink).cloned());
    }
    links
}

fn rows_at_and_below(state: &Merged, top: &SharedPath) -> Vec<Row> {
    let (mut rows, mut open) = (Vec::new(), vec![DirId::ROOT]);
    if let Some(parent) = top.parent() {
        let Some(dir) = state.find_dir(&parent).map(|id| state.dir(id)) else {
            return rows;
        };
        rows.extend(dir.candidates(top.file_name()).cloned());
        open = Vec::from_iter(dir.child(top.file_name()));
    }
    while let Some(id) = open.pop() {
        let dir = state.dir(id);
        rows.extend(dir.rows().cloned());
        open.extend(dir.all_dirs().map(DirRef::id));
    }
    rows
}
