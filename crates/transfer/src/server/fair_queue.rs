//! Whose turn it is to be served: each peer in its turn, within what may be in memory.
//!
//! A turn is one answer being made. The bytes of an answer count until they are sent (or thrown
//! away), for all peers together and for each, so that peers that read slowly hold up themselves
//! and not the others. What waits is only counted, not made.
//!
//! An answer that is made for long stands still, as over a disk that hangs below a share: it takes
//! no other's turn any more, nor memory until it goes on, and its content is not begun once more.

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

/// Bulk has one turn in so many even where readers wait: they are not to starve it.
const URGENT_RUN_MAX: u32 = 8;
/// The load at which an offer says 255: so many questions that wait.
const LOAD_FULL_WAITING: usize = 64;

/// An answer that is made for longer stands still: many times what a slow disk takes for one.
pub(super) const STANDS_STILL: Duration = Duration::from_millis(500);
/// So many may, each on a thread of its own; further ones take the turns of others.
const STANDING_MAX: usize = 64;

/// Lets peers through in turn. Clones are the same queue.
#[derive(Clone)]
pub(super) struct FairQueue {
    turns: Arc<Mutex<Turns>>,
}

struct Turns {
    limits: ServerLimits,
    /// By number, so the first is the oldest.
    making: BTreeMap<u64, Making>,
    /// What stands still, by number.
    standing: BTreeMap<u64, Making>,
    next_number: u64,
    held_bytes: u64,
    held_of_peer: BTreeMap<(Lane, NodeId), u64>,
    waiting: BTreeMap<(Lane, NodeId), VecDeque<Waiter>>,
    /// Peers that wait, the next one first: those with readers who wait, then the others.
    urgent: VecDeque<NodeId>,
    bulk: VecDeque<NodeId>,
    waiting_count: usize,
    /// Urgent turns since the last one of bulk.
    urgent_run: u32,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub of: (Lane, NodeId),
    /// Of one content; of a batch, of the one that it has come to.
    pub hash: Option<ContentHash>,
    /// What the answer takes.
    pub bytes: u64,
}

impl Asked {
    pub(super) fn of_range(of: (Lane, NodeId), hash: ContentHash, range: ByteRange) -> Self {
        Self {
            of,
            hash: Some(hash),
            bytes: range.len(),
        }
    }
}

/// An answer that is being made.
struct Making {
    since: Instant,
    asked: Asked,
}

struct Waiter {
    asked: Asked,
    go: oneshot::Sender<Turn>,
}

/// The right to make one answer; dropping it gives it back.
pub(super) struct Turn {
    queue: FairQueue,
    number: u64,
    asked: Asked,
    making: bool,
}

impl Turn {
    /// The answer goes on with this content, which is what stands still if it does from now on.
    pub(super) fn goes_on_with(&mut self, hash: ContentHash) {
        let mut turns = self.queue.turns.lock();
        if turns.end_making(self.number) {
            turns.hold(&self.asked);
        }
        self.asked.hash = Some(hash);
        self.number = turns.note_making(self.asked);
    }

