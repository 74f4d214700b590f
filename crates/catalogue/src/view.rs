//! An immutable snapshot of the namespace, which the filesystem's threads read.
//!
//! The threads share it, and it answers from memory.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::contents::ContentQueries;
use super::dir::{Dir, NEVER};
use super::held::{NameHandle, RecordHandle};
use super::merged::{Merged, Totals};
use super::orders::{After, DirRef, Named};
use super::owners::PathOwners;
use super::peers::PeerFiles;
use super::row::{Class, DirId, NO_SHARE, NodeIndex, Row};
use super::versions::{NameAuthors, NameVersions, Version};
use p2pfs_proto::wire::native::record::{KeepOffer, Kind, Sender, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of directories that are visited to date a directory without a record and without
/// files, such as the place of a share. Without a limit, very many subdirectories would delay each
/// `stat`.
pub(super) const DATING_MAX: usize = 256;

/// Number of names that are read from a directory at once.
const FILES_BATCH: usize = 1000;

/// The object that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A file, directory or link. A file has its size, hash and executable bit.
    pub kind: Kind,
    /// Modification time. For a directory, the recorded time or that of a newer change in it.
    pub mtime: Timestamp,
    /// Time by which the versions of a name are ranked. For a directory it equals `mtime`.
    pub version_time: Timestamp,
    /// The author of the record. For a directory, the author of its newest live record, or this
    /// node if there is none. In [`PeerFiles`], the author of a directory is the node that the
    /// query is about.
    pub author: NodeId,
    /// The own file or link that this node shares under the same name with the same kind, content
    /// and mtime. `None` for a conflict name.
    pub own: Option<(ShareIndex, SharedPath)>,
    /// Number of listed subdirectories. In [`PeerFiles`], of those that the node shares. It is 0
    /// for files and links.
    pub subdirectories: u32,
    /// The record of a file or link.
    pub said: Option<RecordHandle>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The listed name, which may be a conflict name.
    pub name: Box<[u8]>,
    /// The object that it stands for.
    pub found: Found,
}

/// A node that offers to keep files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// The node.
    pub node: NodeId,
    /// Its offer.
    pub offer: KeepOffer,
    /// Whether the node is live.
    pub is_live: bool,
}

/// A snapshot of the merged namespace.
pub struct View {
    pub(super) merged: Merged,
    /// Number of this view among those of its catalogue, counted from 0.
    pub(super) number: u64,
}

