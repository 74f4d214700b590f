//! Pool of the dialled connections, which are kept open: one for each node and lane, dialled once
//! however many requests wait for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

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
    /// The other end has sent the first bytes of its handshake.
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
                // The dial that failed was to another address, so ours is still to be tried.
                Err(_) if dialled != addr => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns the nodes to which a connection is open or being dialled.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let slots = self.slots.lock();
        slots.slots.keys().map(|(node, _)| *node).collect()
    }

    /// Returns the connection to `node` if one is open.
    pub(super) fn open(&self, node: NodeId, lane: Lane) -> Option<Arc<Connection>> {
        match self.slots.lock().slots.get(&(node, lane)) {
            Some(PoolSlot::Open(connection)) if connection.is_open() => {
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
        // without the lock: the callbacks of the connection's requests run here, and may send
        // requests to other nodes
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
            Some(PoolSlot::Dialling { dial, .. }) if dial.has_changed().is_err() => {}
            Some(slot) => return Ok((slot, None)),
            None => {}
        }
        let gave_way = slots.make_room(shared.limits.connections.dialled)?;
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

    /// Ends the open connections to a node, not its dials. Returns how many.
    pub(super) fn close_peer(&self, node: NodeId) -> usize {
        let of_node = |key: &(NodeId, Lane), slot: &mut PoolSlot| {
            key.0 == node && matches!(slot, PoolSlot::Open(_))
        };
        let closed: Vec<_> = self.slots.lock().slots.extract_if(of_node).collect();
        // without the lock: the callbacks of the connections' requests run here, and may send
        // requests to other nodes
        closed.iter().for_each(|(_, slot)| close(slot));
        closed.len()
    }

    /// Ends all connections and accepts no more.
    pub(super) fn close(&self) {
        let closed: Vec<_> = {
            let mut slots = self.slots.lock();
            slots.closed = true;
            slots.slots.drain().collect()
        };
        closed.iter().for_each(|(_, slot)| close(slot));
    }
}

impl PoolSlots {
    /// Makes room for a connection. At the limit forgets closed ones. If none is closed, removes
    /// the one that was idle longest, which the caller ends.
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
