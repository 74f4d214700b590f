//! Types of the plan's interface: its inputs and outputs.

use std::time::{Duration, Instant};

use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// A request is checked for lateness after this multiple of its expected duration, within bounds. A
/// reader waits for a stripe that another node fetches for this multiple of the time that a full
/// holder would need for the stripe, within bounds.
pub(super) const LATE_MULTIPLE: u32 = 3;

/// Settings of the plan. The time that a read waits is not among them: each demand has its own
/// deadline.
#[derive(Clone, Copy, Debug)]
pub struct PlanConfig {
    /// This node. It determines the stripes that belong to this node.
    pub me: NodeId,
    /// Time without progress after which a request fails, if its peer sends nothing else either.
    pub request_limit: Duration,
    /// How long an unused fetch stays open.
    pub idle: Duration,
    /// When a request with a waiting reader is late and is checked: it may then be hedged, and its
    /// peer may count as silent.
    pub late_when_waited_for: LateBounds,
    /// When a request without a waiting reader is late and is checked: its peer may then count as
    /// silent. It is not hedged.
    pub late_in_background: LateBounds,
}

/// Bounds of the time until a request is late. Within them the time is `LATE_MULTIPLE` times the
/// usual time of the request.
#[derive(Clone, Copy, Debug)]
pub struct LateBounds {
    /// Minimum time.
    pub least: Duration,
    /// Maximum time.
    pub most: Duration,
}

impl PlanConfig {
    /// Returns how long a request may take before it is checked.
    pub(super) fn late_after(&self, usual: Duration, is_waited_for: bool) -> Duration {
        let bounds = if is_waited_for {
            self.late_when_waited_for
        } else {
            self.late_in_background
        };
        (usual * LATE_MULTIPLE).clamp(bounds.least, bounds.most)
    }
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            me: NodeId::new([0; 32]),
            request_limit: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            late_when_waited_for: LateBounds {
                least: Duration::from_millis(30),
                most: Duration::from_millis(500),
            },
            late_in_background: LateBounds {
                least: Duration::from_millis(500),
                most: Duration::from_millis(1500),
            },
        }
    }
}

/// Reason why a demand, a fill or the opening of a file failed. A later attempt may succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No reachable node has the bytes.
    #[error("no reachable node has the range")]
    NoHolder,
    /// Every full holder reported the file gone, and the other holders lack some of the bytes.
    #[error("every node that had the range says that it is gone")]
    Gone,
    /// The holders of the bytes did not send them in time.
    #[error("no answer by the deadline")]
    TimedOut,
    /// For at least half of the limit of the reader's wait, the holders of the file answered no
    /// request.
    #[error("no node that has the file answered")]
    Unanswered,
    /// The bytes did not arrive in time, and the last answer of a holder was a refusal.
    #[error("the nodes that have the file refused to send it")]
    Refused,
    /// A peer sent wrong bytes after the last verified answer, or another size of the content is
    /// proven.
    #[error("every node that answered sent wrong bytes")]
    OnlyLiars,
    /// A limit of this node was reached ([`super::DEMANDS_MAX`], [`super::FETCHES_MAX`]).
    #[error("too many reads wait at once")]
    TooMany,
}

/// Catalogue entry of a node that has all of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Node that has the file.
    pub node: NodeId,
    /// Sequence number of that entry in the node's log. It is higher if the node lists the file
    /// again.
    pub sequence: u64,
}

/// Id of one reader's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DemandId(pub u64);

/// Id of one request to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Connection that carries a request, one of two to each peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// For demands, hedges and reissued requests, each of at most [`super::URGENT_MAX_BYTES`].
    Urgent,
    /// For all other requests.
    Bulk,
}

/// Request for one range to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// Id, by which the owner reports its end.
    pub id: RequestId,
    /// Peer to ask.
    pub node: NodeId,
    /// Connection to use.
    pub lane: Lane,
    /// Content to request.
    pub content: ContentKey,
    /// At most [`super::PIECE_MAX_BYTES`], and whole pages except at the end of the file.
    pub range: ByteRange,
}

/// Ranges of a content that a peer reports in answer to a `Get` or a survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Peer that made the offer.
    pub node: NodeId,
    /// Content, with the size that the peer believes it to have.
    pub content: ContentKey,
    /// Whether the peer has all of it.
    pub all: bool,
    /// Ranges that the peer has, if that is not all.
    pub ranges: ExtentSet,
    /// Load of the peer, 0 to 255.
    pub load: u8,
}

