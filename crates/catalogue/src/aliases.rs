//! Names beside the winner for the versions that lost.
//!
//! The conflict names of a directory are given out in the order of the names they stand for and of
//! the rank of their versions, so that they depend on what is there and not on what came first. A
//! name that is really there is never taken, nor one that another node owns. The first free form
//! is: with the author's name, then with the start of its key. Where neither is free or fits, there
//! is none.
//!
//! One directory can have very many, so with a change those alone are given anew that it touches:
//! those for its name, and those for names that want the same as these had or want.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use imbl::OrdSet;

use super::change::Change;
use super::conflicts::Place;
use super::merge::Merge;
use super::merged::Merged;
use super::orders::{Alias, Named};
use super::row::{DirId, NodeIndex, Row};
use super::rules::conflict_name;
use p2pfs_types::path::PATH_MAX_BYTES;

/// The digits of a key in the second form of a conflict name.
const KEY_DIGITS: usize = 8;
/// The forms of a conflict name: no more versions of one node under one name can have any.
const FORMS: usize = 2;

/// What lost under one name, the best first, each with the conflict names that it may have.
type Lost = Vec<(Row, Vec<Vec<u8>>)>;

impl Merge {
    /// Gives conflict names anew, about so many steps of them; how many it was.
    pub(super) fn refresh_stale(&mut self, limit: usize) -> usize {
        let mut steps = 0;
        while steps < limit {
            let Some((dir, name)) = self.stale_aliases.pop() else {
                break;
            };
            let before = self.looks;
            // the directory may be gone since, or its number be another's: then nothing changes
            if self.state.dirs[dir.0 as usize].is_some() {
                self.refresh_aliases(dir, &name);
            }
            steps += 1 + self.steps_since(before);
        }
        steps
    }

    /// Gives the conflict names anew that a change of a name can touch.
    pub(super) fn refresh_aliases(&mut self, dir: DirId, name: &[u8]) {
        let mut group: BTreeMap<Box<[u8]>, Lost> = BTreeMap::new();
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
            let lost = self.lost(dir, &name);
            for form in lost.iter().flat_map(|(_, forms)| forms) {
                open.extend(names_behind(form));
                // who has it may be called otherwise by now
                let holder = self.state.dir(dir).aliases.get(&Named(form));
                open.extend(holder.map(|alias| alias.row().name().into()));
            }
            group.insert(name, lost);
        }
        if !group.is_empty() {
            self.give_aliases(dir, group);
        }
    }

    /// The versions that lost under a name and may have another beside it.
    fn lost(&mut self, dir: DirId, name: &[u8]) -> Lost {
        let mut versions = self.versions(dir, name);
        let here = self.state.dir(dir);
        let won = usize::from(!here.dirs.contains(&Named(name)));
        let path_bytes = self.state.path_of(dir, &[]).as_bytes().len();
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
                let forms = forms(&self.state, room_bytes, &row);
                (row, forms)
            })
            .collect()
    }

    fn give_aliases(&mut self, dir: DirId, group: BTreeMap<Box<[u8]>, Lost>) {
        let (mut old, mut new) = (OrdSet::new(), OrdSet::new());
        let mut all = self.state.dir(dir).aliases.clone();
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
        self.dir_mut(dir).aliases = all;
        self.note_aliases(dir, &old, &new);
    }

    fn note_aliases(&mut self, dir: DirId, old: &OrdSet<Alias>, new: &OrdSet<Alias>) {
        let same_names = old == new;
        if !same_names {
            self.note(dir, &[], Change::Listing);
        }
        let shows = |set: &OrdSet<Alias>, name: &[u8]| {
            set.get(&Named(name))
                .and_then(|alias| alias.row().to_entry())
        };
        for alias in old.iter().chain(new) {
            // where the real name came, its own change was noted
            if shows(old, alias.name()) != shows(new, alias.name()) {
                self.note(dir, alias.name(), Change::Entry);
            }
        }
    }

    /// The first name with a conflict after a place.
    pub(super) fn conflict_after(&self, (dir, name): &Place) -> Option<Place> {
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
}

/// The names that a conflict name can stand for. What a node is called has no `~`, and there is no
/// dot within an extension.
fn names_behind(conflict_name: &[u8]) -> impl Iterator<Item = Box<[u8]>> {
    let dot = conflict_name.iter().rposition(|b| *b == b'.');
    let ends = [Some(conflict_name.len()), dot].into_iter().flatten();
    ends.filter_map(|end| {
        let (before, extension) = conflict_name.split_at(end);
        let stem = &before[..before.iter().rposition(|b| *b == b'~')?];
        Some([stem, extension].concat().into())
    })
}

/// The conflict names that a version may have, the best first, without those really there and
/// those that are another node's.
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
