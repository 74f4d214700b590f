//! Pool of the dialled connections, which are kept open: one for each node and lane, dialled once
//! however many requests wait for it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Shared;
use super::dial::Connection;
use super::line::Progress;
use crate::net::NetError;
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_types::id::NodeId;

type Dialled = Result<Arc<Connection>, NetError>;

/// Progress of a dial.
enum DialState {
    Begun,
    /// The other end answers in the handshake.
    GetsOn,
    Over(Dialled),
}

#[derive(Clone)]
enum PoolSlot {
    Open(Arc<Connection>),
    Dialling {
        addr: SocketAddr,
        dial: watch::Receiver<DialState>,
    },
}

#[derive(Default)]
struct PoolSlots {
    slots: HashMap<(NodeId, Lane), PoolSlot>,
    /// Connections with worn keys for which a replacement is being dialled, or failed recently. The
    /// worn one is used until the new one is established.
    renewed: HashSet<(NodeId, Lane)>,
    /// Replaced connections. Each ends when it has been idle for its time.
    worn: Vec<(NodeId, Arc<Connection>)>,
    closed: bool,
}

/// Pool of the dialled connections.
#[derive(Default)]
pub(super) struct Pool {
    slots: Mutex<PoolSlots>,
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
    ) -> Result<Arc<Connection>, NetError> {
        loop {
            let (dialled, dial) = match shared.pool.slot(shared, node, addr, lane)? {
                PoolSlot::Open(connection) => return Ok(connection),
                PoolSlot::Dialling { addr, dial } => (addr, dial),
            };
            match outcome(dial, progress).await {
                // Another address was tried, and failed: ours is still to be tried.
                Err(_) if dialled != addr => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns the nodes with connections.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let slots = self.slots.lock();
        let worn = slots.worn.iter().map(|(node, _)| *node);
        slots
            .slots
            .keys()
            .map(|(node, _)| *node)
            .chain(worn)
            .collect()
    }

    /// Returns the connection to `node` if one is open and need not be replaced.
    pub(super) fn open(&self, node: NodeId, lane: Lane) -> Option<Arc<Connection>> {
        let (slots, key) = (self.slots.lock(), (node, lane));
        match slots.slots.get(&key) {
            Some(PoolSlot::Open(connection))
                if connection.is_open() && !slots.is_to_be_renewed(&key, connection) =>
            {
                Some(Arc::clone(connection))
            }
            _ => None,
        }
    }

    /// Returns the slot of a node, and begins a dial if there is none.
    fn slot(
        &self,
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<PoolSlot, NetError> {
        let (slot, gave_way) = self.slot_and_who_gave_way(shared, node, addr, lane)?;
        // not under the lock: the callbacks of its requests run at once, and may ask elsewhere
        gave_way.iter().for_each(close);
        Ok(slot)
    }

    fn slot_and_who_gave_way(
        &self,
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<(PoolSlot, Option<PoolSlot>), NetError> {
        let mut slots = self.slots.lock();
        if slots.closed {
            return Err(NetError::Closed);
        }
        match slots.slots.get(&(node, lane)).cloned() {
            Some(PoolSlot::Open(connection)) if !connection.is_open() => {}
            Some(PoolSlot::Open(connection))
                if slots.is_to_be_renewed(&(node, lane), &connection) =>
            {
                slots.renewed.insert((node, lane));
                tokio::spawn(renew(Arc::clone(shared), node, addr, lane));
                return Ok((PoolSlot::Open(connection), None));
            }
            Some(PoolSlot::Dialling { dial, .. }) if dial.has_changed().is_err() => {}
            Some(slot) => return Ok((slot, None)),
            None => {}
        }
        let gave_way = slots.make_room(shared.limits.dialled)?;
        let (tell, seen) = watch::channel(DialState::Begun);
        let slot = PoolSlot::Dialling { addr, dial: seen };
        slots.slots.insert((node, lane), slot.clone());
        // a separate task: the first asker may give up while the others still wait
        tokio::spawn(dial(Arc::clone(shared), node, addr, lane, tell));
        Ok((slot, gave_way))
    }

    /// Stores the result of a dial before it is reported.
    fn settle(&self, key: (NodeId, Lane), dialled: &Dialled) {
        let mut slots = self.slots.lock();
        match dialled {
            Ok(connection) if slots.closed => connection.close(),
            Ok(connection) => {
                slots
                    .slots
                    .insert(key, PoolSlot::Open(Arc::clone(connection)));
            }
            Err(_) => {
                slots.slots.remove(&key);
            }
        }
    }

    /// Replaces a connection with worn keys.
    fn succeed(&self, key: (NodeId, Lane), renewed: Arc<Connection>) {
        let mut slots = self.slots.lock();
        slots.renewed.remove(&key);
        slots.worn.retain(|(_, connection)| connection.is_open());
        match slots.slots.get(&key).cloned() {
            _ if slots.closed => renewed.close(),
            // a connection dialled meanwhile is as new
            Some(PoolSlot::Dialling { .. }) => renewed.close(),
            Some(PoolSlot::Open(worn)) => {
                slots.worn.push((key.0, worn));
                slots.slots.insert(key, PoolSlot::Open(renewed));
            }
            None => drop(slots.slots.insert(key, PoolSlot::Open(renewed))),
        }
    }

    /// Ends the connections to a node. Returns how many.
    pub(super) fn close_peer(&self, node: NodeId) -> usize {
        let of_node = |key: &(NodeId, Lane), slot: &mut PoolSlot| {
            key.0 == node && matches!(slot, PoolSlot::Open(_))
        };
        let (closed, worn): (Vec<_>, Vec<_>) = {
            let mut slots = self.slots.lock();
            let closed = slots.slots.extract_if(of_node).collect();
            (
                closed,
                slots.worn.extract_if(.., |(of, _)| *of == node).collect(),
            )
        };
        // not under the lock: the callbacks of their requests run at once, and may ask elsewhere
        closed.iter().for_each(|(_, slot)| close(slot));
        worn.iter().for_each(|(_, connection)| connection.close());
        closed.len() + worn.len()
    }

    /// Ends all connections and accepts no more.
    pub(super) fn close(&self) {
        let (closed, worn): (Vec<_>, _) = {
            let mut slots = self.slots.lock();
            slots.closed = true;
            let closed = slots.slots.drain().collect();
            (closed, std::mem::take(&mut slots.worn))
        };
        closed.iter().for_each(|(_, slot)| close(slot));
        worn.iter().for_each(|(_, connection)| connection.close());
    }
}

impl PoolSlots {
    fn is_to_be_renewed(&self, key: &(NodeId, Lane), connection: &Connection) -> bool {
        connection.wear().is_worn() && !self.renewed.contains(key)
    }

    /// Makes room for a connection: forgets closed ones, and at the limit removes the one that was
    /// idle longest, which the caller ends.
    fn make_room(&mut self, limit: usize) -> Result<Option<PoolSlot>, NetError> {
        if self.slots.len() < limit {
            return Ok(None);
        }
        self.slots.retain(|_, slot| match slot {
            PoolSlot::Open(connection) => connection.is_open(),
            PoolSlot::Dialling { dial, .. } => dial.has_changed().is_ok(),
        });
        if self.slots.len() < limit {
            return Ok(None);
        }
        let idle = self.slots.iter().filter_map(|(key, slot)| match slot {
            PoolSlot::Open(connection) => connection.idle_since().map(|since| (since, *key)),
            PoolSlot::Dialling { .. } => None,
        });
        let (_, longest) = idle
            .min_by_key(|(since, _)| *since)
            .ok_or(NetError::TooManyConnections)?;
        Ok(self.slots.remove(&longest))
    }
}

fn close(slot: &PoolSlot) {
    if let PoolSlot::Open(connection) = slot {
        connection.close();
    }
}

/// Waits for the end of a dial.
async fn outcome(mut dial: watch::Receiver<DialState>, progress: Option<&Progress>) -> Dialled {
    loop {
        dial.changed().await.map_err(|_| NetError::Closed)?;
        let over = match &*dial.borrow_and_update() {
            DialState::Begun => continue,
            DialState::GetsOn => None,
            DialState::Over(Err(error)) => return Err(error.clone()),
            DialState::Over(Ok(connection)) => Some(Arc::clone(connection)),
        };
        if let Some(progress) = progress {
            progress.report_work();
        }
        if let Some(connection) = over {
            return Ok(connection);
        }
    }
}

async fn dial(
    shared: Arc<Shared>,
    node: NodeId,
    addr: SocketAddr,
    lane: Lane,
    tell: watch::Sender<DialState>,
) {
    let gets_on = || drop(tell.send_replace(DialState::GetsOn));
    let dialled = dialled(&shared, node, addr, lane, gets_on).await;
    shared.pool.settle((node, lane), &dialled);
    tell.send_replace(DialState::Over(dialled));
}

/// Dials a replacement for a connection with worn keys.
async fn renew(shared: Arc<Shared>, node: NodeId, addr: SocketAddr, lane: Lane) {
    if let Ok(renewed) = dialled(&shared, node, addr, lane, || ()).await {
        return shared.pool.succeed((node, lane), renewed);
    }
    sleep(shared.limits.renew_again).await;
    shared.pool.slots.lock().renewed.remove(&(node, lane));
}

async fn dialled(
    shared: &Arc<Shared>,
    node: NodeId,
    addr: SocketAddr,
    lane: Lane,
    gets_on: impl Fn(),
) -> Dialled {
    let dialled = Connection::open(shared, node, addr, lane, gets_on).await;
    match &dialled {
        Ok(_) => shared.counters.lock().dialled += 1,
        Err(error) => tracing::debug!(%node, %addr, %error, "cannot dial"),
    }
    dialled.map(Arc::new)
}
