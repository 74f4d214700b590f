//! Reading and serving on one node, as `transfer::client` and `transfer::server` do it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2pfs::digest::{self, ContentHash};
use p2pfs::extent::{ByteRange, ExtentSet};
use p2pfs::id::NodeId;
use p2pfs::transfer::plan::{
    DemandId, Failure, HOLDERS_MAX, Offer, PlanError, PlanEvent, RangeRequest,
};
use p2pfs::wire::native::tcp::{Request, Response};
use p2pfs::wire::native::udp::{MAX_OFFER_RANGES, Message, OfferSummary};

use crate::nodes::contents::{Cached, Library};
use crate::nodes::running::{Manner, Node, Purpose, Running, Wish};

/// How long a read waits, as the contract's default.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel's largest read.
const READ_BYTES: u64 = 128 << 10;
/// The catalogue is asked again who holds a file when a read misses after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A file that is being fetched.
pub struct OpenFile {
    addresses: BTreeMap<NodeId, SocketAddr>,
    looked_at: Instant,
}

/// One program that reads a file from its beginning to its end.
pub struct Reader {
    pub hash: ContentHash,
    size_bytes: u64,
    at: u64,
    waits: Option<(DemandId, Instant)>,
    pub longest_wait: Duration,
    pub ended: Option<(Instant, Result<(), PlanError>)>,
}

impl Reader {
    fn range(&self) -> ByteRange {
        ByteRange::new(self.at, (self.at + READ_BYTES).min(self.size_bytes))
    }
}

impl Node {
    /// A program begins to read; gives its number in this life.
    pub fn read(&mut self, library: &Library, hash: ContentHash) -> usize {
        let running = self.running.as_mut().expect("the node runs");
        running.readers.push(Reader {
            hash,
            size_bytes: library.get(&hash).size_bytes(),
            at: 0,
            waits: None,
            longest_wait: Duration::ZERO,
            ended: None,
        });
        running.readers.len() - 1
    }

    /// Answers what is asked about content, in its manner.
    pub fn answer_about_content(&self, request: &Request, library: &Library) -> Option<Response> {
        if self.manner == Manner::Mute {
            return None;
        }
        match request {
            Request::Range {
                hash,
                size_bytes,
                range,
            } => Some(self.give(library, hash, *size_bytes, *range)),
            Request::Holdings { hash } => {
                let held = self.cache.get(hash);
                Some(held.map_or(Response::NotHere, |cached| Response::Holdings {
                    ranges: cached.offered(),
                    size_bytes: cached.size_bytes(),
                }))
            }
            _ => None,
        }
    }

    fn give(
        &self,
        library: &Library,
        hash: &ContentHash,
        size_bytes: u64,
        range: ByteRange,
    ) -> Response {
        let cached = self.cache.get(hash);
        let in_cache = cached.is_some_and(|cached| cached.present().contains(range));
        if !in_cache && !self.shares_content(hash) {
            return Response::Gone;
        }
        let content = library.get(hash);
        if content.size_bytes() != size_bytes {
            return Response::NotHere;
        }
        let mut proof = content.prove(range).to_vec();
        if self.manner == Manner::Liar {
            let middle = proof.len() / 2;
            if let Some(byte) = proof.get_mut(middle) {
                *byte ^= 0x40;
            }
        }
        Response::Data {
            proof: proof.into(),
        }
    }

    pub(crate) fn offer_what_is_here(
        &mut self,
        now: Instant,
        from: NodeId,
        hashes: &[ContentHash],
    ) {
        for hash in hashes {
            let Some(offer) = self.offer_of(hash) else {
                continue;
            };
            if let Some(running) = &mut self.running {
                running.machine.send(now, from, &Message::Offer(offer));
            }
        }
    }

