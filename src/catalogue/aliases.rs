//! Names beside the winner for the versions that lost.
//!
//! All conflict names of a directory are given out at once, in the order of the names they stand
//! for and of the rank of their versions, so that they depend on what is there and not on what
//! came first. A name that is really there is never taken, nor one that another node owns. The
//! first free form is: with the author's name, then with the start of its key. Where neither is
//! free or fits, there is none.

use std::collections::BTreeMap;

use imbl::OrdSet;

use super::change::Change;
use super::merge::Merge;
use super::merged::Merged;
use super::orders::{Alias, Named};
use super::row::{DirId, Row};
use super::rules::conflict_name;
use crate::path::PATH_MAX_BYTES;

/// The digits of a key in the second form of a conflict name.
const KEY_DIGITS: usize = 8;

impl Merge {
    /// Gives the versions that lost in a directory their names.
    pub(super) fn refresh_aliases(&mut self, dir: DirId) {
        let mut names: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
        for (_, versions) in self.conflicts_in(dir) {
            for row in versions {
                let free = |name: &Vec<u8>| !names.contains_key(name);
                if let Some(name) = forms(&self.state, dir, &row).into_iter().find(free) {
                    names.insert(name, row);
                }
            }
        }
        let aliases: OrdSet<Alias> = names
            .iter()
            .map(|(name, row)| Alias::new(row.clone(), name))
            .collect();
        let old = std::mem::replace(&mut self.dir_mut(dir).aliases, aliases.clone());
        self.note_aliases(dir, &old, &aliases);
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
}

/// The conflict names that a version may have, the best first, without those really there and
/// those that are another node's.
fn forms(state: &Merged, dir: DirId, row: &Row) -> Vec<Vec<u8>> {
    let node = state.node(row.author);
    let by_key = format!("{}-{}", node.label, node.id.short(KEY_DIGITS));
    let here = state.dir(dir);
    let room_bytes = PATH_MAX_BYTES.saturating_sub(state.path_of(dir, &[]).as_bytes().len() + 1);
    [&*node.label, &by_key]
        .into_iter()
        .filter_map(|label| conflict_name(row.name(), label))
        .filter(|name| name.len() <= room_bytes)
        .filter(|name| state.may_have(row, name))
        .filter(|name| !here.listed.contains(&Named(name)) && !here.dirs.contains(&Named(name)))
        .collect()
}
