//! An answer from its arrival to its readers and to the cache.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{FetchEvent, FillProgress, Owner, Read, Session, Shortfall};
use crate::TransferError;
use crate::plan::{Failure, Lane, RangeRequest, RequestId};
use p2pfs_proto::wire::native::tcp::{self, Request, Response};
use p2pfs_types::digest::{self, ContentKey, DigestError, Verified};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, PAGE_BYTES};
use p2pfs_types::id::NodeId;

/// How often a reader's bytes may get lost between their arrival and its turn, as when a damaged
/// page is dropped from the cache.
const RETRIES_MAX: u8 = 3;
/// The largest range that takes the short way where a reader waits for it, asked and verified
/// without another thread: as far as the kernel reads ahead unless told otherwise, some 80
/// microseconds' hashing.
pub const SHORT_WAY_MAX_BYTES: u64 = 2 * CHUNK_BYTES;
/// What read-ahead may hold of the window for uncached bytes, the rest being left to demands.
const UNCACHED_AHEAD_SHARE: u64 = 2;

/// What is to become of verified bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted<F> {
    /// Nobody wants them any more: another was sooner.
    Unwanted,
    /// Store them here, and say how that ended with [`Session::stored`] or [`Session::refused`].
    Store(F),
    /// The cache has no file for them; they are in memory.
    Held,
}

/// What is to become of verified bytes that the cache refused.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is to be stored again is told of again"]
pub enum Refused {
    /// They stay in memory for readers nearby; every fill of their content has failed.
    Held,
    /// As with [`Accepted::Store`].
    StoreAgain,
}

pub(super) fn is_prompt(request: &RangeRequest) -> bool {
    request.lane == Lane::Urgent && request.range.len() <= SHORT_WAY_MAX_BYTES
}

/// A request as it is asked.
pub fn question(request: &RangeRequest) -> Request {
    Request::Range {
        hash: request.content.hash,
        size_bytes: request.content.size_bytes,
        range: request.range,
    }
}

/// By which connection a request is asked.
pub fn lane_of(lane: Lane) -> tcp::Lane {
    match lane {
        Lane::Urgent => tcp::Lane::Urgent,
        Lane::Bulk => tcp::Lane::Bulk,
    }
}

/// The bytes of an answer with what proves them, as they came.
///
/// # Errors
/// The peer did not give any.
pub fn proof_of(answer: Result<Response, Failure>) -> Result<Bytes, Failure> {
    match answer? {
        Response::Data { proof } => Ok(proof),
        Response::Gone | Response::NotHere => Err(Failure::Gone),
        Response::Busy => Err(Failure::Busy),
        Response::Refused { .. } => Err(Failure::Refused),
        _ => Err(Failure::Unreachable),
    }
}

/// The bytes of an answer, where they are the right ones. Hashes them.
///
/// # Errors
/// Whose fault it is that they are not.
pub fn verify(request: &RangeRequest, proof: Bytes) -> Result<Arc<Verified>, Failure> {
    let ContentKey { hash, size_bytes } = request.content;
    match digest::decode(hash, size_bytes, request.range, proof) {
        Ok(verified) => Ok(Arc::new(verified)),
        Err(DigestError::ProofFailed) => Err(Failure::Lied),
        Err(_) => Err(Failure::Ours),
    }
}

impl<O: Owner> Session<O> {
    /// A request was sent: `question` takes it back. Gives it back where its answer is of no use
    /// already.
    pub fn sent(&mut self, id: RequestId, question: O::Question) -> Option<O::Question> {
        if !self.plan.is_asked(id) || self.stopped {
            return Some(question);
        }
        self.asked.insert(id, question);
        None
    }

    /// A request waits to be allowed by a limit of this node.
    pub fn held(&mut self, id: RequestId) {
        self.plan.held(id);
    }

    /// It is allowed, and asked now.
    pub fn let_go(&mut self, now: Instant, id: RequestId) {
        self.plan.let_go(now, id);
    }

    /// Bytes of an answer came from a peer, whole or not.
    pub fn arrived(&mut self, now: Instant, node: NodeId, id: RequestId, bytes: u64) {
        self.plan.arrived(now, node, id, bytes);
    }

