//! The names of the mount: the shown view of the catalogue, and the known files of foreign peers,
//! which are all in the root.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::attributes::StatFs;
use super::error::FsError;
use super::inode::{Name, Node, WrittenFile};
use super::merged::{RemovedNames, UpperPlace, WrittenNumbers};
use super::names::{self, ResolvedName};
use super::places::PathsByNumber;
use super::queries::RunningQueries;
use super::shown::ShownView;
use super::traits::{Content, ForeignFile, ForeignFiles};
use p2pfs_catalogue::{NameHandle, View};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::path::SharedPath;

/// Further names for which `df -i` shows room. No such limit exists, and programs that check before
/// they work take 0 for a full disk.
const FREE_ENTRIES: u64 = 1 << 30;

/// The names of the mount, and the [`Content`] that provides them.
pub struct MountNamespace {
    pub(super) content: Arc<dyn Content>,
    /// Start of the filesystem. It is the modification time of names without one of their own.
    pub(super) started: Timestamp,
    /// The queries of foreign peers.
    pub(super) queries: RunningQueries,
    /// The names that this node deleted for all nodes.
    pub(super) removed: RemovedNames,
    pub(super) written_numbers: WrittenNumbers,
    shown: ShownView,
    paths: PathsByNumber,
}

impl MountNamespace {
    /// Creates the namespace of a content. No view is shown before the first request.
    pub(super) fn new(content: Arc<dyn Content>) -> Self {
        Self {
            content,
            started: Timestamp::from(SystemTime::now()),
            queries: RunningQueries::default(),
            removed: RemovedNames::default(),
            written_numbers: WrittenNumbers::default(),
            shown: ShownView::default(),
            paths: PathsByNumber::default(),
        }
    }

    /// Returns whether a lookup of this path would succeed now.
    pub fn shows(&self, path: &SharedPath) -> bool {
        let name = Name::Union(path.clone());
        self.resolve(&self.view(), &name).is_some()
    }

    /// Returns whether a name of the root stands for something, as shown now or in the newest view.
    pub fn shows_in_root(&self, name: &[u8]) -> bool {
        let Ok(path) = SharedPath::new(name) else {
            return false;
        };
        let newest = Name::Union(path.clone());
        self.shows(&path) || self.resolve(&self.content.view(), &newest).is_some()
    }

    /// Returns whether the shown namespace is the newest.
    pub fn is_up_to_date(&self) -> bool {
        let newest = self.content.view();
        let shown = self.shown.of(newest.clone(), Instant::now());
        !newest.is_newer_than(&shown)
    }

    /// Returns the figures for `df`. Used bytes are those that the cluster shares. Available bytes
    /// are those that a program can still write, or if this node has no writable share, those that
    /// the cache may still store.
    pub fn statfs(&self) -> StatFs {
        let totals = self.view().totals();
        let space = self.content.space();
        // The share with the highest place is the one that most writes go to.
        let folder = self.folders().and_then(|folders| folders.last().cloned());
        let disk = folder.and_then(|folder| folder.upper.space().ok());
        let writing = self.content.writing();
        let room = disk.zip(writing).map(|(disk, writing)| {
            let room = writing.room();
            room.shown(disk, || writing.written_bytes())
        });
        let cached_bytes = || space.budget_bytes.saturating_sub(space.used_bytes);
        StatFs {
            used_bytes: totals.unique_bytes,
            available_bytes: room.map_or_else(cached_bytes, |room| room.available_bytes),
            entries: totals.entries,
            free_entries: FREE_ENTRIES,
        }
    }

    /// Takes the room on a disk for a written file that grows.
    ///
    /// # Errors
    /// ENOSPC if the budget or the floor of the disk does not allow it.
    pub(super) fn take_room(&self, disk: impl AsFd, growth_bytes: u64) -> Result<(), FsError> {
        let writing = self.content.writing().ok_or(FsError::ReadOnly)?;
        let taken = (writing.room()).take(disk, growth_bytes, || writing.written_bytes());
        taken.map_err(|error| FsError::of_disk(&error))
    }

    /// Records that a written file shrank or was removed.
    pub(super) fn record_shrunk(&self) {
        if let Some(writing) = self.content.writing() {
            writing.room().record_shrunk();
        }
    }

    /// Returns the place of a file in a writable share.
    pub(super) fn place_of(&self, file: &WrittenFile) -> Option<UpperPlace> {
        let folders = self.folders()?;
        let folder = folders.iter().find(|it| it.share == file.share)?;
        Some(UpperPlace {
            folder: folder.clone(),
            local: file.local.clone(),
        })
    }

    /// Returns the view that is shown.
    pub(super) fn view(&self) -> Arc<View> {
        self.shown.of(self.content.view(), Instant::now())
    }

