//! The namespace as it was at one moment: what the filesystem's threads read.
//!
//! Immutable and shared; every answer comes from memory, in time that does not grow with the
//! namespace but by its logarithm and with what is asked for.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;

use super::dir::{Dir, NEVER};
use super::held::{Held, HeldName};
use super::merged::{Content, Merged, Totals};
use super::orders::{After, DirRef, Named};
use super::row::{Class, DirId, NodeIndex, Row};
use p2pfs_proto::wire::native::record::{Kind, Sender, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A file, directory or link; with size, hash and executable bit for a file.
    pub kind: Kind,
    /// Its modification time; of a directory, its newest change.
    pub mtime: Timestamp,
    /// By which the versions of a name are ranked; of a directory, as `mtime`.
    pub version_time: Timestamp,
    /// Whose record it is. For a directory the author of its newest live record, this node where
    /// there is none (the root, and directories that only names below them imply).
    pub author: NodeId,
    /// Where this node itself shares this under this same name: the same content with the same
    /// attributes, so that the file itself can stand for what every other node shows.
    pub own: Option<(ShareIndex, SharedPath)>,
    /// How many directories are listed in it; 0 for all but directories.
    pub subdirectories: u32,
    /// What this is taken from, of a file or link.
    pub said: Option<Held>,
}

/// A live node says that it has all of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which node.
    pub node: NodeId,
    /// How large that says the content is.
    pub size_bytes: u64,
    /// Where in its log it says so: higher where it says so anew.
    pub sequence: u64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// As it is listed, conflict names included.
    pub name: Box<[u8]>,
    /// What it stands for.
    pub found: Found,
}

/// The merged namespace at one moment.
pub struct View {
    pub(super) merged: Merged,
    /// Which of its catalogue's views it is, counted from 0.
    pub(super) number: u64,
}