impl View {
    /// Returns whether this view is newer than another view of the same catalogue.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.number > other.number
    }

    /// Returns the number of this view among those of its catalogue. Two views of one number are
    /// the same.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the queries by content.
    pub fn contents(&self) -> ContentQueries<'_> {
        ContentQueries { view: self }
    }

    /// Returns the queries of the unmerged files of single nodes.
    pub fn peers(&self) -> PeerFiles<'_> {
        PeerFiles { view: self }
    }

    /// Returns the nodes that offer to keep files, live or not, including this one.
    pub fn keepers(&self) -> Vec<Keeper> {
        let known = self.merged.known();
        let keepers = known.filter_map(|(index, node)| {
            let row = self.merged.terms.get(&(index, NO_SHARE))?;
            Some(Keeper {
                node: node.id,
                offer: row.keep_offer(),
                is_live: node.live,
            })
        });
        keepers.filter(|it| !it.offer.paths.is_empty()).collect()
    }

    /// Returns whether a node is live.
    pub fn is_live(&self, node: &NodeId) -> bool {
        let mut known = self.merged.known();
        known.any(|(_, known)| known.id == *node && known.live)
    }

    /// Passes every listed file and link at and below a path to `take`, also those under a conflict
    /// name.
    pub fn each_file(&self, top: &SharedPath, take: &mut impl FnMut(SharedPath, &Found)) {
        if let Some(found) = self.lookup(top) {
            self.each_file_of(top.clone(), &found, take);
        }
    }

    fn each_file_of(
        &self,
        path: SharedPath,
        found: &Found,
        take: &mut impl FnMut(SharedPath, &Found),
    ) {
        if found.kind != Kind::Directory {
            return take(path, found);
        }
        let mut after: Option<Box<[u8]>> = None;
        loop {
            let batch = self.children(&path, after.as_deref(), FILES_BATCH);
            let Some(last) = batch.last() else { break };
            after = Some(last.name.clone());
            for Child { name, found } in &batch {
                if let Ok(below) = path.join(name) {
                    self.each_file_of(below, found, take);
                }
            }
        }
    }

    /// Returns the owners of paths.
    pub fn owners(&self) -> &PathOwners {
        &self.merged.owners
    }

    /// Returns the object at a path, or `None` if nothing is listed there. The root is always a
    /// directory.
    pub fn lookup(&self, path: &SharedPath) -> Option<Found> {
        let Some(parent) = path.parent() else {
            return Some(self.directory(DirId::ROOT));
        };
        let dir = self.listed_dir(&parent)?;
        let here = self.merged.dir(dir);
        let name = path.file_name();
        if let Some(row) = here.listed.get(&Named(name)) {
            return self.found(here, &row.0);
        }
        if let Some(child) = here.dirs.get(&Named(name)) {
            return Some(self.directory(child.id()));
        }
        self.found_as(here.aliases.get(&Named(name))?.row(), None)
    }

    /// Returns at most `limit` names of a directory after `after`, in ascending byte order. The
    /// result is empty if the directory is not listed or has no further names.
    pub fn children(&self, dir: &SharedPath, after: Option<&[u8]>, limit: usize) -> Vec<Child> {
        let Some(id) = self.listed_dir(dir) else {
            return Vec::new();
        };
        let here = self.merged.dir(id);
        listing(here, after)
            .filter_map(|listed| {
                let found = match &listed {
                    ListedName::File(name, row) if row.name() == *name => self.found(here, row)?,
                    ListedName::File(_, row) => self.found_as(row, None)?,
                    ListedName::Directory(place) => self.directory(place.id()),
                };
                Some(Child {
                    name: listed.name().into(),
                    found,
                })
            })
            .take(limit)
            .collect()
    }

    /// Returns all names of a directory as cheap handles, in the order of
    /// [`children`](Self::children).
    pub fn names(&self, dir: &SharedPath) -> Vec<NameHandle> {
        let id = self.listed_dir(dir);
        let listed = id.map(|id| listing(self.merged.dir(id), None));
        let listed = listed.into_iter().flatten();
        listed
            .map(|listed| match listed {
                ListedName::File(name, row) if row.name() == name => {
                    NameHandle::Said(RecordHandle(row.clone()))
                }
                other => NameHandle::Other(other.name().into()),
            })
            .collect()
    }

    /// Returns the object that a name of [`names`](Self::names) stands for, without a lookup of its
    /// path. The name must be from a view with the same [`number`](Self::number) as this one.
    pub fn found_of(&self, said: &RecordHandle) -> Option<Found> {
        self.found(self.merged.dir(said.0.dir), &said.0)
    }

    /// Returns the totals of the namespace.
    pub fn totals(&self) -> Totals {
        self.merged.totals
    }

    /// Returns the label of a node, whether it is live or not. Returns `None` if its name is
    /// unknown.
    pub fn label(&self, node: &NodeId) -> Option<String> {
        let (_, node) = self.merged.known().find(|(_, known)| known.id == *node)?;
        node.name.as_ref().map(|_| node.label.to_string())
    }

    /// Returns the node with this label.
    pub fn node_called(&self, label: &str) -> Option<NodeId> {
        let mut known = self.merged.known();
        let called = known.find(|(_, node)| node.name.is_some() && *node.label == *label);
        called.map(|(_, node)| node.id)
    }

    /// Returns the sender of the content at a path, as recorded by a live node that shares it
    /// there. If no live node shares it there, uses any live node that shares the content.
    pub fn sent_by(&self, path: &SharedPath, hash: &ContentHash) -> Option<Sender> {
        let of_path = path.parent().and_then(|parent| {
            let here = self.merged.dir(self.listed_dir(&parent)?);
            let alias = here.aliases.get(&Named(path.file_name()));
            let name = alias.map_or(path.file_name(), |alias| alias.row().name());
            let rows = here.candidates(name);
            let rows: Vec<&Row> = rows.filter(|row| self.gives(row, hash)).collect();
            (!rows.is_empty()).then_some(rows)
        });
        match of_path {
            Some(rows) => rows.into_iter().find_map(Row::sent_by),
            None => {
                let mut rows = self.merged.contents.files_of(*hash);
                rows.find_map(|row| self.gives(row, hash).then(|| row.sent_by())?)
            }
        }
    }

    /// Returns every version of a path that any log has, the one with the name first. An unlisted
    /// directory is left out. A conflict name stands for the path from which it was derived.
    pub fn versions(&self, path: &SharedPath) -> Vec<Version> {
        NameVersions::at(self, path).map_or_else(Vec::new, |name| name.all())
    }

    /// Returns the authors of a name if it has files of several authors, one of which may be this
    /// node. A conflict name stands for the path from which it was derived. Examines a limited
    /// number of versions.
    pub fn authors_of(&self, path: &SharedPath, hash: &ContentHash) -> Option<NameAuthors> {
        NameVersions::at(self, path)?.authors(hash)
    }

    /// Returns whether reads of versions of a name failed lately.
    pub fn is_suspect(&self, path: &SharedPath) -> bool {
        self.merged.unserved.is_suspect(path)
    }

    /// Returns whether any log has a record of a name at or below a path, listed or not, even a
    /// tombstone or a deletion.
    pub fn is_known(&self, path: &SharedPath) -> bool {
        if path.is_root() || self.merged.find_dir(path).is_some() {
            return true;
        }
        let dir = path.parent().and_then(|dir| self.merged.find_dir(&dir));
        dir.is_some_and(|dir| {
            let (here, name) = (self.merged.dir(dir), path.file_name());
            here.candidates(name)
                .chain(here.gone_at(name))
                .next()
                .is_some()
        })
    }

    /// Passes all listed directories, the root first, and all listed links with their targets to
    /// `take`. Its cost grows with the number of names.
    pub fn directories_and_links(&self, mut take: impl FnMut(SharedPath, Option<Bytes>)) {
        let mut waiting = vec![DirId::ROOT];
        while let Some(id) = waiting.pop() {
            let dir = self.merged.dir(id);
            take(self.merged.path_of(id, &[]), None);
            let own_names = dir.listed.iter().map(|row| (&row.0, row.0.name()));
            let aliases = dir.aliases.iter().map(|it| (it.row(), it.name()));
            for (row, name) in own_names.chain(aliases) {
                if row.class == Class::Symlink {
                    let target = Bytes::copy_from_slice(row.target());
                    take(self.merged.path_of(id, name), Some(target));
                }
            }
            waiting.extend(dir.dirs.iter().map(|place| place.id()));
        }
    }

    fn gives(&self, row: &Row, hash: &ContentHash) -> bool {
        row.class == Class::File && row.hash() == *hash && self.merged.is_live(row)
    }

    pub(super) fn listed_dir(&self, path: &SharedPath) -> Option<DirId> {
        path.components().try_fold(DirId::ROOT, |dir, name| {
            self.merged.dir(dir).dirs.get(&Named(name)).map(DirRef::id)
        })
    }

    fn found(&self, dir: &Dir, row: &Row) -> Option<Found> {
        self.found_as(row, self.own(dir, row))
    }

    /// Converts a row. `own` is the own file of [`Found::own`]. For a conflict name it is `None`,
    /// even if the version is this node's. Such a version is fixed, while the own file may be
    /// written to.
    pub(super) fn found_as(
        &self,
        row: &Row,
        own: Option<(ShareIndex, SharedPath)>,
    ) -> Option<Found> {
        Some(Found {
            kind: row.kind()?,
            mtime: row.mtime(),
            version_time: row.version_time(),
            author: *self.merged.node_of(row),
            own,
            subdirectories: 0,
            said: Some(RecordHandle(row.clone())),
        })
    }

    /// Returns the place of this node's own candidate with the name, kind, content and mtime of a
    /// row.
    fn own(&self, dir: &Dir, row: &Row) -> Option<(ShareIndex, SharedPath)> {
        let me = self.merged.me;
        let own = if row.author == me {
            row
        } else if dir.rest.is_empty() {
            // This avoids the search if no name in the directory has candidates besides the listed
            // one.
            return None;
        } else {
            let mut same = dir.candidates(row.name()).filter(|r| r.author == me);
            same.find(|r| (r.kind(), r.mtime()) == (row.kind(), row.mtime()))?
        };
        Some(self.place_of(own))
    }

    pub(super) fn place_of(&self, row: &Row) -> (ShareIndex, SharedPath) {
        let path = self.merged.path_of(row.dir, row.name());
        (self.merged.share_of(row), path)
    }

    pub(super) fn directory(&self, id: DirId) -> Found {
        let dir = self.merged.dir(id);
        let newest = self.merged.record_of_directory(dir);
        let author = newest.map_or(self.merged.me, |row| row.author);
        let mtime = self.merged.time_of_directory(id, &mut { DATING_MAX });
        self.directory_of(author, mtime, dir.dirs.len())
    }

    /// Converts a directory. The time [`NEVER`] becomes 0.
    pub(super) fn directory_of(
        &self,
        author: NodeIndex,
        newest: Timestamp,
        subdirectories: usize,
    ) -> Found {
        let mtime = if newest == NEVER {
            Timestamp::default()
        } else {
            newest
        };
        Found {
            kind: Kind::Directory,
            mtime,
            version_time: mtime,
            author: self.merged.node(author).id,
            own: None,
            said: None,
            subdirectories: u32::try_from(subdirectories).unwrap_or(u32::MAX),
        }
    }
}

