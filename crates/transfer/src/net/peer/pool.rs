//! Pool of the proven connections, dialled and accepted. A pair of nodes has one for each lane, on
//! which both ends ask.
//!
//! If there are two, because both nodes dialled or because one of them lost the first, each end
//! asks on one of them and retires the other. If each node dialled one, the one that the smaller
//! [`NodeId`] dialled stays, so both ends choose alike. Otherwise the newer stays, because the
//! older is probably dead.
//!
//! A member that cannot be dialled, for example behind a NAT, is called by gossip and dials this
//! node.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};

use super::Shared;
use super::connection::Connection;
use super::counters::DropReason;
use super::dial::dial;
use super::limits::PeerLimits;
use super::line::Progress;
use crate::net::NetError;
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_types::id::NodeId;

/// Time after which a member that is being dialled is called. Most dials take less.
const CALL_AFTER: Duration = Duration::from_millis(250);
/// Time between two calls during one dial. A datagram may be lost.
const CALL_EACH: Duration = Duration::from_secs(1);
/// Minimum time between two dials of one member for its calls.
const CALLED_EACH: Duration = Duration::from_secs(2);

type Dialled = Result<Arc<Connection>, NetError>;

/// Progress of a dial.
enum DialState {
    Begun,
    /// The other end has sent the first bytes of its handshake.
    GetsOn,
    Over(Dialled),
}

/// Dial of a member. An accepted connection of the member ends the wait for it too.
struct Dial {
    addr: SocketAddr,
    tell: watch::Sender<DialState>,
}

/// The connections to one member for one lane.
#[derive(Default)]
struct LaneConnections {
    /// The connection for requests of this node.
    asked: Option<Arc<Connection>>,
    /// Retired connections, probes, and those on which only the peer asks.
    others: Vec<Arc<Connection>>,
    dial: Option<Dial>,
    /// When this node last dialled because the member called.
    called: Option<Instant>,
}

/// The connections to one member.
#[derive(Default)]
struct MemberConnections {
    lanes: [LaneConnections; 2],
    /// Whether the member dials this node when it is called, as its protocol shows.
    is_callable: bool,
    /// Whether the last dial failed or took long.
    is_hard_to_dial: bool,
}

#[derive(Default)]
struct PoolTable {
    members: HashMap<NodeId, MemberConnections>,
    is_closed: bool,
}

/// Pool of the proven connections.
#[derive(Default)]
pub(super) struct Pool {
    table: Mutex<PoolTable>,
}

/// A connection, or a dial to wait for.
enum Found {
    Open(Arc<Connection>),
    Dialling(SocketAddr, watch::Receiver<DialState>),
}

