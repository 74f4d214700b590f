//! Contents that are for some nodes alone: who may be given their bytes.
//!
//! A content is private where a sealed name of it is known, or was and is gone. Whoever is among
//! the readers of any such name may have it. A file that this node shares openly itself is for
//! everybody; that somebody else lists the same content openly opens nothing here, since anybody
//! who learnt a hash could say so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::audience::{Audience, Mark};
use super::merge::Merge;
use super::merged::Merged;
use super::orders::{ByHash, HashFrom};
use super::row::{Class, NodeIndex, Row};
use super::{Catalogue, CatalogueError, View};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Names of one content that are looked at for one answer; where none of them admits the asker it
/// is refused.
const NAMES_LOOKED_AT: usize = 4096;

impl Merged {
    /// Who reads what is sealed under the number of a row.
    pub(crate) fn audience(&self, row: &Row) -> Option<&Arc<Audience>> {
        self.audiences.get(&(row.author, row.share))
    }

    /// Which of its author's shares a row is in.
    pub(crate) fn share_of(&self, row: &Row) -> ShareIndex {
        let audience = self.audience(row).filter(|_| row.share.is_sealed());
        audience.map_or(row.share, |audience| audience.share)
    }

    fn sealed_names(&self, hash: ContentHash) -> impl Iterator<Item = &Row> {
        let rows = self.private.range(HashFrom::files(hash)..);
        let rows = rows.map(|by| &by.row);
        rows.take_while(move |row| row.hash == *hash.as_bytes())
    }

    /// The names under which an author lists a content, openly or sealed.
    fn files_from(&self, hash: ContentHash, author: NodeIndex) -> impl Iterator<Item = &Row> {
        let from = HashFrom {
            author: u32::from(author.0),
            ..HashFrom::files(hash)
        };
        let rows = self.by_hash.from(&from).map(|by| &by.row);
        rows.take_while(move |row| {
            row.hash == *hash.as_bytes() && row.class == Class::File && row.author == author
        })
    }

    /// Whether an author lists a content openly.
    fn is_open_from(&self, hash: ContentHash, author: NodeIndex) -> bool {
        let mut own = self.files_from(hash, author).take(NAMES_LOOKED_AT);
        own.any(|row| !row.share.is_sealed())
    }

    /// Whether an author lists a content, openly or sealed.
    fn is_listed_by(&self, hash: ContentHash, author: NodeIndex) -> bool {
        self.files_from(hash, author).next().is_some()
    }

    /// Whether anybody lists a content, openly or sealed for this node.
    fn is_listed(&self, hash: ContentHash) -> bool {
        self.files_of(hash).next().is_some()
    }

    /// Whether a content is for some nodes alone, as far as this node gives it.
    pub(crate) fn is_private(&self, hash: ContentHash) -> bool {
        let is_sealed = self.marks.has(hash) || self.sealed_names(hash).next().is_some();
        is_sealed && !self.is_open_from(hash, self.me)
    }

    /// Whether a node may be given the bytes of a content by this one.
    pub(crate) fn admits(&self, node: &NodeId, hash: ContentHash) -> bool {
        if self.private.is_empty() && self.marks.is_empty() && !self.marks.is_full() {
            return true;
        }
        if self.marks.is_full() && !self.is_listed(hash) {
            return false;
        }
        let mut sealed = self.sealed_names(hash).take(NAMES_LOOKED_AT);
        !self.is_private(hash)
            || sealed.any(|row| {
                self.audience(row)
                    .is_some_and(|it| it.readers.contains(node))
            })
    }

    /// Everybody who may be given a private content.
    fn readers_of(&self, hash: ContentHash) -> BTreeSet<NodeId> {
        let sealed = self.sealed_names(hash).take(NAMES_LOOKED_AT);
        let readers = sealed.filter_map(|row| self.audience(row));
        readers.flat_map(|it| it.readers.iter().copied()).collect()
    }
}

impl View {
    /// Whether a node may be given the bytes of a content by this one: those of a share that has
    /// readers go to them alone, also from a cache, also after the name is gone.
    pub fn admits(&self, node: &NodeId, hash: &ContentHash) -> bool {
        self.merged.admits(node, *hash)
    }

    /// Whether this node lists a content openly.
    pub fn is_open_here(&self, hash: &ContentHash) -> bool {
        self.merged.is_open_from(*hash, self.merged.me)
    }

