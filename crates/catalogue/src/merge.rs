//! Keeps the merged state consistent with the rows that are added and removed.
//!
//! To *settle* a name is to compute the version that it shows. A name is settled whenever one of
//! its rows is added or removed, or whenever the availability of a row changes. Results that depend
//! on a whole directory (conflict names and its newest time) are computed once a batch, in
//! [`Merge::finish_batch`]. Each step examines only the name, its content and the directories above
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::SWEEP_STEP_RECORDS;
use super::budget::Costs;
use super::change::{Change, Changes};
use super::conflicts::{Conflicts, Renames, StaleConflictNames};
use super::dir::{Counted, Dir, NEVER};
use super::early::FutureDated;
use super::merged::{Merged, NodeState};
use super::orders::{ByHash, ByName, DirRef, HashFrom, Named, OwnName};
use super::row::{Class, DirId, NodeIndex, Row};
use super::sealed::SealedRecords;
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// The merged state and the bookkeeping to update it.
pub(super) struct Merge {
    pub state: Merged,
    pub changes: Changes,
    /// Whether the state differs from the last published view.
    pub dirty: bool,
    /// A listed row that is being removed. It is still in the listing, but is not a candidate.
    pub(super) leaving: Option<Row>,
    free: Vec<DirId>,
    pub(super) settling: Unsettled,
    pub(super) naming: ConflictNaming,
    stale_times: BTreeSet<DirId>,
    pub(super) costs: Costs,
    pub(super) sealed: SealedRecords,
    /// Node names that the cluster has certified. Each replaces the name that the node gives
    /// itself.
    pub(super) certified_names: BTreeMap<NodeId, NodeName>,
}

/// The names that still need to be settled, and the bounds of one step of that work.
pub(super) struct Unsettled {
    /// Names that another version may have now, or with a waiting version whose time came.
    pub(super) unsettled: Vec<Row>,
    /// Contents with a changed availability, and the last name of each that was settled. Names
    /// after it still need to be settled. Each content is here once, however often its availability
    /// changes.
    pub(super) unsettled_contents: BTreeMap<ContentHash, Option<ByHash>>,
    /// Number of candidates examined so far. One name may have very many.
    pub(super) looks: usize,
    /// Records of one step: [`SWEEP_STEP_RECORDS`], or fewer in tests.
    pub(super) step_records: usize,
    pub(super) early: FutureDated,
    /// Authors of versions dated ahead of the clock that were not reported yet.
    pub(super) dated_ahead: BTreeSet<NodeIndex>,
}

/// The other names of versions that do not have their own name.
#[derive(Default)]
pub(super) struct ConflictNaming {
    pub(super) conflicts: Conflicts,
    pub(super) stale_aliases: StaleConflictNames,
    pub(super) renames: Renames,
}

/// Availability and size of a content before a change.
struct ContentAvailability {
    hash: ContentHash,
    available: bool,
    shared_bytes: u64,
}

