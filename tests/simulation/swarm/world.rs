//! All nodes of a swarm, the links between them, and the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pfs::digest::{ContentHash, ContentKey};
use p2pfs::extent::ByteRange;
use p2pfs::id::NodeId;
use p2pfs::transfer::plan::{Failure, Offer, RangeRequest, RequestId};
use p2pfs::transfer::session::{
    Accepted, Actions, Delivery, FetchEvent, Holder, SendRange, Shortfall, verify,
};
use p2pfs::wire::native::tcp::Response;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::fluid::{Arrival, Fluid, Line};
use crate::nodes::contents::Library;
use crate::swarm::node::{Fill, InSwarm, Manner, Node, Reader};

/// A node that does not answer at all is given up after this, as `net::peer` does.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// What a cache has no room for, in memory.
pub const WINDOW_BYTES: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Reaches(Asker, RequestId),
    Fails(Asker, RequestId, u8),
    /// A node asks another what it has by now, or hears its offer; both hear of each other.
    Surveyed(Asker, usize, ContentKey),
    Heard(usize, usize, ContentHash),
    Offered(Asker, usize, ContentHash),
    Does(usize, Deed),
}

/// A node in one of its lives.
type Asker = (usize, u64);

/// What happens to a node at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    Reads(ContentKey),
    ReadsParts(ContentKey, Vec<(u64, u64)>),
    Fills(ContentKey),
    /// The process ends: its connections break, and are refused from then on.
    Dies,
    /// The power goes: nothing comes from it any more.
    GoesOff,
    Boots,
    /// The first of its readers ends.
    Cancels,
    /// It sends nothing for so long.
    Pauses(Duration),
}

pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub rng: StdRng,
    pub links: Fluid<usize>,
    pub nodes: Vec<Node>,
    pub library: Library,
    /// What nodes say of contents that they do not have, or of another size than these have.
    pub claims: Vec<(usize, ContentKey)>,
    under_way: BTreeMap<(Asker, RequestId), RangeRequest>,
    proofs: BTreeMap<(ContentKey, u64, u64), Bytes>,
    rates: Vec<f64>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    order: u64,
    seed: u64,
}

pub fn node_id(index: usize) -> NodeId {
    NodeId::new([index as u8 + 1; 32])
}

fn index_of(node: &NodeId) -> usize {
    usize::from(node.as_bytes()[0]) - 1
}

fn address_of(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8 + 1], 1378).into()
}

