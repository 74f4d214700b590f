//! All nodes of a swarm, the links between them, and the virtual time.

mod deeds;
mod talk;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pfs_fetch::plan::{Failure, RangeRequest, RequestId};
use p2pfs_fetch::session::{
    Actions, Delivery, FetchEvent, Holder, SendRange, Shortfall, UncachedAction,
};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::fluid::{Fluid, Line};
use crate::nodes::contents::Library;
use crate::swarm::node::{InSwarm, Node};

/// Time after which a node without any answer is given up, as in `net::peer`.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Bytes in memory for which the cache has no room.
pub(super) const WINDOW_BYTES: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Reaches(Asker, RequestId),
    Fails(Asker, RequestId, u8),
    /// A survey of another node's ranges is answered. In the next two, a node hears of another
    /// that looks for a content, and that one gets its offer.
    Surveyed(Asker, usize, ContentKey),
    Heard(usize, usize, ContentHash),
    Offered(Asker, usize, ContentHash),
    Does(usize, Deed),
}

/// A node in one of its lives.
type Asker = (usize, u64);

/// An action of a node, or a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    Reads(ContentKey),
    /// Reads the file in large concurrent steps, as commands do that copy a whole file.
    Copies(ContentKey),
    ReadsParts(ContentKey, Vec<(u64, u64)>),
    Fills(ContentKey),
    /// The process ends. Its connections break, and later ones are refused.
    Dies,
    /// The power fails. The node falls silent.
    GoesOff,
    Boots,
    /// The first of its readers ends.
    Cancels,
    /// It sends nothing for this time.
    Pauses(Duration),
}

pub(super) struct World {
    pub now: Instant,
    pub start: Instant,
    pub rng: StdRng,
    pub links: Fluid<usize>,
    pub nodes: Vec<Node>,
    pub library: Library,
    /// False claims of nodes: contents that they do not have, or wrong sizes.
    pub claims: Vec<(usize, ContentKey)>,
    under_way: BTreeMap<(Asker, RequestId), RangeRequest>,
    proofs: BTreeMap<(ContentKey, u64, u64), Bytes>,
    rates: Vec<f64>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    order: u64,
    seed: u64,
}

pub(super) fn node_id(index: usize) -> NodeId {
    NodeId::new([index as u8 + 1; 32])
}

fn index_of(node: &NodeId) -> usize {
    usize::from(node.as_bytes()[0]) - 1
}