impl View {
    /// Whether it is of a later moment than another view of the same catalogue.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.number > other.number
    }

    /// Which of its catalogue's views it is: two of one number are the same.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What a path stands for; the root always is a directory.
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

    /// At most `limit` names of a directory in ascending order of their bytes, those after
    /// `after`; empty where the directory is not listed or there are no more.
    pub fn children(&self, dir: &SharedPath, after: Option<&[u8]>, limit: usize) -> Vec<Child> {
        let Some(id) = self.listed_dir(dir) else {
            return Vec::new();
        };
        let here = self.merged.dir(id);
        listing(here, after)
            .filter_map(|listed| {
                let found = match &listed {
                    Listed::File(name, row) if row.name() == *name => self.found(here, row)?,
                    Listed::File(_, row) => self.found_as(row, None)?,
                    Listed::Directory(place) => self.directory(place.id()),
                };
                Some(Child {
                    name: listed.name().into(),
                    found,
                })
            })
            .take(limit)
            .collect()
    }

    /// All names of a directory, as [`children`](Self::children) has them, held.
    pub fn names(&self, dir: &SharedPath) -> Vec<HeldName> {
        let id = self.listed_dir(dir);
        let listed = id.map(|id| listing(self.merged.dir(id), None));
        let listed = listed.into_iter().flatten();
        listed
            .map(|listed| match listed {
                Listed::File(name, row) if row.name() == name => HeldName::Said(Held(row.clone())),
                other => HeldName::Other(other.name().into()),
            })
            .collect()
    }

    /// What a name of [`names`](Self::names) stands for, without a search for it; it must be of
    /// the view with this [`number`](Self::number).
    pub fn found_of(&self, said: &Held) -> Option<Found> {
        self.found(self.merged.dir(said.0.dir), &said.0)
    }

    /// What a content is, where a live node has it, under whatever name or in its cache.
    pub fn by_hash(&self, hash: &ContentHash) -> Option<Content> {
        self.merged.content(*hash)
    }

    /// The live nodes that have a content whole, as a file or in their cache, this one included.
    pub fn holders(&self, hash: &ContentHash) -> Vec<NodeId> {
        let nodes = self.merged.holders(*hash);
        nodes
            .into_iter()
            .map(|node| self.merged.node(node).id)
            .collect()
    }

    /// The same, with what each says; a node may be named twice.
    pub fn claims(&self, hash: &ContentHash) -> Vec<Claim> {
        let claim = |row: &Row| Claim {
            node: self.merged.node(row.author).id,
            size_bytes: row.size_bytes(),
            sequence: row.sequence,
        };
        self.merged.claims(*hash).map(claim).collect()
    }

    /// Whether this node is the only live one that says it has a content.
    pub fn is_mine_alone(&self, hash: &ContentHash) -> bool {
        self.merged.is_mine_alone(*hash)
    }

    /// Whether another live node says it has a content.
    pub fn is_elsewhere(&self, hash: &ContentHash) -> bool {
        self.merged.is_elsewhere(*hash)
    }

    /// Whether any node's log, live or not, still names a content as a file's.
    pub fn is_named(&self, hash: &ContentHash) -> bool {
        self.merged.files_of(*hash).next().is_some()
    }

    /// Up to `limit` paths that a content is listed under, conflict names included; where there is
    /// none, that live nodes share it under.
    pub fn names_of(&self, hash: &ContentHash, limit: usize) -> Vec<SharedPath> {
        let rows = || self.merged.files_of(*hash);
        let listed = rows().filter_map(|row| self.listed_path(row));
        let mut names: Vec<SharedPath> = listed.take(limit).collect();
        if names.is_empty() {
            let live = rows().filter(|row| self.merged.is_live(row)).take(limit);
            names.extend(live.map(|row| self.merged.path_of(row.dir, row.name())));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Sums over the namespace.
    pub fn totals(&self) -> Totals {
        self.merged.totals
    }

    /// What a node is called wherever names tell nodes apart, dead ones included.
    pub fn label(&self, node: &NodeId) -> Option<String> {
        let (_, node) = self.merged.known().find(|(_, known)| known.id == *node)?;
        node.name.as_ref().map(|_| node.label.to_string())
    }

    /// The node that is called so.
    pub fn node_called(&self, label: &str) -> Option<NodeId> {
        let mut known = self.merged.known();
        let called = known.find(|(_, node)| node.name.is_some() && *node.label == *label);
        called.map(|(_, node)| node.id)
    }

    /// Who sent the content that a path shows to a live node that shares it so; of a path that is
    /// none of the namespace's, to any that shares the content.
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
                let mut rows = self.merged.files_of(*hash);
                rows.find_map(|row| self.gives(row, hash).then(|| row.sent_by())?)
            }
        }
    }

    fn gives(&self, row: &Row, hash: &ContentHash) -> bool {
        row.class == Class::File && row.hash() == *hash && self.merged.is_live(row)
    }

    fn listed_dir(&self, path: &SharedPath) -> Option<DirId> {
        path.components().try_fold(DirId::ROOT, |dir, name| {
            self.merged.dir(dir).dirs.get(&Named(name)).map(DirRef::id)
        })
    }

    fn found(&self, dir: &Dir, row: &Row) -> Option<Found> {
        self.found_as(row, self.own(dir, row))
    }

    /// What lost its name has no `own`: it is one version, also where it is this node's own, whose
    /// file may be written to.
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
            said: Some(Held(row.clone())),
        })
    }

    /// This node's own candidate of the same name, content and attributes.
    fn own(&self, dir: &Dir, row: &Row) -> Option<(ShareIndex, SharedPath)> {
        let me = self.merged.me;
        let own = match row.author == me {
            true => row,
            // no search, where no name here has another candidate than what it shows
            false if dir.rest.is_empty() => return None,
            false => {
                let mut same = dir.candidates(row.name()).filter(|r| r.author == me);
                same.find(|r| (r.kind(), r.mtime()) == (row.kind(), row.mtime()))?
            }
        };
        Some(self.place_of(own))
    }

    pub(super) fn place_of(&self, row: &Row) -> (ShareIndex, SharedPath) {
        let path = self.merged.path_of(row.dir, row.name());
        (self.merged.share_of(row), path)
    }

    pub(super) fn directory(&self, id: DirId) -> Found {
        let dir = self.merged.dir(id);
        let records = self.merged.dir(dir.parent).candidates(dir.place.name());
        let newest = records
            .filter(|row| self.merged.dates_directory(row))
            .max_by_key(|row| {
                let author = std::cmp::Reverse(*self.merged.node_of(row));
                (row.version_time(), row.mtime(), author)
            });
        let author = newest.map_or(self.merged.me, |row| row.author);
        // somebody may have dated it by hand: true until something in it changes
        let mtime = match newest {
            Some(row) if row.version_time() >= dir.newest => row.mtime(),
            _ => dir.newest,
        };
        self.directory_of(author, mtime, dir.dirs.len())
    }

    /// A directory as it is shown; one that never changed has the time 0.
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

/// One listed name: a file or link (perhaps under a conflict name), or a directory.
pub(super) enum Listed<'a> {
    File(&'a [u8], &'a Row),
    Directory(&'a DirRef),
}

impl Listed<'_> {
    pub(crate) fn name(&self) -> &[u8] {
        match self {
            Self::File(name, _) => name,
            Self::Directory(place) => place.name(),
        }
    }
}

/// All listed names of a directory after one, ascending.
pub(super) fn listing<'a>(
    dir: &'a Dir,
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = Listed<'a>> {
    // no name is empty, so all are after the empty one
    let place = || After(after.unwrap_or_default());
    let from = || (Bound::Included(place()), Bound::Unbounded);
    let files = dir
        .listed
        .from(&place())
        .map(|row| Listed::File(row.0.name(), &row.0));
    let aliases = dir
        .aliases
        .range(from())
        .map(|alias| Listed::File(alias.name(), alias.row()));
    let dirs = dir.dirs.range(from()).map(Listed::Directory);
    in_order(in_order(files, aliases), dirs)
}

/// Two ascending listings as one.
fn in_order<'a>(
    left: impl Iterator<Item = Listed<'a>>,
    right: impl Iterator<Item = Listed<'a>>,
) -> impl Iterator<Item = Listed<'a>> {
    let (mut left, mut right): (Peekable<_>, Peekable<_>) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if a.name().cmp(b.name()) == Ordering::Greater => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
