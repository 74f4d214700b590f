//! One request from its question to its bytes: asked, verified, given to readers, stored.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::behind::Pending;
use super::fill::Filler;
use super::gather::{Shortfall, Sources};
use super::state::Waiting;
use super::under_way::UnderWay;
use super::{Inner, failure_of};
use crate::cache::{CacheFile, Stored};
use crate::digest::{self, ContentHash, DigestError, Verified};
use crate::extent::{ByteRange, CHUNK_BYTES, PAGE_BYTES};
use crate::id::NodeId;
use crate::net::NetError;
use crate::net::peer::{OnAnswer, Progress};
use crate::transfer::TransferError;
use crate::transfer::plan::{self, Failure, Offer, RangeRequest, RequestId};
use crate::wire::native::tcp::{Lane, Request, Response};

/// How often a reader's bytes may get lost between their arrival and its turn, as when a damaged
/// page is dropped from the cache.
const RETRIES_MAX: u8 = 3;
/// What is hashed without going to another thread: the kernel's read-ahead by default, some 80
/// microseconds' work.
const HASHED_AT_ONCE_MAX_BYTES: u64 = 2 * CHUNK_BYTES;

/// Verified bytes that somebody wanted, and the file to keep them in, where the cache has one.
type Accepted = (Arc<Verified>, Option<CacheFile>);

enum Verification {
    Due(Bytes),
    Over(Option<Accepted>),
}

/// Whether a request takes the short way: small, and somebody waits for it.
pub(super) fn is_prompt(request: &RangeRequest) -> bool {
    request.lane == plan::Lane::Urgent && request.range.len() <= HASHED_AT_ONCE_MAX_BYTES
}

impl Inner {
    /// Asks for a small range on this thread where a connection is ready, else by a task.
    pub(super) fn begin(self: &Arc<Self>, request: RangeRequest, address: Option<SocketAddr>) {
        // Weak, so that an answer that never comes does not keep the network that it would come by
        let inner = Arc::downgrade(self);
        let reply: OnAnswer = Box::new(move |outcome| {
            if let Some(inner) = inner.upgrade() {
                inner.take_prompt_answer(request, outcome);
            }
        });
        let lane = lane_of(request.lane);
        let (node, progress) = (request.node, self.progress(&request));
        let asked = match self.download.pass_at_once(request.range.len(), true) {
            true => (self.asking.at_once)(node, lane, &question(&request), reply, progress),
            false => Err(reply),
        };
        let under_way = match asked {
            Ok(take_back) => UnderWay::Sent(take_back),
            Err(_reply) => {
                let task = self.runtime.spawn(self.clone().ask_range(request, address));
                UnderWay::Task(task.abort_handle())
            }
        };
        let over = self.lock().note_under_way(request.id, under_way);
        over.into_iter().for_each(UnderWay::take_back);
    }

    fn progress(&self, request: &RangeRequest) -> Option<Progress> {
        Some(Progress {
            tell: self.on_bytes.clone(),
            node: request.node,
            key: request.id.0,
        })
    }

    /// On the task of the connection: verifies, and gives readers their bytes.
    fn take_prompt_answer(
        self: &Arc<Self>,
        request: RangeRequest,
        outcome: Result<Response, NetError>,
    ) {
        let proof = match proof_of(outcome.map_err(|error| failure_of(&error))) {
            Ok(proof) => proof,
            Err(failure) => return self.fail(request.id, failure),
        };
        if !self.behind.has_room(request.range.len()) {
            self.runtime.spawn(self.clone().take_answer(request, proof));
            return;
        }
        match self.verify(&request, proof) {
            Some((verified, Some(file))) => self.store_soon(Pending {
                hash: request.hash,
                verified,
                file,
            }),
            Some((_, None)) => self.with(|state, _| state.refused(request.hash, request.range)),
            None => {}
        }
    }

    /// Asks for one range and sees to the answer.
    pub(super) async fn ask_range(
        self: Arc<Self>,
        request: RangeRequest,
        address: Option<SocketAddr>,
    ) {
        let Some(address) = address else {
            return self.fail(request.id, Failure::Gone);
        };
        let lane = lane_of(request.lane);
        let is_waited_for = request.lane == plan::Lane::Urgent;
        self.download.pass(request.range.len(), is_waited_for).await;
        let (node, progress) = (request.node, self.progress(&request));
        let answer = (self.asking.ask)(node, address, lane, question(&request), progress).await;
        match proof_of(answer) {
            Ok(proof) => self.take_answer(request, proof).await,
            Err(failure) => self.fail(request.id, failure),
        }
    }

    fn fail(self: &Arc<Self>, id: RequestId, failure: Failure) {
        self.with(|state, now| {
            state.under_way.remove(&id);
            state.plan.failed(now, id, failure);
        });
    }

