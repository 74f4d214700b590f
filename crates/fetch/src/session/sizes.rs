//! Disputes about the size of a content: several sizes claimed for one hash.
//!
//! The hash binds the size only through the end of the content. The beginning of a file verifies
//! under any size that splits the tree there alike. So each size is a fetch of its own, with the
//! nodes that claim it as holders. A node that claims another size cannot keep the bytes from
//! readers. If sizes differ, the end of the content is requested first. The size that it proves is
//! right. The nodes that claimed other sizes have lied and are shunned, and reads and fills with
//! their sizes end at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Owner, Session};
use crate::TransferError;
use crate::plan::{DemandId, FilesToClose, HOLDERS_MAX, PeerNews, PlanConfig, PlanError};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};
use p2pfs_types::id::NodeId;

/// Claims about the sizes of the open contents, and the proven sizes.
#[derive(Debug)]
pub(super) struct Sizes {
    contents: BTreeMap<ContentKey, SizeClaims>,
    /// Demands for the ends of contents with a disputed size.
    proofs: BTreeMap<DemandId, ContentKey>,
    /// How long to wait for a proof without progress.
    patience: Duration,
}

#[derive(Debug, Default)]
struct SizeClaims {
    /// Whether its last byte was verified, which proves its size.
    is_proven: bool,
    /// Whether another size was ever claimed or requested.
    is_disputed: bool,
    /// Nodes that claim another size.
    doubters: BTreeSet<NodeId>,
}

/// Result of a dispute about one size, as matters stand.
enum SizeVerdict {
    Undisputed,
    /// The end of the content proves it.
    Unproven,
    /// It is right. The nodes and the open contents with other sizes are wrong.
    Proven {
        liars: BTreeSet<NodeId>,
        rivals: Vec<ContentKey>,
    },
}

impl Sizes {
    /// Creates an empty table. A proof is waited for as long as any answer.
    pub(super) fn new(config: &PlanConfig) -> Self {
        Self {
            contents: BTreeMap::new(),
            proofs: BTreeMap::new(),
            patience: config.request_limit,
        }
    }

    /// Adds an open content.
    pub(super) fn open(&mut self, content: ContentKey, is_proven: bool) {
        let claims = SizeClaims {
            is_proven,
            ..SizeClaims::default()
        };
        self.contents.insert(content, claims);
    }

    /// Removes a closed content.
    pub(super) fn close(&mut self, content: &ContentKey) {
        self.contents.remove(content);
    }

    /// Returns the open contents with this hash. More than one means that the size is in dispute.
    pub(super) fn of(&self, hash: &ContentHash) -> Vec<ContentKey> {
        let all = ContentKey::new(*hash, 0)..=ContentKey::new(*hash, u64::MAX);
        self.contents
            .range(all)
            .map(|(content, _)| *content)
            .collect()
    }

    fn rivals(&self, content: &ContentKey) -> Vec<ContentKey> {
        let mut rivals = self.of(&content.hash);
        rivals.retain(|rival| rival != content);
        rivals
    }

    /// Records the size that a node claims for a hash, as doubt about the contents with another
    /// size.
    pub(super) fn record_claim(&mut self, node: NodeId, said: ContentKey) {
        for content in self.rivals(&said) {
            if let Some(claims) = self.contents.get_mut(&content)
                && claims.doubters.len() < HOLDERS_MAX
            {
                claims.doubters.insert(node);
            }
        }
    }

    /// Records verified bytes of a content. Its last byte proves its size. Returns whether that is
    /// news.
    pub(super) fn record_verified(&mut self, content: &ContentKey, range: ByteRange) -> bool {
        let claims = self.contents.get_mut(content);
        let claims = claims.filter(|_| range.end >= content.size_bytes);
        claims.is_some_and(|claims| !std::mem::replace(&mut claims.is_proven, true))
    }

    /// Returns whether another size of the hash of a content is proven.
    pub(super) fn is_disproven(&self, content: &ContentKey) -> bool {
        let mut rivals = self.rivals(content).into_iter();
        rivals.any(|rival| self.contents[&rival].is_proven)
    }

