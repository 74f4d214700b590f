//! Fetch machine: everything between the readers of bytes and their holders, except the transport
//! of the bytes. Pure.
//!
//! A session owns the plan and its surroundings: waiting reads and fills, open files, addresses of
//! holders, open requests, and verified bytes in memory. The owner reports each event (a read, an
//! offer, an answer, a store, the passing of time) and then calls [`Session::actions`]. The
//! [`Actions`] list the requests to send and to cancel, the readers to serve, what ended, the files
//! to close, and the contents to look up. The next wake-up time is that of the plan's outbox.
//! The owner carries the actions out in any order and reports their results. The daemon's client
//! and the simulator are two owners of the same machine.
//!
//! A session uses no sockets, files, runtime or clock. The owner attaches a value of an opaque type
//! to each read, fill, file and request. No call waits or hashes: verification is [`verify`], which
//! the owner calls on any thread. An error ends one read or one fill and leaves everything else
//! unchanged.

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
use std::time::Instant;

use crate::TransferError;
use crate::plan::{
    DemandId, HOLDERS_MAX, Offer, PIECE_MAX_BYTES, PeerNews, Plan, PlanConfig, PlanError,
    PlanEvent, RECENT, RUNS_MAX, RequestId,
};
use p2pfs_proto::wire::native::tcp;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

pub use answers::{Accepted, Refused, lane_of, proof_of, question, verify};
pub use gather::{Shortfall, Sources};
use surveys::Surveys;
pub use terms::{
    Actions, Cached, Delivery, FetchEvent, FillId, FillProgress, Holder, Owner, Read, SendRange,
};
use window::Window;

// the wire must allow the largest request of the plan, and the plan must keep as many ranges as a
// holder can list
const _: () =
    assert!(PIECE_MAX_BYTES == tcp::RANGE_MAX_BYTES && RUNS_MAX == tcp::HOLDINGS_RANGES_MAX);

/// File that is being fetched.
struct OpenFile<O: Owner> {
    /// `None` if the cache cannot store it.
    cache: Option<O::File>,
    /// Whether the cache has all of it, as far as reported.
    is_complete: bool,
    addresses: BTreeMap<NodeId, SocketAddr>,
    looked_at: Instant,
    fillers: Vec<(FillId, O::Filler)>,
    /// Whether the plan has all of it. The cache may still be storing parts.
    filled: bool,
    told_start: bool,
    told_done: bool,
    /// Whether its last byte was verified, which proves its size.
    is_proven: bool,
    /// Whether another size was ever claimed or requested.
    is_disputed: bool,
    /// Nodes that claim another size.
    doubters: BTreeSet<NodeId>,
}

/// Fetch machine; see the module documentation.
pub struct Session<O: Owner> {
    /// Choices of ranges and peers. Its owner reports news of peers and of time to it directly.
    /// Reads, fills, offers and ends of requests go through the session.
    pub plan: Plan,
    window: Window,
    asked: BTreeMap<RequestId, O::Question>,
    surveys: Surveys,
    files: BTreeMap<ContentKey, OpenFile<O>>,
    reads: BTreeMap<DemandId, Read<O::Reader>>,
    /// Demands for the ends of contents with a disputed size.
    proofs: BTreeMap<DemandId, ContentKey>,
    actions: Actions<O>,
    /// Bytes that the cache must still store before it counts as roomy again, after it lately had
    /// no room.
    cramped_bytes: u64,
    window_bytes: u64,
    stopped: bool,
}

impl<O: Owner> Session<O> {
    /// Creates a session with nothing to do. Its random choices derive from `seed`. Bytes that the
    /// cache has no room for stay in memory, up to `window_bytes`.
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

    /// Returns the actions that follow from all reports since the last call.
    pub fn actions(&mut self, now: Instant) -> Actions<O> {
        self.handle_events(now);
        while let Some(request) = self.plan.poll_request(now).filter(|_| !self.stopped) {
            self.handle_events(now);
            self.announce_start(&request.content);
            let file = self.files.get(&request.content);
            let address = file.and_then(|file| file.addresses.get(&request.node));
            self.actions.sends.push(SendRange {
                address: address.copied(),
                is_prompt: answers::is_prompt(&request),
                request,
            });
        }
        self.handle_events(now);
        self.actions.decisions = self.plan.outbox().take_decisions();
        std::mem::take(&mut self.actions)
    }