impl Pool {
    /// Returns the connection to `node`, and dials `addr` if there is none. Reports the progress of
    /// the dial.
    pub(super) async fn get(
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        progress: Option<&Progress>,
    ) -> Dialled {
        loop {
            let (dialled, dial) = match Self::find_or_dial(shared, node, addr, lane)? {
                Found::Open(connection) => return Ok(connection),
                Found::Dialling(addr, dial) => (addr, dial),
            };
            match outcome(dial, progress).await {
                // The dial that failed was to another address, so ours is still to be tried.
                Err(_) if dialled != addr => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns the connection for requests to `node`, if one is open.
    pub(super) fn open(
        &self,
        node: NodeId,
        lane: Lane,
        limits: &PeerLimits,
    ) -> Option<Arc<Connection>> {
        self.table.lock().open(node, lane, limits).cloned()
    }

    fn find_or_dial(
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<Found, NetError> {
        let mut table = shared.pool.table.lock();
        if let Some(connection) = table.open(node, lane, &shared.limits) {
            return Ok(Found::Open(Arc::clone(connection)));
        }
        if let Some(dial) = table.lane(node, lane).and_then(|it| it.dial.as_ref()) {
            return Ok(Found::Dialling(dial.addr, dial.tell.subscribe()));
        }
        let (dial, gave_way) = table.begin_dial(shared, node, addr, lane, true)?;
        drop(table);
        // without the lock: the callbacks of the connection's requests run here, and may send
        // requests to other nodes
        gave_way.inspect(|it| it.close());
        Ok(Found::Dialling(addr, dial))
    }

    /// Dials a member that called this node, unless it called a moment ago.
    pub(super) fn answer_call(shared: &Arc<Shared>, node: NodeId, addr: SocketAddr, lane: Lane) {
        let mut table = shared.pool.table.lock();
        let now = Instant::now();
        let of_lane = &mut table.members.entry(node).or_default().lanes[lane as usize];
        let is_recent = of_lane.called.is_some_and(|at| now < at + CALLED_EACH);
        if is_recent || of_lane.dial.is_some() {
            return;
        }
        of_lane.called = Some(now);
        // A dial for a call makes no call. Otherwise two nodes that cannot dial each other would
        // call each other for ever.
        let begun = table.begin_dial(shared, node, addr, lane, false);
        drop(table);
        if let Ok((_, Some(gave_way))) = begun {
            gave_way.close();
        }
    }

    /// Adds a proven connection, so that it can be ended. Returns false if the pool is closed.
    fn enter(&self, connection: &Arc<Connection>) -> bool {
        let mut table = self.table.lock();
        if table.is_closed {
            return false;
        }
        let others = &mut table.lane_of(connection).others;
        others.push(Arc::clone(connection));
        true
    }

    /// Lets this node ask on a connection that entered the pool, if it may.
    pub(super) fn adopt(&self, shared: &Shared, connection: &Arc<Connection>) {
        let mut table = self.table.lock();
        let member = table.members.entry(connection.peer).or_default();
        member.is_callable |= connection.is_symmetric();
        if !connection.is_dialled() && !connection.is_symmetric() {
            return;
        }
        let of_lane = &mut member.lanes[connection.lane as usize];
        let Some(place) = of_lane.place(connection) else {
            return;
        };
        let other = of_lane.asked.take();
        let stays = |other: &Arc<Connection>| {
            let is_dialled_by_smaller = other.is_dialled() == (shared.local.me < connection.peer);
            is_dialled_by_smaller
                && other.is_dialled() != connection.is_dialled()
                && other.is_usable(&shared.limits)
        };
        if other.as_ref().is_some_and(stays) {
            connection.retire();
            of_lane.asked = other;
        } else {
            of_lane.asked = Some(of_lane.others.swap_remove(place));
            if let Some(other) = other {
                other.retire();
                of_lane.others.push(other);
            }
        }
        if let (Some(dial), Some(asked)) = (of_lane.dial.take(), &of_lane.asked) {
            let over = DialState::Over(Ok(Arc::clone(asked)));
            dial.tell.send_replace(over);
        }
    }

    /// Removes a connection that has ended.
    fn leave(&self, connection: &Arc<Connection>) {
        let mut table = self.table.lock();
        table.lane_of(connection).remove(connection);
    }

    /// Returns the nodes with a connection or a dial.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.table.lock().members.keys().copied().collect()
    }

    /// Ends the connections with a node, not its dials.
    pub(super) fn close_peer(&self, node: NodeId) {
        let closed: Vec<_> = {
            let mut table = self.table.lock();
            let lanes = table.members.get_mut(&node).map(|it| &mut it.lanes);
            lanes
                .into_iter()
                .flatten()
                .flat_map(|it| it.take_all())
                .collect()
        };
        // without the lock: the callbacks of the connections' requests run here, and may send
        // requests to other nodes
        closed.iter().for_each(|it| it.close());
    }

    /// Forgets what is known about a node that is not a member, and ends its connections.
    pub(super) fn forget(&self, node: NodeId) {
        self.close_peer(node);
        self.table.lock().members.remove(&node);
    }

    /// Ends all connections and accepts no more.
    pub(super) fn close(&self) {
        let closed: Vec<_> = {
            let mut table = self.table.lock();
            table.is_closed = true;
            let members = table.members.drain();
            members
                .flat_map(|(_, member)| member.lanes)
                .flat_map(|mut it| it.take_all())
                .collect()
        };
        closed.iter().for_each(|it| it.close());
    }

    /// Ends a dial, unless a connection has ended it already.
    fn fail(&self, node: NodeId, lane: Lane, tell: &watch::Sender<DialState>, error: NetError) {
        let mut table = self.table.lock();
        let member = table.members.get_mut(&node);
        if let Some(of_lane) = member.map(|it| &mut it.lanes[lane as usize])
            && of_lane
                .dial
                .take_if(|it| it.tell.same_channel(tell))
                .is_some()
        {
            tell.send_replace(DialState::Over(Err(error)));
        }
    }

    fn is_hard_to_dial(&self, node: &NodeId) -> bool {
        let table = self.table.lock();
        table.members.get(node).is_some_and(|it| it.is_hard_to_dial)
    }

    fn set_hard_to_dial(&self, node: NodeId, is_hard: bool) {
        if let Some(member) = self.table.lock().members.get_mut(&node) {
            member.is_hard_to_dial = is_hard;
        }
    }

    /// Returns whether a member dials this node when it is called.
    fn is_callable(&self, node: &NodeId) -> bool {
        let table = self.table.lock();
        table.members.get(node).is_some_and(|it| it.is_callable)
    }
}

impl PoolTable {
    fn lane(&self, node: NodeId, lane: Lane) -> Option<&LaneConnections> {
        self.members.get(&node).map(|it| &it.lanes[lane as usize])
    }

    fn lane_of(&mut self, connection: &Connection) -> &mut LaneConnections {
        let member = self.members.entry(connection.peer).or_default();
        &mut member.lanes[connection.lane as usize]
    }

    fn open(&self, node: NodeId, lane: Lane, limits: &PeerLimits) -> Option<&Arc<Connection>> {
        let asked = self.lane(node, lane)?.asked.as_ref();
        asked.filter(|it| it.is_usable(limits))
    }

    /// Begins a dial. Returns a receiver of its progress, and the connection that gives way to it.
    fn begin_dial(
        &mut self,
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
        may_call: bool,
    ) -> Result<(watch::Receiver<DialState>, Option<Arc<Connection>>), NetError> {
        if self.is_closed {
            return Err(NetError::Closed);
        }
        let gave_way = self.make_room(shared.limits.connections.dialled)?;
        let (tell, seen) = watch::channel(DialState::Begun);
        let member = self.members.entry(node).or_default();
        let told = tell.clone();
        member.lanes[lane as usize].dial = Some(Dial { addr, tell });
        let task = DialTask {
            shared: Arc::clone(shared),
            node,
            lane,
            tell: told,
        };
        // a separate task: the first asker may give up while the others still wait
        tokio::spawn(task.run(addr, may_call));
        Ok((seen, gave_way))
    }

    /// Makes room for a dialled connection. At the limit, removes the one that was idle longest,
    /// which the caller ends.
    fn make_room(&mut self, limit: usize) -> Result<Option<Arc<Connection>>, NetError> {
        let lanes = || self.members.values().flat_map(|it| &it.lanes);
        let of_lane = |it: &LaneConnections| it.dialled().count() + usize::from(it.dial.is_some());
        if lanes().map(of_lane).sum::<usize>() < limit {
            return Ok(None);
        }
        let dialled = lanes().flat_map(LaneConnections::dialled);
        let idle = dialled.filter_map(|it| it.idle_since().map(|since| (since, it)));
        let longest = idle.min_by_key(|(since, _)| *since);
        let longest = longest.map(|(_, it)| Arc::clone(it));
        let longest = longest.ok_or(NetError::TooManyConnections)?;
        self.lane_of(&longest).remove(&longest);
        Ok(Some(longest))
    }
}

impl LaneConnections {
    fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.asked.iter().chain(&self.others)
    }

    fn dialled(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.all().filter(|it| it.is_dialled())
    }

    /// Returns the place of a connection among the others.
    fn place(&self, connection: &Arc<Connection>) -> Option<usize> {
        let mut others = self.others.iter();
        others.position(|it| Arc::ptr_eq(it, connection))
    }

    fn remove(&mut self, connection: &Arc<Connection>) {
        let is_it = |it: &Arc<Connection>| Arc::ptr_eq(it, connection);
        self.asked.take_if(|it| is_it(it));
        self.others.retain(|it| !is_it(it));
    }

    fn take_all(&mut self) -> impl Iterator<Item = Arc<Connection>> + use<> {
        let others = std::mem::take(&mut self.others);
        self.asked.take().into_iter().chain(others)
    }
}

impl Shared {
    /// Runs a proven connection to its end, and returns the reason.
    pub(super) async fn host(
        &self,
        connection: &Arc<Connection>,
        reading: impl AsyncRead + Unpin,
    ) -> DropReason {
        if !self.pool.enter(connection) {
            return DropReason::ClosedHere;
        }
        let left = LeaveOnDrop(self, connection);
        // an expulsion after this point closes the connection; an expulsion since the greeting is
        // noticed by this check
        if !self.local.ledger.is_member(&connection.peer) {
            return DropReason::Stranger;
        }
        if connection.is_dialled() {
            self.pool.adopt(self, connection);
        }
        let reason = connection.run(self, reading).await;
        drop(left);
        reason
    }
}

/// Guard that removes a connection from the pool when its task ends in any way.
struct LeaveOnDrop<'a>(&'a Shared, &'a Arc<Connection>);

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        self.0.pool.leave(self.1);
    }
}

