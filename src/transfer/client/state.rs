//! What the lock guards: the plan, who waits, what is asked; and what is to be done after it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::fill::{FillProgress, Filler};
use super::gather::Sources;
use super::under_way::UnderWay;
use super::window::Window;
use super::{FetchEvent, Holder, Inner, ReadReply, answers};
use crate::cache::CacheFile;
use crate::digest::{ContentHash, Verified};
use crate::extent::{ByteRange, ExtentSet};
use crate::id::NodeId;
use crate::transfer::TransferError;
use crate::transfer::plan::{DemandId, Offer, Plan, PlanError, PlanEvent, RangeRequest, RequestId};

/// What read-ahead may hold of the window for uncached bytes, the rest being left to demands.
const UNCACHED_AHEAD_SHARE: u64 = 2;

/// One read that waits.
pub(super) struct Waiting {
    pub hash: ContentHash,
    pub range: ByteRange,
    pub deadline: Instant,
    /// Whether what follows it is fetched ahead of its reader.
    pub ahead: bool,
    /// How often its bytes were here and gone again before they could be read.
    pub retries: u8,
    pub reply: ReadReply,
}

/// A file that is being fetched.
pub(super) struct OpenFile {
    size_bytes: u64,
    /// `None` where the cache cannot take it.
    pub cache: Option<CacheFile>,
    addresses: HashMap<NodeId, SocketAddr>,
    looked_at: Instant,
    fillers: Vec<Filler>,
    /// The plan has all of it; the cache may still be storing.
    filled: bool,
    told_done: bool,
}

impl OpenFile {
    pub fn new(size_bytes: u64, cache: Option<CacheFile>) -> Self {
        Self {
            size_bytes,
            told_done: cache.as_ref().is_some_and(CacheFile::is_complete),
            cache,
            addresses: HashMap::new(),
            looked_at: Instant::now(),
            fillers: Vec::new(),
            filled: false,
        }
    }
}

/// What to do once the lock is released.
#[derive(Default)]
pub(super) struct Outbox {
    pub replies: Vec<(ReadReply, Result<Bytes, TransferError>)>,
    pub deliveries: Vec<(Waiting, Sources)>,
    /// Requests whose answers are of no use any more.
    pub unwanted: Vec<UnderWay>,
    /// Small ones that somebody waits for.
    pub requests: Vec<(RangeRequest, Option<SocketAddr>)>,
    pub fills: Vec<(Filler, Result<(), TransferError>)>,
    pub events: Vec<FetchEvent>,
    pub wanted: Vec<ContentHash>,
    /// Who is to be asked what it has of a file by now.
    pub surveys: Vec<(NodeId, SocketAddr, ContentHash)>,
    /// Closing a file of the cache touches the disk.
    pub closed: Vec<OpenFile>,
}

pub(super) struct State {
    pub plan: Plan,
    pub window: Window,
    pub under_way: HashMap<RequestId, UnderWay>,
    files: HashMap<ContentHash, OpenFile>,
    waiting: HashMap<DemandId, Waiting>,
    outbox: Outbox,
    armed: Option<Instant>,
    uncached: bool,
    window_bytes: u64,
    stopped: bool,
}

impl State {
    pub fn new(plan: Plan, window_bytes: u64) -> Self {
        Self {
            plan,
            window: Window::new(window_bytes),
            under_way: HashMap::new(),
            files: HashMap::new(),
            waiting: HashMap::new(),
            outbox: Outbox::default(),
            armed: None,
            uncached: false,
            window_bytes,
            stopped: false,
        }
    }

    pub fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    /// Whether the plan wants to be woken sooner than it will be.
    pub fn rearm(&mut self) -> bool {
        let Some(next) = self.plan.poll_timeout() else {
            return false;
        };
        let sooner = self.armed.is_none_or(|armed| next < armed);
        if sooner {
            self.armed = Some(next);
        }
        sooner
    }

