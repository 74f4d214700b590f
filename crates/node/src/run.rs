//! The event loop, which owns the state machine and feeds it with events.
//!
//! [`EventLoop::run`] receives from all queues, and publishes views and changes. Requests to peers,
//! lookups for offers and writes of catalogue and membership run in tasks and threads of their own,
//! so that the loop waits for no peer and no disk. Their results return through queues.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use super::cache_news::CacheNews;
use super::checks::believable_now_s;
use super::conditions::{Condition, Finding};
use super::deletions::{DELETION_BATCH, DeletionReply, DeletionRequest};
use super::events::EventLog;
use super::foreign::ForeignPeers;
use super::machine::{AddressNews, Machine, NodeEvent, Outgoing, RequestId};
use super::mailbox::Mailbox;
use super::names::Names;
use super::not_forgotten::NotForgotten;
use super::offence::Offence;
use super::offenders::Offenders;
use super::offers::{OfferLookups, offer_of};
use super::own_thread::LoopTasks;
use super::persist::{Persister, unix_now_s};
use super::published::{MemberReport, MemberSchedule, Outdated, Published};
use super::reach::DialBackSlots;
use super::read_watch::ReadEnd;
use super::store::StoreError;
use super::traffic::Traffic;
use super::vacated::VacatedShares;
use super::views::ViewClock;
use super::wake::sleep_until;
use p2pfs_catalogue::Change;
use p2pfs_content::cache::CacheEvent;
use p2pfs_content::shares::{ShareEvent, ShareSet};
use p2pfs_fetch::FetchEvent;
use p2pfs_membership::Leave;
use p2pfs_proto::trust::TrustCommand;
use p2pfs_proto::wire::native::record::KeepOffer;
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_proto::wire::native::udp::{DATAGRAM_MAX_BYTES, Message};
use p2pfs_transfer::net::gossip::UdpInlet;
use p2pfs_transfer::net::lan::LanEvent;
use p2pfs_transfer::net::peer::{Incoming, PeerNet};
use p2pfs_transfer::{Fetcher, Server};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

mod roll;

/// Maximum number of share events handled in one round of the loop. Many events in one round make
/// one view.
const SHARE_BATCH: usize = 1024;
/// Maximum number of cache events handled in one round of the loop. Many events in one round make
/// one view.
const CACHE_BATCH: usize = 1024;
/// Maximum number of datagrams handled in one round of the loop, so that other work is not delayed.
const DATAGRAM_BATCH: usize = 64;
/// Beginning of the warning that the cache stores nothing.
const NOT_CACHED: &str = "nothing more is cached: ";
/// Maximum number of queued answers of other nodes to requests, and of queued results of probes.
pub(super) const ANSWERS_MAX: usize = 1024;
/// Maximum number of queued calls of members that cannot be dialled.
const CALLS_MAX: usize = 256;
/// Maximum number of commands queued for the loop.
pub(super) const COMMANDS_MAX: usize = 64;

/// A command to the loop.
#[derive(Debug)]
pub(super) enum LoopCommand {
    /// Adds an address to join through.
    AddSeed(SocketAddr),
    /// This node joined a cluster by a token with these addresses. The node of each pair is the
    /// issuer of the token.
    LetIn(Vec<(NodeId, SocketAddr)>),
    /// Requests the list of all other known nodes.
    Members(oneshot::Sender<Vec<MemberReport>>),
    /// Other nodes now reach this node at this address.
    Moved(SocketAddr),
    /// Sends the farewell and ends the loop.
    Leave(Leave),
    /// Announces the offer of this node to keep files.
    Keep(KeepOffer),
    /// Forgets the listings of a node that is not live, and replies whether it did.
    Forget(NodeId, oneshot::Sender<Result<(), NotForgotten>>),
}

/// The queues that feed the loop.
pub(super) struct Inputs {
    pub incoming: mpsc::Receiver<Incoming>,
    pub shares: mpsc::Receiver<ShareEvent>,
    pub cache: mpsc::Receiver<CacheNews>,
    pub fetches: mpsc::Receiver<FetchEvent>,
    /// Ends of reads that may change the ranking of versions.
    pub reads: mpsc::Receiver<ReadEnd>,
    pub lan: mpsc::Receiver<LanEvent>,
    pub commands: mpsc::Receiver<LoopCommand>,
    /// Deletions of versions of other nodes.
    pub deletions: mpsc::UnboundedReceiver<DeletionRequest>,
    /// Commands on the ledger, of users and of connections.
    pub trust: mpsc::Receiver<TrustCommand>,
}

