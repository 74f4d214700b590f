//! Queries by content: its holders, its names, and the nodes that may receive it.

use super::merged::ContentOfHash;
use super::orders::HashFrom;
use super::private;
use super::row::{Class, NodeIndex, Row};
use super::versions::listed_path;
use super::view::View;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Statement of a live node that it has all of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The stating node.
    pub node: NodeId,
    /// Size of the content in bytes, as the node states it.
    pub size_bytes: u64,
    /// Sequence of the statement in the node's log. A repeated statement has a higher one.
    pub sequence: u64,
}

/// The names of a content, by one record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNames {
    /// The content.
    pub hash: ContentHash,
    /// The path under which the file is listed, which may be a conflict name. If the file is not
    /// listed, its own path, which may show another version. `None` if the record is about a cached
    /// content.
    pub listed: Option<SharedPath>,
    /// The label of the sharing node, and the path among that node's files. `None` if the record is
    /// about a cached content.
    pub shared: Option<(String, SharedPath)>,
}

/// Queries by content. [`View::contents`] returns it.
#[derive(Clone, Copy)]
pub struct ContentQueries<'a> {
    pub(super) view: &'a View,
}

impl ContentQueries<'_> {
    /// Returns the properties of a content that a live node has, under any name or in its cache.
    pub fn get(self, hash: &ContentHash) -> Option<ContentOfHash> {
        let merged = &self.view.merged;
        let first = merged.contents.rows.from(&HashFrom::files(*hash)).next();
        let first = first.map(|by| &by.row)?;
        let is_found = first.hash() == *hash && first.gives_content();
        if !is_found || !merged.is_available(*hash) {
            return None;
        }
        Some(ContentOfHash {
            size_bytes: first.size_bytes(),
            executable: first.executable(),
        })
    }

    /// Returns the live nodes that have all of a content, as a file or in their cache, including
    /// this one.
    pub fn holders(self, hash: &ContentHash) -> Vec<NodeId> {
        self.view.merged.holder_ids(*hash)
    }

    /// Returns the records by which live nodes claim to have a whole content. A node may appear
    /// twice.
    pub fn claims(self, hash: &ContentHash) -> Vec<Claim> {
        let claim = |row: &Row| Claim {
            node: self.view.merged.node(row.author).id,
            size_bytes: row.size_bytes(),
            sequence: row.sequence,
        };
        let merged = &self.view.merged;
        let rows = merged.givers(*hash, Class::File);
        let rows = rows.chain(merged.givers(*hash, Class::Have));
        rows.map(claim).collect()
    }

    /// Returns whether this node, and no other live node, has all of a content.
    pub fn is_mine_alone(self, hash: &ContentHash) -> bool {
        // Each read that has to wait asks this, so the search ends at the first other node.
        let mut nodes = self.view.merged.having(*hash);
        let mine = |node: NodeIndex| node == self.view.merged.me;
        nodes.next().is_some_and(mine) && nodes.all(mine)
    }

    /// Returns whether another live node states that it has all of a content.
    pub fn is_elsewhere(self, hash: &ContentHash) -> bool {
        let mut nodes = self.view.merged.having(*hash);
        nodes.any(|node| node != self.view.merged.me)
    }

    /// Returns the live node that has all of a content, if no other node except this one has it.
    pub fn only_other_holder(self, hash: &ContentHash) -> Option<NodeId> {
        let mut nodes = self.view.merged.having(*hash);
        let is_other = |node: &NodeIndex| *node != self.view.merged.me;
        let first = nodes.find(is_other)?;
        let is_only = nodes.all(|node| node == first || !is_other(&node));
        is_only.then(|| self.view.merged.node(first).id)
    }

    /// Returns whether any node's log, live or not, still has a file of a content.
    pub fn is_named(self, hash: &ContentHash) -> bool {
        self.view.merged.contents.files_of(*hash).next().is_some()
    }

    /// Returns up to `limit` paths under which a content is listed, including conflict names. If
    /// there are none, returns paths under which live nodes share it.
    pub fn names_of(self, hash: &ContentHash, limit: usize) -> Vec<SharedPath> {
        let rows = || self.view.merged.contents.files_of(*hash);
        let listed = rows().filter_map(|row| listed_path(&self.view.merged, row));
        let mut names: Vec<SharedPath> = listed.take(limit).collect();
        if names.is_empty() {
            let live = rows()
                .filter(|row| self.view.merged.is_live(row))
                .take(limit);
            names.extend(live.map(|row| self.view.merged.path_of(row.dir, row.name())));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Returns a path of a content as [`Self::names_of`] does. If there is none, returns a path
    /// under which a node that is not live shared it.
    pub fn last_name_of(self, hash: &ContentHash) -> Option<SharedPath> {
        self.names_of(hash, 1).pop().or_else(|| {
            let merged = &self.view.merged;
            let row = merged.contents.files_of(*hash).next()?;
            Some(merged.path_of(row.dir, row.name()))
        })
    }

    /// Returns the names of the contents with hashes that begin with the first `bits` bits of
    /// `start`. `bits` is from 1 to 32. At most `limit` records are examined.
    pub fn files_like(self, start: &ContentHash, bits: u32, limit: usize) -> Vec<FileNames> {
        let leading = |hash: &[u8; 32]| {
            let [a, b, c, d, ..] = *hash;
            u32::from_be_bytes([a, b, c, d]) >> (u32::BITS - bits)
        };
        let wanted = leading(start.as_bytes());
        let mut first = [0; 32];
        first[..4].copy_from_slice(&(wanted << (u32::BITS - bits)).to_be_bytes());
        let from = HashFrom::files(ContentHash::new(first));
        let rows = self.view.merged.contents.rows.from(&from).map(|by| &by.row);
        rows.take_while(|row| leading(&row.hash) == wanted)
            .take(limit)
            .filter(|row| row.gives_content())
            .map(|row| self.file_names(row))
            .collect()
    }

    fn file_names(self, row: &Row) -> FileNames {
        if !row.has_name() {
            return FileNames {
                hash: row.hash(),
                listed: None,
                shared: None,
            };
        }
        let shared = self.view.merged.path_of(row.dir, row.name());
        FileNames {
            hash: row.hash(),
            listed: listed_path(&self.view.merged, row).or_else(|| Some(shared.clone())),
            shared: Some((self.view.merged.node(row.author).label.to_string(), shared)),
        }
    }

    /// Returns whether this node may give the bytes of a content to another node. A private content
    /// goes only to the readers of its sealed names, also from a cache. After the last of these
    /// names is gone, a mark records that the content is private, and it goes to no node. If marks
    /// were lost or found no room, no content without a name goes to any node.
    pub fn admits(self, node: &NodeId, hash: &ContentHash) -> bool {
        private::admits(&self.view.merged, node, *hash)
    }

    /// Returns whether this node lists a content openly.
    pub fn is_open_here(self, hash: &ContentHash) -> bool {
        self.view
            .merged
            .contents
            .is_open_from(*hash, self.view.merged.me)
    }

    /// Returns whether this node gives a content to some nodes only, or to none.
    pub fn is_private(self, hash: &ContentHash) -> bool {
        private::is_private(&self.view.merged, *hash)
    }

    /// Returns whether a content proved unserved (no holder served it), or is shared by a live node
    /// whose versions all rank behind others.
    pub fn is_unserved(self, content: &ContentKey) -> bool {
        let unserved = &self.view.merged.unserved;
        let is_of_author = |author| unserved.authors.contains(&author);
        unserved.contents.contains(content)
            || (!unserved.authors.is_empty()
                && self
                    .view
                    .merged
                    .live_authors(content.hash)
                    .any(is_of_author))
    }
}
