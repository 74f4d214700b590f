//! Disputes about the size of a content: several sizes claimed for one hash.
//!
//! The hash proves the size only through the end of the content. The beginning of a file verifies
//! under any size for which that part of the hash tree has the same shape. So each claimed size is
//! a fetch of its own, with the nodes that claim it as holders. A node that claims a wrong size
//! therefore cannot keep the bytes from readers of the right size. If sizes differ, the end of the
//! content is requested at once, under each open size. The size under which the end verifies is
//! right. The nodes that claimed other sizes have lied and are shunned, and reads and fills with
//! their sizes end at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::plan::{DemandId, HOLDERS_MAX, PlanConfig};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Claims about the sizes of the open contents, and the proven sizes.
#[derive(Debug)]
pub(super) struct Sizes {
    contents: BTreeMap<ContentKey, SizeClaims>,
    /// Demands for the ends of contents with a disputed size.
    proofs: BTreeMap<DemandId, ContentKey>,
    /// How long to wait for a proof without progress.
    pub(super) patience: Duration,
}

#[derive(Debug, Default)]
struct SizeClaims {
    /// Whether the last byte of the content was verified, which proves the size.
    is_proven: bool,
    /// Whether another size was ever claimed or requested.
    is_disputed: bool,
    /// Nodes that claim another size.
    doubters: BTreeSet<NodeId>,
}

/// State of the dispute about one size.
pub(super) enum SizeVerdict {
    Undisputed,
    /// The size is disputed and not proven yet. Its proof is the end of the content, verified under
    /// this size.
    Unproven,
    /// The size is right. The nodes and the open contents with other sizes are wrong.
    Proven {
        liars: BTreeSet<NodeId>,
        rivals: Vec<ContentKey>,
    },
}

impl Sizes {
    /// Creates an empty table. The wait for a proof has the limit of a request.
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

    /// Records verified bytes of a content. Returns whether they prove the size, because they reach
    /// the end of the content and the size was not proven before.
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
    pub(super) fn verdict(&mut self, content: &ContentKey) -> SizeVerdict {
        let rivals = self.rivals(content);
        let Some(claims) = self.contents.get_mut(content) else {
            return SizeVerdict::Undisputed;
        };
        claims.is_disputed |= !claims.doubters.is_empty() || !rivals.is_empty();
        if !claims.is_disputed {
            SizeVerdict::Undisputed
        } else if !claims.is_proven {
            SizeVerdict::Unproven
        } else {
            SizeVerdict::Proven {
                liars: std::mem::take(&mut claims.doubters),
                rivals,
            }
        }
    }

    pub(super) fn is_asked(&self, content: &ContentKey) -> bool {
        self.proofs.values().any(|asked| asked == content)
    }

    /// Records the demand for the proof of a content.
    pub(super) fn begin_proof(&mut self, id: DemandId, content: ContentKey) {
        self.proofs.insert(id, content);
    }

    /// Ends the demand for a proof. Returns its content if there was one.
    pub(super) fn end_proof(&mut self, id: DemandId) -> Option<ContentKey> {
        self.proofs.remove(&id)
    }

    /// Removes and returns the demands for the proof of a content.
    pub(super) fn take_proofs(&mut self, content: &ContentKey) -> Vec<DemandId> {
        let proofs = self.proofs.extract_if(.., |_, asked| asked == content);
        proofs.map(|(id, _)| id).collect()
    }
}
