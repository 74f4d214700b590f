//! The plane of the discovery protocol, beside the native plane. [`Legacy`] is its handle for the
//! rest of the node.
//!
//! It has the task that drives [`LegacyMachine`](crate::discovery::LegacyMachine) (`run`), the
//! connections (`tcp`), the files offered to legacy peers (`offered`) and their transfer (`serve`),
//! the reports about refused names (`refusals`), the files fetched from legacy peers (`files`), and
//! the access of the mount to these (`mount`). Files of legacy peers have no hash and are kept apart
//! from all verified files. The plane exists only if it is turned on.

pub mod files;
mod mount;
mod offered;
pub mod refusals;
mod run;
mod serve;
pub mod tcp;

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::discovery::{Absence, AbsentNames};
use crate::wire::discovery::{MemberName, NameError};
use p2pfs_catalogue::Change;
use p2pfs_content::OpenVersions;

pub use crate::discovery::{LegacyMember, Patience, Requester};
pub use crate::wire::discovery::{Name, printable};
pub use files::{RemoteCopy, RemoteFile, RemoteFiles};
use offered::OfferedFiles;
use refusals::RefusalLog;
use run::PlaneQueue;
pub(super) use run::start;
pub use tcp::{CopyError, Transfer};

/// Maximum number of datagrams queued for the plane. Further ones are dropped, as the network would
/// do.
pub const DATAGRAMS_MAX: usize = 256;
/// Maximum number of connections queued to be served. Further ones are closed.
pub const CONNECTIONS_MAX: usize = 64;

/// Settings of the plane; see `[legacy]` in the configuration.
#[derive(Clone, Debug)]
pub struct LegacySettings {
    /// The initial members.
    pub members: Vec<MemberName>,
    /// Interval at which the member list is sent.
    pub period: Duration,
    /// How long a question stays open.
    pub waiting: Duration,
    /// How long the lookup of a program waits for an answer.
    pub lookup: Duration,
    /// Delay of this node's answer to a peer that was never the first to answer a question of this
    /// node.
    pub responder_delay: Duration,
    /// Whether files of other native nodes are offered.
    pub bridge: bool,
}

/// Why no legacy peer delivers a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyAbsence {
    /// No peer was asked or, with [`Absence::Busy`], the result is unknown.
    #[error(transparent)]
    NotAsked(#[from] Absence),
    /// No peer delivered the file in time.
    #[error("no legacy peer has it")]
    NobodyHasIt,
    /// The plane has ended.
    #[error("the node is stopping")]
    Stopping,
}

/// The result of a question.
pub type LookupResult = Result<Arc<RemoteFile>, LegacyAbsence>;

/// Handle of the plane for the rest of the node. Clones share their state.
#[derive(Clone)]
pub struct Legacy {
    queue: PlaneQueue,
    files: RemoteFiles,
    offered: Arc<OfferedFiles>,
    runtime: tokio::runtime::Handle,
    refusals: RefusalLog,
    state: Arc<PlaneState>,
    /// How long a program waits for the answer to a lookup.
    lookup: Duration,
    /// How long a read waits without progress.
    read_deadline: Duration,
    open_versions: OpenVersions,
    absent: AbsentNames,
}

impl Legacy {
    /// Asks the legacy peers for a file. Returns a known file at once. Skips files that are served
    /// at an address in `except`. If the future is dropped, the question stays open, so that the
    /// next call may find the file.
    ///
    /// # Errors
    /// [`LegacyAbsence`].
    pub async fn find(
        &self,
        name: Name,
        requester: Requester,
        except: &[SocketAddrV4],
    ) -> LookupResult {
        let (reply, answer) = oneshot::channel();
        let except = except.to_vec();
        self.queue
            .call(move |plane| plane.ask(name, requester, &except, reply))
            .await;
        answer.await.map_err(|_| LegacyAbsence::Stopping)?
    }

    /// Returns the members and the addresses that broke the rules; empty if the node is stopping.
    pub async fn members(&self) -> Vec<LegacyMember> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .call(|plane| {
                let _gone = reply.send(plane.members());
            })
            .await;
        answer.await.unwrap_or_default()
    }

    /// Returns how many datagrams were dropped, before the plane's queue and by its state machine.
    pub fn dropped(&self) -> u64 {
        self.state.dropped()
    }

    /// Warns, once for each name, that legacy peers are not asked for the name.
    pub fn refuse(&self, name: &[u8], why: NameError) {
        self.refusals.warn_not_asked(name, why);
    }

    /// Returns the known files of legacy peers.
    pub fn files(&self) -> &RemoteFiles {
        &self.files
    }

    /// Queues a datagram for the plane. Drops and counts it if there is no room.
    pub(crate) fn queue_datagram(&self, from: SocketAddr, datagram: &[u8]) {
        self.state.queue_datagram(from, datagram);
    }

    /// Queues changes of the namespace for the plane. If there is no room, the index of offered
    /// files is rebuilt.
    pub(crate) fn namespace_changed(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let changes = changes.to_vec();
        let offered = self.offered.clone();
        if !self
            .queue
            .try_call(move |_| offered.apply_changes(&changes))
        {
            self.offered.index_anew();
        }
    }
}

/// State of the plane that its handles share with its task.
#[derive(Debug)]
struct PlaneState {
    datagrams: mpsc::Sender<(SocketAddr, Bytes)>,
    /// Datagrams that found no room in the queue of the plane.
    unqueued: AtomicU64,
    /// [`LegacyCounters::dropped`](crate::discovery::LegacyCounters::dropped) of the state machine.
    of_machine: AtomicU64,
    /// Whether a legacy peer is known that can be asked.
    has_peers: AtomicBool,
}

impl PlaneState {
    fn new(datagrams: mpsc::Sender<(SocketAddr, Bytes)>) -> Self {
        Self {
            datagrams,
            unqueued: AtomicU64::new(0),
            of_machine: AtomicU64::new(0),
            has_peers: AtomicBool::new(false),
        }
    }

    fn queue_datagram(&self, from: SocketAddr, datagram: &[u8]) {
        let datagram = Bytes::copy_from_slice(datagram);
        if self.datagrams.try_send((from, datagram)).is_err() {
            self.unqueued.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of dropped datagrams.
    fn dropped(&self) -> u64 {
        self.unqueued.load(Ordering::Relaxed) + self.of_machine.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_without_room_in_the_queue_is_counted_as_dropped() {
        let (datagrams, mut queue) = mpsc::channel(1);
        let state = PlaneState::new(datagrams);
        state.of_machine.store(5, Ordering::Relaxed);
        let from = SocketAddr::from(([127, 0, 0, 1], 1378));
        state.queue_datagram(from, b"queued");
        assert_eq!(state.dropped(), 5);
        state.queue_datagram(from, b"too many");
        assert_eq!(state.dropped(), 6);
        assert_eq!(queue.try_recv().unwrap().1, Bytes::from_static(b"queued"));
    }
}