/// The parts of a node that its handle and its event loop share. Clones share their state.
#[derive(Clone)]
pub(super) struct NodeHandles {
    pub net: PeerNet,
    pub server: Server,
    pub fetcher: Fetcher,
    pub published: Published,
    pub names: Names,
    pub events: EventLog,
    pub offenders: Offenders,
    pub traffic: Traffic,
}

/// The parts of a node that only its event loop uses.
pub(super) struct LoopParts {
    pub persister: Persister,
    pub shares: ShareSet,
    pub vacated: VacatedShares,
    pub changes: mpsc::Sender<Outdated>,
    pub stopped: watch::Sender<bool>,
    /// Receives the error if the last changes cannot be stored, before `stopped` becomes true.
    pub unstored: Arc<Mutex<Option<StoreError>>>,
    pub foreign: Option<Arc<dyn ForeignPeers>>,
    /// Closed at the end of the loop, so that its readers end.
    pub mailbox: Mailbox,
}

/// The event loop. It owns the state machine.
pub(super) struct EventLoop {
    machine: Machine,
    handles: NodeHandles,
    parts: LoopParts,
    pending: PendingWork,
    views: ViewClock,
    /// Recorded deletions that the published view does not show yet.
    unshown: Vec<DeletionReply>,
    roll: MemberSchedule,
    /// Whether steps of a large change are left. The loop does one step in each round.
    is_sweeping: bool,
    has_left: bool,
}

/// The tasks that the loop has started, and the queues through which their results return.
struct PendingWork {
    tasks: LoopTasks,
    answers: (mpsc::Sender<PeerResponse>, mpsc::Receiver<PeerResponse>),
    knocked: (mpsc::Sender<ProbedMember>, mpsc::Receiver<ProbedMember>),
    /// The members to call, because they cannot be dialled.
    calls: mpsc::Receiver<(NodeId, Lane)>,
    reaching: DialBackSlots,
    offers: OfferLookups,
}

type PeerResponse = (RequestId, Option<Response>);
/// The node that answered at a probed address.
type ProbedMember = (NodeId, SocketAddr);

impl EventLoop {
    pub(super) fn new(machine: Machine, handles: NodeHandles, parts: LoopParts) -> Self {
        let (to_call, calls) = mpsc::channel(CALLS_MAX);
        // A dropped call is repeated.
        let call = move |node, lane| _ = to_call.try_send((node, lane));
        handles.net.set_on_call(Arc::new(call));
        Self {
            machine,
            handles,
            parts,
            pending: PendingWork {
                tasks: LoopTasks::new(),
                answers: mpsc::channel(ANSWERS_MAX),
                knocked: mpsc::channel(ANSWERS_MAX),
                calls,
                reaching: DialBackSlots::default(),
                offers: OfferLookups::new(),
            },
            views: ViewClock::new(Instant::now()),
            unshown: Vec::new(),
            roll: MemberSchedule::default(),
            is_sweeping: true,
            has_left: false,
        }
    }

