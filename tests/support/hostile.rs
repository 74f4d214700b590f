//! A hostile member, built from the library. It proves its membership, takes part in the gossip of
//! daemons on real sockets, and sends what no honest node would.

mod records;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use p2pfs_catalogue::SetDigest;
use p2pfs_membership::{Cluster as Membership, ClusterConfig, Event, Member};
use p2pfs_proto::trust::{Claim, NodeKey, SignedStatement, Statement, TestKeyring};
use p2pfs_proto::wire::native::record::{
    Entry, Fact, Head, Kind, Record, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_proto::wire::native::tcp::{LogPart, Request, Response, pack_records};
use p2pfs_proto::wire::native::udp::{Body, DatagramFrame, Header, MAC_BYTES, Message, Salt};
use p2pfs_transfer::net::gossip::UdpInlet;
use p2pfs_transfer::net::peer::{Incoming, Lane, PeerLimits, PeerNet, Probed};
use p2pfs_transfer::net::{LedgerHandle, PortPair};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{Generation, NodeId, NodeName};
use p2pfs_types::path::SharedPath;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Maximum number of records in one part of a log.
const PART_RECORDS: usize = 4096;

/// An answer that replaces the one of an honest node.
pub(crate) type Answer = Box<dyn Fn(&Request) -> Option<Response> + Send>;
type HeldRequests = Box<dyn Fn(&Request) -> bool + Send>;

/// The member. Dropping it is like killing it.
pub(crate) struct Hostile {
    pub id: NodeId,
    key: Arc<NodeKey>,
    said: Arc<Mutex<Said>>,
    orders: mpsc::UnboundedSender<Order>,
    net: PeerNet,
    keyring: Arc<TestKeyring>,
    runtime: Runtime,
}

struct Said {
    /// The members that it knows, with their addresses.
    members: Vec<Member>,
    /// The salts with which the processes at these addresses seal.
    salts: BTreeMap<SocketAddr, Salt>,
    epoch: u64,
    records: Vec<Record>,
    head: Option<SignedHead>,
    answer: Answer,
    /// The requests for contents that it leaves unanswered.
    held: HeldRequests,
    offered: Vec<(NodeId, ContentHash)>,
}

enum Order {
    Spread(SignedHead),
    Broadcast(Bytes),
    Say(SocketAddr, DatagramFrame),
    Send(SocketAddr, Vec<u8>),
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

pub(crate) fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

/// Returns a fact that claims a file.
pub(crate) fn file(name: &str, hash: ContentHash, size_bytes: u64, seconds: i64) -> Fact {
    let kind = Kind::File {
        hash,
        size_bytes,
        executable: false,
    };
    entry(name, kind, seconds)
}

/// Returns a fact that claims a link.
pub(crate) fn link(name: &str, target: &str) -> Fact {
    let target = Bytes::copy_from_slice(target.as_bytes());
    entry(name, Kind::Symlink { target }, 1)
}

fn entry(name: &str, kind: Kind, seconds: i64) -> Fact {
    let time = Timestamp {
        seconds,
        nanoseconds: 0,
    };
    Fact::Entry {
        share: ShareIndex(0),
        path: path(name),
        entry: Entry {
            kind,
            mtime: time,
            version_time: time,
            sent_by: None,
            replaces: Vec::new(),
        },
    }
}

impl Hostile {
    /// Joins the cluster with that secret, as "eve".
    pub(crate) fn join(secret: &Path, seeds: &[SocketAddr]) -> Self {
        let keyring = TestKeyring::from_secret_file(secret).unwrap();
        Self::be(NodeKey::random(), keyring, seeds)
    }

    /// Continues as the node with this state: with its key, its certificate and its secret.
    pub(crate) fn go_on_as(state: &Path, seeds: &[SocketAddr]) -> Self {
        let key = NodeKey::load_or_create(state).unwrap();
        let name = "eve".parse().unwrap();
        let keyring =
            TestKeyring::load_or_create(state, &key, &name, unix_now().as_secs()).unwrap();
        Self::be(key, keyring, seeds)
    }

    fn be(key: NodeKey, keyring: TestKeyring, seeds: &[SocketAddr]) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (key, keyring) = (Arc::new(key), Arc::new(keyring));
        let now_s = unix_now();
        let said = Arc::new(Mutex::new(Said {
            members: Vec::new(),
            salts: BTreeMap::new(),
            epoch: now_s.as_secs(),
            records: Vec::new(),
            head: None,
            answer: Box::new(|_| None),
            held: Box::new(|_| false),
            offered: Vec::new(),
        }));
        let (orders, queue) = mpsc::unbounded_channel();
        let context = runtime.enter();
        let ports = PortPair::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = ports.local_addr();
        let (net, incoming) = PeerNet::listen(
            ports.listener,
            &key,
            ledger_of(&keyring),
            PeerLimits::default(),
        )
        .unwrap();
        let config = ClusterConfig {
            seeds: seeds.to_vec(),
            ..ClusterConfig::default()
        };
        let membership = Membership::new(
            config,
            key.clone(),
            address,
            Generation(now_s.as_secs()),
            keyring.reader(),
            u64::from(address.port()) ^ now_s.as_nanos() as u64,
            Instant::now(),
        );
        let life = Life {
            membership,
            udp: ports.udp.inlet().unwrap(),
            incoming,
            queue,
            said: said.clone(),
            keyring: keyring.clone(),
            unanswered: Vec::new(),
        };
        tokio::spawn(life.live());
        drop(context);
        Self {
            id: key.node_id(),
            key,
            said,
            orders,
            net,
            keyring,
            runtime,
        }
    }

    /// Sets its answers to requests.
    pub(crate) fn answer(&self, answer: impl Fn(&Request) -> Option<Response> + Send + 'static) {
        self.said.lock().unwrap().answer = Box::new(answer);
    }

    /// Leaves requests for contents unanswered from now on.
    pub(crate) fn hold_answers_about_contents(&self) {
        self.hold_answers(|_| true);
    }

    /// Leaves these requests for contents unanswered from now on.
    pub(crate) fn hold_answers(&self, which: impl Fn(&Request) -> bool + Send + 'static) {
        self.said.lock().unwrap().held = Box::new(which);
    }

    /// Announces these facts as its whole log, under a correct head.
    pub(crate) fn say(&self, facts: Vec<Fact>) {
        self.say_under(facts, |_| {});
    }

    /// Announces these facts under a head that `change` modifies before it is signed.
    pub(crate) fn say_under(&self, facts: Vec<Fact>, change: impl FnOnce(&mut Head)) {
        let mut digest = SetDigest::default();
        facts.iter().for_each(|fact| digest.add(fact));
        let mut said = self.said.lock().unwrap();
        said.epoch += 1;
        let mut head = Head {
            author: self.id,
            name: "eve".parse().unwrap(),
            epoch: said.epoch,
            sequence: facts.len() as u64,
            count: facts.len() as u64,
            floor: 0,
            digest: digest.digest(),
        };
        change(&mut head);
        let signed = self.sign(head);
        let numbered = facts.into_iter().zip(1..);
        said.records = numbered
            .map(|(fact, sequence)| Record { sequence, fact })
            .collect();
        said.head = Some(signed.clone());
        self.orders.send(Order::Spread(signed)).ok().unwrap();
    }

    /// Signs a head with this node's key, whatever author the head names.
    pub(crate) fn sign(&self, head: Head) -> SignedHead {
        let signature = self.key.sign(&head.signed_bytes());
        SignedHead { head, signature }
    }

    /// Returns the contents that peers offered to it.
    pub(crate) fn offered(&self) -> Vec<(NodeId, ContentHash)> {
        self.said.lock().unwrap().offered.clone()
    }

    /// Requests contents from all peers, as a reader does.
    pub(crate) fn want(&self, hashes: &[ContentHash]) {
        let hashes = hashes.to_vec();
        self.broadcast(&Message::Get { hashes }.encode().unwrap());
    }

    /// Sends one message to all peers.
    pub(crate) fn broadcast(&self, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        self.orders.send(Order::Broadcast(body)).ok().unwrap();
    }

    /// Returns the live member at an address, according to gossip.
    pub(crate) fn member_at(&self, address: SocketAddr) -> Option<Member> {
        let said = self.said.lock().unwrap();
        let members = said.members.iter();
        members.copied().find(|member| member.address == address)
    }

    /// Sends a gossip frame to one node, as this node.
    pub(crate) fn gossip(&self, to: SocketAddr, frame: DatagramFrame) {
        self.orders.send(Order::Say(to, frame)).ok().unwrap();
    }

    /// Sends a datagram with this counter, sealed as by another member's process. Returns false
    /// until a datagram has come from both processes.
    pub(crate) fn forge(
        &self,
        to: SocketAddr,
        of: SocketAddr,
        counter: u64,
        frame: DatagramFrame,
    ) -> bool {
        let said = self.said.lock().unwrap();
        let (Some(to_salt), Some(salt)) = (said.salts.get(&to), said.salts.get(&of)) else {
            return false;
        };
        let body = Body {
            to: *to_salt.first_chunk().unwrap(),
            proof: None,
            frame,
        };
        let secret = self.keyring.epochs().sealing();
        let header = Header {
            epoch: secret.id(),
            salt: *salt,
            counter,
        };
        let mut sealed = body.encode().unwrap();
        sealed.extend([7; MAC_BYTES]);
        let key = UnboundKey::new(&AES_256_GCM, &secret.udp_key(salt)).unwrap();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let clear = header.encode();
        LessSafeKey::new(key)
            .seal_in_place_append_tag(nonce, Aad::from(clear), &mut sealed)
            .unwrap();
        let datagram = [&clear[..], &sealed].concat();
        self.orders.send(Order::Send(to, datagram)).ok().unwrap();
        true
    }

    /// Signs anything.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> [[u8; 32]; 2] {
        self.key.sign(bytes)
    }

    /// Signs a claim about membership, whatever author the claim names.
    pub(crate) fn state(&self, by: NodeId, claim: Claim) -> SignedStatement {
        let founding = self.keyring.ledger().unwrap().history().swap_remove(0).0;
        let statement = Statement {
            cluster: founding.id(),
            by,
            by_term: 1,
            at_s: unix_now().as_secs(),
            before: None,
            claim,
        };
        statement.sign(&self.key)
    }

    /// Sends these statements to a node, as in a normal exchange of ledgers.
    pub(crate) fn tell(&self, address: SocketAddr, statements: &[SignedStatement]) {
        let statements = SignedStatement::encode_all(statements);
        let question = ([0u8; 32], self.keyring.epochs().newest().id(), statements);
        let question = postcard::to_stdvec(&question).unwrap().into();
        // A node that is busy with them may answer late.
        let _late = self.ask(address, Request::Trust { question });
    }

    /// Returns the node at an address.
    pub(crate) fn who_is_at(&self, address: SocketAddr) -> NodeId {
        match self.runtime.block_on(self.net.probe(address)) {
            Probed::Member(node) => node,
            other => panic!("no member at {address}: {other:?}"),
        }
    }

    /// Sends a request to a node that may refuse this member. Returns `None` without an answer.
    pub(crate) fn try_ask(&self, address: SocketAddr, request: Request) -> Option<Response> {
        let Probed::Member(node) = self.runtime.block_on(self.net.probe(address)) else {
            return None;
        };
        let asked = self.net.request(node, address, Lane::Urgent, request);
        self.runtime.block_on(asked).ok()
    }

    /// Sends a request to a node. Returns `None` without an answer.
    pub(crate) fn ask(&self, address: SocketAddr, request: Request) -> Option<Response> {
        let node = self.who_is_at(address);
        let asked = self.net.request(node, address, Lane::Urgent, request);
        self.runtime.block_on(asked).ok()
    }

    /// Sends all these requests to a node at once and waits for no answer.
    pub(crate) fn ask_all(&self, address: SocketAddr, requests: impl Iterator<Item = Request>) {
        let node = self.who_is_at(address);
        for request in requests {
            let net = self.net.clone();
            let asked = async move { net.request(node, address, Lane::Urgent, request).await };
            self.runtime.spawn(asked);
        }
    }

    /// Returns requests that tell of `count` made-up nodes, each with a key of its own, as members
    /// and as authors of logs.
    pub(crate) fn made_up_nodes(&self, count: usize) -> Vec<Request> {
        let keys: Vec<_> = (0..count).map(|_| Arc::new(NodeKey::random())).collect();
        let list_of = |key: &Arc<NodeKey>| {
            let life = Membership::new(
                ClusterConfig::default(),
                key.clone(),
                ([10, 9, 9, 9], 9).into(),
                Generation(7),
                self.keyring.reader(),
                7,
                Instant::now(),
            );
            life.export_members()
        };
        let requests = keys.chunks(2050).flat_map(|keys| {
            let members: Vec<u8> = keys.iter().flat_map(list_of).collect();
            let heads = keys.iter().map(|key| Self::made_up_head(key)).collect();
            let members = members.into();
            [Request::Members { members }, Request::Heads { heads }]
        });
        requests.collect()
    }

    fn made_up_head(key: &NodeKey) -> SignedHead {
        let head = Head {
            author: key.node_id(),
            name: NodeName::from_host("made-up"),
            epoch: 1,
            sequence: 1,
            count: 1,
            floor: 0,
            digest: [7; 32],
        };
        let signature = key.sign(&head.signed_bytes());
        SignedHead { head, signature }
    }

    /// Connects to a node with `count` made-up keys, and holds the connections.
    pub(crate) fn crowd(&self, secret: &Path, address: SocketAddr, count: usize) -> Vec<PeerNet> {
        let node = self.who_is_at(address);
        let keyring = Arc::new(TestKeyring::from_secret_file(secret).unwrap());
        let _context = self.runtime.enter();
        let connect = |_| {
            let here = "127.0.0.1:0".parse().unwrap();
            let (key, ledger) = (NodeKey::random(), ledger_of(&keyring));
            let bound = PeerNet::bind(here, &key, ledger, PeerLimits::default());
            let (net, _) = bound.unwrap();
            // A refused connection serves as well.
            let _refused = self.runtime.block_on(net.warm(node, address, Lane::Urgent));
            net
        };
        (0..count).map(connect).collect()
    }
}

