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
mod offer;
mod opened;
mod standing;

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::peer::{Incoming, ReplyTo};
use crate::pace::{Pace, PassedBytes};
use p2pfs_cache::Cache;
use p2pfs_proto::wire::native::tcp::{
    HOLDINGS_RANGES_MAX, Lane, RANGE_MAX_BYTES, Request, Response, SmallFile,
};
use p2pfs_share::ShareSet;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use p2pfs_types::id::NodeId;
use p2pfs_types::pool::PiecePool;

use askers::Askers;
use fair_queue::{FairQueue, QueuedRequest, ServeTurn};
use limited::UploadLimit;
use opened::{OpenSources, SWEEP_PERIOD, ServeError, Source};

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

/// Returns whether a node may get a content and may know that it is here. Called from any thread;
/// must not block.
pub type Admits = Arc<dyn Fn(&NodeId, &ContentHash) -> bool + Send + Sync>;

/// Records bytes of files sent to a node. Called from any thread.
pub type OnSent = Arc<dyn Fn(NodeId, u64) + Send + Sync>;

/// Server for the content requests of other nodes. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<ServerInner>,
}

struct ServerInner {
    cache: Cache,
    shares: ShareSet,
    admits: Admits,
    fair_queue: FairQueue,
    /// Queue of the lookups for offers.
    looks: FairQueue,
    upload: UploadLimit,
    askers: Mutex<Askers>,
    opened: Mutex<OpenSources>,
    pieces: PiecePool,
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

impl Server {
    /// Creates a server of the cache and the shares, for the nodes that `admits` accepts. For
    /// others a content looks as if it were not here. Answers are made in buffers of `pieces`.
    pub fn new(
        cache: Cache,
        shares: ShareSet,
        limits: ServerLimits,
        admits: Admits,
        pieces: PiecePool,
    ) -> Self {
        let inner = ServerInner {
            cache,
            shares,
            admits,
            upload: UploadLimit::new(&limits),
            looks: offer::looks(&limits),
            fair_queue: FairQueue::new(limits),
            askers: Mutex::new(Askers::new()),
            opened: Mutex::new(OpenSources::new()),
            pieces,
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
        let (hash, size_bytes, range) = match incoming.request {
            Request::Range {
                hash,
                size_bytes,
                range,
            } => (hash, size_bytes, range),
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
        if !(self.inner.admits)(&from, &hash) {
            incoming.reply.send(Response::NotHere);
            return None;
        }
        if let Some(answer) = self.charged_at_once(from, lane, &incoming.request) {
            sent(from, range.len());
            answer.send(incoming.reply);
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
        match self.pass_at_once((lane, from), hash, size_bytes, range) {
            Some((turn, passed)) => drop(tokio::task::spawn_blocking(move || {
                let response = server.make(&hash, size_bytes, range, turn);
                deliver(ChargedAnswer::new(response, passed));
            })),
            None => drop(tokio::spawn(async move {
                let answering = server.answer_charged(from, lane, incoming.request);
                tokio::select! {
                    answer = answering => deliver(answer),
                    _ = unwanted => deliver(Response::Busy.into()),
                }
            })),
        }
        None
    }

    /// Returns a turn for a valid range, and its charge, if neither the queue nor the upload limit
    /// makes it wait.
    fn pass_at_once(
        &self,
        of: (Lane, NodeId),
        hash: ContentHash,
        size_bytes: u64,
        range: ByteRange,
    ) -> Option<(ServeTurn, PassedBytes)> {
        let now = Instant::now();
        let askable = is_askable(size_bytes, range) && !self.inner.is_stuck(&hash, now);
        let asked = QueuedRequest::of_range(of, hash, range);
        let turn = askable.then(|| self.inner.fair_queue.pass_at_once(asked))??;
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
                if !(self.inner.admits)(&from, &hash) =>
            {
                Response::NotHere.into()
            }
            Request::Range {
                hash,
                size_bytes,
                range,
            } => {
                let of = (lane, from);
                self.answer_range(of, hash, size_bytes, range).await
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
        let answer = self.charged_at_once(from, lane, request);
        answer.map(ChargedAnswer::taken)
    }

    fn charged_at_once(
        &self,
        from: NodeId,
        lane: Lane,
        request: &Request,
    ) -> Option<ChargedAnswer> {
        let Request::Range {
            hash,
            size_bytes,
            range,
        } = *request
        else {
            return None;
        };
        let is_small = range.len() <= ANSWERED_AT_ONCE_MAX_BYTES && is_askable(size_bytes, range);
        if !is_small || !(self.inner.admits)(&from, &hash) {
            return None;
        }
        let now = Instant::now();
        let source = self.inner.opened.lock().get(now, &hash, range)?;
        if source.size_bytes() != size_bytes {
            return None;
        }
        let asked = QueuedRequest::of_range((lane, from), hash, range);
        let mut turn = self.inner.fair_queue.pass_at_once(asked)?;
        if !self
            .upload()
            .pass_at_once(range.len(), lane == Lane::Urgent)
        {
            return None;
        }
        let passed = self.upload().passed(range.len());
        let bytes = source.encode_at_once(range, &self.inner.pieces)?;
        self.inner.askers.lock().record(now, hash, from);
        turn.mark_made();
        let proof = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
        Some(ChargedAnswer::new(Response::Data { proof }, passed))
    }

    /// Returns the load of the server, from 0 to 255.
    pub fn load(&self) -> u8 {
        self.inner.fair_queue.load()
    }

    /// Returns the nodes except `asker` that recently asked for a content.
    pub fn askers(&self, hash: &ContentHash, asker: &NodeId) -> Vec<NodeId> {
        self.inner.askers.lock().of(Instant::now(), hash, asker)
    }

    async fn answer_range(
        &self,
        of: (Lane, NodeId),
        hash: ContentHash,
        size_bytes: u64,
        range: ByteRange,
    ) -> ChargedAnswer {
        if !is_askable(size_bytes, range) {
            return refused("this range cannot be requested").into();
        }
        self.inner.askers.lock().record(Instant::now(), hash, of.1);
        let asked = QueuedRequest::of_range(of, hash, range);
        let Some((turn, passed)) = self.turn_within_limit(asked).await else {
            return self.without_turn(&asked).into();
        };
        let server = self.clone();
        let made = tokio::task::spawn_blocking(move || server.make(&hash, size_bytes, range, turn));
        ChargedAnswer::new(made.await.unwrap_or(Response::Busy), passed)
    }

    /// Makes an answer, even if the asker has cancelled it meanwhile, and schedules the closing of
    /// the files that it opened. Reads and hashes. Blocking.
    fn make(
        &self,
        hash: &ContentHash,
        size_bytes: u64,
        range: ByteRange,
        turn: ServeTurn,
    ) -> Response {
        let response = self.inner.make(hash, size_bytes, range, turn);
        self.sweep_later();
        response
    }

    async fn answer_holdings(&self, of: (Lane, NodeId), hash: ContentHash) -> Response {
        let asked = QueuedRequest::of_range(of, hash, ByteRange::at(0, 0));
        let Some(turn) = self.turn(asked).await else {
            return self.without_turn(&asked);
        };
        let inner = self.inner.clone();
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match inner.find(&hash) {
                Ok(source) => Response::Holdings {
                    ranges: ExtentSet::from(source.ranges().longest(HOLDINGS_RANGES_MAX)),
                    size_bytes: source.size_bytes(),
                },
                Err(why) => why.into(),
            }
        });
        found.await.unwrap_or(Response::Busy)
    }

    /// Starts the task that closes files without recent requests, if a file is open and no such
    /// task runs.
    fn sweep_later(&self) {
        let first = {
            let mut opened = self.inner.opened.lock();
            !opened.is_empty() && !std::mem::replace(&mut opened.swept, true)
        };
        if first {
            tokio::spawn(sweep(Arc::downgrade(&self.inner)));
        }
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
        let making = move || inner.make_batch(&of.1, &files, size_bytes, turn);
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
        Some((self.turn(asked).await?, passed))
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

impl ServerInner {
    /// Closes the files without recent requests. Deleted files stay open for longer. Returns
    /// whether any file is still open. Touches the disk. Blocking.
    fn close_expired(&self) -> bool {
        let now = Instant::now();
        let old = self.opened.lock().remove_expired(now);
        let (lost, unused): (Vec<_>, Vec<_>) = old.into_iter().partition(|it| it.1.is_nameless());
        drop(unused);
        let mut opened = self.opened.lock();
        let mut closed = opened.remove_expired_deleted(now);
        closed.extend(opened.retain_deleted(now, lost));
        opened.swept = !opened.is_empty();
        let swept = opened.swept;
        drop(opened);
        drop(closed);
        swept
    }

    /// Makes an answer. Reads and hashes. Blocking.
    fn make(
        &self,
        hash: &ContentHash,
        size_bytes: u64,
        range: ByteRange,
        mut turn: ServeTurn,
    ) -> Response {
        let mut outcome = ServeError::NotHere;
        // an open source may be gone while another one has the bytes
        for _ in 0..2 {
            let source = match self.opened(hash, range) {
                Ok(source) => source,
                Err(ServeError::NotHere) => break,
                Err(why) => return why.into(),
            };
            if source.size_bytes() != size_bytes {
                return Response::NotHere;
            }
            match source.encode(range, &self.pieces) {
                Ok(bytes) => {
                    turn.mark_made();
                    let proof = Bytes::from_owner(MadeAnswer { bytes, _turn: turn });
                    return Response::Data { proof };
                }
                // the cache's partial file was used because no share could prove the content; the
                // share's reason may be a passing one, and then it is the better answer
                Err(ServeError::NotHere) if !source.is_whole() => {
                    let shared = self.shares.source(hash).err();
                    outcome = shared.map_or(ServeError::NotHere, ServeError::from);
                }
                Err(why) => outcome = why,
            }
            let stale = self.opened.lock().remove(hash);
            drop(stale);
        }
        outcome.into()
    }

    /// Returns the open source of a content, or opens one and keeps it open for the next request.
    fn opened(&self, hash: &ContentHash, range: ByteRange) -> Result<Source, ServeError> {
        let now = Instant::now();
        if let Some(source) = self.opened.lock().get(now, hash, range) {
            return Ok(source);
        }
        let source = self.find(hash)?;
        let mut opened = self.opened.lock();
        let closed = opened.put(now, *hash, source.clone(), range);
        drop(opened);
        closed.into_iter().for_each(close_beside);
        Ok(source)
    }

    /// Returns a complete source if there is one, otherwise a partial one.
    fn find(&self, hash: &ContentHash) -> Result<Source, ServeError> {
        let cached = || match self.cache.existing(hash)? {
            Some(file) => Ok(Source::Cached(file)),
            None => Err(ServeError::NotHere),
        };
        if self.cache.is_complete(hash) {
            return cached();
        }
        match self.shares.provable(hash) {
            Ok(file) => Ok(Source::Shared(file)),
            Err(_) if self.cache.cached_bytes(hash) > 0 => cached(),
            Err(why) => Err(why.into()),
        }
    }
}

/// Closes a file on another thread if that may take long. The filesystem frees a deleted file at
/// its last close. This can take the journal a millisecond, longer than the answer for which this
/// file was displaced.
fn close_beside(file: Source) {
    if file.is_nameless() {
        drop(tokio::task::spawn_blocking(move || drop(file)));
    }
}

async fn sweep(inner: Weak<ServerInner>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        let Some(inner) = inner.upgrade() else { return };
        // closing files touches the disk; the cache reports failures
        let swept = tokio::task::spawn_blocking(move || inner.close_expired()).await;
        if !swept.unwrap_or(false) {
            return;
        }
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
