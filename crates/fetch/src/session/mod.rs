//! Fetch machine: everything between the readers of bytes and their holders, except the transport
//! of the bytes. Pure.
//!
//! A session owns the plan and all that the plan's requests need: waiting reads and fills, open
//! files, addresses of holders, open requests, and verified bytes in memory. The owner reports each
//! event (a read, an offer, an answer, a store, the passing of time) and then calls
//! [`Session::actions`]. The [`Actions`] list the requests to send and to cancel, the readers to
//! serve, what ended, the files to close, and the contents to look up. The next wake-up time is
//! that of the plan ([`Plan::poll_timeout`]). The owner carries the actions out in any order and
//! reports their results. The daemon's client and the simulator are two owners of the same machine.
//!
//! A session uses no sockets, files, runtime or clock. The owner attaches a value of an opaque type
//! to each read, fill, file and request. No call waits or hashes: verification is [`verify`], which
//! the owner calls on any thread.

pub mod answers;
mod gather;
mod reads;
mod sizes;
mod surveys;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::TransferError;
use crate::plan::presence::UncachedAnswers;
use crate::plan::{
    DemandId, Failure, FilesToClose, FillEnd, Lane, Offer, PIECE_MAX_BYTES, PeerNews, Plan,
    PlanConfig, PlanError, PlanEvent, RECENT, RUNS_MAX, RangeRequest, RequestId,
};
use p2pfs_proto::wire::native::tcp::{self, Response};
use p2pfs_types::digest::{ContentHash, ContentKey, Verified};
use p2pfs_types::extent::{ByteRange, ExtentSet, PAGE_BYTES};
use p2pfs_types::id::NodeId;

pub use crate::plan::presence::UncachedAction;
pub use answers::{lane_of, proof_of, question, verify};
pub use gather::{Shortfall, Sources};
use reads::Reads;
use sizes::{SizeVerdict, Sizes};
use surveys::Surveys;
pub use terms::{
    Accepted, Actions, Cached, Delivery, FetchEvent, FillId, FillProgress, Holder, OpenOutcome,
    Owner, Read, SendRange, StartOutcome,
};

// the wire must allow the largest request of the plan, and the plan must keep as many ranges as a
// holder can list
const _: () =
    assert!(PIECE_MAX_BYTES == tcp::RANGE_MAX_BYTES && RUNS_MAX == tcp::HOLDINGS_RANGES_MAX);

/// Maximum retries of a read whose bytes are lost between arrival and delivery, for example because
/// the cache drops a damaged page.
const RETRIES_MAX: u8 = 3;

/// File that is being fetched.
struct OpenFile<O: Owner> {
    /// `None` if the cache cannot store it.
    cache: Option<O::File>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    looked_at: Instant,
    fills: Vec<(FillId, O::FillHandle)>,
    /// Whether the plan has all of it. The cache may still be storing parts.
    filled: bool,
    told_start: bool,
    told_done: bool,
}

impl<O: Owner> OpenFile<O> {
    /// Records the address of a node if it counts as a holder of the content.
    fn record_address(
        &mut self,
        plan: &Plan,
        content: &ContentKey,
        node: NodeId,
        address: SocketAddr,
    ) {
        if plan.files().is_holder(content, &node) {
            self.addresses.insert(node, address);
        }
    }

    /// Returns the announcement that the fetch started, on the first call. Returns `None` later,
    /// and if the cache had the whole content when the fetch began.
    fn start(&mut self, content: &ContentKey) -> Option<FetchEvent> {
        let ContentKey { hash, size_bytes } = *content;
        let is_first = !std::mem::replace(&mut self.told_start, true);
        is_first.then_some(FetchEvent::Started { hash, size_bytes })
    }
}

/// Fetch machine; see the module documentation.
pub struct Session<O: Owner> {
    /// Choices of ranges and peers. The owner of the session calls the plan directly for reports,
    /// and to record news of peers, of time and of requests in flight. Reads, fills, offers and
    /// ends of requests go through the session: the plan's calls for these are not public.
    pub plan: Plan,
    uncached: UncachedAnswers,
    asked: BTreeMap<RequestId, O::Question>,
    surveys: Surveys,
    files: BTreeMap<ContentKey, OpenFile<O>>,
    sizes: Sizes,
    reads: Reads<O>,
    actions: Actions<O>,
    /// Bytes that the cache must still store before it counts as roomy again, after it lately had
    /// no room.
    cramped_bytes: u64,
    stopped: bool,
}

