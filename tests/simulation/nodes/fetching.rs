//! Reading and serving on one node: the daemon's fetch machine over the harness's cache, with
//! answers as `transfer::server` gives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::{Failure, Offer, PlanError, RangeRequest, RequestId};
use p2pfs_fetch::session::{
    Accepted, Actions, Cached as InCache, FetchEvent, FillProgress, Holder, OpenOutcome, Owner,
    Read, SendRange, Shortfall, proof_of, question, verify,
};
use p2pfs_node::WatchedVersion;
use p2pfs_proto::wire::native::tcp::{Request, Response};
use p2pfs_proto::wire::native::udp::{Message, OFFER_RANGES_MAX, OfferSummary};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

use crate::nodes::contents::{Cached, Library};
use crate::nodes::running::{Manner, Node, Purpose, Running, Wish};

/// How long a read waits: the default.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of each content after which [`Manner::Beginner`] gives no more.
const BEGINNING_BYTES: u64 = 64 << 10;
/// Length of the kernel's largest read.
const READ_BYTES: u64 = 128 << 10;

/// The session's handles in the harness: readers and questions by number. The cache is in memory
/// and fills are not used.
pub(super) struct Harness;

impl Owner for Harness {
    type ReadHandle = usize;
    type FillHandle = ();
    type File = ();
    type Question = RequestId;

    fn tell((): &(), _: FillProgress) {}
}

/// A program that reads a file from beginning to end.
pub(super) struct Reader {
    pub content: ContentKey,
    watch: WatchedVersion,
    at: u64,
    waits_since: Option<Instant>,
    pub longest_wait: Duration,
    pub ended: Option<(Instant, Result<(), PlanError>)>,
}

impl Reader {
    fn range(&self) -> ByteRange {
        ByteRange::new(self.at, (self.at + READ_BYTES).min(self.content.size_bytes))
    }

    fn stop_waiting(&mut self, now: Instant) {
        if let Some(since) = self.waits_since.take() {
            self.longest_wait = self.longest_wait.max(now - since);
        }
    }

    /// Takes bytes and asserts that they are right.
    fn take(&mut self, library: &Library, bytes: &[u8]) {
        let range = self.range();
        let all = &library.get(&self.content.hash).bytes;
        let right = &all[range.start as usize..range.end as usize];
        assert!(bytes == right, "a reader got wrong bytes");
        self.at = range.end;
    }
}

impl Node {
    /// Starts a reader. Returns its number in this life of the node.
    pub(super) fn read(&mut self, now: Instant, library: &Library, hash: ContentHash) -> usize {
        let running = self.running.as_mut().expect("the node runs");
        let content = ContentKey::new(hash, library.get(&hash).size_bytes());
        let path = running
            .view
            .contents()
            .last_name_of(&hash)
            .unwrap_or_default();
        running.readers.push(Reader {
            content,
            watch: WatchedVersion::new(&running.view, &path, content, now),
            at: 0,
            waits_since: None,
            longest_wait: Duration::ZERO,
            ended: None,
        });
        running.readers.len() - 1
    }

    /// Answers a request about content, according to the node's manner.
    pub(super) fn answer_about_content(
        &self,
        request: &Request,
        library: &Library,
    ) -> Option<Response> {
        if matches!(self.manner, Manner::Mute | Manner::Withholder) {
            return None;
        }
        match request {
            Request::Range { range, .. }
                if self.manner == Manner::Beginner && range.start >= BEGINNING_BYTES =>
            {
                None
            }
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
        let is_here = in_cache || self.shares_content(hash);
        if !is_here || self.manner == Manner::Refuser {
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
            Some(cached) if !all => cached.offered().iter().take(OFFER_RANGES_MAX).collect(),
            _ => Vec::new(),
        };
        let size_bytes = match cached {
            Some(cached) => cached.size_bytes(),
            None => self.running.as_ref()?.view.contents().get(hash)?.size_bytes,
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
            content: ContentKey::new(summary.hash, summary.size_bytes),
            all: summary.all,
            ranges: summary.ranges.iter().copied().collect(),
            load: summary.load,
        };
        running.session.record_offer(now, &offer, address);
    }

    /// Tells the session about another node that fetches the same content.
    pub(crate) fn introduce(&mut self, now: Instant, from: NodeId, hashes: &[ContentHash]) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(address) = running.addresses.get(&from).copied() else {
            return;
        };
        for hash in hashes {
            running.session.add_fellow(now, hash, from, address);
        }
    }

