//! Reads that the device threads process inline.
//!
//! Most of them take microseconds, so they are not in the table, which all threads share. Each
//! thread holds its own read. A read that a disk delays is moved into the table by its interrupt or
//! by the next check. From then on it can be ended early like any other request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::table::{PendingRequest, RequestTable};

/// Delay after the start of a read until the reads in progress are moved into the table.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Read in progress of one thread.
#[derive(Default)]
pub(super) struct InlineRead(Mutex<Option<(u64, PendingRequest)>>);

/// Reads in progress of all threads.
#[derive(Default)]
pub(super) struct InlineReads {
    all: Mutex<Vec<Arc<InlineRead>>>,
    will_be_looked_at: AtomicBool,
}

impl InlineRead {
    /// Registers a read that the thread begins to process.
    pub(crate) fn take_up(&self, unique: u64, read: PendingRequest) {
        *self.0.lock() = Some((unique, read));
    }

    /// Ends the read of the thread. Returns whether the thread must answer it, because it was not
    /// answered early.
    pub(crate) fn put_down(&self, unique: u64, table: &RequestTable) -> bool {
        let in_hand = self.0.lock().take();
        in_hand.is_some() || table.take(unique).is_some()
    }

    /// Moves the read into the table if `wanted` accepts it. The lock is held until the table has
    /// the read, so `put_down` always finds it in one of the two.
    fn put_in(&self, table: &RequestTable, wanted: impl Fn(u64) -> bool) {
        let mut in_hand = self.0.lock();
        if let Some((unique, read)) = in_hand.take_if(|(unique, _)| wanted(*unique)) {
            // A closed table takes no requests; the read is then no longer waiting.
            table.insert(unique, read);
        }
    }
}

impl InlineReads {
    /// Adds the slot of a further thread.
    pub(crate) fn join(&self) -> Arc<InlineRead> {
        let hand = Arc::<InlineRead>::default();
        self.all.lock().push(hand.clone());
        hand
    }

    /// Removes the slot of a thread that ends.
    pub(crate) fn leave(&self, hand: &Arc<InlineRead>) {
        self.all.lock().retain(|other| !Arc::ptr_eq(other, hand));
    }

    /// Returns whether the caller must schedule a check after [`LOOK_AFTER`], because none is
    /// scheduled. To be called after a read was registered.
    pub(crate) fn wants_look(&self) -> bool {
        // A check is usually scheduled already, and a shared write costs more than a shared read.
        !self.will_be_looked_at.load(Ordering::Relaxed)
            && !self.will_be_looked_at.swap(true, Ordering::Relaxed)
    }

    /// Runs the scheduled check: moves all reads in progress into the table.
    pub(crate) fn look(&self, table: &RequestTable) {
        // Reset first, so that reads registered from now on get a check of their own: a thread that
        // registers a read after its lock was released here sees the reset.
        self.will_be_looked_at.store(false, Ordering::Relaxed);
        let all = self.all.lock();
        all.iter().for_each(|hand| hand.put_in(table, |_| true));
    }

    /// Moves this read into the table if a thread is processing it.
    pub(crate) fn put_in(&self, table: &RequestTable, unique: u64) {
        let all = self.all.lock();
        all.iter()
            .for_each(|hand| hand.put_in(table, |other| other == unique));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    fn read() -> PendingRequest {
        let now = Instant::now();
        PendingRequest::new(15, now, now + Duration::from_secs(3600))
    }

    #[test]
    fn a_read_is_its_thread_s_to_answer_unless_it_was_answered_early() {
        let (hands, table) = (InlineReads::default(), RequestTable::default());
        let hand = hands.join();
        hand.take_up(2, read());
        hands.put_in(&table, 4);
        assert_eq!(table.count(), 0);
        assert!(hand.put_down(2, &table) && !hand.put_down(2, &table));
        hand.take_up(4, read());
        hands.put_in(&table, 4);
        assert_eq!(table.count(), 1);
        assert!(hand.put_down(4, &table), "nobody has answered it");
        assert_eq!(table.count(), 0);
        hand.take_up(6, read());
        hands.look(&table);
        assert!(table.take_early(6).is_some());
        assert!(!hand.put_down(6, &table));
        hands.leave(&hand);
        hand.take_up(8, read());
        hands.look(&table);
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn each_read_that_takes_long_is_looked_at_and_answered_once() {
        let (hands, table) = (InlineReads::default(), RequestTable::default());
        let looks = parking_lot::Mutex::new(0);
        let mut early = 0;
        let by_threads: u64 = thread::scope(|scope| {
            let work = |first: u64| {
                let (hands, table, looks) = (&hands, &table, &looks);
                scope.spawn(move || {
                    let hand = hands.join();
                    let answers = (0..5_000).filter(|number| {
                        let unique = first + number * 2;
                        hand.take_up(unique, read());
                        if hands.wants_look() {
                            *looks.lock() += 1;
                        }
                        hand.put_down(unique, table)
                    });
                    answers.count() as u64
                })
            };
            let threads = [work(0), work(1)];
            while !threads.iter().all(|thread| thread.is_finished()) {
                hands.look(&table);
                let all = 0..10_000;
                early += all
                    .filter(|unique| table.take_early(*unique).is_some())
                    .count() as u64;
            }
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!((by_threads + early, table.count()), (10_000, 0));
        assert!(*looks.lock() > 0);
    }
}
