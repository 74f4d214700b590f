//! Path of one request: sent, verified, delivered to readers, stored.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::{Instrument, debug, trace};

use super::asking::{TakeBack, failure_of};
use super::storing::StoreTurn;
use super::trace::FetchTrace;
use super::write_behind::{BEHIND_FOR, PendingStore};
use super::{FetcherInner, ReadReply, read_into};
use crate::TRACE_TARGET;
use crate::net::NetError;
use crate::net::peer::{OnAnswer, Progress};
use crate::pace::PassedBytes;
use p2pfs_cache::CacheFile;
use p2pfs_fetch::plan::{self, Failure, RangeRequest, RequestStage, URGENT_MAX_BYTES};
use p2pfs_fetch::session::{self, Accepted, Delivery, SendRange, lane_of, proof_of, question};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_types::digest::{ContentHash, ContentKey, Verified};
use p2pfs_types::id::NodeId;

/// Maximum wait of a request for the download limit, after which it fails with
/// [`Failure::Limited`]. This is well within a reader's patience.
pub(super) const ALLOWED_WITHIN: Duration = Duration::from_secs(4);

/// Verified bytes and the cache file to store them in.
type ToStore = (Arc<Verified>, CacheFile);

impl FetcherInner {
    /// Sends a request: on this thread if it is prompt, the download limit lets it pass at once and
    /// a connection is ready; otherwise in a task.
    pub(super) fn begin(self: &Arc<Self>, send: SendRange) {
        let SendRange {
            request, address, ..
        } = send;
        let asked = if send.is_prompt {
            self.ask_at_once(request)
        } else {
            None
        };
        let under_way = asked.unwrap_or_else(|| {
            let span = self.trace.request(request.id);
            let asking = self.clone().ask_range(request, address);
            let task = self.runtime.spawn(asking.instrument(span));
            let task = task.abort_handle();
            Box::new(move || task.abort())
        });
        let over = self.state.lock().session.record_sent(request.id, under_way);
        over.into_iter().for_each(|take_back| take_back());
    }

    fn ask_at_once(self: &Arc<Self>, request: RangeRequest) -> Option<TakeBack> {
        let (download, bytes) = (&self.settings.download, request.range.len());
        if !download.pass_at_once(bytes, true) {
            return None;
        }
        let passed = download.passed(bytes);
        let progress = self.progress(&request, &passed);
        // The reference is weak. Otherwise an unanswered request would keep the fetcher, and with
        // it the network that is to deliver the answer, alive for ever.
        let inner = Arc::downgrade(self);
        let reply: OnAnswer = Box::new(move |outcome| {
            if let Some(inner) = inner.upgrade() {
                inner.take_prompt_answer(request, passed, outcome);
            }
        });
        let (node, lane) = (request.node, lane_of(request.lane));
        let asked = (self.asking.at_once)(node, lane, &question(&request), reply, progress);
        if asked.is_ok() {
            self.trace_request(&request, "sent at once over an open connection");
        }
        asked.ok()
    }

    fn progress(&self, request: &RangeRequest, passed: &PassedBytes) -> Option<Progress> {
        let tell = match (self.on_bytes.clone(), passed.on_bytes()) {
            (tell, None) => tell,
            (tell, Some(on_bytes)) => Arc::new(move |node, key, bytes| {
                on_bytes(bytes);
                tell(node, key, bytes);
            }),
        };
        Some(Progress {
            tell,
            node: request.node,
            key: request.id.0,
        })
    }