    /// When the plan wants to be woken, which will now be done.
    pub fn arm(&mut self) -> Option<Instant> {
        self.armed = self.plan.poll_timeout();
        self.armed
    }

    /// The cache's file and when its holders were looked up, where the fetch has begun.
    pub fn known(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        size_bytes: u64,
    ) -> Result<Option<(Option<CacheFile>, Instant)>, TransferError> {
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        let Some(file) = self.files.get(hash) else {
            return Ok(None);
        };
        if file.size_bytes != size_bytes {
            let have_bytes = file.size_bytes;
            return Err(TransferError::SizeConflict {
                have_bytes,
                asked_bytes: size_bytes,
            });
        }
        self.plan.open(now, *hash, size_bytes, ExtentSet::new())?;
        Ok(Some((file.cache.clone(), file.looked_at)))
    }

    pub fn open(
        &mut self,
        now: Instant,
        hash: ContentHash,
        file: OpenFile,
        present: ExtentSet,
    ) -> Result<(), TransferError> {
        if self.files.contains_key(&hash) {
            // two began at once; the other was first
            self.outbox.closed.push(file);
            return Ok(());
        }
        let size_bytes = file.size_bytes;
        self.plan.open(now, hash, size_bytes, present)?;
        if !file.told_done {
            self.outbox
                .events
                .push(FetchEvent::Started { hash, size_bytes });
        }
        self.files.insert(hash, file);
        Ok(())
    }

    pub fn holders(&mut self, now: Instant, hash: &ContentHash, holders: &[Holder]) {
        let Some(file) = self.files.get_mut(hash) else {
            return;
        };
        file.looked_at = now;
        let nodes: Vec<_> = holders.iter().map(|holder| holder.node).collect();
        file.addresses
            .extend(holders.iter().map(|holder| (holder.node, holder.address)));
        self.plan.holders(now, hash, &nodes);
        let plan = &self.plan;
        file.addresses.retain(|node, _| plan.is_holder(hash, node));
    }

    /// Says whether the offer brings anything new.
    pub fn offer(&mut self, now: Instant, offer: &Offer, address: SocketAddr) -> bool {
        let news = self.plan.offer(now, offer);
        if self.plan.is_holder(&offer.hash, &offer.node)
            && let Some(file) = self.files.get_mut(&offer.hash)
        {
            file.addresses.insert(offer.node, address);
        }
        news
    }

    /// A node wants a file too that is on its way here.
    pub fn fellow(&mut self, now: Instant, hash: &ContentHash, holder: Holder) {
        self.plan.fellow(now, hash, holder.node);
        if self.plan.is_holder(hash, &holder.node)
            && let Some(file) = self.files.get_mut(hash)
        {
            file.addresses.insert(holder.node, holder.address);
        }
    }

    /// Lets a reader wait, unless the outcome is known.
    pub fn demand(&mut self, now: Instant, waiting: Waiting) -> Option<DemandId> {
        if self.stopped {
            self.outbox
                .replies
                .push((waiting.reply, Err(TransferError::Stopped)));
            return None;
        }
        let Waiting {
            hash,
            range,
            deadline,
            ahead,
            ..
        } = waiting;
        let demanded = match ahead {
            true => self.plan.demand(now, hash, range, deadline),
            false => self.plan.demand_just(now, hash, range, deadline),
        };
        match demanded {
            Ok(id) => {
                self.waiting.insert(id, waiting);
                Some(id)
            }
            Err(why) => {
                self.outbox.replies.push((waiting.reply, Err(why.into())));
                None
            }
        }
    }

    pub fn cancel(&mut self, id: DemandId) {
        self.plan.cancel(id);
        if let Some(waiting) = self.waiting.remove(&id) {
            self.outbox
                .replies
                .push((waiting.reply, Err(TransferError::Cancelled)));
        }
    }