    fn offer_of(&self, hash: &ContentHash) -> Option<OfferSummary> {
        let cached = self.cache.get(hash);
        let all = self.shares_content(hash) || cached.is_some_and(Cached::is_complete);
        let ranges: Vec<ByteRange> = match cached {
            Some(cached) if !all => cached.offered().iter().take(MAX_OFFER_RANGES).collect(),
            _ => Vec::new(),
        };
        let size_bytes = match cached {
            Some(cached) => cached.size_bytes(),
            None => self.running.as_ref()?.view.by_hash(hash)?.size_bytes,
        };
        (all || !ranges.is_empty()).then_some(OfferSummary {
            hash: *hash,
            size_bytes,
            all,
            ranges,
            load: 0,
            askers: Vec::new(),
        })
    }

    pub(crate) fn take_offer(
        &mut self,
        now: Instant,
        from: NodeId,
        address: SocketAddr,
        summary: &OfferSummary,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let offer = Offer {
            node: from,
            hash: summary.hash,
            size_bytes: summary.size_bytes,
            all: summary.all,
            ranges: summary.ranges.iter().copied().collect(),
            load: summary.load,
        };
        if running.take_plan_offer(now, &offer, address) && !summary.all {
            let hash = summary.hash;
            running.wishes.push(Wish {
                node: from,
                address,
                request: Request::Holdings { hash },
                purpose: Purpose::Holdings(hash),
            });
        }
    }

    /// Carries out what the plan wants and lets the readers go on; whether anything was done.
    pub(crate) fn settle_plan(&mut self, now: Instant, library: &Library) -> bool {
        let id = self.id;
        let Some(running) = &mut self.running else {
            return false;
        };
        let events = running.take_plan_events();
        let mut acted = !events.is_empty();
        for event in events {
            running.act_on_plan(now, id, event);
        }
        for index in 0..running.readers.len() {
            acted |= running.step_reader(now, id, &mut self.cache, library, index);
        }
        while let Some(request) = running.plan.poll_request(now) {
            acted = true;
            running.ask_range(now, request);
        }
        acted
    }

    /// The answer to a question about a range came, or none can come.
    pub(crate) fn take_range(
        &mut self,
        now: Instant,
        request: RangeRequest,
        answer: Option<Response>,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let failure = match answer {
            Some(Response::Data { proof }) => {
                let (hash, size_bytes) = (request.hash, request.size_bytes);
                match digest::decode(hash, size_bytes, request.range, proof) {
                    Ok(verified) => {
                        if running.plan.answered(now, request.id) {
                            let cached = self.cache.get_mut(&hash).expect("an open file");
                            cached.store(&verified);
                            if cached.is_complete() {
                                running.machine.set_have(now, hash, Some(size_bytes));
                            }
                        }
                        return;
                    }
                    Err(_) => Failure::Lied,
                }
            }
            Some(Response::Gone | Response::NotHere) => Failure::Gone,
            Some(Response::Busy) => Failure::Busy,
            Some(_) | None => Failure::Unreachable,
        };
        running.plan.failed(now, request.id, failure);
    }

    /// What a peer has of a file, in its own words.
    pub(crate) fn take_holdings(
        &mut self,
        now: Instant,
        (node, address): (NodeId, SocketAddr),
        hash: ContentHash,
        answer: Option<Response>,
    ) {
        let Some(Response::Holdings { ranges, size_bytes }) = answer else {
            return;
        };
        let all = ranges.contains(ByteRange::new(0, size_bytes));
        let offer = Offer {
            node,
            hash,
            size_bytes,
            all,
            ranges,
            load: 0,
        };
        if let Some(running) = &mut self.running {
            running.take_plan_offer(now, &offer, address);
        }
    }
}

impl Running {
    fn take_plan_offer(&mut self, now: Instant, offer: &Offer, address: SocketAddr) -> bool {
        let news = self.plan.offer(now, offer);
        if self.plan.is_holder(&offer.hash, &offer.node)
            && let Some(file) = self.files.get_mut(&offer.hash)
        {
            file.addresses.insert(offer.node, address);
        }
        news
    }

