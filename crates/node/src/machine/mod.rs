//! The node without its sockets, disks and clock: membership, catalogue and what they owe each
//! other.
//!
//! Owns the cluster's machine, the catalogue, and the schedule of pulls between them; decides when
//! a head is published, whose log is pulled from whom, and what is answered to a peer. It moves no
//! content: what it learns of holders and offers goes out as events. Pure: time, datagrams and
//! answers are handed in, and a seed makes it repeatable, so that tests run whole clusters of it in
//! virtual time.
//!
//! An error here is always somebody else's: a bad head or part is dropped and counted, the state
//! is as before.

mod answers;
mod blame;
mod heads;
pub mod lists;
pub mod questions;
mod readers;
mod trust;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

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

/// How long own changes are gathered before a head is signed for them: a scan of many files makes
/// few heads, and one file waits no longer than anyone notices.
const PUBLISH_AFTER: Duration = Duration::from_millis(10);
/// The shortest time between two heads of this node.
const PUBLISH_SPACING: Duration = Duration::from_millis(100);
/// Keeps one use of the seed apart from the others.
const SECRETS_STREAM: u64 = 0x7365_6372_6574;
/// Own facts that wait for the next head; more are recorded at once, before it.
pub const UNSAID_MAX: usize = 16_384;
/// Events that wait to be taken. An owner that takes them after each call never meets it; beyond
/// it Gets and Offers are dropped, which costs a retry.
pub const EVENTS_MAX: usize = 4096;

/// Who this node is and how it works.
pub struct MachineConfig {
    /// This node's key.
    pub key: Arc<NodeKey>,
    /// What it calls itself.
    pub name: NodeName,
    /// Where it is reached.
    pub advertised: SocketAddr,
    /// Which life this is.
    pub generation: Generation,
    /// The secrets of the cluster.
    pub keyring: Arc<Keyring>,
    /// Membership.
    pub cluster: ClusterConfig,
    /// For everything random; from the operating system in production.
    pub seed: u64,
}

/// A question to another node, to be asked over TCP.
#[derive(Debug)]
pub struct Outgoing {
    /// To be handed back with the answer.
    pub id: RequestId,
    /// Whom to ask.
    pub node: NodeId,
    pub address: SocketAddr,
    pub request: Request,
}

/// Tells answers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Something that the owner should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Another node is alive.
    PeerUp(Member),
    /// Another node is gone.
    PeerDown {
        node: NodeId,
        /// How it ended.
        why: DownReason,
    },
    /// Another node stopped cleanly; its entries stay for a while.
    PeerAway { node: NodeId },
    /// Another node asks who has these contents: answer with [`Machine::send`].
    Wanted {
        /// Who asks.
        from: NodeId,
        /// What for.
        hashes: Vec<ContentHash>,
    },
    /// Another node says what it has.
    Offered {
        /// Who offers.
        from: NodeId,
        /// Where it is reached.
        address: SocketAddr,
        /// What it says it has.
        offer: OfferSummary,
    },
    /// This node's life was renewed: remember it as the lowest for the next start.
    Renewed {
        /// What it is now.
        generation: Generation,
    },
    /// Two machines use one key: a person must look. Comes again with every further address.
    CopiedKey {
        node: NodeId,
        /// Where the other machine is, or of another node's key, where either is, as far as that
        /// is known.
        addresses: Vec<SocketAddr>,
    },
    /// One of the two was not heard for a while.
    CopyGone { node: NodeId },
    /// Another node breaks the rules of the cluster: a person should know.
    Offended { node: NodeId, what: Offence },
    /// A member has stated who comes or goes; told where it was news.
    Stated(Box<SignedStatement>),
    /// Who is in is another than before: connections with those who are out are to be ended.
    MembershipChanged,
    /// Find out over TCP who is at this address, and say it with [`Machine::knocked`].
    Knock { address: SocketAddr },
    /// This node has more names than others keep of one: those beyond are not said.
    NamesRefused,
    /// The farewell is said.
    Left,
}

