//! Requests in flight to all peers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::peer::SentState;
use super::{RangeRequest, RequestCause, RequestId};

/// Progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    /// A limit of this node delays the request. Its peer has not received it yet.
    Throttled,
    /// Nothing of the answer has arrived.
    Sent,
    /// A part of the answer has arrived, the last of it at this time.
    Arriving { bytes: u64, last_at: Instant },
    /// The whole answer has arrived and waits for verification. Its peer is not late. `bytes` is
    /// the part of the answer that was reported while it arrived.
    Received { bytes: u64 },
}

/// Request in flight.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub request: RangeRequest,
    pub cause: RequestCause,
    pub sent: SentState,
    pub state: RequestState,
    /// When the request is next checked for lateness.
    pub check_at: Instant,
    /// Number of checks since it was sent, or since its checks were last hastened.
    pub checks: u32,
    pub expire_at: Instant,
}

impl OpenRequest {
    /// Returns the bytes of the answer that were reported so far.
    pub(super) fn arrived_bytes(&self) -> u64 {
        match self.state {
            RequestState::Throttled | RequestState::Sent => 0,
            RequestState::Arriving { bytes, .. } | RequestState::Received { bytes } => bytes,
        }
    }

    /// Records that bytes of the answer arrived.
    pub(super) fn record_arrived(&mut self, now: Instant, more: u64) {
        let bytes = self.arrived_bytes() + more;
        self.state = match self.state {
            RequestState::Received { .. } => RequestState::Received { bytes },
            _ => RequestState::Arriving {
                bytes,
                last_at: now,
            },
        };
    }

    /// Returns when bytes of the answer last arrived. Returns the time of the sending if none
    /// arrived, or if the answer is complete.
    pub(super) fn progress_at(&self) -> Instant {
        match self.state {
            RequestState::Arriving { last_at, .. } => last_at,
            _ => self.sent.at,
        }
    }

    /// Returns whether its peer has it and has not answered it completely.
    pub(super) fn is_open(&self) -> bool {
        matches!(
            self.state,
            RequestState::Sent | RequestState::Arriving { .. }
        )
    }

    pub(super) fn is_received(&self) -> bool {
        matches!(self.state, RequestState::Received { .. })
    }

    pub(super) fn is_throttled(&self) -> bool {
        self.state == RequestState::Throttled
    }
}

/// Requests in flight, and the queue of those that the owner takes before all others.
#[derive(Debug, Default)]
pub struct RequestTable {
    open: BTreeMap<RequestId, OpenRequest>,
    bytes: u64,
    /// Requests that were chosen outside the order of the files: hedges, and bulk requests that are
    /// repeated as urgent.
    chosen: VecDeque<RangeRequest>,
}

impl RequestTable {
    /// Returns the bytes requested and not answered yet.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether a request is still unanswered.
    pub fn contains(&self, id: RequestId) -> bool {
        self.open.contains_key(&id)
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&OpenRequest> {
        self.open.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut OpenRequest> {
        self.open.get_mut(&id)
    }

    pub(super) fn insert(&mut self, open: OpenRequest) {
        self.bytes += open.request.range.len();
        self.open.insert(open.request.id, open);
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<OpenRequest> {
        let open = self.open.remove(&id)?;
        self.bytes -= open.request.range.len();
        Some(open)
    }

    /// Queues a request that is sent before all others.
    pub(super) fn send_first(&mut self, request: RangeRequest) {
        self.chosen.push_back(request);
    }

    /// Removes and returns the next queued request that is still open.
    pub(super) fn next_chosen(&mut self) -> Option<RangeRequest> {
        while let Some(request) = self.chosen.pop_front() {
            if self.contains(request.id) {
                return Some(request);
            }
        }
        None
    }

    /// Returns all open requests.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &RangeRequest> {
        self.open.values().map(|open| &open.request)
    }
}
