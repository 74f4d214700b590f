//! Path of an answer from its arrival to its readers and to the cache.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{FetchEvent, FillProgress, Owner, Read, Session, Shortfall};
use crate::TransferError;
use crate::plan::presence::Refused;
use crate::plan::{
    Failure, FilesToClose, Lane, PeerNews, RangeRequest, RequestId, URGENT_MAX_BYTES,
};
use p2pfs_proto::wire::native::tcp::{self, Request, Response};
use p2pfs_types::digest::{self, ContentKey, DigestError, Verified};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};

/// Maximum retries of a read whose bytes are lost between arrival and delivery, for example because
/// the cache drops a damaged page.
const RETRIES_MAX: u8 = 3;

/// Action of the owner on verified bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted<F> {
    /// They are not needed any longer, because another peer was faster.
    Unwanted,
    /// Store them here, then report the result with [`Session::stored`] or [`Session::refused`].
    Store(F),
    /// The cache has no file for them. They stay in memory.
    Held,
}

pub(super) fn is_prompt(request: &RangeRequest) -> bool {
    request.lane == Lane::Urgent && request.range.len() <= URGENT_MAX_BYTES
}

/// Returns the wire message of a range request.
pub fn question(request: &RangeRequest) -> Request {
    Request::Range {
        hash: request.content.hash,
        size_bytes: request.content.size_bytes,
        range: request.range,
    }
}

/// Returns the connection of the wire protocol for a lane of the plan.
pub fn lane_of(lane: Lane) -> tcp::Lane {
    match lane {
        Lane::Urgent => tcp::Lane::Urgent,
        Lane::Bulk => tcp::Lane::Bulk,
    }
}

/// Returns the received bytes of an answer, with their proof.
///
/// # Errors
/// The reason why the answer contains no data.
pub fn proof_of(answer: Result<Response, Failure>) -> Result<Bytes, Failure> {
    match answer? {
        Response::Data { proof } => Ok(proof),
        Response::Gone | Response::NotHere => Err(Failure::Gone),
        Response::Busy => Err(Failure::Busy),
        Response::Refused { .. } => Err(Failure::Refused),
        _ => Err(Failure::Unreachable),
    }
}

/// Verifies the bytes of an answer by hashing them.
///
/// # Errors
/// [`Failure::Lied`] if the peer sent wrong bytes, [`Failure::Ours`] if the fault is on this node.
pub fn verify(request: &RangeRequest, proof: Bytes) -> Result<Arc<Verified>, Failure> {
    let ContentKey { hash, size_bytes } = request.content;
    match digest::decode(hash, size_bytes, request.range, proof) {
        Ok(verified) => Ok(Arc::new(verified)),
        Err(DigestError::ProofFailed) => Err(Failure::Lied),
        Err(_) => Err(Failure::Ours),
    }
}

impl<O: Owner> Session<O> {
    /// Records that a request was sent. `question` cancels it. Returns `question` if the answer is
    /// already not needed.
    pub fn sent(&mut self, id: RequestId, question: O::Question) -> Option<O::Question> {
        if !self.plan.requests().contains(id) || self.stopped {
            return Some(question);
        }
        self.asked.insert(id, question);
        None
    }

    /// Ends a request without data. Its range goes to another peer. A wrong answer counts against
    /// its sender even if it is not needed any longer.
    pub fn failed(&mut self, now: Instant, request: &RangeRequest, failure: Failure) {
        self.asked.remove(&request.id);
        self.plan.failed(now, request.id, failure);
        if failure == Failure::Lied {
            self.plan.peer_is(
                request.node,
                PeerNews::Lied {
                    now,
                    content: request.content,
                },
            );
        }
    }

