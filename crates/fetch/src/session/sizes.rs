//! Disputes about the size of a content: several sizes claimed for one hash.
//!
//! The hash binds the size only through the end of the content. The beginning of a file verifies
//! under any size that splits the tree there alike. So each size is a fetch of its own, with the
//! nodes that claim it as holders. A node that claims another size cannot keep the bytes from
//! readers. If sizes differ, the end of the content is requested first. The size that it proves is
//! right. The nodes that claimed other sizes have lied and are shunned, and reads and fills with
//! their sizes end at once.

use std::time::{Duration, Instant};

use super::{FetchEvent, Owner, Session};
use crate::TransferError;
use crate::plan::{HOLDERS_MAX, Offer, PeerNews, PlanError};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};
use p2pfs_types::id::NodeId;

/// How long to wait for the proof of a size without progress. After that it is requested again when
/// holders are next listed.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);

impl<O: Owner> Session<O> {
    /// Records the size that a node claims for a hash, as doubt about the fetches with another
    /// size.
    pub(super) fn record_claim(&mut self, node: NodeId, said: ContentKey) {
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

    /// Records the size in an offer. A node that offers the whole content must have verified its
    /// end. A node that offers a part only repeats the size that it fetches by, and may be deceived
    /// itself. Its claim neither raises doubt nor makes it a liar.
    pub(super) fn record_offered_size(&mut self, now: Instant, offer: &Offer) {
        if offer.all {
            self.record_claim(offer.node, offer.content);
        }
        self.resolve_sizes(now, &offer.content.hash);
    }

    pub(super) fn resolve_sizes(&mut self, now: Instant, hash: &ContentHash) {
        for content in self.opened(hash) {
            self.resolve_size(now, content);
        }
    }

    /// Records verified bytes of a content. Its last byte proves its size.
    pub(super) fn record_verified(&mut self, now: Instant, content: ContentKey, range: ByteRange) {
        let Some(file) = self.files.get_mut(&content) else {
            return;
        };
        if range.end >= content.size_bytes && !std::mem::replace(&mut file.is_proven, true) {
            self.resolve_size(now, content);
        }
    }

    /// Requests the proof of a disputed size. If the size is proven, shuns the nodes that claimed
    /// others.
    fn resolve_size(&mut self, now: Instant, content: ContentKey) {
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
            self.plan.peer_is(liar, PeerNews::Lied { now, content });
        }
        for rival in rivals {
            self.disprove(rival);
        }
        // the cache may have refused this content because another size had the file of its hash
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
        // after a recent failure the proof is requested again when holders are next listed
        if let Ok(id) = self.plan.demand_just(now, content, end, deadline) {
            self.proofs.insert(id, content);
        }
    }

    /// Ends all reads and fills of a size after another size of its hash is proven.
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

    /// Returns whether another size of a hash that is being fetched is proven.
    pub(super) fn is_disproven(&self, content: &ContentKey) -> bool {
        let rivals = self.opened(&content.hash).into_iter();
        let mut rivals = rivals.filter(|rival| rival != content);
        rivals.any(|rival| self.files[&rival].is_proven)
    }

    /// Attaches the cache's file to a content that the cache can store after all. Bytes that are in
    /// memory are fetched again, to be stored.
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
