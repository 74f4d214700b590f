//! Server of ranges from complete or partial cached files and from this node's shares. Each range
//! is proven against its hash as it is sent, so that a changed file is never sent as the old one.
//!
//! Files are opened and read on blocking threads, a few at a time, with the peers in turn. Waiting
//! requests and unsent answers are bounded, and a peer gets `Busy` beyond the limits. A small range
//! is answered on the connection's task if its file is open and its bytes are in memory, since a
//! change of thread costs more than that work. No file is opened there, because that may wait for a
//! disk or a network even if the kernel has the file's name cached. Requests for ranges on a hung
//! disk are refused.

pub mod askers;
mod batch;
mod fair_queue;
mod limited;
mod queues;
pub(crate) mod rebuilds;
mod standing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::peer::{Incoming, ReplyTo};
use crate::pace::{Pace, PassedBytes};
use p2pfs_content::{Asker, ContentStore, ProofError};
use p2pfs_proto::wire::native::tcp::{
    HOLDINGS_RANGES_MAX, Lane, RANGE_MAX_BYTES, Request, Response, SmallFile,
};
use p2pfs_proto::wire::native::udp::{OFFER_RANGES_MAX, OfferSummary};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;

use askers::Askers;
use fair_queue::{QueuedRequest, ServeTurn};
use limited::UploadLimit;
use queues::ServeQueues;
use rebuilds::Rebuilds;
use standing::WORTH_A_WORD;

/// Maximum bytes of a range that is answered without another thread. It is the kernel's default
/// read-ahead, some 80 microseconds' work if the bytes are in memory.
const ANSWERED_AT_ONCE_MAX_BYTES: u64 = 2 * CHUNK_BYTES;

/// Limits of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Maximum answers made at one time, not counting stuck ones. If more answers than this are
    /// stuck, as many as are stuck may be made.
    pub makers_max: usize,
    /// Maximum waiting requests of all peers.
    pub waiting_max: usize,
    /// Maximum waiting requests of one peer.
    pub waiting_of_peer_max: usize,
    /// Maximum bytes of unsent answers for all peers.
    pub held_max_bytes: u64,
    /// Maximum bytes of unsent urgent answers for one peer; at least one whole answer.
    pub held_of_peer_max_bytes: u64,
    /// Maximum bytes of unsent bulk answers for one peer. These suffice to keep the link busy. More
    /// would have left the processor's caches by the time they are sent.
    pub held_of_bulk_max_bytes: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            makers_max: processors.clamp(2, 8),
            waiting_max: 4096,
            waiting_of_peer_max: 512,
            held_max_bytes: 64 << 20,
            held_of_peer_max_bytes: 16 << 20,
            held_of_bulk_max_bytes: 4 << 20,
        }
    }
}

/// Records bytes of files sent to a node. Called from any thread.
pub type OnSent = Arc<dyn Fn(NodeId, u64) + Send + Sync>;

/// Server for the content requests of other nodes. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<ServerInner>,
}

struct ServerInner {
    contents: ContentStore,
    queues: ServeQueues,
    upload: UploadLimit,
    rebuilds: Rebuilds,
    askers: Mutex<Askers>,
}

/// Answer in memory. Its bytes count against the server's limits until it is sent or dropped.
struct MadeAnswer {
    bytes: Bytes,
    _turn: ServeTurn,
}

impl AsRef<[u8]> for MadeAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Makes an answer of proven bytes, which holds its turn until it is sent.
fn made(bytes: Bytes, mut turn: ServeTurn) -> Response {
    turn.mark_made();
    let proof = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
    Response::Data { proof }
}

