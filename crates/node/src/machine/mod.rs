//! The part of a node without sockets and clock. [`Machine`] connects the membership with the
//! catalogue.
//!
//! The machine owns the membership, the catalogue, and the schedule of pulls. It decides when a
//! head is published, which log is pulled from which node, and how a peer's request is answered. It
//! transfers no content: requests for contents and offers of them become events. Time, datagrams
//! and responses are arguments, and all randomness comes from a seed, so that tests can run whole
//! clusters in virtual time.
//!
//! | part | file |
//! |---|---|
//! | own facts, the own head, readers of own shares | `own_log` |
//! | heads and logs of other nodes | `intake`, `lists` |
//! | requests to other nodes | `requests`, `questions`, `late_heads` |
//! | the keyring | `trust` |
//! | events for the owner, counts of dropped input | `events` |
//!
//! Bad input from other nodes is dropped and counted ([`MachineCounters`]).

mod events;
mod intake;
mod late_heads;
pub mod lists;
mod own_log;
pub mod questions;
mod requests;
mod trust;

pub use events::{MachineCounters, NodeEvent};
pub use intake::{LogIntake, UNSERVED_FOR};
pub use own_log::OwnLogAccess;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::{debug, trace};

use super::names::certified_names;
use super::published::MemberReport;
use super::pulls::Pulls;
use events::MachineEvents;
use intake::LogExchange;
use own_log::OwnLog;
use p2pfs_catalogue::{Catalogue, LogPart, SWEEP_STEP_RECORDS, View};
use p2pfs_membership::{
    Cluster, ClusterConfig, Event as ClusterEvent, Leave, Member, MemberStatus, Transmit,
};
use p2pfs_proto::trust::{
    Keyring, NodeKey, SignedStatement, TrustAction, TrustCommand, TrustError, TrustView, TrustWrite,
};
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_proto::wire::native::tcp::{self, Request, Response};
use p2pfs_proto::wire::native::udp::{GET_HASHES_MAX, Message};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{Generation, NodeId, NodeName};
use questions::{QuestionTable, RequestContext};
use requests::PeerRequests;
use trust::ClusterTrust;

/// Minimum time for which changes of the own log are collected before a head is signed for them. So
/// a scan of many files makes few heads, and a user does not notice the delay of a single file.
const PUBLISH_AFTER: Duration = Duration::from_millis(10);
/// Minimum interval between two heads of this node.
const PUBLISH_SPACING: Duration = Duration::from_millis(100);
/// Constant that is combined with the seed for the random choice of the member to ask for a secret.
/// Without it, this choice would use the same random numbers as other parts.
const SECRETS_STREAM: u64 = 0x7365_6372_6574;
/// Number of own facts queued for the next head at which all of them are recorded in the log
/// without waiting for that head.
pub const UNSAID_MAX: usize = 16_384;
/// Number of queued events beyond which further `Wanted`, `Offered`, `Called` and `Offended` events
/// are dropped. All other events are queued. A dropped request or offer costs a retry.
pub const EVENTS_MAX: usize = 4096;

/// Identity and settings of a node.
pub struct MachineConfig {
    /// Key of this node.
    pub key: Arc<NodeKey>,
    /// Name of this node.
    pub name: NodeName,
    /// Address at which other nodes reach this node.
    pub advertised: SocketAddr,
    /// Generation of this run of the node.
    pub generation: Generation,
    /// Secrets and ledger of the cluster.
    pub keyring: Keyring,
    /// Settings of the membership.
    pub cluster: ClusterConfig,
    /// Seed of all randomness; from the operating system in production.
    pub seed: u64,
}

/// News about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressNews {
    /// This node may join through the address.
    Seed,
    /// This node is now reached at the address.
    Own,
    /// The address was announced on the LAN.
    Announced,
    /// This member answered a probe of the address.
    Member(NodeId),
}

/// A request to another node, to be sent over TCP.
#[derive(Debug)]
pub struct Outgoing {
    /// ID to return with the response.
    pub id: RequestId,
    /// The receiver of the request.
    pub node: NodeId,
    /// Address of the receiver.
    pub address: SocketAddr,
    /// The request.
    pub request: Request,
}

