//! Queue of records for an output whose reader may stand still: the log, and the messages to the
//! service manager. One thread writes, so no other thread ever waits for the output.
//!
//! A full queue drops new records, and counts them, until half of it is written. The gap is
//! therefore in one place, and the count of it is written there.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Bytes that a queued record needs beside its own.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Bounded queue with one writer thread.
pub(super) struct RecordQueue {
    limit_bytes: usize,
    state: Mutex<QueuedRecords>,
    filled: Condvar,
    written: Condvar,
}

struct QueuedRecords {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Records dropped since the queue was last full; it accepts none while this is not 0.
    dropped: u64,
    is_writing: bool,
}

impl QueuedRecords {
    /// Removes the next record and, if half of a full queue is written, ends the dropping of
    /// records. Returns the record and the number of dropped ones; `None` if there is neither.
    fn take(&mut self, limit_bytes: usize) -> Option<(Option<Vec<u8>>, u64)> {
        let record = self.records.pop_front();
        self.bytes -= record.as_deref().map_or(0, size_bytes);
        let mut dropped = 0;
        if self.bytes <= limit_bytes / 2 {
            dropped = std::mem::take(&mut self.dropped);
        }
        self.is_writing = record.is_some() || dropped > 0;
        self.is_writing.then_some((record, dropped))
    }

    fn is_written(&self) -> bool {
        self.records.is_empty() && self.dropped == 0 && !self.is_writing
    }
}

fn size_bytes(record: &[u8]) -> usize {
    record.len() + RECORD_OVERHEAD_BYTES
}

impl RecordQueue {
    /// Returns an empty queue without a writer thread.
    pub(super) const fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            state: Mutex::new(QueuedRecords {
                records: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                is_writing: false,
            }),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    /// Starts the writer thread, which ends with the process. `write` may block. `report_dropped`
    /// is called with the number of records that are missing behind those in the queue.
    pub(super) fn serve(
        &'static self,
        thread: &str,
        mut write: impl FnMut(&[u8]) + Send + 'static,
        mut report_dropped: impl FnMut(u64) + Send + 'static,
    ) {
        let thread = std::thread::Builder::new().name(thread.to_owned());
        // Without a thread, the queue fills and drops records.
        let _no_thread = thread.spawn(move || {
            loop {
                let (record, dropped) = self.next();
                if dropped > 0 {
                    report_dropped(dropped);
                }
                if let Some(record) = record {
                    write(&record);
                }
            }
        });
    }

    /// Queues a record, or drops it if the queue is full. Never waits for the output.
    pub(super) fn push(&self, record: Vec<u8>) {
        let mut state = self.state.lock();
        let bytes = state.bytes + size_bytes(&record);
        if state.dropped > 0 || bytes > self.limit_bytes {
            state.dropped += 1;
        } else {
            state.bytes = bytes;
            state.records.push_back(record);
        }
        self.filled.notify_one();
    }

    /// Waits until all records are written, at most for `limit`. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state.lock();
        while !state.is_written() {
            if self.written.wait_until(&mut state, end).timed_out() {
                return state.is_written();
            }
        }
        true
    }

    /// Waits for the next record or the end of a gap. The call says that the previous record is
    /// written.
    fn next(&self) -> (Option<Vec<u8>>, u64) {
        let mut state = self.state.lock();
        loop {
            if let Some(next) = state.take(self.limit_bytes) {
                return next;
            }
            self.written.notify_all();
            self.filled.wait(&mut state);
        }
    }
}

/// Queues each write as one record.
impl io::Write for &'static RecordQueue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.push(record.to_vec());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Queue whose writer waits for a permission before each record.
    struct SlowOutput {
        queue: &'static RecordQueue,
        permit: mpsc::Sender<()>,
        written: mpsc::Receiver<String>,
    }

    fn slow_output(limit_bytes: usize) -> SlowOutput {
        let (permit, permits) = mpsc::channel();
        let (write, written) = mpsc::channel();
        let reported = write.clone();
        let queue: &'static RecordQueue = Box::leak(Box::new(RecordQueue::new(limit_bytes)));
        queue.serve(
            "test",
            move |record| {
                let _ended: Result<(), _> = permits.recv();
                let _ended = write.send(String::from_utf8(record.to_vec()).unwrap());
            },
            move |dropped| {
                let _ended = reported.send(format!("{dropped} dropped"));
            },
        );
        SlowOutput {
            queue,
            permit,
            written,
        }
    }

    impl SlowOutput {
        fn next(&self) -> String {
            self.written.recv_timeout(PATIENCE).unwrap()
        }

        /// Waits until the writer has taken the only record.
        fn await_writer(&self) {
            while !self.queue.state.lock().records.is_empty() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn records_beyond_the_limit_are_dropped_and_counted_where_they_are_missing() {
        let output = slow_output(4 * (1 + RECORD_OVERHEAD_BYTES));
        output.queue.push(b"a".to_vec());
        output.await_writer();
        for record in ["b", "c", "d", "e", "f", "g", "h"] {
            output.queue.push(record.as_bytes().to_vec());
        }
        assert!(!output.queue.flush(Duration::ZERO));
        output.permit.send(()).unwrap();
        assert_eq!(output.next(), "a");
        // The queue is not half empty yet.
        output.permit.send(()).unwrap();
        assert_eq!(output.next(), "b");
        assert_eq!(output.next(), "3 dropped");
        output.queue.push(b"i".to_vec());
        for record in ["c", "d", "e", "i"] {
            output.permit.send(()).unwrap();
            assert_eq!(output.next(), record);
        }
        assert!(output.queue.flush(PATIENCE));
    }

    #[test]
    fn a_record_larger_than_the_queue_is_dropped_and_later_ones_are_written() {
        let output = slow_output(RECORD_OVERHEAD_BYTES + 4);
        output.queue.push(b"large".to_vec());
        assert_eq!(output.next(), "1 dropped");
        output.queue.push(b"next".to_vec());
        output.permit.send(()).unwrap();
        assert_eq!(output.next(), "next");
    }
}
