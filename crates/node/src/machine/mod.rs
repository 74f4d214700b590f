//! The node without sockets, disks and clock: membership, catalogue and the connection between
//! them.
//!
//! Owns the membership machine, the catalogue, and the schedule of pulls. It decides when a head is
//! published, which log is pulled from which node, and what a peer is answered. It moves no
//! content: holders and offers that it learns of become events. It is pure: time, datagrams and
//! responses are arguments, and a seed makes it repeatable. So tests run whole clusters of it in
//! virtual time.
//!
//! An error here is always caused by another node: a bad head or part is dropped and counted, and
//! the state stays as it was.

mod answers;
mod blame;
mod heads;
pub mod lists;
pub mod questions;
mod readers;
mod trust;
pub mod unserved;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::{debug, trace};

use super::offence::Offence;
use super::published::OwnReaders;
use super::pulls::Pulls;
use p2pfs_catalogue::{Catalogue, Change, SWEEP_STEP_RECORDS, View};
use p2pfs_membership::{
    Cluster, ClusterConfig, DownReason, Event as ClusterEvent, Leave, Member, MemberStatus,
    Transmit,
};
use p2pfs_proto::trust::{Keyring, NodeKey, SignedStatement};
use p2pfs_proto::wire::native::record::{Entry, Fact, ShareIndex, SignedHead};
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_proto::wire::native::udp::{GET_HASHES_MAX, Message, OfferSummary};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{Generation, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// How long own changes are collected before a head is signed for them. A scan of many files makes
/// few heads, and a single file waits unnoticeably.
const PUBLISH_AFTER: Duration = Duration::from_millis(10);
/// Minimum interval between two heads of this node.
const PUBLISH_SPACING: Duration = Duration::from_millis(100);
/// Separates the random stream for secrets from the others of the seed.
const SECRETS_STREAM: u64 = 0x7365_6372_6574;
/// Maximum number of own facts queued for the next head. More are recorded at once, before it.
pub const UNSAID_MAX: usize = 16_384;
/// Number of queued events beyond which further `Wanted`, `Offered` and `Offended` events are
/// dropped. All other events are queued. An owner that takes the events after each call never
/// reaches it. A dropped request or offer costs a retry.
pub const EVENTS_MAX: usize = 4096;

/// Identity and settings of a node.
pub struct MachineConfig {
    /// Key of this node.
    pub key: Arc<NodeKey>,
    /// Name of this node.
    pub name: NodeName,
    /// Address at which other nodes reach it.
    pub advertised: SocketAddr,
    /// Generation of this life.
    pub generation: Generation,
    /// Secrets and ledger of the cluster.
    pub keyring: Arc<Keyring>,
    /// Settings of the membership.
    pub cluster: ClusterConfig,
    /// Seed of all randomness; from the operating system in production.
    pub seed: u64,
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

/// An event or a task for the owner of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Another node is alive.
    PeerUp(Member),
    /// A live node is now reached at another address.
    PeerMoved(Member),
    /// Another node is gone.
    PeerDown {
        /// The node that is gone.
        node: NodeId,
        /// How it ended.
        why: DownReason,
    },
    /// Another node stopped cleanly. Its entries stay for a while.
    PeerAway {
        /// The stopped node.
        node: NodeId,
    },
    /// Another node asks which nodes have these contents: answer with [`Machine::send`].
    Wanted {
        /// The asking node.
        from: NodeId,
        /// Hashes of the contents.
        hashes: Vec<ContentHash>,
    },
    /// Another node offers a content.
    Offered {
        /// The offering node.
        from: NodeId,
        /// Its address.
        address: SocketAddr,
        /// The offer.
        offer: OfferSummary,
    },
    /// This node has a new generation: store it as the lower bound for the next start.
    Renewed {
        /// The new generation.
        generation: Generation,
    },
    /// Two machines use one key, and a person must act. The event is repeated for each further
    /// address.
    CopiedKey {
        /// The node whose key is copied, possibly this one.
        node: NodeId,
        /// The known addresses of the other machine, or of both machines if the key is another
        /// node's.
        addresses: Vec<SocketAddr>,
    },
    /// One of the two machines has been silent for a while.
    CopyGone {
        /// The node whose key was copied.
        node: NodeId,
    },
    /// Another node breaks the rules of the cluster, and a person should know.
    Offended {
        /// The node that broke a rule.
        node: NodeId,
        /// The broken rule.
        what: Offence,
    },
    /// A new statement of a member admits or expels a node, or changes the secret or an owner.
    Stated(Box<SignedStatement>),
    /// The set of members has changed: end the connections with former members.
    MembershipChanged,
    /// Find out over TCP which node is at this address, and report it with [`Machine::knocked`].
    Knock {
        /// The address to probe.
        address: SocketAddr,
    },
    /// This node has more names than other nodes keep of one node. The excess is not announced.
    NamesRefused,
    /// The farewell is sent.
    Left,
}

/// Counts of dropped input, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineCounters {
    /// Heads that did not decode or whose signature is wrong.
    pub bad_heads: u64,
    /// Parts of logs that did not match their head.
    pub bad_parts: u64,
    /// Own facts that the log could not take.
    pub refused_facts: u64,
    /// Heads of non-members, or beyond the limits on nodes and records.
    pub refused_heads: u64,
    /// Member lists that did not decode.
    pub bad_member_lists: u64,
    /// Application messages that did not decode.
    pub bad_messages: u64,
}