impl Server {
    /// Creates a server of a store of contents. To a node that may not have a content, it looks as
    /// if it were not here.
    pub fn new(contents: ContentStore, limits: ServerLimits) -> Self {
        let inner = ServerInner {
            contents,
            upload: UploadLimit::new(&limits),
            queues: ServeQueues::new(limits),
            rebuilds: Rebuilds::new(),
            askers: Mutex::new(Askers::new()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the upload limit.
    pub fn upload(&self) -> &Pace {
        &self.inner.upload.pace
    }

    /// Handles a request for content, and returns any other request. Called on the task of the
    /// asker's connection. A request whose answer is ready is answered on that task, any other in a
    /// new task or on a blocking thread. Never blocks; needs a running tokio runtime.
    pub fn serve(&self, incoming: Incoming, sent: &OnSent) -> Option<Incoming> {
        let Incoming { from, lane, .. } = incoming;
        let (content, range) = match incoming.request {
            Request::Range {
                hash,
                size_bytes,
                range,
            } => (ContentKey::new(hash, size_bytes), range),
            Request::Holdings { .. } | Request::Batch { .. } => {
                let (server, sent) = (self.clone(), sent.clone());
                let unwanted = incoming.reply.unwanted();
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        answer = server.answer_charged(from, lane, incoming.request) => answer,
                        _ = unwanted => Response::Busy.into(),
                    };
                    if let Response::Batch { packed } = &answer.response {
                        sent(from, packed.len() as u64);
                    }
                    answer.send(incoming.reply);
                });
                return None;
            }
            _ => return Some(incoming),
        };
        if !self.may_have(&from, &content.hash) {
            incoming.reply.send(Response::NotHere);
            return None;
        }
        let (server, sent) = (self.clone(), sent.clone());
        let unwanted = incoming.reply.unwanted();
        let deliver = move |answer: ChargedAnswer| {
            if matches!(answer.response, Response::Data { .. }) {
                sent(from, range.len());
            }
            answer.send(incoming.reply);
        };
        let Some((turn, passed)) = self.pass_at_once((lane, from), content, range) else {
            tokio::spawn(async move {
                let answering = server.answer_charged(from, lane, incoming.request);
                tokio::select! {
                    answer = answering => deliver(answer),
                    _ = unwanted => deliver(Response::Busy.into()),
                }
            });
            return None;
        };
        if let Some(bytes) = self.prove_at_once(&content, range) {
            deliver(ChargedAnswer::new(made(bytes, turn), passed));
        } else {
            drop(tokio::task::spawn_blocking(move || {
                let response = server.make(&content, range, turn);
                deliver(ChargedAnswer::new(response, passed));
            }));
        }
        None
    }

    fn may_have(&self, node: &NodeId, hash: &ContentHash) -> bool {
        self.inner.contents.may_have(Asker::Member(node), hash)
    }

    /// Returns a turn for a valid range, and its charge, if neither the queue nor the upload limit
    /// makes it wait.
    fn pass_at_once(
        &self,
        of: (Lane, NodeId),
        content: ContentKey,
        range: ByteRange,
    ) -> Option<(ServeTurn, PassedBytes)> {
        let (now, hash) = (Instant::now(), content.hash);
        let askable = is_askable(content.size_bytes, range)
            && !self.inner.queues.is_stuck(&self.inner.contents, &hash, now)
            && !self.inner.contents.lacks_outboard(&content, range);
        let asked = QueuedRequest::of_range(of, hash, range);
        let turn = askable.then(|| self.inner.queues.answers.pass_at_once(asked))??;
        let is_waited_for = of.0 == Lane::Urgent;
        if !self.upload().pass_at_once(range.len(), is_waited_for) {
            return None;
        }
        self.inner.askers.lock().record(now, hash, of.1);
        Some((turn, self.upload().passed(range.len())))
    }

    /// Answers [`Request::Range`], [`Request::Batch`] and [`Request::Holdings`] of a proven member,
    /// and refuses other requests. The upload limit is charged for the answer. Needs a running
    /// tokio runtime.
    pub async fn answer(&self, from: NodeId, lane: Lane, request: Request) -> Response {
        self.answer_charged(from, lane, request).await.taken()
    }

    async fn answer_charged(&self, from: NodeId, lane: Lane, request: Request) -> ChargedAnswer {
        match request {
            Request::Range { hash, .. } | Request::Holdings { hash }
                if !self.may_have(&from, &hash) =>
            {
                Response::NotHere.into()
            }
            Request::Range {
                hash,
                size_bytes,
                range,
            } => {
                let content = ContentKey::new(hash, size_bytes);
                self.answer_range((lane, from), content, range).await
            }
            Request::Holdings { hash } => self.answer_holdings((lane, from), hash).await.into(),
            Request::Batch { files } => self.answer_batch((lane, from), files).await,
            _ => refused("not a question about content").into(),
        }
    }

