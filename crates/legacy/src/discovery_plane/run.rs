//! The task that drives the state machine of the discovery protocol.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::absent::AbsentNames;
use super::error::{CopyError, offence};
use super::files::FailedTransfer;
use super::offered::OfferedFiles;
use super::{
    CHANGES_MAX, COMMANDS_MAX, CONNECTIONS_MAX, DATAGRAMS_MAX, Legacy, LegacyAbsence,
    LegacyCommand, LegacyInlet, LegacySettings, LookupResult, PlaneState, RefusalLog, RemoteFile,
    RemoteFiles, ThrottledTransfer, serve,
};
use crate::discovery::{
    ASKS_MAX, Absence, LegacyConfig, LegacyEvent, LegacyMachine, Patience, Requester,
};
use crate::net::discovery::{Admission, LegacyError};
use crate::wire::discovery::{MemberName, Name};
use p2pfs_catalogue::Change;
use p2pfs_content::ContentOpener;
use p2pfs_node::{EventLog, ForeignHost, Outdated};
use p2pfs_node::{ForeignThrottle, resolve_host};
use p2pfs_transfer::net::gossip::UdpPort;
use p2pfs_transfer::net::is_own;
use p2pfs_types::path::SharedPath;

/// Maximum number of queued results of transfers and name resolutions.
const OUTCOMES_MAX: usize = 256;
/// Maximum number of datagrams handled in one round of the task.
const BATCH: usize = 64;
/// If no lookup has failed for this long because too many were running, the next such failure is
/// reported again.
const BUSY_PAUSE: Duration = Duration::from_secs(30);

enum LegacyOutcome {
    Tried {
        name: Name,
        peer: SocketAddrV4,
        at: SocketAddrV4,
        result: Result<ThrottledTransfer, LegacyError>,
    },
    Resolved(MemberName, Option<SocketAddrV4>),
    Indexed {
        /// Whether the index is complete.
        is_whole: bool,
    },
}

struct LookupWaiter {
    patience: Patience,
    reply: oneshot::Sender<LookupResult>,
}

struct LegacyPlane {
    machine: LegacyMachine,
    shared: Arc<PlaneState>,
    udp: UdpPort,
    files: RemoteFiles,
    opener: ContentOpener,
    given: ForeignThrottle,
    events: EventLog,
    door: Admission,
    lookups: RunningLookups,
    outcomes: mpsc::Sender<LegacyOutcome>,
    indexing: OfferedIndexing,
    changes: mpsc::Sender<Outdated>,
}

/// The lookups that run, with their waiting requesters.
#[derive(Default)]
struct RunningLookups {
    waiters: HashMap<Name, Vec<LookupWaiter>>,
    /// When a lookup last failed with [`Absence::Busy`].
    busy_at: Option<Instant>,
}

/// The offered files, and the state of their index.
struct OfferedIndexing {
    offered: Arc<OfferedFiles>,
    missed: Arc<AtomicBool>,
    is_indexing: bool,
}

struct LegacyQueues {
    datagrams: mpsc::Receiver<(SocketAddr, Bytes)>,
    changes: mpsc::Receiver<Vec<Change>>,
    connections: mpsc::Receiver<(TcpStream, SocketAddr)>,
    commands: mpsc::Receiver<LegacyCommand>,
    outcomes: mpsc::Receiver<LegacyOutcome>,
    failures: mpsc::Receiver<FailedTransfer>,
}

