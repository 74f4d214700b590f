//! The fetch machine: readers, fills, holders, answers, lies, a cache that accepts or refuses, and
//! time, in any order. Every read ends once, with the right bytes or an error, and no request
//! exceeds the limits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use p2pfs_fetch::plan::{
    DemandId, Failure, FilesToClose, IN_FLIGHT_MAX_BYTES, Offer, PeerNews, PlanConfig,
    RangeRequest, RequestId,
};
use p2pfs_fetch::session::{
    Accepted, Cached, FillId, FillProgress, Holder, OpenOutcome, Owner, Read, Session,
    UncachedAction, verify,
};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::{self, ContentHash, ContentKey, Outboard};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

const SIZE_BYTES: u64 = 400_000;
const NODES: u8 = 4;
const STEPS_MAX: usize = 300;

struct Fuzzed;

impl Owner for Fuzzed {
    type ReadHandle = usize;
    type FillHandle = usize;
    type File = ();
    type Question = RequestId;

    fn tell(_: &usize, progress: FillProgress) {
        assert!(progress.ready_bytes <= progress.size_bytes);
    }
}

struct World {
    now: Instant,
    session: Session<Fuzzed>,
    bytes: Vec<u8>,
    pairs: Vec<u8>,
    hash: ContentHash,
    flying: Vec<RangeRequest>,
    reads: Vec<DemandId>,
    /// Reads that have begun and not ended.
    waiting: BTreeSet<usize>,
    begun: usize,
}

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 1378))
}

impl World {
    fn new(seed: u64) -> Self {
        let bytes: Vec<u8> = (0..SIZE_BYTES).map(|at| (at * at / 7) as u8).collect();
        let outboard = Outboard::of(&bytes);
        let config = PlanConfig {
            me: node(0xff),
            ..PlanConfig::default()
        };
        Self {
            now: Instant::now(),
            session: Session::new(config, seed, 1 << 20),
            bytes,
            pairs: outboard.pairs,
            hash: outboard.hash,
            flying: Vec::new(),
            reads: Vec::new(),
            waiting: BTreeSet::new(),
            begun: 0,
        }
    }

    /// Returns the right content, or one with its hash and an invented size.
    fn content(&self, choose: &mut Unstructured<'_>) -> Result<ContentKey> {
        let size = if choose.ratio(7u8, 8u8)? {
            SIZE_BYTES
        } else {
            choose.int_in_range(1..=u64::from(u32::MAX))?
        };
        Ok(ContentKey::new(self.hash, size))
    }

    fn range(choose: &mut Unstructured<'_>, size_bytes: u64) -> Result<ByteRange> {
        let start = choose.int_in_range(0..=size_bytes)?;
        let most = (size_bytes - start).min(200_000);
        Ok(ByteRange::new(
            start,
            start + choose.int_in_range(0..=most)?,
        ))
    }

    fn step(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let content = self.content(choose)?;
        let who = choose.int_in_range(1..=NODES)?;
        match choose.int_in_range(0..=15u8)? {
            0..=3 => self.read(choose, content)?,
            4 => self.fill(content),
            5 => self.list_holders(choose)?,
            6 => {
                let all = choose.arbitrary()?;
                let offer = Offer {
                    node: node(who),
                    content,
                    all,
                    ranges: ExtentSet::of(Self::range(choose, content.size_bytes)?),
                    load: choose.arbitrary()?,
                };
                self.session.record_offer(self.now, &offer, address(who));
            }
            7 => {
                let answer = Ok(Response::Holdings {
                    ranges: ExtentSet::of(Self::range(choose, content.size_bytes)?),
                    size_bytes: content.size_bytes,
                });
                let from = (node(who), address(who));
                self.session.holdings(self.now, from, self.hash, answer);
            }
            8..=11 if !self.flying.is_empty() => {
                let at = choose.choose_index(self.flying.len())?;
                let request = self.flying.swap_remove(at);
                self.answer(choose, request)?;
            }
            12 if !self.reads.is_empty() => {
                let id = *choose.choose(&self.reads)?;
                self.session.cancel(id);
            }
            13 => match choose.int_in_range(0..=4u8)? {
                0 => self
                    .session
                    .plan
                    .record_peer_news(node(who), PeerNews::Returned),
                1 => {
                    let news = PeerNews::Lied {
                        now: self.now,
                        content,
                    };
                    self.session.plan.record_peer_news(node(who), news);
                }
                2 => self.session.plan.close_files(FilesToClose::Idle),
                3 => self
                    .session
                    .add_fellow(self.now, &self.hash, node(who), address(who)),
                _ => self.session.cancel_fill(&content, FillId(0)),
            },
            _ => {
                self.now += Duration::from_millis(choose.int_in_range(0..=4000)?);
                self.session.plan.handle_timeout(self.now);
            }
        }
        self.carry_out(choose)
    }

    /// Reports some of the nodes as listed holders.
    fn list_holders(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let mut holders = Vec::new();
        for number in 1..=NODES {
            if choose.arbitrary()? {
                let size_bytes = self.content(choose)?.size_bytes;
                let (node, address) = (node(number), address(number));
                holders.push(Holder {
                    node,
                    address,
                    size_bytes,
                    sequence: choose.int_in_range(1..=3)?,
                });
            }
        }
        self.session.record_holders(self.now, &self.hash, &holders);
        Ok(())
    }

