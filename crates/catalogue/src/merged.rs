//! The merged state itself: who is live, the directories, and who has which content.
//!
//! Made of persistent structures, so that a copy of it is a view: a few pointers are copied, and
//! a change afterwards copies only what it touches.

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
use p2pfs_proto::wire::native::record::{ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Whose which path is. The nearest one above a name counts.
pub type Owners = BTreeMap<SharedPath, NodeId>;

/// What is known of a content that some live node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its size as its holders say.
    pub size_bytes: u64,
    /// Whether the first known file of it is executable.
    pub executable: bool,
}

/// Sums over the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of the different contents that are shared and that a live node can give.
    pub unique_bytes: u64,
    /// Listed files, links and directories, without conflict names.
    pub entries: u64,
}

/// What is known of a node besides its log.
#[derive(Clone)]
pub(super) struct Node {
    pub id: NodeId,
    /// As in its head; none until one came.
    pub name: Option<NodeName>,
    /// Its name, told apart from its namesakes.
    pub label: Arc<str>,
    pub live: bool,
    /// While its liveness is being worked in: rows above this sequence still count as before.
    pub sweep: Option<u64>,
}

/// The state of the merge.
#[derive(Clone)]
pub(super) struct Merged {
    pub me: NodeIndex,
    /// By [`NodeIndex`]; none where a node was forgotten.
    pub nodes: Arc<Vec<Option<Node>>>,
    /// By [`DirId`]; none where a number is free.
    pub dirs: Vector<Option<Arc<Dir>>>,
    pub by_hash: SortedSet<ByHash>,
    pub totals: Totals,
    /// Versions of a later time are not shown yet; none where the clock was not told.
    pub horizon: Option<Timestamp>,
    pub owners: Arc<Owners>,
    /// Who reads what is sealed under each author's numbers.
    pub audiences: Arc<BTreeMap<(NodeIndex, ShareIndex), Arc<Audience>>>,
    /// Of `by_hash`, the names that came sealed.
    pub private: OrdSet<ByHash>,
    pub marks: Marks,
    /// Private contents that the own cache holds whole, with their sizes: of them nothing is said
    /// to others.
    pub kept: OrdMap<ContentHash, u64>,
}

impl Merged {
    pub(crate) fn new(me: NodeId, name: NodeName) -> Self {
        let node = Node {
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
        }
    }

    /// A node that rows name; they never outlive it.
    pub(crate) fn node(&self, index: NodeIndex) -> &Node {
        self.nodes[usize::from(index.0)]
            .as_ref()
            .expect("rows name known nodes")
    }

    pub(crate) fn node_of(&self, row: &Row) -> &NodeId {
        &self.node(row.author).id
    }

    /// All nodes, by their number.
    pub(crate) fn known(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        let numbered = self.nodes.iter().enumerate();
        numbered.filter_map(|(at, node)| Some((NodeIndex(at as u16), node.as_ref()?)))
    }

    pub(crate) fn dir(&self, id: DirId) -> &Dir {
        self.dirs[id.0 as usize]
            .as_ref()
            .expect("rows and directories name known directories")
    }

    /// Whether the author of a row is live, as far as its last change of liveness was worked in.
    pub(crate) fn is_live(&self, row: &Row) -> bool {
        let node = self.node(row.author);
        match node.sweep {
            Some(done) if row.sequence > done => !node.live,
            _ => node.live,
        }
    }

