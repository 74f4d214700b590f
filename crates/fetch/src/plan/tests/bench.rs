//! Test bench of the plan: scripted peers and readers, in virtual time and without bytes. Whole
//! nodes and their bytes are in `tests/simulation/swarm`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::listed;
use super::peers::{Death, SimPeer};
use crate::plan::fluid::{Arrival, Fluid};
use crate::plan::{
    DemandId, Failure, Offer, Plan, PlanConfig, PlanError, PlanEvent, RangeRequest, RequestId,
};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// How long a read waits: the default.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// One program that reads.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub content: ContentKey,
    pub reads: Vec<ByteRange>,
    pub at: usize,
    pub waits: Option<(DemandId, Instant)>,
    pub longest_wait: Duration,
    pub errors: Vec<PlanError>,
    pub done_at: Option<Instant>,
}

impl Reader {
    pub(super) fn new(content: ContentKey, reads: Vec<ByteRange>) -> Self {
        Self {
            content,
            reads,
            at: 0,
            waits: None,
            longest_wait: Duration::ZERO,
            errors: vec![],
            done_at: None,
        }
    }

    pub(super) fn sequential(content: ContentKey, size: u64) -> Self {
        Self::in_reads_of(128 << 10, content, size)
    }

    /// Creates a reader that reads a file sequentially in reads of `step` bytes.
    pub(super) fn in_reads_of(step: u64, content: ContentKey, size: u64) -> Self {
        let reads = (0..size.div_ceil(step))
            .map(|i| ByteRange::new(i * step, ((i + 1) * step).min(size)))
            .collect();
        Self::new(content, reads)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.reads[..self.at].iter().map(ByteRange::len).sum()
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Reaches(RequestId),
    Pauses(NodeId, bool),
    Fails(RequestId, u8),
    Offers(NodeId, ContentKey),
    Dies(NodeId),
}

pub(super) struct Bench {
    pub plan: Plan,
    pub start: Instant,
    pub now: Instant,
    pub peers: BTreeMap<NodeId, SimPeer>,
    pub readers: Vec<Reader>,
    pub requests: Vec<RangeRequest>,
    pub events: Vec<PlanEvent>,
    under_way: BTreeMap<RequestId, RangeRequest>,
    pub links: Fluid<NodeId>,
    /// Bytes that the cache keeps, and bytes that stay in memory in addition. Neither evicts
    /// anything.
    pub cache_bytes: u64,
    pub uncached_max_bytes: u64,
    uncached: VecDeque<(ContentKey, ByteRange)>,
    /// Maximum number of items that one call of the plan examined.
    pub most_steps: u64,
    steps_before: u64,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    order: u64,
}

/// Node that requests.
const ASKER: NodeId = NodeId::new([0xAA; 32]);

pub(super) fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

pub(super) fn file_named(number: u8, size: u64) -> ContentKey {
    ContentKey::new(ContentHash::new([number; 32]), size)
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            plan: Plan::new(PlanConfig::default(), seed),
            start,
            now: start,
            peers: BTreeMap::new(),
            readers: vec![],
            requests: vec![],
            events: vec![],
            under_way: BTreeMap::new(),
            links: Fluid::new(start),
            cache_bytes: u64::MAX,
            uncached_max_bytes: 0,
            uncached: VecDeque::new(),
            most_steps: 0,
            steps_before: 0,
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    pub(super) fn peer(&mut self, number: u8, peer: SimPeer) -> NodeId {
        if let Some((after, _)) = peer.dies {
            self.later(self.start + after, Happening::Dies(node(number)));
        }
        self.links.up.insert(node(number), peer.rate);
        for (from, length) in &peer.pauses {
            let begin = self.start + *from;
            self.later(begin, Happening::Pauses(node(number), true));
            self.later(begin + *length, Happening::Pauses(node(number), false));
        }
        self.peers.insert(node(number), peer);
        node(number)
    }

    pub(super) fn file(&mut self, number: u8, size: u64, holders: &[NodeId]) -> ContentKey {
        let content = file_named(number, size);
        self.plan.open(self.now, content, ExtentSet::new()).unwrap();
        self.plan
            .record_holders(self.now, &content, &listed(holders));
        content
    }

    pub(super) fn read(&mut self, reader: Reader) -> usize {
        self.readers.push(reader);
        self.readers.len() - 1
    }

    /// Adds a single waiting read, without retries.
    pub(super) fn demand(
        &mut self,
        content: ContentKey,
        range: ByteRange,
        patience: Duration,
    ) -> DemandId {
        let deadline = self.now + patience;
        let demanded = self.plan.demand(self.now, content, range, deadline);
        demanded.unwrap()
    }

    pub(super) fn requested_bytes(&self) -> u64 {
        self.requests
            .iter()
            .map(|request| request.range.len())
            .sum()
    }

    /// Runs until all readers have finished, a fill has ended, or the time is up.
    pub(super) fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            for _ in 0..2 {
                while let Some(event) = self.plan.state.out.poll_event() {
                    self.take(event);
                }
                self.step_readers();
            }
            self.send_requests();
            self.check_readers();
            let idle = self.readers.iter().all(|r| r.done_at.is_some());
            let filled =
                |e: &PlanEvent| matches!(e, PlanEvent::Filled(_) | PlanEvent::FillFailed(..));
            if idle && (!self.readers.is_empty() || self.events.iter().any(filled)) {
                return;
            }
            let happening = self.queue.peek().map(|Reverse((at, ..))| *at);
            let next = [happening, self.plan.poll_timeout(), self.links.next_at()]
                .into_iter()
                .flatten()
                .min();
            match next {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return;
                }
            }
            self.note_steps(true);
            self.plan.handle_timeout(self.now);
            self.note_steps(false);
            for arrival in self.links.arrivals(self.now) {
                self.arrive(&arrival);
            }
            while self
                .queue
                .peek()
                .is_some_and(|Reverse((at, ..))| *at <= self.now)
            {
                let Reverse((.., happening)) = self.queue.pop().unwrap();
                self.happen(happening);
            }
        }
    }

    fn later(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, happening)));
    }

    fn dead(&self, node: &NodeId) -> Option<Death> {
        let (after, death) = self.peers[node].dies?;
        (self.now >= self.start + after).then_some(death)
    }

    fn send_requests(&mut self) {
        while let Some(request) = self.polled_request() {
            while let Some(event) = self.plan.state.out.poll_event() {
                self.take(event);
            }
            self.check(&request);
            self.requests.push(request);
            self.under_way.insert(request.id, request);
            let death = self.dead(&request.node);
            let peer = &self.peers[&request.node];
            let happening = match (death, peer.gone) {
                (Some(Death::Silence), _) => continue,
                (Some(Death::Reset), _) => Happening::Fails(request.id, 0),
                (_, true) => Happening::Fails(request.id, 1),
                _ => Happening::Reaches(request.id),
            };
            self.later(self.now + peer.latency, happening);
        }
    }

    fn polled_request(&mut self) -> Option<RangeRequest> {
        self.note_steps(true);
        let request = self.plan.poll_request(self.now);
        self.note_steps(false);
        request
    }

    fn note_steps(&mut self, begins: bool) {
        let steps = self.plan.steps();
        if begins {
            self.steps_before = steps;
        } else {
            self.most_steps = self.most_steps.max(steps - self.steps_before);
        }
    }

    /// Returns the bytes that crossed the links, needed or not.
    pub(super) fn moved_bytes(&self) -> u64 {
        self.links.moved_bytes.values().sum::<f64>() as u64
    }

    pub(super) fn in_flight_bytes(&self, node: &NodeId) -> u64 {
        self.plan
            .state
            .peers
            .get(node)
            .unwrap()
            .link
            .in_flight_bytes()
    }

    fn line(request: &RangeRequest) -> (NodeId, NodeId, u8) {
        (request.node, ASKER, request.lane as u8)
    }

    fn arrive(&mut self, arrival: &Arrival<NodeId>) {
        let (id, (from, ..)) = (RequestId(arrival.id), arrival.line);
        self.plan.arrived(self.now, from, id, arrival.bytes);
        if !arrival.whole {
            return;
        }
        let peer = self.peers.get_mut(&from).unwrap();
        let lies = peer.lies;
        let Some(request) = self.under_way.remove(&id) else {
            return;
        };
        peer.served_bytes += request.range.len();
        match lies {
            true => self.plan.failed(self.now, id, Failure::Lied),
            false if self.plan.answered(self.now, id) => self.keep(request.content, request.range),
            false => {}
        }
    }

    /// Keeps bytes in the cache. Without room they stay in memory for a while and are then lost.
    fn keep(&mut self, content: ContentKey, range: ByteRange) {
        if range.len() <= self.cache_bytes {
            self.cache_bytes -= range.len();
            return;
        }
        self.plan
            .state
            .read_ahead
            .limit(Some(self.uncached_max_bytes / 2));
        self.uncached.push_back((content, range));
        let held = |uncached: &VecDeque<(ContentKey, ByteRange)>| -> u64 {
            uncached.iter().map(|(_, range)| range.len()).sum()
        };
        while held(&self.uncached) > self.uncached_max_bytes {
            let (content, range) = self.uncached.pop_front().unwrap();
            self.plan.mark_lost(&content, range);
        }
    }

    fn check(&self, request: &RangeRequest) {
        let size = request.content.size_bytes;
        assert!(request.range.len() <= crate::plan::PIECE_MAX_BYTES && !request.range.is_empty());
        assert!(request.range.start.is_multiple_of(4096) && request.range.end <= size);
        assert!(request.range.end.is_multiple_of(4096) || request.range.end == size);
        let total: u64 = self.under_way.values().map(|r| r.range.len()).sum();
        assert!(total + request.range.len() <= crate::plan::IN_FLIGHT_MAX_BYTES);
        let same = |other: &&RangeRequest| {
            other.content == request.content && !other.range.intersection(&request.range).is_empty()
        };
        for other in self.under_way.values().filter(same) {
            assert_ne!(other.node, request.node, "asked the same of one peer twice");
            let (one, two) = (other.range, request.range);
            assert!(
                one.contains(&two) || two.contains(&one),
                "asked twice, but not as a hedge: {one:?}, {two:?}"
            );
        }
        let have = self
            .plan
            .state
            .files
            .get(&request.content)
            .unwrap()
            .presence
            .here();
        assert!(
            have.present_in(request.range).is_empty(),
            "asked for what is here"
        );
    }

    /// Checks that everything a reader waits for is in flight, or is requested as soon as possible.
    fn check_readers(&self) {
        for (id, demand) in self.plan.state.demands.all() {
            let fetch = &self.plan.state.files.get(&demand.content).unwrap();
            if fetch.readers.is_unissued(*id) {
                continue;
            }
            let mut comes = fetch.presence.here().clone();
            let asked = self.plan.state.requests.all().copied();
            for request in asked.filter(|it| it.content == demand.content) {
                comes.insert(request.range);
            }
            assert!(comes.contains(demand.range), "{demand:?} waits in vain");
        }
    }

    fn take(&mut self, event: PlanEvent) {
        match &event {
            PlanEvent::Ready(id) => self.finish_read(*id, None),
            PlanEvent::Failed(id, why) => self.finish_read(*id, Some(why.clone())),
            PlanEvent::Cancel(id) => {
                if let Some(request) = self.under_way.remove(id) {
                    self.links.cancel(self.now, Self::line(&request), id.0);
                }
            }
            PlanEvent::Wanted(content) => {
                let at = self.now + Duration::from_millis(5);
                let offering = self.peers.iter().filter(|(_, peer)| peer.offers.is_some());
                let nodes: Vec<_> = offering.map(|(node, _)| *node).collect();
                nodes
                    .into_iter()
                    .for_each(|node| self.later(at, Happening::Offers(node, *content)));
            }
            // the catalogue knows no other holder
            PlanEvent::LookUp(content) => self.plan.record_holders(self.now, content, &[]),
            _ => {}
        }
        self.events.push(event);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Reaches(id) => {
                let Some(request) = self.under_way.get(&id).copied() else {
                    return;
                };
                if self.dead(&request.node).is_none() {
                    let bytes = request.range.len();
                    self.links.send(self.now, Self::line(&request), id.0, bytes);
                }
            }
            Happening::Pauses(node, begins) => {
                let rate = if begins { 0.0 } else { self.peers[&node].rate };
                self.links.set_up(self.now, node, rate);
            }
            Happening::Fails(id, how) => {
                if self.under_way.remove(&id).is_some() {
                    let how = [Failure::Unreachable, Failure::Gone, Failure::Lied][how as usize];
                    self.plan.failed(self.now, id, how);
                }
            }
            Happening::Offers(node, content) => self.offer(node, content),
            Happening::Dies(node) => {
                self.links.cut(self.now, node);
                if self.dead(&node) == Some(Death::Reset) {
                    let of_node = |r: &&RangeRequest| r.node == node;
                    let lost: BTreeSet<_> = self
                        .under_way
                        .values()
                        .filter(of_node)
                        .map(|r| r.id)
                        .collect();
                    for id in lost {
                        self.under_way.remove(&id);
                        self.plan.failed(self.now, id, Failure::Unreachable);
                    }
                }
            }
        }
    }

    pub(super) fn offer(&mut self, node: NodeId, content: ContentKey) {
        if self.dead(&node).is_some() {
            return;
        }
        let ranges = self.peers[&node].offers.clone().unwrap_or_default();
        let all = ranges.contains(ByteRange::new(0, content.size_bytes));
        self.plan.record_offer(
            self.now,
            &Offer {
                node,
                content,
                all,
                ranges,
                load: 0,
            },
        );
    }

    fn step_readers(&mut self) {
        for index in 0..self.readers.len() {
            self.step_reader(index);
        }
    }

    fn step_reader(&mut self, index: usize) {
        loop {
            let reader = &mut self.readers[index];
            if reader.waits.is_some() || reader.done_at.is_some() {
                return;
            }
            let Some(range) = reader.reads.get(reader.at).copied() else {
                reader.done_at = Some(self.now);
                return;
            };
            let here = self
                .plan
                .state
                .files
                .get(&reader.content)
                .map(|f| f.presence.here().contains(range));
            if here == Some(true) {
                self.plan.record_read(self.now, &reader.content, range);
                reader.at += 1;
                continue;
            }
            match self
                .plan
                .demand_ahead(self.now, reader.content, range, self.now + PATIENCE)
            {
                Ok(id) => reader.waits = Some((id, self.now)),
                Err(why) => {
                    reader.errors.push(why);
                    reader.at += 1;
                }
            }
        }
    }

    fn finish_read(&mut self, id: DemandId, error: Option<PlanError>) {
        let of_id = |r: &&mut Reader| r.waits.is_some_and(|(waits, _)| waits == id);
        let Some(reader) = self.readers.iter_mut().find(of_id) else {
            return;
        };
        let (_, since) = reader.waits.take().unwrap();
        reader.longest_wait = reader.longest_wait.max(self.now - since);
        if error.is_none() {
            let here = self
                .plan
                .state
                .files
                .get(&reader.content)
                .unwrap()
                .presence
                .here();
            assert!(
                here.contains(reader.reads[reader.at]),
                "told ready, and it is not here"
            );
        }
        reader.errors.extend(error);
        reader.at += 1;
    }
}
