//! Keeps the merged state consistent with the rows that are added and removed.
//!
//! A change of a row updates the directories and the indexes. It then settles the names that may
//! show something else, or queues them (`settle`). Outdated conflict names and directory times are
//! computed again in [`Merge::finish_batch`] at the latest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::aliases::ConflictNaming;
use super::audience::list_of;
use super::budget::Costs;
use super::change::Change;
use super::dir::Counted;
use super::labels::NodeNames;
use super::merged::Merged;
use super::orders::{ByHash, ByName, Named};
use super::private;
use super::row::{Class, DirId, NO_SHARE, NodeIndex, Row};
use super::sealed::SealedRecords;
use super::settle::{NameSettler, Unsettled};
use super::tracked::TrackedState;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};

/// The merged state and the bookkeeping to update it.
pub(super) struct Merge {
    pub tracked: TrackedState,
    pub settling: Unsettled,
    pub naming: ConflictNaming,
    pub costs: Costs,
    pub sealed: SealedRecords,
    /// Node names that the cluster has certified. Each replaces the name that the node gives
    /// itself.
    certified_names: BTreeMap<NodeId, NodeName>,
}

/// Availability of a content, and the bytes that it adds to
/// [`Totals::unique_bytes`](super::merged::Totals::unique_bytes).
struct ContentAvailability {
    hash: ContentHash,
    available: bool,
    shared_bytes: u64,
}