    /// Announces the start of a fetch with its first request. The announcement does not delay the
    /// request.
    fn announce_start(&mut self, content: &ContentKey) {
        let file = self.files.get_mut(content).filter(|it| !it.told_start);
        if let Some(file) = file {
            file.told_start = true;
            let ContentKey { hash, size_bytes } = *content;
            let started = FetchEvent::Started { hash, size_bytes };
            self.actions.events.push(started);
        }
    }

    /// Marks a content as in use. Returns the cache's file if its fetch has begun. Returns `None`
    /// if [`Session::begin`] must be called first.
    ///
    /// # Errors
    /// [`TransferError::Stopped`], or an error of the plan.
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
        let is_old = now.saturating_duration_since(file.looked_at) > RECENT;
        if is_old || self.plan.files().was_just_lost(now, &content) {
            self.actions.wanted.push(content.hash);
        }
        Ok(Some(file.cache.clone()))
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

    /// Records the holders of a content that the catalogue and the cluster know. Holders beyond
    /// [`HOLDERS_MAX`] are ignored.
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
                .retain(|node, _| plan.files().is_holder(&content, node));
        }
        for holder in holders {
            let said = ContentKey::new(*hash, holder.size_bytes);
            self.record_claim(holder.node, said);
        }
        self.resolve_sizes(now, hash);
    }

    /// Returns the contents with this hash that are being fetched. More than one means that the
    /// size is in dispute.
    fn opened(&self, hash: &ContentHash) -> Vec<ContentKey> {
        let all = ContentKey::new(*hash, 0)..=ContentKey::new(*hash, u64::MAX);
        self.files.range(all).map(|(content, _)| *content).collect()
    }

    /// Records which ranges of a content a node has. The offer is ignored unless the content is
    /// being fetched.
    pub fn offer(&mut self, now: Instant, offer: &Offer, address: SocketAddr) {
        self.record_offered_size(now, offer);
        let news = self.plan.offer(now, offer);
        self.record_address(&offer.content, offer.node, address);
        if news && !offer.all {
            self.survey(now, offer.node, address, offer.content.hash);
        }
    }

    /// Records a node that also wants a content that is being fetched. Each will soon have parts
    /// for the other.
    pub fn fellow(&mut self, now: Instant, hash: &ContentHash, node: NodeId, address: SocketAddr) {
        for content in self.opened(hash) {
            self.plan.peer_is(node, PeerNews::Wants { now, content });
            self.record_address(&content, node, address);
        }
    }

    fn record_address(&mut self, content: &ContentKey, node: NodeId, address: SocketAddr) {
        if self.plan.files().is_holder(content, &node)
            && let Some(file) = self.files.get_mut(content)
        {
            file.addresses.insert(node, address);
        }
    }

    /// Starts a read. Returns its id if it waits, or `None` if it ended at once.
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

    /// Cancels a read after its reader has gone.
    pub fn cancel(&mut self, id: DemandId) {
        self.plan.cancel(id);
        if let Some(read) = self.reads.remove(&id) {
            self.actions
                .ends
                .push((read.reader, TransferError::Cancelled));
        }
    }

    /// Ends every read and fill with [`TransferError::Stopped`]. Later ones end in the same way at
    /// once.
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

    /// Returns whether a content is not open.
    pub fn is_closed(&self, content: &ContentKey) -> bool {
        !self.files.contains_key(content)
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.plan.outbox().poll_event() {
            self.handle_event(now, event);
        }
    }

    fn handle_event(&mut self, now: Instant, event: PlanEvent) {
        match event {
            PlanEvent::Ready(id) => self.deliver(now, id),
            PlanEvent::Failed(id, why) => {
                self.proofs.remove(&id);
                self.fail_read(id, why);
            }
            PlanEvent::Unanswered(content) => {
                let hash = content.hash;
                self.actions.events.push(FetchEvent::Unanswered { hash });
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
            return self.record_verified(now, content, end);
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
