//! A world of many plans that fetch one file from a few that have it, and from each other, over
//! links with a rate, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use super::{PATIENCE, file_named, node};
use crate::extent::{ByteRange, CHUNK_BYTES, ExtentSet};
use crate::id::NodeId;
use crate::transfer::plan::fluid::Fluid;
use crate::transfer::plan::{
    DemandId, Failure, Offer, Plan, PlanConfig, PlanError, PlanEvent, RangeRequest, RequestId,
};

/// From a question to the first byte of its answer.
const LATENCY: Duration = Duration::from_millis(2);
/// What a reader reads at a time.
const STEP: u64 = 128 << 10;

/// One that fetches.
pub struct Member {
    pub plan: Plan,
    /// When it begins.
    begins: Duration,
    /// Whether it wants the whole file, and not to read it in order.
    fills: bool,
    at: u64,
    waits: Option<(DemandId, Instant)>,
    pub longest_wait: Duration,
    pub first_bytes_after: Option<Duration>,
    pub errors: Vec<PlanError>,
    pub done_after: Option<Duration>,
    dies: Option<Duration>,
    is_open: bool,
    pub is_dead: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Begins(NodeId),
    Dies(NodeId),
    Reaches(NodeId, RequestId),
    Surveyed(NodeId, NodeId),
}

pub struct Many {
    pub now: Instant,
    pub start: Instant,
    pub size: u64,
    pub members: BTreeMap<NodeId, Member>,
    pub seeds: Vec<NodeId>,
    pub links: Fluid<NodeId>,
    under_way: BTreeMap<(NodeId, RequestId), RangeRequest>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    order: u64,
}

impl Many {
    /// Seeds and readers on links of so many bytes a second.
    pub fn new(seeds: u8, size: u64, rate: f64) -> Self {
        let start = Instant::now();
        let mut links = Fluid::new(start);
        let seeds: Vec<_> = (0..seeds).map(|i| node(100 + i)).collect();
        for seed in &seeds {
            links.up.insert(*seed, rate);
            links.down.insert(*seed, rate);
        }
        Self {
            now: start,
            start,
            size,
            members: BTreeMap::new(),
            seeds,
            links,
            under_way: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    pub fn join(&mut self, number: u8, rate: f64, begins: Duration, fills: bool) {
        let id = node(number);
        let config = PlanConfig {
            me: id,
            ..PlanConfig::default()
        };
        self.links.up.insert(id, rate);
        self.links.down.insert(id, rate);
        let member = Member {
            plan: Plan::new(config, u64::from(number)),
            begins,
            fills,
            at: 0,
            waits: None,
            longest_wait: Duration::ZERO,
            first_bytes_after: None,
            errors: vec![],
            done_after: None,
            dies: None,
            is_open: false,
            is_dead: false,
        };
        self.members.insert(id, member);
        self.later(self.start + begins, Happening::Begins(id));
    }

    pub fn kill(&mut self, number: u8, after: Duration) {
        self.members.get_mut(&node(number)).unwrap().dies = Some(after);
        self.later(self.start + after, Happening::Dies(node(number)));
    }

    /// Copies of the file that left a node.
    pub fn copies_from(&self, id: &NodeId) -> f64 {
        self.links.moved_bytes.get(id).copied().unwrap_or_default() / self.size as f64
    }

    /// Runs until all are through that live, or the time is up.
    pub fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            let over = |member: &Member| member.is_dead || member.done_after.is_some();
            if self.members.values().all(over) {
                return;
            }
            let happening = self.queue.peek().map(|Reverse((at, ..))| *at);
            let timeouts = self.members.values().filter(|m| !m.is_dead);
            let timeout = timeouts
                .filter_map(|member| member.plan.poll_timeout())
                .min();
            let next = [happening, timeout, self.links.next_at()];
            match next.into_iter().flatten().min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => return,
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let mut touched = Vec::new();
        for (id, member) in &mut self.members {
            if member.plan.poll_timeout().is_some_and(|at| at <= self.now) {
                member.plan.handle_timeout(self.now);
                touched.push(*id);
            }
        }
        for arrival in self.links.arrivals(self.now) {
            let (from, to, _) = arrival.line;
            let id = RequestId(arrival.id);
            let member = self.members.get_mut(&to).unwrap();
            member.plan.arrived(self.now, from, id, arrival.bytes);
            if arrival.whole && self.under_way.remove(&(to, id)).is_some() {
                member.plan.answered(self.now, id);
            }
            touched.push(to);
        }
        while self
            .queue
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= self.now)
        {
            let Reverse((.., happening)) = self.queue.pop().unwrap();
            touched.extend(self.happen(happening));
        }
        touched.sort();
        touched.dedup();
        touched.iter().for_each(|id| self.settle(*id));
    }