    /// Returns the result of the dispute about an open content.
    fn verdict(&mut self, content: &ContentKey) -> SizeVerdict {
        let rivals = self.rivals(content);
        let Some(claims) = self.contents.get_mut(content) else {
            return SizeVerdict::Undisputed;
        };
        claims.is_disputed |= !claims.doubters.is_empty() || !rivals.is_empty();
        match (claims.is_disputed, claims.is_proven) {
            (false, _) => SizeVerdict::Undisputed,
            (true, false) => SizeVerdict::Unproven,
            (true, true) => SizeVerdict::Proven {
                liars: std::mem::take(&mut claims.doubters),
                rivals,
            },
        }
    }

    fn is_asked(&self, content: &ContentKey) -> bool {
        self.proofs.values().any(|asked| asked == content)
    }

    /// Ends the demand for a proof. Returns its content if there was one.
    pub(super) fn end_proof(&mut self, id: DemandId) -> Option<ContentKey> {
        self.proofs.remove(&id)
    }

    /// Removes and returns the demands for the proof of a content.
    fn take_proofs(&mut self, content: &ContentKey) -> Vec<DemandId> {
        let proofs = self.proofs.extract_if(.., |_, asked| asked == content);
        proofs.map(|(id, _)| id).collect()
    }
}

impl<O: Owner> Session<O> {
    pub(super) fn resolve_sizes(&mut self, now: Instant, hash: &ContentHash) {
        for content in self.sizes.of(hash) {
            self.resolve_size(now, content);
        }
    }

    /// Requests the proof of a disputed size. If the size is proven, shuns the nodes that claimed
    /// others.
    pub(super) fn resolve_size(&mut self, now: Instant, content: ContentKey) {
        match self.sizes.verdict(&content) {
            SizeVerdict::Undisputed => {}
            SizeVerdict::Unproven if self.sizes.is_asked(&content) => {}
            SizeVerdict::Unproven => {
                let last = content.size_bytes.saturating_sub(1) / PAGE_BYTES * PAGE_BYTES;
                let end = ByteRange::new(last, content.size_bytes);
                let deadline = now + self.sizes.patience;
                // after a recent failure the proof is requested again when holders are next listed
                if let Ok(id) = self.plan.demand(now, content, end, deadline) {
                    self.sizes.proofs.insert(id, content);
                }
            }
            SizeVerdict::Proven { liars, rivals } => {
                for liar in liars {
                    self.plan.peer_is(liar, PeerNews::Lied { now, content });
                }
                for rival in rivals {
                    self.disprove(rival);
                }
                // the cache may have refused this content because another size had the file of its
                // hash
                let file = self.files.get(&content);
                if file.is_some_and(|file| file.cache.is_none()) {
                    self.actions.reopens.push(content);
                }
            }
        }
    }

    /// Ends all reads and fills of a size after another size of its hash is proven.
    fn disprove(&mut self, content: ContentKey) {
        let why = TransferError::from(PlanError::OnlyLiars);
        for id in self.reads.of(&content) {
            self.plan.cancel(id);
            self.reads.fail(id, why.clone(), &mut self.actions);
        }
        for id in self.sizes.take_proofs(&content) {
            self.plan.cancel(id);
        }
        self.end_fills(&content, &Err(why));
        self.plan.close_files(FilesToClose::Disproven(content));
    }

    /// Attaches the cache's file to a content that the cache can store after all. Bytes that are in
    /// memory are fetched again, to be stored.
    pub fn reopened(&mut self, content: &ContentKey, file: O::File, is_complete: bool) {
        let Some(open) = self.files.get_mut(content) else {
            return self.actions.closed.push(file);
        };
        open.cache = Some(file);
        let Some(presence) = self.plan.presence(content) else {
            return;
        };
        let again = presence.reopen(is_complete, self.refused.of(content));
        for range in again {
            self.plan.lost(content, range);
        }
    }
}
