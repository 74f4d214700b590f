//! All nodes, the network between them, and the virtual time.

mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs_membership::{ClusterConfig, Leave};
use p2pfs_node::Machine;
use p2pfs_node::machine::AddressNews;
use p2pfs_proto::trust::{NodeKey, TrustCommand};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_proto::wire::native::tcp::{FrameHeader, Phase, Response};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nodes::contents::Library;
use crate::nodes::disk::Disk;
use crate::nodes::network::{Due, Network, Parcel, Payload, Weather};
use crate::nodes::running::{Manner, Node, OPEN_SHARE, Purpose, Running, TrustDisk};

/// The wall clock when a world begins, in seconds since 1970.
const BEGIN_UNIX_S: u64 = 1_800_000_000;

/// How a node ends without a farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Its connections break, and later ones are refused.
    Process,
    /// It falls silent.
    Power,
}

struct Question {
    asker: usize,
    life: u64,
    asked: (NodeId, SocketAddr),
    purpose: Purpose,
    give_up: Instant,
}

pub(super) struct World {
    pub now: Instant,
    pub start: Instant,
    pub network: Network,
    pub library: Library,
    pub nodes: Vec<Node>,
    pub rng: StdRng,
    seed: u64,
    questions: BTreeMap<u64, Question>,
    next_question: u64,
    give_ups: BTreeSet<(Instant, u64)>,
    wakes: BTreeSet<(Instant, usize)>,
    wake_of: Vec<Option<Instant>>,
    by_address: BTreeMap<SocketAddr, usize>,
    trace: blake3::Hasher,
}

