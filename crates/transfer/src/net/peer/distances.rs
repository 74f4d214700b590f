//! Least round trips to remote addresses, kept after the connections end. A connection that begins
//! while the link has a long queue measures only long round trips. Without this record it would
//! take the delay of the queue for distance.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use p2pfs_types::least::LeastLately;

/// Maximum remembered addresses. The least recently used one is forgotten first.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long a recorded round trip counts: at least this time, and up to about twice as long if
/// others are recorded meanwhile. The kernel's window for one connection is as long
/// (`tcp_min_rtt_wlen`).
const SPAN: Duration = Duration::from_secs(300);

/// Recent least round trip of each address.
#[derive(Debug)]
pub(super) struct Distances {
    by_address: Mutex<LruCache<IpAddr, LeastLately>>,
}

impl Distances {
    pub(super) fn new() -> Self {
        Self {
            by_address: Mutex::new(LruCache::new(ADDRESSES_MAX)),
        }
    }

    /// Records the least round trip of one connection. Returns the smallest recent one of all
    /// connections to the address.
    pub(super) fn record(&self, now: Instant, address: IpAddr, least: Duration) -> Duration {
        let mut by_address = self.by_address.lock();
        let known = by_address.get_or_insert_mut(address, LeastLately::default);
        known.record(now.into_std(), SPAN, least);
        known.get().unwrap_or(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_begun_in_a_long_queue_is_as_near_as_an_earlier_one() {
        let (distances, now) = (Distances::new(), Instant::now());
        let [near, far] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let ms = Duration::from_millis;
        assert_eq!(distances.record(now, near, ms(2)), ms(2));
        assert_eq!(distances.record(now + SPAN / 2, near, ms(900)), ms(2));
        assert_eq!(distances.record(now, far, ms(800)), ms(800));
        assert_eq!(distances.record(now + SPAN * 2, near, ms(40)), ms(40));
    }
}
