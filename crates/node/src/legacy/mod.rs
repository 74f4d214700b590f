//! The legacy peers beside the native plane: their state machine, fed and obeyed.
//!
//! Owns the task that drives [`p2pfs_legacy::discovery::LegacyMachine`], what is offered to legacy peers
//! (`offered`), the serving of it (`serve`), what is refused and told (`refusals`), and the files
//! that came from them (`files`, `incoming`, `copy`, `window`), which have no hash and stay apart
//! from all verified ones. Present only where the plane is turned on.

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

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use p2pfs_catalogue::Change;
use p2pfs_legacy::discovery::Absence;
use p2pfs_legacy::wire::discovery::{MemberName, NameError};

pub use copy::RemoteCopy;
pub use error::CopyError;
pub use files::{COPY_AGE, RemoteFile, RemoteFiles, WINDOWS_MAX};
pub use incoming::Incoming;
pub(super) use mount::LEGACY_READ;
pub(super) use offered::Sources;
pub use p2pfs_legacy::discovery::{LegacyMember, Patience};
pub use p2pfs_legacy::wire::discovery::{Name, printable};
use refusals::Refusals;
pub(super) use run::{LegacyParts, start};
pub use window::RemoteBytes;

/// Datagrams that wait for the plane; further ones are dropped, as the network would.
pub const DATAGRAMS_MAX: usize = 256;
/// Batches of changes that wait for the plane; beyond it the index is made anew.
const CHANGES_MAX: usize = 64;
/// Commands that wait.
const COMMANDS_MAX: usize = 256;
/// Connections that wait to be served; further ones are closed.
pub const CONNECTIONS_MAX: usize = 64;

/// How the plane is set; see `[legacy]` in the configuration.
#[derive(Clone, Debug)]
pub struct LegacySettings {
    /// Members to begin with.
    pub members: Vec<MemberName>,
    /// How often the list is sent.
    pub period: Duration,
    /// How long a question is open.
    pub waiting: Duration,
    /// How long a lookup waits.
    pub lookup: Duration,
    /// How long strangers wait for an answer.
    pub responder_delay: Duration,
    /// Whether files of other native nodes are offered.
    pub bridge: bool,
}

/// Why a file could not be had from the legacy peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyAbsence {
    /// Nobody was asked.
    #[error(transparent)]
    NotAsked(#[from] Absence),
    /// Nobody had it in time.
    #[error("no legacy peer has it")]
    NobodyHasIt,
    /// The plane has ended.
    #[error("the node is stopping")]
    Stopping,
}

/// What a question comes to.
pub type Found = Result<Arc<RemoteFile>, LegacyAbsence>;

enum Command {
    Ask {
        name: Name,
        patience: Patience,
        except: Vec<SocketAddrV4>,
        reply: oneshot::Sender<Found>,
    },
    Members(oneshot::Sender<Vec<LegacyMember>>),
}

/// The plane, as the rest of the node holds it. Clones are the same plane.
#[derive(Clone)]
pub struct Legacy {
    commands: mpsc::Sender<Command>,
    files: RemoteFiles,
    runtime: tokio::runtime::Handle,
    refusals: Refusals,
    dropped: Arc<AtomicU64>,
    /// How long a program waits for the answer to a lookup.
    lookup: Duration,
    /// Names that nobody had, until when; the kernel's lookups are answered by it.
    absent: Arc<Mutex<HashMap<Name, Instant>>>,
}

impl Legacy {
    /// Asks the legacy peers for a file; one that is known already is given at once. Dropping the
    /// future asks no less, so that the next one finds the answer. What is served at `except` is
    /// passed over.
    ///
    /// # Errors
    /// [`LegacyAbsence`].
    pub async fn find(&self, name: Name, patience: Patience, except: &[SocketAddrV4]) -> Found {
        let (reply, answer) = oneshot::channel();
        let command = Command::Ask {
            name,
            patience,
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

    /// The members; empty where the node is stopping.
    pub async fn members(&self) -> Vec<LegacyMember> {
        let (reply, answer) = oneshot::channel();
        match self.commands.send(Command::Members(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// How many datagrams were of no use, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Says in the journal, once for a name, why legacy peers are not asked for it.
    pub fn refuse(&self, name: &[u8], why: NameError) {
        self.refusals.not_asked(name, why);
    }

    /// The files that legacy peers are known to have.
    pub fn files(&self) -> &RemoteFiles {
        &self.files
    }
}

/// Where the node's loop puts what concerns the plane; never blocks.
#[derive(Clone)]
pub(super) struct Inlet {
    datagrams: mpsc::Sender<(SocketAddr, Bytes)>,
    changes: mpsc::Sender<Vec<Change>>,
    missed: Arc<AtomicBool>,
}

impl Inlet {
    pub(super) fn datagram(&self, from: SocketAddr, datagram: &[u8]) {
        let _full_or_over = self
            .datagrams
            .try_send((from, Bytes::copy_from_slice(datagram)));
    }

    pub(super) fn changed(&self, changes: &[Change]) {
        if !changes.is_empty() && self.changes.try_send(changes.to_vec()).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}