/// ID that matches a response with its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The state machines of one node.
pub struct Machine {
    me: NodeId,
    trust: ClusterTrust,
    cluster: Cluster,
    catalogue: Catalogue,
    own: OwnLog,
    logs: LogExchange,
    questions: QuestionTable,
    events: MachineEvents,
}

impl Machine {
    /// Creates the machine of a node. `catalogue` is loaded from an earlier run or empty.
    pub fn new(config: MachineConfig, mut catalogue: Catalogue, now: Instant) -> Self {
        catalogue.own_mut().begin(config.generation.0);
        let me = config.key.node_id();
        let cluster = Cluster::new(
            config.cluster,
            config.key.clone(),
            config.advertised,
            config.generation,
            config.keyring.reader(),
            config.seed,
            now,
        );
        let mut machine = Self {
            me,
            trust: ClusterTrust {
                key: config.key,
                keyring: config.keyring,
                write: None,
                answers: VecDeque::new(),
                secret_due: None,
                rng: StdRng::seed_from_u64(config.seed ^ SECRETS_STREAM),
            },
            cluster,
            catalogue,
            own: OwnLog::new(now),
            logs: LogExchange::new(Pulls::new(StdRng::seed_from_u64(config.seed))),
            questions: QuestionTable::default(),
            events: MachineEvents::default(),
        };
        machine.catalogue.set_owners(machine.trust.owners());
        machine
    }

