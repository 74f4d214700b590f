//! Private contents, and the nodes that may receive their bytes.
//!
//! A content is private if a sealed name of it is known, or was known and is gone. Every node among
//! the readers of any present sealed name may receive it. A file that this node itself shares
//! openly is public. If another node lists the same content openly, nothing changes here: any node
//! that learnt the hash could do so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::audience::{Audience, Mark};
use super::content_index::NAMES_LOOKED_AT;
use super::merge::Merge;
use super::merged::Merged;
use super::orders::ByHash;
use super::row::{Class, Row};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

impl Merged {
    /// Returns the readers of the records sealed under the number of a row.
    pub(crate) fn audience(&self, row: &Row) -> Option<&Arc<Audience>> {
        self.audiences.get(&(row.author, row.share))
    }

    /// Returns the author's share that a row is in.
    pub(crate) fn share_of(&self, row: &Row) -> ShareIndex {
        let audience = self.audience(row).filter(|_| row.share.is_sealed());
        audience.map_or(row.share, |audience| audience.share)
    }

    /// Returns whether this node gives a content only to some nodes, or to none.
    pub(crate) fn is_private(&self, hash: ContentHash) -> bool {
        let is_sealed = self.marks.has(hash) || self.contents.sealed_names(hash).next().is_some();
        is_sealed && !self.contents.is_open_from(hash, self.me)
    }

    /// Returns whether this node may give the bytes of a content to another node.
    pub(crate) fn admits(&self, node: &NodeId, hash: ContentHash) -> bool {
        if self.contents.sealed.is_empty() && self.marks.is_empty() && !self.marks.is_full() {
            return true;
        }
        if self.marks.is_full() && !self.contents.is_listed(hash) {
            return false;
        }
        let mut sealed = self.contents.sealed_names(hash).take(NAMES_LOOKED_AT);
        !self.is_private(hash)
            || sealed.any(|row| {
                self.audience(row)
                    .is_some_and(|it| it.readers.contains(node))
            })
    }

    /// Returns all nodes that may receive a private content.
    pub(crate) fn readers_of(&self, hash: ContentHash) -> BTreeSet<NodeId> {
        let sealed = self.contents.sealed_names(hash).take(NAMES_LOOKED_AT);
        let readers = sealed.filter_map(|row| self.audience(row));
        readers.flat_map(|it| it.readers.iter().copied()).collect()
    }
}

impl Merge {
    fn mark_of(&self, row: &Row) -> Mark {
        Mark {
            content: row.hash(),
            author: self.tracked.state.node(row.author).id,
        }
    }

    /// Updates privacy after a name was added. The present names of the author now decide about the
    /// content, so the author's mark of the content is removed.
    pub(super) fn update_privacy_of_added(&mut self, row: &Row) {
        if row.class != Class::File {
            return;
        }
        if !self.tracked.state.marks.is_empty() {
            let mark = self.mark_of(row);
            if self.tracked.state.marks.remove(&mark) {
                self.sealed.new_marks.insert(mark, false);
                self.review_have(row);
            }
        }
        if !row.share.is_sealed() {
            return;
        }
        self.tracked
            .state
            .contents
            .sealed
            .insert(ByHash::new(row.clone()));
        self.review_have(row);
    }

    /// Updates privacy after a name was removed. If the name was sealed and its author has no other
    /// name of the content, a [`Mark`] keeps the content private. If the name was open, its share
    /// now has readers, and no node lists the content, the content becomes private by a mark.
    pub(super) fn update_privacy_of_removed(&mut self, row: &Row) {
        if row.class != Class::File {
            return;
        }
        let hash = row.hash();
        let becomes_private = if row.share.is_sealed() {
            self.tracked
                .state
                .contents
                .sealed
                .remove(&ByHash::new(row.clone()));
            !self.tracked.state.contents.is_listed_by(hash, row.author)
        } else {
            // A content that is also listed in a share for all nodes is not private.
            self.sealed
                .restricted
                .contains_key(&(row.author, row.share))
                && !self.tracked.state.contents.is_listed(hash)
        };
        if becomes_private {
            let mark = self.mark_of(row);
            if self.tracked.state.marks.add(mark) {
                self.sealed.new_marks.insert(mark, true);
            }
        }
        if becomes_private || row.share.is_sealed() {
            self.review_have(row);
        }
    }

    /// Returns the size of a content in the own cache, whether or not it is announced.
    pub(super) fn cached_size(&self, hash: ContentHash) -> Option<u64> {
        let own = self
            .tracked
            .state
            .contents
            .cached_row(hash, self.tracked.state.me);
        let said = own.filter(|row| row.class == Class::Have);
        let kept = self.tracked.state.kept.get(&hash).copied();
        said.map(|row| row.size_bytes()).or(kept)
    }

    /// Queues a cached content to decide again whether it may be announced.
    fn review_have(&mut self, row: &Row) {
        let hash = row.hash();
        if self.cached_size(hash).is_some() {
            self.sealed.haves_to_review.push(hash);
        }
    }
}