/// Returns a path that must be valid.
pub(super) fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).expect("a shared path")
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            network: Network::new(seed, weather),
            library: Library::default(),
            nodes: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            seed,
            questions: BTreeMap::new(),
            next_question: 0,
            give_ups: BTreeSet::new(),
            wakes: BTreeSet::new(),
            wake_of: Vec::new(),
            by_address: BTreeMap::new(),
            trace: blake3::Hasher::new(),
        }
    }

    /// Returns a world of `count` running nodes that know each other. The first two are the seeds.
    pub(super) fn of(count: usize, seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        for _ in 0..count {
            let node = world.add();
            world.boot(node);
        }
        let met = world.run_until(Duration::from_secs(30), World::is_met);
        assert!(met.is_some(), "the nodes did not meet");
        world
    }

    /// Adds a stopped node.
    pub(super) fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let seed = blake3::hash(format!("{} {index}", self.seed).as_bytes());
        let address = |index: usize| SocketAddr::from(([10, 0, 0, index as u8], 1378));
        let seeds = vec![address(0), address(1)];
        let key = Arc::new(NodeKey::from_seed(seed.as_bytes()));
        self.nodes.push(Node {
            id: key.node_id(),
            key,
            name: NodeName::new(format!("node{index}")).expect("a name"),
            address: address(index),
            config: ClusterConfig {
                seeds,
                ..ClusterConfig::default()
            },
            secret: 1,
            trust: None,
            trust_disk: TrustDisk::After(Duration::ZERO),
            manner: Manner::Honest,
            pace: None,
            shares: BTreeMap::new(),
            cache: BTreeMap::new(),
            disk: Disk::default(),
            is_off: false,
            lives: 0,
            running: None,
        });
        self.wake_of.push(None);
        self.by_address.insert(address(index), index);
        index
    }

    /// Returns the wall clock.
    pub(super) fn unix_s(&self) -> u64 {
        BEGIN_UNIX_S + (self.now - self.start).as_secs()
    }

    pub(super) fn boot(&mut self, index: usize) {
        let scan_after = Duration::from_millis(self.rng.random_range(0..300));
        let seed = self.rng.random();
        let (now, unix_s) = (self.now, self.unix_s());
        self.nodes[index].boot(now, unix_s, seed, scan_after);
        self.settle(index);
    }

    /// Ends a node without a farewell.
    pub(super) fn crash(&mut self, index: usize, death: Death) {
        self.nodes[index].kill();
        self.nodes[index].is_off = death == Death::Power;
        self.break_streams(index, death);
        self.settle(index);
    }

    /// Starts a clean stop. The node ends after its farewell.
    pub(super) fn leave(&mut self, index: usize, how: Leave) {
        self.with(index, |machine, now| machine.leave(now, how));
    }

    /// Removes a node's state but not its key.
    pub(super) fn lose_state(&mut self, index: usize) {
        self.nodes[index].disk = Disk::default();
    }

    /// Calls a running node's machine, then carries out its requests.
    pub(super) fn with<T>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Machine, Instant) -> T,
    ) -> T {
        let running = self.nodes[index].running.as_mut().expect("the node runs");
        let outcome = call(&mut running.machine, self.now);
        self.settle(index);
        outcome
    }

    pub(super) fn running(&self, index: usize) -> &Running {
        self.nodes[index].running.as_ref().expect("the node runs")
    }

    /// Returns the indices of the running nodes.
    pub(super) fn live(&self) -> Vec<usize> {
        let runs = |index: &usize| self.nodes[*index].running.is_some();
        (0..self.nodes.len()).filter(runs).collect()
    }

    /// Adds a new content of `size` bytes.
    pub(super) fn content(&mut self, size: usize) -> ContentHash {
        let number = self.rng.random();
        self.library.write(number, size)
    }

    /// Puts a file with this content and the current time into a node's first share.
    pub(super) fn put(&mut self, index: usize, name: &str, hash: ContentHash) {
        let entry = self.file_entry(hash);
        self.edit(index, (ShareIndex(0), path(name)), Some(entry));
    }

    pub(super) fn remove(&mut self, index: usize, name: &str) {
        self.edit(index, (ShareIndex(0), path(name)), None);
    }

    pub(super) fn edit(
        &mut self,
        index: usize,
        name: (ShareIndex, SharedPath),
        entry: Option<Entry>,
    ) {
        self.nodes[index].edit(self.now, name, entry);
        self.settle(index);
    }

    /// Puts a file into the open share of a running node, as a program that writes through the mount
    /// does: it replaces all versions that the node knows, and is later than each of them.
    pub(super) fn replace(&mut self, index: usize, name: &str, hash: ContentHash) {
        let at = path(name);
        let here = self.running(index).view.contents_at(&at);
        let mut entry = self.file_entry(hash);
        entry.version_time = entry.version_time.max(here.newest.next());
        entry.replaces = here.hashes;
        entry.replaces.retain(|replaced| *replaced != hash);
        self.edit(index, (OPEN_SHARE, at), Some(entry));
    }

    /// Deletes a path as a program in the mount of a running node does: the node's own file, and
    /// the versions that it knows of other nodes.
    pub(super) fn delete(&mut self, index: usize, name: &str) {
        let time = self.timestamp();
        self.nodes[index].delete(self.now, time, &path(name));
        self.edit(index, (OPEN_SHARE, path(name)), None);
    }

    /// Returns an entry for a file of this content with the current time.
    pub(super) fn file_entry(&self, hash: ContentHash) -> Entry {
        let size_bytes = self.library.get(&hash).size_bytes();
        self.entry(Kind::File {
            hash,
            size_bytes,
            executable: false,
        })
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp {
            seconds: self.unix_s() as i64,
            nanoseconds: 0,
        }
    }

    /// Returns an entry with the current time in whole seconds, so that two nodes often write at
    /// the same time.
    pub(super) fn entry(&self, kind: Kind) -> Entry {
        let time = self.timestamp();
        Entry {
            kind,
            mtime: time,
            version_time: time,
            sent_by: None,
            replaces: Vec::new(),
        }
    }

    /// Starts a program that reads on a node.
    pub(super) fn read(&mut self, index: usize, hash: ContentHash) -> usize {
        let reader = self.nodes[index].read(self.now, &self.library, hash);
        self.settle(index);
        reader
    }

    /// Reads until the reader ends. Returns its result.
    pub(super) fn read_to_end(
        &mut self,
        index: usize,
        hash: ContentHash,
    ) -> Result<(), p2pfs_fetch::plan::PlanError> {
        let reader = self.read(index, hash);
        let ended = |world: &World| world.running(index).readers[reader].ended.is_some();
        let took = self.run_until(Duration::from_secs(120), ended);
        assert!(took.is_some(), "a reader waits for ever");
        let (_, outcome) = self.running(index).readers[reader].ended.clone().unwrap();
        outcome
    }

    /// Partitions the network. Nodes without a part form one part.
    pub(super) fn part(&mut self, parts: &[&[usize]]) {
        let named = parts.iter().enumerate();
        let parts = named.flat_map(|(part, nodes)| nodes.iter().map(move |n| (*n, part)));
        let addressed = parts.map(|(node, part)| (self.nodes[node].address, part));
        self.network.part(addressed.collect());
    }

    pub(super) fn heal(&mut self) {
        self.network.part(BTreeMap::new());
    }

    /// Returns whether every running node sees exactly the running nodes with its secret.
    pub(super) fn is_met(&self) -> bool {
        let running = |secret| {
            let nodes = self.nodes.iter().filter(move |n| n.secret == secret);
            nodes.filter(|node| node.running.is_some())
        };
        let all = self.nodes.iter().filter(|node| node.running.is_some());
        all.clone().all(|node| {
            let seen: BTreeSet<NodeId> = node.running.iter().flat_map(live_of).collect();
            let there = running(node.secret)
                .map(|n| n.id)
                .filter(|id| *id != node.id);
            seen == there.collect()
        })
    }

    /// Runs for a time.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_at()
            && at <= end
        {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Runs until `holds`, checked every 20 ms. Returns the time that it took, if within `limit`.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        while self.now - begin < limit {
            if holds(self) {
                return Some(self.now - begin);
            }
            self.run_for(Duration::from_millis(20));
        }
        holds(self).then(|| self.now - begin)
    }

    /// Returns a hash of all that happened, equal for equal runs.
    pub(super) fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    fn next_at(&self) -> Option<Instant> {
        let wake = self.wakes.first().map(|(at, _)| *at);
        let give_up = self.give_ups.first().map(|(at, _)| *at);
        let times = [wake, give_up, self.network.next_at()];
        times.into_iter().flatten().min()
    }

    fn step(&mut self) {
        if let Some(due) = self.network.take_due(self.now) {
            match due {
                Due::Arrived(parcel) => self.deliver(parcel),
                Due::Stopped(parcel) => self.fall_silent(&parcel.payload),
            }
        } else if let Some(&(at, id)) = self.give_ups.first()
            && at <= self.now
        {
            self.conclude(id, None);
        } else if let Some(&(at, index)) = self.wakes.first()
            && at <= self.now
        {
            self.nodes[index].handle_timeout(at.max(self.now));
            self.settle(index);
        }
    }

    /// Hands a parcel to the node at its address.
    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let Some(&index) = self.by_address.get(&parcel.to) else {
            return self.fall_silent(&parcel.payload);
        };
        let at = self.now - self.start;
        let noted = format!(
            "{at:?} {} {index} {}\n",
            parcel.from,
            name_of(&parcel.payload)
        );
        self.trace.update(noted.as_bytes());
        if self.nodes[index].is_off {
            return self.fall_silent(&parcel.payload);
        }
        match parcel.payload {
            Payload::Datagram(datagram) => {
                if let Some(running) = &mut self.nodes[index].running {
                    let now = self.now;
                    running.machine.handle_message(now, parcel.from, &datagram);
                    self.settle(index);
                }
            }
            Payload::Question(id, frame) => self.answer(index, parcel.from, id, &frame),
            Payload::Answer(id, frame) => {
                let header = FrameHeader::decode(&frame.header, Phase::Responses);
                let kind = header.expect("the harness sends true frames").kind;
                let response = Response::decode(kind, frame.body).expect("a true response");
                self.conclude(id, Some(response));
            }
            Payload::Reset(id) => self.conclude(id, None),
        }
    }

    /// Takes from a node all that it sends and waits for.
    pub(super) fn settle(&mut self, index: usize) {
        let (now, unix_s) = (self.now, self.unix_s());
        if let Some(running) = &mut self.nodes[index].running {
            running.machine.tick(now, unix_s);
        }
        let ran = self.nodes[index].running.is_some();
        self.nodes[index].settle(now, &self.library);
        if ran && self.nodes[index].running.is_none() {
            self.break_streams(index, Death::Process);
        }
        let from = self.nodes[index].address;
        let (mut wishes, mut datagrams, mut knocks) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken_back = Vec::new();
        if let Some(running) = &mut self.nodes[index].running {
            taken_back.append(&mut running.taken_back);
            wishes.append(&mut running.wishes);
            datagrams.append(&mut running.datagrams);
            knocks.append(&mut running.knocks);
        }
        for address in knocks {
            self.knock(index, address);
        }
        for (to, datagram) in datagrams {
            let payload = Payload::Datagram(datagram);
            self.network.send(now, Parcel { from, to, payload });
        }
        for wish in wishes {
            self.ask(index, wish);
        }
        for request in taken_back {
            self.take_back(index, request);
        }
        if self.nodes[index]
            .running
            .as_ref()
            .is_some_and(|r| r.has_left)
        {
            self.finish(index);
        }
        if let Some(before) = self.wake_of[index].take() {
            self.wakes.remove(&(before, index));
        }
        if let Some(at) = self.nodes[index].next_timeout() {
            let at = at.max(now);
            self.wake_of[index] = Some(at);
            self.wakes.insert((at, index));
        }
    }

    /// Identifies the node at an address, as the TCP greeting does.
    fn knock(&mut self, index: usize, address: SocketAddr) {
        let Some(&other) = self.by_address.get(&address) else {
            return;
        };
        let (us, them) = (&self.nodes[index], &self.nodes[other]);
        let is_there = them.running.is_some() && self.network.are_together(&us.address, &address);
        let has_ledgers = us.trust.is_some() && them.trust.is_some();
        if !is_there || !has_ledgers || us.running.is_none() || index == other {
            return;
        }
        let (me, id) = (us.id, them.id);
        let ours = self.running(index).machine.trust();
        let shown = if ours.is_member(&id) {
            ours.certificates_of(&me)
        } else {
            Vec::new()
        };
        let theirs = self.running(other).machine.trust().certificates_of(&id);
        let is_mutual = self.show(other, me, shown) && self.show(index, id, theirs);
        if is_mutual && let Some(running) = &mut self.nodes[index].running {
            running
                .machine
                .handle_address(self.now, address, AddressNews::Member(id));
            self.settle(index);
        }
    }

    /// Shows a node the certificates of another. Returns whether the other is a member then.
    fn show(&mut self, index: usize, node: NodeId, statements: Vec<u8>) -> bool {
        let now = self.now;
        let Some(running) = &mut self.nodes[index].running else {
            return false;
        };
        if running.machine.trust().is_member_with(&node, &statements) {
            let received = TrustCommand::Receive {
                statements,
                is_news: false,
                reply: Box::new(|()| ()),
            };
            running.machine.command(now, received);
        }
        running.machine.trust().is_member(&node)
    }

    /// Stores the rest of a node's state after its farewell, and ends it.
    fn finish(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if let Some(mut running) = node.running.take() {
            loop {
                let writes = running.machine.catalogue().storage().take_writes(8192);
                if writes.is_empty() {
                    break;
                }
                node.disk.write(writes);
            }
        }
        self.break_streams(index, Death::Process);
    }
}

/// Returns the live nodes in the view of a running node, without itself.
pub(super) fn live_of(running: &Running) -> Vec<NodeId> {
    running.machine.cluster().live().map(|m| m.node).collect()
}

fn name_of(payload: &Payload) -> String {
    match payload {
        Payload::Datagram(bytes) => format!("datagram {}", blake3::hash(bytes)),
        Payload::Question(id, frame) => format!("question {id} {}", frame.len_bytes()),
        Payload::Answer(id, frame) => format!("answer {id} {}", frame.len_bytes()),
        Payload::Reset(id) => format!("reset {id}"),
    }
}