/// One listed name: a file or link (possibly under a conflict name), or a directory.
pub(super) enum ListedName<'a> {
    File(&'a [u8], &'a Row),
    Directory(&'a DirRef),
}

impl ListedName<'_> {
    pub(crate) fn name(&self) -> &[u8] {
        match self {
            Self::File(name, _) => name,
            Self::Directory(place) => place.name(),
        }
    }
}

/// Returns all listed names of a directory after a given one, ascending.
pub(super) fn listing<'a>(
    dir: &'a Dir,
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = ListedName<'a>> {
    // No name is empty, so all names are after the empty one.
    let place = || After(after.unwrap_or_default());
    let from = || (Bound::Included(place()), Bound::Unbounded);
    let files = dir
        .listed
        .from(&place())
        .map(|row| ListedName::File(row.0.name(), &row.0));
    let aliases = dir
        .aliases
        .range(from())
        .map(|alias| ListedName::File(alias.name(), alias.row()));
    let dirs = dir.dirs.range(from()).map(ListedName::Directory);
    in_order(in_order(files, aliases), dirs)
}

/// Merges two ascending listings.
fn in_order<'a>(
    left: impl Iterator<Item = ListedName<'a>>,
    right: impl Iterator<Item = ListedName<'a>>,
) -> impl Iterator<Item = ListedName<'a>> {
    let (mut left, mut right): (Peekable<_>, Peekable<_>) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if a.name().cmp(b.name()) == Ordering::Greater => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