/// Reason why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, a broken one, no answer in time, or an invalid answer.
    Unreachable,
    /// The peer is alive and asks for a pause.
    Busy,
    /// A limit of this node delayed the request for long. The peer rests as after `Busy`, and the
    /// delay extends waits as work of the peer does.
    Limited,
    /// The peer no longer has the content, or never had this range.
    Gone,
    /// The bytes did not match the hash.
    Lied,
    /// The peer is alive and does not answer this request, for example because its disk hangs.
    /// Other peers may answer it.
    Refused,
    /// The fault is on this node. This is not counted as a failure of the peer.
    Ours,
    /// The peer is alive, and answered only other requests for too long. This is not counted as a
    /// failure of the peer.
    Stalled,
}

/// Result of a demand or fill, or an action for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanEvent {
    /// The whole range of the demand is on this node.
    Ready(DemandId),
    /// The demand failed.
    Failed(DemandId, PlanError),
    /// The whole file is on this node.
    Filled(ContentKey),
    /// The fill failed.
    FillFailed(ContentKey, PlanError),
    /// Look for more holders in the catalogue, and with a `Get` to all nodes.
    Wanted(ContentKey),
    /// All known full holders reported the file gone. Look it up in the catalogue and report the
    /// holders, even if there are none.
    LookUp(ContentKey),
    /// Ask this node, which also wants the file, which ranges it has. Its answer is an offer.
    Survey(ContentKey, NodeId),
    /// Reports that the node sent wrong bytes or a wrong size of this content. The plan already
    /// shuns it: for [`super::SHUN`], nothing at all is requested from the node.
    Liar(NodeId, ContentKey),
    /// Cancel this request: its answer is not needed, or not from this peer.
    Cancel(RequestId),
    /// The file was closed. Its resources can be released.
    Closed(ContentKey),
}

/// Figures of a peer as a responder, for users.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRate {
    /// Id of the peer.
    pub node: NodeId,
    /// Rank by priority, from 1. Resting peers come last, and unknown ones before them.
    pub priority: usize,
    /// Smoothed time from a request to a small answer.
    pub latency: Option<Duration>,
    /// Smoothed bytes per second.
    pub rate_bytes_per_s: Option<f64>,
    /// Verified bytes received from it.
    pub delivered_bytes: u64,
    /// Bytes requested and not answered.
    pub in_flight_bytes: u64,
    /// Number of its failures.
    pub failures: u64,
    /// Failures since its last answer. Requests that failed together count once.
    pub unanswered: u32,
    /// When the first of these failures was.
    pub unanswered_since: Option<Instant>,
    /// How often it was shunned for wrong bytes. A restart forgets this 30 days after the last
    /// time.
    pub lies: u64,
    /// Whether it is shunned for wrong bytes now.
    pub shunned: bool,
}

/// Stage of a request within this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestStage {
    /// A limit of this node delays the request. Its peer does not count as silent because of it.
    Throttled,
    /// The request was delayed and is sent now. Bytes that its peer sent earlier are not progress
    /// of its answer.
    Sent {
        /// Present time.
        at: Instant,
    },
    /// The answer to the request is complete and waits for verification. From now on the request is
    /// not hedged, and its peer does not count as silent because of it.
    Received,
}

/// Event of a peer outside the plan's own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNews {
    /// It has returned. Its back-off and its silence end, but not its shunning.
    Returned,
    /// It answered a question outside the plan. After a failure, this has the effect of `Returned`.
    Answered,
    /// A question outside the plan could not reach it. It rests as after a failed request.
    Unreachable {
        /// Present time.
        now: Instant,
        /// When the question was sent.
        asked_at: Instant,
    },
    /// It gave verified bytes that the plan had not requested.
    Gave {
        /// Number of bytes.
        bytes: u64,
    },
    /// It also wants a file that is open here, and will have parts of it soon.
    Wants {
        /// Present time.
        now: Instant,
        /// Content that it wants.
        content: ContentKey,
    },
    /// It gave wrong bytes or a wrong size of a content, in answer to a request of the plan or to
    /// another one. The plan then shuns the peer and cancels the requests to it, unless the peer is
    /// shunned already.
    Lied {
        /// Present time.
        now: Instant,
        /// Content with the wrong bytes.
        content: ContentKey,
    },
}

/// How a fill ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillEnd {
    /// The fill has its result, success or failure. Requests in flight continue.
    Stored,
    /// The owner of the fill has gone.
    Abandoned,
}

/// Open files to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesToClose {
    /// All files that have no waiting reader, no fill and no request in flight.
    Idle,
    /// The idle files ([`Self::Idle`]) that were not used in the last second, so that their cached
    /// bytes may be evicted for another file.
    LongIdle {
        /// Present time.
        now: Instant,
        /// The other file, which stays open.
        kept: ContentKey,
    },
    /// This file, whose content cannot exist because its size is wrong. When this is requested, no
    /// reader and no fill may wait for the file any longer.
    Disproven(ContentKey),
}