    fn later(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, happening)));
    }

    fn have(&self, id: &NodeId) -> ExtentSet {
        if self.seeds.contains(id) {
            return ExtentSet::of(ByteRange::new(0, self.size));
        }
        let fetch = self.members[id].plan.fetches.get(&file_named(1, self.size));
        let whole = |range: ByteRange| range.align_in(CHUNK_BYTES, self.size);
        let runs = fetch.into_iter().flat_map(|fetch| fetch.have().iter());
        runs.map(whole).filter(|range| !range.is_empty()).collect()
    }

    fn happen(&mut self, happening: Happening) -> Vec<NodeId> {
        match happening {
            Happening::Begins(id) => self.begin(id),
            Happening::Dies(id) => self.die(id),
            Happening::Surveyed(to, of) => {
                if !self.is_gone(&to) && !self.is_gone(&of) {
                    self.offer(to, of);
                }
                vec![to]
            }
            Happening::Reaches(to, id) => {
                let Some(request) = self.under_way.get(&(to, id)).copied() else {
                    return vec![];
                };
                let from = request.node;
                if self.is_gone(&from) {
                    self.fail(to, id, Failure::Unreachable);
                } else if !self.have(&from).contains(request.range) {
                    self.fail(to, id, Failure::Gone);
                } else {
                    let line = (from, to, request.lane as u8);
                    self.links.send(self.now, line, id.0, request.range.len());
                }
                vec![to]
            }
        }
    }

    fn is_gone(&self, id: &NodeId) -> bool {
        self.members.get(id).is_some_and(|member| member.is_dead)
    }

    fn fail(&mut self, to: NodeId, id: RequestId, how: Failure) {
        self.under_way.remove(&(to, id));
        let member = self.members.get_mut(&to).unwrap();
        member.plan.failed(self.now, id, how);
    }

    /// A node opens the file: it asks all others for it, and hears of them.
    fn begin(&mut self, id: NodeId) -> Vec<NodeId> {
        let (now, content) = (self.now, file_named(1, self.size));
        let seeds = self.seeds.clone();
        let is_in = |(other, m): &(&NodeId, &Member)| **other != id && m.is_open && !m.is_dead;
        let others = self.members.iter().filter(is_in);
        let others: Vec<_> = others.map(|(other, _)| *other).collect();
        let member = self.members.get_mut(&id).unwrap();
        member.is_open = true;
        member.plan.open(now, content, ExtentSet::new()).unwrap();
        member.plan.holders(now, &content, &seeds);
        if member.fills {
            member.plan.fill(now, content, PATIENCE);
        }
        for other in &others {
            self.members
                .get_mut(other)
                .unwrap()
                .plan
                .fellow(now, &content, id);
            self.members
                .get_mut(&id)
                .unwrap()
                .plan
                .fellow(now, &content, *other);
            self.offer(id, *other);
        }
        let mut touched = others;
        touched.push(id);
        touched
    }

    fn offer(&mut self, to: NodeId, of: NodeId) {
        let ranges = self.have(&of);
        let all = ranges.contains(ByteRange::new(0, self.size));
        let offer = Offer {
            node: of,
            content: file_named(1, self.size),
            all,
            ranges,
            load: 0,
        };
        let member = self.members.get_mut(&to).unwrap();
        member.plan.offer(self.now, &offer);
    }

    fn die(&mut self, id: NodeId) -> Vec<NodeId> {
        self.members.get_mut(&id).unwrap().is_dead = true;
        self.links.cut(self.now, id);
        self.under_way.retain(|(asker, _), _| *asker != id);
        let of_it = self
            .under_way
            .iter()
            .filter(|(_, request)| request.node == id);
        let lost: Vec<_> = of_it.map(|(key, _)| *key).collect();
        for (to, request) in &lost {
            self.fail(*to, *request, Failure::Unreachable);
        }
        lost.into_iter().map(|(to, _)| to).collect()
    }

    fn settle(&mut self, id: NodeId) {
        if self.is_gone(&id) || !self.members[&id].is_open {
            return;
        }
        loop {
            while let Some(event) = self.members.get_mut(&id).unwrap().plan.poll_event() {
                self.take(id, event);
            }
            self.read_on(id);
            let member = self.members.get_mut(&id).unwrap();
            let Some(request) = member.plan.poll_request(self.now) else {
                break;
            };
            self.under_way.insert((id, request.id), request);
            self.later(self.now + LATENCY, Happening::Reaches(id, request.id));
        }
        while let Some(event) = self.members.get_mut(&id).unwrap().plan.poll_event() {
            self.take(id, event);
        }
    }

    fn take(&mut self, id: NodeId, event: PlanEvent) {
        let after = self.now - self.start - self.members[&id].begins;
        let member = self.members.get_mut(&id).unwrap();
        match event {
            PlanEvent::Ready(demand) | PlanEvent::Failed(demand, _)
                if member.waits.is_some_and(|(own, _)| own == demand) =>
            {
                let (_, since) = member.waits.take().unwrap();
                member.longest_wait = member.longest_wait.max(self.now - since);
                if let PlanEvent::Failed(_, why) = event {
                    member.errors.push(why);
                    member.at += STEP;
                }
            }
            PlanEvent::Cancel(request) => {
                if let Some(it) = self.under_way.remove(&(id, request)) {
                    let line = (it.node, id, it.lane as u8);
                    self.links.cancel(self.now, line, request.0);
                }
            }
            PlanEvent::Survey(_, of) => {
                self.later(self.now + LATENCY, Happening::Surveyed(id, of));
            }
            PlanEvent::Filled(_) => member.done_after = Some(after),
            _ => {}
        }
    }

    fn read_on(&mut self, id: NodeId) {
        let (now, content, size) = (self.now, file_named(1, self.size), self.size);
        let member = self.members.get_mut(&id).unwrap();
        while !member.fills && member.waits.is_none() && member.done_after.is_none() {
            if member.at >= size {
                member.done_after = Some(now - self.start - member.begins);
                return;
            }
            let range = ByteRange::new(member.at, (member.at + STEP).min(size));
            if member.plan.fetches[&content].have().contains(range) {
                member.plan.read_ahead(now, &content, range);
                member.at = range.end;
                let after = now - self.start - member.begins;
                member.first_bytes_after.get_or_insert(after);
                continue;
            }
            match member.plan.demand(now, content, range, now + PATIENCE) {
                Ok(demand) => member.waits = Some((demand, now)),
                Err(why) => {
                    member.errors.push(why);
                    member.at = range.end;
                }
            }
        }
    }
}
