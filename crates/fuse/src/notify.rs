//! Sends cache invalidations to the kernel from a thread that holds no locks.
//!
//! A notification waits for locks that the kernel holds during a request, so a thread that answers
//! requests must never send one. Duplicates in the queue are sent once. A full queue is replaced by
//! a single notification for everything.
//!
//! A notification for the pages of a file also waits for reads of these pages. It has a queue and a
//! thread of its own, so that a stalled disk does not delay the changes of names. No notification
//! covers the pages of all files. If this queue is full, unneeded pages stay, but damaged ones
//! ([`Content::watch_damage`](p2pfs_fs::Content::watch_damage)) are always queued.

mod again;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use again::{RepeatQueue, SETTLING_TIME};

use parking_lot::{Condvar, Mutex};

use super::abi::opcode;
use super::device::Device;
use p2pfs_fs::{Around, Invalidator, Stale};

/// Maximum number of queued notifications; more become [`Stale::Everything`].
pub const WAITING_MAX: usize = 1 << 16;

/// The queues of a mount.
#[derive(Default)]
pub(super) struct NotifyQueues {
    /// Names and attributes.
    pub names: NotifyQueue,
    /// Pages of files.
    pub pages: NotifyQueue,
}

impl NotifyQueues {
    /// Closes the queues.
    pub(crate) fn close(&self) {
        self.names.close();
        self.pages.close();
    }
}

impl Invalidator for NotifyQueues {
    fn invalidate(&self, stale: Stale) {
        let queue = if is_of_pages(&stale) {
            &self.pages
        } else {
            &self.names
        };
        queue.invalidate(stale);
    }

    fn invalidate_around(&self, stale: Vec<Stale>, change: Around) {
        let queue = if stale.first().is_some_and(is_of_pages) {
            &self.pages
        } else {
            &self.names
        };
        queue.invalidate_around(stale, change);
    }
}

/// Queue of invalidations for the kernel.
#[derive(Default)]
pub(super) struct NotifyQueue {
    state: Mutex<NotifyQueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct NotifyQueueState {
    order: VecDeque<Stale>,
    waiting: HashSet<Stale>,
    changes: Vec<Around>,
    closed: bool,
}

/// Notifications that are sent together, and changes that are applied after them.
#[derive(Default)]
struct NotifyBatch {
    stale: Vec<Stale>,
    changes: Vec<Around>,
}

impl NotifyQueue {
    fn invalidate(&self, stale: Stale) {
        let mut state = self.state.lock();
        // Pages that are not needed may stay, and no notification covers the pages of all files.
        let is_dispensable = is_of_pages(&stale) && state.order.len() >= WAITING_MAX;
        if !state.closed && !is_dispensable {
            state.enqueue(stale);
            self.changed.notify_one();
        }
    }

    fn invalidate_around(&self, stale: Vec<Stale>, change: Around) {
        let mut state = self.state.lock();
        if !state.closed {
            stale.into_iter().for_each(|stale| state.enqueue(stale));
            state.changes.push(change);
            self.changed.notify_one();
        }
    }