/// Waits for the end of a dial.
async fn outcome(mut dial: watch::Receiver<DialState>, progress: Option<&Progress>) -> Dialled {
    loop {
        let over = match &*dial.borrow_and_update() {
            DialState::Begun => None,
            DialState::GetsOn => Some(None),
            DialState::Over(Err(error)) => return Err(error.clone()),
            DialState::Over(Ok(connection)) => Some(Some(Arc::clone(connection))),
        };
        if let (Some(_), Some(progress)) = (&over, progress) {
            progress.report_work();
        }
        if let Some(Some(connection)) = over {
            return Ok(connection);
        }
        dial.changed().await.map_err(|_| NetError::Closed)?;
    }
}

/// Task of a dial, and then of its connection.
struct DialTask {
    shared: Arc<Shared>,
    node: NodeId,
    lane: Lane,
    tell: watch::Sender<DialState>,
}

impl DialTask {
    async fn run(self, addr: SocketAddr, may_call: bool) {
        let (shared, node, lane) = (&self.shared, self.node, self.lane);
        let gets_on = || {
            let advance = |state: &mut DialState| {
                let is_begun = matches!(state, DialState::Begun | DialState::GetsOn);
                is_begun.then(|| *state = DialState::GetsOn).is_some()
            };
            self.tell.send_if_modified(advance);
        };
        let dialled = tokio::select! {
            dialled = dial(shared, node, addr, lane, gets_on) => dialled,
            never = self.call(), if may_call => match never {},
        };
        shared.pool.set_hard_to_dial(node, dialled.is_err());
        match dialled {
            Ok((connection, reading)) => {
                shared.counters.lock().dialled += 1;
                let reason = shared.host(&connection, reading).await;
                shared.counters.lock().drop_for(reason);
            }
            Err(error) => {
                tracing::debug!(%node, %addr, %error, "cannot dial");
                if may_call {
                    self.call_once();
                }
                shared.pool.fail(node, lane, &self.tell, error);
            }
        }
    }

    /// Calls the member while the dial takes long.
    async fn call(&self) -> Infallible {
        if !self.shared.pool.is_hard_to_dial(&self.node) {
            sleep(CALL_AFTER).await;
        }
        loop {
            self.call_once();
            sleep(CALL_EACH).await;
        }
    }

    fn call_once(&self) {
        if self.shared.pool.is_callable(&self.node)
            && let Some(call) = self.shared.on_call.load().as_ref()
        {
            call(self.node, self.lane);
        }
    }
}

/// Lets no asker wait for a dial whose task has ended.
impl Drop for DialTask {
    fn drop(&mut self) {
        (self.shared.pool).fail(self.node, self.lane, &self.tell, NetError::Closed);
    }
}
