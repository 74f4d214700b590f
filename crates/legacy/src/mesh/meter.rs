//! The bytes of the files of one connection, and their receive rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Interval over which a rate is measured.
const SPAN: Duration = Duration::from_secs(1);
/// Silence after which the measurement restarts.
const PAUSE: Duration = Duration::from_secs(2);

/// Counters of the file bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct TransferCounters {
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    meter: Mutex<Meter>,
}

impl TransferCounters {
    pub(super) fn received(&self, length: u64) {
        self.received_bytes.fetch_add(length, Ordering::Relaxed);
        self.meter.lock().add(Instant::now(), length);
    }

    pub(super) fn sent(&self, length: u64) {
        self.sent_bytes.fetch_add(length, Ordering::Relaxed);
    }

    /// Returns the receive rate in bytes per second when files last arrived.
    pub(super) fn rate(&self) -> Option<f64> {
        self.meter.lock().per_second()
    }

    /// Returns the received and the sent bytes.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (
            self.received_bytes.load(Ordering::Relaxed),
            self.sent_bytes.load(Ordering::Relaxed),
        )
    }
}

/// Counts bytes as they arrive.
#[derive(Debug, Default)]
struct Meter {
    /// Start of the current interval, and the time of its last byte.
    span: Option<(Instant, Instant)>,
    bytes: u64,
    /// Rate of the last complete interval.
    rate: Option<f64>,
}

impl Meter {
    fn add(&mut self, now: Instant, bytes: u64) {
        let begun = match self.span {
            Some((begun, last)) if now.saturating_duration_since(last) < PAUSE => begun,
            _ => {
                self.bytes = 0;
                now
            }
        };
        self.span = Some((begun, now));
        self.bytes += bytes;
        let passed = now.saturating_duration_since(begun);
        if passed >= SPAN {
            self.rate = Some(self.bytes as f64 / passed.as_secs_f64());
            (self.span, self.bytes) = (Some((now, now)), 0);
        }
    }

    /// Returns the rate in bytes per second at the time when bytes last arrived, or `None` if too
    /// few arrived.
    fn per_second(&self) -> Option<f64> {
        self.rate.or_else(|| {
            let (begun, last) = self.span?;
            let passed = last.saturating_duration_since(begun).as_secs_f64();
            (passed > 0.0).then(|| self.bytes as f64 / passed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second_with_bytes() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        assert_eq!(meter.per_second(), None);
        let at = |ms| now + Duration::from_millis(ms);
        meter.add(at(0), 100);
        assert_eq!(meter.per_second(), None, "one piece tells nothing");
        meter.add(at(100), 100);
        assert_eq!(meter.per_second(), Some(2000.0));
        meter.add(at(1000), 800);
        assert_eq!(meter.per_second(), Some(1000.0));
        // a long pause does not count as a slow transfer
        (0..=10).for_each(|step| meter.add(at(60_000 + 100 * step), 100));
        assert_eq!(meter.per_second(), Some(1100.0));
    }
}
