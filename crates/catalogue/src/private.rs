//! Changes of the private contents. [`Merged::is_private`](super::merged::Merged::is_private) and
//! [`Merged::admits`](super::merged::Merged::admits) answer for them.
//!
//! A content is private if this node knows a sealed name of it, or a [`Mark`] of it. The readers of
//! each known sealed name may receive it. A content that this node itself lists openly is public.
//! Whether another node lists it openly does not matter: any node that learnt the hash could do so.

use super::audience::Mark;
use super::merge::Merge;
use super::orders::ByHash;
use super::row::{Class, Row};
use p2pfs_types::digest::ContentHash;

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

    /// Updates privacy after a name was removed. A [`Mark`] keeps the content private if the name
    /// was sealed and its author has no other name of the content. A mark also makes the content
    /// private if the name was open, its share now has readers, and no node lists the content any
    /// more.
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
