//! The plane of the discovery protocol, beside the native plane. [`Legacy`] is its handle for the
//! rest of the node.
//!
//! It has the task that drives [`LegacyMachine`](crate::discovery::LegacyMachine) (`run`), the
//! files offered to legacy peers (`offered`) and their transfer (`serve`), the reports about
//! refused names (`refusals`), the files fetched from legacy peers (`files`, `incoming`, `copy`,
//! `window`), and the access of the mount to these (`mount`, `absent`). Files of legacy peers have
//! no hash and are kept apart from all verified files. The plane exists only if it is turned on.

mod absent;
mod copy;
mod error;
pub mod files;
mod incoming;
mod mount;
mod offered;
pub mod refusals;
mod run;
mod serve;
mod window;

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::discovery::Absence;
use crate::wire::discovery::{MemberName, NameError};
use p2pfs_catalogue::Change;
use p2pfs_content::OpenVersions;

pub use crate::discovery::{LegacyMember, Patience, Requester};
pub use crate::wire::discovery::{Name, printable};
use absent::AbsentNames;
pub use copy::RemoteCopy;
pub use error::CopyError;
pub use files::{COPY_AGE, RemoteFile, RemoteFiles, WINDOWS_MAX};
pub use incoming::ThrottledTransfer;
use refusals::RefusalLog;
pub(super) use run::start;
pub use window::RemoteBytes;

/// Maximum number of datagrams queued for the plane. Further ones are dropped, as the network would
/// do.
pub const DATAGRAMS_MAX: usize = 256;
/// Maximum number of batches of changes queued for the plane. If a batch finds no room, the index
/// of offered files is rebuilt.
const CHANGES_MAX: usize = 64;
/// Maximum number of queued commands.
const COMMANDS_MAX: usize = 256;
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

enum LegacyCommand {
    Ask {
        name: Name,
        requester: Requester,
        except: Vec<SocketAddrV4>,
        reply: oneshot::Sender<LookupResult>,
    },
    Members(oneshot::Sender<Vec<LegacyMember>>),
}

/// Handle of the plane for the rest of the node. Clones share their state.
#[derive(Clone)]
pub struct Legacy {
    commands: mpsc::Sender<LegacyCommand>,
    files: RemoteFiles,
    runtime: tokio::runtime::Handle,
    refusals: RefusalLog,
    shared: Arc<PlaneState>,
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
        let command = LegacyCommand::Ask {
            name,
            requester,
            except: except.to_vec(),
            reply,
        };
        let stopping = |_| LegacyAbsence::Stopping;
        self.commands
            .send(command)
            .await
            .map_err(|_| LegacyAbsence::Stopping)?;
        answer.await.map_err(stopping)?
    }

    /// Returns the members and the addresses that broke the rules; empty if the node is stopping.
    pub async fn members(&self) -> Vec<LegacyMember> {
        let (reply, answer) = oneshot::channel();
        match self.commands.send(LegacyCommand::Members(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Returns how many datagrams were dropped, before the plane's queue and by its state machine.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Warns, once for each name, that legacy peers are not asked for the name.
    pub fn refuse(&self, name: &[u8], why: NameError) {
        self.refusals.warn_not_asked(name, why);
    }

    /// Returns the known files of legacy peers.
    pub fn files(&self) -> &RemoteFiles {
        &self.files
    }
}

/// State of the plane that its handles read.
#[derive(Debug, Default)]
struct PlaneState {
    /// Datagrams that found no room in the queue of the plane.
    unqueued: AtomicU64,
    /// [`LegacyCounters::dropped`](crate::discovery::LegacyCounters::dropped) of the state machine.
    of_machine: AtomicU64,
    /// Whether a legacy peer is known that can be asked.
    has_peers: AtomicBool,
}

impl PlaneState {
    /// Returns the number of dropped datagrams.
    fn dropped(&self) -> u64 {
        self.unqueued.load(Ordering::Relaxed) + self.of_machine.load(Ordering::Relaxed)
    }
}

/// The inlet through which the node passes received datagrams, and changes of the namespace, to the
/// plane. Its methods never block.
#[derive(Clone)]
pub(crate) struct LegacyInlet {
    datagrams: mpsc::Sender<(SocketAddr, Bytes)>,
    changes: mpsc::Sender<Vec<Change>>,
    missed: Arc<AtomicBool>,
    shared: Arc<PlaneState>,
}

impl LegacyInlet {
    /// Queues a datagram for the plane. Drops and counts it if there is no room.
    pub(crate) fn datagram(&self, from: SocketAddr, datagram: &[u8]) {
        let queued = self
            .datagrams
            .try_send((from, Bytes::copy_from_slice(datagram)));
        if queued.is_err() {
            self.shared.unqueued.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn changed(&self, changes: &[Change]) {
        if !changes.is_empty() && self.changes.try_send(changes.to_vec()).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_without_room_in_the_queue_is_counted_as_dropped() {
        let (datagrams, mut queue) = mpsc::channel(1);
        let shared = Arc::<PlaneState>::default();
        shared.of_machine.store(5, Ordering::Relaxed);
        let inlet = LegacyInlet {
            datagrams,
            changes: mpsc::channel(1).0,
            missed: Arc::default(),
            shared: shared.clone(),
        };
        let from = SocketAddr::from(([127, 0, 0, 1], 1378));
        inlet.datagram(from, b"queued");
        assert_eq!(shared.dropped(), 5);
        inlet.datagram(from, b"too many");
        assert_eq!(shared.dropped(), 6);
        assert_eq!(queue.try_recv().unwrap().1, Bytes::from_static(b"queued"));
    }
}