    /// Answers a small [`Request::Range`] if that needs no waiting: its file is open, its bytes are
    /// in memory, no other peer waits for its turn, and the upload limit lets it pass. Never
    /// blocks; needs a running tokio runtime.
    pub fn answer_at_once(&self, from: NodeId, lane: Lane, request: &Request) -> Option<Response> {
        let Request::Range {
            hash,
            size_bytes,
            range,
        } = *request
        else {
            return None;
        };
        let content = ContentKey::new(hash, size_bytes);
        if !self.may_have(&from, &hash) {
            return None;
        }
        let (turn, passed) = self.pass_at_once((lane, from), content, range)?;
        let bytes = self.prove_at_once(&content, range)?;
        Some(ChargedAnswer::new(made(bytes, turn), passed).taken())
    }

    /// Returns a small proof if that needs no waiting. The turn must be held.
    fn prove_at_once(&self, content: &ContentKey, range: ByteRange) -> Option<Bytes> {
        let is_small = range.len() <= ANSWERED_AT_ONCE_MAX_BYTES;
        let prove = || self.inner.contents.prove_at_once(content, range);
        is_small.then(prove).flatten()
    }

    /// Returns the load of the server, from 0 to 255.
    pub fn load(&self) -> u8 {
        self.inner.queues.answers.load()
    }

    /// Returns the nodes except `asker` that recently asked for a content.
    pub fn askers(&self, hash: &ContentHash, asker: &NodeId) -> Vec<NodeId> {
        self.inner.askers.lock().of(Instant::now(), hash, asker)
    }

    /// Returns the offer for a node that broadcasts a `Get`, and records the node as an asker.
    /// Touches the disk only if some of the content is here. Returns `None` if the node may not get
    /// the content, if nothing of it is here, if its disk hangs, or if too many lookups are under
    /// way. Blocking.
    pub fn offer_for(&self, from: NodeId, hash: &ContentHash) -> Option<OfferSummary> {
        if !self.may_have(&from, hash) {
            return None;
        }
        let askers = self.askers(hash, &from);
        self.inner.askers.lock().record(Instant::now(), *hash, from);
        let (queues, contents) = (&self.inner.queues, &self.inner.contents);
        let _turn = queues.lookup_turn(contents, (Lane::Urgent, from), *hash)?;
        let here = contents.provable(hash).ok()?;
        let ranges = if here.is_whole {
            Vec::new()
        } else {
            here.ranges.longest(OFFER_RANGES_MAX)
        };
        if !here.is_whole && ranges.is_empty() {
            return None;
        }
        Some(OfferSummary {
            hash: *hash,
            size_bytes: here.size_bytes,
            all: here.is_whole,
            ranges,
            load: self.load(),
            askers,
        })
    }

    /// Returns the folders of the shares with a content that has been read or looked up for ten
    /// seconds.
    pub fn standing_shares(&self) -> BTreeSet<PathBuf> {
        let standing = self.inner.queues.stuck_for(WORTH_A_WORD, Instant::now());
        let dirs_of = |hash| self.inner.contents.share_dirs(&hash);
        standing.into_iter().flat_map(dirs_of).collect()
    }

    async fn answer_range(
        &self,
        of: (Lane, NodeId),
        content: ContentKey,
        range: ByteRange,
    ) -> ChargedAnswer {
        let ContentKey { hash, size_bytes } = content;
        if !is_askable(size_bytes, range) {
            return refused("this range cannot be requested").into();
        }
        self.inner.askers.lock().record(Instant::now(), hash, of.1);
        let (contents, rebuilds) = (&self.inner.contents, &self.inner.rebuilds);
        if contents.lacks_outboard(&content, range)
            && !rebuilds.rebuild(contents, of.1, content, range).await
        {
            return Response::Busy.into();
        }
        let asked = QueuedRequest::of_range(of, hash, range);
        let Some((turn, passed)) = self.turn_within_limit(asked).await else {
            let (queues, contents) = (&self.inner.queues, &self.inner.contents);
            return queues.without_turn(contents, &asked).into();
        };
        let server = self.clone();
        let made = tokio::task::spawn_blocking(move || server.make(&content, range, turn));
        ChargedAnswer::new(made.await.unwrap_or(Response::Busy), passed)
    }

