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
pub(super) const CHECK_AFTER: Duration = Duration::from_secs(1);

/// Read in progress of one thread.
#[derive(Default)]
pub(super) struct InlineRead(Mutex<Option<(u64, PendingRequest)>>);

/// Reads in progress of all threads.
#[derive(Default)]
pub(super) struct InlineReads {
    all: Mutex<Vec<Arc<InlineRead>>>,
    is_check_scheduled: AtomicBool,
}

impl InlineRead {
    /// Registers a read that the thread begins to process.
    pub(crate) fn begin(&self, unique: u64, read: PendingRequest) {
        *self.0.lock() = Some((unique, read));
    }

    /// Ends the read of the thread. Returns whether the thread must answer it, because it was not
    /// answered early.
    pub(crate) fn finish(&self, unique: u64, table: &RequestTable) -> bool {
        let in_progress = self.0.lock().take();
        in_progress.is_some() || table.take(unique).is_some()
    }

    /// Moves the read into the table if `wanted` accepts it. The lock is held until the table has
    /// the read, so `finish` always finds it in one of the two.
    fn move_to_table(&self, table: &RequestTable, wanted: impl Fn(u64) -> bool) {
        let mut in_progress = self.0.lock();
        if let Some((unique, read)) = in_progress.take_if(|(unique, _)| wanted(*unique)) {
            // A closed table takes no requests; the read is then no longer waiting.
            table.insert(unique, read);
        }
    }
}

impl InlineReads {
    /// Adds the slot of a further thread.
    pub(crate) fn add_thread(&self) -> Arc<InlineRead> {
        let inline_read = Arc::<InlineRead>::default();
        self.all.lock().push(inline_read.clone());
        inline_read
    }

    /// Removes the slot of a thread that ends.
    pub(crate) fn remove_thread(&self, inline_read: &Arc<InlineRead>) {
        self.all
            .lock()
            .retain(|other| !Arc::ptr_eq(other, inline_read));
    }

    /// Returns whether the caller must schedule a check after [`CHECK_AFTER`], because none is
    /// scheduled. To be called after a read was registered.
    pub(crate) fn needs_check(&self) -> bool {
        // A check is usually scheduled already, and a shared write costs more than a shared read.
        !self.is_check_scheduled.load(Ordering::Relaxed)
            && !self.is_check_scheduled.swap(true, Ordering::Relaxed)
    }

    /// Runs the scheduled check: moves all reads in progress into the table.
    pub(crate) fn move_all_to_table(&self, table: &RequestTable) {
        // The flag is reset before the reads are moved, so that a read registered from now on gets
        // a check of its own: a thread that registers a read after its lock was released here sees
        // the reset.
        self.is_check_scheduled.store(false, Ordering::Relaxed);
        let all = self.all.lock();
        all.iter()
            .for_each(|inline_read| inline_read.move_to_table(table, |_| true));
    }

    /// Moves this read into the table if a thread is processing it.
    pub(crate) fn move_to_table(&self, table: &RequestTable, unique: u64) {
        let all = self.all.lock();
        all.iter()
            .for_each(|inline_read| inline_read.move_to_table(table, |other| other == unique));
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
    fn a_read_is_answered_by_its_thread_unless_it_was_answered_early() {
        let (hands, table) = (InlineReads::default(), RequestTable::default());
        let inline_read = hands.add_thread();
        inline_read.begin(2, read());
        hands.move_to_table(&table, 4);
        assert_eq!(table.count(), 0);
        assert!(inline_read.finish(2, &table) && !inline_read.finish(2, &table));
        inline_read.begin(4, read());
        hands.move_to_table(&table, 4);
        assert_eq!(table.count(), 1);
        assert!(inline_read.finish(4, &table), "nobody has answered it");
        assert_eq!(table.count(), 0);
        inline_read.begin(6, read());
        hands.move_all_to_table(&table);
        assert!(table.take(6).is_some());
        assert!(!inline_read.finish(6, &table));
        hands.remove_thread(&inline_read);
        inline_read.begin(8, read());
        hands.move_all_to_table(&table);
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn each_long_read_is_checked_and_answered_once() {
        let (hands, table) = (InlineReads::default(), RequestTable::default());
        let looks = parking_lot::Mutex::new(0);
        let mut early = 0;
        let by_threads: u64 = thread::scope(|scope| {
            let work = |first: u64| {
                let (hands, table, looks) = (&hands, &table, &looks);
                scope.spawn(move || {
                    let inline_read = hands.add_thread();
                    let answers = (0..5_000).filter(|number| {
                        let unique = first + number * 2;
                        inline_read.begin(unique, read());
                        if hands.needs_check() {
                            *looks.lock() += 1;
                        }
                        inline_read.finish(unique, table)
                    });
                    answers.count() as u64
                })
            };
            let threads = [work(0), work(1)];
            while !threads.iter().all(|thread| thread.is_finished()) {
                hands.move_all_to_table(&table);
                let all = 0..10_000;
                early += all.filter(|unique| table.take(*unique).is_some()).count() as u64;
            }
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!((by_threads + early, table.count()), (10_000, 0));
        assert!(*looks.lock() > 0);
    }
}