    pub fn fill(
        &mut self,
        now: Instant,
        hash: ContentHash,
        filler: Filler,
        patience: std::time::Duration,
    ) {
        let Some(file) = self.files.get_mut(&hash) else {
            return self
                .outbox
                .fills
                .push((filler, Err(TransferError::Stopped)));
        };
        if file.cache.is_none() {
            return self
                .outbox
                .fills
                .push((filler, Err(TransferError::CacheFull)));
        }
        file.fillers.push(filler);
        self.plan.fill(now, hash, patience);
    }

    pub fn cancel_fill(&mut self, hash: &ContentHash, number: u64) {
        let Some(file) = self.files.get_mut(hash) else {
            return;
        };
        file.fillers.retain(|filler| filler.number != number);
        if file.fillers.is_empty() {
            self.plan.cancel_fill(hash);
        }
    }

    /// The answer to a request is here, verified. Gives the file to store it in where anyone still
    /// wants it; `Some(None)` where it is wanted but cannot be stored.
    pub fn accept(
        &mut self,
        now: Instant,
        id: RequestId,
        hash: ContentHash,
        verified: &Arc<Verified>,
    ) -> Option<Option<CacheFile>> {
        self.under_way.remove(&id);
        if !self.plan.answered(now, id) {
            return None;
        }
        self.window.insert(hash, verified.clone());
        let file = self.files.get(&hash)?;
        if !file.fillers.is_empty() {
            let ready_bytes = self.plan.ready_bytes(&hash).unwrap_or_default();
            let progress = FillProgress {
                ready_bytes,
                size_bytes: file.size_bytes,
            };
            for filler in &file.fillers {
                filler.progress.send_replace(progress);
            }
        }
        Some(file.cache.clone())
    }

    /// The cache has the bytes.
    pub fn stored(&mut self, hash: ContentHash, range: ByteRange) {
        self.window.remove(&hash, range.start);
        if std::mem::replace(&mut self.uncached, false) {
            self.plan.limit_read_ahead(None);
        }
        if let Some(file) = self.files.get_mut(&hash) {
            let complete = file.cache.as_ref().is_some_and(CacheFile::is_complete);
            if complete && !std::mem::replace(&mut file.told_done, true) {
                let size_bytes = file.size_bytes;
                self.outbox
                    .events
                    .push(FetchEvent::Done { hash, size_bytes });
            }
        }
        self.end_fills_if_stored(&hash);
    }

    /// The cache has no room for the bytes.
    pub fn refused(&mut self, hash: ContentHash, range: ByteRange) {
        for (hash, range) in self.window.refuse(&hash, range.start) {
            self.plan.lost(&hash, range);
        }
        if !std::mem::replace(&mut self.uncached, true) {
            self.plan
                .limit_read_ahead(Some(self.window_bytes / UNCACHED_AHEAD_SHARE));
        }
        self.plan.shed_idle(Instant::now(), &hash);
        self.end_fills(&hash, &Err(TransferError::CacheFull));
    }

    pub fn stop(&mut self) {
        self.stopped = true;
        for (_, waiting) in self.waiting.drain() {
            self.outbox
                .replies
                .push((waiting.reply, Err(TransferError::Stopped)));
        }
        let under_way = self.under_way.drain().map(|(_, request)| request);
        self.outbox.unwanted.extend(under_way);
        let hashes: Vec<_> = self.files.keys().copied().collect();
        for hash in hashes {
            self.end_fills(&hash, &Err(TransferError::Stopped));
        }
    }

    /// Carries the plan's wishes out as far as the lock is needed for it.
    pub fn pump(&mut self, now: Instant, inner: &Arc<Inner>) {
        self.take_events();
        while let Some(request) = self.plan.poll_request(now).filter(|_| !self.stopped) {
            self.take_events();
            let file = self.files.get(&request.hash);
            let address = file
                .and_then(|file| file.addresses.get(&request.node))
                .copied();
            if answers::is_prompt(&request) {
                self.outbox.requests.push((request, address));
                continue;
            }
            let task = inner
                .runtime
                .spawn(inner.clone().ask_range(request, address));
            let task = UnderWay::Task(task.abort_handle());
            self.under_way.insert(request.id, task);
        }
        self.take_events();
    }

