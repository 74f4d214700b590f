//! Fair queue of the requests to serve: each peer in turn, within the memory limits.
//!
//! A turn is the right to make one answer. The bytes of an answer count from its turn until it is
//! sent or dropped, in total and per lane of a peer, so that a slow reader delays its own answers
//! first. A waiting request is only counted; its answer is not made yet.
//!
//! An answer that takes very long is stuck, for example on a disk that hangs below a share. While
//! it is stuck, another request may have its turn, its bytes do not count, and no other request for
//! its content is started.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ServerLimits;
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;
use p2pfs_types::stall::StallClock;

/// Number of urgent turns in a row after which a waiting bulk request is next, if its answer fits
/// into memory, so that bulk is not starved.
const URGENT_RUN_MAX: u32 = 8;
/// Number of waiting requests at which an offer reports the load 255.
const LOAD_FULL_WAITING: usize = 64;

/// Age from which an answer being made counts as stuck: many times what a slow disk takes for one
/// answer.
pub(super) const STANDS_STILL: Duration = Duration::from_millis(500);
/// Maximum stuck answers whose turns are given to other requests. Each occupies a thread. A further
/// stuck answer keeps its turn.
const STANDING_MAX: usize = 64;

/// Queue that lets peers through in turn. Clones are the same queue.
#[derive(Clone)]
pub(super) struct FairQueue {
    turns: Arc<Mutex<TurnTable>>,
}

struct TurnTable {
    limits: ServerLimits,
    /// Answers being made by number, so the first is the oldest.
    making: BTreeMap<u64, AnswerInProgress>,
    /// Stuck answers by number.
    standing: BTreeMap<u64, AnswerInProgress>,
    next_number: u64,
    held_bytes: u64,
    held_of_peer: BTreeMap<(Lane, NodeId), u64>,
    waiting: BTreeMap<(Lane, NodeId), VecDeque<QueuedWaiter>>,
    /// Peers with waiting urgent requests, the next one first.
    urgent: VecDeque<NodeId>,
    /// Peers with waiting bulk requests, the next one first.
    bulk: VecDeque<NodeId>,
    waiting_count: usize,
    /// Urgent turns since the last bulk turn.
    urgent_run: u32,
}

/// Request in the queue.
#[derive(Clone, Copy)]
pub(super) struct QueuedRequest {
    pub of: (Lane, NodeId),
    /// Content of the request. For a batch: the one that is being read, `None` before the first.
    pub hash: Option<ContentHash>,
    /// Bytes of the answer.
    pub bytes: u64,
}

impl QueuedRequest {
    pub(super) fn of_range(of: (Lane, NodeId), hash: ContentHash, range: ByteRange) -> Self {
        Self {
            of,
            hash: Some(hash),
            bytes: range.len(),
        }
    }
}

/// Answer that is being made.
struct AnswerInProgress {
    /// Time since the current content of the answer was begun.
    clock: StallClock,
    asked: QueuedRequest,
}

struct QueuedWaiter {
    asked: QueuedRequest,
    go: oneshot::Sender<ServeTurn>,
}

/// Right to make one answer. Dropping it returns the turn and releases the bytes of the answer.
pub(super) struct ServeTurn {
    queue: FairQueue,
    number: u64,
    asked: QueuedRequest,
    making: bool,
}

impl ServeTurn {
    /// Records that the answer goes on with this content, which counts as stuck if the answer hangs
    /// from now on.
    pub(super) fn continue_with(&mut self, hash: ContentHash) {
        let mut turns = self.queue.turns.lock();
        if turns.end_making(self.number) {
            turns.hold(&self.asked);
        }
        self.asked.hash = Some(hash);
        self.number = turns.start_making(self.asked);
    }

    /// Marks the answer as made. Its bytes count until the turn is dropped, but another answer may
    /// be made now.
    pub(super) fn mark_made(&mut self) {
        if std::mem::replace(&mut self.making, false) {
            let granted = {
                let mut turns = self.queue.turns.lock();
                if turns.end_making(self.number) {
                    turns.hold(&self.asked);
                }
                turns.grant(&self.queue)
            };
            drop(granted);
        }
    }
}

impl Drop for ServeTurn {
    fn drop(&mut self) {
        let granted = {
            let mut turns = self.queue.turns.lock();
            let stood_still = self.making && turns.end_making(self.number);
            if !stood_still {
                turns.release(&self.asked);
            }
            turns.grant(&self.queue)
        };
        drop(granted);
    }
}

impl FairQueue {
    pub(super) fn new(limits: ServerLimits) -> Self {
        let turns = TurnTable {
            limits,
            making: BTreeMap::new(),
            standing: BTreeMap::new(),
            next_number: 0,
            held_bytes: 0,
            held_of_peer: BTreeMap::new(),
            waiting: BTreeMap::new(),
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
            waiting_count: 0,
            urgent_run: 0,
        };
        Self {
            turns: Arc::new(Mutex::new(turns)),
        }
    }