    /// Runs until the farewell is sent or the handle of the node is dropped.
    pub(super) async fn run(mut self, mut inputs: Inputs, udp: UdpInlet) {
        let mut datagram = vec![0; self.buffer_bytes()];
        let mut share_events = Vec::with_capacity(SHARE_BATCH);
        let (mut shares_open, mut cache_news) = (true, Vec::new());
        let mut deletions = Vec::new();
        loop {
            let now = Instant::now();
            self.machine.tick(now, unix_now_s());
            (self.machine).set_clock(now, believable_now_s(&self.parts.shares));
            self.settle(&udp);
            // Checked before the wait, because a node without living peers receives nothing more.
            if self.has_left {
                break;
            }
            if !self.machine.catalogue().has_early_versions() {
                self.handles.offenders.settle_dates();
            }
            let timeout = self.next_timeout();
            tokio::select! {
                received = udp.recv(&mut datagram) => {
                    self.handle_datagrams(received.ok(), &mut datagram, &udp);
                }
                Some(incoming) = inputs.incoming.recv() => self.handle_incoming(incoming),
                count = inputs.shares.recv_many(&mut share_events, SHARE_BATCH), if shares_open => {
                    shares_open = count > 0;
                    share_events.drain(..).for_each(|event| self.handle_share(event));
                }
                1.. = inputs.cache.recv_many(&mut cache_news, CACHE_BATCH) => {
                    cache_news.drain(..).for_each(|news| self.handle_cache(news));
                }
                1.. = inputs.deletions.recv_many(&mut deletions, DELETION_BATCH) => {
                    deletions.drain(..).for_each(|request| self.handle_deletion(request));
                }
                Some(event) = inputs.fetches.recv() => self.handle_fetch(event),
                Some(command) = inputs.trust.recv() => {
                    self.machine.command(Instant::now(), command);
                }
                Some(result) = self.parts.persister.trust_written() => {
                    self.machine.finish_trust_write(Instant::now(), result);
                }
                Some(end) = inputs.reads.recv() => {
                    self.machine.intake(Instant::now()).record_read(&end);
                }
                Some(event) = inputs.lan.recv() => self.handle_lan(event),
                Some((id, response)) = self.pending.answers.1.recv() => {
                    self.machine.handle_response(Instant::now(), id, response);
                }
                Some((node, address)) = self.pending.knocked.1.recv() => {
                    self.machine.handle_address(Instant::now(), address, AddressNews::Member(node));
                }
                Some((to, lane)) = self.pending.calls.recv() => self.call(to, lane),
                Some((to, offer)) = self.pending.offers.next() => {
                    self.machine.send(Instant::now(), to, &Message::Offer(offer));
                }
                () = self.pending.tasks.ended() => {}
                command = inputs.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                () = sleep_until(timeout) => {
                    // After a pause of the process, answers to its probes may already be in the
                    // socket. They are handled before the timeouts, which would count these answers
                    // as missing.
                    let first = udp.try_recv(&mut datagram);
                    self.handle_datagrams(first, &mut datagram, &udp);
                    self.machine.handle_timeout(Instant::now());
                }
                // Without this branch, `select!` would sleep until an event. The yield lets the
                // runtime of this thread poll the socket.
                () = tokio::task::yield_now(), if self.is_sweeping => {}
            }
        }
        self.settle(&udp);
        self.finish();
    }

    /// Stores the last changes and tells the other parts that the loop has ended.
    fn finish(mut self) {
        let responders = self.handles.fetcher.peer_records();
        let catalogue = self.machine.catalogue();
        if let Err(error) = self.parts.persister.finish(catalogue, responders) {
            tracing::debug!("what changed last is not stored: {error}");
            *self.parts.unstored.lock() = Some(error);
        }
        self.handles.events.close();
        self.parts.mailbox.close();
        self.parts.stopped.send_replace(true);
    }

    /// Returns the size of the datagram buffer: one byte more than the longest valid datagram, so
    /// that a longer datagram is detected.
    fn buffer_bytes(&self) -> usize {
        let foreign = self.parts.foreign.as_ref();
        let foreign = foreign.map_or(0, |foreign| foreign.datagram_max_bytes());
        foreign.max(DATAGRAM_MAX_BYTES) + 1
    }

    fn next_timeout(&self) -> Option<Instant> {
        let store = self.parts.persister.next_due();
        let (machine, roll) = (self.machine.poll_timeout(), self.roll.next_due());
        [machine, self.views.next_due(), roll, store]
            .into_iter()
            .flatten()
            .min()
    }

    /// Handles `first` and the datagrams that are already in the socket, up to [`DATAGRAM_BATCH`].
    /// So a burst of datagrams costs few rounds of the loop.
    fn handle_datagrams(
        &mut self,
        first: Option<(usize, SocketAddr)>,
        buffer: &mut [u8],
        udp: &UdpInlet,
    ) {
        let mut next = first;
        for _ in 0..DATAGRAM_BATCH {
            let Some((length, from)) = next else { return };
            let datagram = &buffer[..length];
            let foreign = self.parts.foreign.as_ref();
            if !foreign.is_some_and(|foreign| foreign.take_datagram(from, datagram)) {
                (self.machine).handle_message(Instant::now(), from, datagram);
            }
            next = udp.try_recv(buffer);
        }
    }

