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
use super::inner::FetcherInner;
use super::storing::StoreTurn;
use super::trace::FetchTrace;
use super::write_behind::{PendingStore, store_soon};
use crate::TRACE_TARGET;
use crate::net::NetError;
use crate::net::peer::{OnAnswer, Progress};
use crate::pace::PassedBytes;
use p2pfs_content::CacheFile;
use p2pfs_fetch::plan::{self, Failure, RangeRequest, RequestStage, URGENT_MAX_BYTES};
use p2pfs_fetch::session::{self, Accepted, SendRange, lane_of, proof_of, question};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::Verified;

/// Maximum wait of a request for the download limit, after which it fails with
/// [`Failure::Limited`]. This is well within a reader's patience.
pub(super) const ALLOWED_WITHIN: Duration = Duration::from_secs(4);

/// Verified bytes and the cache file to store them in.
type ToStore = (Arc<Verified>, CacheFile);

/// Sends a request: on this thread if it is prompt, the download limit lets it pass at once and a
/// connection is ready; otherwise in a task.
pub(super) fn begin(inner: &Arc<FetcherInner>, send: SendRange) {
    let SendRange {
        request, address, ..
    } = send;
    let exchange = RangeExchange {
        inner: inner.clone(),
        request,
    };
    let asked = if send.is_prompt {
        exchange.ask_at_once()
    } else {
        None
    };
    let under_way = asked.unwrap_or_else(|| {
        let span = inner.trace.request(request.id);
        let task = inner.runtime.spawn(exchange.ask(address).instrument(span));
        let task = task.abort_handle();
        Box::new(move || task.abort())
    });
    let over = (inner.state.lock().session).record_sent(request.id, under_way);
    over.into_iter().for_each(|take_back| take_back());
}

/// The exchange of one request for its answer.
struct RangeExchange {
    inner: Arc<FetcherInner>,
    request: RangeRequest,
}

impl RangeExchange {
    /// Sends the request on this thread. Returns `None` if the download limit or the connection
    /// makes it wait.
    fn ask_at_once(&self) -> Option<TakeBack> {
        let request = self.request;
        let (download, bytes) = (&self.inner.settings.download, request.range.len());
        if !download.pass_at_once(bytes, true) {
            return None;
        }
        let passed = download.passed(bytes);
        let progress = self.progress(&passed);
        // The reference is weak. Otherwise an unanswered request would keep the fetcher, and with
        // it the network that is to deliver the answer, alive for ever.
        let inner = Arc::downgrade(&self.inner);
        let reply: OnAnswer = Box::new(move |outcome| {
            if let Some(inner) = inner.upgrade() {
                RangeExchange { inner, request }.take_prompt_answer(passed, outcome);
            }
        });
        let (node, lane) = (request.node, lane_of(request.lane));
        let asked = (self.inner.asking.at_once)(node, lane, &question(&request), reply, progress);
        if asked.is_ok() {
            self.trace("sent at once over an open connection");
        }
        asked.ok()
    }

    fn progress(&self, passed: &PassedBytes) -> Option<Progress> {
        let tell = match (self.inner.on_bytes.clone(), passed.on_bytes()) {
            (tell, None) => tell,
            (tell, Some(on_bytes)) => Arc::new(move |node, key, bytes| {
                on_bytes(bytes);
                tell(node, key, bytes);
            }),
        };
        Some(Progress {
            tell,
            node: self.request.node,
            key: self.request.id.0,
        })
    }

    /// Verifies an answer on the task of its connection and gives readers their bytes. If the
    /// write-behind queue is full, another task does so.
    fn take_prompt_answer(self, passed: PassedBytes, outcome: Result<Response, NetError>) {
        let proof = match proof_of(outcome.map_err(|error| failure_of(&error))) {
            Ok(proof) => proof,
            Err(failure) => {
                drop(passed);
                return self.fail(failure);
            }
        };
        passed.mark_transferred();
        if !self.inner.storing.behind.has_room(self.request.range.len()) {
            let runtime = self.inner.runtime.clone();
            runtime.spawn(self.take_answer(proof));
            return;
        }
        if let Some((verified, file)) = self.verify(proof) {
            let pending = PendingStore {
                content: self.request.content,
                verified,
                file,
            };
            store_soon(&self.inner, pending);
        }
    }

