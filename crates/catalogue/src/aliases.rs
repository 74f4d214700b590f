//! Conflict names for the versions that lost a name.
//!
//! The conflict names of a directory are assigned in a fixed order: by the contested name, then by
//! the rank of the version. The result therefore depends on the rows present and not on their order
//! of arrival. A conflict name is never a listed name, nor a name that another node owns. The first
//! form has the author's label, the second also the start of the author's key. If neither form is
//! free and fits, the version has no conflict name.
//!
//! One directory can have very many conflict names. A change therefore reassigns only the names
//! that it can affect: those of the changed name, and those of names that compete for the same
//! conflict names.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use imbl::OrdSet;

use super::change::Change;
use super::conflicts::{Conflicts, ContestedName, Renames, StaleConflictNames};
use super::merged::Merged;
use super::orders::{Alias, Named};
use super::row::{DirId, NodeIndex, Row};
use super::rules::{self, conflict_name};
use super::settle::Unsettled;
use super::tracked::TrackedState;
use p2pfs_types::path::PATH_MAX_BYTES;

/// Digits of the author's key in the second form of a conflict name.
const KEY_DIGITS: usize = 8;
/// Number of forms of a conflict name. At most this many versions of one node under one name can
/// have a conflict name.
const FORMS: usize = 2;

/// The versions that lost one name, the best first, each with its possible conflict names.
type LostVersions = Vec<(Row, Vec<Vec<u8>>)>;

/// The conflict names, and what is left to reassign.
#[derive(Default)]
pub(super) struct ConflictNaming {
    pub(super) conflicts: Conflicts,
    pub(super) stale_aliases: StaleConflictNames,
    pub(super) renames: Renames,
}

impl ConflictNaming {
    /// Returns the first contested name after a place.
    pub(crate) fn conflict_after(&self, (dir, name): &ContestedName) -> Option<ContestedName> {
        let here = self.conflicts.get(dir);
        let next = here.and_then(|names| {
            let mut after = names.range::<[u8], _>((Excluded(&**name), Unbounded));
            Some((*dir, after.next()?.0.clone()))
        });
        next.or_else(|| {
            let mut dirs = self.conflicts.range((Excluded(dir), Unbounded));
            dirs.find_map(|(dir, names)| Some((*dir, names.first_key_value()?.0.clone())))
        })
    }

    /// Records whether a name is contested now, and queues the reassignment of its conflict names.
    pub(super) fn mark_conflict(&mut self, dir: DirId, name: &[u8], conflict: bool, steps: usize) {
        let names = self.conflicts.get(&dir);
        let is_known = names.is_some_and(|names| names.contains_key(name));
        if conflict && !is_known {
            let names = self.conflicts.entry(dir).or_default();
            names.insert(name.into(), Vec::new());
        }
        // After the end of a conflict, its conflict names are removed too.
        if conflict || is_known {
            self.stale_aliases.insert(dir, name, steps);
        }
    }

    /// Marks conflict names as stale after a real name appeared or vanished that has the form of a
    /// conflict name. A version that lost its name may have to give up that conflict name, or may
    /// now get it.
    pub(super) fn mark_wanted_alias(&mut self, dir: DirId, name: &[u8]) {
        if name.contains(&b'~') && self.conflicts.contains_key(&dir) {
            self.stale_aliases.insert(dir, name, 1);
        }
    }

    /// Reassigns stale conflict names for about `limit` steps, and returns the steps taken.
    pub(super) fn refresh_stale(
        &mut self,
        tracked: &mut TrackedState,
        settling: &mut Unsettled,
        limit: usize,
    ) -> usize {
        let mut steps = 0;
        while steps < limit {
            let Some((dir, name)) = self.stale_aliases.pop() else {
                break;
            };
            let before = settling.looks;
            // The directory may be gone by now, or its number may stand for another directory. In
            // both cases nothing changes.
            if tracked.state.dirs[dir.0 as usize].is_some() {
                self.refresh_aliases(tracked, settling, dir, &name);
            }
            steps += 1 + settling.steps_since(before);
        }
        steps
    }

    /// Reassigns the conflict names that a change of `name` can affect.
    pub(super) fn refresh_aliases(
        &mut self,
        tracked: &mut TrackedState,
        settling: &mut Unsettled,
        dir: DirId,
        name: &[u8],
    ) {
        let mut group: BTreeMap<Box<[u8]>, LostVersions> = BTreeMap::new();
        let mut open: Vec<Box<[u8]>> = vec![name.into()];
        open.extend(names_behind(name));
        while let Some(name) = open.pop() {
            let names = self.conflicts.get(&dir);
            let given = names.and_then(|names| names.get(&name));
            let Some(given) = given.filter(|_| !group.contains_key(&name)) else {
                continue;
            };
            for alias in given {
                open.extend(names_behind(alias.name()));
            }
            let lost = lost(tracked, settling, dir, &name);
            for form in lost.iter().flat_map(|(_, forms)| forms) {
                open.extend(names_behind(form));
                // The version that has this form now may belong to another name.
                let holder = tracked.state.dir(dir).aliases.get(&Named(form));
                open.extend(holder.map(|alias| alias.row().name().into()));
            }
            group.insert(name, lost);
        }
        if !group.is_empty() {
            self.assign_aliases(tracked, dir, group);
        }
    }