    fn handle_incoming(&mut self, incoming: Incoming) {
        let Incoming {
            from,
            request,
            reply,
            has_replacements,
            ..
        } = incoming;
        // A peer of an earlier release cannot decode such a log. It keeps what it has of the log.
        if let Request::Log { author, .. } = &request
            && !has_replacements
            && !self.machine.known().logs().is_of_first_form(author)
        {
            return reply.send(Response::NotHere);
        }
        if request == Request::Reach {
            let (handles, tasks) = (&self.handles, &mut self.pending.tasks);
            return (self.pending.reaching).answer(
                &handles.net,
                &handles.published,
                tasks,
                from,
                reply,
            );
        }
        // Requests for content and pushes never arrive here: `answer_beside` answers them.
        if let Some(response) = self.machine.answer(Instant::now(), from, &request) {
            if let Response::Log(part) = &response {
                self.handles.published.count_told(part);
            }
            reply.send(response);
        }
    }

    fn handle_share(&mut self, event: ShareEvent) {
        let now = Instant::now();
        match event {
            ShareEvent::Put { share, path, entry } => {
                self.machine.own().put(now, share, path, entry);
            }
            ShareEvent::Removed { share, path } => self.machine.own().remove(now, share, &path),
            ShareEvent::Readers { share, readers } => {
                self.machine.own().set_readers(now, share, readers)
            }
            ShareEvent::Terms { share, open } => self.machine.own().terms(now, share, open),
            ShareEvent::Vacated { share, removal } => {
                self.machine.own().record();
                self.parts.vacated.push(share, removal);
            }
            ShareEvent::Scanned { .. } => {}
            ShareEvent::Warning {
                path,
                why,
                is_withdrawn,
                ..
            } => {
                let subject = format!("{}: {why}", path.display());
                let found = Finding::with_own_remedy(&subject).for_owner();
                let condition = if is_withdrawn {
                    Condition::ShareUnreadable
                } else {
                    Condition::ShareProblem
                };
                self.handles.events.begin(condition, &subject, found);
            }
            ShareEvent::Settled { path, why, .. } => {
                let subject = format!("{}: {why}", path.display());
                let events = &self.handles.events;
                events.end(Condition::ShareUnreadable, &subject);
                events.end(Condition::ShareProblem, &subject);
            }
        }
    }

    /// Records a deletion, or that it is withdrawn. The reply follows with the view that shows it.
    fn handle_deletion(&mut self, request: DeletionRequest) {
        let now = Instant::now();
        let DeletionRequest {
            path,
            replaces,
            is_withdrawn,
            reply,
        } = request;
        let mut own = self.machine.own();
        let recorded = if is_withdrawn {
            own.withdraw_deletion(now, &path, &replaces)
        } else {
            own.gone(now, SystemTime::now().into(), &path, replaces)
        };
        match recorded {
            Ok(true) => {
                self.unshown.push(reply);
                self.views.expedite(now);
            }
            Ok(false) => reply.send(Ok(())),
            Err(error) => reply.send(Err(error.into())),
        }
    }

    fn handle_cache(&mut self, news: CacheNews) {
        let now = Instant::now();
        let event = match news {
            CacheNews::Event(event) => event,
            CacheNews::Complete(complete) => return self.machine.own().align_haves(now, &complete),
        };
        if let CacheEvent::Completed { hash, .. }
        | CacheEvent::Evicted { hash, .. }
        | CacheEvent::Dropped { hash, .. } = &event
        {
            // If the queue is full, the kernel keeps stale attributes until they expire.
            let _busy = self.parts.changes.try_send(Outdated::CachedBytes(*hash));
        }
        match event {
            CacheEvent::Completed { hash, size_bytes } => {
                self.machine.own().set_have(now, hash, Some(size_bytes));
            }
            CacheEvent::Evicted {
                hash,
                was_complete: true,
            }
            | CacheEvent::Dropped {
                hash,
                was_complete: true,
                ..
            } => {
                self.machine.own().set_have(now, hash, None);
            }
            CacheEvent::Evicted { .. } | CacheEvent::Dropped { .. } => {}
            CacheEvent::DiskTrouble { why } => {
                let found = Finding::with_own_remedy(&format!("{NOT_CACHED}{why}"));
                let events = &self.handles.events;
                events.begin(Condition::CacheNotStored, "", found);
            }
            CacheEvent::DiskRecovered => {
                self.handles.events.end(Condition::CacheNotStored, "");
            }
        }
    }

    fn handle_fetch(&mut self, event: FetchEvent) {
        if let FetchEvent::Wanted { hashes } = &event {
            self.machine
                .broadcast_wanted(Instant::now(), hashes.clone());
        }
        if let FetchEvent::Liar { node, .. } = &event {
            self.handles.offenders.record(*node, Offence::WrongBytes);
            self.parts.persister.expedite_responders();
            self.machine.intake(Instant::now()).mark_shunned(*node);
        }
        let view = self.handles.published.view.load();
        self.handles.events.record_fetch(&event, &view);
    }