    /// Advances the readers and carries out the session's actions. Returns whether it did anything.
    pub(crate) fn settle_session(&mut self, now: Instant, library: &Library) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let mut acted = false;
        for index in 0..running.readers.len() {
            acted |= running.step_reader(now, &mut self.cache, library, index);
        }
        let actions = running.session.actions(now);
        let is_idle = actions.sends.is_empty()
            && actions.deliveries.is_empty()
            && actions.ends.is_empty()
            && actions.wanted.is_empty()
            && actions.events.is_empty();
        self.carry_out(now, library, actions);
        acted || !is_idle
    }

    fn carry_out(&mut self, now: Instant, library: &Library, actions: Actions<Harness>) {
        let (cache, me) = (&self.cache, self.id);
        let Some(running) = &mut self.running else {
            return;
        };
        actions
            .sends
            .into_iter()
            .for_each(|send| running.ask_range(now, send));
        running.taken_back.extend(actions.cancels);
        for (index, why) in actions.ends {
            running.record_end(now, index, Err(&why));
            let TransferError::Plan(why) = why else {
                panic!("a read ended with {why}");
            };
            running.readers[index].stop_waiting(now);
            running.readers[index].ended = Some((now, Err(why)));
        }
        for delivery in actions.deliveries {
            let (read, sources) = (delivery.read, delivery.sources);
            let hash = read.content.hash;
            match sources.gather(read.range, |(), range, buffer| {
                fill_from(cache, &hash, range, buffer)
            }) {
                Ok(bytes) => {
                    running.readers[read.handle].stop_waiting(now);
                    running.readers[read.handle].take(library, &bytes);
                    running.record_end(now, read.handle, Ok(()));
                }
                Err(gap) => running.session.fell_short(now, read, gap),
            }
        }
        for event in actions.events {
            match event {
                FetchEvent::Liar { node, .. } => {
                    running.liars.push((now, node));
                    running.machine.intake(now).mark_shunned(node);
                }
                FetchEvent::Wanted { hashes } => running.machine.broadcast_wanted(now, hashes),
                FetchEvent::Started { .. } | FetchEvent::Done { .. } => {}
            }
        }
        for hash in actions.wanted {
            running.look_for_holders(now, me, &hash);
        }
        for (node, address, hash) in actions.surveys {
            running.wishes.push(Wish {
                node,
                address,
                request: Request::Holdings { hash },
                purpose: Purpose::Holdings(hash),
            });
        }
    }

    /// Takes the answer to a range request, or its failure.
    pub(crate) fn take_range(
        &mut self,
        now: Instant,
        request: RangeRequest,
        answer: Option<Response>,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        let proof = proof_of(answer.ok_or(Failure::Unreachable));
        let verified = match proof.and_then(|proof| verify(&request, proof)) {
            Ok(verified) => verified,
            Err(failure) => return running.session.failed(now, &request, failure),
        };
        if let Accepted::Store(()) = running.session.accept(now, &request, &verified) {
            let ContentKey { hash, size_bytes } = request.content;
            let cached = self.cache.get_mut(&hash).expect("an open file");
            cached.store(&verified);
            let is_complete = cached.is_complete();
            if is_complete {
                running.machine.own().set_have(now, hash, Some(size_bytes));
            }
            let (content, range) = (request.content, verified.range);
            running.session.stored(content, range, is_complete);
        }
    }

    /// Takes a peer's statement of its parts of a file.
    pub(crate) fn take_holdings(
        &mut self,
        now: Instant,
        of: (NodeId, SocketAddr),
        hash: ContentHash,
        answer: Option<Response>,
    ) {
        if let Some(running) = &mut self.running {
            let answer = answer.ok_or(Failure::Unreachable);
            running.session.holdings(now, of, hash, answer);
        }
    }
}