/// What was dropped, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineCounters {
    /// Heads that did not decode or whose signature is wrong.
    pub bad_heads: u64,
    /// Parts of logs that did not fit their head.
    pub bad_parts: u64,
    /// Own facts that the log could not take.
    pub refused_facts: u64,
    /// Heads of more nodes or records than are kept.
    pub refused_heads: u64,
    /// Member lists that did not decode.
    pub bad_member_lists: u64,
    /// Application messages that did not decode.
    pub bad_messages: u64,
}

/// The state machines of one node.
pub struct Machine {
    me: NodeId,
    key: Arc<NodeKey>,
    keyring: Arc<Keyring>,
    /// Of the keyring, as it was followed last.
    seen_revision: u64,
    /// When a member is asked for the secret of a new epoch.
    secret_due: Option<Instant>,
    rng: StdRng,
    cluster: Cluster,
    catalogue: Catalogue,
    pulls: Pulls,
    /// Whose logs are being taken in: who gave them, under which head.
    taken_in: BTreeMap<NodeId, (NodeId, SignedHead)>,
    /// Whether something of another's log was taken in since the last view.
    unshown: bool,
    /// Which live members have said, or could not say, which heads they have.
    told: BTreeSet<NodeId>,
    questions: questions::Questions,
    events: VecDeque<NodeEvent>,
    publish: Publish,
    /// Own facts that the log has not taken yet, so that it stays what its head says until the
    /// next head: a log that runs ahead of its head cannot be pulled.
    unsaid: Vec<Fact>,
    /// Who reads which of the own shares, as it was written.
    readers: BTreeMap<ShareIndex, Option<Vec<String>>>,
    readers_meant: Arc<OwnReaders>,
    list_paces: lists::ListPaces,
    counters: MachineCounters,
}

/// When the next head is due.
#[derive(Debug, Default)]
struct Publish {
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Machine {
    /// A node that knows what `catalogue` holds (of an earlier run, or nothing).
    pub fn new(config: MachineConfig, mut catalogue: Catalogue, now: Instant) -> Self {
        catalogue.begin_own(config.generation.0);
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
            key: config.key,
            // the catalogue may know nodes that went while this one was not there
            seen_revision: 0,
            keyring: config.keyring,
            secret_due: None,
            rng: StdRng::seed_from_u64(config.seed ^ SECRETS_STREAM),
            cluster,
            catalogue,
            pulls: Pulls::new(StdRng::seed_from_u64(config.seed)),
            taken_in: BTreeMap::new(),
            unshown: false,
            told: BTreeSet::new(),
            questions: questions::Questions::default(),
            events: VecDeque::new(),
            publish: Publish {
                due: Some(now),
                not_before: None,
            },
            unsaid: Vec::new(),
            readers: BTreeMap::new(),
            readers_meant: Arc::default(),
            list_paces: lists::ListPaces::default(),
            counters: MachineCounters::default(),
        };
        machine.follow_owners();
        machine
    }

