//! The merged state: live nodes, directories, and the holders of each content.
//!
//! It consists of persistent structures, so a copy of it is a view. A copy clones a few pointers,
//! and a later change copies only the parts that it modifies.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::audience::{Audience, Marks};
use super::content_index::{ContentIndex, NAMES_LOOKED_AT};
use super::dir::{Dir, NEVER};
use super::orders::{DirRef, HashFrom};
use super::owners::PathOwners;
use super::row::{Class, DirId, NodeIndex, Row};
use super::rules;
use super::unserved::Unserved;
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Owners of paths, as [`Catalogue::set_owners`](super::Catalogue::set_owners) gets them. A path
/// without an entry has the owner of the nearest entry above it, if there is one.
/// [`PathOwners`] finds that entry.
pub type Owners = BTreeMap<SharedPath, NodeId>;

/// Properties of a content that some live node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentOfHash {
    /// Size in bytes, as the first known record of it states.
    pub size_bytes: u64,
    /// Whether the first known file of it is executable.
    pub executable: bool,
}

/// Totals of the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of the distinct contents of files in the logs that a live node can give.
    pub unique_bytes: u64,
    /// Number of listed files, links and directories, without conflict names.
    pub entries: u64,
}

/// State of a node besides its log.
#[derive(Clone)]
pub(super) struct NodeState {
    pub id: NodeId,
    /// The name that the cluster has certified, otherwise the name in its head. `None` until a part
    /// of its log was applied or restored.
    pub name: Option<NodeName>,
    /// Its name, made unique among nodes of the same name.
    pub label: Arc<str>,
    pub live: bool,
    /// The sequence up to which rows count by the new liveness, during a sweep. Rows above it still
    /// count as before.
    pub sweep: Option<u64>,
}

/// The state of the merge.
#[derive(Clone)]
pub(super) struct Merged {
    pub me: NodeIndex,
    /// Nodes by [`NodeIndex`]. `None` if a node was forgotten.
    pub nodes: Arc<Vec<Option<NodeState>>>,
    /// Directories by [`DirId`]. `None` if a number is free.
    pub dirs: Vector<Option<Arc<Dir>>>,
    pub contents: ContentIndex,
    pub totals: Totals,
    /// Versions with a later time are not shown yet. `None` until the clock was set.
    pub horizon: Option<Timestamp>,
    pub owners: PathOwners,
    /// Readers of the records sealed under each author's numbers.
    pub audiences: Arc<BTreeMap<(NodeIndex, ShareIndex), Arc<Audience>>>,
    /// The terms of the shares of each author, with the tombstones of terms.
    pub terms: Arc<BTreeMap<(NodeIndex, ShareIndex), Row>>,
    pub marks: Marks,
    /// Private contents that the own cache holds completely, with their sizes. They are not
    /// announced to other nodes.
    pub kept: OrdMap<ContentHash, u64>,
    /// Contents, authors and names with versions that rank behind others.
    pub unserved: Unserved,
}

