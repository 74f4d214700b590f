//! The merged state: live nodes, directories, and the holders of each content.
//!
//! It consists of persistent structures, so a copy of it is a view. A copy clones a few pointers,
//! and a later change copies only the parts that it modifies.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use equivalent::Comparable;
use imbl::{OrdMap, OrdSet, Vector};

use super::audience::{Audience, Marks};
use super::dir::Dir;
use super::orders::{ByHash, DirRef, HashFrom};
use super::row::{Class, DirId, NodeIndex, Row};
use super::rules;
use super::sorted::SortedSet;
use super::unserved::Unserved;
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Owners of paths. A path without an entry has the owner of the nearest entry above it, if there
/// is one.
pub type Owners = BTreeMap<SharedPath, NodeId>;

/// Properties of a content that some live node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentOfHash {
    /// Size in bytes, as its holders state it.
    pub size_bytes: u64,
    /// Whether the first known file of it is executable.
    pub executable: bool,
}

/// Totals of the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of the distinct shared contents that a live node can give.
    pub unique_bytes: u64,
    /// Number of listed files, links and directories, without conflict names.
    pub entries: u64,
}

/// State of a node besides its log.
#[derive(Clone)]
pub(super) struct NodeState {
    pub id: NodeId,
    /// The name in its head. `None` until a head arrived.
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
    pub by_hash: SortedSet<ByHash>,
    pub totals: Totals,
    /// Versions with a later time are not shown yet. `None` until the clock was set.
    pub horizon: Option<Timestamp>,
    pub owners: Arc<Owners>,
    /// Readers of the records sealed under each author's numbers.
    pub audiences: Arc<BTreeMap<(NodeIndex, ShareIndex), Arc<Audience>>>,
    /// The rows of `by_hash` with names that arrived sealed.
    pub private: OrdSet<ByHash>,
    pub marks: Marks,
    /// Private contents that the own cache holds completely, with their sizes. They are not
    /// announced to other nodes.
    pub kept: OrdMap<ContentHash, u64>,
    /// Versions that rank behind all others.
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
            by_hash: SortedSet::new(),
            totals: Totals::default(),
            horizon: None,
            owners: Arc::default(),
            audiences: Arc::default(),
            private: OrdSet::new(),
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

    /// Returns whether a row counts as live. That is the liveness of its author, except that a row
    /// which the author's running sweep has not reached counts as before.
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
                let first = self.by_hash.from(&from).next().map(|by| &by.row)?;
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
                    self.by_hash.last_before(&end).map_or(first, |by| &by.row)
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

    /// Returns whether this node is the only live node that states it has all the bytes. Each read
    /// that has to wait asks this, so the search ends at the first other node.
    pub(crate) fn is_mine_alone(&self, hash: ContentHash) -> bool {
        let mut nodes = self.having(hash);
        let mine = |node: NodeIndex| node == self.me;
        nodes.next().is_some_and(mine) && nodes.all(mine)
    }

    /// Returns whether another live node states that it has all the bytes.
    pub(crate) fn is_elsewhere(&self, hash: ContentHash) -> bool {
        self.having(hash).any(|node| node != self.me)
    }

    /// Returns the live nodes that have all the bytes. A node may appear twice.
    fn having(&self, hash: ContentHash) -> impl Iterator<Item = NodeIndex> {
        let kept = self.kept.contains_key(&hash).then_some(self.me);
        self.givers(hash, Class::File)
            .chain(self.givers(hash, Class::Have))
            .map(|row| row.author)
            .chain(kept)
    }

    /// Returns the rows in which live nodes state that they have all the bytes. A node may have
    /// two.
    pub(crate) fn claims(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        self.givers(hash, Class::File)
            .chain(self.givers(hash, Class::Have))
    }

    /// Returns one author's row of a cached content, including tombstones.
    pub(crate) fn cached_row(&self, hash: ContentHash, author: NodeIndex) -> Option<Row> {
        [Class::Have, Class::HaveNot].into_iter().find_map(|class| {
            let from = HashFrom {
                hash,
                class,
                author: u32::from(author.0),
            };
            let row = &self.by_hash.from(&from).next()?.row;
            let own = row.hash == *hash.as_bytes() && row.class == class && row.author == author;
            own.then(|| row.clone())
        })
    }

