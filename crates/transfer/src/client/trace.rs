//! Trace of reads, fills and requests: the session's decisions as spans and events of `tracing`.
//!
//! The decisions about a request are logged inside a span `request`, which is inside the span
//! `read` of the reader that waits for it. If several readers wait, they are logged once for each,
//! so that one search shows the decisions about a read. While no subscriber wants the target, the
//! session records nothing.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tracing::{Level, Span, debug, debug_span, trace};

use p2pfs_fetch::plan::{Decision, DemandId, RangeRequest, RequestCause, RequestId};
use p2pfs_types::digest::ContentKey;

use crate::TRACE_TARGET as TARGET;

/// Spans of the waiting reads, fills and open requests, and the decisions to be logged.
#[derive(Default)]
pub(super) struct FetchTrace {
    /// Decisions in their order. They are added under the session's lock and logged without it.
    pending: Mutex<Vec<Decision>>,
    spans: Mutex<Spans>,
}

#[derive(Default)]
struct Spans {
    reads: BTreeMap<DemandId, Span>,
    fills: BTreeMap<ContentKey, Span>,
    requests: BTreeMap<RequestId, RequestSpans>,
}

struct RequestSpans {
    request: RangeRequest,
    /// One span for each waiting reader, or a single one if no reader waits.
    spans: Vec<Span>,
}

impl FetchTrace {
    /// Returns whether a subscriber wants the trace.
    pub(super) fn is_wanted() -> bool {
        tracing::enabled!(target: TARGET, Level::DEBUG)
    }

    /// Adds decisions to be logged by [`FetchTrace::log`].
    pub(super) fn add(&self, decisions: Vec<Decision>) {
        if !decisions.is_empty() {
            self.pending.lock().extend(decisions);
        }
    }

    /// Logs the added decisions.
    pub(super) fn log(&self) {
        let mut spans = self.spans.lock();
        let pending = std::mem::take(&mut *self.pending.lock());
        for decision in pending {
            spans.log(decision);
        }
    }

    /// Drops all spans and all decisions to be logged.
    pub(super) fn clear(&self) {
        *self.spans.lock() = Spans::default();
        self.pending.lock().clear();
    }

    /// Returns the first span of a request, or an empty one if there is none.
    pub(super) fn request(&self, id: RequestId) -> Span {
        if !Self::is_wanted() {
            return Span::none();
        }
        let spans = self.spans.lock();
        let of_request = spans.requests.get(&id);
        let first = of_request.and_then(|it| it.spans.first());
        first.cloned().unwrap_or_else(Span::none)
    }
}

impl Spans {
    fn log(&mut self, decision: Decision) {
        match decision {
            Decision::ReadBegan { .. }
            | Decision::ReadReady(_)
            | Decision::ReadCancelled(_)
            | Decision::ReadExtended { .. }
            | Decision::ReadGivenUp { .. }
            | Decision::ReadHeldBack { .. } => self.log_read(decision),
            Decision::FillBegan(content) => {
                let ContentKey { hash, size_bytes } = content;
                let span = debug_span!(target: TARGET, "fill", %hash, size_bytes);
                span.in_scope(|| debug!(target: TARGET, "the whole file is wanted"));
                self.fills.insert(content, span);
            }
            Decision::FillReady(content) => {
                let span = self.fills.remove(&content).unwrap_or_else(Span::none);
                span.in_scope(|| debug!(target: TARGET, "the whole file is here"));
            }
            Decision::FillGivenUp { content, why } => {
                let span = self.fills.remove(&content).unwrap_or_else(Span::none);
                span.in_scope(|| debug!(target: TARGET, "the fill is given up: {why}"));
            }
            Decision::Chosen {
                request,
                cause,
                readers,
            } => self.begin_request(request, cause, &readers),
            Decision::Silent(peer) => {
                debug!(target: TARGET, %peer, "the peer is silent, others come first");
            }
            Decision::Shunned { node, content } => {
                debug!(target: TARGET, peer = %node, hash = %content.hash, "the peer gave wrong bytes");
            }
            Decision::HoldersWanted(content) => {
                debug!(target: TARGET, hash = %content.hash, "more holders are looked for");
            }
            Decision::Throttled(_)
            | Decision::Released(_)
            | Decision::NotHedged { .. }
            | Decision::TakenBack { .. }
            | Decision::Answered(_)
            | Decision::Failed { .. } => self.log_request(decision),
        }
    }

