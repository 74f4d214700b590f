//! Computes the version that a name shows, and updates the directories above it.
//!
//! To *settle* a name is to compute the version that it shows. A name is settled after a change on
//! which its version depends: of its rows, their availability, their rank, the owners of paths or
//! the clock.

use std::collections::BTreeMap;

use super::SWEEP_STEP_RECORDS;
use super::aliases::ConflictNaming;
use super::change::Change;
use super::early::FutureDated;
use super::merged::Merged;
use super::orders::{ByHash, ByName, DirRef, HashFrom, ListedRow, Named};
use super::row::{Class, DirId, NodeIndex, Row};
use super::rules::{self, Replacements};
use super::tracked::TrackedState;
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;

/// Number of examined candidates that count as one step, like the application of a record.
pub(super) const LOOKS_PER_STEP: usize = 8;

/// The names that still need to be settled, and the bounds of one step of that work.
pub(super) struct Unsettled {
    /// Rows with names that may show another version now.
    pub(super) unsettled: Vec<Row>,
    /// Contents with names that still need to be settled, and the last name of each that was
    /// settled. The names after it still need to be settled, or all names if it is `None`.
    pub(super) unsettled_contents: BTreeMap<ContentHash, Option<ByHash>>,
    /// Shares with changed terms, and numbers of sealed records with a changed share. The names of
    /// rows above the sequence still need to be settled.
    pub(super) changed_terms: BTreeMap<(NodeIndex, ShareIndex), u64>,
    /// Number of candidates examined so far. One name may have very many.
    pub(super) looks: usize,
    /// Records of one step: [`SWEEP_STEP_RECORDS`], or fewer in tests.
    pub(super) step_records: usize,
    pub(super) early: FutureDated,
    /// Authors of versions dated ahead of the clock that were not reported yet, and the latest date
    /// of each.
    pub(super) dated_ahead: BTreeMap<NodeIndex, Timestamp>,
    /// A listed row that is being removed. It is still in the listing, but is not a candidate.
    pub(super) leaving: Option<Row>,
}

impl Default for Unsettled {
    fn default() -> Self {
        Self {
            unsettled: Vec::new(),
            unsettled_contents: BTreeMap::new(),
            changed_terms: BTreeMap::new(),
            looks: 0,
            step_records: SWEEP_STEP_RECORDS,
            early: FutureDated::default(),
            dated_ahead: BTreeMap::new(),
            leaving: None,
        }
    }
}

impl Unsettled {
    /// Records the author and the date of a version dated ahead of the clock.
    pub(super) fn note_dated_ahead(&mut self, row: &Row) {
        let at = row.version_time();
        let latest = self.dated_ahead.entry(row.author).or_insert(at);
        *latest = at.max(*latest);
    }

    /// Returns whether no names wait to be settled.
    pub(crate) fn is_done(&self) -> bool {
        self.unsettled.is_empty()
            && self.unsettled_contents.is_empty()
            && self.changed_terms.is_empty()
    }

    /// Converts the candidates examined since `looks` into steps.
    pub(crate) fn steps_since(&self, looks: usize) -> usize {
        (self.looks - looks) / LOOKS_PER_STEP
    }

    /// Returns the candidates of a name that may be listed, and the number of candidates examined.
    pub(super) fn listable<'a>(
        &self,
        state: &'a Merged,
        dir: DirId,
        name: &'a [u8],
    ) -> (Vec<&'a Row>, usize) {
        let leaving = |row: &Row| self.leaving.as_ref().is_some_and(|l| l.is(row));
        let mut looks = 0;
        let rows = state.dir(dir).candidates(name);
        let rows = rows.inspect(|_| looks += 1);
        let rows = rows.filter(|row| !leaving(row) && state.is_listable(row));
        let mut rows: Vec<&Row> = rows.collect();
        let replacements = Replacements::of(state, &rows);
        looks += replacements.looks;
        rows.retain(|row| replacements.of_row(row).is_none());
        (rows, looks)
    }
}

/// Computes the versions that names show.
pub(super) struct NameSettler<'a> {
    pub tracked: &'a mut TrackedState,
    pub settling: &'a mut Unsettled,
    pub naming: &'a mut ConflictNaming,
}

