//! The machines of a whole node. A member sends any requests, answers and messages, decoded as by
//! the sockets. The node's own names stay, and its queues are bounded.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use p2pfs_catalogue::{Catalogue, SetDigest};
use p2pfs_membership::{Cluster, ClusterConfig};
use p2pfs_node::machine::questions::{LOG_REQUESTS_MAX, REQUESTS_MAX};
use p2pfs_node::machine::{EVENTS_MAX, Outgoing};
use p2pfs_node::{Machine, MachineConfig};
use p2pfs_proto::trust::{EpochSecret, Keyring, NodeKey};
use p2pfs_proto::wire::native::record::{
    Entry, Fact, Head, Kind, Record, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_proto::wire::native::tcp::{
    FrameHeader, HEADER_BYTES, LogPart, Phase, Request, Response, pack_records,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{Generation, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

const STEPS_MAX: usize = 80;
static HONEST: LazyLock<Arc<NodeKey>> = LazyLock::new(|| Arc::new(NodeKey::from_seed(&[1; 32])));
static EVE: LazyLock<Arc<NodeKey>> = LazyLock::new(|| Arc::new(NodeKey::from_seed(&[2; 32])));

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 1378))
}

fn config(number: u8) -> ClusterConfig {
    ClusterConfig {
        seeds: vec![address(3 - number)],
        ..ClusterConfig::default()
    }
}

struct World {
    now: Instant,
    machine: Machine,
    /// Her part of the gossip, so that the node considers her alive.
    eve: Cluster,
    asked: Vec<Outgoing>,
    epoch: u64,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let keyring =
            |key: &Arc<NodeKey>| Keyring::in_memory(EpochSecret::new([1; 32]), key.clone());
        let name = NodeName::new("honest").expect("a name");
        let machine = MachineConfig {
            key: HONEST.clone(),
            name: name.clone(),
            advertised: address(1),
            generation: Generation(100),
            keyring: keyring(&HONEST),
            cluster: config(1),
            seed: 7,
        };
        let catalogue = Catalogue::new(HONEST.node_id(), name);
        let mut machine = Machine::new(machine, catalogue, now);
        machine
            .own()
            .put(now, ShareIndex(0), path("own.txt"), file(b"own", 1));
        let eve = Cluster::new(
            config(2),
            EVE.clone(),
            address(2),
            Generation(100),
            keyring(&EVE).reader(),
            8,
            now,
        );
        let mut world = Self {
            now,
            machine,
            eve,
            asked: Vec::new(),
            epoch: 0,
        };
        world.pass(Duration::from_secs(2));
        world
    }

    /// Advances the time and delivers datagrams.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            let due = [self.machine.poll_timeout(), self.eve.poll_timeout()];
            let due = due.into_iter().flatten().min();
            let Some(at) = due.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.eve.handle_timeout(self.now);
            while self.machine.sweep(self.now) {}
        }
        self.now = end;
    }

    fn exchange(&mut self) {
        loop {
            let to_eve: Vec<_> = std::iter::from_fn(|| self.machine.poll_transmit()).collect();
            let to_machine: Vec<_> = std::iter::from_fn(|| self.eve.poll_transmit()).collect();
            if to_eve.is_empty() && to_machine.is_empty() {
                break;
            }
            for it in to_eve.iter().filter(|it| it.to == address(2)) {
                self.eve.handle_message(self.now, address(1), &it.datagram);
            }
            for it in to_machine.iter().filter(|it| it.to == address(1)) {
                self.machine
                    .handle_message(self.now, address(2), &it.datagram);
            }
        }
        while self.eve.poll_event().is_some() {}
        let events = std::iter::from_fn(|| self.machine.poll_event()).count();
        assert!(events <= EVENTS_MAX + REQUESTS_MAX + LOG_REQUESTS_MAX);
        while self.machine.catalogue().poll_change().is_some() {}
        self.asked
            .extend(std::iter::from_fn(|| self.machine.poll_request()));
        assert!(self.asked.len() <= REQUESTS_MAX + LOG_REQUESTS_MAX);
    }

    fn step(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let eve = EVE.node_id();
        match choose.int_in_range(0..=7u8)? {
            0 => {
                if let Some(request) = request(choose)? {
                    let _answer = self.machine.answer(self.now, eve, &request);
                }
            }
            1 => {
                let heads = vec![self.head(choose, &[])?];
                let request = Request::Heads { heads };
                let _answer = self.machine.answer(self.now, eve, &request);
            }
            2..=4 if !self.asked.is_empty() => {
                let at = choose.choose_index(self.asked.len())?;
                let asked = self.asked.swap_remove(at);
                let response = self.response(choose, &asked.request)?;
                self.machine.handle_response(self.now, asked.id, response);
            }
            5 => {
                let length = choose.int_in_range(0..=choose.len().min(848))?;
                let body = Bytes::copy_from_slice(choose.bytes(length)?);
                let _sent = self.eve.broadcast(self.now, body);
            }
            6 => {
                let head = self.head(choose, &[])?;
                let bytes = postcard::to_stdvec(&head).expect("a head always encodes");
                let rank = (head.head.epoch, head.head.sequence);
                let author = head.head.author;
                let _spread = self.eve.set_head(self.now, author, rank, bytes.into());
            }
            _ => self.pass(Duration::from_millis(choose.int_in_range(0..=3000)?)),
        }
        self.exchange();
        Ok(())
    }

    /// Returns a head with her signature, for her log or another's, that fits these facts or not.
    fn head(&mut self, choose: &mut Unstructured<'_>, facts: &[Fact]) -> Result<SignedHead> {
        let mut digest = SetDigest::default();
        facts.iter().for_each(|fact| digest.add(fact));
        self.epoch += u64::from(choose.arbitrary::<bool>()?);
        let author = match choose.int_in_range(0..=5u8)? {
            0 => HONEST.node_id(),
            1 => NodeId::new([9; 32]),
            _ => EVE.node_id(),
        };
        let count = facts.len() as u64;
        let mut head = Head {
            author,
            name: NodeName::new("eve").expect("a name"),
            epoch: self.epoch,
            sequence: count,
            count,
            floor: 0,
            digest: digest.digest(),
        };
        match choose.int_in_range(0..=7u8)? {
            0 => head.sequence = choose.arbitrary()?,
            1 => head.count = choose.arbitrary()?,
            2 => head.floor = choose.arbitrary()?,
            3 => head.epoch = choose.arbitrary()?,
            4 => head.digest = [choose.arbitrary()?; 32],
            _ => {}
        }
        let signature = EVE.sign(&head.signed_bytes());
        Ok(SignedHead { head, signature })
    }

    /// Returns her answer: one of the right kind, or any response.
    fn response(
        &mut self,
        choose: &mut Unstructured<'_>,
        to: &Request,
    ) -> Result<Option<Response>> {
        Ok(match (to, choose.int_in_range(0..=5u8)?) {
            (_, 0) => None,
            (Request::Log { .. }, _) => {
                let facts = facts(choose)?;
                let head = self.head(choose, &facts)?;
                let numbered = facts.into_iter().zip(1..);
                let records: Vec<_> = numbered
                    .map(|(fact, sequence)| Record { sequence, fact })
                    .collect();
                Some(Response::Log(LogPart {
                    head,
                    fresh: choose.ratio(3u8, 4u8)?,
                    records: pack_records(&records)
                        .map(|it| it.bytes)
                        .unwrap_or_default(),
                    last: choose.ratio(3u8, 4u8)?,
                }))
            }
            (Request::Heads { .. }, _) => Some(Response::Heads {
                heads: vec![self.head(choose, &[])?],
            }),
            (Request::Members { .. }, 1) => Some(Response::Members {
                members: self.eve.export_members(),
            }),
            _ => framed(choose, Phase::Responses)?
                .and_then(|(header, body)| Response::decode(header.kind, body).ok()),
        })
    }
}