/// Starts the plane, which ends with the node. `own` is the address of this node, and `files` keeps
/// the copies.
pub(crate) fn start(
    settings: LegacySettings,
    own: SocketAddrV4,
    files: RemoteFiles,
    host: ForeignHost,
) -> (Legacy, LegacyInlet) {
    let (datagrams, datagram_queue) = mpsc::channel(DATAGRAMS_MAX);
    let (changes, change_queue) = mpsc::channel(CHANGES_MAX);
    let (connections, connection_queue) = mpsc::channel(CONNECTIONS_MAX);
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (outcomes, outcome_queue) = mpsc::channel(OUTCOMES_MAX);
    let failures = files.take_failures();
    let refusals = RefusalLog::new(host.events.clone());
    host.net.set_foreign_plane(Some(connections));
    let stopped = host.stopped();
    let legacy = Legacy {
        commands,
        files: files.clone(),
        runtime: tokio::runtime::Handle::current(),
        refusals: refusals.clone(),
        shared: Arc::default(),
        lookup: settings.lookup,
        read_deadline: host.reads.deadline,
        open_versions: host.reads.opener.open_versions().clone(),
        absent: AbsentNames::default(),
    };
    let inlet = LegacyInlet {
        datagrams,
        changes,
        missed: Arc::new(AtomicBool::new(true)),
        shared: legacy.shared.clone(),
    };
    let bound = host.net.local_addr();
    let is_ours = move |at| at == own || is_own(bound, at);
    let offered = OfferedFiles::new(host.me, settings.bridge, host.offers, refusals);
    let config = machine_config(own, settings);
    let machine = LegacyMachine::new(config, Box::new(is_ours), Instant::now());
    // The mount may ask before the plane runs.
    let has_peers = machine.has_peers();
    legacy.shared.has_peers.store(has_peers, Ordering::Relaxed);
    let plane = LegacyPlane {
        machine,
        shared: legacy.shared.clone(),
        udp: host.udp,
        files,
        opener: host.reads.opener,
        given: host.traffic.given,
        events: host.events,
        door: Admission::default(),
        lookups: RunningLookups::default(),
        outcomes,
        indexing: OfferedIndexing {
            offered: Arc::new(offered),
            missed: inlet.missed.clone(),
            is_indexing: false,
        },
        changes: host.changes,
    };
    let queues = LegacyQueues {
        datagrams: datagram_queue,
        changes: change_queue,
        connections: connection_queue,
        commands: command_queue,
        outcomes: outcome_queue,
        failures: failures.unwrap_or_else(|| mpsc::channel(1).1),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = plane.run(queues) => {}
            () = stopped => {}
        }
    });
    (legacy, inlet)
}

fn machine_config(own: SocketAddrV4, settings: LegacySettings) -> LegacyConfig {
    LegacyConfig {
        own,
        members: settings.members,
        period: settings.period,
        waiting: settings.waiting,
        lookup: settings.lookup,
        responder_delay: settings.responder_delay,
    }
}