    fn log_read(&mut self, decision: Decision) {
        match decision {
            Decision::ReadBegan {
                read,
                content,
                range,
                joined,
            } => {
                let span = debug_span!(
                    target: TARGET, "read",
                    read = read.0, hash = %content.hash, start = range.start, end = range.end,
                );
                span.in_scope(|| debug!(target: TARGET, "the read waits"));
                for id in joined {
                    if let Some(it) = self.requests.get_mut(&id) {
                        let of_request = span_of(&it.request, &span);
                        of_request.in_scope(|| debug!(target: TARGET, "already requested"));
                        it.spans.push(of_request);
                    }
                }
                self.reads.insert(read, span);
            }
            Decision::ReadReady(read) => {
                let span = self.reads.remove(&read).unwrap_or_else(Span::none);
                span.in_scope(|| debug!(target: TARGET, "the bytes are here"));
            }
            Decision::ReadCancelled(read) => {
                let span = self.reads.remove(&read).unwrap_or_else(Span::none);
                span.in_scope(|| debug!(target: TARGET, "the reader has gone"));
            }
            Decision::ReadGivenUp { read, why } => {
                let span = self.reads.remove(&read).unwrap_or_else(Span::none);
                span.in_scope(|| debug!(target: TARGET, "the read is given up: {why}"));
            }
            Decision::ReadExtended { read, until } => self.in_read(read, || {
                let ms = until
                    .saturating_duration_since(std::time::Instant::now())
                    .as_millis();
                debug!(target: TARGET, "the read is due and waits on for {ms} ms");
            }),
            Decision::ReadHeldBack { read, gap, why } => self.in_read(read, || {
                let (from, to) = (gap.start, gap.end);
                trace!(target: TARGET, from, to, "not requested now: {why:?}");
            }),
            _ => {}
        }
    }

    fn in_read(&self, read: DemandId, log: impl FnOnce()) {
        match self.reads.get(&read) {
            Some(span) => span.in_scope(log),
            None => log(),
        }
    }

    fn begin_request(&mut self, request: RangeRequest, cause: RequestCause, readers: &[DemandId]) {
        let readers = readers.iter().filter_map(|id| self.reads.get(id));
        let mut spans: Vec<_> = readers.map(|reader| span_of(&request, reader)).collect();
        if spans.is_empty() {
            let fill = self.fills.get(&request.content);
            spans.push(span_of(&request, fill.unwrap_or(&Span::none())));
        }
        let (from, to) = (request.range.start, request.range.end);
        for span in &spans {
            span.in_scope(|| debug!(target: TARGET, from, to, "chosen: {cause:?}"));
        }
        self.requests
            .insert(request.id, RequestSpans { request, spans });
    }

    fn log_request(&mut self, decision: Decision) {
        let (id, is_over, text): (_, _, &dyn Fn()) = match &decision {
            Decision::Throttled(id) => (id, false, &|| {
                debug!(target: TARGET, "throttled by the download limit");
            }),
            Decision::Released(id) => (id, false, &|| {
                debug!(target: TARGET, "passed by the download limit");
            }),
            Decision::NotHedged { request, why } => (request, false, &move || {
                debug!(target: TARGET, "late and not hedged: {why:?}");
            }),
            Decision::TakenBack { request, why } => (request, true, &move || {
                debug!(target: TARGET, "taken back: {why:?}");
            }),
            Decision::Answered(id) => (id, true, &|| {
                debug!(target: TARGET, "answered with verified bytes");
            }),
            Decision::Failed { request, failure } => (request, true, &move || {
                debug!(target: TARGET, "failed: {failure:?}");
            }),
            _ => return,
        };
        match self.requests.get(id) {
            Some(it) => it.spans.iter().for_each(|span| span.in_scope(text)),
            None => text(),
        }
        if is_over {
            self.requests.remove(id);
        }
    }
}

/// Returns the span of a request within the span of a reader or fill.
fn span_of(request: &RangeRequest, parent: &Span) -> Span {
    let RangeRequest { id, node, lane, .. } = request;
    debug_span!(
        target: TARGET, parent: parent, "request",
        request = id.0, peer = %node, lane = ?lane,
    )
}