impl Running {
    /// Applies the end of a reader's wait to the ranking of versions, as the daemon does.
    fn record_end(&mut self, now: Instant, reader: usize, outcome: Result<(), &TransferError>) {
        let Reader { watch, content, .. } = &self.readers[reader];
        let supply = || self.session.plan.files().supply(content);
        if let Some(end) = watch.end_of(now, outcome, &self.view, supply) {
            self.machine.intake(now).record_read(&end);
        }
    }

    /// Applies the close of a file by a reader to the ranking of versions, as the daemon does.
    fn record_close(&mut self, now: Instant, reader: usize) {
        let Reader { watch, content, .. } = &self.readers[reader];
        let supply = || self.session.plan.files().supply(content);
        if let Some(end) = watch.closed(&self.view, supply) {
            self.machine.intake(now).record_read(&end);
        }
    }
}

fn fill_from(
    cache: &BTreeMap<ContentHash, Cached>,
    hash: &ContentHash,
    range: ByteRange,
    buffer: &mut [u8],
) -> Result<(), Shortfall> {
    let cached = cache.get(hash).and_then(|cached| cached.read(range));
    let bytes = cached.ok_or_else(|| Shortfall::missing(range))?;
    buffer.copy_from_slice(bytes);
    Ok(())
}

impl Running {
    fn look_for_holders(&mut self, now: Instant, me: NodeId, hash: &ContentHash) {
        let claims = self.view.contents().claims(hash).into_iter();
        let others = claims.filter(|claim| claim.node != me);
        let holders = others.filter_map(|claim| {
            Some(Holder {
                node: claim.node,
                address: *self.addresses.get(&claim.node)?,
                size_bytes: claim.size_bytes,
                sequence: claim.sequence,
            })
        });
        let holders: Vec<Holder> = holders.collect();
        self.session.record_holders(now, hash, &holders);
    }

    fn ask_range(&mut self, now: Instant, send: SendRange) {
        let request = send.request;
        let Some(address) = send.address else {
            return self.session.failed(now, &request, Failure::Gone);
        };
        self.wishes.push(Wish {
            node: request.node,
            address,
            request: question(&request),
            purpose: Purpose::Range(request),
        });
        self.taken_back
            .extend(self.session.record_sent(request.id, request.id));
    }

    fn open(&mut self, now: Instant, content: ContentKey, here: &Cached) {
        let opened = self.session.open(now, content);
        if opened.expect("far fewer files than the limit") == OpenOutcome::NotBegun {
            let cached = InCache {
                file: Some(()),
                on_disk: here.present().clone(),
                is_complete: here.is_complete(),
            };
            let begun = self.session.begin(now, content, cached);
            begun.expect("far fewer files than the limit");
        }
    }

    /// Reads what is here and requests the rest. Returns whether anything changed.
    fn step_reader(
        &mut self,
        now: Instant,
        cache: &mut BTreeMap<ContentHash, Cached>,
        library: &Library,
        index: usize,
    ) -> bool {
        let mut acted = false;
        loop {
            let reader = &mut self.readers[index];
            if reader.waits_since.is_some() || reader.ended.is_some() {
                return acted;
            }
            acted = true;
            let (content, range) = (reader.content, reader.range());
            if range.is_empty() {
                reader.ended = Some((now, Ok(())));
                self.record_close(now, index);
                return acted;
            }
            let new = || Cached::new(content.size_bytes);
            let cached = cache.entry(content.hash).or_insert_with(new);
            if let Some(bytes) = cached.read(range) {
                reader.take(library, bytes);
                self.session.plan.record_read(now, &content, range);
                continue;
            }
            reader.waits_since = Some(now);
            self.open(now, content, cached);
            let read = Read::new(content, range, now + PATIENCE, index);
            self.session.read(now, read);
        }
    }
}