    fn open(&mut self, content: ContentKey) -> bool {
        let cached = Cached {
            file: Some(()),
            on_disk: ExtentSet::new(),
            is_complete: false,
        };
        match self.session.open(self.now, content) {
            Ok(OpenOutcome::NotBegun) => self.session.begin(self.now, content, cached).is_ok(),
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn read(&mut self, choose: &mut Unstructured<'_>, content: ContentKey) -> Result<()> {
        if !self.open(content) {
            return Ok(());
        }
        let range = Self::range(choose, content.size_bytes)?;
        let deadline = self.now + Duration::from_millis(choose.int_in_range(0..=10_000)?);
        let reader = self.begun;
        self.begun += 1;
        self.waiting.insert(reader);
        let mut read = Read::new(content, range, deadline, reader);
        read.ahead = choose.arbitrary()?;
        self.reads.extend(self.session.read(self.now, read));
        Ok(())
    }

    fn fill(&mut self, content: ContentKey) {
        if self.open(content) {
            let patience = Duration::from_secs(10);
            self.session
                .fill(self.now, content, (FillId(0), 0), patience, ExtentSet::new);
        }
    }

    /// Delivers an answer, honest or not, and the cache's reaction to it.
    fn answer(&mut self, choose: &mut Unstructured<'_>, request: RangeRequest) -> Result<()> {
        let (now, range, content) = (self.now, request.range, request.content);
        let failure = match choose.int_in_range(0..=7u8)? {
            0 => Some(Failure::Unreachable),
            1 => Some(Failure::Busy),
            2 => Some(Failure::Gone),
            3 => Some(Failure::Lied),
            _ => None,
        };
        self.session
            .plan
            .arrived(now, request.node, request.id, range.len());
        let honest = digest::encode(
            self.hash,
            SIZE_BYTES,
            range,
            &self.bytes[..],
            &self.pairs[..],
        );
        let proof = honest.map_err(|_| Failure::Gone);
        let answer = match failure {
            Some(failure) => Err(failure),
            None => proof.and_then(|proof| verify(&request, proof.into())),
        };
        let verified = match answer {
            Ok(verified) => verified,
            Err(failure) => {
                self.session.failed(now, &request, failure);
                return Ok(());
            }
        };
        assert_eq!(
            content.size_bytes, SIZE_BYTES,
            "another size is never proven"
        );
        if self.session.accept(now, &request, &verified) == Accepted::Store(()) {
            self.carry_out(choose)?;
            self.keep(choose, content, verified.range)?;
        }
        Ok(())
    }

    fn keep(
        &mut self,
        choose: &mut Unstructured<'_>,
        content: ContentKey,
        range: ByteRange,
    ) -> Result<()> {
        loop {
            if choose.ratio(7u8, 8u8)? {
                self.session.stored(content, range, false);
                return Ok(());
            }
            if self.session.not_stored(self.now, content, range) == UncachedAction::Held {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let actions = self.session.actions(self.now);
        for send in actions.sends {
            let request = send.request;
            assert!(request.range.end <= request.content.size_bytes && !request.range.is_empty());
            match send.address {
                Some(_) => {
                    self.flying.push(request);
                    let _useless = self.session.record_sent(request.id, request.id);
                }
                None => self
                    .session
                    .failed(self.now, &request, Failure::Unreachable),
            }
        }
        self.flying
            .retain(|request| !actions.cancels.contains(&request.id));
        for delivery in actions.deliveries {
            let range = delivery.read.range;
            let from_disk = |(): &(), part: ByteRange, buffer: &mut [u8]| {
                let part = part.start as usize..part.end as usize;
                buffer.copy_from_slice(&self.bytes[part]);
                Ok(())
            };
            if range.is_empty() {
                // An empty read needs no byte of any peer, whatever size is claimed.
                self.end(delivery.read.handle);
                continue;
            }
            assert_eq!(delivery.read.content.size_bytes, SIZE_BYTES);
            match delivery.sources.gather(range, from_disk) {
                Ok(bytes) => {
                    let right = &self.bytes[range.start as usize..range.end as usize];
                    assert!(bytes == right, "a reader got wrong bytes");
                    self.end(delivery.read.handle);
                }
                Err(gap) => self.session.fell_short(self.now, delivery.read, gap),
            }
        }
        for (reader, _why) in actions.ends {
            self.end(reader);
        }
        for content in actions.reopens {
            let has_all = choose.arbitrary()?;
            self.session
                .reopened(&content, (), has_all && content.size_bytes == SIZE_BYTES);
        }
        assert!(self.session.plan.requests().bytes() <= IN_FLIGHT_MAX_BYTES);
        Ok(())
    }

    fn end(&mut self, reader: usize) {
        assert!(self.waiting.remove(&reader), "read {reader} ended twice");
    }
}

/// Runs steps until the bytes end. Then every read ends within its time.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(choose.arbitrary()?);
    let mut outcome = Ok(());
    for _ in 0..STEPS_MAX {
        if choose.is_empty() || outcome.is_err() {
            break;
        }
        outcome = world.step(choose);
    }
    // No peer answers from here on.
    let mut silence = Unstructured::new(&[]);
    for _ in 0..10_000 {
        world.carry_out(&mut silence)?;
        let Some(due) = world
            .session
            .plan
            .poll_timeout()
            .filter(|_| !world.waiting.is_empty())
        else {
            break;
        };
        world.now = world.now.max(due);
        world.session.plan.handle_timeout(world.now);
    }
    assert!(
        world.waiting.is_empty(),
        "these wait for ever: {:?}",
        world.waiting
    );
    outcome
}
