//! TCP between nodes: TLS that authenticates the other end, proof of membership, and then many
//! concurrent requests on connections that are kept open.
//!
//! A connection belongs to a pair of nodes. Either of them may have dialled it, and both ask on it.
//! There is one for each of two lanes. This module owns all limits on connections and their
//! times. It never interprets a request. When a connection ends, its requests fail at once. All
//! other connections go on.

mod accept;
mod connection;
mod counters;
mod dial;
mod distances;
mod framing;
mod greet;
pub mod limits;
mod line;
mod low_water;
mod mark;
mod narrow_path;
mod outbound;
mod ping_pace;
mod pool;
mod probe;
mod queue_limit;
mod register;
pub(crate) mod request_room;
mod send_budget;
mod split;
mod tcp_info;
mod tls;

pub use connection::{AnswerBeside, Incoming, ReplyTo, SentRequest};
pub use counters::{DropReason, PeerCounters};

pub use limits::{ACCEPTED_CONNECTIONS, ConnectionLimits, ConnectionTimes, PeerLimits};
pub use line::{OnAnswer, Progress};
pub use probe::Probed;
use request_room::RequestRoom;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::net::socket::{bind_error, bind_tcp};
use crate::net::{LedgerHandle, NetError};
use crate::pace::PassedBytes;
use p2pfs_proto::trust::{InviteToken, Invites, NodeKey};
pub use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_proto::wire::native::tcp::{DeclineReason, Request, Response};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::pool::PiecePool;

use dial::{connect, connect_any, not_proven};
use distances::Distances;
use greet::EnrolAnswer;
pub use greet::Enrolment as Joining;
pub use greet::{JoinRefusal, RefusedJoin};
use narrow_path::NarrowPaths;
use pool::Pool;
use register::Register;
use tls::Tls;

/// Maximum attempts to redeem an invitation if answers are lost on the way.
const ENROL_ATTEMPTS: u32 = 3;

/// Accepted connection that does not begin as TLS. Its first byte is still unread.
pub type ForeignConnection = (TcpStream, SocketAddr);

/// Callback for a proven peer that broke the protocol, with the remote address of its connection and
/// the breach. Called on the task of the connection, so it must not block.
pub type OnBreach = Arc<dyn Fn(NodeId, SocketAddr, DropReason) + Send + Sync>;

/// Callback that sends a call to a member by gossip: the member is to dial this node for this lane.
/// Called on the task of a dial, so it must not block.
pub type OnCall = Arc<dyn Fn(NodeId, Lane) + Send + Sync>;

/// Callback for a node that asked for admission by an invitation and was refused, with the remote
/// address of its connection. Any node on the network can cause it. Called on the task of the
/// connection, so it must not block.
pub type OnRefusedJoin = Arc<dyn Fn(SocketAddr, RefusedJoin) + Send + Sync>;

/// State that all tasks of the TCP side share.
struct Shared {
    local: LocalCredentials,
    foreign_plane: ArcSwapOption<mpsc::Sender<ForeignConnection>>,
    beside: ArcSwapOption<AnswerBeside>,
    on_breach: ArcSwapOption<OnBreach>,
    on_call: ArcSwapOption<OnCall>,
    limits: PeerLimits,
    counters: Mutex<PeerCounters>,
    pool: Pool,
    register: Register,
    distances: Arc<Distances>,
    narrow_paths: NarrowPaths,
    incoming: mpsc::Sender<Incoming>,
    request_room: RequestRoom,
    pieces: PiecePool,
}

/// The key of this node, and its proof of membership.
struct LocalCredentials {
    me: NodeId,
    tls: Tls,
    ledger: LedgerHandle,
    invites: ArcSwapOption<Invites>,
    on_refused: ArcSwapOption<OnRefusedJoin>,
}

impl Shared {
    /// Reports a node that asked for admission in vain.
    fn report_refused(&self, addr: SocketAddr, refused: RefusedJoin) {
        if let Some(report) = self.local.on_refused.load().as_ref() {
            report(addr, refused);
        }
    }

    /// Reports a proven peer if it is to blame for the end of its connection.
    fn blame(&self, peer: NodeId, addr: SocketAddr, reason: DropReason) {
        let tell = self.on_breach.load();
        if let Some(tell) = tell.as_ref().filter(|_| reason.is_breach()) {
            tell(peer, addr, reason);
        }
    }
}

struct NetOwner {
    shared: Arc<Shared>,
    accepting: AbortHandle,
    local: SocketAddr,
}

/// TCP side of a node. Clones share it. When the last one is dropped, or [`PeerNet::close`] is
/// called, every connection ends.
#[derive(Clone)]
pub struct PeerNet {
    owner: Arc<NetOwner>,
}