    fn handle_lan(&mut self, event: LanEvent) {
        match event {
            LanEvent::Hint(address) => {
                self.machine
                    .handle_address(Instant::now(), address, AddressNews::Announced)
            }
            LanEvent::NoMulticast(why) => {
                let found = Finding::new(format!("no nodes are found by mDNS: {why}"));
                self.handles.events.begin(Condition::NoMulticast, "", found);
            }
            LanEvent::Multicast => self.handles.events.end(Condition::NoMulticast, ""),
        }
    }

    fn handle_command(&mut self, command: LoopCommand) {
        let now = Instant::now();
        match command {
            LoopCommand::AddSeed(address) => {
                self.machine.handle_address(now, address, AddressNews::Seed)
            }
            LoopCommand::LetIn(reached) => {
                reached
                    .iter()
                    .for_each(|(_, at)| self.machine.handle_address(now, *at, AddressNews::Seed));
                self.parts.persister.set_reachable(reached);
            }
            LoopCommand::Members(reply) => {
                let members = roll::publish_members(&self.machine, &self.handles.published);
                let _gone = reply.send(members.to_vec());
            }
            LoopCommand::Moved(address) => {
                self.machine.handle_address(now, address, AddressNews::Own);
                self.handles.published.own_address.store(Arc::new(address));
            }
            LoopCommand::Keep(offer) => self.machine.own().keeps(now, offer),
            LoopCommand::Leave(leave) => self.machine.leave(now, leave),
            LoopCommand::Forget(node, reply) => {
                let _gone = reply.send(self.machine.intake(now).forget_node(&node));
            }
        }
    }

    /// Handles all events of the state machine, sends its requests and datagrams, then publishes
    /// and stores changes.
    fn settle(&mut self, udp: &UdpInlet) {
        // Before any datagram is sent: a node that learns of a name by a datagram may already fetch
        // its content.
        self.publish_readers();
        // Handled before requests and datagrams are sent, because handling the events makes further
        // ones.
        self.handle_events();
        while let Some(answer) = self.machine.poll_answer() {
            answer();
        }
        if let Some(write) = self.machine.poll_trust_write() {
            self.parts.persister.store_trust(write);
        }
        while let Some(outgoing) = self.machine.poll_request() {
            self.ask(outgoing);
        }
        while let Some(transmit) = self.machine.poll_transmit() {
            udp.send(transmit.to, &transmit.datagram);
        }
        self.is_sweeping = self.machine.sweep(Instant::now());
        self.publish_view();
        self.parts.persister.advance(self.machine.catalogue());
        if self.parts.persister.has_stored_all() {
            self.parts.vacated.release_all();
        }
        if self.parts.persister.is_reachability_due() {
            self.publish_addresses();
        }
        self.parts.persister.store_responders(&self.handles.fetcher);
        self.parts.persister.report(&self.handles.events);
        let published = &self.handles.published;
        published.set_dropped(self.machine.cluster().counters().dropped());
        if self.roll.is_due(Instant::now()) {
            roll::publish_members(&self.machine, published);
        }
    }

    fn ask(&mut self, outgoing: Outgoing) {
        let (id, node, address) = (outgoing.id, outgoing.node, outgoing.address);
        let (net, answers) = (self.handles.net.clone(), self.pending.answers.0.clone());
        self.pending.tasks.spawn(async move {
            let response = net.request(node, address, Lane::Bulk, outgoing.request);
            let _stopping = answers.send((id, response.await.ok())).await;
        });
    }

    /// Handles the events of the state machine. If some of them change addresses of members, the
    /// addresses are published first, once for all of these events: one publication takes time in
    /// proportion to the size of the cluster.
    fn handle_events(&mut self) {
        loop {
            let events: Vec<_> = std::iter::from_fn(|| self.machine.poll_event()).collect();
            if events.is_empty() {
                return;
            }
            if events.iter().any(roll::is_of_the_roll) {
                self.publish_addresses();
            }
            for event in events {
                self.handle_event(event);
            }
        }
    }

    /// Publishes the members and their addresses.
    fn publish_addresses(&mut self) {
        let members = roll::publish_members(&self.machine, &self.handles.published);
        roll::publish_addresses(&members, &self.handles, &mut self.parts.persister);
    }