    /// Whether a content is for some nodes alone.
    pub fn is_private(&self, hash: &ContentHash) -> bool {
        self.merged.is_private(*hash)
    }
}

impl Merge {
    fn mark_of(&self, row: &Row) -> Mark {
        Mark {
            content: row.hash(),
            author: self.state.node(row.author).id,
        }
    }

    /// A name was taken in: what its author says of the content counts now, no mark.
    pub(super) fn note_sealed(&mut self, row: &Row) {
        if row.class != Class::File {
            return;
        }
        if !self.state.marks.is_empty() {
            let mark = self.mark_of(row);
            if self.state.marks.remove(&mark) {
                self.new_marks.insert(mark, false);
                self.review_have(row);
            }
        }
        if !row.share.is_sealed() {
            return;
        }
        self.state.private.insert(ByHash::new(row.clone()));
        self.review_have(row);
    }

    /// A name is out: a content that was for some nodes alone stays private, unless its author made
    /// it open; and one becomes so whose name is said under a list of readers from now on.
    pub(super) fn note_unsealed(&mut self, row: &Row) {
        if row.class != Class::File {
            return;
        }
        let hash = row.hash();
        let becomes_private = if row.share.is_sealed() {
            self.state.private.remove(&ByHash::new(row.clone()));
            !self.state.is_listed_by(hash, row.author)
        } else {
            // content that a share for all nodes lists too is not private
            self.restricted.contains_key(&(row.author, row.share)) && !self.state.is_listed(hash)
        };
        if becomes_private {
            let mark = self.mark_of(row);
            if self.state.marks.add(mark) {
                self.new_marks.insert(mark, true);
            }
        }
        if becomes_private || row.share.is_sealed() {
            self.review_have(row);
        }
    }

    /// The size of a content that the own cache holds, whether that is said or not.
    fn cached_size(&self, hash: ContentHash) -> Option<u64> {
        let own = self.cached_row(hash, self.state.me);
        let said = own.filter(|row| row.class == Class::Have);
        let kept = self.state.kept.get(&hash).copied();
        said.map(|row| row.size_bytes()).or(kept)
    }

    /// Whether it is said of a content that it is cached here is to be looked at again.
    fn review_have(&mut self, row: &Row) {
        let hash = row.hash();
        if self.cached_size(hash).is_some() {
            self.haves_to_review.push(hash);
        }
    }
}

impl Catalogue {
    /// Whether a content is for some nodes alone.
    pub fn is_private(&self, hash: &ContentHash) -> bool {
        self.merge.state.is_private(*hash)
    }

    /// Who may be asked for a private content, this node included.
    pub fn readers_of(&self, hash: &ContentHash) -> BTreeSet<NodeId> {
        self.merge.state.readers_of(*hash)
    }

    /// Whether [`Self::review_haves`] has something to look at.
    pub fn has_haves_to_review(&self) -> bool {
        !self.merge.haves_to_review.is_empty()
    }

    /// Takes back what was said of cached contents that became private, and says of those that are
    /// private no more that they are cached here.
    ///
    /// # Errors
    /// The first of [`Self::have`]; the others are looked at all the same.
    pub fn review_haves(&mut self) -> Result<(), CatalogueError> {
        let mut reviewed = Ok(());
        for hash in std::mem::take(&mut self.merge.haves_to_review) {
            let Some(size_bytes) = self.merge.cached_size(hash) else {
                continue;
            };
            reviewed = reviewed.and(self.have(hash, size_bytes).map(drop));
        }
        reviewed
    }

    /// Takes back in what was private when its last name went: at the start.
    pub fn restore_marks(&mut self, marks: impl IntoIterator<Item = Mark>) {
        for mark in marks {
            let author = self.index_of(&mark.author);
            let state = &mut self.merge.state;
            if !author.is_some_and(|author| state.is_listed_by(mark.content, author)) {
                state.marks.add(mark);
            }
        }
        self.merge.dirty = true;
    }

    /// It is not known any more which contents without a name are private: none is given.
    pub fn lose_marks(&mut self) {
        self.merge.state.marks.lose();
        self.merge.dirty = true;
    }

    /// Forgets that contents were private that nobody can be given any more.
    pub fn drop_marks(&mut self, gone: &[Mark]) {
        for mark in gone {
            self.merge.state.marks.remove(mark);
        }
        self.merge.dirty = true;
    }

    /// All that is remembered as private without a name.
    pub fn marks(&self) -> Vec<Mark> {
        self.merge.state.marks.iter().copied().collect()
    }
}