    /// A datagram came.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.cluster.handle_message(now, from, datagram);
        self.advance(now);
    }

    /// The time of [`Self::poll_timeout`] came.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cluster.handle_timeout(now);
        if self.publish.due.is_some_and(|due| due <= now) {
            self.publish_head(now);
        }
        self.ask_for_secret(now);
        self.advance(now);
    }

    /// When [`Self::handle_timeout`] should be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.cluster.poll_timeout(),
            self.pulls.poll_timeout(),
            self.publish.due,
            self.secret_due,
        ];
        times.into_iter().flatten().min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.cluster.poll_transmit()
    }

    /// A question to ask.
    pub fn poll_request(&mut self) -> Option<Outgoing> {
        self.questions.poll()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// Whether the namespace changed since [`Self::view`] was taken.
    pub fn has_changes(&self) -> bool {
        self.catalogue.is_dirty() && !self.catalogue.is_taking_in()
    }

    /// What of the namespace changed; to be asked after [`Self::view`].
    pub fn poll_change(&mut self) -> Option<Change> {
        self.catalogue.poll_change()
    }

    /// The namespace as it is now.
    pub fn view(&mut self) -> Arc<View> {
        self.unshown = false;
        self.catalogue.view()
    }

    /// The catalogue, to read or persist it.
    pub fn catalogue(&mut self) -> &mut Catalogue {
        &mut self.catalogue
    }

    /// The catalogue, to look at.
    pub fn known(&self) -> &Catalogue {
        &self.catalogue
    }

    /// A name of our own shares has this content now.
    pub fn put(&mut self, now: Instant, share: ShareIndex, path: SharedPath, entry: Entry) {
        self.say(now, Fact::Entry { share, path, entry });
    }

    /// A name of our own shares is gone.
    pub fn remove(&mut self, now: Instant, share: ShareIndex, path: &SharedPath) {
        let path = path.clone();
        self.say(now, Fact::Removed { share, path });
    }

    /// Every node that is known.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.cluster.members()
    }

    /// Where a living member is reached.
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.cluster
            .live()
            .find(|member| member.node == *node)
            .map(|member| member.address)
    }

    /// Another address to join through.
    pub fn add_seed(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.add_seed(now, address);
        self.advance(now);
    }

    /// This node is reached at another address from now on.
    pub fn move_to(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.move_to(now, address);
        self.advance(now);
    }

    /// An address that the LAN told of.
    pub fn hint(&mut self, now: Instant, address: SocketAddr) {
        self.cluster.hint(now, address);
        self.advance(now);
    }

    /// Asks everyone who should know for contents that no reachable holder has: of one that is for
    /// some nodes alone, those.
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
                // whoever is not reached this time is asked again with the next
                let _reached = self.cluster.broadcast(now, body.into());
            }
        }
        self.advance(now);
    }

    /// Sends a message to one node.
    pub fn send(&mut self, now: Instant, to: NodeId, message: &Message) {
        if let Ok(body) = message.encode() {
            // one that is gone meanwhile needs no message
            let _gone = self.cluster.send(now, to, body.into());
        }
        self.advance(now);
    }

    /// Says farewell; [`NodeEvent::Left`] comes when it is said.
    pub fn leave(&mut self, now: Instant, leave: Leave) {
        self.record_own();
        self.cluster.leave(now, leave);
        self.advance(now);
    }

    /// What the state machine itself refused.
    pub fn counters(&self) -> MachineCounters {
        self.counters
    }

    /// Works on what is left of a large change; whether more is left. To be called between other
    /// work.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let has_more = self.restate(now) | self.take_in(now);
        self.catalogue.advance(SWEEP_STEP_RECORDS) || has_more
    }

    /// The membership's part.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Takes what the cluster has to tell, then asks what is due to be asked.
    fn advance(&mut self, now: Instant) {
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.follow_membership(now);
        while let Some(event) = self.cluster.poll_event() {
            self.handle_cluster_event(now, event);
        }
        self.review_haves(now);
        self.note_given_way(now);
        self.ask_newcomers();
        self.ask_for_logs(now);
    }

    fn handle_cluster_event(&mut self, now: Instant, event: ClusterEvent) {
        match event {
            ClusterEvent::Up(member) => self.handle_up(member),
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
            ClusterEvent::Statement { from, bytes } => self.hear_statement(now, from, &bytes),
            ClusterEvent::Stranger { address } => self.push_event(NodeEvent::Knock { address }),
            ClusterEvent::Offended { node, what } => {
                self.blame(node, what.into());
            }
            ClusterEvent::Left => self.push_event(NodeEvent::Left),
        }
    }

    fn handle_up(&mut self, member: Member) {
        self.set_live(member.node, true);
        // what came late of an earlier time
        self.told.remove(&member.node);
        self.questions.comes(member.node, member.address);
        self.push_event(NodeEvent::PeerUp(member));
    }

    fn handle_down(&mut self, now: Instant, node: NodeId, why: DownReason) {
        self.set_live(node, false);
        self.told.remove(&node);
        self.questions.forget_newcomer(&node);
        self.pulls.forget_member(now, node);
        self.push_event(NodeEvent::PeerDown { node, why });
    }

    fn set_live(&mut self, node: NodeId, is_live: bool) {
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
                return self.blame(from, Offence::Garbage);
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