    fn handle_event(&mut self, event: NodeEvent) {
        if let NodeEvent::PeerUp(member) = &event {
            self.handles.fetcher.returned(&member.node);
        }
        match &event {
            NodeEvent::Wanted { from, hashes } => self.handle_wanted(*from, hashes),
            NodeEvent::Offered {
                from,
                address,
                offer,
            } => {
                for asker in &offer.askers {
                    self.introduce(&offer.hash, *asker);
                }
                self.handles
                    .fetcher
                    .record_offer(offer_of(*from, offer), *address);
            }
            NodeEvent::Called {
                from,
                address,
                lane,
            } => self.handles.net.answer_call(*from, *address, *lane),
            NodeEvent::Renewed { generation } => self.parts.persister.set_generation(*generation),
            NodeEvent::MembershipChanged => self.handles.net.close_strangers(),
            NodeEvent::Knock { address } => self.knock(*address),
            NodeEvent::Offended { node, what } => self.handles.offenders.record(*node, *what),
            NodeEvent::PeerUp(_)
            | NodeEvent::PeerMoved(_)
            | NodeEvent::PeerDown { .. }
            | NodeEvent::PeerAway { .. }
            | NodeEvent::CopiedKey { .. }
            | NodeEvent::CopyGone { .. }
            | NodeEvent::Stated(_)
            | NodeEvent::NamesRefused => {}
            NodeEvent::Left => self.has_left = true,
        }
        let me = self.machine.cluster().me().node;
        let events = &self.handles.events;
        events.record_node_event(me, &event, &self.handles.names);
    }

    fn call(&mut self, to: NodeId, lane: Lane) {
        (self.machine).send(Instant::now(), to, &Message::Call { lane });
    }

    fn knock(&mut self, address: SocketAddr) {
        let (net, knocked) = (self.handles.net.clone(), self.pending.knocked.0.clone());
        self.pending.tasks.spawn(async move {
            if let Ok(node) = net.knock(address).await {
                let _stopping = knocked.send((node, address)).await;
            }
        });
    }

    /// Handles the request of another node for contents: looks up which of them to offer, and adds
    /// the node to the swarms of this node's running fetches of them.
    fn handle_wanted(&mut self, from: NodeId, hashes: &[ContentHash]) {
        for hash in hashes {
            self.introduce(hash, from);
        }
        let server = self.handles.server.clone();
        self.pending
            .offers
            .start_lookup(server, &mut self.pending.tasks, from, hashes.to_vec());
    }

    /// Adds a node that wants a content to the swarm of this node's fetch of that content, if there
    /// is one.
    fn introduce(&self, hash: &ContentHash, node: NodeId) {
        if let Some(address) = self.handles.published.addresses.load().get(&node) {
            self.handles.fetcher.add_fellow(hash, node, *address);
        }
    }

    fn publish_readers(&mut self) {
        let published = &self.handles.published.readers;
        let own = self.machine.own();
        if !Arc::ptr_eq(own.readers(), &published.load()) {
            published.store(own.readers().clone());
        }
    }

    /// Publishes the namespace if it changed and a view is due.
    fn publish_view(&mut self) {
        let now = Instant::now();
        let has_changes = self.machine.has_changes();
        let is_due = self.views.is_due(now, has_changes, self.is_sweeping);
        // While a log is partly merged, `has_changes` is false.
        if !is_due || !has_changes {
            return;
        }
        let permit = match self.parts.changes.try_reserve() {
            Ok(permit) => Some(permit),
            // The owner of the mount is behind: retry shortly, with more changes in one batch.
            Err(TrySendError::Full(())) => {
                self.views.postpone(now);
                return;
            }
            // No mount receives the changes.
            Err(TrySendError::Closed(())) => None,
        };
        self.views.mark_taken(now);
        let view = self.machine.view();
        let changes: Vec<Change> =
            std::iter::from_fn(|| self.machine.catalogue().poll_change()).collect();
        let before = self.handles.published.view.swap(view.clone());
        let shown = self.unshown.drain(..);
        shown.for_each(|reply| reply.send(Ok(())));
        // After the view is published, so that a program that receives the event of a name can
        // already look up the name.
        self.handles.events.record_changes(&changes, &before, &view);
        if let Some(foreign) = &self.parts.foreign {
            foreign.namespace_changed(&changes);
        }
        if let Some(permit) = permit {
            let view = Some(view);
            permit.send(Outdated::Names { view, changes });
        }
    }
}