    /// Notes how a request can be taken back; gives it back where its answer is of no use already.
    pub fn note_under_way(&mut self, id: RequestId, request: UnderWay) -> Option<UnderWay> {
        if !self.plan.is_asked(id) {
            return Some(request);
        }
        self.under_way.insert(id, request);
        None
    }

    fn take_events(&mut self) {
        while let Some(event) = self.plan.poll_event() {
            self.take_event(event);
        }
    }

    fn take_event(&mut self, event: PlanEvent) {
        match event {
            PlanEvent::Ready(id) => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let sources = self.sources(&waiting);
                    self.outbox.deliveries.push((waiting, sources));
                }
            }
            PlanEvent::Failed(id, why) => self.fail_read(id, why),
            PlanEvent::Filled(hash) => {
                if let Some(file) = self.files.get_mut(&hash) {
                    file.filled = true;
                }
                self.end_fills_if_stored(&hash);
            }
            PlanEvent::FillFailed(hash, why) => self.end_fills(&hash, &Err(why.into())),
            PlanEvent::Wanted(hash) => {
                self.outbox.wanted.push(hash);
                self.outbox
                    .events
                    .push(FetchEvent::Wanted { hashes: vec![hash] });
            }
            PlanEvent::Survey(hash, node) => {
                let file = self.files.get(&hash);
                if let Some(address) = file.and_then(|file| file.addresses.get(&node)) {
                    self.outbox.surveys.push((node, *address, hash));
                }
            }
            PlanEvent::Liar(node, hash) => {
                self.outbox.events.push(FetchEvent::Liar { node, hash });
            }
            PlanEvent::Cancel(id) => {
                self.outbox.unwanted.extend(self.under_way.remove(&id));
            }
            PlanEvent::Closed(hash) => {
                self.window.forget(&hash);
                self.outbox.closed.extend(self.files.remove(&hash));
            }
        }
    }

    fn sources(&self, waiting: &Waiting) -> Sources {
        Sources {
            held: self.window.overlapping(&waiting.hash, waiting.range),
            file: self
                .files
                .get(&waiting.hash)
                .and_then(|file| file.cache.clone()),
        }
    }

    fn fail_read(&mut self, id: DemandId, why: PlanError) {
        let Some(waiting) = self.waiting.remove(&id) else {
            return;
        };
        let why = TransferError::from(why);
        let (hash, range) = (waiting.hash, waiting.range);
        self.outbox.events.push(FetchEvent::Failed {
            hash,
            range,
            why: why.clone(),
        });
        self.outbox.replies.push((waiting.reply, Err(why)));
    }

    fn end_fills_if_stored(&mut self, hash: &ContentHash) {
        let ready = self.files.get(hash).is_some_and(|file| file.filled);
        if !ready || self.window.is_storing(hash) {
            return;
        }
        let complete = |file: &OpenFile| file.cache.as_ref().is_some_and(CacheFile::is_complete);
        let outcome = match self.files.get(hash).is_some_and(complete) {
            true => Ok(()),
            false => Err(TransferError::CacheFull),
        };
        self.end_fills(hash, &outcome);
    }

    fn end_fills(&mut self, hash: &ContentHash, outcome: &Result<(), TransferError>) {
        let Some(file) = self.files.get_mut(hash) else {
            return;
        };
        file.filled = false;
        let fillers = std::mem::take(&mut file.fillers);
        self.outbox
            .fills
            .extend(fillers.into_iter().map(|filler| (filler, outcome.clone())));
        self.plan.cancel_fill(hash);
    }
}