impl Merged {
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        let node = NodeState {
            id: me,
            label: name.as_str().into(),
            name: Some(name),
            live: true,
            sweep: None,
        };
        let root = Dir::new(DirId::ROOT, DirRef::new(DirId::ROOT, &[]));
        Self {
            me: NodeIndex(0),
            nodes: Arc::new(vec![Some(node)]),
            dirs: Vector::unit(Some(Arc::new(root))),
            contents: ContentIndex::new(),
            totals: Totals::default(),
            horizon: None,
            owners: PathOwners::default(),
            audiences: Arc::default(),
            terms: Arc::default(),
            marks: Marks::default(),
            kept: OrdMap::new(),
            unserved: Unserved::default(),
        }
    }

    /// Returns a node that rows refer to. A node outlives its rows.
    pub(crate) fn node(&self, index: NodeIndex) -> &NodeState {
        self.nodes[usize::from(index.0)]
            .as_ref()
            .expect("rows name known nodes")
    }

    pub(crate) fn node_of(&self, row: &Row) -> &NodeId {
        &self.node(row.author).id
    }

    /// Returns all nodes by their number.
    pub(crate) fn known(&self) -> impl Iterator<Item = (NodeIndex, &NodeState)> {
        let numbered = self.nodes.iter().enumerate();
        numbered.filter_map(|(at, node)| Some((NodeIndex(at as u16), node.as_ref()?)))
    }

    pub(crate) fn dir(&self, id: DirId) -> &Dir {
        self.dirs[id.0 as usize]
            .as_ref()
            .expect("rows and directories name known directories")
    }

    /// Returns whether a row counts as live, which is whether its author is live. A row that the
    /// author's running sweep has not reached yet counts as before the sweep.
    pub(crate) fn is_live(&self, row: &Row) -> bool {
        let node = self.node(row.author);
        match node.sweep {
            Some(done) if row.sequence > done => !node.live,
            _ => node.live,
        }
    }

    /// Returns one row of each live author that gives a content by rows of one class.
    pub(super) fn givers(&self, hash: ContentHash, class: Class) -> impl Iterator<Item = &Row> {
        let mut author = 0;
        std::iter::from_fn(move || {
            loop {
                let from = HashFrom {
                    hash,
                    class,
                    author,
                };
                let first = self.contents.rows.from(&from).next().map(|by| &by.row)?;
                if first.hash != *hash.as_bytes() || first.class != class {
                    return None;
                }
                author = u32::from(first.author.0) + 1;
                let node = self.node(first.author);
                // During a sweep, either the lowest or the highest sequences are live.
                let witness = if node.sweep.is_some() && !node.live {
                    let end = HashFrom {
                        hash,
                        class,
                        author,
                    };
                    self.contents
                        .rows
                        .last_before(&end)
                        .map_or(first, |by| &by.row)
                } else {
                    first
                };
                if self.is_live(witness) {
                    return Some(first);
                }
            }
        })
    }

    /// Returns whether some live node can give the bytes.
    pub(crate) fn is_available(&self, hash: ContentHash) -> bool {
        self.having(hash).next().is_some()
    }

    /// Returns the live nodes that have all the bytes, each once.
    pub(crate) fn holders(&self, hash: ContentHash) -> Vec<NodeIndex> {
        let mut nodes: Vec<NodeIndex> = self.having(hash).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Returns the ids of the live nodes that have all the bytes, each once.
    pub(crate) fn holder_ids(&self, hash: ContentHash) -> Vec<NodeId> {
        let nodes = self.holders(hash).into_iter();
        nodes.map(|node| self.node(node).id).collect()
    }

    /// Returns whether a node states this size for a content: under one of its first
    /// [`NAMES_LOOKED_AT`] names of it, or as its cache's.
    pub(crate) fn states_size(&self, node: NodeIndex, content: &ContentKey) -> bool {
        let ContentKey { hash, size_bytes } = *content;
        let files = self.contents.files_from(hash, node);
        let mut files = files.take(NAMES_LOOKED_AT);
        let cached = self.contents.cached_row(hash, node);
        let cached = cached.filter(|row| row.class == Class::Have);
        let kept = self.kept.get(&hash).filter(|_| node == self.me);
        files.any(|row| row.size_bytes() == size_bytes)
            || cached.is_some_and(|row| row.size_bytes() == size_bytes)
            || kept == Some(&size_bytes)
    }

    /// Returns the live nodes that have all the bytes. A node may appear twice.
    pub(crate) fn having(&self, hash: ContentHash) -> impl Iterator<Item = NodeIndex> {
        let kept = self.kept.contains_key(&hash).then_some(self.me);
        self.givers(hash, Class::File)
            .chain(self.givers(hash, Class::Have))
            .map(|row| row.author)
            .chain(kept)
    }

    /// Returns the live authors of a content, each once.
    pub(crate) fn live_authors(&self, hash: ContentHash) -> impl Iterator<Item = NodeIndex> {
        self.givers(hash, Class::File).map(|row| row.author)
    }

    /// Returns whether a file or link may be listed: no rule leaves it without any name. Returns
    /// `false` for other rows.
    pub(crate) fn is_listable(&self, row: &Row) -> bool {
        let is_version = matches!(row.class, Class::File | Class::Symlink);
        is_version && rules::unlisting_rule(self, row).is_none()
    }

    /// Returns whether a live node can give a file or link.
    pub(crate) fn is_givable(&self, row: &Row) -> bool {
        match row.class {
            Class::File => self.is_live(row) || self.is_available(row.hash()),
            Class::Symlink => self.is_live(row),
            _ => false,
        }
    }

    /// Returns whether a row ranks behind all versions that did not prove unserved.
    pub(crate) fn is_unserved(&self, row: &Row) -> bool {
        let path = || self.path_of(row.dir, row.name());
        self.unserved.covers(row, path)
    }

    /// Returns whether a row makes a directory listed at its name.
    pub(crate) fn lists_directory(&self, row: &Row) -> bool {
        row.class == Class::Directory
            && self.is_live(row)
            && self.may_have(row, row.name())
            && self.deletion_of(row).is_none()
    }

    /// Returns the deletion that hides a file, link or directory. If there are several, the latest.
    pub(crate) fn deletion_of<'a>(&'a self, row: &Row) -> Option<&'a Row> {
        let here = self.dir(row.dir);
        // A deletion is not sealed, so it counts in no sealed share.
        if here.gone.is_empty() || row.share.is_sealed() {
            return None;
        }
        let content = row.content()?;
        let counts = |gone: &&Row| {
            gone.version_time() >= row.version_time()
                && gone.replaces().contains(content.as_bytes())
                && self.admits_change(row, gone)
                && self.may_have(gone, gone.name())
                && !self.is_early(gone)
        };
        let rows = here.gone_at(row.name()).filter(counts);
        rows.max_by_key(|gone| (gone.version_time(), self.node_of(gone)))
    }

    /// Returns whether the replacements and deletions that another row states count against a row:
    /// both have one author, or the share of the row is open.
    pub(crate) fn admits_change(&self, row: &Row, by: &Row) -> bool {
        row.author == by.author || self.is_open(row)
    }

    /// Returns whether a row is in a share in which the replacements and deletions of other nodes
    /// count.
    pub(crate) fn is_open(&self, row: &Row) -> bool {
        let terms = self.terms.get(&(row.author, self.share_of(row)));
        terms.is_some_and(|terms| terms.class == Class::Open)
    }

    /// Returns whether a file, link or deletion is dated so far ahead of the clock that it must
    /// wait.
    pub(crate) fn is_early(&self, row: &Row) -> bool {
        matches!(row.class, Class::File | Class::Symlink | Class::Gone) && self.is_ahead(row)
    }

    /// Returns whether the time of a row of any class is ahead of the clock by more than the
    /// tolerance.
    pub(crate) fn is_ahead(&self, row: &Row) -> bool {
        let horizon = self.horizon;
        horizon.is_some_and(|horizon| row.version_time() > horizon)
    }

    /// Returns whether a directory record counts for the time of that directory and of its parent.
    /// A record ahead of the clock does not count. Otherwise it would hide every change until its
    /// time.
    pub(crate) fn dates_directory(&self, row: &Row) -> bool {
        self.lists_directory(row) && !self.is_ahead(row)
    }

    /// Returns the newest record that dates a directory.
    pub(crate) fn record_of_directory<'a>(&'a self, dir: &'a Dir) -> Option<&'a Row> {
        let records = self.dir(dir.parent).candidates(dir.place.name());
        records
            .filter(|row| self.dates_directory(row))
            .max_by_key(|row| {
                let author = std::cmp::Reverse(*self.node_of(row));
                (row.version_time(), row.mtime(), author)
            })
    }

    /// Returns the time of a directory. If it has no record, and neither files nor recorded
    /// subdirectories, it has the newest time of its subdirectories. Visits at most `left` of
    /// these, in the order of their names, so that every node finds the same time.
    pub(crate) fn time_of_directory(&self, id: DirId, left: &mut usize) -> Timestamp {
        let dir = self.dir(id);
        match self.record_of_directory(dir) {
            // The directory may have been dated by hand. That date applies until something in it
            // changes.
            Some(row) if row.version_time() >= dir.newest => return row.mtime(),
            None if dir.newest == NEVER => {}
            _ => return dir.newest,
        }
        let mut newest = NEVER;
        for below in &dir.dirs {
            let Some(rest) = left.checked_sub(1) else {
                break;
            };
            *left = rest;
            newest = newest.max(self.time_of_directory(below.id(), left));
        }
        newest
    }

    /// Returns the directory of a path, listed or not.
    pub(crate) fn find_dir(&self, path: &SharedPath) -> Option<DirId> {
        path.components()
            .try_fold(DirId::ROOT, |dir, name| self.dir(dir).child(name))
    }

    /// Returns the path of a name in a directory, or of the directory itself if the name is empty.
    pub(crate) fn path_of(&self, dir: DirId, name: &[u8]) -> SharedPath {
        let mut names = Vec::new();
        let mut at = dir;
        while at != DirId::ROOT {
            let dir = self.dir(at);
            names.push(dir.place.name());
            at = dir.parent;
        }
        names.reverse();
        if !name.is_empty() {
            names.push(name);
        }
        SharedPath::new(names.join(&b'/')).expect("what is known came by shared paths")
    }

    /// Returns whether the author of a row may have a name in its directory. The name is the row's
    /// own, or a possible conflict name of it.
    pub(crate) fn may_have(&self, row: &Row, name: &[u8]) -> bool {
        if self.owners.is_empty() {
            return true;
        }
        let path = self.path_of(row.dir, name);
        let author = self.node_of(row);
        let owner = self.owners.owner_of(&path);
        let is_link = row.class == Class::Symlink;
        owner.is_none_or(|owner| owner == *author)
            && !(is_link && self.owners.is_owned_beneath(&path, author))
    }

    /// Returns the readers of the records sealed under the number of a row.
    pub(crate) fn audience(&self, row: &Row) -> Option<&Arc<Audience>> {
        self.audiences.get(&(row.author, row.share))
    }

    /// Returns the author's share that a row is in.
    pub(crate) fn share_of(&self, row: &Row) -> ShareIndex {
        let audience = self.audience(row).filter(|_| row.share.is_sealed());
        audience.map_or(row.share, |audience| audience.share)
    }
}