    /// Waits for queued work and returns all of it. Returns an empty batch if nothing arrives
    /// before `until`, and `None` once the queue is closed.
    fn next_batch(&self, until: Option<Instant>) -> Option<NotifyBatch> {
        let mut state = self.state.lock();
        while state.order.is_empty() && state.changes.is_empty() && !state.closed {
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
        state.waiting.clear();
        Some(NotifyBatch {
            stale: state.order.drain(..).collect(),
            changes: std::mem::take(&mut state.changes),
        })
    }

    /// Sends the queued notifications until the queue is closed.
    pub(crate) fn send_all(&self, device: &Arc<Device>) {
        let mut again = RepeatQueue::default();
        while let Some(batch) = self.next_batch(again.next_due()) {
            let begun = Instant::now();
            let due = again.take_due(begun);
            due.iter().for_each(|stale| send(device, stale));
            let NotifyBatch { mut stale, changes } = batch;
            stale.iter().for_each(|stale| send(device, stale));
            if !changes.is_empty() {
                let mut known: HashSet<Stale> = stale.iter().cloned().collect();
                let once_more: Vec<Stale> = changes.into_iter().flat_map(|it| it()).collect();
                once_more.iter().for_each(|stale| send(device, stale));
                stale.extend(once_more.into_iter().filter(|it| known.insert(it.clone())));
            }
            // An invalidation of pages is not repeated, because a reader may have filled them
            // again. An invalidation of a possible name is not repeated either, because the kernel
            // caches no answer about it.
            let is_once = |stale: &Stale| matches!(stale, Stale::PossibleName { .. });
            stale.retain(|stale| !is_of_pages(stale) && !is_once(stale));
            let lately = begun.checked_sub(SETTLING_TIME).unwrap_or(begun);
            if device.mount.requests.table.any_since(lately, carries_names) {
                again.record(stale, Instant::now());
            }
        }
    }

    /// Closes the queue. Changes that were not made are dropped, because a thread may wait for
    /// their end.
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let changes = std::mem::take(&mut state.changes);
        drop(state);
        drop(changes);
        self.changed.notify_all();
    }
}

impl NotifyQueueState {
    fn enqueue(&mut self, stale: Stale) {
        if self.waiting.contains(&Stale::Everything) || self.waiting.contains(&stale) {
            return;
        }
        let is_full = self.order.len() >= WAITING_MAX && !is_of_pages(&stale);
        if stale == Stale::Everything || is_full {
            self.order = VecDeque::from([Stale::Everything]);
            self.waiting = HashSet::from([Stale::Everything]);
        } else {
            self.waiting.insert(stale.clone());
            self.order.push_back(stale);
        }
    }
}

/// Returns whether the answer of an operation contains data that the kernel may cache.
fn carries_names(operation: u32) -> bool {
    matches!(
        operation,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::CREATE
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::SYMLINK
            | opcode::SETATTR
    )
}

fn is_of_pages(stale: &Stale) -> bool {
    matches!(stale, Stale::Pages { .. } | Stale::PagesWithin { .. })
}

fn send(device: &Arc<Device>, stale: &Stale) {
    if let Stale::PossibleName { name } = stale
        && device.mount.fs.namespace.shows_in_root(name)
    {
        return;
    }
    let sent = device.mount.kernel.notify(stale);
    // The notification for everything covers only names. Before Linux 6.16 it does not exist, and
    // each known name is invalidated.
    if *stale == Stale::Everything {
        let names = device.mount.fs.caches.known_names();
        for known in names {
            if sent.is_err() || !matches!(known, Stale::Directory { .. }) {
                let _ = device.mount.kernel.notify(&known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use p2pfs_types::extent::ByteRange;

    fn listing(ino: u64) -> Stale {
        Stale::Listing { ino }
    }

    impl NotifyQueue {
        fn next(&self) -> Option<Vec<Stale>> {
            let soon = Instant::now() + Duration::from_secs(60);
            self.next_batch(Some(soon)).map(|batch| batch.stale)
        }
    }

    #[test]
    fn a_repeated_notification_is_queued_once_and_in_order() {
        let queue = NotifyQueue::default();
        for ino in [7, 8, 7, 9, 8] {
            queue.invalidate(listing(ino));
        }
        assert_eq!(queue.next(), Some(vec![listing(7), listing(8), listing(9)]));
        queue.invalidate(listing(7));
        assert_eq!(
            queue.next(),
            Some(vec![listing(7)]),
            "asked anew after it was sent"
        );
    }

    #[test]
    fn a_full_queue_becomes_one_notification() {
        let queue = NotifyQueue::default();
        for ino in 0..=WAITING_MAX as u64 + 10 {
            queue.invalidate(listing(ino));
        }
        assert_eq!(queue.next(), Some(vec![Stale::Everything]));
        queue.invalidate(listing(1));
        assert_eq!(queue.next(), Some(vec![listing(1)]));
    }

    #[test]
    fn a_full_queue_keeps_every_required_notification_of_pages() {
        let (queues, done) = (NotifyQueues::default(), Arc::new(AtomicUsize::new(0)));
        let pages = |ino| Stale::Pages { ino };
        for ino in 0..WAITING_MAX as u64 + 10 {
            queues.invalidate(pages(ino));
        }
        let range = ByteRange::new(0, 65_536);
        let damaged = Stale::PagesWithin { ino: 7, range };
        let count = done.clone();
        let dropped = move || {
            count.fetch_add(1, Ordering::Relaxed);
            vec![]
        };
        queues.invalidate_around(vec![damaged.clone()], Box::new(dropped));
        let batch = queues.pages.next_batch(None).unwrap();
        assert_eq!(batch.stale.len(), WAITING_MAX + 1);
        assert_eq!(batch.stale.last(), Some(&damaged));
        assert_eq!(batch.changes.len(), 1);
        batch.changes.into_iter().for_each(|change| drop(change()));
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn closing_drops_the_changes_that_were_not_made() {
        let queue = NotifyQueue::default();
        let (held, waiter) = std::sync::mpsc::channel::<()>();
        let change = move || {
            drop(held);
            vec![]
        };
        queue.invalidate_around(vec![listing(1)], Box::new(change));
        queue.close();
        assert!(waiter.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn later_changes_stay_with_their_notification_even_when_it_is_merged() {
        let (queue, done) = (NotifyQueue::default(), Arc::new(AtomicUsize::new(0)));
        for round in 0..3 {
            let done = done.clone();
            let change = move || {
                assert_eq!(done.fetch_add(1, Ordering::Relaxed), round);
                vec![]
            };
            queue.invalidate_around(vec![listing(1), listing(2)], Box::new(change));
            queue.invalidate(Stale::Everything);
        }
        let batch = queue.next_batch(None).unwrap();
        assert_eq!(batch.stale, [Stale::Everything]);
        assert!(batch.changes.into_iter().all(|change| change().is_empty()));
        assert_eq!(done.load(Ordering::Relaxed), 3);
        queue.invalidate_around(vec![], Box::new(Vec::new));
        let batch = queue.next_batch(None).unwrap();
        assert_eq!((batch.stale.len(), batch.changes.len()), (0, 1));
    }

    #[test]
    fn an_idle_wait_ends_when_something_is_due() {
        let queue = NotifyQueue::default();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(queue.next_batch(Some(soon)).unwrap().stale.is_empty());
        assert!(Instant::now() >= soon);
        queue.invalidate(listing(3));
        assert_eq!(queue.next(), Some(vec![listing(3)]));
    }

    #[test]
    fn closing_wakes_waiters_and_sends_nothing_further() {
        let queue = NotifyQueue::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.next_batch(None).is_none());
            queue.close();
            assert!(waiter.join().unwrap());
        });
        queue.invalidate(listing(1));
        queue.invalidate_around(vec![listing(2)], Box::new(Vec::new));
        assert!(queue.next_batch(None).is_none());
    }
}