    fn assign_aliases(
        &mut self,
        tracked: &mut TrackedState,
        dir: DirId,
        group: BTreeMap<Box<[u8]>, LostVersions>,
    ) {
        let (mut old, mut new) = (OrdSet::new(), OrdSet::new());
        let mut all = tracked.state.dir(dir).aliases.clone();
        let names = self.conflicts.entry(dir).or_default();
        for name in group.keys() {
            for alias in names.remove(name).into_iter().flatten() {
                all.remove(&alias);
                old.insert(alias);
            }
        }
        for (name, lost) in group {
            if lost.is_empty() {
                continue;
            }
            let mut given = Vec::new();
            for (row, forms) in lost {
                let is_free = |form: &&Vec<u8>| !all.contains(&Named(form));
                if let Some(form) = forms.iter().find(is_free) {
                    let alias = Alias::new(row, form);
                    all.insert(alias.clone());
                    new.insert(alias.clone());
                    given.push(alias);
                }
            }
            names.insert(name, given);
        }
        if names.is_empty() {
            self.conflicts.remove(&dir);
        }
        tracked.dir_mut(dir).aliases = all;
        record_alias_changes(tracked, dir, &old, &new);
    }
}

/// Returns the versions that lost a name and may have a conflict name.
fn lost(tracked: &TrackedState, settling: &mut Unsettled, dir: DirId, name: &[u8]) -> LostVersions {
    let (rows, looks) = settling.listable(&tracked.state, dir, name);
    let mut versions = rules::rank(&tracked.state, rows.into_iter().cloned().collect());
    settling.looks += looks;
    let here = tracked.state.dir(dir);
    let won = usize::from(!here.dirs.contains(&Named(name)));
    let path_bytes = tracked.state.path_of(dir, &[]).as_bytes().len();
    let room_bytes = PATH_MAX_BYTES.saturating_sub(path_bytes + 1);
    let mut of_author: HashMap<NodeIndex, usize> = HashMap::new();
    let lost = versions.split_off(won.min(versions.len()));
    let may_have_one = lost.into_iter().filter(|row| {
        let count = of_author.entry(row.author).or_default();
        *count += 1;
        *count <= FORMS
    });
    may_have_one
        .map(|row| {
            let forms = forms(&tracked.state, room_bytes, &row);
            (row, forms)
        })
        .collect()
}

fn record_alias_changes(
    tracked: &mut TrackedState,
    dir: DirId,
    old: &OrdSet<Alias>,
    new: &OrdSet<Alias>,
) {
    let same_names = old == new;
    if !same_names {
        tracked.record_change(dir, &[], Change::Listing);
    }
    let shows = |set: &OrdSet<Alias>, name: &[u8]| {
        set.get(&Named(name))
            .and_then(|alias| alias.row().to_entry())
    };
    for alias in old.iter().chain(new) {
        // If the real name appeared, its own change was recorded already.
        if shows(old, alias.name()) != shows(new, alias.name()) {
            tracked.record_change(dir, alias.name(), Change::Entry);
        }
    }
}

/// Returns the names that a conflict name can stand for. A node's name contains no `~`, and an
/// extension contains no dot.
fn names_behind(conflict_name: &[u8]) -> impl Iterator<Item = Box<[u8]>> {
    let dot = conflict_name.iter().rposition(|b| *b == b'.');
    let ends = [Some(conflict_name.len()), dot].into_iter().flatten();
    ends.filter_map(|end| {
        let (before, extension) = conflict_name.split_at(end);
        let stem = &before[..before.iter().rposition(|b| *b == b'~')?];
        Some([stem, extension].concat().into())
    })
}

/// Returns the conflict names that a version may have, the best first. Leaves out names that are
/// listed, that another node owns, or that are too long.
fn forms(state: &Merged, room_bytes: usize, row: &Row) -> Vec<Vec<u8>> {
    let node = state.node(row.author);
    let by_key = format!("{}-{}", node.label, node.id.short(KEY_DIGITS));
    let here = state.dir(row.dir);
    let labels: [&str; FORMS] = [&node.label, &by_key];
    labels
        .into_iter()
        .filter_map(|label| conflict_name(row.name(), label))
        .filter(|name| name.len() <= room_bytes)
        .filter(|name| state.may_have(row, name))
        .filter(|name| !here.listed.contains(&Named(name)) && !here.dirs.contains(&Named(name)))
        .collect()
}