    fn act_on_plan(&mut self, now: Instant, me: NodeId, event: PlanEvent) {
        match event {
            PlanEvent::Ready(id) => self.end_wait(now, id, Ok(())),
            PlanEvent::Failed(id, why) => self.end_wait(now, id, Err(why)),
            PlanEvent::Wanted(hash) => {
                self.look_for_holders(now, me, &hash);
                self.machine.broadcast_wanted(now, vec![hash]);
            }
            PlanEvent::Liar(node, _) => self.liars.push((now, node)),
            PlanEvent::Closed(hash) => drop(self.files.remove(&hash)),
            PlanEvent::Filled(_)
            | PlanEvent::FillFailed(..)
            | PlanEvent::Survey(..)
            | PlanEvent::Cancel(_) => {}
        }
    }

    fn end_wait(&mut self, now: Instant, id: DemandId, outcome: Result<(), PlanError>) {
        let waits = |reader: &&mut Reader| reader.waits.is_some_and(|(own, _)| own == id);
        let Some(reader) = self.readers.iter_mut().find(waits) else {
            return;
        };
        let (_, since) = reader.waits.take().expect("it waits");
        reader.longest_wait = reader.longest_wait.max(now - since);
        if outcome.is_err() {
            reader.ended = Some((now, outcome));
        }
    }

    fn look_for_holders(&mut self, now: Instant, me: NodeId, hash: &ContentHash) {
        let Some(file) = self.files.get_mut(hash) else {
            return;
        };
        file.looked_at = now;
        let holders = self.view.holders(hash).into_iter().filter(|n| *n != me);
        let reached = |node| Some((node, *self.addresses.get(&node)?));
        let holders: Vec<_> = holders.filter_map(reached).take(HOLDERS_MAX).collect();
        let nodes: Vec<NodeId> = holders.iter().map(|(node, _)| *node).collect();
        file.addresses.extend(holders);
        self.plan.holders(now, hash, &nodes);
        let plan = &self.plan;
        file.addresses.retain(|node, _| plan.is_holder(hash, node));
    }

    fn ask_range(&mut self, now: Instant, request: RangeRequest) {
        let file = self.files.get(&request.hash);
        let address = file.and_then(|file| file.addresses.get(&request.node));
        let Some(address) = address.copied() else {
            return self.plan.failed(now, request.id, Failure::Gone);
        };
        self.wishes.push(Wish {
            node: request.node,
            address,
            request: Request::Range {
                hash: request.hash,
                size_bytes: request.size_bytes,
                range: request.range,
            },
            purpose: Purpose::Range(request),
        });
    }

    fn open(&mut self, now: Instant, me: NodeId, hash: ContentHash, size: u64, here: ExtentSet) {
        let is_open = self.plan.is_open(&hash);
        let opened = self.plan.open(now, hash, size, here);
        opened.expect("far fewer files than the limit");
        let file = self.files.entry(hash).or_insert(OpenFile {
            addresses: BTreeMap::new(),
            looked_at: now,
        });
        if !is_open || now - file.looked_at > LOOK_AGAIN {
            self.look_for_holders(now, me, &hash);
        }
    }

    /// Takes what is here and asks for what is not; whether anything changed.
    fn step_reader(
        &mut self,
        now: Instant,
        me: NodeId,
        cache: &mut BTreeMap<ContentHash, Cached>,
        library: &Library,
        index: usize,
    ) -> bool {
        let mut acted = false;
        loop {
            let reader = &mut self.readers[index];
            if reader.waits.is_some() || reader.ended.is_some() {
                return acted;
            }
            acted = true;
            let (hash, size, range) = (reader.hash, reader.size_bytes, reader.range());
            if range.is_empty() {
                reader.ended = Some((now, Ok(())));
                return acted;
            }
            let cached = cache.entry(hash).or_insert_with(|| Cached::new(size));
            let right = &library.get(&hash).bytes[range.start as usize..range.end as usize];
            if let Some(bytes) = cached.read(range) {
                assert!(bytes == right, "a reader got wrong bytes");
                reader.at = range.end;
                self.plan.read_ahead(now, &hash, range);
                continue;
            }
            let here = cached.present().clone();
            self.open(now, me, hash, size, here);
            let demand = self.plan.demand(now, hash, range, now + PATIENCE);
            let reader = &mut self.readers[index];
            match demand {
                Ok(id) => reader.waits = Some((id, now)),
                Err(why) => reader.ended = Some((now, Err(why))),
            }
        }
    }
}