    /// Shows a view after the kernel was notified of its changes, and drops the index of
    /// directories and links. `view` is `None` for changes of foreign peers.
    pub(super) fn show(&self, view: Option<Arc<View>>) {
        if let Some(view) = view {
            self.shown.show(view);
            self.removed.forget_until(&self.view());
        }
        self.paths.forget();
        self.end_shared_queries();
    }

    /// Ends the requests that wait for foreign peers and whose names a node of the cluster shares
    /// by now.
    fn end_shared_queries(&self) {
        let view = self.view();
        self.queries.end_shared(|name| is_shared(&view, name));
    }

    /// Returns whether the shown view has a name of the root.
    pub(super) fn is_shared(&self, name: &[u8]) -> bool {
        is_shared(&self.view(), name)
    }

    /// Returns the path of the directory or link with an inode number.
    pub(super) fn path_of_number(&self, view: &Arc<View>, ino: u64) -> Option<SharedPath> {
        self.paths.path_of(view, ino)
    }

    /// Returns what a name stands for, including known foreign files.
    pub(super) fn resolve(&self, view: &View, name: &Name) -> Option<ResolvedName> {
        let native = self.native(view, name);
        native.or_else(|| {
            let Name::Union(path) = name else { return None };
            let known = self.foreign_in(view).file(path);
            known.map(|_| self.foreign_listed())
        })
    }

    /// Returns the names of a directory, including known foreign files.
    pub(super) fn names_in(&self, view: &View, directory: &Name) -> Vec<NameHandle> {
        let mut children = names::children(view, directory);
        if let Name::Union(path) = directory {
            self.add_written_names(view, path, &mut children);
        }
        if matches!(directory, Name::Union(path) if path.is_root()) {
            let foreign = self.foreign_in(view).names();
            children.extend(foreign.map(|path| NameHandle::from(Box::from(path.as_bytes()))));
        }
        children
    }

    fn foreign_in<'a>(&'a self, view: &'a View) -> ForeignNames<'a> {
        ForeignNames::new(view, self.content.foreign())
    }

    /// Returns the known foreign file of this name.
    pub(super) fn foreign_file_of(&self, name: &Name) -> Option<ForeignFile> {
        self.known_foreign(in_root(name)?)
    }

    /// Returns the names of the known foreign files.
    pub(super) fn foreign_names(&self) -> Vec<Box<[u8]>> {
        let foreign = self.content.foreign();
        foreign.map(ForeignFiles::names).unwrap_or_default()
    }

    /// Returns the known foreign file with this name in the root.
    pub(super) fn known_foreign(&self, name: &[u8]) -> Option<ForeignFile> {
        self.content.foreign()?.known(name)
    }

    /// Returns the node of a name that a foreign peer has or may have.
    pub(super) fn foreign_listed(&self) -> ResolvedName {
        ResolvedName::new(Node::Foreign, self.started)
    }
}

/// The files of foreign peers among the names of a namespace. Foreign peers have no folders, so all
/// of them are in the root. A name that a node of the cluster shares is not among them.
#[derive(Clone, Copy)]
pub struct ForeignNames<'a> {
    view: &'a View,
    files: Option<&'a dyn ForeignFiles>,
}

impl<'a> ForeignNames<'a> {
    /// Merges a view with the files of the foreign peers, if there are such peers.
    pub fn new(view: &'a View, files: Option<&'a dyn ForeignFiles>) -> Self {
        Self { view, files }
    }

    /// Returns the file at a path that a foreign peer is known to have, unless a node shares the
    /// name.
    pub fn file(&self, path: &SharedPath) -> Option<ForeignFile> {
        let files = self.files?;
        let is_foreign = path.components().count() == 1 && self.view.lookup(path).is_none();
        is_foreign.then(|| files.known(path.as_bytes()))?
    }

    /// Returns the names of the known files, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = SharedPath> + use<'a> {
        let (view, files) = (self.view, self.files.into_iter());
        let names = files.flat_map(ForeignFiles::names);
        let paths = names.filter_map(|name| SharedPath::new(name).ok());
        paths.filter(move |path| view.lookup(path).is_none())
    }
}

fn is_shared(view: &View, name: &[u8]) -> bool {
    let path = SharedPath::new(name).ok();
    path.is_some_and(|path| names::resolve(view, &Name::Union(path)).is_some())
}

/// Returns the name if it is directly in the root. Foreign peers have no folders.
pub(super) fn in_root(name: &Name) -> Option<&[u8]> {
    match name {
        Name::Union(path) if path.components().count() == 1 => Some(path.as_bytes()),
        _ => None,
    }
}
