//! The fetch machine: everything between those who want bytes and those who have them, but the
//! bytes' way itself. Pure.
//!
//! A session owns the plan and what is around it: the reads and fills that wait, the files that are
//! open, where their holders are reached, what was asked, and the verified bytes in memory. It is
//! told what happens (a read, an offer, an answer, a store, the passing of time), and each telling
//! is followed by [`Session::actions`]: what to send, whose question to take back, whom to give
//! bytes to, what ended, which files to close, for what to look for holders ([`Actions`] has all);
//! and [`Session::poll_timeout`] says when to wake it. Its owner carries that out, in any order,
//! and tells it what came of it. So the daemon's client and the simulator are two owners of one
//! machine.
//!
//! It names no socket, file, runtime or clock. What its owner keeps with a read, a fill, a file or
//! a question is of a type that it does not look into. Nothing here waits or hashes: verifying is
//! [`verify`], which an owner calls where it likes. An error ends one read or one fill and leaves
//! everything else as it was.

pub mod answers;
mod fills;
mod gather;
mod sizes;
mod surveys;
mod terms;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::TransferError;
use crate::plan::{
    DemandId, FetchReport, HOLDERS_MAX, Offer, PIECE_MAX_BYTES, PeerRate, PeerRecord, Plan,
    PlanConfig, PlanError, PlanEvent, RUNS_MAX, RequestId,
};
use p2pfs_proto::wire::native::tcp;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

pub use answers::{Accepted, Refused, SHORT_WAY_MAX_BYTES, lane_of, proof_of, question, verify};
pub use gather::{Shortfall, Sources};
use surveys::Surveys;
pub use terms::{
    Actions, Cached, Delivery, FetchEvent, FillId, FillProgress, Holder, Owner, Read, SendRange,
};
use window::Window;

// what the plan asks for at once, the wire lets be asked
const _: () = assert!(PIECE_MAX_BYTES == tcp::RANGE_MAX_BYTES);
// and what a holder lists, the plan keeps
const _: () = assert!(RUNS_MAX == tcp::HOLDINGS_RANGES_MAX);

/// The catalogue is asked again who holds a file when a read misses after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A file that is being fetched.
struct OpenFile<O: Owner> {
    /// `None` where the cache cannot take it.
    cache: Option<O::File>,
    /// Whether the cache has all of it, as far as was said.
    is_complete: bool,
    addresses: BTreeMap<NodeId, SocketAddr>,
    looked_at: Instant,
    fillers: Vec<(FillId, O::Filler)>,
    /// The plan has all of it; the cache may still be storing.
    filled: bool,
    told_start: bool,
    told_done: bool,
    /// Whether its end was seen, which proves its size.
    is_proven: bool,
    /// Whether another size was ever said or asked for.
    is_disputed: bool,
    /// Who says that it has another size.
    doubters: BTreeSet<NodeId>,
}

/// The fetch machine; see the module.
pub struct Session<O: Owner> {
    plan: Plan,
    window: Window,
    asked: BTreeMap<RequestId, O::Question>,
    surveys: Surveys,
    files: BTreeMap<ContentKey, OpenFile<O>>,
    reads: BTreeMap<DemandId, Read<O::Reader>>,
    /// Demands of the ends of contents whose size is in dispute.
    proofs: BTreeMap<DemandId, ContentKey>,
    actions: Actions<O>,
    /// The cache had no room lately: it must keep so many bytes more before it counts as roomy.
    cramped_bytes: u64,
    window_bytes: u64,
    stopped: bool,
}

impl<O: Owner> Session<O> {
    /// A session with nothing to do, whose choices come from `seed`. What the cache has no room
    /// for is kept in memory up to `window_bytes`.
    pub fn new(config: PlanConfig, seed: u64, window_bytes: u64) -> Self {
        Self {
            plan: Plan::new(config, seed),
            window: Window::new(window_bytes),
            asked: BTreeMap::new(),
            surveys: Surveys::default(),
            files: BTreeMap::new(),
            reads: BTreeMap::new(),
            proofs: BTreeMap::new(),
            actions: Actions::default(),
            cramped_bytes: 0,
            window_bytes,
            stopped: false,
        }
    }