fn address_of(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8 + 1], 1378).into()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            rng: StdRng::seed_from_u64(seed),
            links: Fluid::new(start),
            nodes: vec![],
            library: Library::default(),
            claims: vec![],
            under_way: BTreeMap::new(),
            proofs: BTreeMap::new(),
            rates: vec![],
            queue: BinaryHeap::new(),
            order: 0,
            seed,
        }
    }

    /// Adds a running node. Its path to any other node takes half of `delay`, its link carries
    /// `rate` bytes a second in each direction, and its cache keeps `budget_bytes`.
    pub(super) fn add(&mut self, delay: Duration, rate: f64, budget_bytes: u64) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::new(delay / 2, budget_bytes));
        self.links.up.insert(index, rate);
        self.links.down.insert(index, rate);
        self.rates.push(rate);
        self.nodes[index].boot(node_id(index), self.seed + index as u64, WINDOW_BYTES);
        index
    }

    /// Adds a content of `size` bytes, which these nodes have as their own files.
    pub(super) fn file(&mut self, number: u64, size: u64, holders: &[usize]) -> ContentKey {
        let hash = self.library.write(number, size as usize);
        let content = ContentKey::new(hash, size);
        for holder in holders {
            self.nodes[*holder].disk.own.insert(content);
        }
        content
    }

    pub(super) fn later(&mut self, after: Duration, node: usize, deed: Deed) {
        self.at(self.now + after, Happening::Does(node, deed));
    }

    /// Runs until no deed is left and all readers and fills have ended, or the time is up.
    pub(super) fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        let all: Vec<_> = (0..self.nodes.len()).collect();
        all.into_iter().for_each(|index| self.settle(index));
        while let Some(next) = self.next_at().filter(|next| *next <= end) {
            let deeds = self.queue.iter();
            let to_come = deeds
                .filter(|Reverse((.., it))| matches!(it, Happening::Does(..)))
                .count();
            if to_come == 0 && self.nodes.iter().all(Node::is_through) {
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn next_at(&mut self) -> Option<Instant> {
        let happening = self.queue.peek().map(|Reverse((at, ..))| *at);
        let sessions = self.nodes.iter().filter_map(|node| node.session.as_ref());
        let timeout = sessions
            .filter_map(|session| session.plan.poll_timeout())
            .min();
        let times = [happening, timeout, self.links.next_at()];
        times.into_iter().flatten().min()
    }

    fn step(&mut self) {
        let now = self.now;
        let mut touched = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let session = node.session.as_ref();
            let due = session.and_then(|session| session.plan.poll_timeout());
            if due.is_some_and(|at| at <= now) {
                node.tell(|session| session.plan.handle_timeout(now));
                touched.push(index);
            }
        }
        for arrival in self.links.arrivals(now) {
            touched.push(arrival.line.1);
            self.arrive(&arrival);
        }
        while self
            .queue
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= now)
        {
            let Some(Reverse((.., happening))) = self.queue.pop() else {
                break;
            };
            self.happen(happening, &mut touched);
        }
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().for_each(|index| self.settle(index));
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, happening)));
    }

    fn delay(&self, one: usize, other: usize) -> Duration {
        self.nodes[one].delay + self.nodes[other].delay
    }

    fn lives(&self, (index, life): Asker) -> bool {
        self.nodes[index].session.is_some() && self.nodes[index].life == life
    }

    fn happen(&mut self, happening: Happening, touched: &mut Vec<usize>) {
        match happening {
            Happening::Does(index, deed) => self.befall(index, deed, touched),
            Happening::Reaches(asker, id) => {
                touched.push(asker.0);
                self.reach(asker, id);
            }
            Happening::Fails(asker, id, how) => {
                touched.push(asker.0);
                let failure = [Failure::Unreachable, Failure::Gone][usize::from(how)];
                self.fail(asker, id, failure);
            }
            Happening::Surveyed(asker, of, content) if self.lives(asker) => {
                touched.push(asker.0);
                self.survey(asker.0, of, content);
            }
            Happening::Heard(index, from, hash) => {
                touched.push(index);
                self.hear(index, from, hash);
            }
            Happening::Offered(asker, of, hash) if self.lives(asker) => {
                touched.push(asker.0);
                self.offer(asker.0, of, hash);
            }
            Happening::Surveyed(..) | Happening::Offered(..) => {}
        }
    }

    /// Carries out a node's requests until there are none.
    fn settle(&mut self, index: usize) {
        let now = self.now;
        loop {
            let node = &mut self.nodes[index];
            let mut acted = false;
            if node.session.is_some() {
                for reader in 0..node.readers.len() {
                    acted |= node.step_reader(now, reader);
                }
            }
            let Some(actions) = node.tell(|session| session.actions(now)) else {
                return;
            };
            acted |= self.carry_out(index, actions);
            if !acted {
                return;
            }
        }
    }

    fn carry_out(&mut self, index: usize, actions: Actions<InSwarm>) -> bool {
        let now = self.now;
        let mut acted = false;
        for send in actions.sends {
            acted = true;
            self.send(index, &send);
        }
        for id in actions.cancels {
            let asker = (index, self.nodes[index].life);
            if let Some(request) = self.under_way.remove(&(asker, id)) {
                self.links.cancel(now, line_of(index, &request), id.0);
            }
        }
        for (reader, why) in actions.ends {
            acted = true;
            if !self.nodes[index].readers[reader].is_gone {
                self.nodes[index].readers[reader].end(now, Some(why));
            }
        }
        for delivery in actions.deliveries {
            acted = true;
            self.deliver(index, delivery);
        }
        for ((fill, _), outcome) in actions.fills {
            self.nodes[index].fills[fill].outcome = Some((now, outcome));
        }
        for event in actions.events {
            match event {
                FetchEvent::Wanted { hashes } => self.ask_around(index, &hashes),
                FetchEvent::Liar { node, .. } => drop(self.nodes[index].shunned.insert(node)),
                FetchEvent::Started { .. } | FetchEvent::Done { .. } => {}
            }
        }
        for hash in actions.wanted {
            acted = true;
            let holders = self.holders(index, &hash);
            self.nodes[index].tell(|session| session.record_holders(now, &hash, &holders));
        }
        for (node, _, hash) in actions.surveys {
            let content = ContentKey::new(hash, self.library.get(&hash).size_bytes());
            let (asker, of) = ((index, self.nodes[index].life), index_of(&node));
            let delay = self.delay(index, of) * 2;
            self.at(now + delay, Happening::Surveyed(asker, of, content));
        }
        acted
    }

    /// Returns the holders of a content, as every node's log lists them.
    fn holders(&self, me: usize, hash: &ContentHash) -> Vec<Holder> {
        let holder = |(index, content): (usize, &ContentKey)| Holder {
            node: node_id(index),
            address: address_of(index),
            size_bytes: content.size_bytes,
            sequence: 1,
        };
        let true_size = self.library.get(hash).size_bytes();
        let content = ContentKey::new(*hash, true_size);
        let having = self.nodes.iter().enumerate().filter(|(index, node)| {
            *index != me && node.session.is_some() && node.disk.is_complete(&content)
        });
        let having = having.map(|(index, _)| holder((index, &content)));
        let claims = self.claims.iter().filter(|(_, said)| said.hash == *hash);
        let said = claims.map(|(index, said)| holder((*index, said)));
        having.chain(said).collect()
    }

    fn ask_around(&mut self, index: usize, hashes: &[ContentHash]) {
        for hash in hashes {
            for other in (0..self.nodes.len()).filter(|other| *other != index) {
                let at = self.now + self.delay(index, other);
                self.at(at, Happening::Heard(other, index, *hash));
            }
        }
    }

    fn send(&mut self, index: usize, send: &SendRange) {
        let (now, request) = (self.now, send.request);
        let node = &mut self.nodes[index];
        let second = (now - self.start).as_secs();
        node.cost.note_send(second, request.range.len());
        let asker = (index, node.life);
        if send.address.is_none() {
            node.tell(|session| session.failed(now, &request, Failure::Gone));
            return;
        }
        let unwanted = node.tell(|session| session.record_sent(request.id, request.id));
        if unwanted.flatten().is_some() {
            return;
        }
        self.under_way.insert((asker, request.id), request);
        // This is the delay of both directions. The answer then travels without a further delay.
        let delay = self.delay(index, index_of(&request.node)) * 2;
        self.at(now + delay, Happening::Reaches(asker, request.id));
    }

    fn deliver(&mut self, index: usize, delivery: Delivery<usize, ()>) {
        let (now, read) = (self.now, delivery.read);
        let node = &mut self.nodes[index];
        let right = &self.library.get(&read.content.hash).bytes;
        let disk = &node.disk;
        let from_disk = |(): &(), range: ByteRange, buffer: &mut [u8]| {
            if !disk.has(&read.content, range) {
                return Err(Shortfall::missing(range));
            }
            buffer.copy_from_slice(&right[range.start as usize..range.end as usize]);
            Ok(())
        };
        match delivery.sources.gather(read.range, from_disk) {
            Ok(bytes) => {
                let right = &right[read.range.start as usize..read.range.end as usize];
                assert!(bytes == right, "a reader got wrong bytes");
                if !node.readers[read.handle].is_gone {
                    node.readers[read.handle].end(now, None);
                }
            }
            Err(gap) => drop(node.tell(|session| session.fell_short(now, read, gap))),
        }
    }
}

fn line_of(asker: usize, request: &RangeRequest) -> Line<usize> {
    (index_of(&request.node), asker, request.lane as u8)
}

impl Node {
    /// Stores verified bytes if there is room.
    fn store(&mut self, now: Instant, content: ContentKey, range: ByteRange) {
        let session = self.session.as_ref();
        let is_held =
            |other: &ContentKey| session.is_some_and(|session| session.plan.files().is_open(other));
        let is_kept = self.disk.store(content, range, is_held);
        let is_complete = self.disk.is_complete(&content);
        let then = self.tell(|session| {
            if is_kept {
                session.stored(content, range, is_complete);
                UncachedAction::Held
            } else {
                session.not_stored(now, content, range)
            }
        });
        if then == Some(UncachedAction::StoreAgain) {
            self.store(now, content, range);
        }
    }
}