fn request(choose: &mut Unstructured<'_>) -> Result<Option<Request>> {
    let framed = framed(choose, Phase::Requests)?;
    Ok(framed.and_then(|(header, body)| Request::decode(header.kind, body).ok()))
}

fn framed(choose: &mut Unstructured<'_>, phase: Phase) -> Result<Option<(FrameHeader, Bytes)>> {
    let mut header = [0; HEADER_BYTES];
    header[3] = 5;
    header[HEADER_BYTES - 1] = choose.int_in_range(16..=44)?;
    let length = choose.int_in_range(0..=choose.len().min(400))?;
    let body = Bytes::copy_from_slice(choose.bytes(length)?);
    Ok(FrameHeader::decode(&header, phase)
        .ok()
        .map(|header| (header, body)))
}

fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).expect("a path")
}

fn file(content: &[u8], seconds: i64) -> Entry {
    let time = Timestamp {
        seconds,
        nanoseconds: 0,
    };
    Entry {
        kind: Kind::File {
            hash: ContentHash::of(content),
            size_bytes: content.len() as u64,
            executable: false,
        },
        mtime: time,
        version_time: time,
        sent_by: None,
        replaces: Vec::new(),
    }
}

fn facts(choose: &mut Unstructured<'_>) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for _ in 0..choose.int_in_range(0..=4)? {
        let path = path(choose.choose(&["a", "a/b", "own.txt", "own.txt/c"])?);
        let mut entry = file(b"hers", choose.arbitrary()?);
        match choose.int_in_range(0..=3u8)? {
            0 => {
                let length = choose.int_in_range(0..=choose.len().min(20))?;
                let target = Bytes::copy_from_slice(choose.bytes(length)?);
                entry.kind = Kind::Symlink { target };
            }
            1 => {
                let hash = ContentHash::of(b"hers");
                let size_bytes = choose.arbitrary()?;
                facts.push(Fact::Have { hash, size_bytes });
            }
            _ => {}
        }
        facts.push(Fact::Entry {
            share: ShareIndex(0),
            path,
            entry,
        });
    }
    Ok(facts)
}

/// Runs steps until the bytes end. The node's own file is listed all the time.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new();
    let mut outcome = Ok(());
    for _ in 0..STEPS_MAX {
        if choose.is_empty() || outcome.is_err() {
            break;
        }
        outcome = world.step(choose);
    }
    world.pass(Duration::from_secs(1));
    let hash = ContentHash::of(b"own");
    let own = world.machine.view().contents().holders(&hash);
    assert!(own.contains(&HONEST.node_id()), "the node has its own file");
    let entry = world
        .machine
        .known()
        .own()
        .entry(ShareIndex(0), &path("own.txt"));
    assert_eq!(entry, Some(file(b"own", 1)));
    outcome
}