    /// Makes an answer, even if the asker has cancelled it meanwhile. Reads and hashes. Blocking.
    fn make(&self, content: &ContentKey, range: ByteRange, turn: ServeTurn) -> Response {
        match self.inner.contents.prove(content, range) {
            Ok(bytes) => made(bytes, turn),
            Err(why) => unproven(why),
        }
    }

    async fn answer_holdings(&self, of: (Lane, NodeId), hash: ContentHash) -> Response {
        let asked = QueuedRequest::of_range(of, hash, ByteRange::at(0, 0));
        let (queues, contents) = (&self.inner.queues, &self.inner.contents);
        let Some(turn) = queues.turn(contents, asked).await else {
            return queues.without_turn(contents, &asked);
        };
        let inner = self.inner.clone();
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match inner.contents.provable(&hash) {
                Ok(here) => Response::Holdings {
                    ranges: ExtentSet::from(here.ranges.longest(HOLDINGS_RANGES_MAX)),
                    size_bytes: here.size_bytes,
                },
                Err(why) => unproven(why),
            }
        });
        found.await.unwrap_or(Response::Busy)
    }

    async fn answer_batch(&self, of: (Lane, NodeId), files: Vec<SmallFile>) -> ChargedAnswer {
        let size_bytes = files.iter().map(|file| file.size_bytes).sum();
        let asked = QueuedRequest {
            of,
            hash: None,
            bytes: size_bytes,
        };
        let Some((turn, passed)) = self.turn_within_limit(asked).await else {
            return Response::Busy.into();
        };
        let inner = self.inner.clone();
        let making = move || batch::make(&inner, &of.1, &files, size_bytes, turn);
        let made = tokio::task::spawn_blocking(making).await;
        ChargedAnswer::new(made.unwrap_or(Response::Busy), passed)
    }

    /// Returns a turn to make an answer once the limit allows it, and the charge. `None` if this
    /// node is too busy, or the content is stuck or too large for the limit.
    async fn turn_within_limit(&self, asked: QueuedRequest) -> Option<(ServeTurn, PassedBytes)> {
        if !self.inner.upload.pass(asked).await {
            return None;
        }
        let passed = self.upload().passed(asked.bytes);
        let turn = self.inner.queues.turn(&self.inner.contents, asked).await?;
        Some((turn, passed))
    }
}

/// Response with the charge of the upload limit for it, which is refunded if it is not sent.
struct ChargedAnswer {
    response: Response,
    charge: Option<PassedBytes>,
}

impl ChargedAnswer {
    /// Creates an answer. Refunds the charge for bytes that the response does not carry.
    fn new(response: Response, mut passed: PassedBytes) -> Self {
        match &response {
            Response::Data { .. } => {}
            Response::Batch { packed } => passed.reduce_to(packed.len() as u64),
            _ => passed.reduce_to(0),
        }
        let charge = Some(passed);
        Self { response, charge }
    }

    fn send(self, reply: ReplyTo) {
        reply.send_charged(self.response, self.charge);
    }

    /// Returns the response and keeps its charge.
    fn taken(self) -> Response {
        self.charge
            .into_iter()
            .for_each(PassedBytes::mark_transferred);
        self.response
    }
}

impl From<Response> for ChargedAnswer {
    fn from(response: Response) -> Self {
        let charge = None;
        Self { response, charge }
    }
}

fn is_askable(size_bytes: u64, range: ByteRange) -> bool {
    let inside = range.end <= size_bytes && (!range.is_empty() || size_bytes == 0);
    inside && range.len() <= RANGE_MAX_BYTES
}

fn refused(reason: &str) -> Response {
    Response::Refused {
        reason: reason.to_owned(),
    }
}

/// Returns the response that tells why a range was not proven.
fn unproven(why: ProofError) -> Response {
    match why {
        ProofError::Gone => Response::Gone,
        ProofError::NotHere => Response::NotHere,
        ProofError::Busy => Response::Busy,
    }
}