/// Waits until the given time, or forever if there is none.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl LegacyPlane {
    async fn run(mut self, mut queues: LegacyQueues) {
        loop {
            self.index_anew();
            self.settle();
            let dropped = self.machine.counters().dropped();
            self.shared.of_machine.store(dropped, Ordering::Relaxed);
            let has_peers = self.machine.has_peers();
            self.shared.has_peers.store(has_peers, Ordering::Relaxed);
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                datagram = queues.datagrams.recv() => match datagram {
                    Some(first) => self.handle_datagrams(first, &mut queues.datagrams),
                    None => return,
                },
                Some(changes) = queues.changes.recv() => {
                    if !self.indexing.offered.apply_changes(&changes) {
                        self.indexing.missed.store(true, Ordering::Relaxed);
                    }
                    self.indexing.offered.warn_refused(&changes);
                }
                Some((stream, from)) = queues.connections.recv() => self.serve(stream, from),
                Some(outcome) = queues.outcomes.recv() => self.handle_outcome(outcome),
                Some(failed) = queues.failures.recv() => self.handle_failure(&failed),
                command = queues.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                () = sleep_until(timeout) => {
                    let offered = self.indexing.offered.clone();
                    self.machine
                        .handle_timeout(Instant::now(), &|name| offered.find(name).is_some());
                }
            }
        }
    }

    /// Rebuilds the index of offered files on a blocking thread if changes were missed.
    fn index_anew(&mut self) {
        if self.indexing.is_indexing || !self.indexing.missed.swap(false, Ordering::Relaxed) {
            return;
        }
        self.indexing.is_indexing = true;
        let (offered, outcomes) = (self.indexing.offered.clone(), self.outcomes.clone());
        tokio::task::spawn_blocking(move || {
            let is_whole = offered.index_all();
            let _stopping = outcomes.blocking_send(LegacyOutcome::Indexed { is_whole });
        });
    }

    fn handle_datagrams(
        &mut self,
        first: (SocketAddr, Bytes),
        more: &mut mpsc::Receiver<(SocketAddr, Bytes)>,
    ) {
        let offered = self.indexing.offered.clone();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some((from, datagram)) = next else { return };
            self.machine
                .handle_message(Instant::now(), from, &datagram, &|name| {
                    offered.find(name).is_some()
                });
            next = more.try_recv().ok();
        }
    }

    fn serve(&self, stream: TcpStream, from: SocketAddr) {
        // Without a free slot the connection is closed at once, which is a valid answer.
        let Some(place) = self.door.enter(from.ip()) else {
            return;
        };
        let (offered, opener) = (self.indexing.offered.clone(), self.opener.clone());
        tokio::spawn(serve::serve(
            (stream, from),
            place,
            offered,
            opener,
            self.given.clone(),
            self.events.clone(),
        ));
    }

    fn handle_command(&mut self, command: LegacyCommand) {
        match command {
            LegacyCommand::Members(reply) => {
                let _gone = reply.send(self.machine.members());
            }
            LegacyCommand::Ask {
                name,
                requester,
                except,
                reply,
            } => self.ask(name, requester, &except, reply),
        }
    }

    fn ask(
        &mut self,
        name: Name,
        requester: Requester,
        except: &[SocketAddrV4],
        reply: oneshot::Sender<LookupResult>,
    ) {
        let known = self.files.get(&name);
        if let Some(known) = known.filter(|file| !except.contains(&file.at)) {
            let _gone = reply.send(Ok(known));
            return;
        }
        match self.machine.ask(Instant::now(), &name, requester, except) {
            Ok(()) => {
                let waiters = self.lookups.waiters.entry(name).or_default();
                waiters.retain(|waiter| !waiter.reply.is_closed());
                let patience = requester.patience;
                waiters.push(LookupWaiter { patience, reply });
            }
            Err(absence) => {
                self.warn_if_busy(absence);
                let _gone = reply.send(Err(absence.into()));
            }
        }
    }

    fn handle_outcome(&mut self, outcome: LegacyOutcome) {
        let now = Instant::now();
        match outcome {
            LegacyOutcome::Indexed { is_whole } => {
                self.indexing.is_indexing = false;
                if !is_whole {
                    self.indexing.missed.store(true, Ordering::Relaxed);
                }
            }
            LegacyOutcome::Resolved(host, address) => {
                self.machine.handle_resolved(now, &host, address)
            }
            LegacyOutcome::Tried {
                name,
                peer,
                at,
                result,
            } => self.handle_tried(now, name, peer, at, result),
        }
    }

    fn handle_tried(
        &mut self,
        now: Instant,
        name: Name,
        peer: SocketAddrV4,
        at: SocketAddrV4,
        result: Result<ThrottledTransfer, LegacyError>,
    ) {
        self.machine.tried(now, &name, at, result.is_ok());
        let error = match result {
            Ok(transfer) => {
                let (file, evicted) = self.files.found(name.clone(), peer, transfer);
                let changed: Vec<Name> = evicted.into_iter().chain([name.clone()]).collect();
                self.announce_names(&changed);
                return self.reply_all(&name, &Ok(file));
            }
            Err(error) => error,
        };
        tracing::debug!(%name, %peer, "not got from a legacy peer: {error}");
        let Some(offence) = offence(&error) else {
            return;
        };
        self.machine.failed(now, &name, at);
        if self.machine.offended(now, peer, offence) {
            let why = CopyError::from(error);
            // Only the owner of the node sees it, because it names a file that a user reads.
            self.events
                .warn_owner(format!("{name} of the legacy peer {peer}: {why}"));
        }
    }

    /// Handles a failed open or transfer of a file. If the failure is the peer's, other responders
    /// are tried first for some time.
    fn handle_failure(&mut self, failed: &FailedTransfer) {
        let (now, file, error) = (Instant::now(), &failed.file, &failed.error);
        if error.is_the_peers() {
            self.machine.failed(now, &file.name, file.at);
            self.announce_names(std::slice::from_ref(&file.name));
        }
        let is_told = match error {
            CopyError::Refused | CopyError::Transfer { offence: None, .. } => false,
            CopyError::Transfer {
                offence: Some(offence),
                ..
            } => self.machine.offended(now, file.peer, *offence),
            CopyError::NoRoom { .. } | CopyError::Busy | CopyError::Disk(_) => {
                self.machine.may_tell(now)
            }
        };
        if is_told {
            let (name, peer) = (&file.name, file.peer);
            self.events
                .warn_owner(format!("{name} of the legacy peer {peer}: {error}"));
        }
    }

    /// Handles all events of the state machine and sends its datagrams.
    fn settle(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            self.handle_event(event);
        }
        while let Some((to, datagram)) = self.machine.poll_transmit() {
            self.udp.send(SocketAddr::V4(to), &datagram);
        }
    }

    fn handle_event(&mut self, event: LegacyEvent) {
        match event {
            LegacyEvent::Resolve(host) => self.resolve(host),
            LegacyEvent::Try { name, peer, at } => self.begin_transfer(name, peer, at),
            LegacyEvent::LookupOver(name) => {
                self.reply_to(&name, Some(Patience::Lookup), LegacyAbsence::NobodyHasIt);
            }
            LegacyEvent::LookupBusy(name) => {
                self.warn_if_busy(Absence::Busy);
                self.reply_to(&name, Some(Patience::Lookup), Absence::Busy.into());
            }
            LegacyEvent::AskOver(name) => self.reply_to(&name, None, LegacyAbsence::NobodyHasIt),
            LegacyEvent::Offended(peer, what) => {
                self.events.warn(format!("the legacy peer {peer} {what}"));
            }
            LegacyEvent::MemberUp(peer) => tracing::debug!(%peer, "a legacy peer is there"),
            LegacyEvent::MemberDown(peer) => {
                tracing::debug!(%peer, "a legacy peer is gone");
                let gone = self.files.forget_peer(peer);
                self.announce_names(&gone);
            }
        }
    }

    /// Reports to the node that these names appeared or disappeared. A lost report causes a stale
    /// listing, never a wrong file.
    fn announce_names(&self, names: &[Name]) {
        let root = SharedPath::root();
        let paths = names
            .iter()
            .filter_map(|name| root.join(name.as_bytes()).ok());
        let changes: Vec<Change> = paths.map(Change::Entry).collect();
        if !changes.is_empty() {
            let view = None;
            let _full = (self.changes).try_send(Outdated::Names { view, changes });
        }
    }

    fn resolve(&self, member: MemberName) {
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let address = match &member {
                MemberName::Address(address) => Some(*address),
                MemberName::Host { host, port } => ipv4_of(host, *port).await,
            };
            let _stopping = outcomes
                .send(LegacyOutcome::Resolved(member, address))
                .await;
        });
    }

    fn begin_transfer(&self, name: Name, peer: SocketAddrV4, at: SocketAddrV4) {
        let (files, outcomes) = (self.files.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            let result = files.begin(at, &name).await;
            let outcome = LegacyOutcome::Tried {
                name,
                peer,
                at,
                result,
            };
            let _stopping = outcomes.send(outcome).await;
        });
    }

    fn reply_all(&mut self, name: &Name, found: &Result<Arc<RemoteFile>, LegacyAbsence>) {
        for waiter in self.lookups.waiters.remove(name).into_iter().flatten() {
            let _gone = waiter.reply.send(found.clone());
        }
    }

    /// Replies with the error to the waiters for a name that have this patience, or to all if
    /// `patience` is `None`.
    fn reply_to(&mut self, name: &Name, patience: Option<Patience>, why: LegacyAbsence) {
        let waiters = self.lookups.waiters.remove(name).unwrap_or_default();
        let (over, still): (Vec<_>, Vec<_>) = waiters
            .into_iter()
            .partition(|waiter| patience.is_none_or(|patience| waiter.patience == patience));
        if !still.is_empty() {
            self.lookups.waiters.insert(name.clone(), still);
        }
        for waiter in over {
            let _gone = waiter.reply.send(Err(why.clone()));
        }
    }

    /// Warns that lookups fail because too many are running, once until [`BUSY_PAUSE`] passes
    /// without such a failure.
    fn warn_if_busy(&mut self, why: Absence) {
        if why != Absence::Busy {
            return;
        }
        let now = Instant::now();
        let last = self.lookups.busy_at.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= BUSY_PAUSE) {
            let limit = ASKS_MAX;
            self.events.warn(format!(
                "names that may be legacy peers' are refused for now: only {limit} are looked for \
                 at a time, at most half of them for one user"
            ));
        }
    }
}

async fn ipv4_of(host: &str, port: u16) -> Option<SocketAddrV4> {
    let found = resolve_host(host, port).await.ok()?;
    found
        .into_iter()
        .filter_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        })
        .next()
}