impl Merge {
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        Self {
            tracked: TrackedState::new(me, name),
            settling: Unsettled::default(),
            naming: ConflictNaming::default(),
            costs: Costs::default(),
            sealed: SealedRecords::default(),
            certified_names: BTreeMap::new(),
        }
    }

    /// Returns the merged state.
    pub(crate) fn state(&self) -> &Merged {
        &self.tracked.state
    }

    /// Returns the operations that settle names.
    pub(crate) fn settler(&mut self) -> NameSettler<'_> {
        NameSettler {
            tracked: &mut self.tracked,
            settling: &mut self.settling,
            naming: &mut self.naming,
        }
    }

    /// Returns the operations on node names.
    pub(crate) fn node_names(&mut self) -> NodeNames<'_> {
        NodeNames {
            settler: NameSettler {
                tracked: &mut self.tracked,
                settling: &mut self.settling,
                naming: &mut self.naming,
            },
            certified: &mut self.certified_names,
        }
    }

    /// Removes the row `gone` and adds the row `new`. Both are about the same name or content of
    /// the same author.
    pub(crate) fn change(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        if new.or(gone).is_some_and(|row| row.is_terms()) {
            return self.change_terms(gone, new);
        }
        let opened = gone.filter(|row| !row.is_opaque());
        if new.or(gone).is_some_and(|row| row.is_opaque()) {
            // The old record under this seal could be opened, and the new one cannot.
            if let Some(opened) = opened {
                self.change(Some(opened), None);
            }
            return self.change_opaque(gone.filter(|row| row.is_opaque()), new);
        }
        let rows: Vec<&Row> = gone.into_iter().chain(new).collect();
        self.around(&rows, |merge| {
            if let Some(gone) = gone {
                merge.remove_row(gone);
            }
            if let Some(new) = new {
                merge.insert_row(new);
            }
            merge.sealed.index_opened(gone, new);
            let (state, sealed) = (&mut merge.tracked.state, &mut merge.sealed);
            new.inspect(|row| private::record_added(state, sealed, row));
            gone.inspect(|row| private::record_removed(state, sealed, row));
            merge.count_presence(gone, new);
            new.inspect(|row| merge.costs.add_row(row));
            gone.inspect(|row| merge.costs.drop_row(row));
        });
        self.settling.leaving = None;
        self.record_own_change(rows[0]);
        if let Some(gone) = gone.filter(|row| row.has_name()) {
            let child = self.tracked.state.dir(gone.dir).child(gone.name());
            self.drop_empty(child.unwrap_or(gone.dir));
        }
    }

    /// Replaces the terms of a share or an offer to keep files. If the terms differ, queues the
    /// names of the share.
    fn change_terms(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        let terms = Arc::make_mut(&mut self.tracked.state.terms);
        let is_open = |row: Option<&Row>| row.is_some_and(|row| row.class == Class::Open);
        if let Some(row) = gone {
            terms.remove(&(row.author, row.share));
            self.costs.drop_row(row);
        }
        if let Some(row) = new {
            terms.insert((row.author, row.share), row.clone());
            self.costs.add_row(row);
        }
        let Some(row) = new.or(gone) else { return };
        self.tracked.dirty |= row.share == NO_SHARE;
        if is_open(gone) != is_open(new) {
            self.tracked.dirty = true;
            let place = (row.author, row.share);
            self.settling.changed_terms.insert(place, 0);
        }
    }

    /// Queues the names sealed under a number whose share became known or unknown, if the terms of
    /// the share make a difference.
    fn queue_sealed_names(&mut self, author: NodeIndex, number: ShareIndex, share: ShareIndex) {
        if self.tracked.state.terms.contains_key(&(author, share)) {
            self.settling.changed_terms.insert((author, number), 0);
        }
    }

    /// Replaces an opaque row by another with the same sealed path.
    fn change_opaque(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        if let Some(gone) = gone {
            self.sealed.remove_opaque(gone);
            self.costs.drop_row(gone);
            if gone.class == Class::Readers {
                self.tracked.dirty = true;
                let audiences = Arc::make_mut(&mut self.tracked.state.audiences);
                let audience = audiences.remove(&(gone.author, gone.share));
                if let Some(audience) = audience {
                    self.sealed.count_list(gone.author, audience.share, false);
                    self.queue_sealed_names(gone.author, gone.share, audience.share);
                }
            }
        }
        let Some(new) = new else { return };
        self.sealed.insert_opaque(new);
        self.costs.add_row(new);
        if let Some(list) = list_of(new) {
            let state = &self.tracked.state;
            let (me, author) = (state.node(state.me).id, *state.node_of(new));
            let audience = self.sealed.audience_of(&me, &author, (new.share, list));
            self.tracked.dirty = true;
            self.sealed.count_list(new.author, audience.share, true);
            self.queue_sealed_names(new.author, new.share, audience.share);
            let audiences = Arc::make_mut(&mut self.tracked.state.audiences);
            audiences.insert((new.author, new.share), Arc::new(audience));
        }
    }

    /// Records changes of a name and of its conflict names after an own record of that name was
    /// added or removed. The name may now resolve to the own file, or no longer do so, although it
    /// shows the same attributes.
    fn record_own_change(&mut self, row: &Row) {
        if row.author != self.tracked.state.me || !row.has_name() {
            return;
        }
        self.tracked
            .record_change(row.dir, row.name(), Change::Entry);
        let names = self.naming.conflicts.get(&row.dir);
        let given = names.and_then(|names| names.get(row.name()));
        for alias in given.cloned().into_iter().flatten() {
            self.tracked
                .record_change(row.dir, alias.name(), Change::Entry);
        }
    }

    /// Counts rows of one author according to its new liveness, up to the sequence `done`.
    pub(crate) fn sweep(&mut self, author: NodeIndex, rows: &[Row], done: u64) {
        let rows: Vec<&Row> = rows.iter().filter(|row| !row.is_tombstone()).collect();
        self.around(&rows, |merge| {
            merge.tracked.node_mut(author).sweep = Some(done)
        });
        for row in rows.iter().filter(|row| row.class == Class::Directory) {
            self.tracked.retime_directory(row);
        }
    }

    /// Removes a directory that no row needs, and each directory above it that becomes unneeded.
    pub(crate) fn drop_empty(&mut self, mut id: DirId) {
        while id != DirId::ROOT {
            let dir = self.tracked.state.dir(id);
            let (parent, place) = (dir.parent, &dir.place);
            if !dir.is_empty() {
                return;
            }
            let is_record = |row: &Row| row.class == Class::Directory;
            let above = self.tracked.state.dir(parent);
            let recorded = above.candidates(place.name()).position(is_record);
            if let Some(at) = recorded {
                self.settling.looks += at;
                return;
            }
            self.tracked.remove_dir(id);
            self.naming.conflicts.remove(&id);
            id = parent;
        }
    }

    /// Runs an edit of rows. Then settles their names, and the names of each content with a changed
    /// availability.
    fn around(&mut self, rows: &[&Row], edit: impl FnOnce(&mut Self)) {
        let mut before: Vec<ContentAvailability> = Vec::new();
        for row in rows.iter().filter(|row| row.gives_content()) {
            if before.iter().all(|standing| standing.hash != row.hash()) {
                before.push(self.standing(row.hash()));
            }
        }
        edit(self);
        self.tracked.dirty = true;
        before
            .into_iter()
            .for_each(|was| self.settle_standing(&was));
        let mut settled: Option<&Row> = None;
        // Tombstones show nowhere, so adding or removing one changes no name.
        for row in rows
            .iter()
            .filter(|row| row.has_name() && !row.is_tombstone())
        {
            let again = settled.is_some_and(|s| s.dir == row.dir && s.name() == row.name());
            if !again {
                self.settler().settle(row.dir, row.name());
            }
            if row.class == Class::Gone {
                self.settler().retime_directories(row.dir, row.name());
            }
            settled = Some(row);
        }
    }

    fn settle_standing(&mut self, was: &ContentAvailability) {
        let is = self.standing(was.hash);
        let totals = &mut self.tracked.state.totals;
        let without = totals.unique_bytes.wrapping_sub(was.shared_bytes);
        totals.unique_bytes = without.wrapping_add(is.shared_bytes);
        if is.available != was.available {
            self.settler().settle_content(was.hash);
        }
    }

    /// Records the size of a private content that the own cache holds completely, or `None` if it
    /// no longer does.
    pub(crate) fn record_own_private(&mut self, hash: ContentHash, size_bytes: Option<u64>) {
        if self.tracked.state.kept.get(&hash).copied() == size_bytes {
            return;
        }
        let was = self.standing(hash);
        match size_bytes {
            Some(size_bytes) => drop(self.tracked.state.kept.insert(hash, size_bytes)),
            None => drop(self.tracked.state.kept.remove(&hash)),
        }
        self.tracked.dirty = true;
        self.settle_standing(&was);
    }

    fn standing(&self, hash: ContentHash) -> ContentAvailability {
        let state = self.state();
        let first = state.contents.files_of(hash).next();
        let available = first.is_some_and(|row| state.is_live(row)) || state.is_available(hash);
        ContentAvailability {
            hash,
            available,
            shared_bytes: first.filter(|_| available).map_or(0, Row::size_bytes),
        }
    }

    fn remove_row(&mut self, row: &Row) {
        if row.class == Class::File || !row.has_name() {
            self.tracked
                .state
                .contents
                .rows
                .remove(&ByHash::new(row.clone()));
        }
        if !row.has_name() {
            return;
        }
        self.settling.early.remove(row);
        let dir = self.tracked.dir_mut(row.dir);
        if row.class == Class::Gone {
            dir.gone.remove(&ByName(row.clone()));
            return;
        }
        if dir
            .listed
            .get(&Named(row.name()))
            .is_some_and(|listed| listed.0.is(row))
        {
            self.settling.leaving = Some(row.clone());
        } else {
            dir.rest.remove(&ByName(row.clone()));
        }
        if row.class == Class::Directory {
            self.tracked.lower_time(row.dir, row.version_time());
            self.tracked
                .record_change(row.dir, row.name(), Change::Entry);
        }
    }

    fn insert_row(&mut self, row: &Row) {
        if row.class == Class::File || !row.has_name() {
            self.tracked
                .state
                .contents
                .rows
                .insert(ByHash::new(row.clone()));
        }
        if !row.has_name() {
            return;
        }
        if self.tracked.state.is_ahead(row) {
            self.settling.early.insert(row);
        }
        if self.tracked.state.is_early(row) {
            self.settling.note_dated_ahead(row);
        }
        let dir = self.tracked.dir_mut(row.dir);
        let rows = if row.class == Class::Gone {
            &mut dir.gone
        } else {
            &mut dir.rest
        };
        rows.insert(ByName(row.clone()));
        if row.class == Class::Directory {
            self.tracked.child_of(row.dir, row.name());
            self.tracked.retime_directory(row);
        }
    }

    fn count_presence(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        let row = |row: Option<&Row>| row.filter(|row| row.has_name()).cloned();
        for (row, more) in [(row(new), true), (row(gone), false)] {
            let Some(row) = row else { continue };
            if row.is_named_object() {
                self.count_up(&row, row.dir, Counted::Names, more);
            }
            let recorded = self.tracked.state.dir(row.dir).child(row.name());
            let recorded = recorded.filter(|_| row.class == Class::Directory);
            self.count_up(&row, recorded.unwrap_or(row.dir), Counted::Rows, more);
        }
    }

    /// Counts a row of an author in a directory, or discounts it. If the directory thereby receives
    /// its first row of the author or loses its last one, also counts it in the directory above,
    /// and so on.
    fn count_up(&mut self, row: &Row, mut dir: DirId, what: Counted, more: bool) {
        while self.tracked.dir_mut(dir).count(row.author, what, more) && dir != DirId::ROOT {
            let here = self.tracked.state.dir(dir);
            let (name_bytes, parent) = (here.place.name().len(), here.parent);
            if matches!(what, Counted::Rows) {
                self.costs.count_directory(row.author, name_bytes, more);
            }
            dir = parent;
        }
    }

    /// Reassigns stale conflict names for about `limit` steps, if they are so many that they would
    /// delay a view. Returns the steps taken.
    pub(crate) fn refresh_if_many(&mut self, limit: usize) -> usize {
        if self.naming.stale_aliases.steps() <= self.settling.step_records {
            return 0;
        }
        let (tracked, settling) = (&mut self.tracked, &mut self.settling);
        self.naming.refresh_stale(tracked, settling, limit)
    }

    /// Recomputes the directory times and conflict names that a batch of changes has made outdated.
    /// Must be called before a view is taken.
    pub(crate) fn finish_batch(&mut self) {
        self.tracked.refresh_times();
        let (tracked, settling) = (&mut self.tracked, &mut self.settling);
        self.naming.refresh_stale(tracked, settling, usize::MAX);
    }
}