impl<O: Owner> Session<O> {
    /// Creates a session with nothing to do. Its random choices derive from `seed`. Bytes that the
    /// cache has no room for stay in memory, up to `uncached_max_bytes`.
    pub fn new(config: PlanConfig, seed: u64, uncached_max_bytes: u64) -> Self {
        Self {
            plan: Plan::new(config, seed),
            uncached: UncachedAnswers::new(uncached_max_bytes),
            asked: BTreeMap::new(),
            surveys: Surveys::default(),
            files: BTreeMap::new(),
            sizes: Sizes::new(&config),
            reads: Reads::default(),
            actions: Actions::default(),
            cramped_bytes: 0,
            stopped: false,
        }
    }

    /// Returns the actions that follow from all reports since the last call.
    pub fn actions(&mut self, now: Instant) -> Actions<O> {
        self.handle_events(now);
        while let Some(request) = self.plan.poll_request(now).filter(|_| !self.stopped) {
            self.handle_events(now);
            let file = self.files.get_mut(&request.content);
            let address = file.and_then(|file| {
                self.actions.events.extend(file.start(&request.content));
                file.addresses.get(&request.node).copied()
            });
            self.actions.sends.push(SendRange {
                address,
                is_prompt: request.lane == Lane::Urgent,
                request,
            });
        }
        self.handle_events(now);
        self.actions.decisions = self.plan.outbox().take_decisions();
        self.actions.surveys = self.surveys.take_sends();
        std::mem::take(&mut self.actions)
    }

    /// Marks a content as in use if its fetch has begun, and returns the cache's file for it.
    /// Requests a lookup of the holders if the last one was long ago, or a holder recently reported
    /// the content gone.
    ///
    /// # Errors
    /// [`TransferError::Stopped`], or an error of the plan.
    pub fn open(
        &mut self,
        now: Instant,
        content: ContentKey,
    ) -> Result<OpenOutcome<O::File>, TransferError> {
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        let Some(file) = self.files.get(&content) else {
            return Ok(OpenOutcome::NotBegun);
        };
        self.plan.open(now, content, ExtentSet::new())?;
        let is_old = now.saturating_duration_since(file.looked_at) > RECENT;
        if is_old || self.plan.files().was_just_lost(now, &content) {
            self.actions.wanted.push(content.hash);
        }
        let cache = file.cache.clone();
        Ok(cache.map_or(OpenOutcome::Uncached, OpenOutcome::Cached))
    }

    /// Begins the fetch of a content, unless it has already begun.
    ///
    /// # Errors
    /// [`PlanError::TooMany`]; [`PlanError::OnlyLiars`] if another size of it is proven.
    pub fn begin(
        &mut self,
        now: Instant,
        content: ContentKey,
        cached: Cached<O::File>,
    ) -> Result<(), TransferError> {
        if self.files.contains_key(&content) {
            // two callers began the fetch at once, and the other one was first
            self.actions.closed.extend(cached.file);
            return Ok(());
        }
        if self.sizes.is_disproven(&content) {
            return Err(PlanError::OnlyLiars.into());
        }
        let end = ByteRange::new(content.size_bytes.saturating_sub(1), content.size_bytes);
        let is_proven = !end.is_empty() && cached.on_disk.contains(end);
        self.plan.open(now, content, cached.on_disk)?;
        if let Some(presence) = self.plan.presence(&content) {
            presence.set_stored(cached.is_complete);
        }
        let file = OpenFile {
            cache: cached.file,
            addresses: BTreeMap::new(),
            looked_at: now,
            fills: Vec::new(),
            filled: false,
            told_start: cached.is_complete,
            told_done: cached.is_complete,
        };
        self.files.insert(content, file);
        self.sizes.open(content, is_proven);
        self.actions.wanted.push(content.hash);
        Ok(())
    }

