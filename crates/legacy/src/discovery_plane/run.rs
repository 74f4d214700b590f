//! The task that drives the state machine of the discovery protocol.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::offered::OfferedFiles;
use super::serve::FileServer;
use super::tcp::{CopyError, Transfer};
use super::{
    CONNECTIONS_MAX, DATAGRAMS_MAX, Legacy, LegacyAbsence, LegacySettings, LookupResult,
    PlaneState, RefusalLog, RemoteFile, RemoteFiles,
};
use crate::discovery::{
    ASKS_MAX, Absence, LegacyConfig, LegacyEvent, LegacyMachine, LegacyMember, Patience, Requester,
};
use crate::wire::discovery::{MemberName, Name};
use p2pfs_catalogue::Change;
use p2pfs_node::{EventLog, ForeignHost, Outdated, resolve_host};
use p2pfs_transfer::net::gossip::UdpPort;
use p2pfs_transfer::net::is_own;
use p2pfs_types::path::SharedPath;

/// Maximum number of queued calls.
const CALLS_MAX: usize = 256;
/// Maximum number of datagrams handled in one round of the task.
const BATCH: usize = 64;
/// If no lookup has failed for this long because too many were running, the next such failure is
/// reported again.
const BUSY_PAUSE: Duration = Duration::from_secs(30);

/// A call that the task of the plane makes, and then settles what follows from it.
type PlaneCall = Box<dyn FnOnce(&mut LegacyPlane) + Send>;

/// The queue of calls for the task of the plane. Clones share it.
#[derive(Clone)]
pub(super) struct PlaneQueue(mpsc::Sender<PlaneCall>);

impl PlaneQueue {
    /// Queues a call once there is room. If the node is stopping, the call is dropped.
    pub(super) async fn call(&self, call: impl FnOnce(&mut LegacyPlane) + Send + 'static) {
        let _stopping = self.0.send(Box::new(call)).await;
    }

    /// Queues a call if there is room. Returns false if there is none.
    pub(super) fn try_call(&self, call: impl FnOnce(&mut LegacyPlane) + Send + 'static) -> bool {
        self.0.try_send(Box::new(call)).is_ok()
    }
}

struct LookupWaiter {
    patience: Patience,
    reply: oneshot::Sender<LookupResult>,
}

/// The state of the task.
pub(super) struct LegacyPlane {
    machine: LegacyMachine,
    state: Arc<PlaneState>,
    udp: UdpPort,
    files: RemoteFiles,
    server: Arc<FileServer>,
    events: EventLog,
    /// The requesters that wait for each name.
    waiters: HashMap<Name, Vec<LookupWaiter>>,
    /// When a lookup last failed with [`Absence::Busy`].
    busy_at: Option<Instant>,
    queue: PlaneQueue,
    changes: mpsc::Sender<Outdated>,
}