    /// All of an answer is here, and waits for its turn to be verified.
    pub fn came(&mut self, id: RequestId) {
        self.plan.came(id);
    }

    /// A request came to nothing; its range goes to another peer. A wrong answer is held against
    /// its sender though nobody wants it any more.
    pub fn failed(&mut self, now: Instant, request: &RangeRequest, failure: Failure) {
        self.asked.remove(&request.id);
        self.plan.failed(now, request.id, failure);
        if failure == Failure::Lied {
            self.plan.lied(now, request.node, request.content);
        }
    }

    /// The answer to a request is here, verified. Its readers have their bytes with the next
    /// actions, before these are stored.
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
        self.window.insert(content, verified.clone());
        self.note_verified(now, content, verified.range);
        self.take_events(now);
        let Some(file) = self.files.get(&content) else {
            return Accepted::Unwanted;
        };
        if !file.fillers.is_empty() {
            let progress = FillProgress {
                ready_bytes: self.plan.ready_bytes(&content).unwrap_or_default(),
                size_bytes: content.size_bytes,
            };
            let fillers = file.fillers.iter();
            fillers.for_each(|(_, filler)| O::tell(filler, progress));
        }
        match &file.cache {
            Some(cache) => Accepted::Store(cache.clone()),
            None => {
                // given to no cache, so there is nothing to repeat
                let _held = self.refused(now, content, verified.range);
                Accepted::Held
            }
        }
    }

    /// The cache has the bytes, and had all of the content then or not. What is stored at once may
    /// be told of in any order.
    pub fn stored(&mut self, content: ContentKey, range: ByteRange, is_complete: bool) {
        self.window.remove(&content, range);
        if self.cramped_bytes > 0 {
            self.cramped_bytes = self.cramped_bytes.saturating_sub(range.len());
            if self.cramped_bytes == 0 {
                self.plan.limit_read_ahead(None);
            }
        }
        if let Some(file) = self.files.get_mut(&content) {
            // who stored an earlier part may tell of it after who stored the last one
            file.is_complete |= is_complete;
            if is_complete && !std::mem::replace(&mut file.told_done, true) {
                let ContentKey { hash, size_bytes } = content;
                let done = FetchEvent::Done { hash, size_bytes };
                self.actions.events.push(done);
            }
        }
        self.end_fills_if_stored(&content);
    }

    /// The cache has no room for the bytes, or had none when they were to be stored: where a fill
    /// began since then, they are to be stored once more, and how that ended told anew.
    pub fn refused(&mut self, now: Instant, content: ContentKey, range: ByteRange) -> Refused {
        if self.window.store_again(&content, range) {
            return Refused::StoreAgain;
        }
        for (content, range) in self.window.refuse(&content, range) {
            self.plan.lost(&content, range);
        }
        // a little room now and then, where a file gives way, does not make the cache roomy
        self.cramped_bytes = self.window_bytes.max(1);
        let most = self.window_bytes / UNCACHED_AHEAD_SHARE;
        self.plan.limit_read_ahead(Some(most));
        self.plan.shed_idle(now, &content);
        self.end_fills(&content, &Err(TransferError::CacheFull));
        Refused::Held
    }

    /// Bytes that a reader was to have are gone meanwhile: it waits again, a few times, as long as
    /// the first time.
    pub fn fell_short(&mut self, now: Instant, mut read: Read<O::Reader>, gap: Shortfall) {
        if read.retries == RETRIES_MAX {
            let why = gap.why;
            let error = TransferError::Cache { why };
            return self.actions.ends.push((read.reader, error));
        }
        read.retries += 1;
        if let Some(file) = self.files.get_mut(&read.content) {
            file.is_complete = false;
        }
        for gap in gap.missing.iter() {
            let gap = gap.align_out(PAGE_BYTES, u64::MAX);
            self.plan.lost(&read.content, gap);
        }
        // where it waits, it is called as before
        let _again = self.read(now, read);
    }

    #[cfg(any(test, feature = "test-support"))]
    pub fn is_at_rest(&self) -> bool {
        self.asked.is_empty() && self.window.refused_bytes() == 0
    }

    #[cfg(any(test, feature = "test-support"))]
    pub fn refused_bytes(&self) -> u64 {
        self.window.refused_bytes()
    }
}