impl PeerNet {
    /// Listens on `addr` for TCP only; see `net::PortPair` for TCP and UDP.
    ///
    /// # Errors
    /// [`NetError::Bind`], [`NetError::Key`].
    pub fn bind(
        addr: SocketAddr,
        key: &NodeKey,
        ledger: LedgerHandle,
        limits: PeerLimits,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), NetError> {
        Self::listen(bind_tcp(addr)?, key, ledger, limits)
    }

    /// Accepts connections on `listener`. Requests of proven peers arrive at the receiver. Needs a
    /// running tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Bind`] if the socket has no address, [`NetError::Key`].
    pub fn listen(
        listener: TcpListener,
        key: &NodeKey,
        ledger: LedgerHandle,
        limits: PeerLimits,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), NetError> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let local = listener
            .local_addr()
            .map_err(|error| bind_error(nowhere, &error))?;
        let (incoming, requests) = mpsc::channel(limits.incoming);
        let shared = Arc::new(Shared {
            local: LocalCredentials {
                me: key.node_id(),
                tls: Tls::new(key, limits.batches)?,
                ledger,
                invites: ArcSwapOption::empty(),
                on_refused: ArcSwapOption::empty(),
            },
            foreign_plane: ArcSwapOption::empty(),
            beside: ArcSwapOption::empty(),
            on_breach: ArcSwapOption::empty(),
            on_call: ArcSwapOption::empty(),
            limits,
            counters: Mutex::default(),
            pool: Pool::default(),
            register: Register::default(),
            distances: Arc::new(Distances::new()),
            narrow_paths: NarrowPaths::new(),
            incoming,
            request_room: RequestRoom::default(),
            pieces: PiecePool::default(),
        });
        let accepting = tokio::spawn(accept::accept_all(Arc::clone(&shared), listener));
        let accepting = accepting.abort_handle();
        Ok((
            Self {
                owner: Arc::new(NetOwner {
                    shared,
                    accepting,
                    local,
                }),
            },
            requests,
        ))
    }

    /// Returns the pool of buffers for large frames.
    pub fn pieces(&self) -> &PiecePool {
        &self.owner.shared.pieces
    }

    /// Returns the address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.owner.local
    }

    /// Sends a request to `node` and waits for the answer. Dials `addr` if no connection for the
    /// lane is open. Waits while the connection has its maximum of requests in flight. Dropping the
    /// future cancels the request and leaves the connection open.
    ///
    /// # Errors
    /// [`NetError::is_retryable`] tells whether another holder may do better.
    pub async fn request(
        &self,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        request: Request,
    ) -> Result<Response, NetError> {
        self.request_telling(node, addr, lane, request, None).await
    }

    /// Sends a request like [`PeerNet::request`], and after a pause once more if the connection was
    /// lost: the node may have been stopping.
    ///
    /// # Errors
    /// Those of [`PeerNet::request`].
    pub async fn request_repeated(
        &self,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        request: Request,
    ) -> Result<Response, NetError> {
        let answer = self.request(node, addr, lane, request.clone()).await;
        if !matches!(answer, Err(NetError::Lost { .. })) {
            return answer;
        }
        sleep(self.owner.shared.limits.times.look_again).await;
        self.request(node, addr, lane, request).await
    }

    /// Sends a request like [`PeerNet::request`], and reports bytes that arrive before the answer
    /// is complete.
    ///
    /// # Errors
    /// Those of [`PeerNet::request`].
    pub async fn request_telling(
        &self,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        request: Request,
        progress: Option<Progress>,
    ) -> Result<Response, NetError> {
        let shared = &self.owner.shared;
        self.check_peer(&node)?;
        let connection = Pool::get(shared, node, addr, lane, progress.as_ref()).await?;
        connection.ask(&request, progress, None).await
    }

    /// Sends a request like [`PeerNet::request`]. Refunds the charge of a limit if the request is
    /// not sent.
    ///
    /// # Errors
    /// Those of [`PeerNet::request`].
    pub async fn request_charged(
        &self,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        request: Request,
        charge: PassedBytes,
    ) -> Result<Response, NetError> {
        let shared = &self.owner.shared;
        self.check_peer(&node)?;
        let connection = Pool::get(shared, node, addr, lane, None).await?;
        connection.ask(&request, None, Some(charge)).await
    }

    /// Sends a request without waiting, if a connection is open and has room for it.
    ///
    /// # Errors
    /// The callback, which was not called, if the request was not sent.
    pub fn request_at_once(
        &self,
        node: NodeId,
        lane: Lane,
        request: &Request,
        reply: OnAnswer,
        progress: Option<Progress>,
    ) -> Result<SentRequest, OnAnswer> {
        let shared = &self.owner.shared;
        let open = shared.pool.open(node, lane, &shared.limits);
        match open.filter(|_| self.check_peer(&node).is_ok()) {
            Some(connection) => connection.ask_at_once(request, reply, progress),
            None => Err(reply),
        }
    }

    /// Opens the connection for a later request, if there is none.
    ///
    /// # Errors
    /// Those of [`PeerNet::request`].
    pub async fn warm(&self, node: NodeId, addr: SocketAddr, lane: Lane) -> Result<(), NetError> {
        self.check_peer(&node)?;
        Pool::get(&self.owner.shared, node, addr, lane, None)
            .await
            .map(drop)
    }

    /// Dials a member that called this node for this lane, because it cannot dial this node. The
    /// connection serves both. Does nothing if the member called a moment ago.
    pub fn answer_call(&self, node: NodeId, addr: SocketAddr, lane: Lane) {
        if self.check_peer(&node).is_ok() {
            Pool::answer_call(&self.owner.shared, node, addr, lane);
        }
    }

    /// Returns whether the other node dialled the open connection. Then the connection shows nothing
    /// about the way to that node's address.
    pub fn is_dialled_by(&self, node: NodeId, lane: Lane) -> bool {
        let shared = &self.owner.shared;
        let open = shared.pool.open(node, lane, &shared.limits);
        open.is_some_and(|it| !it.is_dialled())
    }

    /// Finds out which node answers at an address.
    pub async fn probe(&self, addr: SocketAddr) -> Probed {
        self.probe_within(addr, Duration::MAX).await
    }

    /// Finds out which node answers at an address, as [`Self::probe`] does, within `patience`.
    pub async fn probe_within(&self, addr: SocketAddr, patience: Duration) -> Probed {
        probe::probe(&self.owner.shared, addr, patience).await
    }

    /// Finds out which member is at an address. The node there must prove its membership and accept
    /// ours.
    ///
    /// # Errors
    /// [`NetError::NotMember`] if the node there proves no membership or refuses us, otherwise
    /// those of [`PeerNet::request`].
    pub async fn knock(&self, addr: SocketAddr) -> Result<NodeId, NetError> {
        let shared = &self.owner.shared;
        let (mut stream, node) = connect_any(shared, addr).await?;
        self.check_other(&node)?;
        let greeted = greet::prove(shared, &mut stream, Lane::Urgent).await;
        greeted.map_err(|reason| not_proven(reason, addr))?;
        Ok(node)
    }

    /// Redeems an invitation: dials its addresses in order until the issuer answers, and asks it
    /// for membership as `name`. Returns the secret and the certificates, and does not change the
    /// ledger. If a connection is lost before the answer arrives, dials again a few times, because
    /// the issuer may have admitted this node already.
    ///
    /// # Errors
    /// [`NetError::InviteExpired`], [`NetError::InviteDeclined`], [`NetError::InviteRefused`],
    /// [`NetError::InviteUnanswered`], [`NetError::InviterAway`], [`NetError::OwnIdentity`] for a token of our own.
    pub async fn enrol(&self, token: &InviteToken, name: &NodeName) -> Result<Joining, NetError> {
        self.check_other(&token.issuer)?;
        let mut attempts = 1;
        loop {
            let outcome = self.enrol_once(token, name).await;
            match &outcome {
                // a slow answer took its time already
                Err(NetError::InviteUnanswered { reason })
                    if *reason != DropReason::SlowGreeting && attempts < ENROL_ATTEMPTS =>
                {
                    attempts += 1;
                    sleep(self.owner.shared.limits.times.look_again).await;
                }
                _ => return outcome,
            }
        }
    }

    async fn enrol_once(&self, token: &InviteToken, name: &NodeName) -> Result<Joining, NetError> {
        let (mut first_failure, mut unanswered) = (None, None);
        for seed in &token.seeds {
            match self.enrol_at(*seed, token, name).await {
                Err(NetError::Lost { reason }) => unanswered = Some(reason),
                Err(failure) if failure.is_retryable() => {
                    first_failure.get_or_insert(failure);
                }
                // the issuer's clock decides about the token; ours only explains the refusal
                Err(NetError::InviteRefused) if is_over(token) => {
                    return Err(NetError::InviteExpired);
                }
                outcome => return outcome,
            }
        }
        if let Some(reason) = unanswered {
            return Err(NetError::InviteUnanswered { reason });
        }
        // the addresses of other nodes follow the issuer's own, and say nothing about it
        let why = first_failure.map_or_else(
            || "the token has no address".to_owned(),
            |failure| failure.to_string(),
        );
        Err(NetError::InviterAway { why })
    }

    async fn enrol_at(
        &self,
        addr: SocketAddr,
        token: &InviteToken,
        name: &NodeName,
    ) -> Result<Joining, NetError> {
        let shared = &self.owner.shared;
        let mut stream = connect(shared, token.issuer, addr, || ()).await?;
        let enrolling = greet::enrol(&mut stream, shared.local.me, token, name, &shared.limits);
        let enrolled = timeout(shared.limits.times.handshake, enrolling).await;
        match enrolled.unwrap_or(Err(DropReason::SlowGreeting)) {
            Ok(EnrolAnswer::Admitted(enrolment)) => Ok(enrolment),
            Ok(EnrolAnswer::Declined(DeclineReason::Expired)) => Err(NetError::InviteExpired),
            Ok(EnrolAnswer::Declined(why)) => Err(NetError::InviteDeclined { why }),
            Err(reason) => Err(match not_proven(reason, addr) {
                NetError::NotMember { .. } | NetError::PutOut { .. } => NetError::InviteRefused,
                lost => lost,
            }),
        }
    }

    /// Answers joiners with these invitations from now on. Without invitations every joiner is a
    /// stranger.
    pub fn set_invites(&self, invites: Arc<Invites>) {
        self.owner.shared.local.invites.store(Some(invites));
    }

    /// Sets the callback for nodes that ask for admission by an invitation and are refused.
    pub fn set_on_refused_join(&self, report: OnRefusedJoin) {
        let local = &self.owner.shared.local;
        local.on_refused.store(Some(Arc::new(report)));
    }

    /// Sets a handler that gets each request first, on the task of its connection. Requests that it
    /// returns arrive at the receiver.
    pub fn set_answer_beside(&self, answer: AnswerBeside) {
        self.owner.shared.beside.store(Some(Arc::new(answer)));
    }

    /// Sets the callback for connections that ended because a proven peer broke the protocol.
    pub fn set_on_breach(&self, tell: OnBreach) {
        self.owner.shared.on_breach.store(Some(Arc::new(tell)));
    }

    /// Sets the callback that calls a member which cannot be dialled.
    pub fn set_on_call(&self, call: OnCall) {
        self.owner.shared.on_call.store(Some(Arc::new(call)));
    }

    /// Hands accepted connections that do not begin as TLS to a foreign plane. If there is none or
    /// its queue is full, they are dropped and counted.
    pub fn set_foreign_plane(&self, plane: Option<mpsc::Sender<ForeignConnection>>) {
        self.owner.shared.foreign_plane.store(plane.map(Arc::new));
    }

    /// Reserves room for unproven connections from these addresses of members, and from no others.
    pub fn set_members_at(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let ips = addresses
            .into_iter()
            .map(|address| address.ip().to_canonical());
        self.owner.shared.register.set_members_at(ips);
    }

    /// Ends every open connection with a node. Their requests fail at once. A later request dials
    /// again.
    pub fn close_peer(&self, node: NodeId) {
        self.owner.shared.pool.close_peer(node);
    }

    /// Ends the connections with every node that is no longer a member.
    pub fn close_strangers(&self) {
        let shared = &self.owner.shared;
        let trust = shared.local.ledger.view();
        let nodes = shared.pool.nodes().into_iter();
        nodes
            .filter(|node| !trust.is_member(node))
            .for_each(|node| shared.pool.forget(node));
    }

    /// Returns the counters.
    pub fn counters(&self) -> PeerCounters {
        self.owner.shared.counters.lock().clone()
    }

    /// Stops listening and ends every connection.
    pub fn close(&self) {
        self.owner.close();
    }

    fn check_peer(&self, node: &NodeId) -> Result<(), NetError> {
        self.check_other(node)?;
        let is_member = self.owner.shared.local.ledger.is_member(node);
        is_member.then_some(()).ok_or(NetError::Outsider)
    }

    fn check_other(&self, node: &NodeId) -> Result<(), NetError> {
        if *node == self.owner.shared.local.me {
            Err(NetError::OwnIdentity)
        } else {
            Ok(())
        }
    }
}

impl NetOwner {
    fn close(&self) {
        self.accepting.abort();
        self.shared.register.close();
        self.shared.pool.close();
    }
}

/// Ends everything when the last clone of [`PeerNet`] is dropped.
impl Drop for NetOwner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns whether a token has expired by this machine's clock.
fn is_over(token: &InviteToken) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    token.check_time(now.as_secs()).is_err()
}

#[cfg(test)]
mod tests;