    /// Hashes and stores on a blocking thread. What is small is hashed here instead, which takes
    /// less time than to wake one: its reader waits.
    async fn take_answer(self: Arc<Self>, request: RangeRequest, proof: Bytes) {
        // never closed, so never an error; without a permit nothing is verified
        let Ok(permit) = self.verifiers.clone().acquire_owned().await else {
            return;
        };
        let small = request.range.len() <= HASHED_AT_ONCE_MAX_BYTES;
        let verified = match small {
            true => Verification::Over(self.verify(&request, proof)),
            false => Verification::Due(proof),
        };
        self.runtime.clone().spawn_blocking(move || {
            let accepted = match verified {
                Verification::Over(accepted) => accepted,
                Verification::Due(proof) => self.verify(&request, proof),
            };
            if let Some((verified, file)) = accepted {
                self.keep(&request, &verified, file);
            }
            drop(permit);
        });
    }

    /// Gives readers their bytes, before these are stored. Says where they are to be, unless nobody
    /// wants them.
    fn verify(self: &Arc<Self>, request: &RangeRequest, proof: Bytes) -> Option<Accepted> {
        let (hash, range) = (request.hash, request.range);
        let verified = match digest::decode(hash, request.size_bytes, range, proof) {
            Ok(verified) => Arc::new(verified),
            Err(DigestError::ProofFailed) => {
                self.fail(request.id, Failure::Lied);
                return None;
            }
            Err(_) => {
                self.fail(request.id, Failure::Ours);
                return None;
            }
        };
        let wanted = self.with(|state, now| state.accept(now, request.id, hash, &verified));
        wanted.map(|file| (verified, file))
    }

    fn keep(self: &Arc<Self>, request: &RangeRequest, verified: &Verified, to: Option<CacheFile>) {
        let (hash, range) = (request.hash, request.range);
        let stored = to.map(|file| file.store(verified));
        self.with(|state, _| match stored {
            Some(Ok(Stored::Kept)) => state.stored(hash, range),
            Some(Ok(Stored::Full) | Err(_)) | None => state.refused(hash, range),
        });
    }

    /// Gives a reader its bytes, or lets it wait again where they are gone meanwhile.
    pub(super) fn deliver(self: &Arc<Self>, mut waiting: Waiting, sources: &Sources) {
        let (gap, why) = match sources.gather(waiting.range) {
            Ok(bytes) => return (waiting.reply)(Ok(bytes)),
            Err(Shortfall::Missing(gap)) => (gap, "bytes that were there are not any more".into()),
            Err(Shortfall::Cache(gap, error)) => (gap, error.to_string()),
        };
        if waiting.retries == RETRIES_MAX {
            return (waiting.reply)(Err(TransferError::Cache { why }));
        }
        waiting.retries += 1;
        self.with(|state, now| {
            let gap = gap.align_out(PAGE_BYTES, u64::MAX);
            state.plan.lost(&waiting.hash, gap);
            state.demand(now, waiting);
        });
    }

    pub(super) fn begin_fill(self: &Arc<Self>, hash: ContentHash, size: u64, filler: Filler) {
        match self.open(hash, size) {
            Ok(_) => {
                let patience = self.fill_patience;
                self.with(|state, now| state.fill(now, hash, filler, patience));
            }
            Err(error) => {
                // the other end may have gone
                let _ = filler.outcome.send(Err(error));
            }
        }
    }

    /// An offer lists only some of what a node has: asks it for all.
    pub(super) async fn ask_holdings(
        self: Arc<Self>,
        node: NodeId,
        address: SocketAddr,
        hash: ContentHash,
    ) {
        let Ok(_permit) = self.holdings.acquire().await else {
            return;
        };
        let question = Request::Holdings { hash };
        let answer = (self.asking.ask)(node, address, Lane::Urgent, question, None).await;
        let Ok(Response::Holdings { ranges, size_bytes }) = answer else {
            return;
        };
        let all = ranges.contains(ByteRange::new(0, size_bytes));
        let offer = Offer {
            node,
            hash,
            size_bytes,
            all,
            ranges,
            load: 0,
        };
        self.with(|state, _| state.offer(Instant::now(), &offer, address));
    }
}

fn question(request: &RangeRequest) -> Request {
    Request::Range {
        hash: request.hash,
        size_bytes: request.size_bytes,
        range: request.range,
    }
}

fn proof_of(answer: Result<Response, Failure>) -> Result<Bytes, Failure> {
    match answer? {
        Response::Data { proof } => Ok(proof),
        Response::Gone | Response::NotHere => Err(Failure::Gone),
        Response::Busy => Err(Failure::Busy),
        _ => Err(Failure::Unreachable),
    }
}

fn lane_of(lane: plan::Lane) -> Lane {
    match lane {
        plan::Lane::Urgent => Lane::Urgent,
        plan::Lane::Bulk => Lane::Bulk,
    }
}