impl NameSettler<'_> {
    /// Settles a first step of the names of a content, and queues the rest. There may be very many,
    /// as for the empty file.
    pub(super) fn settle_content(&mut self, hash: ContentHash) {
        // The names of the content that waited are settled or queued again below.
        self.settling.unsettled_contents.remove(&hash);
        self.settle_files(hash, None, self.settling.step_records);
    }

    /// Settles waiting names for about `limit` steps. Returns the steps taken.
    pub(super) fn settle_waiting(&mut self, limit: usize) -> usize {
        let mut steps = 0;
        while steps < limit {
            if let Some(row) = self.settling.unsettled.pop() {
                steps += self.settle_row(&row);
            } else if let Some((hash, after)) = self.settling.unsettled_contents.pop_first() {
                steps += self.settle_files(hash, after, limit - steps);
            } else {
                break;
            }
        }
        steps
    }

    /// Queues the names of rows, and settles a first step of the waiting names. There may be very
    /// many.
    pub(super) fn settle_rows(&mut self, rows: Vec<Row>) {
        // A directory that becomes listed or unlisted changes the time of the directory around it.
        for row in &rows {
            match row.class {
                Class::Directory => self.tracked.retime_directory(row),
                Class::Gone => self.retime_directories(row.dir, row.name()),
                _ => {}
            }
        }
        let at_once = rows.len().min(self.settling.step_records);
        self.settling.unsettled.extend(rows);
        self.settle_waiting(at_once);
    }

    /// Updates the time of a directory after a deletion of directories in it was added or removed.
    pub(super) fn retime_directories(&mut self, dir: DirId, name: &[u8]) {
        let here = self.tracked.state.dir(dir);
        // Without a directory of this name there are no records of it.
        if here.child(name).is_none() {
            return;
        }
        let records = here.candidates(name);
        let records = records.filter(|row| row.class == Class::Directory);
        for row in records.cloned().collect::<Vec<Row>>() {
            self.tracked.retime_directory(&row);
        }
    }

    /// Settles the names of the waiting rows that are no longer dated ahead of the clock.
    pub(super) fn settle_due(&mut self, horizon: Timestamp) {
        let due = self.settling.early.take_up_to(horizon);
        self.tracked.dirty |= !due.is_empty();
        self.settle_rows(due);
    }

    /// Hides rows dated ahead of the clock.
    pub(super) fn hide_early(&mut self, early: Vec<Row>) {
        self.tracked.dirty |= !early.is_empty();
        for row in &early {
            self.settling.early.insert(row);
            if self.tracked.state.is_early(row) {
                self.settling.note_dated_ahead(row);
            }
        }
        self.settle_rows(early);
    }

    /// Settles the names of a content after a given one, for about `limit` steps. Returns the steps
    /// taken. The remaining names wait.
    fn settle_files(&mut self, hash: ContentHash, after: Option<ByHash>, limit: usize) -> usize {
        let files: Vec<ByHash> = match &after {
            None => self
                .tracked
                .state
                .contents
                .files_after(hash, &HashFrom::files(hash), limit),
            Some(after) => self.tracked.state.contents.files_after(hash, after, limit),
        };
        let (mut steps, mut last) = (0, after);
        for file in files {
            if steps >= limit {
                self.settling.unsettled_contents.insert(hash, last);
                return steps;
            }
            steps += self.settle_row(&file.row);
            last = Some(file);
        }
        steps
    }

    fn settle_row(&mut self, row: &Row) -> usize {
        let before = self.settling.looks;
        // The directory may be gone by now, or its number may stand for another directory. In both
        // cases nothing changes.
        if self.tracked.state.dirs[row.dir.0 as usize].is_some() {
            self.settle(row.dir, row.name());
        }
        1 + self.settling.steps_since(before)
    }

    /// Settles a name, and each directory above it that becomes occupied or empty.
    pub(super) fn settle(&mut self, mut dir: DirId, name: &[u8]) {
        let mut place: Option<DirRef> = None;
        loop {
            let name = place.as_ref().map_or(name, DirRef::name);
            let kept = self.settle_directory(dir, name);
            self.settle_file(dir, name, kept);
            let here = self.tracked.state.dir(dir);
            let occupied = !here.listed.is_empty() || !here.dirs.is_empty();
            if here.occupied == occupied {
                return;
            }
            let (parent, above) = (here.parent, here.place.clone());
            self.tracked.dir_mut(dir).occupied = occupied;
            if dir == DirId::ROOT {
                return;
            }
            (dir, place) = (parent, Some(above));
        }
    }

    /// Lists or unlists the directory of a name. Returns whether a listed directory has the name
    /// now.
    fn settle_directory(&mut self, dir: DirId, name: &[u8]) -> bool {
        let here = self.tracked.state.dir(dir);
        let Some(child) = here.child(name) else {
            return false;
        };
        let place = self.tracked.state.dir(child).place.clone();
        let recorded = here
            .candidates(name)
            .any(|row| self.tracked.state.lists_directory(row));
        let listed = recorded || self.tracked.state.dir(child).occupied;
        if listed == here.dirs.contains(&place) {
            return listed;
        }
        let here = self.tracked.dir_mut(dir);
        if listed {
            here.absent_dirs.remove(&place);
            here.dirs.insert(place);
            self.tracked.state.totals.entries += 1;
        } else {
            here.dirs.remove(&place);
            here.absent_dirs.insert(place);
            self.tracked.state.totals.entries -= 1;
        }
        self.tracked.record_change(dir, name, Change::Entry);
        self.tracked.record_change(dir, &[], Change::Listing);
        self.naming.mark_wanted_alias(dir, name);
        listed
    }

    /// Lists the winning version of a name, unless a directory has the name.
    fn settle_file(&mut self, dir: DirId, name: &[u8], directory_has_it: bool) {
        let before = self.settling.looks;
        let (best, has_others) = self.best(dir, name);
        let steps = 1 + self.settling.steps_since(before);
        let conflict = has_others || (directory_has_it && best.is_some());
        let winner = best.filter(|_| !directory_has_it);
        let old = self
            .tracked
            .state
            .dir(dir)
            .listed
            .get(&Named(name))
            .map(|row| row.0.clone());
        let unchanged = match (&old, &winner) {
            (None, None) => true,
            (Some(old), Some(winner)) => old.is(winner),
            _ => false,
        };
        if !unchanged {
            self.relist(dir, old.as_ref(), winner.as_ref());
        }
        self.naming.mark_conflict(dir, name, conflict, steps);
    }

    fn relist(&mut self, dir: DirId, old: Option<&Row>, new: Option<&Row>) {
        let leaving = self.settling.leaving.clone();
        let here = self.tracked.dir_mut(dir);
        if let Some(old) = old {
            here.listed.remove(&ListedRow(old.clone()));
            if !leaving.is_some_and(|row| row.is(old)) {
                here.rest.insert(ByName(old.clone()));
            }
            self.tracked.lower_time(dir, old.version_time());
        }
        if let Some(new) = new {
            let here = self.tracked.dir_mut(dir);
            here.rest.remove(&ByName(new.clone()));
            here.listed.insert(ListedRow(new.clone()));
            self.tracked.raise_time(dir, new.version_time());
        }
        let Some(name) = new.or(old).map(Row::name) else {
            return;
        };
        if old.is_some() != new.is_some() {
            let entries = self.tracked.state.totals.entries;
            self.tracked.state.totals.entries = if new.is_some() {
                entries + 1
            } else {
                entries - 1
            };
            self.tracked.record_change(dir, &[], Change::Listing);
            self.naming.mark_wanted_alias(dir, name);
        }
        let same = old
            .zip(new)
            .is_some_and(|(old, new)| old.to_entry() == new.to_entry());
        if !same {
            self.tracked.record_change(dir, name, Change::Entry);
        }
    }

    /// Returns the best version of a name that may be listed, and whether there are others.
    fn best(&mut self, dir: DirId, name: &[u8]) -> (Option<Row>, bool) {
        let (rows, looks) = self.settling.listable(&self.tracked.state, dir, name);
        let best = rows
            .iter()
            .copied()
            .min_by(|a, b| rules::order(&self.tracked.state, a, b));
        let is_other = |row: &&Row| best.is_some_and(|best| !best.same_content(row));
        let has_others = rows.iter().any(is_other);
        let best = best.cloned();
        self.settling.looks += looks;
        (best, has_others)
    }
}