    /// Sends the request over a connection to `address` and handles the answer.
    async fn ask(self, address: Option<SocketAddr>) {
        let request = self.request;
        let Some(address) = address else {
            return self.fail(Failure::Gone);
        };
        let lane = lane_of(request.lane);
        let Some(passed) = self.wait_for_limit().await else {
            // the delay is not a peer's fault, and no reason to give up
            return self.fail(Failure::Limited);
        };
        trace!(target: TRACE_TARGET, "sent");
        let (node, progress) = (request.node, self.progress(&passed));
        let answer =
            (self.inner.asking.ask)(node, address, lane, question(&request), progress).await;
        match proof_of(answer) {
            Ok(proof) => {
                passed.mark_transferred();
                self.take_answer(proof).await;
            }
            Err(failure) => {
                drop(passed);
                self.fail(failure);
            }
        }
    }

    /// Waits for up to [`ALLOWED_WITHIN`] until the download limit lets a request pass. Returns
    /// `None` if it did not; at once if a background request is too large for one transfer.
    async fn wait_for_limit(&self) -> Option<PassedBytes> {
        let (inner, request) = (&self.inner, &self.request);
        let is_waited_for = request.lane == plan::Lane::Urgent;
        let (download, bytes) = (&inner.settings.download, request.range.len());
        if !is_waited_for && download.is_too_much(bytes) {
            return None;
        }
        let mut allowed = pin!(download.pass(bytes, is_waited_for));
        if poll_fn(|cx| Poll::Ready(allowed.as_mut().poll(cx).is_ready())).await {
            return Some(download.passed(bytes));
        }
        inner.with(|session, _| {
            session
                .plan
                .record_stage(request.id, RequestStage::Throttled)
        });
        timeout(ALLOWED_WITHIN, allowed).await.ok()?;
        let passed = download.passed(bytes);
        inner.with(|session, now| {
            session
                .plan
                .record_stage(request.id, RequestStage::Sent { at: now })
        });
        Some(passed)
    }

    fn fail(&self, failure: Failure) {
        self.inner
            .with(|session, now| session.failed(now, &self.request, failure));
    }

    /// Logs a step of a request in the first trace span of the request.
    fn trace(&self, step: &str) {
        if FetchTrace::is_wanted() {
            let span = self.inner.trace.request(self.request.id);
            span.in_scope(|| trace!(target: TRACE_TARGET, "{step}"));
        }
    }

    /// Verifies and stores an answer on a blocking thread. A small answer is verified on this task
    /// instead, because that takes less time than waking a thread while its reader waits.
    async fn take_answer(self, proof: Bytes) {
        self.trace("the whole answer is here");
        self.inner.with(|session, _| {
            session
                .plan
                .record_stage(self.request.id, RequestStage::Received)
        });
        let turn = self.inner.storing.turn().await;
        if turn.is_none() {
            debug!(target: TRACE_TARGET, "the cache's disk hangs, the bytes stay in memory");
        }
        // the semaphore is never closed, so this cannot fail; without a permit nothing is verified
        let Ok(permit) = self.inner.storing.verifier().await else {
            return;
        };
        let runtime = self.inner.runtime.clone();
        if self.request.range.len() <= URGENT_MAX_BYTES {
            let Some((verified, file)) = self.verify(proof) else {
                return;
            };
            runtime.spawn_blocking(move || {
                drop(permit);
                self.store(turn, &verified, &file);
            });
            return;
        }
        runtime.spawn_blocking(move || {
            let to_store = self.verify(proof);
            drop(permit);
            if let Some((verified, file)) = to_store {
                self.store(turn, &verified, &file);
            }
        });
    }

    /// Stores an answer and reports the result. `turn` is `None` if the disk hangs. Then nothing is
    /// written, even if the session asks to store the bytes again. Blocking.
    fn store(&self, turn: Option<StoreTurn>, verified: &Verified, file: &CacheFile) {
        let (turn, content) = (turn.as_ref(), self.request.content);
        let mut kept = self.inner.storing.store_answer(turn, file, verified);
        while self
            .inner
            .with(|session, now| kept.report_stored(session, now, content, verified.range))
        {
            kept = self.inner.storing.store_answer(turn, file, verified);
        }
    }

    /// Verifies an answer and gives readers their bytes before these are stored. Returns the bytes
    /// to store, or `None` if they are wrong or not to be stored.
    fn verify(&self, proof: Bytes) -> Option<ToStore> {
        let request = &self.request;
        let verified = match session::verify(request, proof) {
            Ok(verified) => verified,
            Err(failure) => {
                self.fail(failure);
                return None;
            }
        };
        match self
            .inner
            .with(|session, now| session.accept(now, request, &verified))
        {
            Accepted::Store(file) => Some((verified, file)),
            Accepted::Unwanted | Accepted::Held => None,
        }
    }
}
