//! Whose turn it is to be served: each peer in its turn, within what may be in memory.
//!
//! A turn is one answer being made. The bytes of an answer count until they are sent (or thrown
//! away), for all peers together and for each, so that peers that read slowly hold up themselves
//! and not the others. What waits is only counted, not made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ServerLimits;
use crate::id::NodeId;
use crate::wire::native::tcp::Lane;

/// Bulk has one turn in so many even where readers wait: they are not to starve it.
const URGENT_RUN_MAX: u32 = 8;
/// The load at which an offer says 255: so many questions that wait.
const LOAD_FULL_WAITING: usize = 64;

/// Lets peers through in turn. Clones are the same queue.
#[derive(Clone)]
pub(super) struct FairQueue {
    turns: Arc<Mutex<Turns>>,
}

struct Turns {
    limits: ServerLimits,
    making: usize,
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

struct Waiter {
    bytes: u64,
    go: oneshot::Sender<Turn>,
}

/// The right to make one answer; dropping it gives it back.
pub(super) struct Turn {
    queue: FairQueue,
    of: (Lane, NodeId),
    bytes: u64,
    making: bool,
}

impl Turn {
    /// The answer is made, and takes memory until this is dropped; the next may be made.
    pub fn made(&mut self) {
        if std::mem::replace(&mut self.making, false) {
            let granted = {
                let mut turns = self.queue.turns.lock();
                turns.making -= 1;
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
            turns.making -= usize::from(self.making);
            turns.held_bytes -= self.bytes;
            if let Some(held) = turns.held_of_peer.get_mut(&self.of) {
                *held -= self.bytes;
                if *held == 0 {
                    turns.held_of_peer.remove(&self.of);
                }
            }
            turns.grant(&self.queue)
        };
        drop(granted);
    }
}

impl FairQueue {
    pub fn new(limits: ServerLimits) -> Self {
        let turns = Turns {
            limits,
            making: 0,
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

    /// Waits for a turn to make an answer of `bytes`. `None` at once where too many wait already.
    pub async fn pass(&self, of: (Lane, NodeId), bytes: u64) -> Option<Turn> {
        let (go, turn) = oneshot::channel();
        let unclaimed = {
            let mut turns = self.turns.lock();
            if !turns.line_up(of, Waiter { bytes, go }) {
                return None;
            }
            turns.grant(self)
        };
        drop(unclaimed);
        turn.await.ok()
    }

    /// A turn for who need not wait for it: nobody else does, and the limits allow it now.
    pub fn pass_at_once(&self, of: (Lane, NodeId), bytes: u64) -> Option<Turn> {
        let mut turns = self.turns.lock();
        let idle = turns.waiting_count == 0 && turns.making < turns.limits.makers_max;
        (idle && turns.fits(&of, bytes)).then(|| turns.begin(of, bytes, self))
    }

    /// How busy this node is, from 0 to 255.
    pub fn load(&self) -> u8 {
        let waiting = self.turns.lock().waiting_count.min(LOAD_FULL_WAITING);
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

    fn line_up(&mut self, of: (Lane, NodeId), waiter: Waiter) -> bool {
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

    /// Lets through whom the limits allow. Gives back the turns of those that went away, to be
    /// dropped without the lock.
    #[must_use]
    fn grant(&mut self, queue: &FairQueue) -> Vec<Turn> {
        let mut unclaimed = Vec::new();
        while self.making < self.limits.makers_max {
            let first = match self.urgent_run < URGENT_RUN_MAX {
                true => [Lane::Urgent, Lane::Bulk],
                false => [Lane::Bulk, Lane::Urgent],
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
        self.fits(of, next.bytes)
    }

    /// What one lane has made and not sent holds up that lane alone.
    fn fits(&self, of: &(Lane, NodeId), bytes: u64) -> bool {
        let held = self.held_of_peer.get(of).copied().unwrap_or_default();
        let fits = self.held_bytes + bytes <= self.limits.held_max_bytes;
        fits && held + bytes <= self.limits.held_of_peer_max_bytes
    }

    fn begin(&mut self, of: (Lane, NodeId), bytes: u64, queue: &FairQueue) -> Turn {
        self.making += 1;
        self.held_bytes += bytes;
        *self.held_of_peer.entry(of).or_default() += bytes;
        Turn {
            queue: queue.clone(),
            of,
            bytes,
            making: true,
        }
    }

    fn let_through(&mut self, of: (Lane, NodeId), queue: &FairQueue) -> Option<Turn> {
        let line = self.waiting.get_mut(&of)?;
        let waiter = line.pop_front()?;
        match line.is_empty() {
            true => drop(self.waiting.remove(&of)),
            false => self.turns(of.0).push_back(of.1),
        }
        self.waiting_count -= 1;
        let turn = self.begin(of, waiter.bytes, queue);
        waiter.go.send(turn).err()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn limits() -> ServerLimits {
        ServerLimits {
            makers_max: 2,
            waiting_max: 10,
            waiting_of_peer_max: 6,
            held_max_bytes: 100,
            held_of_peer_max_bytes: 60,
        }
    }

    fn peer(number: u8) -> (Lane, NodeId) {
        (Lane::Bulk, NodeId::new([number; 32]))
    }

    fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_peer_with_many_questions_lets_the_others_have_their_turn() {
        let queue = FairQueue::new(limits());
        let mut greedy: Vec<_> = (0..6).map(|_| Box::pin(queue.pass(peer(1), 1))).collect();
        let mut made: Vec<_> = greedy
            .iter_mut()
            .map(|f| now(f.as_mut()).flatten())
            .collect();
        assert_eq!(made.iter().flatten().count(), 2);
        let mut modest = pin!(queue.pass(peer(2), 1));
        assert!(now(modest.as_mut()).is_none());
        made[0] = None;
        made[1] = None;
        // two turns came free: one for each, though four of the greedy one waited longer
        let served = greedy.iter_mut().skip(2).map(|f| now(f.as_mut()).flatten());
        let served: Vec<_> = served.collect();
        assert_eq!(served.iter().flatten().count(), 1);
        assert!(now(modest.as_mut()).flatten().is_some());
    }

    #[test]
    fn who_would_overtake_or_go_over_a_limit_does_not_pass_at_once() {
        let queue = FairQueue::new(limits());
        let first = queue.pass_at_once(peer(1), 60);
        assert!(first.is_some());
        assert!(queue.pass_at_once(peer(1), 1).is_none(), "its own memory");
        assert!(queue.pass_at_once(peer(2), 41).is_none(), "everybody's");
        let second = queue.pass_at_once(peer(2), 1);
        assert!(second.is_some());
        assert!(queue.pass_at_once(peer(3), 1).is_none(), "two are made");
        let mut waiting = Box::pin(queue.pass(peer(4), 100));
        assert!(now(waiting.as_mut()).is_none());
        drop(second);
        assert!(queue.pass_at_once(peer(3), 1).is_none(), "one waits longer");
        drop((first, waiting));
        let inner = queue.turns.lock();
        assert_eq!((inner.making, inner.held_bytes), (0, 0));
    }

    #[test]
    fn readers_who_wait_come_before_bulk_of_any_peer_but_do_not_starve_it() {
        let queue = FairQueue::new(ServerLimits {
            makers_max: 1,
            waiting_of_peer_max: 100,
            waiting_max: 100,
            ..limits()
        });
        let mut making = now(pin!(queue.pass(peer(1), 1)).as_mut()).flatten();
        assert!(making.is_some());
        let mut bulk: Vec<_> = (0..3).map(|_| Box::pin(queue.pass(peer(1), 1))).collect();
        let urgent = (Lane::Urgent, peer(2).1);
        let mut readers: Vec<_> = (0..20).map(|_| Box::pin(queue.pass(urgent, 1))).collect();
        assert!(bulk.iter_mut().all(|it| now(it.as_mut()).is_none()));
        assert!(readers.iter_mut().all(|it| now(it.as_mut()).is_none()));
        let mut order = String::new();
        for _ in 0..10 {
            drop(making.take());
            let lines = [(&mut readers, 'u'), (&mut bulk, 'b')];
            for (line, name) in lines {
                let Some(turn) = now(line[0].as_mut()) else {
                    continue;
                };
                drop(line.remove(0));
                making = turn;
                order.push(name);
                break;
            }
        }
        assert_eq!(order, "uuuuuuuubu");
    }

    #[test]
    fn too_many_questions_are_refused_at_once() {
        let queue = FairQueue::new(limits());
        let mut all: Vec<_> = (0..9).map(|_| Box::pin(queue.pass(peer(1), 1))).collect();
        let outcomes: Vec<_> = all.iter_mut().map(|f| now(f.as_mut())).collect();
        assert_eq!(
            outcomes.iter().filter(|o| matches!(o, Some(None))).count(),
            1
        );
        assert!(queue.load() > 0);
    }

    #[test]
    fn answers_that_are_not_sent_yet_hold_up_their_own_peer_first() {
        let queue = FairQueue::new(limits());
        let mut slow = now(pin!(queue.pass(peer(1), 60)).as_mut())
            .flatten()
            .unwrap();
        slow.made();
        let mut more = pin!(queue.pass(peer(1), 10));
        assert!(now(more.as_mut()).is_none());
        assert!(
            now(pin!(queue.pass(peer(2), 40)).as_mut())
                .flatten()
                .is_some()
        );
        drop(slow);
        assert!(now(more.as_mut()).flatten().is_some());
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let queue = FairQueue::new(limits());
        let first = now(pin!(queue.pass(peer(1), 60)).as_mut()).flatten();
        {
            let mut gone = Box::pin(queue.pass(peer(1), 60));
            assert!(now(gone.as_mut()).is_none());
        }
        drop(first);
        let inner = queue.turns.lock();
        assert_eq!(
            (inner.making, inner.held_bytes, inner.waiting_count),
            (0, 0, 0)
        );
        assert!(inner.bulk.is_empty() && inner.waiting.is_empty());
        assert!(inner.held_of_peer.is_empty());
    }
}
