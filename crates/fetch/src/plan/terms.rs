//! The words of the plan: what it is told, and what it says.

use std::time::Duration;

use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// What the plan may be told to do otherwise. How long a read waits is no part of it: each demand
/// brings its own deadline.
#[derive(Clone, Debug)]
pub struct PlanConfig {
    /// Who asks: what belongs to it is reckoned by that.
    pub me: NodeId,
    /// No request waits longer than this for its answer.
    pub request_limit: Duration,
    /// A fetch that nobody uses is forgotten after this.
    pub idle: Duration,
    /// The bounds of the wait before the same range is asked of another peer.
    pub hedge: (Duration, Duration),
    /// The same where no reader waits yet.
    pub background_hedge: (Duration, Duration),
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            me: NodeId::new([0; 32]),
            request_limit: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            hedge: (Duration::from_millis(30), Duration::from_millis(500)),
            background_hedge: (Duration::from_millis(500), Duration::from_millis(1500)),
        }
    }
}

/// Why a wish was not granted. Nobody's state is harmed; asking again later may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No reachable node has the bytes.
    #[error("no reachable node has the range")]
    NoHolder,
    /// Every node that had the bytes says that it has them no more: the file was replaced.
    #[error("every node that had the range says that it is gone")]
    Gone,
    /// Those that have the bytes did not give them in time.
    #[error("no answer by the deadline")]
    TimedOut,
    /// The only ones that answered sent wrong bytes and are shunned.
    #[error("every node that answered sent wrong bytes")]
    OnlyLiars,
    /// Ours: a limit was reached ([`super::DEMANDS_MAX`], [`super::FETCHES_MAX`]).
    #[error("too many reads wait at once")]
    TooMany,
}

/// What the catalogue says: a node has all of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which node.
    pub node: NodeId,
    /// Where in its log that node says so: higher where it says so anew.
    pub sequence: u64,
}

/// One reader's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DemandId(pub u64);

/// One question to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which of a peer's two connections carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small, and a reader waits.
    Urgent,
    /// Everything else.
    Bulk,
}

/// What to ask of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// For [`super::Plan::answered`] and [`super::Plan::failed`].
    pub id: RequestId,
    /// Whom.
    pub node: NodeId,
    /// Over which connection.
    pub lane: Lane,
    /// Of which content.
    pub content: ContentKey,
    /// At most [`super::PIECE_MAX_BYTES`], whole pages but for the end of the file.
    pub range: ByteRange,
}

/// What a peer says it has of a content, in answer to a `Get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who says so.
    pub node: NodeId,
    /// Of which content, of the size that it takes it to have.
    pub content: ContentKey,
    /// Whether it has all of it.
    pub all: bool,
    /// What it has, where that is not all.
    pub ranges: ExtentSet,
    /// How busy it is, 0 to 255.
    pub load: u8,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was refused, reset or broke; or the answer was not one.
    Unreachable,
    /// The peer is alive and asks to be spared for a moment.
    Busy,
    /// A limit of our own held it back for long: as if the peer were busy, but that no reader is
    /// given up for that while its holders are at work.
    Limited,
    /// The peer no longer has the content, or never had this range.
    Gone,
    /// The bytes did not match the hash.
    Lied,
    /// The peer is alive, and does not answer this: its disk stands still, or it makes nothing of
    /// the question. Others may.
    Refused,
    /// It is our own fault, so nothing is held against the peer.
    Ours,
}

/// What became of a wish, and what the owner should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanEvent {
    /// All of the demand's range is here.
    Ready(DemandId),
    /// It will not come.
    Failed(DemandId, PlanError),
    /// The whole file is here.
    Filled(ContentKey),
    /// The rest of it will not come.
    FillFailed(ContentKey, PlanError),
    /// Look for more holders: the catalogue's, and a `Get` to all.
    Wanted(ContentKey),
    /// Whoever was known to have all of it has it no more: look up in the catalogue who has it now,
    /// and say so, be it nobody. Who waits for it is given up then.
    LookUp(ContentKey),
    /// Ask this node, which wants the file too, what it has of it by now; its answer is an offer.
    Survey(ContentKey, NodeId),
    /// It sent wrong bytes of this content and is shunned for [`super::SHUN`].
    Liar(NodeId, ContentKey),
    /// The answer to this request is of no use any more.
    Cancel(RequestId),
    /// Nobody used the file for a while; what was kept for it can go.
    Closed(ContentKey),
}

/// A peer as a responder, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRate {
    pub node: NodeId,
    /// Place in the order of priority, from 1; unknown and resting peers come last.
    pub priority: usize,
    /// Smoothed time to a small answer.
    pub latency: Option<Duration>,
    /// Smoothed bytes a second.
    pub rate_bytes_per_s: Option<f64>,
    /// Verified bytes that came from it.
    pub delivered_bytes: u64,
    /// Asked and not answered.
    pub in_flight_bytes: u64,
    /// How often it failed.
    pub failures: u64,
    /// How often since its last answer; what broke at one time counts once.
    pub unanswered: u32,
    /// How often it was shunned for wrong bytes, within the last 30 days.
    pub lies: u64,
    /// Whether it is kept out for wrong bytes.
    pub shunned: bool,
}