    /// Records the holders of a content that the catalogue and the cluster know. At most
    /// 64 for one size are used, by turns from different hosts.
    pub fn record_holders(&mut self, now: Instant, hash: &ContentHash, holders: &[Holder]) {
        for content in self.sizes.of(hash) {
            let Some(file) = self.files.get_mut(&content) else {
                continue;
            };
            file.looked_at = now;
            let of_size = |holder: &&Holder| holder.size_bytes == content.size_bytes;
            let said = Holder::by_turns_of_hosts(holders.iter().filter(of_size));
            let listed: Vec<_> = said.iter().map(|it| it.listed()).collect();
            file.addresses
                .extend(said.iter().map(|holder| (holder.node, holder.address)));
            self.plan.record_holders(now, &content, &listed);
            let plan = &self.plan;
            file.addresses
                .retain(|node, _| plan.files().is_holder(&content, node));
        }
        for holder in holders {
            let said = ContentKey::new(*hash, holder.size_bytes);
            self.sizes.record_claim(holder.node, said);
        }
        self.resolve_sizes(now, hash);
    }

    /// Records which ranges of a content a node has, if the content is being fetched. If the offer
    /// is news and not of the whole content, surveys the node for all its ranges.
    pub fn record_offer(&mut self, now: Instant, offer: &Offer, address: SocketAddr) {
        let is_news = self.offer_ranges(now, offer, address);
        if is_news && !offer.all {
            let node = (offer.node, address);
            self.surveys.begin(now, node, offer.content.hash);
        }
    }

    /// Records an offer. Returns the result of [`Plan::record_offer`]. A node that offers the whole
    /// content must have verified its end, so its size is a claim. A node that offers a part only
    /// repeats the size that it fetches by, and may be deceived itself. An offer of a part
    /// therefore neither raises doubt about other sizes nor makes the node a liar.
    fn offer_ranges(&mut self, now: Instant, offer: &Offer, address: SocketAddr) -> bool {
        if offer.all {
            self.sizes.record_claim(offer.node, offer.content);
        }
        self.resolve_sizes(now, &offer.content.hash);
        let is_news = self.plan.record_offer(now, offer);
        if let Some(file) = self.files.get_mut(&offer.content) {
            file.record_address(&self.plan, &offer.content, offer.node, address);
        }
        is_news
    }

    /// Records a node that also wants a content that is being fetched. That node and this one will
    /// soon have parts for each other.
    pub fn add_fellow(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        node: NodeId,
        address: SocketAddr,
    ) {
        for content in self.sizes.of(hash) {
            self.plan
                .record_peer_news(node, PeerNews::Wants { now, content });
            if let Some(file) = self.files.get_mut(&content) {
                file.record_address(&self.plan, &content, node, address);
            }
        }
    }

    /// Starts a read of a content, and marks the content as in use. If something must be done
    /// before, returns the read unstarted; see [`StartOutcome`].
    pub fn start(
        &mut self,
        now: Instant,
        read: Read<O::ReadHandle>,
    ) -> StartOutcome<O::ReadHandle> {
        match self.open(now, read.content) {
            Ok(OpenOutcome::NotBegun) => StartOutcome::NotBegun(read),
            // The read would fail at once, although the holder may have the bytes again by now.
            Ok(_) if self.plan.files().was_just_lost(now, &read.content) => {
                StartOutcome::HoldersFirst(read)
            }
            Ok(_) => StartOutcome::Started(self.read(now, read)),
            Err(why) => {
                self.actions.ends.push((read.handle, why));
                StartOutcome::Started(None)
            }
        }
    }

    /// Starts a read of an open content. Returns its id, or `None` if it failed at once.
    pub fn read(&mut self, now: Instant, mut read: Read<O::ReadHandle>) -> Option<DemandId> {
        if self.stopped {
            self.actions
                .ends
                .push((read.handle, TransferError::Stopped));
            return None;
        }
        let (content, range, deadline) = (read.content, read.range, read.deadline);
        let demanded = match read.waits {
            Some((id, patience)) => {
                let until = now + patience;
                let again = self.plan.demand_as(now, id, content, range, until);
                again.map(|()| id)
            }
            None => {
                if read.ahead {
                    self.plan.record_read(now, &content, range);
                }
                self.plan.demand(now, content, range, deadline)
            }
        };
        match demanded {
            Ok(id) => {
                let patience = deadline.saturating_duration_since(now);
                read.waits.get_or_insert((id, patience));
                self.reads.insert(id, read);
                Some(id)
            }
            Err(why) => {
                self.actions.ends.push((read.handle, why.into()));
                None
            }
        }
    }

    /// Cancels a read after its reader has gone.
    pub fn cancel(&mut self, id: DemandId) {
        self.plan.cancel(id);
        self.reads
            .end(id, TransferError::Cancelled, &mut self.actions);
    }