    /// Waits for a turn to make an answer, and checks for stuck answers meanwhile. Returns `None`
    /// at once if too many requests wait, or if another answer of the same content is stuck. Needs
    /// a running tokio runtime.
    pub(super) async fn pass(&self, asked: QueuedRequest) -> Option<ServeTurn> {
        let mut turn = pin!(self.line_up(asked));
        loop {
            match timeout(STANDS_STILL, turn.as_mut()).await {
                Ok(turn) => return turn,
                Err(_) => self.free_stuck_turns(Instant::now()),
            }
        }
    }

    /// Waits for a turn like [`FairQueue::pass`], but does not check for stuck answers meanwhile.
    pub(super) async fn line_up(&self, asked: QueuedRequest) -> Option<ServeTurn> {
        let (go, turn) = oneshot::channel();
        let unclaimed = {
            let mut turns = self.turns.lock();
            if turns.is_stuck(&asked) || !turns.line_up(QueuedWaiter { asked, go }) {
                return None;
            }
            turns.grant(self)
        };
        drop(unclaimed);
        turn.await.ok()
    }

    /// Returns a turn if the request need not wait. That is so under four conditions: no other
    /// request waits in its lane of its peer; each waiting request of another lane or peer is
    /// blocked by its own peer's unsent answers; the limits allow one more answer now; and no
    /// answer of the same content is stuck.
    pub(super) fn pass_at_once(&self, asked: QueuedRequest) -> Option<ServeTurn> {
        let mut turns = self.turns.lock();
        // the waiting requests are checked last: they may be many if all makers are busy
        let may = turns.making.len() < turns.limits.makers_max
            && turns.fits(&asked)
            && !turns.is_stuck(&asked)
            && !turns.waiting.contains_key(&asked.of)
            && turns.waiting_for_others() == 0;
        may.then(|| turns.begin(asked, self))
    }

    /// Returns the contents of the answers being made for at least `time`.
    pub(super) fn stuck_for(&self, time: Duration, now: Instant) -> Vec<ContentHash> {
        let turns = self.turns.lock();
        let making = turns.standing.values().chain(turns.making.values());
        let long = making.filter(|it| it.clock.still_for(now) >= time);
        long.filter_map(|it| it.asked.hash).collect()
    }

    /// Frees the turns of the answers that are stuck by now.
    pub(super) fn free_stuck_turns(&self, now: Instant) {
        let granted = {
            let mut turns = self.turns.lock();
            turns.mark_stuck(now);
            turns.grant(self)
        };
        drop(granted);
    }

    /// Returns how busy this node is, from 0 to 255.
    pub(super) fn load(&self) -> u8 {
        let waiting = self.turns.lock().waiting_for_others();
        let waiting = waiting.min(LOAD_FULL_WAITING);
        (waiting * 255 / LOAD_FULL_WAITING) as u8
    }
}