    /// Handles a received datagram.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.cluster.handle_message(now, from, datagram);
        self.advance(now);
    }

    /// Does the work that is due at the time that [`Self::poll_timeout`] returned.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cluster.handle_timeout(now);
        if self.own.due.is_some_and(|due| due <= now) {
            self.intake(now).publish_head();
        }
        if let Some(member) = self.trust.secret_source(now, &self.cluster) {
            self.requests()
                .ask_for_trust(member.node, member.address, false);
        }
        self.catalogue.unserved().expire(now);
        self.advance(now);
    }

    /// Returns when [`Self::handle_timeout`] should be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.cluster.poll_timeout(),
            self.logs.pulls.poll_timeout(),
            self.own.due,
            self.trust.secret_due,
            self.questions.next_again(),
            self.catalogue.next_unserved_expiry(),
        ];
        times.into_iter().flatten().min()
    }

    /// Returns the next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.cluster.poll_transmit()
    }

    /// Returns the next request to send.
    pub fn poll_request(&mut self) -> Option<Outgoing> {
        self.questions.poll()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.queue.pop_front()
    }

    /// Returns whether the namespace changed since [`Self::view`] was called. Returns false while a
    /// log is partly merged, because a view would show a part of it.
    pub fn has_changes(&self) -> bool {
        self.catalogue.is_dirty() && !self.catalogue.intake_queue().is_taking_in()
    }

    /// Returns the current namespace.
    pub fn view(&mut self) -> Arc<View> {
        self.logs.unshown = false;
        self.catalogue.view()
    }

    /// Returns the catalogue, to read or store it.
    pub fn catalogue(&mut self) -> &mut Catalogue {
        &mut self.catalogue
    }

    /// Returns the catalogue for reading.
    pub fn known(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Returns access to the own log.
    pub fn own(&mut self) -> OwnLogAccess<'_> {
        OwnLogAccess {
            log: &mut self.own,
            catalogue: &mut self.catalogue,
            key: &self.trust.key,
            trust: self.trust.keyring.view(),
            events: &mut self.events,
        }
    }

    /// Returns the handling of other nodes' logs.
    pub fn intake(&mut self, now: Instant) -> LogIntake<'_> {
        LogIntake {
            now,
            me: self.me,
            own: OwnLogAccess {
                log: &mut self.own,
                catalogue: &mut self.catalogue,
                key: &self.trust.key,
                trust: self.trust.keyring.view(),
                events: &mut self.events,
            },
            cluster: &mut self.cluster,
            logs: &mut self.logs,
        }
    }

    /// Returns the membership.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Returns the members and the secrets that this node knows now.
    pub fn trust(&self) -> &TrustView {
        self.trust.view()
    }

    /// Carries out a command on the ledger. Its reply follows by [`Self::poll_answer`].
    pub fn command(&mut self, now: Instant, command: TrustCommand) {
        self.trust.keyring.command(command);
        self.advance(now);
    }

    /// Returns the next change of the membership to store. The next one follows after
    /// [`Self::finish_trust_write`].
    pub fn poll_trust_write(&mut self) -> Option<TrustWrite> {
        self.trust.write.take()
    }

    /// Handles the result of a write that [`Self::poll_trust_write`] returned.
    pub fn finish_trust_write(&mut self, now: Instant, result: Result<(), TrustError>) {
        self.trust.keyring.finish_write(result);
        self.advance(now);
    }

    /// Returns the next answer to a command. Call it once all events are handled.
    pub fn poll_answer(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        self.trust.answers.pop_front()
    }

    /// Sets the time in seconds since 1970 by which secrets and certificates begin and end.
    pub fn tick(&mut self, now: Instant, unix_s: u64) {
        self.trust.keyring.tick(unix_s);
        self.follow_membership(now);
    }

    /// Returns the counters of the state machine.
    pub fn counters(&self) -> MachineCounters {
        self.events.counters
    }

    /// Sets the time of the wall clock, or `None` if it is not believable.
    pub fn set_clock(&mut self, now: Instant, unix_s: Option<u64>) {
        self.cluster.set_clock(now, unix_s);
        if let Some(now_s) = unix_s {
            self.catalogue.set_clock(now_s.cast_signed());
        }
    }

    /// Handles news about an address.
    pub fn handle_address(&mut self, now: Instant, address: SocketAddr, news: AddressNews) {
        match news {
            AddressNews::Seed => self.cluster.add_seed(now, address),
            AddressNews::Own => self.cluster.move_to(now, address),
            AddressNews::Announced => self.cluster.hint(now, address),
            AddressNews::Member(node) => {
                self.follow_membership(now);
                self.requests().ask_for_trust(node, address, false);
                self.cluster.hint(now, address);
            }
        }
        self.advance(now);
    }

    /// Asks live nodes which of them have these contents: in a large cluster, only some of them.
    /// For a private content, asks only its readers.
    pub fn broadcast_wanted(&mut self, now: Instant, hashes: Vec<ContentHash>) {
        let (private, hashes): (Vec<_>, Vec<_>) = hashes
            .into_iter()
            .partition(|hash| self.catalogue.is_private(hash));
        for hash in &private {
            let question = Message::Get {
                hashes: vec![*hash],
            };
            let Ok(body) = question.encode().map(Bytes::from) else {
                continue;
            };
            let readers = self.catalogue.readers_of(hash).into_iter();
            for node in readers.filter(|node| *node != self.me) {
                // A reader that is not live is not asked.
                let _gone = self.cluster.send(now, node, body.clone());
            }
        }
        for some in hashes.chunks(GET_HASHES_MAX) {
            if let Ok(body) = (Message::Get {
                hashes: some.to_vec(),
            })
            .encode()
            {
                // In a large cluster, the message reaches only some nodes.
                let _reached = self.cluster.broadcast(now, body.into());
            }
        }
        self.advance(now);
    }

    /// Sends a message to one node.
    pub fn send(&mut self, now: Instant, to: NodeId, message: &Message) {
        if let Ok(body) = message.encode() {
            // If the node is not live, it does not need the message.
            let _gone = self.cluster.send(now, to, body.into());
        }
        self.advance(now);
    }

    /// Begins the farewell. [`NodeEvent::Left`] follows once it is sent.
    pub fn leave(&mut self, now: Instant, leave: Leave) {
        self.own().record();
        self.cluster.leave(now, leave);
        self.advance(now);
    }

    /// Does one step of a large change, such as the merge of a long log, and returns whether more
    /// steps are left. Call it between other work.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let has_more = self.own().restate(now) | self.merge_step(now);
        self.catalogue.advance(SWEEP_STEP_RECORDS) || has_more
    }

    /// Handles the response to a request that [`Machine::poll_request`] returned. `response` is
    /// `None` if the request failed.
    pub fn handle_response(&mut self, now: Instant, id: RequestId, response: Option<Response>) {
        match (self.questions.remove(id), response) {
            (Some(RequestContext::Log { author, from }), Some(Response::Log(part))) => {
                self.logs.pulls.mark_answered(&from);
                if self.intake(now).handle_log_part(author, from, part) {
                    self.merge_step(now);
                }
            }
            (Some(RequestContext::Log { author, from }), Some(_)) => {
                self.logs.pulls.refuse(now, author, from)
            }
            (Some(RequestContext::Log { author, from }), None) => {
                self.logs.pulls.fail_silently(now, author, from)
            }
            (Some(RequestContext::Heads { from }), response) => {
                if let Some(Response::Heads { heads }) = response {
                    self.logs.pulls.mark_answered(&from);
                    self.intake(now).receive_heads(from, &heads);
                    self.questions.mark_heads_told(from);
                } else {
                    let address = live_address(&self.cluster, &from);
                    self.questions.mark_heads_missed(now, from, address);
                }
            }
            (Some(RequestContext::LateHeads { from }), Some(Response::Heads { heads })) => {
                for node in self.questions.late.take_answered() {
                    if self.questions.is_awaited(&node) {
                        self.logs.pulls.mark_silent(now, node);
                    }
                }
                self.intake(now).receive_heads(from, &heads);
            }
            (Some(RequestContext::LateHeads { .. }), _) => self.questions.late.fail(now),
            (
                Some(RequestContext::Trust {
                    from,
                    address,
                    told_all,
                }),
                Some(Response::Trust { answer }),
            ) => {
                let (lacks_some, fault) = self.trust.keyring.receive_answer(&answer);
                self.events.report_bad_statement(from, fault);
                if lacks_some && !told_all {
                    self.requests().ask_for_trust(from, address, true);
                }
                self.follow_membership(now);
            }
            (Some(RequestContext::Members { from }), Some(Response::Members { members })) => {
                let merged = self.cluster.merge_members(now, from, &members);
                self.events.report_member_list(from, merged);
            }
            _ => {}
        }
        self.advance(now);
    }

    /// Answers a request for members, statements, heads or logs; returns `None` for other requests.
    pub fn answer(&mut self, now: Instant, from: NodeId, request: &Request) -> Option<Response> {
        // The node may have been expelled while its request was queued.
        let is_member = self.trust().is_member(&from);
        let response = match request {
            Request::Members { .. }
            | Request::Trust { .. }
            | Request::Heads { .. }
            | Request::Log { .. }
                if !is_member =>
            {
                return Some(Response::NotHere);
            }
            Request::Members { members } => {
                let merged = self.cluster.merge_members(now, from, members);
                self.events.report_member_list(from, merged);
                Response::Members {
                    members: self.cluster.export_members(),
                }
            }
            Request::Trust { question } => {
                let (answer, fault) = self.trust.keyring.answer(question);
                self.events.report_bad_statement(from, fault);
                answer.map_or(Response::NotHere, |answer| Response::Trust {
                    answer: answer.into(),
                })
            }
            Request::Heads { heads } => {
                let news = newer_than(self.catalogue.logs().heads(), heads);
                self.intake(now).receive_heads(from, heads);
                if live_address(&self.cluster, &from).is_some() {
                    // The request has all heads that the member knows.
                    self.questions.mark_heads_told(from);
                }
                Response::Heads { heads: news }
            }
            Request::Log {
                author,
                epoch,
                after,
            } => self
                .catalogue
                .logs()
                .part(author, *epoch, *after)
                .and_then(encode_part)
                .map_or(Response::NotHere, Response::Log),
            _ => return None,
        };
        self.advance(now);
        Some(response)
    }

    /// Returns every other known node with the number of entries in its log. `is_read` is true if
    /// three conditions hold: the node told its heads, or another member told those of the node
    /// instead, or the node failed too often; no log is in transfer, except postponed logs and
    /// those that failed several times; and the last view shows all merged logs.
    pub fn member_reports(&self) -> Vec<MemberReport> {
        let is_all_taken = self.logs.taken_in.is_empty() && !self.logs.pulls.is_any_coming();
        let is_all_read = is_all_taken && !(self.logs.unshown && self.catalogue.is_dirty());
        let report = |status: MemberStatus| {
            let node = &status.member.node;
            let head = self.catalogue.logs().head_of(node);
            let is_told_by_others = head.is_some() && self.questions.late.covers(node);
            let is_told = is_told_by_others || self.questions.has_told(node);
            MemberReport {
                entries: head.map_or(0, |signed| signed.head.count),
                is_read: is_all_read && is_told,
                since: None,
                status,
            }
        };
        self.cluster.members().into_iter().map(report).collect()
    }

    /// Handles the events of the membership and the actions of the keyring, then queues the requests
    /// that are due.
    fn advance(&mut self, now: Instant) {
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.follow_membership(now);
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.own().review_haves(now);
        self.intake(now).report_dropped_logs();
        self.requests().ask_newcomers(now);
        self.requests().ask_for_late_heads(now);
        self.requests().ask_for_logs(now);
    }

    fn handle_cluster_event(&mut self, now: Instant, event: ClusterEvent) {
        trace_membership(&event);
        match event {
            ClusterEvent::Up(member) => {
                self.intake(now).set_live(member.node, true);
                self.questions.add_newcomer(member.node, member.address);
                self.events.push(NodeEvent::PeerUp(member));
            }
            ClusterEvent::Moved(member) => {
                self.questions.readdress(member.node, member.address);
                self.events.push(NodeEvent::PeerMoved(member));
            }
            ClusterEvent::Down { node, why } => {
                self.intake(now).set_live(node, false);
                self.questions.forget_member(&node);
                self.logs.pulls.forget_member(now, node);
                self.events.push(NodeEvent::PeerDown { node, why });
            }
            ClusterEvent::Away { node } => self.events.push(NodeEvent::PeerAway { node }),
            ClusterEvent::Head { from, head } => {
                self.intake(now).handle_head_bytes(from, &head.bytes)
            }
            ClusterEvent::Message { from, body } => {
                let address = live_address(&self.cluster, &from);
                self.events.receive_message(from, address, &body);
            }
            ClusterEvent::PushPull { node, address } => {
                self.requests().ask_push_pull(node, address)
            }
            ClusterEvent::Renewed { generation } => {
                self.events.push(NodeEvent::Renewed { generation });
            }
            ClusterEvent::CopiedKey { node, addresses } => {
                self.events.push(NodeEvent::CopiedKey { node, addresses });
            }
            ClusterEvent::CopyGone { node } => {
                self.events.push(NodeEvent::CopyGone { node });
                if node == self.me {
                    self.catalogue.own_mut().forget_recoveries();
                    // The other machine may have published a head that ranks above the own one.
                    // Other members know such a head.
                    let member = self.cluster.live().next();
                    if let Some(member) = member {
                        self.requests().ask_for_heads(member.node, member.address);
                    }
                }
            }
            ClusterEvent::Statement { from, bytes } => {
                let fault = self.trust.keyring.receive_news(&bytes);
                self.events.report_bad_statement(from, fault);
                self.follow_membership(now);
                if self.trust().wanted_epoch().is_some()
                    && let Some(address) = live_address(&self.cluster, &from)
                {
                    self.requests().ask_for_trust(from, address, false);
                }
            }
            ClusterEvent::Stranger { address } => self.events.push(NodeEvent::Knock { address }),
            ClusterEvent::Offended { node, what } => {
                self.events.report_offence(node, what.into());
            }
            ClusterEvent::Left => self.events.push(NodeEvent::Left),
        }
    }

    /// Merges one step of the received logs and returns whether there was anything to merge.
    fn merge_step(&mut self, now: Instant) -> bool {
        let was_there = self.catalogue.intake().take_turn();
        while let Some((author, applied)) = self.catalogue.intake().poll_applied() {
            self.intake(now).handle_merged(author, applied);
            self.requests().ask_for_logs(now);
        }
        was_there
    }

    /// Carries out the actions of the keyring.
    fn follow_membership(&mut self, now: Instant) {
        while let Some(action) = self.trust.keyring.poll_action() {
            match action {
                TrustAction::Store(write) => self.trust.write = Some(write),
                TrustAction::Spread(statement) => self.spread(now, statement),
                TrustAction::Enforce => self.enforce_membership(now),
                TrustAction::Answer(answer) => self.trust.answers.push_back(answer),
            }
        }
    }

    /// Passes a statement on to the other members, and reports it.
    fn spread(&mut self, now: Instant, statement: SignedStatement) {
        self.cluster
            .spread_statement(now, statement.encode().into());
        // A confirmation is not an event, because the confirmed farewell was one.
        let ledger = self.trust().ledger();
        if !ledger.is_some_and(|it| it.confirms(&statement)) {
            self.events.push(NodeEvent::Stated(Box::new(statement)));
        }
    }

    /// Removes former members, applies the certified names, the owners and the readers, and
    /// schedules the request for a missing secret.
    fn enforce_membership(&mut self, now: Instant) {
        self.cluster.enforce_membership(now);
        self.catalogue
            .set_certified_names(certified_names(self.trust.view()));
        self.catalogue.set_owners(self.trust.owners());
        self.own().follow_readers(now);
        for author in self.catalogue.logs().authors() {
            if !self.trust().is_member(&author) {
                let mut intake = self.intake(now);
                intake.set_live(author, false);
                intake.forget_log(&author);
            }
        }
        if self.trust().wanted_epoch().is_some() {
            self.trust.secret_due.get_or_insert(now);
        }
        self.events.push(NodeEvent::MembershipChanged);
    }

    fn requests(&mut self) -> PeerRequests<'_> {
        PeerRequests {
            cluster: &self.cluster,
            catalogue: &self.catalogue,
            trust: self.trust.keyring.view(),
            questions: &mut self.questions,
            pulls: &mut self.logs.pulls,
        }
    }
}