/// Returns the access of connections to a keyring, and carries out their commands on the runtime.
fn ledger_of(keyring: &Arc<TestKeyring>) -> LedgerHandle {
    let (ledger, mut commands) = LedgerHandle::new(keyring.reader());
    let keyring = keyring.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            keyring.command(command);
        }
    });
    ledger
}

struct Life {
    membership: Membership,
    udp: UdpInlet,
    incoming: mpsc::Receiver<Incoming>,
    queue: mpsc::UnboundedReceiver<Order>,
    said: Arc<Mutex<Said>>,
    keyring: Arc<TestKeyring>,
    unanswered: Vec<Incoming>,
}

impl Life {
    async fn live(mut self) {
        let mut buffer = vec![0; 4096];
        loop {
            while let Some(transmit) = self.membership.poll_transmit() {
                self.udp.send(transmit.to, &transmit.datagram);
            }
            while let Some(event) = self.membership.poll_event() {
                self.hear(event);
            }
            self.said.lock().unwrap().members = self.membership.live().collect();
            let due = self.membership.poll_timeout();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            tokio::select! {
                Ok((length, from)) = self.udp.recv(&mut buffer) => {
                    if let Ok((header, _)) = Header::decode(&buffer[..length]) {
                        self.said.lock().unwrap().salts.insert(from, header.salt);
                    }
                    self.membership.handle_message(Instant::now(), from, &buffer[..length]);
                }
                Some(incoming) = self.incoming.recv() => {
                    if self.leaves_unanswered(&incoming.request) {
                        // The connection lives, and no answer arrives on it.
                        self.unanswered.push(incoming);
                    } else {
                        let response = self.response(incoming.from, &incoming.request);
                        incoming.reply.send(response);
                    }
                }
                order = self.queue.recv() => match order {
                    Some(order) => self.follow(order),
                    None => return,
                },
                () = tokio::time::sleep_until(due.into()) => {
                    self.membership.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn leaves_unanswered(&self, request: &Request) -> bool {
        let is_about_content = matches!(
            request,
            Request::Range { .. } | Request::Batch { .. } | Request::Holdings { .. }
        );
        is_about_content && (self.said.lock().unwrap().held)(request)
    }

    fn hear(&mut self, event: Event) {
        if let Event::Message { from, body } = event
            && let Ok(Message::Offer(offer)) = Message::decode(&body)
        {
            self.said.lock().unwrap().offered.push((from, offer.hash));
        }
    }

    fn follow(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Spread(signed) => {
                let bytes = postcard::to_stdvec(&signed).unwrap();
                let Head {
                    author,
                    epoch,
                    sequence,
                    ..
                } = signed.head;
                let rank = (epoch, sequence);
                let spread = self.membership.set_head(now, author, rank, bytes.into());
                assert!(spread.unwrap());
            }
            Order::Broadcast(body) => {
                self.membership.broadcast(now, body).unwrap();
            }
            Order::Say(to, frame) => self.membership.send_unchecked(now, to, frame),
            Order::Send(to, datagram) => drop(self.udp.send(to, &datagram)),
        }
    }

    fn response(&mut self, from: NodeId, request: &Request) -> Response {
        let said = self.said.lock().unwrap();
        if let Some(response) = (said.answer)(request) {
            return response;
        }
        match request {
            Request::Members { members } => {
                let _honest = self.membership.merge_members(Instant::now(), from, members);
                let members = self.membership.export_members();
                Response::Members { members }
            }
            Request::Trust { question } => match self.keyring.answer(question).0 {
                Some(answer) => Response::Trust {
                    answer: answer.into(),
                },
                None => Response::NotHere,
            },
            Request::Heads { .. } => Response::Heads {
                heads: said.head.iter().cloned().collect(),
            },
            Request::Log { epoch, after, .. } => said.part(*epoch, *after),
            _ => Response::NotHere,
        }
    }
}

impl Said {
    fn part(&self, epoch: u64, after: u64) -> Response {
        let Some(head) = self.head.clone() else {
            return Response::NotHere;
        };
        let fresh = epoch != head.head.epoch || after == 0;
        let after = if fresh { 0 } else { after };
        let left = self.records.iter().filter(|it| it.sequence > after);
        let left: Vec<&Record> = left.collect();
        let packed = pack_records(left.iter().take(PART_RECORDS).copied()).unwrap();
        Response::Log(LogPart {
            head,
            fresh,
            records: packed.bytes,
            last: packed.count == left.len(),
        })
    }
}