    /// The answer is made, and takes memory until this is dropped; the next may be made.
    pub(super) fn made(&mut self) {
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

impl Drop for Turn {
    fn drop(&mut self) {
        let granted = {
            let mut turns = self.queue.turns.lock();
            let stood_still = self.making && turns.end_making(self.number);
            if !stood_still {
                turns.let_go(&self.asked);
            }
            turns.grant(&self.queue)
        };
        drop(granted);
    }
}

impl FairQueue {
    pub(super) fn new(limits: ServerLimits) -> Self {
        let turns = Turns {
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

    /// Waits for a turn to make an answer, and looks meanwhile what stands still. `None` at once
    /// where too many wait already, or where another answer of the same content stands still.
    /// Needs a running tokio runtime.
    pub(super) async fn pass(&self, asked: Asked) -> Option<Turn> {
        let mut turn = pin!(self.line_up(asked));
        loop {
            match timeout(STANDS_STILL, turn.as_mut()).await {
                Ok(turn) => return turn,
                Err(_) => self.look_for_standing(Instant::now()),
            }
        }
    }

    /// Waits for a turn, however long.
    pub(super) async fn line_up(&self, asked: Asked) -> Option<Turn> {
        let (go, turn) = oneshot::channel();
        let unclaimed = {
            let mut turns = self.turns.lock();
            if turns.stands_still(&asked) || !turns.line_up(Waiter { asked, go }) {
                return None;
            }
            turns.grant(self)
        };
        drop(unclaimed);
        turn.await.ok()
    }

    /// A turn for who need not wait for it: nobody does but those whose own answers are to be sent
    /// first, and the limits allow it now.
    pub(super) fn pass_at_once(&self, asked: Asked) -> Option<Turn> {
        let mut turns = self.turns.lock();
        // who waits is looked at last: where all makers are at work they may be many
        let may = turns.making.len() < turns.limits.makers_max
            && turns.fits(&asked)
            && !turns.stands_still(&asked)
            && !turns.waiting.contains_key(&asked.of)
            && turns.waiting_for_others() == 0;
        may.then(|| turns.begin(asked, self))
    }

    /// The contents of which an answer is made for as long as that, or longer.
    pub(super) fn standing_for(&self, time: Duration, now: Instant) -> Vec<ContentHash> {
        let turns = self.turns.lock();
        let making = turns.standing.values().chain(turns.making.values());
        let long = making.filter(|it| now.saturating_duration_since(it.since) >= time);
        long.filter_map(|it| it.asked.hash).collect()
    }

    /// Lets others have the turns of what stands still by now.
    pub(super) fn look_for_standing(&self, now: Instant) {
        let granted = {
            let mut turns = self.turns.lock();
            turns.set_standing(now);
            turns.grant(self)
        };
        drop(granted);
    }

    /// How busy this node is, from 0 to 255.
    pub(super) fn load(&self) -> u8 {
        let waiting = self.turns.lock().waiting_for_others();
        let waiting = waiting.min(LOAD_FULL_WAITING);
        (waiting * 255 / LOAD_FULL_WAITING) as u8
    }
}

impl Turns {
    fn turns(&mut self, lane: Lane) -> &mut VecDeque<NodeId> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }

    fn line_up(&mut self, waiter: Waiter) -> bool {
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

    /// Lets through whom the limits allow. Gives back the turns of those that went away just now,
    /// to be dropped without the lock.
    #[must_use]
    fn grant(&mut self, queue: &FairQueue) -> Vec<Turn> {
        let mut unclaimed = Vec::new();
        // as many more as stand still: where a whole disk does, it is soon known of what is on it
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
            unclaimed.extend(self.let_through(of, queue));
        }
        unclaimed
    }

    /// The next peer of a lane whose answer fits; taken out of the line.
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

    /// How many questions wait for a maker or for memory that others hold.
    fn waiting_for_others(&self) -> usize {
        let lines = self.waiting.values();
        let first_fits = |line: &&VecDeque<Waiter>| {
            let first = line.front();
            first.is_some_and(|it| self.fits_own(&it.asked))
        };
        lines.filter(first_fits).map(VecDeque::len).sum()
    }

    /// Nobody holds more than it leaves free: however many read nothing of what they ask for, the
    /// next one finds room.
    fn fits(&self, asked: &Asked) -> bool {
        let all = self.held_bytes + asked.bytes;
        let own = self.held_of(&asked.of) + asked.bytes;
        let leaves = self.limits.held_max_bytes.checked_sub(all);
        leaves.is_some_and(|free| own <= free) && self.fits_own(asked)
    }

    fn held_of(&self, of: &(Lane, NodeId)) -> u64 {
        self.held_of_peer.get(of).copied().unwrap_or_default()
    }

    /// What one lane has made and not sent holds up that lane alone.
    fn fits_own(&self, Asked { of, bytes, .. }: &Asked) -> bool {
        let most = match of.0 {
            Lane::Urgent => self.limits.held_of_peer_max_bytes,
            Lane::Bulk => self.limits.held_of_bulk_max_bytes,
        };
        self.held_of(of) + bytes <= most
    }

    fn hold(&mut self, asked: &Asked) {
        self.held_bytes += asked.bytes;
        *self.held_of_peer.entry(asked.of).or_default() += asked.bytes;
    }

    fn let_go(&mut self, asked: &Asked) {
        self.held_bytes -= asked.bytes;
        if let Some(held) = self.held_of_peer.get_mut(&asked.of) {
            *held -= asked.bytes;
            if *held == 0 {
                self.held_of_peer.remove(&asked.of);
            }
        }
    }

    fn stands_still(&self, asked: &Asked) -> bool {
        let mut standing = self.standing.values();
        asked.hash.is_some() && standing.any(|it| it.asked.hash == asked.hash)
    }

    fn set_standing(&mut self, now: Instant) {
        while self.standing.len() < STANDING_MAX
            && let Some(oldest) = self.making.first_entry()
            && now.saturating_duration_since(oldest.get().since) >= STANDS_STILL
        {
            let (number, making) = oldest.remove_entry();
            self.let_go(&making.asked);
            self.standing.insert(number, making);
        }
    }

    /// It is made, or given up; whether it stood still, and so holds nothing.
    fn end_making(&mut self, number: u64) -> bool {
        self.making.remove(&number).is_none() && self.standing.remove(&number).is_some()
    }

    /// The number by which it is known from now on.
    fn note_making(&mut self, asked: Asked) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let since = Instant::now();
        self.making.insert(number, Making { since, asked });
        number
    }

    fn begin(&mut self, asked: Asked, queue: &FairQueue) -> Turn {
        self.hold(&asked);
        Turn {
            queue: queue.clone(),
            number: self.note_making(asked),
            asked,
            making: true,
        }
    }

    fn let_through(&mut self, of: (Lane, NodeId), queue: &FairQueue) -> Option<Turn> {
        let line = self.waiting.get_mut(&of)?;
        let waiter = line.pop_front()?;
        if line.is_empty() {
            drop(self.waiting.remove(&of))
        } else {
            self.turns(of.0).push_back(of.1)
        }
        self.waiting_count -= 1;
        // a turn that nobody takes goes on as it is dropped, one call deeper for each that left
        if waiter.go.is_closed() {
            return None;
        }
        let turn = self.begin(waiter.asked, queue);
        waiter.go.send(turn).err()
    }
}

#[cfg(test)]
mod tests;
