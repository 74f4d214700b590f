//! The rows of each content, whether their authors are live or not.

use equivalent::Comparable;
use imbl::OrdSet;

use super::orders::{ByHash, HashFrom};
use super::row::{Class, NodeIndex, Row};
use super::sorted::SortedSet;
use p2pfs_types::digest::ContentHash;

/// Maximum names of one content that are examined for one answer. If none of them admits the
/// requesting node, the node is refused.
pub(super) const NAMES_LOOKED_AT: usize = 4096;

/// File rows and cache rows, by content.
#[derive(Clone)]
pub(super) struct ContentIndex {
    pub rows: SortedSet<ByHash>,
    /// Those of `rows` with names in sealed shares.
    pub sealed: OrdSet<ByHash>,
}

impl ContentIndex {
    pub(crate) fn new() -> Self {
        Self {
            rows: SortedSet::new(),
            sealed: OrdSet::new(),
        }
    }

    /// Returns one author's row of a cached content, including tombstones.
    pub(crate) fn cached_row(&self, hash: ContentHash, author: NodeIndex) -> Option<Row> {
        [Class::Have, Class::HaveNot].into_iter().find_map(|class| {
            let from = HashFrom {
                hash,
                class,
                author: u32::from(author.0),
            };
            let row = &self.rows.from(&from).next()?.row;
            let own = row.hash == *hash.as_bytes() && row.class == class && row.author == author;
            own.then(|| row.clone())
        })
    }

    /// Returns all file rows of a content.
    pub(crate) fn files_of(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        let rows = self.rows.from(&HashFrom::files(hash));
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
        let rows = self.rows.from(place);
        let rows = rows.skip_while(|by| place.compare(by).is_eq());
        let is_file = |row: &Row| row.hash == *hash.as_bytes() && row.class == Class::File;
        let rows = rows.take_while(|by| is_file(&by.row));
        rows.take(limit.saturating_add(1)).cloned().collect()
    }

    /// Returns the file rows of a content in sealed shares.
    pub(crate) fn sealed_names(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        let rows = self.sealed.range(HashFrom::files(hash)..);
        let rows = rows.map(|by| &by.row);
        rows.take_while(move |row| row.hash == *hash.as_bytes())
    }

    /// Returns the rows under which an author lists a content, openly or sealed.
    pub(crate) fn files_from(
        &self,
        hash: ContentHash,
        author: NodeIndex,
    ) -> impl Iterator<Item = &Row> {
        let from = HashFrom {
            author: u32::from(author.0),
            ..HashFrom::files(hash)
        };
        let rows = self.rows.from(&from).map(|by| &by.row);
        rows.take_while(move |row| {
            row.hash == *hash.as_bytes() && row.class == Class::File && row.author == author
        })
    }

    /// Returns whether an author lists a content openly, by its first [`NAMES_LOOKED_AT`] names.
    pub(crate) fn is_open_from(&self, hash: ContentHash, author: NodeIndex) -> bool {
        let mut own = self.files_from(hash, author).take(NAMES_LOOKED_AT);
        own.any(|row| !row.share.is_sealed())
    }

    /// Returns whether an author lists a content, openly or sealed.
    pub(crate) fn is_listed_by(&self, hash: ContentHash, author: NodeIndex) -> bool {
        self.files_from(hash, author).next().is_some()
    }

    /// Returns whether any node lists a content, openly or sealed for this node.
    pub(crate) fn is_listed(&self, hash: ContentHash) -> bool {
        self.files_of(hash).next().is_some()
    }
}