/// The state machines of one node.
pub struct Machine {
    me: NodeId,
    trust: TrustProgress,
    rng: StdRng,
    cluster: Cluster,
    catalogue: Catalogue,
    pulls: Pulls,
    /// Logs that are being merged: by author, the node that sent the part, and its head.
    taken_in: BTreeMap<NodeId, (NodeId, SignedHead)>,
    heads: HeadExchange,
    readers: ShareReaders,
    requests: RequestTables,
    events: VecDeque<NodeEvent>,
    counters: MachineCounters,
}

/// The key of this node, and how far the changes of the cluster are applied.
struct TrustProgress {
    key: Arc<NodeKey>,
    keyring: Arc<Keyring>,
    /// Revision of the keyring that was last applied.
    seen_revision: u64,
    /// When to ask a member for the secret of a new epoch.
    secret_due: Option<Instant>,
}

/// The exchange of heads with other nodes.
struct HeadExchange {
    /// Whether another node's log or presence has changed since the last view.
    unshown: bool,
    /// The live members that were asked for their heads, and whether they answered.
    told: BTreeMap<NodeId, HeadsAnswer>,
    publish: HeadSchedule,
    /// Own facts that are not in the log yet. So the log matches its head until the next one: a log
    /// ahead of its head cannot be pulled.
    unsaid: Vec<Fact>,
}

/// The readers of this node's shares.
#[derive(Default)]
struct ShareReaders {
    /// The readers of each own share, as configured.
    configured: BTreeMap<ShareIndex, Option<Vec<String>>>,
    meant: Arc<OwnReaders>,
}

/// The requests to other nodes and from them.
#[derive(Default)]
struct RequestTables {
    questions: questions::QuestionTable,
    list_paces: lists::ListPaces,
}

/// The outcome of the requests to a node for its heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadsAnswer {
    Arrived,
    /// The node was not reached at its address, or did not answer, this many times in a row.
    Failed {
        tries: u32,
    },
}