/// Starts the plane, which ends with the node. `own` is the address of this node.
///
/// # Errors
/// If the folder for the peers' files cannot be emptied.
pub(crate) fn start(
    settings: LegacySettings,
    own: SocketAddrV4,
    host: ForeignHost,
) -> io::Result<Legacy> {
    let (calls, mut call_queue) = mpsc::channel(CALLS_MAX);
    let (datagrams, mut datagram_queue) = mpsc::channel(DATAGRAMS_MAX);
    let (connections, mut connection_queue) = mpsc::channel(CONNECTIONS_MAX);
    let queue = PlaneQueue(calls);
    let room = host.offers.contents.unverified();
    let files = RemoteFiles::open(room, host.traffic.taken.clone(), queue.clone())?;
    host.net.set_foreign_plane(Some(connections));
    let stopped = host.stopped();
    let refusals = RefusalLog::new(host.events.clone());
    let offered = OfferedFiles::new(host.me, settings.bridge, host.offers, refusals.clone());
    let offered = Arc::new(offered);
    offered.index_anew();
    let (bound, lookup) = (host.net.local_addr(), settings.lookup);
    let is_ours = move |at| at == own || is_own(bound, at);
    let machine = LegacyMachine::new(
        machine_config(own, settings),
        Box::new(is_ours),
        Instant::now(),
    );
    let legacy = Legacy {
        queue: queue.clone(),
        files: files.clone(),
        offered: offered.clone(),
        runtime: tokio::runtime::Handle::current(),
        refusals,
        state: Arc::new(PlaneState::new(datagrams)),
        lookup,
        read_deadline: host.reads.deadline,
        open_versions: host.reads.opener.open_versions().clone(),
        absent: machine.absent_names(),
    };
    let server = FileServer::new(
        offered,
        host.reads.opener,
        host.traffic.given,
        host.events.clone(),
    );
    let mut plane = LegacyPlane {
        machine,
        state: legacy.state.clone(),
        udp: host.udp,
        files,
        server: Arc::new(server),
        events: host.events,
        waiters: HashMap::new(),
        busy_at: None,
        queue,
        changes: host.changes,
    };
    // The mount may ask before the task runs.
    plane.publish();
    tokio::spawn(async move {
        tokio::select! {
            () = plane.run(&mut datagram_queue, &mut connection_queue, &mut call_queue) => {}
            () = stopped => {}
        }
    });
    Ok(legacy)
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

impl LegacyPlane {
    async fn run(
        &mut self,
        datagrams: &mut mpsc::Receiver<(SocketAddr, Bytes)>,
        connections: &mut mpsc::Receiver<(TcpStream, SocketAddr)>,
        calls: &mut mpsc::Receiver<PlaneCall>,
    ) {
        loop {
            self.settle();
            self.publish();
            let timeout = self.machine.poll_timeout();
            let offered = &self.server.offered;
            tokio::select! {
                Some(first) = datagrams.recv() => {
                    let mut next = Some(first);
                    for _ in 0..BATCH {
                        let Some((from, datagram)) = next else { break };
                        let has = |name: &Name| offered.find(name).is_some();
                        self.machine.handle_message(Instant::now(), from, &datagram, &has);
                        next = datagrams.try_recv().ok();
                    }
                }
                Some((stream, from)) = connections.recv() => self.server.serve(stream, from),
                Some(call) = calls.recv() => call(self),
                () = tokio::time::sleep_until(timeout.into()) => {
                    let has = |name: &Name| offered.find(name).is_some();
                    self.machine.handle_timeout(Instant::now(), &has);
                }
            }
        }
    }

    /// Publishes what the handles of the plane read.
    fn publish(&self) {
        let dropped = self.machine.counters().dropped();
        self.state.of_machine.store(dropped, Ordering::Relaxed);
        let has_peers = self.machine.has_peers();
        self.state.has_peers.store(has_peers, Ordering::Relaxed);
    }

    pub(super) fn members(&self) -> Vec<LegacyMember> {
        self.machine.members()
    }

    /// Answers a request for a file: at once if the file is known, else once the peers answered.
    pub(super) fn ask(
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
                let waiters = self.waiters.entry(name).or_default();
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

    fn handle_tried(
        &mut self,
        name: Name,
        peer: SocketAddrV4,
        at: SocketAddrV4,
        result: Result<Transfer, CopyError>,
    ) {
        let now = Instant::now();
        self.machine.tried(now, &name, at, result.is_ok());
        match result {
            Ok(transfer) => {
                let (file, evicted) = self.files.found(name.clone(), peer, transfer);
                self.announce_names(evicted.iter().chain([&name]));
                self.reply_to(&name, None, &Ok(file));
            }
            Err(error) => {
                tracing::debug!(%name, %peer, "not got from a legacy peer: {error}");
                if error.offence().is_some() {
                    self.machine.failed(now, &name, at);
                    self.report(now, &name, peer, &error);
                }
            }
        }
    }

    /// Handles a failed open or transfer of a known file. If the failure is the peer's, other
    /// responders are tried first for some time.
    pub(super) fn handle_failure(&mut self, file: &RemoteFile, error: &CopyError) {
        let now = Instant::now();
        if error.is_the_peers() {
            self.machine.failed(now, &file.name, file.at);
            self.announce_names([&file.name]);
        }
        self.report(now, &file.name, file.peer, error);
    }

    /// Counts the offence of a peer, and warns about it or about a failure of this machine.
    fn report(&mut self, now: Instant, name: &Name, peer: SocketAddrV4, error: &CopyError) {
        let is_told = match error.offence() {
            Some(offence) => self.machine.offended(now, peer, offence),
            None => !error.is_the_peers() && self.machine.may_tell(now),
        };
        if is_told {
            // Only the owner of the node sees it, because it names a file that a user reads.
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
                let lookups = Some(Patience::Lookup);
                self.reply_to(&name, lookups, &Err(LegacyAbsence::NobodyHasIt));
            }
            LegacyEvent::LookupBusy(name) => {
                self.warn_if_busy(Absence::Busy);
                let lookups = Some(Patience::Lookup);
                self.reply_to(&name, lookups, &Err(Absence::Busy.into()));
            }
            LegacyEvent::AskOver(name) => {
                self.reply_to(&name, None, &Err(LegacyAbsence::NobodyHasIt));
            }
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
    fn announce_names<'a>(&self, names: impl IntoIterator<Item = &'a Name>) {
        let root = SharedPath::root();
        let paths = names
            .into_iter()
            .filter_map(|name| root.join(name.as_bytes()).ok());
        let changes: Vec<Change> = paths.map(Change::Entry).collect();
        if !changes.is_empty() {
            let view = None;
            let _full = (self.changes).try_send(Outdated::Names { view, changes });
        }
    }

    fn resolve(&self, member: MemberName) {
        let queue = self.queue.clone();
        tokio::spawn(async move {
            let address = match &member {
                MemberName::Address(address) => Some(*address),
                MemberName::Host { host, port } => ipv4_of(host, *port).await,
            };
            let resolved = move |plane: &mut Self| {
                plane
                    .machine
                    .handle_resolved(Instant::now(), &member, address);
            };
            queue.call(resolved).await;
        });
    }

    fn begin_transfer(&self, name: Name, peer: SocketAddrV4, at: SocketAddrV4) {
        let (files, queue) = (self.files.clone(), self.queue.clone());
        tokio::spawn(async move {
            let result = files.begin(at, &name).await;
            let tried = move |plane: &mut Self| plane.handle_tried(name, peer, at, result);
            queue.call(tried).await;
        });
    }

    /// Replies to the requesters of a name that have this patience, or to all if it is `None`.
    fn reply_to(&mut self, name: &Name, patience: Option<Patience>, result: &LookupResult) {
        let waiters = self.waiters.remove(name).unwrap_or_default();
        let (over, still): (Vec<_>, Vec<_>) = waiters
            .into_iter()
            .partition(|waiter| patience.is_none_or(|patience| waiter.patience == patience));
        if !still.is_empty() {
            self.waiters.insert(name.clone(), still);
        }
        for waiter in over {
            let _gone = waiter.reply.send(result.clone());
        }
    }

    /// Warns that lookups fail because too many are running, once until [`BUSY_PAUSE`] passes
    /// without such a failure.
    fn warn_if_busy(&mut self, why: Absence) {
        if why != Absence::Busy {
            return;
        }
        let now = Instant::now();
        let last = self.busy_at.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= BUSY_PAUSE) {
            self.events.warn(format!(
                "names that may be legacy peers' are refused for now: only {ASKS_MAX} are looked \
                 for at a time, at most half of them for one user"
            ));
        }
    }
}

async fn ipv4_of(host: &str, port: u16) -> Option<SocketAddrV4> {
    let found = resolve_host(host, port).await.ok()?;
    found.into_iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    })
}
