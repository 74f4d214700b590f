//! Decisions of the plan as data, so that the owner can trace them.
//!
//! The plan records decisions only while its owner traces it. Otherwise [`DecisionLog::record`]
//! costs one comparison and builds nothing.

use std::time::Instant;

use super::{DemandId, Failure, Lane, PlanError, RangeRequest, RequestId};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// One decision of the plan, or one fact that it decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A reader waits for bytes that are not on this node.
    ReadBegan {
        /// Id of the wait.
        read: DemandId,
        /// Content that the reader reads.
        content: ContentKey,
        /// Range that the reader waits for.
        range: ByteRange,
        /// Requests in flight that bring a part of the range.
        joined: Vec<RequestId>,
    },
    /// The whole range of a read is on this node.
    ReadReady(DemandId),
    /// The reader has gone.
    ReadCancelled(DemandId),
    /// The deadline of a read has passed, but the read continues to wait: bytes of its file
    /// arrived, its holders work for other requests, or this node did not run for a time.
    ReadExtended {
        /// Id of the wait.
        read: DemandId,
        /// When the wait is checked next.
        until: Instant,
    },
    /// A read failed.
    ReadGivenUp {
        /// Id of the wait.
        read: DemandId,
        /// Reason of the failure.
        why: PlanError,
    },
    /// A part of a read's range is requested from no peer now.
    ReadHeldBack {
        /// Id of the wait.
        read: DemandId,
        /// The part.
        gap: ByteRange,
        /// Reason why it is not requested.
        why: HoldBack,
    },
    /// A whole file is wanted.
    FillBegan(ContentKey),
    /// The whole file is on this node.
    FillReady(ContentKey),
    /// A fill failed.
    FillGivenUp {
        /// The file.
        content: ContentKey,
        /// Reason of the failure.
        why: PlanError,
    },
    /// A peer was chosen for a range.
    Chosen {
        /// Range and peer.
        request: RangeRequest,
        /// Reason of the request.
        cause: RequestCause,
        /// Readers that wait for a part of the range.
        readers: Vec<DemandId>,
    },
    /// A limit of this node delays a request.
    Throttled(RequestId),
    /// The limit lets a delayed request pass.
    Released(RequestId),
    /// A request is late, and its range is not requested from another peer.
    NotHedged {
        /// The late request.
        request: RequestId,
        /// Reason why it is not hedged.
        why: HedgeRefusal,
    },
    /// A request was cancelled.
    TakenBack {
        /// The request.
        request: RequestId,
        /// Reason of the cancellation.
        why: TakeBackReason,
    },
    /// A request ended with verified bytes.
    Answered(RequestId),
    /// A request ended without bytes.
    Failed {
        /// The request.
        request: RequestId,
        /// Reason of the failure.
        failure: Failure,
    },
    /// A peer with an open request sends nothing, and other peers come first until it answers.
    Silent(NodeId),
    /// A peer gave wrong bytes and is shunned.
    Shunned {
        /// The peer.
        node: NodeId,
        /// The content with wrong bytes.
        content: ContentKey,
    },
    /// No known peer can be asked for some wanted bytes of a file, so more holders are searched
    /// for.
    HoldersWanted(ContentKey),
}

/// Reason of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestCause {
    /// A reader waits for the range.
    Demand,
    /// A reader will probably want the range.
    ReadAhead,
    /// The whole file is wanted.
    Fill,
    /// Another request for the range is late.
    Hedge(RequestId),
    /// A bulk request for the range was overtaken, or delayed by a limit of this node, and a reader
    /// waits for the range now.
    Reissue(RequestId),
}

impl RequestCause {
    /// Returns the lane of such a request.
    pub(super) fn lane(self) -> Lane {
        if self.is_waited_for() {
            Lane::Urgent
        } else {
            Lane::Bulk
        }
    }

    /// Returns whether a reader, or the end of a fill, waits for the range.
    pub(super) fn is_waited_for(self) -> bool {
        !matches!(self, Self::ReadAhead | Self::Fill)
    }
}

/// Reason why a part of a read's range is requested from no peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldBack {
    /// The answering holders have as much in flight as they may.
    NoRoom,
    /// No reachable peer has the part.
    NoHolder,
    /// The part lies in a stripe of another node of the swarm, which will have it soon.
    OfAnotherNode,
}

/// Reason why a late request is not hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeRefusal {
    /// The credit for hedges or the limit of bytes in flight is used up.
    NoCredit,
    /// The range is already requested from the maximum number of peers.
    AskedEnough,
    /// No other peer can be asked now.
    NoPeer,
    /// The best other peer is silent, or would not be much faster.
    NotFaster,
}

/// Reason why a request was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeBackReason {
    /// Its peer sends nothing, and another live holder has the range.
    SilentPeer,
    /// A reader waits for it now, and the request is sent again as urgent.
    Urgent,
    /// Another peer was faster.
    Duplicate,
    /// The range lies in a stripe of another node of the swarm.
    OfAnotherNode,
    /// Its peer gave wrong bytes.
    Liar,
    /// Its time limit has passed.
    Expired,
    /// No reader and no fill wants it.
    Unwanted,
}

impl TakeBackReason {
    /// Returns whether the answer of its peer is not needed any longer.
    pub(super) fn is_unneeded(self) -> bool {
        matches!(self, Self::Duplicate | Self::OfAnotherNode | Self::Unwanted)
    }
}

/// Decisions since the owner last took them.
#[derive(Debug, Default)]
pub(super) struct DecisionLog {
    is_traced: bool,
    list: Vec<Decision>,
}

impl DecisionLog {
    /// Records a decision if the plan is traced.
    pub(super) fn record(&mut self, decision: impl FnOnce() -> Decision) {
        if self.is_traced {
            self.list.push(decision());
        }
    }

    /// Starts or stops recording.
    pub(super) fn set_traced(&mut self, is_traced: bool) {
        self.is_traced = is_traced;
    }

    /// Removes and returns the recorded decisions.
    pub(super) fn take(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.list)
    }
}
