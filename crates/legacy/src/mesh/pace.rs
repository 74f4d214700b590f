//! The rate of messages to a peer that drops messages when its queue is full.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum pushed messages that wait in the queue of the receiver, by estimate. The queue of the
/// original programs has 100 places; the rest is for other messages.
pub const QUEUE_WANTED: usize = 80;
/// Assumed time that an original program needs for a message of any length.
const MESSAGE_TIME: Duration = Duration::from_millis(4);
/// Assumed disk throughput of an original program, in bytes per second.
const DISK_BYTES_PER_S: u64 = 50 << 20;

/// Estimated queue of one peer. The protocol reports nothing about it.
#[derive(Debug, Default)]
pub struct Pace {
    /// Estimated times at which the sent messages leave the queue, in order.
    leaves: VecDeque<Instant>,
}

impl Pace {
    /// Returns when one more message may be sent.
    pub fn ready_at(&mut self, now: Instant) -> Instant {
        while self.leaves.front().is_some_and(|at| *at <= now) {
            self.leaves.pop_front();
        }
        match self.leaves.len().checked_sub(QUEUE_WANTED) {
            None => now,
            Some(over) => self.leaves[over],
        }
    }

    /// Records that a message of `length_bytes` is sent now.
    pub fn sent(&mut self, now: Instant, length_bytes: u64) {
        let before = self.leaves.back().copied().unwrap_or(now).max(now);
        let writing = Duration::from_secs_f64(length_bytes as f64 / DISK_BYTES_PER_S as f64);
        self.leaves.push_back(before + MESSAGE_TIME + writing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Model of an original program that receives: its queue has 100 places, and each message takes
    /// time. Counts the messages that are dropped because the queue is full.
    struct Receiver {
        queue: VecDeque<Instant>,
        dropped: usize,
    }

    impl Receiver {
        fn take(&mut self, now: Instant, each: Duration) {
            while self.queue.front().is_some_and(|at| *at <= now) {
                self.queue.pop_front();
            }
            if self.queue.len() >= 100 {
                self.dropped += 1;
                return;
            }
            let before = self.queue.back().copied().unwrap_or(now).max(now);
            self.queue.push_back(before + each);
        }
    }

    #[test]
    fn a_thousand_small_messages_do_not_overflow_a_queue_of_a_hundred() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let begun = now;
        let mut receiver = Receiver {
            queue: VecDeque::new(),
            dropped: 0,
        };
        for _ in 0..1000 {
            now = pace.ready_at(now).max(now);
            pace.sent(now, 100);
            receiver.take(now, MESSAGE_TIME);
        }
        assert_eq!(receiver.dropped, 0);
        assert!(
            now - begun < Duration::from_secs(10),
            "and it takes seconds"
        );
    }

    #[test]
    fn a_gibibyte_in_eighty_chunks_is_not_delayed() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..QUEUE_WANTED {
            assert_eq!(pace.ready_at(now), now);
            pace.sent(now, 14 << 20);
        }
        assert!(pace.ready_at(now) > now);
    }
}
