//! Types of the session's interface: its inputs, the data that it keeps for its owner, and its
//! outputs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Sources;
use crate::TransferError;
use crate::plan::{Decision, DemandId, HOLDERS_MAX, Listed, RangeRequest};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::host::HostPrefix;
use p2pfs_types::id::NodeId;

/// Types of the owner's data that the session stores and returns with its actions.
pub trait Owner: Sized {
    /// Handle for giving a reader its bytes.
    type ReadHandle;
    /// Handle for reporting the progress and the result of a fill.
    type FillHandle;
    /// File of the cache for one content.
    type File: Clone;
    /// Handle for cancelling a request.
    type Question;

    /// Reports the progress of a fill. It is called within the session, so it must not block.
    fn tell(fill: &Self::FillHandle, progress: FillProgress);
}

/// Node to request a content from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Node that has the content.
    pub node: NodeId,
    /// Current address of the node.
    pub address: SocketAddr,
    /// Size of the content according to the node.
    pub size_bytes: u64,
    /// Sequence number of the claim in the node's log. It is higher if the node lists the content
    /// again.
    pub sequence: u64,
}

impl Holder {
    /// Returns up to [`HOLDERS_MAX`] of the holders: one of each host, then the second of each, and so
    /// on. In a cluster with a secret file one machine can run nodes under any number of keys, and it
    /// must not hide the holders on other machines.
    pub(super) fn by_turns_of_hosts<'a>(holders: impl Iterator<Item = &'a Self>) -> Vec<&'a Self> {
        let mut counts: BTreeMap<HostPrefix, usize> = BTreeMap::new();
        let mut turns: Vec<_> = holders
            .map(|holder| {
                let turn = counts
                    .entry(HostPrefix::of(holder.address.ip()))
                    .or_default();
                *turn += 1;
                (*turn, holder)
            })
            .collect();
        turns.sort_by_key(|(turn, _)| *turn);
        turns.truncate(HOLDERS_MAX);
        turns.into_iter().map(|(_, holder)| holder).collect()
    }

    /// Returns the holder as the plan records it.
    pub(super) fn listed(&self) -> Listed {
        Listed {
            node: self.node,
            sequence: self.sequence,
        }
    }
}

/// Action of the owner on verified bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted<F> {
    /// Drop them: the request or its file is not open any longer, for example because another peer
    /// was faster.
    Unwanted,
    /// Store them here, then report the result with [`super::Session::stored`] or
    /// [`super::Session::not_stored`].
    Store(F),
    /// The cache has no file for them. They stay in memory.
    Held,
}

/// Result of [`Session::start`](super::Session::start): a started read, or the read and what must
/// come before it.
pub enum StartOutcome<R> {
    /// Id of the read, or `None` if it failed at once.
    Started(Option<DemandId>),
    /// The fetch of the content has not begun. [`Session::begin`](super::Session::begin) must come
    /// first.
    NotBegun(Read<R>),
    /// A holder reported the whole content gone a moment ago, so the session requests a lookup of
    /// its holders (`wanted` in its actions). Call [`Session::read`](super::Session::read) after
    /// the lookup.
    HoldersFirst(Read<R>),
}

/// One read.
pub struct Read<R> {
    /// Content to read.
    pub content: ContentKey,
    /// Bytes to read, within the content.
    pub range: ByteRange,
    /// Until when it waits. [`Patience`](crate::plan::Patience) may extend the wait.
    pub deadline: Instant,
    /// Id of the wait, and how long the read waits without progress. `None` before it waits.
    pub(super) waits: Option<(DemandId, Duration)>,
    /// Whether to fetch ahead of its reader.
    pub ahead: bool,
    /// How often its bytes were lost between arrival and delivery, 0 at first.
    pub retries: u8,
    /// Handle by which its reader gets the bytes.
    pub handle: R,
}

impl<R> Read<R> {
    /// Creates a read with read-ahead.
    pub fn new(content: ContentKey, range: ByteRange, deadline: Instant, handle: R) -> Self {
        Self {
            content,
            range,
            deadline,
            waits: None,
            ahead: true,
            retries: 0,
            handle,
        }
    }
}