    /// What follows from all that was told since the last call.
    pub fn actions(&mut self, now: Instant) -> Actions<O> {
        self.take_events(now);
        while let Some(request) = self.plan.poll_request(now).filter(|_| !self.stopped) {
            self.take_events(now);
            self.tell_start(&request.content);
            let file = self.files.get(&request.content);
            let address = file.and_then(|file| file.addresses.get(&request.node));
            self.actions.sends.push(SendRange {
                address: address.copied(),
                is_prompt: answers::is_prompt(&request),
                request,
            });
        }
        self.take_events(now);
        std::mem::take(&mut self.actions)
    }

    /// A fetch begins with its first request, which those who are told of it do not hold up.
    fn tell_start(&mut self, content: &ContentKey) {
        let file = self.files.get_mut(content).filter(|it| !it.told_start);
        if let Some(file) = file {
            file.told_start = true;
            let ContentKey { hash, size_bytes } = *content;
            let started = FetchEvent::Started { hash, size_bytes };
            self.actions.events.push(started);
        }
    }

    /// When to call [`Session::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.plan.poll_timeout()
    }

    /// This node did not run for so long until now: no wait counts that.
    pub fn note_pause(&mut self, now: Instant, took: Duration) {
        self.plan.note_pause(now, took);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.plan.handle_timeout(now);
    }

    /// Somebody wants some of a content: gives the cache's file where its fetch has begun, else
    /// nothing, and then it is to be begun.
    ///
    /// # Errors
    /// [`TransferError::Stopped`].
    pub fn open(
        &mut self,
        now: Instant,
        content: ContentKey,
    ) -> Result<Option<Option<O::File>>, TransferError> {
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        let Some(file) = self.files.get(&content) else {
            return Ok(None);
        };
        self.plan.open(now, content, ExtentSet::new())?;
        let is_old = now.saturating_duration_since(file.looked_at) > LOOK_AGAIN;
        if is_old || self.plan.was_just_lost(now, &content) {
            self.actions.wanted.push(content.hash);
        }
        Ok(Some(file.cache.clone()))
    }

    /// Begins the fetch of a content, unless it has begun meanwhile.
    ///
    /// # Errors
    /// [`PlanError::TooMany`]; [`PlanError::OnlyLiars`] where another size of it is proven.
    pub fn begin(
        &mut self,
        now: Instant,
        content: ContentKey,
        cached: Cached<O::File>,
    ) -> Result<(), TransferError> {
        if self.files.contains_key(&content) {
            // two began at once; the other was first
            self.actions.closed.extend(cached.file);
            return Ok(());
        }
        if self.is_disproven(&content) {
            return Err(PlanError::OnlyLiars.into());
        }
        let end = ByteRange::new(content.size_bytes.saturating_sub(1), content.size_bytes);
        let is_proven = !end.is_empty() && cached.on_disk.contains(end);
        self.plan.open(now, content, cached.on_disk)?;
        let file = OpenFile {
            cache: cached.file,
            is_complete: cached.is_complete,
            addresses: BTreeMap::new(),
            looked_at: now,
            fillers: Vec::new(),
            filled: false,
            told_start: cached.is_complete,
            told_done: cached.is_complete,
            is_proven,
            is_disputed: false,
            doubters: BTreeSet::new(),
        };
        self.files.insert(content, file);
        self.actions.wanted.push(content.hash);
        Ok(())
    }

    /// Who has a content, as the catalogue and the cluster know it; beyond [`HOLDERS_MAX`] nobody
    /// is heard.
    pub fn holders(&mut self, now: Instant, hash: &ContentHash, holders: &[Holder]) {
        for content in self.opened(hash) {
            let Some(file) = self.files.get_mut(&content) else {
                continue;
            };
            file.looked_at = now;
            let of_size = |holder: &&Holder| holder.size_bytes == content.size_bytes;
            let said = holders.iter().filter(of_size).take(HOLDERS_MAX);
            let listed = said.clone().map(Holder::listed);
            let listed: Vec<_> = listed.collect();
            file.addresses
                .extend(said.map(|holder| (holder.node, holder.address)));
            self.plan.holders(now, &content, &listed);
            let plan = &self.plan;
            file.addresses
                .retain(|node, _| plan.is_holder(&content, node));
        }
        for holder in holders {
            let said = ContentKey::new(*hash, holder.size_bytes);
            self.hear_claim(holder.node, said);
        }
        self.settle_sizes(now, hash);
    }

    /// The contents of this hash that are being fetched: more than one where their size is in
    /// dispute.
    fn opened(&self, hash: &ContentHash) -> Vec<ContentKey> {
        let all = ContentKey::new(*hash, 0)..=ContentKey::new(*hash, u64::MAX);
        self.files.range(all).map(|(content, _)| *content).collect()
    }

    /// A node says what it has of a content. Of no use unless that is being fetched.
    pub fn offer(&mut self, now: Instant, offer: &Offer, address: SocketAddr) {
        self.hear_offer(now, offer);
        let news = self.plan.offer(now, offer);
        self.note_address(&offer.content, offer.node, address);
        if news && !offer.all {
            self.survey(now, offer.node, address, offer.content.hash);
        }
    }

    /// A node wants a content too that is on its way here: each has parts for the other soon.
    pub fn fellow(&mut self, now: Instant, hash: &ContentHash, node: NodeId, address: SocketAddr) {
        for content in self.opened(hash) {
            self.plan.fellow(now, &content, node);
            self.note_address(&content, node, address);
        }
    }

    fn note_address(&mut self, content: &ContentKey, node: NodeId, address: SocketAddr) {
        if self.plan.is_holder(content, &node)
            && let Some(file) = self.files.get_mut(content)
        {
            file.addresses.insert(node, address);
        }
    }

    /// Lets a reader wait, unless the outcome is known.
    pub fn read(&mut self, now: Instant, mut read: Read<O::Reader>) -> Option<DemandId> {
        if self.stopped {
            self.actions
                .ends
                .push((read.reader, TransferError::Stopped));
            return None;
        }
        let (content, range, deadline) = (read.content, read.range, read.deadline);
        let plan = &mut self.plan;
        let demanded = match (read.waits, read.ahead) {
            (Some((id, patience)), _) => {
                let again = plan.demand_again(now, id, content, range, now + patience);
                again.map(|()| id)
            }
            (None, true) => plan.demand(now, content, range, deadline),
            (None, false) => plan.demand_just(now, content, range, deadline),
        };
        match demanded {
            Ok(id) => {
                let patience = deadline.saturating_duration_since(now);
                read.waits.get_or_insert((id, patience));
                self.reads.insert(id, read);
                Some(id)
            }
            Err(why) => {
                self.actions.ends.push((read.reader, why.into()));
                None
            }
        }
    }

    /// A range was read from the cache, so that read-ahead moves on.
    pub fn read_on(&mut self, now: Instant, content: &ContentKey, range: ByteRange) {
        self.plan.note_read(now, content, range);
    }

    /// Until when a read waits if nothing more comes; nothing where it waits no more.
    pub fn waits_until(&self, now: Instant, id: DemandId) -> Option<Instant> {
        self.plan.waits_until(now, id)
    }

    /// The reader has gone.
    pub fn cancel(&mut self, id: DemandId) {
        self.plan.cancel(id);
        if let Some(read) = self.reads.remove(&id) {
            self.actions
                .ends
                .push((read.reader, TransferError::Cancelled));
        }
    }

    /// A node is back: what it failed before is forgotten, but not that it lied.
    pub fn returned(&mut self, node: &NodeId) {
        self.plan.returned(node);
    }

    /// A node gave verified bytes that were not asked for here.
    pub fn gave(&mut self, node: NodeId, bytes: u64) {
        self.plan.gave(node, bytes);
    }

    /// A node gave wrong bytes of a content, though not to us: it is shunned and told of.
    pub fn lied(&mut self, now: Instant, node: NodeId, content: ContentKey) {
        self.plan.lied(now, node, content);
    }

    /// Closes the files that nobody waits for and that are not wanted whole.
    pub fn close_idle(&mut self) {
        self.plan.close_idle();
    }

    /// Ends every read and fill with [`TransferError::Stopped`]; later ones end so at once.
    pub fn stop(&mut self) {
        self.stopped = true;
        let reads = std::mem::take(&mut self.reads).into_values();
        let ends = reads.map(|read| (read.reader, TransferError::Stopped));
        self.actions.ends.extend(ends);
        let asked = std::mem::take(&mut self.asked);
        self.actions.cancels.extend(asked.into_values());
        let contents: Vec<_> = self.files.keys().copied().collect();
        for content in contents {
            self.end_fills(&content, &Err(TransferError::Stopped));
        }
    }

    /// Every peer that was asked, in order of priority.
    pub fn peers(&self, now: Instant) -> Vec<PeerRate> {
        self.plan.peers(now)
    }

    /// Whether nothing is fetched ahead of readers from now on.
    pub fn set_metered(&mut self, metered: bool) {
        self.plan.set_metered(metered);
    }

    /// What to keep of the peers over a restart.
    pub fn peer_records(&self, now: Instant) -> Vec<PeerRecord> {
        self.plan.peer_records(now)
    }

    /// Takes up what an earlier life kept of peers.
    pub fn recall(&mut self, now: Instant, records: &[PeerRecord]) {
        self.plan.recall(now, records);
    }

    /// Every file that is on its way, or was used a moment ago.
    pub fn fetches(&self) -> Vec<FetchReport> {
        self.plan.fetches()
    }

    /// How many things were looked at since the session began: what its calls cost.
    pub fn steps(&self) -> u64 {
        self.plan.steps()
    }

    /// What is asked and not answered.
    pub fn in_flight_bytes(&self) -> u64 {
        self.plan.in_flight_bytes()
    }

    /// Whether nothing of a content is used any more.
    pub fn is_closed(&self, content: &ContentKey) -> bool {
        !self.files.contains_key(content)
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.plan.poll_event() {
            self.take_event(now, event);
        }
    }

    fn take_event(&mut self, now: Instant, event: PlanEvent) {
        match event {
            PlanEvent::Ready(id) => self.deliver(now, id),
            PlanEvent::Failed(id, why) => {
                self.proofs.remove(&id);
                self.fail_read(id, why);
            }
            PlanEvent::Filled(content) => {
                if let Some(file) = self.files.get_mut(&content) {
                    file.filled = true;
                }
                self.end_fills_if_stored(&content);
            }
            PlanEvent::FillFailed(content, why) => self.end_fills(&content, &Err(why.into())),
            PlanEvent::Wanted(content) => {
                let hashes = vec![content.hash];
                self.actions.wanted.push(content.hash);
                self.actions.events.push(FetchEvent::Wanted { hashes });
            }
            PlanEvent::LookUp(content) => self.actions.wanted.push(content.hash),
            PlanEvent::Survey(content, node) => {
                let file = self.files.get(&content);
                let address = file.and_then(|file| file.addresses.get(&node)).copied();
                if let Some(address) = address {
                    self.survey(now, node, address, content.hash);
                }
            }
            PlanEvent::Liar(node, content) => {
                let hash = content.hash;
                self.actions.events.push(FetchEvent::Liar { node, hash });
            }
            PlanEvent::Cancel(id) => self.actions.cancels.extend(self.asked.remove(&id)),
            PlanEvent::Closed(content) => {
                self.window.forget(&content);
                let file = self.files.remove(&content);
                self.actions.closed.extend(file.and_then(|file| file.cache));
            }
        }
    }

    fn deliver(&mut self, now: Instant, id: DemandId) {
        if let Some(content) = self.proofs.remove(&id) {
            let end = ByteRange::new(0, content.size_bytes);
            return self.note_verified(now, content, end);
        }
        let Some(read) = self.reads.remove(&id) else {
            return;
        };
        let file = self.files.get(&read.content);
        let sources = Sources {
            held: self.window.overlapping(&read.content, read.range),
            file: file.and_then(|file| file.cache.clone()),
        };
        self.actions.deliveries.push(Delivery { read, sources });
    }

    fn fail_read(&mut self, id: DemandId, why: PlanError) {
        let Some(read) = self.reads.remove(&id) else {
            return;
        };
        let why = TransferError::from(why);
        self.actions.events.push(FetchEvent::Failed {
            hash: read.content.hash,
            range: read.range,
            why: why.clone(),
        });
        self.actions.ends.push((read.reader, why));
    }
}