    /// Verifies an answer on the task of its connection and gives readers their bytes. If the
    /// write-behind queue is full, another task does so.
    fn take_prompt_answer(
        self: &Arc<Self>,
        request: RangeRequest,
        passed: PassedBytes,
        outcome: Result<Response, NetError>,
    ) {
        let proof = match proof_of(outcome.map_err(|error| failure_of(&error))) {
            Ok(proof) => proof,
            Err(failure) => {
                drop(passed);
                return self.fail(&request, failure);
            }
        };
        passed.mark_transferred();
        if !self.storing.behind.has_room(request.range.len()) {
            self.runtime.spawn(self.clone().take_answer(request, proof));
            return;
        }
        if let Some((verified, file)) = self.verify(&request, proof) {
            self.store_soon(PendingStore {
                content: request.content,
                verified,
                file,
            });
        }
    }

    /// Requests one range and handles the answer.
    async fn ask_range(self: Arc<Self>, request: RangeRequest, address: Option<SocketAddr>) {
        let Some(address) = address else {
            return self.fail(&request, Failure::Gone);
        };
        let lane = lane_of(request.lane);
        let Some(passed) = self.wait_for_limit(&request).await else {
            // the delay is not a peer's fault, and no reason to give up
            return self.fail(&request, Failure::Limited);
        };
        trace!(target: TRACE_TARGET, "sent");
        let (node, progress) = (request.node, self.progress(&request, &passed));
        let answer = (self.asking.ask)(node, address, lane, question(&request), progress).await;
        match proof_of(answer) {
            Ok(proof) => {
                passed.mark_transferred();
                self.take_answer(request, proof).await;
            }
            Err(failure) => {
                drop(passed);
                self.fail(&request, failure);
            }
        }
    }

    /// Waits for up to [`ALLOWED_WITHIN`] until the download limit lets a request pass. Returns
    /// `None` if it did not; at once if a background request is too large for one transfer.
    async fn wait_for_limit(self: &Arc<Self>, request: &RangeRequest) -> Option<PassedBytes> {
        let is_waited_for = request.lane == plan::Lane::Urgent;
        let (download, bytes) = (&self.settings.download, request.range.len());
        if !is_waited_for && download.is_too_much(bytes) {
            return None;
        }
        let mut allowed = pin!(download.pass(bytes, is_waited_for));
        if poll_fn(|cx| Poll::Ready(allowed.as_mut().poll(cx).is_ready())).await {
            return Some(download.passed(bytes));
        }
        self.with(|session, _| {
            session
                .plan
                .record_stage(request.id, RequestStage::Throttled)
        });
        timeout(ALLOWED_WITHIN, allowed).await.ok()?;
        let passed = download.passed(bytes);
        self.with(|session, now| {
            session
                .plan
                .record_stage(request.id, RequestStage::Sent { at: now })
        });
        Some(passed)
    }

    fn fail(self: &Arc<Self>, request: &RangeRequest, failure: Failure) {
        self.with(|session, now| session.failed(now, request, failure));
    }

    /// Logs a step of a request in the first trace span of the request.
    fn trace_request(&self, request: &RangeRequest, step: &str) {
        if FetchTrace::is_wanted() {
            let span = self.trace.request(request.id);
            span.in_scope(|| trace!(target: TRACE_TARGET, "{step}"));
        }
    }

    /// Verifies and stores an answer on a blocking thread. A small answer is verified on this task
    /// instead, because that takes less time than waking a thread while its reader waits.
    async fn take_answer(self: Arc<Self>, request: RangeRequest, proof: Bytes) {
        self.trace_request(&request, "the whole answer is here");
        self.with(|session, _| {
            session
                .plan
                .record_stage(request.id, RequestStage::Received)
        });
        let turn = self.storing.turn().await;
        if turn.is_none() {
            debug!(target: TRACE_TARGET, "the cache's disk hangs, the bytes stay in memory");
        }
        // the semaphore is never closed, so this cannot fail; without a permit nothing is verified
        let Ok(permit) = self.storing.verifier().await else {
            return;
        };
        if request.range.len() <= URGENT_MAX_BYTES {
            let Some((verified, file)) = self.verify(&request, proof) else {
                return;
            };
            self.runtime.clone().spawn_blocking(move || {
                drop(permit);
                self.store(turn, request.content, &verified, &file);
            });
            return;
        }
        self.runtime.clone().spawn_blocking(move || {
            let to_store = self.verify(&request, proof);
            drop(permit);
            if let Some((verified, file)) = to_store {
                self.store(turn, request.content, &verified, &file);
            }
        });
    }