    /// Accepts the verified answer of a request. Its readers get their bytes with the next actions,
    /// before the bytes are stored.
    pub fn accept(
        &mut self,
        now: Instant,
        request: &RangeRequest,
        verified: &Arc<Verified>,
    ) -> Accepted<O::File> {
        let content = request.content;
        self.asked.remove(&request.id);
        if !self.plan.answered(now, request.id) {
            return Accepted::Unwanted;
        }
        if let Some(presence) = self.plan.presence(&content) {
            presence.hold(verified.clone(), self.refused.of(&content));
        }
        if self.sizes.record_verified(&content, verified.range) {
            self.resolve_size(now, content);
        }
        self.handle_events(now);
        let Some(file) = self.files.get(&content) else {
            return Accepted::Unwanted;
        };
        if !file.fills.is_empty() {
            let progress = FillProgress {
                ready_bytes: self.plan.files().ready_bytes(&content).unwrap_or_default(),
                size_bytes: content.size_bytes,
            };
            let fills = file.fills.iter();
            fills.for_each(|(_, fill)| O::tell(fill, progress));
        }
        match &file.cache {
            Some(cache) => Accepted::Store(cache.clone()),
            None => {
                // the bytes have no cache file, so there is nothing to store again
                let _held = self.refused(now, content, verified.range);
                Accepted::Held
            }
        }
    }

    /// Records that the cache stored the bytes, and whether it then had the whole content.
    /// Concurrent stores may be reported in any order.
    pub fn stored(&mut self, content: ContentKey, range: ByteRange, is_complete: bool) {
        if let Some(presence) = self.plan.presence(&content) {
            presence.stored(range, is_complete, self.refused.of(&content));
        }
        if self.cramped_bytes > 0 {
            self.cramped_bytes = self.cramped_bytes.saturating_sub(range.len());
            if self.cramped_bytes == 0 {
                self.plan.limit_read_ahead(None);
            }
        }
        if let Some(file) = self.files.get_mut(&content).filter(|_| is_complete)
            && !std::mem::replace(&mut file.told_done, true)
        {
            let ContentKey { hash, size_bytes } = content;
            let done = FetchEvent::Done { hash, size_bytes };
            self.actions.events.push(done);
        }
        self.end_fills_if_stored(&content);
    }

    /// Records that the cache had no room for the bytes. If a fill began after they were handed
    /// out, the owner stores them again and reports the result again.
    pub fn refused(&mut self, now: Instant, content: ContentKey, range: ByteRange) -> Refused {
        let presence = self.plan.presence(&content);
        let refused = presence.map(|it| it.refuse(range, self.refused.of(&content)));
        if refused == Some(Refused::StoreAgain) {
            return Refused::StoreAgain;
        }
        while let Some((content, range)) = self.refused.over_limit() {
            let mut refused = self.refused.of(&content);
            match self.plan.presence(&content) {
                Some(presence) => presence.release(range, refused),
                None => refused.remove(range),
            }
            self.plan.lost(&content, range);
        }
        // occasional room, when another file is evicted, does not make the cache roomy
        self.cramped_bytes = self.refused.limit_bytes().max(1);
        // the rest of the memory is for demands
        let most = self.refused.limit_bytes() / 2;
        self.plan.limit_read_ahead(Some(most));
        self.plan
            .close_files(FilesToClose::LongIdle { now, kept: content });
        self.end_fills(&content, &Err(TransferError::CacheFull));
        Refused::Held
    }

    /// Restarts a read after its bytes were lost before delivery. It waits as long as the first
    /// time. After a few retries it fails.
    pub fn fell_short(&mut self, now: Instant, mut read: Read<O::ReadHandle>, gap: Shortfall) {
        if read.retries == RETRIES_MAX {
            let why = gap.why;
            let error = TransferError::Cache { why };
            return self.actions.ends.push((read.handle, error));
        }
        read.retries += 1;
        for gap in gap.missing.iter() {
            let gap = gap.align_out(PAGE_BYTES, u64::MAX);
            self.plan.lost(&read.content, gap);
        }
        // if it waits, it keeps its id
        let _again = self.read(now, read);
    }

    /// Returns the bytes in memory that the cache refused.
    #[cfg(any(test, feature = "test-support"))]
    pub fn refused_bytes(&self) -> u64 {
        self.refused.bytes()
    }
}