/// State of a content in the cache.
pub struct Cached<F> {
    /// File of the cache for the content. `None` if the cache cannot store it.
    pub file: Option<F>,
    /// Ranges in the cache's file, including unverified ones: they are verified when they are read.
    pub on_disk: ExtentSet,
    /// Whether the ranges on disk are the whole content.
    pub is_complete: bool,
}

/// Result of [`Session::open`](super::Session::open): the state of a content's fetch.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenOutcome<F> {
    /// The fetch has not begun. [`Session::begin`](super::Session::begin) must come first.
    NotBegun,
    /// The fetch has begun, and the cache stores the content in this file.
    Cached(F),
    /// The fetch has begun, and the cache cannot store the content.
    Uncached,
}

/// Request to be sent.
pub struct SendRange {
    /// Range and peer.
    pub request: RangeRequest,
    /// Address of the peer. If it is `None`, the address is not known any longer, and the owner
    /// must fail the request.
    pub address: Option<SocketAddr>,
    /// Whether the request is prompt: in the urgent lane, so at most `URGENT_MAX_BYTES` long.
    pub is_prompt: bool,
}

/// Bytes for a reader.
pub struct Delivery<R, F> {
    /// Read that ends with these bytes.
    pub read: Read<R>,
    /// Sources of the bytes.
    pub sources: Sources<F>,
}

/// Actions that the owner carries out. A read or fill that ends with an error here has ended for
/// the session too.
pub struct Actions<O: Owner> {
    /// Requests to send. [`Session::record_sent`](super::Session::record_sent) records how to
    /// cancel each one.
    pub sends: Vec<SendRange>,
    /// Requests to cancel, because their answers are not needed.
    pub cancels: Vec<O::Question>,
    /// Readers to give their bytes.
    pub deliveries: Vec<Delivery<O::ReadHandle, O::File>>,
    /// Readers to fail.
    pub ends: Vec<(O::ReadHandle, TransferError)>,
    /// Fills that ended, with their results.
    pub fills: Vec<(O::FillHandle, Result<(), TransferError>)>,
    /// Events for the user of this node.
    pub events: Vec<FetchEvent>,
    /// Contents to look up. Report their holders with
    /// [`Session::record_holders`](super::Session::record_holders).
    pub wanted: Vec<ContentHash>,
    /// Nodes to ask which ranges of a content they have. The answer is an offer.
    pub surveys: Vec<(NodeId, SocketAddr, ContentHash)>,
    /// Contents to open in the cache, which may accept them by now. Report them with
    /// [`Session::reopened`](super::Session::reopened).
    pub reopens: Vec<ContentKey>,
    /// Files of the cache to close.
    pub closed: Vec<O::File>,
    /// Decisions of the plan since the last actions, if the session is traced.
    pub decisions: Vec<Decision>,
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
            decisions: Vec::new(),
        }
    }
}

/// Id of one fill, assigned by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FillId(pub u64);

/// Progress of a fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillProgress {
    /// Verified bytes on this node.
    pub ready_bytes: u64,
    /// Size of the content.
    pub size_bytes: u64,
}

/// Event for the user of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// More holders are wanted: broadcast a `Get`.
    Wanted {
        /// Contents to look for.
        hashes: Vec<ContentHash>,
    },
    /// A peer sent wrong bytes and is shunned for a while.
    Liar {
        /// Peer that sent them.
        node: NodeId,
        /// Content with the wrong bytes.
        hash: ContentHash,
    },
    /// The first request of an incomplete file was sent.
    Started {
        /// Content of the file.
        hash: ContentHash,
        /// Size of the file.
        size_bytes: u64,
    },
    /// The cache has the whole file now.
    Done {
        /// Content of the file.
        hash: ContentHash,
        /// Size of the file.
        size_bytes: u64,
    },
}

impl FetchEvent {
    /// Returns whether the event only informs the user, so that it may be sent some milliseconds
    /// later. To send it wakes the node's loop, which then competes with the request that the event
    /// tells of.
    pub fn is_patient(&self) -> bool {
        matches!(self, Self::Started { .. })
    }
}