    /// Returns all file rows of a content.
    pub(crate) fn files_of(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        let rows = self.by_hash.from(&HashFrom::files(hash));
        let rows = rows.map(|by| &by.row);
        rows.take_while(move |row| row.hash == *hash.as_bytes() && row.class == Class::File)
    }

    /// Returns up to `limit + 1` file rows of a content after a place, without the row at that
    /// place.
    pub(crate) fn files_after(
        &self,
        hash: ContentHash,
        place: &impl Comparable<ByHash>,
        limit: usize,
    ) -> Vec<ByHash> {
        let rows = self.by_hash.from(place);
        let rows = rows.skip_while(|by| place.compare(by).is_eq());
        let is_file = |row: &Row| row.hash == *hash.as_bytes() && row.class == Class::File;
        let rows = rows.take_while(|by| is_file(&by.row));
        rows.take(limit.saturating_add(1)).cloned().collect()
    }

    /// Returns the properties of a content if a live node has it.
    pub(crate) fn content(&self, hash: ContentHash) -> Option<ContentOfHash> {
        let given = self.is_available(hash);
        let first = self.by_hash.from(&HashFrom::files(hash)).next();
        let first = first.map(|by| &by.row)?;
        let found = given && first.hash == *hash.as_bytes() && first.gives_content();
        found.then_some(ContentOfHash {
            size_bytes: first.size_bytes(),
            executable: first.executable(),
        })
    }

    /// Returns the bytes that a content adds to the cluster's total. It is 0 if no file of it is
    /// available.
    pub(crate) fn shared_bytes(&self, hash: ContentHash) -> u64 {
        let size_bytes = self.files_of(hash).next().map(|row| row.size_bytes());
        size_bytes.filter(|_| self.is_available(hash)).unwrap_or(0)
    }

    /// Returns whether a row may show at its name: a live node can give it, it is due, and its
    /// author may have the name.
    pub(crate) fn is_givable(&self, row: &Row) -> bool {
        match row.class {
            _ if self.is_early(row) || !self.may_have_name(row) => false,
            Class::File => self.is_live(row) || self.is_available(row.hash()),
            Class::Symlink => self.is_live(row),
            _ => false,
        }
    }

    /// Ranks the versions of a name, the best first.
    pub(crate) fn rank(&self, rows: Vec<Row>) -> Vec<Row> {
        rules::rank(rows, |a, b| self.order(a, b))
    }

    /// Orders two candidates of a name by rank.
    pub(crate) fn order(&self, a: &Row, b: &Row) -> Ordering {
        let served_first = self.is_unserved(a).cmp(&self.is_unserved(b));
        served_first.then_with(|| self.order_if_served(a, b))
    }

    /// Orders two candidates of a name as if none had proved unserved.
    pub(crate) fn order_if_served(&self, a: &Row, b: &Row) -> Ordering {
        let live_first = self.is_live(b).cmp(&self.is_live(a));
        let by_rule = || rules::precedence((a, self.node_of(a)), (b, self.node_of(b)));
        live_first.then_with(by_rule)
    }

    /// Returns whether a row makes a directory listed at its name.
    pub(crate) fn lists_directory(&self, row: &Row) -> bool {
        row.class == Class::Directory && self.is_live(row) && self.may_have_name(row)
    }

    /// Returns whether a file or link is dated so far ahead of the clock that it must wait.
    pub(crate) fn is_early(&self, row: &Row) -> bool {
        matches!(row.class, Class::File | Class::Symlink) && self.is_ahead(row)
    }

    /// Returns whether the time of a row of any class is ahead of the clock by more than the
    /// tolerance.
    pub(crate) fn is_ahead(&self, row: &Row) -> bool {
        let horizon = self.horizon;
        horizon.is_some_and(|horizon| row.version_time() > horizon)
    }

    /// Returns whether a row dates its directory. A row ahead of the clock does not date its
    /// directory until its time comes. Otherwise it would hide every change until then.
    pub(crate) fn dates_directory(&self, row: &Row) -> bool {
        self.lists_directory(row) && !self.is_ahead(row)
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
}
