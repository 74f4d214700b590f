//! Nodes that run in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pfs_membership::{Cluster, ClusterConfig, DownReason, Event, Leave, Member};
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_types::id::{Generation, NodeId};

use crate::cluster::network::{Network, Parcel, Payload, Weather};

/// The rank of each author's newest head. The harness only pretends to sign heads.
pub(super) type Heads = BTreeMap<NodeId, (u64, u64)>;

/// One node of the world.
pub(super) struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub config: ClusterConfig,
    /// `None` while it is down.
    pub cluster: Option<Cluster>,
    /// Events reported by the node, with their time.
    pub events: Vec<(Instant, Event)>,
    /// The newest head that the node holds of each author.
    pub heads: Heads,
    generation: u64,
    /// Index of the node whose key it uses. It is its own, unless it is a copy.
    keyed_as: usize,
    wake: Option<Instant>,
}

/// Returns the key of a node.
pub(super) fn key(index: usize) -> Arc<NodeKey> {
    let seed = blake3::hash(&index.to_le_bytes());
    Arc::new(NodeKey::from_seed(seed.as_bytes()))
}

/// All nodes, the network and the time.
pub(super) struct World {
    pub now: Instant,
    pub start: Instant,
    pub network: Network,
    pub nodes: Vec<Node>,
    seed: u64,
    secret: u8,
    /// Number of processes that have run with this generation of a node.
    lives: BTreeMap<(NodeId, Generation), u64>,
    wakes: BTreeSet<(Instant, usize)>,
    by_address: BTreeMap<SocketAddr, usize>,
    trace: blake3::Hasher,
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            network: Network::new(seed, weather),
            nodes: Vec::new(),
            seed,
            secret: 1,
            lives: BTreeMap::new(),
            wakes: BTreeSet::new(),
            by_address: BTreeMap::new(),
            trace: blake3::Hasher::new(),
        }
    }

    /// Returns a world of `count` nodes that start together. The first two are the seeds of all.
    pub(super) fn of(count: usize, seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        for _ in 0..count {
            let node = world.add(&[0, 1], ClusterConfig::default());
            world.boot(node);
        }
        world
    }

    /// Returns the address of a node, even of one that is not added yet.
    pub(super) fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 1378))
    }

    /// Adds a stopped node.
    pub(super) fn add(&mut self, seeds: &[usize], config: ClusterConfig) -> usize {
        let index = self.nodes.len();
        let address = Self::address(index);
        let seeds = seeds.iter().map(|seed| Self::address(*seed)).collect();
        let id = key(index).node_id();
        let config = ClusterConfig { seeds, ..config };
        let (events, heads) = (Vec::new(), Heads::new());
        let cluster = None;
        let generation = 1_700_000_000_000;
        self.nodes.push(Node {
            id,
            address,
            config,
            cluster,
            events,
            heads,
            generation,
            keyed_as: index,
            wake: None,
        });
        self.by_address.insert(address, index);
        index
    }

    /// Adds a stopped node with the key and the next generation of another.
    pub(super) fn add_copy(&mut self, of: usize, seeds: &[usize]) -> usize {
        let copy = self.add(seeds, ClusterConfig::default());
        self.nodes[copy].keyed_as = of;
        self.nodes[copy].id = self.nodes[of].id;
        self.nodes[copy].generation = self.nodes[of].generation;
        copy
    }

    fn has_copies(&self) -> bool {
        let mut nodes = self.nodes.iter().enumerate();
        nodes.any(|(index, node)| node.keyed_as != index)
    }

    /// Starts a node as its next generation.
    pub(super) fn boot(&mut self, index: usize) {
        let generation = Generation(self.nodes[index].generation);
        self.nodes[index].generation += 1000;
        self.boot_as(index, generation, self.secret);
    }

    /// Starts a node as this generation, with this secret.
    pub(super) fn boot_as(&mut self, index: usize, generation: Generation, secret: u8) {
        let node = &mut self.nodes[index];
        let trust = TestKeyring::in_memory(EpochSecret::new([secret; 32])).reader();
        let (config, address) = (node.config.clone(), node.address);
        // Each process has its own randomness.
        let lives = self.lives.entry((node.id, generation)).or_default();
        let seed = self.seed + *lives;
        *lives += 1;
        let cluster = Cluster::new(
            config,
            key(node.keyed_as),
            address,
            generation,
            trust,
            seed,
            self.now,
        );
        node.cluster = Some(cluster);
        self.settle(index);
        // An author knows its own head from earlier lives.
        if let Some(&(_, rank)) = self.nodes[index].heads.get(&self.nodes[index].id) {
            self.set_head(index, rank);
        }
    }

    /// Changes the address of a node's machine.
    pub(super) fn relocate(&mut self, index: usize, address: SocketAddr) {
        self.by_address.remove(&self.nodes[index].address);
        self.by_address.insert(address, index);
        self.nodes[index].address = address;
        self.with(index, |cluster, now| cluster.move_to(now, address));
    }

    /// Kills a node without a farewell.
    pub(super) fn crash(&mut self, index: usize) {
        self.nodes[index].cluster = None;
        self.reschedule(index);
    }

    /// Stops a node cleanly. It ends after its farewell.
    pub(super) fn leave(&mut self, index: usize, how: Leave) {
        self.with(index, |cluster, now| cluster.leave(now, how));
    }

    /// Publishes a head of a node.
    pub(super) fn set_head(&mut self, index: usize, rank: u64) {
        let id = self.nodes[index].id;
        self.nodes[index].heads.insert(id, (1, rank));
        let bytes = head_bytes(id, (1, rank));
        self.with(index, |cluster, now| {
            assert_eq!(cluster.set_head(now, id, (1, rank), bytes), Ok(true));
        });
    }

    /// Calls a running node, then carries out its requests.
    pub(super) fn with<T>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Cluster, Instant) -> T,
    ) -> T {
        let cluster = self.nodes[index].cluster.as_mut().expect("the node runs");
        let outcome = call(cluster, self.now);
        self.settle(index);
        outcome
    }

    /// Partitions the network. Nodes without a part form one part.
    pub(super) fn part(&mut self, parts: &[&[usize]]) {
        let named = parts.iter().enumerate();
        let parts =
            named.flat_map(|(part, nodes)| nodes.iter().map(move |n| (Self::address(*n), part)));
        self.network.part(parts.collect());
    }

    pub(super) fn heal(&mut self) {
        self.network.part(BTreeMap::new());
    }

    /// Returns the running nodes.
    pub(super) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.cluster.is_some())
    }

    /// Returns whether every running node sees exactly the running nodes with their current facts.
    pub(super) fn is_converged(&self) -> bool {
        let lives: BTreeMap<NodeId, Member> = self
            .running()
            .filter_map(|n| n.cluster.as_ref())
            .map(|c| (c.me().node, c.me()))
            .collect();
        self.running()
            .filter_map(|n| n.cluster.as_ref())
            .all(|cluster| {
                cluster.live().count() + 1 == lives.len()
                    && cluster.live().all(|m| lives.get(&m.node) == Some(&m))
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

    /// Runs until `holds`, checked every 10 ms. Returns the time that it took, if within `limit`.
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
            self.run_for(Duration::from_millis(10));
        }
        holds(self).then(|| self.now - begin)
    }

    /// Returns the running nodes that were told since `since` that `node` is down, and the reasons.
    pub(super) fn told_down(&self, node: NodeId, since: Instant) -> Vec<(SocketAddr, DownReason)> {
        let told = |observer: &Node| {
            let events = observer.events.iter().filter(|(at, _)| *at >= since);
            let why = events.filter_map(|(_, event)| match event {
                Event::Down { node: down, why } if *down == node => Some(*why),
                _ => None,
            });
            why.map(|why| (observer.address, why)).collect::<Vec<_>>()
        };
        self.running().flat_map(told).collect()
    }

    /// Returns a hash of all that happened, equal for equal runs.
    pub(super) fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    fn next_at(&self) -> Option<Instant> {
        let wake = self.wakes.first().map(|(at, _)| *at);
        wake.into_iter().chain(self.network.next_at()).min()
    }

    fn step(&mut self) {
        if let Some(parcel) = self.network.take_due(self.now) {
            self.deliver(parcel);
        } else if let Some(&(at, index)) = self.wakes.first()
            && at <= self.now
        {
            self.wakes.pop_first();
            self.nodes[index].wake = None;
            self.with(index, |cluster, now| cluster.handle_timeout(now));
        }
    }

    /// Hands a parcel to the node at its address, if one runs there.
    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let Some(&index) = self.by_address.get(&parcel.to) else {
            return;
        };
        if self.nodes[index].cluster.is_none() {
            return;
        }
        let from = parcel.from;
        match parcel.payload {
            Payload::Datagram(datagram) => {
                self.with(index, |cluster, now| {
                    cluster.handle_message(now, from, &datagram)
                });
            }
            Payload::Members {
                teller,
                list,
                answer,
            } => {
                let ours = self.with(index, |cluster, now| {
                    cluster
                        .merge_members(now, teller, &list)
                        .expect("the harness sends true lists");
                    cluster.export_members()
                });
                if !answer {
                    self.send_members(index, from, ours, true);
                }
            }
        }
    }

    fn send_members(&mut self, from: usize, to: SocketAddr, list: Bytes, answer: bool) {
        let payload = Payload::Members {
            teller: self.nodes[from].id,
            list: list.to_vec(),
            answer,
        };
        self.network.send(
            self.now,
            Parcel {
                from: Self::address(from),
                to,
                payload,
            },
        );
    }

    /// Takes from a node all that it sends, reports and waits for.
    fn settle(&mut self, index: usize) {
        let mut ended = false;
        while let Some(event) = self.nodes[index]
            .cluster
            .as_mut()
            .and_then(Cluster::poll_event)
        {
            let at = self.now - self.start;
            self.trace
                .update(format!("{at:?} {index} {event:?}\n").as_bytes());
            ended |= event == Event::Left;
            let copied = matches!(event, Event::CopiedKey { .. });
            assert!(!copied || self.has_copies(), "{at:?}: {index} {event:?}");
            self.act_on(index, &event);
            self.nodes[index].events.push((self.now, event));
        }
        while let Some(sent) = self.nodes[index]
            .cluster
            .as_mut()
            .and_then(Cluster::poll_transmit)
        {
            assert!(sent.datagram.len() <= 1200 && sent.datagram[0] >= 0x80);
            let payload = Payload::Datagram(sent.datagram);
            let from = self.nodes[index].address;
            self.network.send(
                self.now,
                Parcel {
                    from,
                    to: sent.to,
                    payload,
                },
            );
        }
        if ended {
            self.nodes[index].cluster = None;
        }
        self.reschedule(index);
    }

    /// Plays the owner of a cluster: checks heads, and exchanges member lists.
    fn act_on(&mut self, index: usize, event: &Event) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(cluster) = node.cluster.as_mut() else {
            return;
        };
        match event {
            Event::Head { head, .. } if head.bytes == head_bytes(head.author, head.rank) => {
                node.heads.insert(head.author, head.rank);
                cluster
                    .set_head(now, head.author, head.rank, head.bytes.clone())
                    .expect("short");
            }
            Event::PushPull { address, .. } => {
                let list = cluster.export_members();
                self.send_members(index, *address, list, false);
            }
            _ => {}
        }
    }

    fn reschedule(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let wake = node.cluster.as_ref().and_then(Cluster::poll_timeout);
        if let Some(before) = node.wake.take() {
            self.wakes.remove(&(before, index));
        }
        if let Some(at) = wake {
            let at = at.max(self.now);
            node.wake = Some(at);
            self.wakes.insert((at, index));
        }
    }
}

/// Returns a head that the harness accepts as signed by its author.
pub(super) fn head_bytes(author: NodeId, rank: (u64, u64)) -> Bytes {
    let mut bytes = author.as_bytes().to_vec();
    bytes.extend(rank.0.to_le_bytes());
    bytes.extend(rank.1.to_le_bytes());
    bytes.resize(280, 7);
    bytes.into()
}