impl Merge {
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        Self {
            state: Merged::new(me, name),
            changes: Changes::default(),
            dirty: true,
            leaving: None,
            free: Vec::new(),
            settling: Unsettled {
                unsettled: Vec::new(),
                unsettled_contents: BTreeMap::new(),
                looks: 0,
                step_records: SWEEP_STEP_RECORDS,
                early: FutureDated::default(),
                dated_ahead: BTreeSet::new(),
            },
            naming: ConflictNaming::default(),
            stale_times: BTreeSet::new(),
            costs: Costs::default(),
            sealed: SealedRecords::default(),
            certified_names: BTreeMap::new(),
        }
    }

    /// Replaces the row `gone` by `new`. Both are about the same name or content of the same
    /// author.
    pub(crate) fn change(&mut self, gone: Option<&Row>, new: Option<&Row>) {
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
            new.inspect(|row| merge.update_privacy_of_added(row));
            gone.inspect(|row| merge.update_privacy_of_removed(row));
            merge.count_presence(gone, new);
            new.inspect(|row| merge.costs.add_row(row));
            gone.inspect(|row| merge.costs.drop_row(row));
        });
        self.leaving = None;
        self.record_own_change(rows[0]);
        if let Some(gone) = gone.filter(|row| row.has_name()) {
            let child = self.state.dir(gone.dir).child(gone.name());
            self.drop_empty(child.unwrap_or(gone.dir));
        }
    }

    /// Records changes of a name and of its conflict names after an own record of that name was
    /// added or removed. Each of these names may now resolve to the own file, or no longer do so,
    /// although it shows the same attributes.
    fn record_own_change(&mut self, row: &Row) {
        if row.author != self.state.me || !row.has_name() {
            return;
        }
        self.record_change(row.dir, row.name(), Change::Entry);
        let names = self.naming.conflicts.get(&row.dir);
        let given = names.and_then(|names| names.get(row.name()));
        for alias in given.cloned().into_iter().flatten() {
            self.record_change(row.dir, alias.name(), Change::Entry);
        }
    }

    /// Counts rows of one author according to its new liveness, up to the sequence `done`.
    pub(crate) fn sweep(&mut self, author: NodeIndex, rows: &[Row], done: u64) {
        let rows: Vec<&Row> = rows.iter().filter(|row| !row.is_tombstone()).collect();
        self.around(&rows, |merge| merge.node_mut(author).sweep = Some(done));
        for row in rows.iter().filter(|row| row.class == Class::Directory) {
            self.retime_directory(row);
        }
    }

    /// Returns one author's row of a name, including tombstones.
    pub(crate) fn named_row(
        &self,
        dir: DirId,
        name: &[u8],
        author: NodeIndex,
        share: ShareIndex,
    ) -> Option<Row> {
        let dir = self.state.dir(dir);
        let listed = dir.listed.get(&Named(name)).map(|row| &row.0);
        listed
            .filter(|row| (row.author, row.share) == (author, share))
            .or_else(|| {
                dir.rest
                    .get(&OwnName {
                        name,
                        author,
                        share,
                    })
                    .map(|row| &row.0)
            })
            .cloned()
    }

    /// Returns one author's row of a cached content, including tombstones.
    pub(crate) fn cached_row(&self, hash: ContentHash, author: NodeIndex) -> Option<Row> {
        [Class::Have, Class::HaveNot].into_iter().find_map(|class| {
            let from = HashFrom {
                hash,
                class,
                author: u32::from(author.0),
            };
            let row = &self.state.by_hash.from(&from).next()?.row;
            let own = row.hash == *hash.as_bytes() && row.class == class && row.author == author;
            own.then(|| row.clone())
        })
    }

    /// Returns the directory of a path, and creates the missing ones.
    pub(crate) fn dir_of(&mut self, path: &SharedPath) -> DirId {
        path.components()
            .fold(DirId::ROOT, |dir, name| self.child_of(dir, name))
    }

    fn child_of(&mut self, parent: DirId, name: &[u8]) -> DirId {
        if let Some(known) = self.state.dir(parent).child(name) {
            return known;
        }
        let id = self
            .free
            .pop()
            .unwrap_or(DirId(self.state.dirs.len() as u32));
        let place = DirRef::new(id, name);
        let dir = Some(Arc::new(Dir::new(parent, place.clone())));
        if id.0 as usize == self.state.dirs.len() {
            self.state.dirs.push_back(dir);
        } else {
            self.state.dirs.set(id.0 as usize, dir);
        }
        self.dir_mut(parent).absent_dirs.insert(place);
        id
    }

    /// Removes a directory that no row needs, and each directory above it that becomes unneeded.
    pub(crate) fn drop_empty(&mut self, mut id: DirId) {
        while id != DirId::ROOT {
            let dir = self.state.dir(id);
            let (parent, place) = (dir.parent, dir.place.clone());
            if !self.state.dir(id).is_empty() {
                return;
            }
            let is_record = |row: &Row| row.class == Class::Directory;
            let above = self.state.dir(parent);
            let recorded = above.candidates(place.name()).position(is_record);
            if let Some(at) = recorded {
                self.settling.looks += at;
                return;
            }
            self.dir_mut(parent).absent_dirs.remove(&place);
            self.state.dirs.set(id.0 as usize, None);
            self.free.push(id);
            self.changes.directory_ended(id);
            self.naming.conflicts.remove(&id);
            self.stale_times.remove(&id);
            id = parent;
        }
    }

    /// Runs an edit, then settles every name that may show something else.
    fn around(&mut self, rows: &[&Row], edit: impl FnOnce(&mut Self)) {
        let mut before: Vec<ContentAvailability> = Vec::new();
        for row in rows.iter().filter(|row| row.gives_content()) {
            if before.iter().all(|standing| standing.hash != row.hash()) {
                before.push(self.standing(row.hash()));
            }
        }
        edit(self);
        self.dirty = true;
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
                self.settle(row.dir, row.name());
            }
            settled = Some(row);
        }
    }

    fn settle_standing(&mut self, was: &ContentAvailability) {
        let is = self.standing(was.hash);
        let totals = &mut self.state.totals;
        let without = totals.unique_bytes.wrapping_sub(was.shared_bytes);
        totals.unique_bytes = without.wrapping_add(is.shared_bytes);
        if is.available != was.available {
            self.settle_content(was.hash);
        }
    }

    /// Records the size of a private content that the own cache holds completely, or `None` if it
    /// no longer does.
    pub(crate) fn record_own_private(&mut self, hash: ContentHash, size_bytes: Option<u64>) {
        if self.state.kept.get(&hash).copied() == size_bytes {
            return;
        }
        let was = self.standing(hash);
        match size_bytes {
            Some(size_bytes) => drop(self.state.kept.insert(hash, size_bytes)),
            None => drop(self.state.kept.remove(&hash)),
        }
        self.dirty = true;
        self.settle_standing(&was);
    }

    fn standing(&self, hash: ContentHash) -> ContentAvailability {
        let first = self.state.files_of(hash).next();
        match first {
            Some(row) if self.state.is_live(row) => ContentAvailability {
                hash,
                available: true,
                shared_bytes: row.size_bytes(),
            },
            _ => ContentAvailability {
                hash,
                available: self.state.is_available(hash),
                shared_bytes: self.state.shared_bytes(hash),
            },
        }
    }

    fn remove_row(&mut self, row: &Row) {
        if row.class == Class::File || !row.has_name() {
            self.state.by_hash.remove(&ByHash::new(row.clone()));
        }
        if !row.has_name() {
            return;
        }
        self.settling.early.remove(row);
        let dir = self.dir_mut(row.dir);
        if dir
            .listed
            .get(&Named(row.name()))
            .is_some_and(|listed| listed.0.is(row))
        {
            self.leaving = Some(row.clone());
        } else {
            dir.rest.remove(&ByName(row.clone()));
        }
        if row.class == Class::Directory {
            self.lower_time(row.dir, row.version_time());
            self.record_change(row.dir, row.name(), Change::Entry);
        }
    }

    fn insert_row(&mut self, row: &Row) {
        if row.class == Class::File || !row.has_name() {
            self.state.by_hash.insert(ByHash::new(row.clone()));
        }
        if !row.has_name() {
            return;
        }
        if self.state.is_ahead(row) {
            self.settling.early.insert(row);
        }
        if self.state.is_early(row) {
            self.settling.dated_ahead.insert(row.author);
        }
        self.dir_mut(row.dir).rest.insert(ByName(row.clone()));
        if row.class == Class::Directory {
            self.child_of(row.dir, row.name());
            self.retime_directory(row);
        }
    }

    fn count_presence(&mut self, gone: Option<&Row>, new: Option<&Row>) {
        let row = |row: Option<&Row>| row.filter(|row| row.has_name()).cloned();
        for (row, more) in [(row(new), true), (row(gone), false)] {
            let Some(row) = row else { continue };
            if !row.is_tombstone() {
                self.count_up(&row, row.dir, Counted::Names, more);
            }
            let recorded = self.state.dir(row.dir).child(row.name());
            let recorded = recorded.filter(|_| row.class == Class::Directory);
            self.count_up(&row, recorded.unwrap_or(row.dir), Counted::Rows, more);
        }
    }

    /// Counts a row of an author in a directory. If the directory thereby receives its first row of
    /// the author or loses its last one, also counts it in the directory above, and so on.
    fn count_up(&mut self, row: &Row, mut dir: DirId, what: Counted, more: bool) {
        while self.dir_mut(dir).count(row.author, what, more) && dir != DirId::ROOT {
            let here = self.state.dir(dir);
            let (name_bytes, parent) = (here.place.name().len(), here.parent);
            if matches!(what, Counted::Rows) {
                self.costs.count_directory(row.author, name_bytes, more);
            }
            dir = parent;
        }
    }

    /// Updates the time of the directory that contains a directory record, after the record was
    /// added, became due, or changed liveness.
    pub(super) fn retime_directory(&mut self, row: &Row) {
        if self.state.dates_directory(row) {
            self.raise_time(row.dir, row.version_time());
        } else {
            self.lower_time(row.dir, row.version_time());
        }
        self.record_change(row.dir, row.name(), Change::Entry);
    }

    /// Records a change of a name, or of the directory itself if the name is empty.
    pub(super) fn record_change(
        &mut self,
        dir: DirId,
        name: &[u8],
        change: fn(SharedPath) -> Change,
    ) {
        self.dirty = true;
        self.changes.record_in(&self.state, dir, name, change);
    }

    pub(super) fn raise_time(&mut self, dir: DirId, time: Timestamp) {
        if self.state.dir(dir).newest <= time {
            self.dir_mut(dir).newest = time;
            self.stale_times.remove(&dir);
            self.record_new_time(dir);
        }
    }

    /// Records a changed time of a directory, and of those above that have no time of their own.
    fn record_new_time(&mut self, mut dir: DirId) {
        loop {
            self.record_change(dir, &[], Change::Listing);
            let parent = self.state.dir(dir).parent;
            if dir == DirId::ROOT || self.state.dir(parent).newest != NEVER {
                return;
            }
            dir = parent;
        }
    }

    pub(super) fn lower_time(&mut self, dir: DirId, time: Timestamp) {
        if self.state.dir(dir).newest == time {
            self.stale_times.insert(dir);
        }
    }

    /// Computes the results that depend on whole directories. A view is only taken after this.
    pub(crate) fn finish_batch(&mut self) {
        for dir in std::mem::take(&mut self.stale_times) {
            let here = self.state.dir(dir);
            let recorded = here
                .rest
                .iter()
                .map(|row| &row.0)
                .filter(|row| self.state.dates_directory(row));
            let shown = here.listed.iter().map(|row| &row.0).chain(recorded);
            let newest = shown.map(Row::version_time).max().unwrap_or(NEVER);
            if newest != here.newest {
                self.dir_mut(dir).newest = newest;
                self.record_new_time(dir);
            }
        }
        self.refresh_stale(usize::MAX);
    }

    pub(crate) fn node_mut(&mut self, index: NodeIndex) -> &mut NodeState {
        self.dirty = true;
        let node = &mut Arc::make_mut(&mut self.state.nodes)[usize::from(index.0)];
        node.as_mut().expect("rows name known nodes")
    }

    pub(super) fn dir_mut(&mut self, id: DirId) -> &mut Dir {
        let dir = self
            .state
            .dirs
            .get_mut(id.0 as usize)
            .and_then(Option::as_mut);
        Arc::make_mut(dir.expect("rows and directories name known directories"))
    }
}