/// Returns the address of a live member.
fn live_address(cluster: &Cluster, node: &NodeId) -> Option<SocketAddr> {
    let mut live = cluster.live();
    let member = live.find(|member| member.node == *node);
    member.map(|member| member.address)
}

/// Returns the heads of `ours` that are newer than the same author's head in `theirs`, or whose
/// author has no head there.
fn newer_than(ours: Vec<SignedHead>, theirs: &[SignedHead]) -> Vec<SignedHead> {
    let known: BTreeMap<NodeId, (u64, u64)> = theirs
        .iter()
        .map(|signed| (signed.head.author, signed.head.rank()))
        .collect();
    let is_news = |signed: &SignedHead| {
        known
            .get(&signed.head.author)
            .is_none_or(|at| *at < signed.head.rank())
    };
    ours.into_iter().filter(is_news).collect()
}

fn encode_part(part: LogPart) -> Option<tcp::LogPart> {
    let packed = tcp::pack_records(&part.records).ok()?;
    // If not all records fit, the peer requests the rest after the last record of this part.
    let last = part.last && packed.count == part.records.len();
    Some(tcp::LogPart {
        head: part.head,
        fresh: part.fresh,
        records: packed.bytes,
        last,
    })
}

/// Writes an event of the membership to the trace.
fn trace_membership(event: &ClusterEvent) {
    const TARGET: &str = "p2pfs::member";
    match event {
        ClusterEvent::Up(Member { node, address, .. }) => {
            debug!(target: TARGET, peer = %node, %address, "the node is live");
        }
        ClusterEvent::Down { node, why } => {
            debug!(target: TARGET, peer = %node, "the node is down: {why:?}");
        }
        ClusterEvent::Away { node } => debug!(target: TARGET, peer = %node, "the node is away"),
        ClusterEvent::Head { head, .. } => {
            trace!(target: TARGET, bytes = head.bytes.len(), "a head arrived");
        }
        ClusterEvent::PushPull { node, address } => {
            trace!(target: TARGET, peer = %node, %address, "lists of members are exchanged");
        }
        ClusterEvent::Offended { node, what } => {
            debug!(target: TARGET, peer = %node, "the node broke a rule: {what:?}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