impl World {
    pub fn new(seed: u64) -> Self {
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

    /// A node that runs: its way to any other takes half of `delay`, its link carries `rate` bytes
    /// a second each way, its cache keeps `budget_bytes`.
    pub fn add(&mut self, delay: Duration, rate: f64, budget_bytes: u64) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::new(delay / 2, budget_bytes));
        self.links.up.insert(index, rate);
        self.links.down.insert(index, rate);
        self.rates.push(rate);
        self.nodes[index].boot(node_id(index), self.seed + index as u64, WINDOW_BYTES);
        index
    }

    /// A content of so many bytes, which these nodes have as their own files.
    pub fn file(&mut self, number: u64, size: u64, holders: &[usize]) -> ContentKey {
        let hash = self.library.write(number, size as usize);
        let content = ContentKey::new(hash, size);
        for holder in holders {
            self.nodes[*holder].disk.own.insert(content);
        }
        content
    }

    pub fn later(&mut self, after: Duration, node: usize, deed: Deed) {
        self.at(self.now + after, Happening::Does(node, deed));
    }

    /// Runs until all that is wanted has ended at the nodes that run, or the time is up.
    pub fn run(&mut self, limit: Duration) {
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

    fn next_at(&self) -> Option<Instant> {
        let happening = self.queue.peek().map(|Reverse((at, ..))| *at);
        let sessions = self.nodes.iter().filter_map(|node| node.session.as_ref());
        let timeout = sessions.filter_map(|session| session.poll_timeout()).min();
        let times = [happening, timeout, self.links.next_at()];
        times.into_iter().flatten().min()
    }

    fn step(&mut self) {
        let now = self.now;
        let mut touched = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let session = node.session.as_ref();
            let due = session.and_then(|session| session.poll_timeout());
            if due.is_some_and(|at| at <= now) {
                node.tell(|session| session.handle_timeout(now));
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

    fn befall(&mut self, index: usize, deed: Deed, touched: &mut Vec<usize>) {
        let now = self.now;
        touched.push(index);
        let node = &mut self.nodes[index];
        match deed {
            Deed::Reads(content) => node.readers.push(Reader::sequential(content)),
            Deed::ReadsParts(content, parts) => {
                let parts = parts
                    .iter()
                    .map(|(start, end)| ByteRange::new(*start, *end));
                node.readers.push(Reader::new(content, parts.collect()));
            }
            Deed::Fills(content) => {
                node.fills.push(Fill {
                    content,
                    told: Default::default(),
                    outcome: None,
                });
                node.disk.pinned.insert(content);
                if node.session.is_some() {
                    node.begin_fill(now, node.fills.len() - 1);
                }
            }
            Deed::Cancels => {
                if !node.readers.is_empty() {
                    node.cancel_reader(0);
                }
            }
            Deed::Dies => self.die(index, false, touched),
            Deed::GoesOff => self.die(index, true, touched),
            Deed::Boots => self.boot(index, touched),
            Deed::Pauses(time) => {
                let rate = self.rates[index];
                self.links
                    .set_up(now, index, if time.is_zero() { rate } else { 0.0 });
                if !time.is_zero() {
                    self.later(time, index, Deed::Pauses(Duration::ZERO));
                }
            }
        }
    }

    /// What is pinned goes on from what is here; others hear that it is back.
    fn boot(&mut self, index: usize, touched: &mut Vec<usize>) {
        if self.nodes[index].session.is_some() {
            return;
        }
        let (seed, now) = (self.rng.random(), self.now);
        let node = &mut self.nodes[index];
        node.boot(node_id(index), seed, WINDOW_BYTES);
        for fill in 0..node.fills.len() {
            if node.fills[fill].outcome.is_none() {
                node.begin_fill(now, fill);
            }
        }
        for (other, node) in self.nodes.iter_mut().enumerate() {
            if other != index {
                node.tell(|session| session.returned(&node_id(index)));
                touched.push(other);
            }
        }
    }

    fn die(&mut self, index: usize, is_off: bool, touched: &mut Vec<usize>) {
        let node = &mut self.nodes[index];
        node.session = None;
        node.is_off = is_off;
        for reader in &mut node.readers {
            reader.is_gone |= reader.done_at.is_none();
        }
        self.links.cut(self.now, index);
        self.under_way.retain(|((asker, _), _), _| *asker != index);
        let of_it = |request: &RangeRequest| index_of(&request.node) == index;
        let asked = self.under_way.iter().filter(|(_, request)| of_it(request));
        let asked: Vec<_> = asked.map(|((asker, id), _)| (*asker, *id)).collect();
        for (asker, id) in asked {
            match is_off {
                true => self.at(self.now + SILENT_AFTER, Happening::Fails(asker, id, 0)),
                false => self.fail(asker, id, Failure::Unreachable),
            }
            touched.push(asker.0);
        }
    }

    /// A question is at the node that it is for.
    fn reach(&mut self, asker: Asker, id: RequestId) {
        let Some(request) = self.under_way.get(&(asker, id)).copied() else {
            return;
        };
        let server = index_of(&request.node);
        let node = &mut self.nodes[server];
        let is_silent = node.is_off || node.manner == Manner::Mute;
        if node.session.is_none() || is_silent {
            let after = if is_silent {
                SILENT_AFTER
            } else {
                Duration::ZERO
            };
            return self.at(self.now + after, Happening::Fails(asker, id, 0));
        }
        let hash = request.content.hash;
        node.askers.entry(hash).or_default().insert(asker.0);
        let lies = node.manner == Manner::Liar;
        if !lies && !node.disk.has(&request.content, request.range) {
            return self.at(self.now, Happening::Fails(asker, id, 1));
        }
        let line = line_of(asker.0, &request);
        self.links.send(self.now, line, id.0, request.range.len());
    }

    fn fail(&mut self, asker: Asker, id: RequestId, failure: Failure) {
        if let Some(request) = self.under_way.remove(&(asker, id)) {
            let now = self.now;
            self.nodes[asker.0].tell(|session| session.failed(now, &request, failure));
        }
    }

    fn arrive(&mut self, arrival: &Arrival<usize>) {
        let (server, index, _) = arrival.line;
        let (id, now) = (RequestId(arrival.id), self.now);
        let node = &mut self.nodes[index];
        node.received_bytes += arrival.bytes;
        node.tell(|session| session.arrived(now, node_id(server), id, arrival.bytes));
        let asker = (index, node.life);
        if !arrival.whole {
            return;
        }
        let Some(request) = self.under_way.remove(&(asker, id)) else {
            return;
        };
        let lies = self.nodes[server].manner == Manner::Liar;
        let proof = self.proof(&request, lies);
        let node = &mut self.nodes[index];
        match verify(&request, proof) {
            Ok(verified) => {
                let accepted = node.tell(|session| session.accept(now, &request, &verified));
                if accepted == Some(Accepted::Store(())) {
                    node.store(now, request.content, verified.range);
                }
            }
            Err(failure) => {
                assert!(lies, "an honest answer was not believed");
                *node.lies.entry(request.node).or_default() += 1;
                node.tell(|session| session.failed(now, &request, failure));
            }
        }
    }

    fn proof(&mut self, request: &RangeRequest, lies: bool) -> Bytes {
        let (content, range) = (request.content, request.range);
        let library = &self.library;
        let true_size = library.get(&content.hash).size_bytes();
        if content.size_bytes != true_size {
            let proof = library
                .get(&content.hash)
                .prove_as(content.size_bytes, range);
            return proof.unwrap_or_else(|| vec![7; range.len() as usize].into());
        }
        let known = self.proofs.entry((content, range.start, range.end));
        let proof = known.or_insert_with(|| library.get(&content.hash).prove(range));
        if !lies {
            return proof.clone();
        }
        let mut wrong = proof.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x40;
        wrong.into()
    }

    fn survey(&mut self, index: usize, of: usize, content: ContentKey) {
        if self.nodes[of].session.is_none() {
            return;
        }
        let answer = Response::Holdings {
            ranges: self.nodes[of].disk.offered(&content),
            size_bytes: content.size_bytes,
        };
        let (now, from) = (self.now, (node_id(of), address_of(of)));
        self.nodes[index].tell(|session| session.holdings(now, from, content.hash, answer));
    }

    /// A node hears that another looks for a content.
    fn hear(&mut self, index: usize, from: usize, hash: ContentHash) {
        let (now, asker) = (self.now, (from, self.nodes[from].life));
        let node = &mut self.nodes[index];
        let heard = node.tell(|session| {
            session.fellow(now, &hash, node_id(from), address_of(from));
        });
        if heard.is_some() && node.manner != Manner::Mute {
            node.askers.entry(hash).or_default().insert(from);
            let delay = self.delay(index, from);
            self.at(now + delay, Happening::Offered(asker, index, hash));
        }
    }

    /// A node hears what another has, and who else asked that for it.
    fn offer(&mut self, index: usize, of: usize, hash: ContentHash) {
        let now = self.now;
        let content = ContentKey::new(hash, self.library.get(&hash).size_bytes());
        let giver = &self.nodes[of];
        let ranges = giver.disk.offered(&content);
        let askers = giver.askers.get(&hash).cloned().unwrap_or_default();
        let all = giver.disk.is_complete(&content);
        let is_running = giver.session.is_some();
        let node = &mut self.nodes[index];
        for asker in askers.into_iter().filter(|asker| *asker != index) {
            node.tell(|s| s.fellow(now, &hash, node_id(asker), address_of(asker)));
        }
        if is_running && (all || !ranges.is_empty()) {
            let offer = Offer {
                node: node_id(of),
                content,
                all,
                ranges,
                load: 0,
            };
            node.tell(|session| session.offer(now, &offer, address_of(of)));
        }
    }

    /// Carries out what a node wants, until it wants nothing.
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
                FetchEvent::Started { .. }
                | FetchEvent::Done { .. }
                | FetchEvent::Failed { .. } => {}
            }
        }
        for hash in actions.wanted {
            acted = true;
            let holders = self.holders(index, &hash);
            self.nodes[index].tell(|session| session.holders(now, &hash, &holders));
        }
        for (node, _, hash) in actions.surveys {
            let content = ContentKey::new(hash, self.library.get(&hash).size_bytes());
            let (asker, of) = ((index, self.nodes[index].life), index_of(&node));
            let delay = self.delay(index, of) * 2;
            self.at(now + delay, Happening::Surveyed(asker, of, content));
        }
        acted
    }

    /// Who has a content, as every node's log says.
    fn holders(&self, me: usize, hash: &ContentHash) -> Vec<Holder> {
        let holder = |(index, content): (usize, &ContentKey)| Holder {
            node: node_id(index),
            address: address_of(index),
            size_bytes: content.size_bytes,
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
        let unwanted = node.tell(|session| session.sent(request.id, request.id));
        if unwanted.flatten().is_some() {
            return;
        }
        self.under_way.insert((asker, request.id), request);
        // there and back: what comes by the line comes without delay then
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
                if !node.readers[read.reader].is_gone {
                    node.readers[read.reader].end(now, None);
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
    /// Keeps verified bytes where there is room for them.
    fn store(&mut self, now: Instant, content: ContentKey, range: ByteRange) {
        let session = self.session.as_ref();
        let is_held = |other: &ContentKey| session.is_some_and(|session| !session.is_closed(other));
        let is_kept = self.disk.store(content, range, is_held);
        let is_complete = self.disk.is_complete(&content);
        self.tell(|session| match is_kept {
            true => session.stored(content, range, is_complete),
            false => session.refused(now, content, range),
        });
    }
}
