//! The words of a session: what it is told, what it keeps for its owner, and what it says.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Sources;
use crate::TransferError;
use crate::plan::{DemandId, Listed, RangeRequest};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// Who owns a session: what it keeps for its owner, which it gives back with its actions.
pub trait Owner: Sized {
    /// By which a reader gets its bytes.
    type Reader;
    /// By which a fill is told how it goes and how it ended.
    type Filler;
    /// The cache's file of one content.
    type File: Clone;
    /// By which a question is taken back.
    type Question;

    /// Tells how far a fill is. Called within the session, so it must not wait.
    fn tell(filler: &Self::Filler, progress: FillProgress);
}

/// Where to ask for a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who has it.
    pub node: NodeId,
    /// Where that node is now.
    pub address: SocketAddr,
    /// How large it says that the content is.
    pub size_bytes: u64,
    /// Where in its log it says so: higher where it says so anew.
    pub sequence: u64,
}

impl Holder {
    /// What the plan hears of it.
    pub(super) fn listed(&self) -> Listed {
        Listed {
            node: self.node,
            sequence: self.sequence,
        }
    }
}

/// One read.
pub struct Read<R> {
    /// Of which content.
    pub content: ContentKey,
    /// Which bytes, within the content.
    pub range: ByteRange,
    /// Until when it waits; longer for as long as bytes of the file come.
    pub deadline: Instant,
    /// What it is called once it waits, and how long it waits without progress; nothing before.
    pub(super) waits: Option<(DemandId, Duration)>,
    /// Whether what follows it is fetched ahead of its reader.
    pub ahead: bool,
    /// How often its bytes were here and gone again before they could be read: 0 to begin with.
    pub retries: u8,
    /// By which its reader gets them.
    pub reader: R,
}

impl<R> Read<R> {
    /// One that begins, by a reader that is fetched ahead of.
    pub fn new(content: ContentKey, range: ByteRange, deadline: Instant, reader: R) -> Self {
        Self {
            content,
            range,
            deadline,
            waits: None,
            ahead: true,
            retries: 0,
            reader,
        }
    }
}

/// What the cache has of a content.
pub struct Cached<F> {
    /// `None` where the cache cannot take it.
    pub file: Option<F>,
    /// What is in it, be it in doubt: that is checked as it is read.
    pub on_disk: ExtentSet,
    /// Whether that is all of it.
    pub is_complete: bool,
}

/// A request to be sent.
pub struct SendRange {
    /// What to ask of whom.
    pub request: RangeRequest,
    /// Where that is; nothing where it is not known any more, so that it fails.
    pub address: Option<SocketAddr>,
    /// Whether it takes the short way: small, and a reader waits for it.
    pub is_prompt: bool,
}

/// A reader's bytes are here.
pub struct Delivery<R, F> {
    /// The read that ends with it.
    pub read: Read<R>,
    /// Where its bytes are.
    pub sources: Sources<F>,
}

/// What a session wants done. What is answered with an error or an event is over for the session.
pub struct Actions<O: Owner> {
    /// Send these; [`Session::sent`](super::Session::sent) notes by what each can be taken back.
    pub sends: Vec<SendRange>,
    /// Take these questions back: their answers are of no use.
    pub cancels: Vec<O::Question>,
    /// Give these readers their bytes.
    pub deliveries: Vec<Delivery<O::Reader, O::File>>,
    /// Tell these readers that they get none.
    pub ends: Vec<(O::Reader, TransferError)>,
    /// Tell these fills how they ended.
    pub fills: Vec<(O::Filler, Result<(), TransferError>)>,
    /// Tell whoever runs this node.
    pub events: Vec<FetchEvent>,
    /// Look up who has these, and say so with [`Session::holders`](super::Session::holders).
    pub wanted: Vec<ContentHash>,
    /// Ask these nodes what they have of a content by now; the answer is an offer.
    pub surveys: Vec<(NodeId, SocketAddr, ContentHash)>,
    /// Open these in the cache, which may take them by now, and say so with
    /// [`Session::reopened`](super::Session::reopened).
    pub reopens: Vec<ContentKey>,
    /// Let go of these files.
    pub closed: Vec<O::File>,
}

impl<O: Owner> Default for Actions<O> {
    fn default() -> Self {
        Self {
            sends: Vec::new(),
            cancels: Vec::new(),
            deliveries: Vec::new(),
            ends: Vec::new(),
            fills: Vec::new(),
            events: Vec::new(),
            wanted: Vec::new(),
            surveys: Vec::new(),
            reopens: Vec::new(),
            closed: Vec::new(),
        }
    }
}

/// One fill; its owner tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FillId(pub u64);

/// How far a fill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillProgress {
    /// Verified and here.
    pub ready_bytes: u64,
    /// All that there is.
    pub size_bytes: u64,
}

/// What whoever runs this node should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// More holders are wanted: broadcast a `Get`.
    Wanted {
        /// Of these.
        hashes: Vec<ContentHash>,
    },
    /// A peer sent wrong bytes and is shunned for a while.
    Liar {
        node: NodeId,
        /// Of what.
        hash: ContentHash,
    },
    /// A file that is not complete in the cache is being read or filled.
    Started { hash: ContentHash, size_bytes: u64 },
    /// The cache holds all of it now.
    Done { hash: ContentHash, size_bytes: u64 },
    /// A read ended without data.
    Failed {
        /// Of what.
        hash: ContentHash,
        /// Which bytes.
        range: ByteRange,
        why: TransferError,
    },
}