    /// A row of each author that gives a content by rows of one class and is live.
    fn givers(&self, hash: ContentHash, class: Class) -> impl Iterator<Item = &Row> {
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
                // in the middle of a sweep, either the lowest or the highest sequences are live
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

    /// Whether some live node can give the bytes.
    pub(crate) fn is_available(&self, hash: ContentHash) -> bool {
        self.having(hash).next().is_some()
    }

    /// The live nodes that have all the bytes, each once.
    pub(crate) fn holders(&self, hash: ContentHash) -> Vec<NodeIndex> {
        let mut nodes: Vec<NodeIndex> = self.having(hash).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether this node is the only live one that has all the bytes, as far as nodes say. Each
    /// read that has to wait asks it, so it ends at the first other.
    pub(crate) fn is_mine_alone(&self, hash: ContentHash) -> bool {
        let mut nodes = self.having(hash);
        let mine = |node: NodeIndex| node == self.me;
        nodes.next().is_some_and(mine) && nodes.all(mine)
    }

    /// Whether another live node has all the bytes, as far as nodes say.
    pub(crate) fn is_elsewhere(&self, hash: ContentHash) -> bool {
        self.having(hash).any(|node| node != self.me)
    }

    /// The live nodes that have all the bytes; a node may be named twice.
    fn having(&self, hash: ContentHash) -> impl Iterator<Item = NodeIndex> {
        let kept = self.kept.contains_key(&hash).then_some(self.me);
        self.givers(hash, Class::File)
            .chain(self.givers(hash, Class::Have))
            .map(|row| row.author)
            .chain(kept)
    }

    /// Where the live nodes say that they have all the bytes; a node may say so twice.
    pub(crate) fn claims(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        self.givers(hash, Class::File)
            .chain(self.givers(hash, Class::Have))
    }

    /// All rows that name a content as a file's.
    pub(crate) fn files_of(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        let rows = self.by_hash.from(&HashFrom::files(hash));
        let rows = rows.map(|by| &by.row);
        rows.take_while(move |row| row.hash == *hash.as_bytes() && row.class == Class::File)
    }

    /// The rows that name a content as a file's from a place on, without that itself: so many, and
    /// one more.
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

    /// What a content is, where a live node has it.
    pub(crate) fn content(&self, hash: ContentHash) -> Option<Content> {
        let given = self.is_available(hash);
        let first = self.by_hash.from(&HashFrom::files(hash)).next();
        let first = first.map(|by| &by.row)?;
        let found = given && first.hash == *hash.as_bytes() && first.gives_content();
        found.then_some(Content {
            size_bytes: first.size_bytes(),
            executable: first.executable(),
        })
    }

    /// The bytes that a content adds to the cluster's total: those of a file that is available.
    pub(crate) fn shared_bytes(&self, hash: ContentHash) -> u64 {
        let size_bytes = self.files_of(hash).next().map(|row| row.size_bytes());
        size_bytes.filter(|_| self.is_available(hash)).unwrap_or(0)
    }

    /// Whether a row may show at its name: somebody live can give what it stands for.
    pub(crate) fn is_givable(&self, row: &Row) -> bool {
        match row.class {
            _ if self.is_early(row) || !self.may_have_name(row) => false,
            Class::File => self.is_live(row) || self.is_available(row.hash()),
            Class::Symlink => self.is_live(row),
            _ => false,
        }
    }

    /// The versions of a name by their rank, the best first.
    pub(crate) fn rank(&self, rows: Vec<Row>) -> Vec<Row> {
        rules::rank(rows, |a, b| self.order(a, b))
    }

    /// Which of two candidates of a name ranks before the other.
    pub(crate) fn order(&self, a: &Row, b: &Row) -> Ordering {
        let live_first = self.is_live(b).cmp(&self.is_live(a));
        let by_rule = || rules::precedence((a, self.node_of(a)), (b, self.node_of(b)));
        live_first.then_with(by_rule)
    }

    /// Whether a row makes a directory be listed at its name.
    pub(crate) fn lists_directory(&self, row: &Row) -> bool {
        row.class == Class::Directory && self.is_live(row) && self.may_have_name(row)
    }

    /// Whether a row's time is so far ahead of the clock that it must wait.
    pub(crate) fn is_early(&self, row: &Row) -> bool {
        matches!(row.class, Class::File | Class::Symlink) && self.is_ahead(row)
    }

    /// Whether a row's time is so far ahead of the clock, whatever it stands for.
    pub(crate) fn is_ahead(&self, row: &Row) -> bool {
        let horizon = self.horizon;
        horizon.is_some_and(|horizon| row.version_time() > horizon)
    }

    /// Whether a row tells of a directory's last change. One from ahead of the clock does not until
    /// its time comes: it would hide every change meanwhile.
    pub(crate) fn dates_directory(&self, row: &Row) -> bool {
        self.lists_directory(row) && !self.is_ahead(row)
    }

    /// The directory of a path, listed or not.
    pub(crate) fn find_dir(&self, path: &SharedPath) -> Option<DirId> {
        path.components()
            .try_fold(DirId::ROOT, |dir, name| self.dir(dir).child(name))
    }

    /// The path of a name in a directory; of the directory itself where the name is empty.
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