    /// Ends every read and fill with [`TransferError::Stopped`]. Later reads fail in the same way
    /// at once.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.reads
            .end_all(&TransferError::Stopped, &mut self.actions);
        let asked = std::mem::take(&mut self.asked);
        self.actions.cancels.extend(asked.into_values());
        let contents: Vec<_> = self.files.keys().copied().collect();
        for content in contents {
            self.end_fills(&content, &Err(TransferError::Stopped));
        }
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.plan.outbox().poll_event() {
            self.handle_event(now, event);
        }
    }

    fn handle_event(&mut self, now: Instant, event: PlanEvent) {
        match event {
            PlanEvent::Ready(id) => match self.sizes.end_proof(id) {
                Some(content) => {
                    let whole = ByteRange::new(0, content.size_bytes);
                    if self.sizes.record_verified(&content, whole) {
                        self.resolve_size(now, content);
                    }
                }
                None => {
                    let (present, files) = (self.plan.files(), &self.files);
                    self.reads.deliver(id, present, files, &mut self.actions);
                }
            },
            PlanEvent::Failed(id, why) => {
                self.sizes.end_proof(id);
                self.reads.end(id, why.into(), &mut self.actions);
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
                    self.surveys.begin(now, (node, address), content.hash);
                }
            }
            PlanEvent::Liar(node, content) => {
                let hash = content.hash;
                self.actions.events.push(FetchEvent::Liar { node, hash });
            }
            PlanEvent::Cancel(id) => self.actions.cancels.extend(self.asked.remove(&id)),
            PlanEvent::Closed(content) => {
                self.uncached.forget(&content);
                self.sizes.close(&content);
                let file = self.files.remove(&content);
                self.actions.closed.extend(file.and_then(|file| file.cache));
            }
        }
    }

    /// Records that a request was sent. `question` cancels it. Returns `question` if the answer is
    /// already not needed.
    pub fn record_sent(&mut self, id: RequestId, question: O::Question) -> Option<O::Question> {
        if !self.plan.requests().contains(id) || self.stopped {
            return Some(question);
        }
        self.asked.insert(id, question);
        None
    }

    /// Ends a request without data. Its range can be requested again, also from the same peer.
    /// Wrong bytes count against the peer that sent them even if the request is not open any
    /// longer.
    pub fn failed(&mut self, now: Instant, request: &RangeRequest, failure: Failure) {
        self.asked.remove(&request.id);
        self.plan.failed(now, request.id, failure);
        if failure == Failure::Lied {
            self.plan.record_peer_news(
                request.node,
                PeerNews::Lied {
                    now,
                    content: request.content,
                },
            );
        }
    }

    /// Accepts the verified answer of a request. Readers whose ranges are complete now get their
    /// bytes with the next actions, without a wait for the store.
    pub fn accept(
        &mut self,
        now: Instant,
        request: &RangeRequest,
        verified: &Arc<Verified>,
    ) -> Accepted<O::File> {
        let content = request.content;
        self.asked.remove(&request.id);
        if !self.plan.answered(now, request.id) {
            return Accepted::Unwanted;
        }
        if let Some(presence) = self.plan.presence(&content) {
            presence.hold(verified.clone(), self.uncached.of(&content));
        }
        if self.sizes.record_verified(&content, verified.range) {
            self.resolve_size(now, content);
        }
        self.handle_events(now);
        let Some(file) = self.files.get(&content) else {
            return Accepted::Unwanted;
        };
        if !file.fills.is_empty() {
            let progress = FillProgress {
                ready_bytes: self.plan.files().ready_bytes(&content).unwrap_or_default(),
                size_bytes: content.size_bytes,
            };
            let fills = file.fills.iter();
            fills.for_each(|(_, fill)| O::tell(fill, progress));
        }
        match &file.cache {
            Some(cache) => Accepted::Store(cache.clone()),
            None => {
                // the bytes have no cache file, so there is nothing to store again
                let _held = self.not_stored(now, content, verified.range);
                Accepted::Held
            }
        }
    }

    /// Records that the cache stored the bytes, and whether it then had the whole content.
    /// Concurrent stores may be reported in any order.
    pub fn stored(&mut self, content: ContentKey, range: ByteRange, is_complete: bool) {
        if let Some(presence) = self.plan.presence(&content) {
            presence.stored(range, is_complete, self.uncached.of(&content));
        }
        if self.cramped_bytes > 0 {
            self.cramped_bytes = self.cramped_bytes.saturating_sub(range.len());
            if self.cramped_bytes == 0 {
                self.plan.limit_read_ahead(None);
            }
        }
        if let Some(file) = self.files.get_mut(&content).filter(|_| is_complete)
            && !std::mem::replace(&mut file.told_done, true)
        {
            let ContentKey { hash, size_bytes } = content;
            let done = FetchEvent::Done { hash, size_bytes };
            self.actions.events.push(done);
        }
        self.end_fills_if_stored(&content);
    }

    /// Records that the cache had no room for the bytes of an answer. If a fill began after
    /// [`Session::accept`] handed them out, the owner stores them again and reports the result
    /// again. Otherwise all fills of the content fail.
    pub fn not_stored(
        &mut self,
        now: Instant,
        content: ContentKey,
        range: ByteRange,
    ) -> UncachedAction {
        let presence = self.plan.presence(&content);
        let action = presence.map(|it| it.not_stored(range, self.uncached.of(&content)));
        if action == Some(UncachedAction::StoreAgain) {
            return UncachedAction::StoreAgain;
        }
        while let Some((content, range)) = self.uncached.over_limit() {
            let mut uncached = self.uncached.of(&content);
            match self.plan.presence(&content) {
                Some(presence) => presence.release(range, uncached),
                None => uncached.remove(range),
            }
            self.plan.mark_lost(&content, range);
        }
        // occasional room, when another file is evicted, does not make the cache roomy
        self.cramped_bytes = self.uncached.limit_bytes().max(1);
        // the rest of the memory is for demands
        let most = self.uncached.limit_bytes() / 2;
        self.plan.limit_read_ahead(Some(most));
        self.plan
            .close_files(FilesToClose::LongIdle { now, kept: content });
        self.end_fills(&content, &Err(TransferError::CacheFull));
        UncachedAction::Held
    }

    /// Restarts a read after its bytes were lost before delivery. The restarted read has the full
    /// time to wait again. After `RETRIES_MAX` retries it fails.
    pub fn fell_short(&mut self, now: Instant, mut read: Read<O::ReadHandle>, gap: Shortfall) {
        if read.retries == RETRIES_MAX {
            let why = gap.why;
            let error = TransferError::Cache { why };
            return self.actions.ends.push((read.handle, error));
        }
        read.retries += 1;
        for gap in gap.missing.iter() {
            let gap = gap.align_out(PAGE_BYTES, u64::MAX);
            self.plan.mark_lost(&read.content, gap);
        }
        // if it waits, it keeps its id
        let _again = self.read(now, read);
    }

    /// Returns the bytes in memory that the cache has no room for.
    #[cfg(any(test, feature = "test-support"))]
    pub fn uncached_bytes(&self) -> u64 {
        self.uncached.bytes()
    }

    /// Starts a fill of a whole content. `patience` is the limit of its wait without progress.
    /// `present` returns the ranges that the cache surely has now. Other ranges are fetched again,
    /// even if they arrived before or were on disk, except answers that are being stored. The fill
    /// fails at once if the content is not open or the cache cannot store it.
    pub fn fill(
        &mut self,
        now: Instant,
        content: ContentKey,
        (id, fill): (FillId, O::FillHandle),
        patience: Duration,
        present: impl FnOnce() -> ExtentSet,
    ) {
        let error = match self.files.get_mut(&content) {
            None => Some(TransferError::Stopped),
            Some(file) if file.cache.is_none() => Some(TransferError::CacheFull),
            Some(_) => None,
        };
        if let Some(why) = error {
            return self.actions.fills.push((fill, Err(why)));
        }
        let missing = self
            .plan
            .presence(&content)
            .map(|it| it.begin_fill(present(), self.uncached.of(&content)));
        for range in missing.into_iter().flatten() {
            self.plan.mark_lost(&content, range);
        }
        if let Some(file) = self.files.get_mut(&content) {
            // The plan reports whether it still has all of it.
            file.filled = false;
            file.fills.push((id, fill));
        }
        self.plan.fill(now, content, patience);
    }

    /// Ends one fill of a content. Other fills of it go on.
    pub fn cancel_fill(&mut self, content: &ContentKey, id: FillId) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.fills.retain(|(other, _)| *other != id);
        if file.fills.is_empty() {
            self.plan.end_fill(content, FillEnd::Abandoned);
        }
    }

    fn end_fills_if_stored(&mut self, content: &ContentKey) {
        if self.files.get(content).is_none_or(|file| !file.filled) {
            return;
        }
        match self.plan.files().outcome_of_stores(content) {
            None => {}
            Some(true) => self.end_fills(content, &Ok(())),
            Some(false) => self.end_fills(content, &Err(TransferError::CacheFull)),
        }
    }

    fn end_fills(&mut self, content: &ContentKey, outcome: &Result<(), TransferError>) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.filled = false;
        let fills = std::mem::take(&mut file.fills).into_iter();
        let ended = fills.map(|(_, fill)| (fill, outcome.clone()));
        self.actions.fills.extend(ended);
        self.plan.end_fill(content, FillEnd::Stored);
    }

    fn resolve_sizes(&mut self, now: Instant, hash: &ContentHash) {
        for content in self.sizes.of(hash) {
            self.resolve_size(now, content);
        }
    }

    /// Requests the proof of a disputed size. If the size is proven, shuns the nodes that claimed
    /// other sizes.
    fn resolve_size(&mut self, now: Instant, content: ContentKey) {
        match self.sizes.verdict(&content) {
            SizeVerdict::Undisputed => {}
            SizeVerdict::Unproven if self.sizes.is_asked(&content) => {}
            SizeVerdict::Unproven => {
                let last = content.size_bytes.saturating_sub(1) / PAGE_BYTES * PAGE_BYTES;
                let end = ByteRange::new(last, content.size_bytes);
                let deadline = now + self.sizes.patience;
                // An error, such as a recent failure, is ignored: the next offer or list of holders
                // requests the proof again.
                if let Ok(id) = self.plan.demand(now, content, end, deadline) {
                    self.sizes.begin_proof(id, content);
                }
            }
            SizeVerdict::Proven { liars, rivals } => {
                for liar in liars {
                    self.plan
                        .record_peer_news(liar, PeerNews::Lied { now, content });
                }
                for rival in rivals {
                    self.disprove(rival);
                }
                // the cache may have refused this content because another size had the file of its
                // hash
                let file = self.files.get(&content);
                if file.is_some_and(|file| file.cache.is_none()) {
                    self.actions.reopens.push(content);
                }
            }
        }
    }

    /// Ends all reads and fills of a size after another size of its hash is proven.
    fn disprove(&mut self, content: ContentKey) {
        let why = TransferError::from(PlanError::OnlyLiars);
        for id in self.reads.of(&content) {
            self.plan.cancel(id);
            self.reads.end(id, why.clone(), &mut self.actions);
        }
        for id in self.sizes.take_proofs(&content) {
            self.plan.cancel(id);
        }
        self.end_fills(&content, &Err(why));
        self.plan.close_files(FilesToClose::Disproven(content));
    }

    /// Attaches the cache's file to a content that the cache can store after all. Bytes that are in
    /// memory are fetched again, to be stored. If the content is not open, the file is to be
    /// closed.
    pub fn reopened(&mut self, content: &ContentKey, file: O::File, is_complete: bool) {
        let Some(open) = self.files.get_mut(content) else {
            return self.actions.closed.push(file);
        };
        open.cache = Some(file);
        let Some(presence) = self.plan.presence(content) else {
            return;
        };
        let again = presence.reopen(is_complete, self.uncached.of(content));
        for range in again {
            self.plan.mark_lost(content, range);
        }
    }

    /// Handles the answer of a survey: the ranges that the node has of a content, or a failure.
    pub fn holdings(
        &mut self,
        now: Instant,
        (node, address): (NodeId, SocketAddr),
        hash: ContentHash,
        answer: Result<Response, Failure>,
    ) {
        let since = self.surveys.end(node, &hash);
        if answer == Err(Failure::Unreachable) {
            self.surveys.drop_waiting(node);
            return self.plan.record_peer_news(
                node,
                PeerNews::Unreachable {
                    now,
                    asked_at: since.unwrap_or(now),
                },
            );
        }
        let sizes = &self.sizes;
        self.surveys
            .begin_next(now, (node, address), |hash| !sizes.of(hash).is_empty());
        let Ok(Response::Holdings { ranges, size_bytes }) = answer else {
            return;
        };
        self.plan.record_peer_news(node, PeerNews::Answered);
        let content = ContentKey::new(hash, size_bytes);
        let offer = Offer {
            node,
            content,
            all: ranges.contains(ByteRange::new(0, size_bytes)),
            ranges,
            load: 0,
        };
        self.offer_ranges(now, &offer, address);
    }
}