/// The schedule of the next head.
#[derive(Debug, Default)]
struct HeadSchedule {
    due: Option<Instant>,
    not_before: Option<Instant>,
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
            config.keyring.clone(),
            config.seed,
            now,
        );
        let mut machine = Self {
            me,
            trust: TrustProgress {
                key: config.key,
                // The catalogue may contain nodes that left while this node was stopped.
                seen_revision: 0,
                keyring: config.keyring,
                secret_due: None,
            },
            rng: StdRng::seed_from_u64(config.seed ^ SECRETS_STREAM),
            cluster,
            catalogue,
            pulls: Pulls::new(StdRng::seed_from_u64(config.seed)),
            taken_in: BTreeMap::new(),
            heads: HeadExchange {
                unshown: false,
                told: BTreeMap::new(),
                publish: HeadSchedule {
                    due: Some(now),
                    not_before: None,
                },
                unsaid: Vec::new(),
            },
            readers: ShareReaders::default(),
            requests: RequestTables::default(),
            events: VecDeque::new(),
            counters: MachineCounters::default(),
        };
        machine.follow_owners();
        machine
    }

    /// Handles a received datagram.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.cluster.handle_message(now, from, datagram);
        self.advance(now);
    }

    /// Handles the time of [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cluster.handle_timeout(now);
        if self.heads.publish.due.is_some_and(|due| due <= now) {
            self.publish_head(now);
        }
        self.ask_for_secret(now);
        self.catalogue.unserved().expire(now);
        self.advance(now);
    }

    /// Returns when [`Self::handle_timeout`] should be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.cluster.poll_timeout(),
            self.pulls.poll_timeout(),
            self.heads.publish.due,
            self.trust.secret_due,
            self.requests.questions.next_again(),
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
        self.requests.questions.poll()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// Returns whether the namespace changed since [`Self::view`] was called.
    pub fn has_changes(&self) -> bool {
        self.catalogue.is_dirty() && !self.catalogue.intake_queue().is_taking_in()
    }

    /// Returns the next change of the namespace. Call it after [`Self::view`].
    pub fn poll_change(&mut self) -> Option<Change> {
        self.catalogue.poll_change()
    }

    /// Returns the current namespace.
    pub fn view(&mut self) -> Arc<View> {
        self.heads.unshown = false;
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

    /// Records the current entry of a name in the own shares.
    pub fn put(&mut self, now: Instant, share: ShareIndex, path: SharedPath, entry: Entry) {
        self.queue_own_fact(now, Fact::Entry { share, path, entry });
    }

    /// Records that a name in the own shares is gone.
    pub fn remove(&mut self, now: Instant, share: ShareIndex, path: &SharedPath) {
        let path = path.clone();
        self.queue_own_fact(now, Fact::Removed { share, path });
    }

    /// Returns every known node.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.cluster.members()
    }

    /// Returns the address of a live member.
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.cluster
            .live()
            .find(|member| member.node == *node)
            .map(|member| member.address)
    }

    /// Adds another address to join through.
    pub fn add_seed(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.add_seed(now, address);
        self.advance(now);
    }

    /// Changes the address at which this node is reached.
    pub fn move_to(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.move_to(now, address);
        self.advance(now);
    }

    /// Handles an address announced on the LAN.
    pub fn hint(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.hint(now, address);
        self.advance(now);
    }

    /// Asks all nodes for contents that no reachable holder has. For a private content only its
    /// readers are asked.
    pub fn broadcast_wanted(&mut self, now: Instant, hashes: Vec<ContentHash>) {
        let (private, hashes): (Vec<_>, Vec<_>) = hashes
            .into_iter()
            .partition(|hash| self.catalogue.is_private(hash));
        self.ask_readers(now, &private);
        for some in hashes.chunks(GET_HASHES_MAX) {
            if let Ok(body) = (Message::Get {
                hashes: some.to_vec(),
            })
            .encode()
            {
                // Nodes that are not reached this time are asked again next time.
                let _reached = self.cluster.broadcast(now, body.into());
            }
        }
        self.advance(now);
    }

    /// Sends a message to one node.
    pub fn send(&mut self, now: Instant, to: NodeId, message: &Message) {
        if let Ok(body) = message.encode() {
            // If the node is gone, the message is not needed.
            let _gone = self.cluster.send(now, to, body.into());
        }
        self.advance(now);
    }

    /// Begins the farewell. [`NodeEvent::Left`] follows once it is sent.
    pub fn leave(&mut self, now: Instant, leave: Leave) {
        self.record_own();
        self.cluster.leave(now, leave);
        self.advance(now);
    }

    /// Returns the counters of the state machine.
    pub fn counters(&self) -> MachineCounters {
        self.counters
    }

    /// Continues the work on a large change and returns whether more is left. Call it between other
    /// work.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let has_more = self.restate(now) | self.merge_step(now);
        self.catalogue.advance(SWEEP_STEP_RECORDS) || has_more
    }

    /// Returns the membership.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Handles the events of the membership, then sends the requests that are due.
    fn advance(&mut self, now: Instant) {
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.follow_membership(now);
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.review_haves(now);
        self.report_dropped_logs(now);
        self.ask_newcomers(now);
        self.ask_for_logs(now);
    }

    fn handle_cluster_event(&mut self, now: Instant, event: ClusterEvent) {
        trace_membership(&event);
        match event {
            ClusterEvent::Up(member) => self.handle_up(member),
            ClusterEvent::Moved(member) => self.handle_move(member),
            ClusterEvent::Down { node, why } => self.handle_down(now, node, why),
            ClusterEvent::Away { node } => self.push_event(NodeEvent::PeerAway { node }),
            ClusterEvent::Head(head) => self.handle_head_bytes(now, &head.bytes),
            ClusterEvent::Message { from, body } => self.handle_application(from, &body),
            ClusterEvent::PushPull { node, address } => self.ask_push_pull(node, address),
            ClusterEvent::Renewed { generation } => {
                self.push_event(NodeEvent::Renewed { generation });
            }
            ClusterEvent::CopiedKey { node, addresses } => {
                self.push_event(NodeEvent::CopiedKey { node, addresses });
            }
            ClusterEvent::CopyGone { node } => self.handle_copy_gone(node),
            ClusterEvent::Statement { from, bytes } => self.receive_statement(now, from, &bytes),
            ClusterEvent::Stranger { address } => self.push_event(NodeEvent::Knock { address }),
            ClusterEvent::Offended { node, what } => {
                self.report_offence(node, what.into());
            }
            ClusterEvent::Left => self.push_event(NodeEvent::Left),
        }
    }

    fn handle_up(&mut self, member: Member) {
        self.set_live(member.node, true);
        // A late answer may be from an earlier life of the node.
        self.heads.told.remove(&member.node);
        self.requests
            .questions
            .add_newcomer(member.node, member.address);
        self.push_event(NodeEvent::PeerUp(member));
    }

    fn handle_move(&mut self, member: Member) {
        self.requests
            .questions
            .readdress(member.node, member.address);
        // The last requests may have failed because they went to an address where the node is not.
        if let Some(HeadsAnswer::Failed { .. }) = self.heads.told.get(&member.node) {
            self.heads.told.remove(&member.node);
            self.requests
                .questions
                .add_newcomer(member.node, member.address);
        }
        self.push_event(NodeEvent::PeerMoved(member));
    }

    fn handle_down(&mut self, now: Instant, node: NodeId, why: DownReason) {
        self.set_live(node, false);
        self.heads.told.remove(&node);
        self.requests.questions.forget_newcomer(&node);
        self.pulls.forget_member(now, node);
        self.push_event(NodeEvent::PeerDown { node, why });
    }

    fn set_live(&mut self, node: NodeId, is_live: bool) {
        // Its known entries enter or leave the next view.
        self.heads.unshown = true;
        if self.catalogue.set_live(node, is_live).is_err() {
            self.counters.refused_heads += 1;
        }
    }

    fn handle_application(&mut self, from: NodeId, body: &Bytes) {
        let event = match (Message::decode(body), self.address_of(&from)) {
            (Ok(Message::Get { hashes }), _) => NodeEvent::Wanted { from, hashes },
            (Ok(Message::Offer(offer)), Some(address)) => NodeEvent::Offered {
                from,
                address,
                offer,
            },
            (Ok(Message::Offer(_)), None) => return,
            (Err(_), _) => {
                self.counters.bad_messages += 1;
                return self.report_offence(from, Offence::Garbage);
            }
        };
        if self.events.len() < EVENTS_MAX {
            self.push_event(event);
        }
    }

    fn push_event(&mut self, event: NodeEvent) {
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests;

/// Logs what the membership decided about a node.
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
        ClusterEvent::Head(head) => {
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
