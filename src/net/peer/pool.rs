//! The connections that we dialled, kept warm: one for each node and lane, dialled once however
//! many ask for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Shared;
use super::counters::Counters;
use super::dial::Connection;
use crate::id::NodeId;
use crate::net::NetError;
use crate::wire::native::tcp::Lane;

type Dialled = Option<Result<Arc<Connection>, NetError>>;

#[derive(Debug)]
enum Slot {
    Open(Arc<Connection>),
    Dialling {
        addr: SocketAddr,
        result: watch::Receiver<Dialled>,
    },
}

#[derive(Debug, Default)]
struct Slots {
    slots: HashMap<(NodeId, Lane), Slot>,
    closed: bool,
}

/// The connections that we dialled.
#[derive(Debug, Default)]
pub(super) struct Pool {
    slots: Mutex<Slots>,
}

enum Step {
    Use(Arc<Connection>),
    Wait {
        addr: SocketAddr,
        result: watch::Receiver<Dialled>,
    },
}

impl Pool {
    /// The connection to `node`, dialled at `addr` where there is none yet.
    pub(super) async fn get(
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<Arc<Connection>, NetError> {
        loop {
            let (dialled, mut result) = match shared.pool.step(shared, node, addr, lane)? {
                Step::Use(connection) => return Ok(connection),
                Step::Wait { addr, result } => (addr, result),
            };
            let done = result.wait_for(Option::is_some).await;
            let done = done.map_err(|_| NetError::Closed)?.clone();
            match done {
                Some(Ok(connection)) => return Ok(connection),
                // Another address was tried, and failed: ours is still to be tried.
                Some(Err(_)) if dialled != addr => {}
                Some(Err(error)) => return Err(error),
                None => return Err(NetError::Closed),
            }
        }
    }

    /// To whom there are connections.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.slots
            .lock()
            .slots
            .keys()
            .map(|(node, _)| *node)
            .collect()
    }

    /// The connection to `node`, where one is open.
    pub(super) fn open(&self, node: NodeId, lane: Lane) -> Option<Arc<Connection>> {
        match self.slots.lock().slots.get(&(node, lane)) {
            Some(Slot::Open(connection)) if connection.is_open() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    fn step(
        &self,
        shared: &Arc<Shared>,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<Step, NetError> {
        let mut slots = self.slots.lock();
        if slots.closed {
            return Err(NetError::Closed);
        }
        match slots.slots.get(&(node, lane)) {
            Some(Slot::Open(connection)) if connection.is_open() => {
                return Ok(Step::Use(Arc::clone(connection)));
            }
            Some(Slot::Dialling { addr, result }) if result.has_changed().is_ok() => {
                return Ok(Step::Wait {
                    addr: *addr,
                    result: result.clone(),
                });
            }
            _ => {}
        }
        slots.make_room(shared.limits.dialled)?;
        let (done, result) = watch::channel(None);
        let slot = Slot::Dialling {
            addr,
            result: result.clone(),
        };
        slots.slots.insert((node, lane), slot);
        // A task of its own: who asked first may give up, the others still wait.
        tokio::spawn(dial(Arc::clone(shared), node, addr, lane, done));
        Ok(Step::Wait { addr, result })
    }

    /// Puts the outcome of a dial in its place, before anybody is told.
    fn settle(&self, key: (NodeId, Lane), dialled: &Result<Arc<Connection>, NetError>) {
        let mut slots = self.slots.lock();
        match dialled {
            Ok(connection) if slots.closed => connection.close(),
            Ok(connection) => {
                slots.slots.insert(key, Slot::Open(Arc::clone(connection)));
            }
            Err(_) => {
                slots.slots.remove(&key);
            }
        }
    }

    /// Ends the connections to a node; says how many.
    pub(super) fn close_peer(&self, node: NodeId) -> usize {
        let of_node =
            |key: &(NodeId, Lane), slot: &mut Slot| key.0 == node && matches!(slot, Slot::Open(_));
        let closed: Vec<_> = self.slots.lock().slots.extract_if(of_node).collect();
        // not under the lock: whoever waits on them is told at once, and may ask elsewhere
        closed.iter().for_each(|(_, slot)| close(slot));
        closed.len()
    }

    /// Ends all connections and takes no more.
    pub(super) fn close(&self) {
        let closed: Vec<_> = {
            let mut slots = self.slots.lock();
            slots.closed = true;
            slots.slots.drain().collect()
        };
        closed.iter().for_each(|(_, slot)| close(slot));
    }
}

impl Slots {
    /// Forgets what is closed; at the limit, ends the connection that was idle longest.
    fn make_room(&mut self, limit: usize) -> Result<(), NetError> {
        if self.slots.len() < limit {
            return Ok(());
        }
        self.slots.retain(|_, slot| match slot {
            Slot::Open(connection) => connection.is_open(),
            Slot::Dialling { result, .. } => result.has_changed().is_ok(),
        });
        if self.slots.len() < limit {
            return Ok(());
        }
        let idle = self.slots.iter().filter_map(|(key, slot)| match slot {
            Slot::Open(connection) => connection.idle_since().map(|since| (since, *key)),
            Slot::Dialling { .. } => None,
        });
        let (_, longest) = idle
            .min_by_key(|(since, _)| *since)
            .ok_or(NetError::TooManyConnections)?;
        self.slots.remove(&longest).iter().for_each(close);
        Ok(())
    }
}

fn close(slot: &Slot) {
    if let Slot::Open(connection) = slot {
        connection.close();
    }
}

async fn dial(
    shared: Arc<Shared>,
    node: NodeId,
    addr: SocketAddr,
    lane: Lane,
    done: watch::Sender<Dialled>,
) {
    let dialled = Connection::open(&shared, node, addr, lane)
        .await
        .map(Arc::new);
    match &dialled {
        Ok(_) => Counters::add(&shared.counters.dialled),
        Err(error) => tracing::debug!(%node, %addr, %error, "cannot dial"),
    }
    shared.pool.settle((node, lane), &dialled);
    done.send_replace(Some(dialled));
}
