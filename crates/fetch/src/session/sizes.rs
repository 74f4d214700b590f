//! Contents whose size is in dispute: one hash of which several sizes are said.
//!
//! A hash is bound to the size of its content, but only at its end: the beginning of a file proves
//! itself by any size that cuts the tree there alike. So each size is a fetch of its own, asked of
//! those who say it, and nobody who says another can keep its bytes from its readers. Where sizes
//! differ the end of the content is asked for first; whoever's size it proves is right, and all
//! others have lied: they are shunned, and what is wanted by their sizes ends at once.

use std::time::{Duration, Instant};

use super::{FetchEvent, Owner, Session};
use crate::TransferError;
use crate::plan::{HOLDERS_MAX, Offer, PlanError};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};
use p2pfs_types::id::NodeId;

/// How long the proof of a size is waited for without progress; then it is asked for again when
/// holders are named again.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);

impl<O: Owner> Session<O> {
    /// A node says that a hash has so many bytes: those who fetch it by another size hear of it.
    pub(super) fn hear_claim(&mut self, node: NodeId, said: ContentKey) {
        for content in self.opened(&said.hash) {
            if content == said {
                continue;
            }
            if let Some(file) = self.files.get_mut(&content)
                && file.doubters.len() < HOLDERS_MAX
            {
                file.doubters.insert(node);
            }
        }
    }

    /// Who offers all of a content must have seen its end. Who offers a part says the size that it
    /// fetches it by itself, and may be misled by another: it is nobody to doubt others, or to be
    /// called a liar.
    pub(super) fn hear_offer(&mut self, now: Instant, offer: &Offer) {
        if offer.all {
            self.hear_claim(offer.node, offer.content);
        }
        self.settle_sizes(now, &offer.content.hash);
    }

    pub(super) fn settle_sizes(&mut self, now: Instant, hash: &ContentHash) {
        for content in self.opened(hash) {
            self.settle_size(now, content);
        }
    }

    /// Verified bytes of a content are here: its end proves its size.
    pub(super) fn note_verified(&mut self, now: Instant, content: ContentKey, range: ByteRange) {
        let Some(file) = self.files.get_mut(&content) else {
            return;
        };
        if range.end >= content.size_bytes && !std::mem::replace(&mut file.is_proven, true) {
            self.settle_size(now, content);
        }
    }

    /// Where a size is in dispute, it is proven first; where it is proven, the others lied.
    fn settle_size(&mut self, now: Instant, content: ContentKey) {
        let rivals = self.opened(&content.hash).into_iter();
        let rivals: Vec<_> = rivals.filter(|rival| *rival != content).collect();
        let Some(file) = self.files.get_mut(&content) else {
            return;
        };
        file.is_disputed |= !file.doubters.is_empty() || !rivals.is_empty();
        if !file.is_disputed {
            return;
        }
        if !file.is_proven {
            return self.ask_for_proof(now, content);
        }
        for liar in std::mem::take(&mut file.doubters) {
            self.plan.lied(now, liar, content);
        }
        for rival in rivals {
            self.disprove(rival);
        }
        // another size may have kept the cache's file of this hash from it
        if self
            .files
            .get(&content)
            .is_some_and(|file| file.cache.is_none())
        {
            self.actions.reopens.push(content);
        }
    }

    fn ask_for_proof(&mut self, now: Instant, content: ContentKey) {
        if self.proofs.values().any(|asked| *asked == content) {
            return;
        }
        let last = content.size_bytes.saturating_sub(1) / PAGE_BYTES * PAGE_BYTES;
        let end = ByteRange::new(last, content.size_bytes);
        let deadline = now + PROOF_PATIENCE;
        // what was refused a moment ago is asked for again when holders are named again
        if let Ok(id) = self.plan.demand_just(now, content, end, deadline) {
            self.proofs.insert(id, content);
        }
    }

    /// Another size of this hash is proven: nobody has these bytes.
    fn disprove(&mut self, content: ContentKey) {
        let why = TransferError::from(PlanError::OnlyLiars);
        let reads = self.reads.iter();
        let of_it = reads.filter(|(_, read)| read.content == content);
        let ids: Vec<_> = of_it.map(|(id, _)| *id).collect();
        for id in ids {
            self.plan.cancel(id);
            if let Some(read) = self.reads.remove(&id) {
                let (hash, range, why) = (content.hash, read.range, why.clone());
                self.actions.ends.push((read.reader, why.clone()));
                let failed = FetchEvent::Failed { hash, range, why };
                self.actions.events.push(failed);
            }
        }
        let proofs = self.proofs.iter().filter(|(_, asked)| **asked == content);
        let proofs: Vec<_> = proofs.map(|(id, _)| *id).collect();
        for id in proofs {
            self.proofs.remove(&id);
            self.plan.cancel(id);
        }
        self.end_fills(&content, &Err(why));
        self.plan.forget(&content);
    }

    /// Whether another size of a hash that is being fetched is proven.
    pub(super) fn is_disproven(&self, content: &ContentKey) -> bool {
        let rivals = self.opened(&content.hash).into_iter();
        let mut rivals = rivals.filter(|rival| rival != content);
        rivals.any(|rival| self.files[&rival].is_proven)
    }

    /// The cache can take a content after all: what came before comes once more, to be kept.
    pub fn reopened(&mut self, content: &ContentKey, file: O::File, is_complete: bool) {
        let Some(open) = self.files.get_mut(content) else {
            return self.actions.closed.push(file);
        };
        open.is_complete = is_complete;
        open.cache = Some(file);
        let whole = ByteRange::new(0, content.size_bytes);
        let held = self.window.overlapping(content, whole);
        self.window.forget(content);
        for verified in held {
            self.plan.lost(content, verified.range);
        }
    }
}