    /// Stores an answer and reports the result. `turn` is `None` if the disk hangs. Then nothing is
    /// written, even if the session asks to store the bytes again. Blocking.
    fn store(
        self: &Arc<Self>,
        turn: Option<StoreTurn>,
        content: ContentKey,
        verified: &Verified,
        file: &CacheFile,
    ) {
        let turn = turn.as_ref();
        let mut kept = self.storing.store_answer(turn, file, verified);
        while self.with(|session, now| kept.report_stored(session, now, content, verified.range)) {
            kept = self.storing.store_answer(turn, file, verified);
        }
    }

    /// Verifies an answer and gives readers their bytes before these are stored. Returns the bytes
    /// to store, or `None` if they are wrong or not to be stored.
    fn verify(self: &Arc<Self>, request: &RangeRequest, proof: Bytes) -> Option<ToStore> {
        let verified = match session::verify(request, proof) {
            Ok(verified) => verified,
            Err(failure) => {
                self.fail(request, failure);
                return None;
            }
        };
        match self.with(|session, now| session.accept(now, request, &verified)) {
            Accepted::Store(file) => Some((verified, file)),
            Accepted::Unwanted | Accepted::Held => None,
        }
    }

    /// Gives a reader its bytes, or restarts its read if some of them cannot be read any more.
    pub(super) fn deliver(self: &Arc<Self>, delivery: Delivery<ReadReply, CacheFile>) {
        let Delivery { read, sources } = delivery;
        let read_at_disk = |file: &CacheFile, range, buffer: &mut [u8]| {
            // An answer with a turn may wait here for the disk.
            let _call = self.storing.call_disk();
            read_into(file, range, buffer)
        };
        match sources.gather(read.range, read_at_disk) {
            Ok(bytes) => (read.handle)(Ok(bytes)),
            Err(gap) => self.restart_read(read, gap),
        }
    }

    /// Asks a node for all ranges of a content that it has.
    pub(super) async fn ask_holdings(
        self: Arc<Self>,
        node: NodeId,
        address: SocketAddr,
        hash: ContentHash,
    ) {
        // the semaphore is never closed, so this cannot fail
        let _permit = self.holdings.acquire().await;
        let question = Request::Holdings { hash };
        let answer = (self.asking.ask)(node, address, Lane::Urgent, question, None).await;
        self.with(|session, now| session.holdings(now, (node, address), hash, answer));
    }

    fn store_soon(self: &Arc<Self>, pending: PendingStore) {
        if !self.storing.behind.add(pending) {
            return;
        }
        let inner = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(BEHIND_FOR).await;
            inner
                .runtime
                .clone()
                .spawn_blocking(move || inner.store_pending());
        });
    }

    /// Stores the queue until it is empty. Blocking.
    fn store_pending(self: &Arc<Self>) {
        let mut again = Vec::new();
        loop {
            let mut pending = self.storing.behind.take();
            pending.append(&mut again);
            if pending.is_empty() {
                return;
            }
            let outcomes: Vec<_> = pending
                .iter()
                .map(|one| {
                    let kept = self.storing.store_now(&one.file, &one.verified);
                    // The first range of a file creates files, which takes half a millisecond.
                    // Threads with a reader's bytes that need this processor should not wait for
                    // the whole queue.
                    std::thread::yield_now();
                    kept
                })
                .collect();
            self.with(|session, now| {
                for (one, kept) in pending.into_iter().zip(outcomes) {
                    if kept.report_stored(session, now, one.content, one.verified.range) {
                        again.push(one);
                    }
                }
            });
        }
    }
}
