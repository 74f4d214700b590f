//! Private contents: which node may receive them, and how changes of rows make a content private.
//!
//! A content is private if this node knows a sealed name of it, or a [`Mark`] of it. The readers of
//! each known sealed name may receive it. A content that this node itself lists openly is public.
//! Whether another node lists it openly does not matter: any node that learnt the hash could do so.

use std::collections::BTreeSet;

use super::audience::Mark;
use super::content_index::NAMES_LOOKED_AT;
use super::merged::Merged;
use super::orders::ByHash;
use super::row::{Class, Row};
use super::sealed::SealedRecords;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Returns whether a sealed name or a mark makes a content private. It is not private if this node
/// lists it openly.
pub(super) fn is_private(state: &Merged, hash: ContentHash) -> bool {
    let contents = &state.contents;
    let is_sealed = state.marks.has(hash) || contents.sealed_names(hash).next().is_some();
    is_sealed && !contents.is_open_from(hash, state.me)
}

/// Returns whether this node may give the bytes of a content to another node.
pub(super) fn admits(state: &Merged, node: &NodeId, hash: ContentHash) -> bool {
    let (contents, marks) = (&state.contents, &state.marks);
    if contents.sealed.is_empty() && marks.is_empty() && !marks.is_full() {
        return true;
    }
    if marks.is_full() && !contents.is_listed(hash) {
        return false;
    }
    let mut sealed = contents.sealed_names(hash).take(NAMES_LOOKED_AT);
    !is_private(state, hash)
        || sealed.any(|row| {
            state
                .audience(row)
                .is_some_and(|it| it.readers.contains(node))
        })
}

/// Returns the readers of the sealed names of a content, of at most [`NAMES_LOOKED_AT`] names.
pub(super) fn readers_of(state: &Merged, hash: ContentHash) -> BTreeSet<NodeId> {
    let sealed = state.contents.sealed_names(hash).take(NAMES_LOOKED_AT);
    let readers = sealed.filter_map(|row| state.audience(row));
    readers.flat_map(|it| it.readers.iter().copied()).collect()
}

/// Updates privacy after a name was added. The present names of the author now decide about the
/// content, so the author's mark of the content is removed.
pub(super) fn record_added(state: &mut Merged, sealed: &mut SealedRecords, row: &Row) {
    if row.class != Class::File {
        return;
    }
    if !state.marks.is_empty() {
        let mark = mark_of(state, row);
        if state.marks.remove(&mark) {
            sealed.new_marks.insert(mark, false);
            review_have(state, sealed, row);
        }
    }
    if !row.share.is_sealed() {
        return;
    }
    state.contents.sealed.insert(ByHash::new(row.clone()));
    review_have(state, sealed, row);
}

/// Updates privacy after a name was removed. A [`Mark`] keeps the content private if the name was
/// sealed and its author has no other name of the content. A mark also makes the content private if
/// the name was open, its share now has readers, and no node lists the content any more.
pub(super) fn record_removed(state: &mut Merged, sealed: &mut SealedRecords, row: &Row) {
    if row.class != Class::File {
        return;
    }
    let hash = row.hash();
    let becomes_private = if row.share.is_sealed() {
        state.contents.sealed.remove(&ByHash::new(row.clone()));
        !state.contents.is_listed_by(hash, row.author)
    } else {
        // A content that is also listed in a share for all nodes is not private.
        sealed.restricted.contains_key(&(row.author, row.share)) && !state.contents.is_listed(hash)
    };
    if becomes_private {
        let mark = mark_of(state, row);
        if state.marks.add(mark) {
            sealed.new_marks.insert(mark, true);
        }
    }
    if becomes_private || row.share.is_sealed() {
        review_have(state, sealed, row);
    }
}

fn mark_of(state: &Merged, row: &Row) -> Mark {
    Mark {
        content: row.hash(),
        author: *state.node_of(row),
    }
}

/// Returns the size of a content in the own cache, whether or not it is announced.
pub(super) fn cached_size(state: &Merged, hash: ContentHash) -> Option<u64> {
    let own = state.contents.cached_row(hash, state.me);
    let said = own.filter(|row| row.class == Class::Have);
    let kept = state.kept.get(&hash).copied();
    said.map(|row| row.size_bytes()).or(kept)
}

/// Queues a cached content to decide again whether it may be announced.
fn review_have(state: &Merged, sealed: &mut SealedRecords, row: &Row) {
    let hash = row.hash();
    if cached_size(state, hash).is_some() {
        sealed.haves_to_review.push(hash);
    }
}
