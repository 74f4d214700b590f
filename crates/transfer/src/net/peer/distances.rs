//! How far the ends of connections are, kept when these end: one that begins while a queue is long
//! sees nothing shorter, and would take the queue for distance.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use p2pfs_types::least::LeastLately;

/// Addresses that are remembered; beyond it the one that was heard longest ago is forgotten.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// For how long a round trip counts, and for twice that at most: as in the kernel, for one
/// connection (`tcp_min_rtt_wlen`).
const SPAN: Duration = Duration::from_secs(300);

/// The least round trip of each address lately.
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

    /// Takes in what the kernel says of one connection; gives the least of all of them.
    pub(super) fn note(&self, now: Instant, address: IpAddr, least: Duration) -> Duration {
        let mut by_address = self.by_address.lock();
        let known = by_address.get_or_insert_mut(address, LeastLately::default);
        known.note(now.into_std(), SPAN, least);
        known.get().unwrap_or(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_begins_in_a_long_queue_is_as_near_as_one_before_it() {
        let (distances, now) = (Distances::new(), Instant::now());
        let [near, far] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let ms = Duration::from_millis;
        assert_eq!(distances.note(now, near, ms(2)), ms(2));
        assert_eq!(distances.note(now + SPAN / 2, near, ms(900)), ms(2));
        assert_eq!(distances.note(now, far, ms(800)), ms(800));
        assert_eq!(distances.note(now + SPAN * 2, near, ms(40)), ms(40));
    }
}
