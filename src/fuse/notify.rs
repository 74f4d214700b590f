//! Telling the kernel to forget, from a thread of its own that holds nothing.
//!
//! A notification waits for locks that the kernel holds while a request of ours is under way, so
//! no thread that answers requests may send one. What is asked for while it still waits in the
//! queue happens once; a queue that is full becomes one word: everything.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::abi::opcode;
use super::device::Device;
use crate::fs::{Invalidator, Stale};

/// The most notifications that wait; more become [`Stale::Everything`].
pub const MAX_WAITING: usize = 1 << 16;
/// How many are sent before the queue is looked at again.
const BATCH: usize = 1024;
/// After this, a batch is sent again if an answer may have crossed it: one that was made from the
/// namespace as it was before, and reached the kernel after the notification.
const CROSSING_TIME: Duration = Duration::from_millis(100);
/// An answer given so shortly before may not have been worked in yet by the program that asked,
/// and a listing is sent once more after it: the kernel guards names and attributes against answers
/// that cross a notification (fs/fuse/dir.c), but not the pages of a listing.
const SETTLING_TIME: Duration = Duration::from_secs(1);

/// What the kernel is to forget, soon.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    order: VecDeque<Stale>,
    waiting: HashSet<Stale>,
    /// Whether the thread waits for crossing answers: what comes meanwhile does not wake it.
    crossing: bool,
    closed: bool,
}

impl Invalidator for Queue {
    fn invalidate(&self, stale: Stale) {
        let mut state = self.lock();
        if state.closed || state.waiting.contains(&Stale::Everything) {
            return;
        }
        if stale == Stale::Everything || state.order.len() >= MAX_WAITING {
            state.order.clear();
            state.waiting.clear();
            state.add(Stale::Everything);
        } else {
            state.add(stale);
        }
        if !state.crossing {
            self.changed.notify_one();
        }
    }
}

impl Queue {
    /// The next ones; none where there are none until then, nothing once the queue is closed.
    fn next_batch(&self, until: Option<Instant>) -> Option<Vec<Stale>> {
        let mut state = self.lock();
        while state.order.is_empty() && !state.closed {
            let Some(until) = until else {
                self.changed.wait(&mut state);
                continue;
            };
            if until <= Instant::now() {
                break;
            }
            self.changed.wait_until(&mut state, until);
        }
        if state.closed {
            return None;
        }
        let count = state.order.len().min(BATCH);
        let batch: Vec<Stale> = state.order.drain(..count).collect();
        for stale in &batch {
            state.waiting.remove(stale);
        }
        Some(batch)
    }

    /// Waits for answers that cross a notification to arrive; false where the queue was closed.
    fn wait_for_crossing(&self) -> bool {
        let mut state = self.lock();
        state.crossing = true;
        self.changed
            .wait_while_for(&mut state, |s| !s.closed, CROSSING_TIME);
        state.crossing = false;
        !state.closed
    }

    /// Sends what is asked for until the queue is closed.
    pub fn send_all(&self, device: &Arc<Device>) {
        // a batch a crossing time at most, so as many as fit into the settling time
        let mut settling: VecDeque<(Instant, Vec<Stale>)> = VecDeque::new();
        while let Some(batch) = self.next_batch(settling.front().map(|it| it.0)) {
            let now = Instant::now();
            while settling.front().is_some_and(|it| it.0 <= now) {
                let listings = settling.pop_front().into_iter().flat_map(|it| it.1);
                listings.for_each(|stale| send(device, &stale));
            }
            let lately = now.checked_sub(SETTLING_TIME).unwrap_or(now);
            let may_cross = !batch.is_empty() && device.table.any_since(lately, carries_names);
            batch.iter().for_each(|stale| send(device, stale));
            if may_cross && self.wait_for_crossing() {
                batch.iter().for_each(|stale| send(device, stale));
                let listings = batch.into_iter().filter(is_of_listings).collect();
                settling.push_back((Instant::now() + SETTLING_TIME, listings));
            }
        }
    }

    /// Nothing more is sent.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    // A panic elsewhere cannot leave the queue torn: each step under the lock is complete.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn add(&mut self, stale: Stale) {
        if self.waiting.insert(stale.clone()) {
            self.order.push_back(stale);
        }
    }
}

fn is_of_listings(stale: &Stale) -> bool {
    matches!(stale, Stale::Listing { .. } | Stale::Everything)
}

/// Whether the answer of an operation tells the kernel what it may keep.
fn carries_names(operation: u32) -> bool {
    matches!(
        operation,
        opcode::LOOKUP | opcode::GETATTR | opcode::READDIR | opcode::READDIRPLUS
    )
}

fn send(device: &Arc<Device>, stale: &Stale) {
    let sent = device.notify(stale);
    // The word for everything is about names alone; before Linux 6.16 there is none, and each known
    // name is told.
    if *stale == Stale::Everything {
        let names = device.fs.known_names();
        for known in names {
            if sent.is_err() || !matches!(known, Stale::Name { .. }) {
                let _ = device.notify(&known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(ino: u64) -> Stale {
        Stale::Listing { ino }
    }

    #[test]
    fn what_is_asked_for_twice_waits_once_and_in_order() {
        let queue = Queue::default();
        for ino in [7, 8, 7, 9, 8] {
            queue.invalidate(listing(ino));
        }
        assert_eq!(
            queue.next_batch(None),
            Some(vec![listing(7), listing(8), listing(9)])
        );
        queue.invalidate(listing(7));
        assert_eq!(
            queue.next_batch(None),
            Some(vec![listing(7)]),
            "asked anew after it was sent"
        );
    }

    #[test]
    fn a_full_queue_becomes_one_word() {
        let queue = Queue::default();
        for ino in 0..=MAX_WAITING as u64 + 10 {
            queue.invalidate(listing(ino));
        }
        assert_eq!(queue.next_batch(None), Some(vec![Stale::Everything]));
        queue.invalidate(listing(1));
        assert_eq!(queue.next_batch(None), Some(vec![listing(1)]));
    }

    #[test]
    fn with_nothing_to_send_a_wait_ends_when_something_is_due() {
        let queue = Queue::default();
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(queue.next_batch(Some(soon)), Some(vec![]));
        assert!(Instant::now() >= soon);
        queue.invalidate(listing(3));
        assert_eq!(queue.next_batch(Some(soon)), Some(vec![listing(3)]));
    }

    #[test]
    fn closing_wakes_who_waits_and_nothing_is_sent_after_it() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.next_batch(None));
            queue.close();
            assert_eq!(waiter.join().unwrap(), None);
        });
        queue.invalidate(listing(1));
        assert_eq!(queue.next_batch(None), None);
        assert!(!queue.wait_for_crossing());
    }
}
