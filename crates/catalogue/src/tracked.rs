//! The state merged from the logs of all nodes, and a record of its changes, from which the
//! kernel's caches are invalidated. The functions here change directories, their times, and nodes,
//! and record each change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::change::{Change, Changes};
use super::dir::{Dir, NEVER};
use super::merged::{Merged, NodeState};
use super::orders::DirRef;
use super::row::{DirId, NodeIndex, Row};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// The merged state, and its changes that were not polled yet.
pub(super) struct TrackedState {
    pub state: Merged,
    pub changes: Changes,
    /// Whether the state differs from the last published view.
    pub dirty: bool,
    /// Numbers of removed directories.
    free: Vec<DirId>,
    /// Directories with a newest time that must be computed again.
    stale_times: BTreeSet<DirId>,
}

impl TrackedState {
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        Self {
            state: Merged::new(me, name),
            changes: Changes::default(),
            dirty: true,
            free: Vec::new(),
            stale_times: BTreeSet::new(),
        }
    }

    /// Returns the directory of a path, and creates the missing ones.
    pub(crate) fn dir_of(&mut self, path: &SharedPath) -> DirId {
        path.components()
            .fold(DirId::ROOT, |dir, name| self.child_of(dir, name))
    }

    /// Returns the directory of a name, and creates it if it is missing.
    pub(crate) fn child_of(&mut self, parent: DirId, name: &[u8]) -> DirId {
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

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&mut self, id: DirId) {
        let dir = self.state.dir(id);
        let (parent, place) = (dir.parent, dir.place.clone());
        self.dir_mut(parent).absent_dirs.remove(&place);
        self.state.dirs.set(id.0 as usize, None);
        self.free.push(id);
        self.changes.directory_ended(id);
        self.stale_times.remove(&id);
    }

    /// Updates the time of the directory that contains a directory record, after a change that may
    /// decide whether the record counts.
    pub(crate) fn retime_directory(&mut self, row: &Row) {
        if self.state.dates_directory(row) {
            self.raise_time(row.dir, row.version_time());
        } else {
            self.lower_time(row.dir, row.version_time());
        }
        self.record_change(row.dir, row.name(), Change::Entry);
    }

    /// Records a change of a name, or of the directory itself if the name is empty.
    pub(crate) fn record_change(
        &mut self,
        dir: DirId,
        name: &[u8],
        change: fn(SharedPath) -> Change,
    ) {
        self.dirty = true;
        self.changes.record_in(&self.state, dir, name, change);
    }

    pub(crate) fn raise_time(&mut self, dir: DirId, time: Timestamp) {
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

    pub(crate) fn lower_time(&mut self, dir: DirId, time: Timestamp) {
        if self.state.dir(dir).newest == time {
            self.stale_times.insert(dir);
        }
    }

    /// Computes the newest time of the directories that lost their newest entry.
    pub(crate) fn refresh_times(&mut self) {
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
    }

    /// Returns a node that rows refer to.
    pub(crate) fn node_mut(&mut self, index: NodeIndex) -> &mut NodeState {
        self.dirty = true;
        let node = &mut Arc::make_mut(&mut self.state.nodes)[usize::from(index.0)];
        node.as_mut().expect("rows name known nodes")
    }

    /// Returns a directory that rows or directories refer to.
    pub(crate) fn dir_mut(&mut self, id: DirId) -> &mut Dir {
        let dir = self
            .state
            .dirs
            .get_mut(id.0 as usize)
            .and_then(Option::as_mut);
        Arc::make_mut(dir.expect("rows and directories name known directories"))
    }
}