impl TurnTable {
    fn turns(&mut self, lane: Lane) -> &mut VecDeque<NodeId> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }

    fn line_up(&mut self, waiter: QueuedWaiter) -> bool {
        let of = waiter.asked.of;
        let of_peer = self.waiting.get(&of).map_or(0, VecDeque::len);
        let full = self.waiting_count >= self.limits.waiting_max;
        if full || of_peer >= self.limits.waiting_of_peer_max {
            return false;
        }
        self.waiting_count += 1;
        if of_peer == 0 {
            self.turns(of.0).push_back(of.1);
        }
        self.waiting.entry(of).or_default().push_back(waiter);
        true
    }

    /// Grants turns as far as the limits allow. Returns the turns that no requester waits for,
    /// which the caller drops without the lock.
    #[must_use]
    fn grant(&mut self, queue: &FairQueue) -> Vec<ServeTurn> {
        let mut unclaimed = Vec::new();
        // If many answers are stuck, as many others may be made, so that the other contents of a
        // hung disk are soon known to be stuck too.
        while self.making.len() < self.limits.makers_max.max(self.standing.len()) {
            let first = if self.urgent_run < URGENT_RUN_MAX {
                [Lane::Urgent, Lane::Bulk]
            } else {
                [Lane::Bulk, Lane::Urgent]
            };
            let Some(of) = first.into_iter().find_map(|lane| self.next_of(lane)) else {
                break;
            };
            self.urgent_run = match of.0 {
                Lane::Urgent => self.urgent_run + 1,
                Lane::Bulk => 0,
            };
            unclaimed.extend(self.grant_next(of, queue));
        }
        unclaimed
    }

    /// Removes the next peer of a lane whose first answer fits into memory. Returns it.
    fn next_of(&mut self, lane: Lane) -> Option<(Lane, NodeId)> {
        for _ in 0..self.turns(lane).len() {
            let of = (lane, self.turns(lane).pop_front()?);
            if self.may_pass(&of) {
                return Some(of);
            }
            self.turns(lane).push_back(of.1);
        }
        None
    }

    fn may_pass(&self, of: &(Lane, NodeId)) -> bool {
        let Some(next) = self.waiting.get(of).and_then(VecDeque::front) else {
            return true;
        };
        self.fits(&next.asked)
    }

    /// Returns how many requests wait for a maker or for memory that other peers use.
    fn waiting_for_others(&self) -> usize {
        let lines = self.waiting.values();
        let first_fits = |line: &&VecDeque<QueuedWaiter>| {
            let first = line.front();
            first.is_some_and(|it| self.fits_own(&it.asked))
        };
        lines.filter(first_fits).map(VecDeque::len).sum()
    }

    /// Returns whether an answer fits into memory. With the answer, one lane of one peer may use at
    /// most as much memory as stays free. So a few peers that do not read their answers cannot use
    /// all of it.
    fn fits(&self, asked: &QueuedRequest) -> bool {
        let all = self.held_bytes + asked.bytes;
        let own = self.held_of(&asked.of) + asked.bytes;
        let leaves = self.limits.held_max_bytes.checked_sub(all);
        leaves.is_some_and(|free| own <= free) && self.fits_own(asked)
    }

    fn held_of(&self, of: &(Lane, NodeId)) -> u64 {
        self.held_of_peer.get(of).copied().unwrap_or_default()
    }

    /// Returns whether an answer fits the limit of its peer and lane. Each lane has a limit of its
    /// own, so that the unsent answers of one do not use up that of the other.
    fn fits_own(&self, QueuedRequest { of, bytes, .. }: &QueuedRequest) -> bool {
        let most = match of.0 {
            Lane::Urgent => self.limits.held_of_peer_max_bytes,
            Lane::Bulk => self.limits.held_of_bulk_max_bytes,
        };
        self.held_of(of) + bytes <= most
    }

    fn hold(&mut self, asked: &QueuedRequest) {
        self.held_bytes += asked.bytes;
        *self.held_of_peer.entry(asked.of).or_default() += asked.bytes;
    }

    fn release(&mut self, asked: &QueuedRequest) {
        self.held_bytes -= asked.bytes;
        if let Some(held) = self.held_of_peer.get_mut(&asked.of) {
            *held -= asked.bytes;
            if *held == 0 {
                self.held_of_peer.remove(&asked.of);
            }
        }
    }

    fn is_stuck(&self, asked: &QueuedRequest) -> bool {
        let mut standing = self.standing.values();
        asked.hash.is_some() && standing.any(|it| it.asked.hash == asked.hash)
    }

    fn mark_stuck(&mut self, now: Instant) {
        while self.standing.len() < STANDING_MAX
            && let Some(oldest) = self.making.first_entry()
            && oldest.get().clock.still_for(now) >= STANDS_STILL
        {
            let (number, making) = oldest.remove_entry();
            self.release(&making.asked);
            self.standing.insert(number, making);
        }
    }

    /// Removes an answer that is made or given up. Returns whether it was stuck, and so holds no
    /// memory.
    fn end_making(&mut self, number: u64) -> bool {
        self.making.remove(&number).is_none() && self.standing.remove(&number).is_some()
    }

    /// Records an answer being made. Returns its number.
    fn start_making(&mut self, asked: QueuedRequest) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let clock = StallClock::start(number, Instant::now());
        self.making
            .insert(number, AnswerInProgress { clock, asked });
        number
    }

    fn begin(&mut self, asked: QueuedRequest, queue: &FairQueue) -> ServeTurn {
        self.hold(&asked);
        ServeTurn {
            queue: queue.clone(),
            number: self.start_making(asked),
            asked,
            making: true,
        }
    }

    fn grant_next(&mut self, of: (Lane, NodeId), queue: &FairQueue) -> Option<ServeTurn> {
        let line = self.waiting.get_mut(&of)?;
        let waiter = line.pop_front()?;
        if line.is_empty() {
            drop(self.waiting.remove(&of))
        } else {
            self.turns(of.0).push_back(of.1)
        }
        self.waiting_count -= 1;
        // dropping an unclaimed turn grants the next one, so many requesters that left would make
        // the calls nest deeply
        if waiter.go.is_closed() {
            return None;
        }
        let turn = self.begin(waiter.asked, queue);
        waiter.go.send(turn).err()
    }
}

#[cfg(test)]
mod tests;
