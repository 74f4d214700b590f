//! Limit of the pings on one connection of a peer, at the end that answers them.
//!
//! A ping either tests whether this node is there, or cancels a request. The limit does not
//! distinguish the two: each request allows one ping, and further pings have a rate limit.

use tokio::time::Instant;

use super::limits::{PINGS_AT_ONCE, PINGS_PER_S};
use p2pfs_types::bucket::TokenBucket;

/// Pings that a peer may still send.
pub(super) struct PingPace {
    bucket: TokenBucket,
    /// Pings that the requests so far still allow, up to `in_flight_max`.
    requests: usize,
    in_flight_max: usize,
}

impl PingPace {
    /// Creates the limit. `in_flight_max` is the number of requests that the peer may have in
    /// flight.
    pub(super) fn new(in_flight_max: usize) -> Self {
        let now = Instant::now().into_std();
        Self {
            bucket: TokenBucket::per_second(PINGS_PER_S, PINGS_AT_ONCE, now),
            requests: 0,
            in_flight_max,
        }
    }

    /// Allows one more ping, by which the peer may cancel this request.
    pub(super) fn add_request(&mut self) {
        self.requests = (self.requests + 1).min(self.in_flight_max);
    }

    /// Counts one ping. Returns false if the peer pings too often.
    pub(super) fn take(&mut self) -> bool {
        if let Some(left) = self.requests.checked_sub(1) {
            self.requests = left;
            return true;
        }
        self.bucket.take(1, Instant::now().into_std())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, advance};

    use super::*;

    fn taken(pace: &mut PingPace, pings: u32) -> u32 {
        (0..pings).map(|_| u32::from(pace.take())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn pings_have_a_burst_and_a_rate() {
        let mut pace = PingPace::new(16);
        assert_eq!(taken(&mut pace, PINGS_AT_ONCE), PINGS_AT_ONCE);
        assert!(!pace.take());
        advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&mut pace, 1000), PINGS_PER_S);
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_can_be_cancelled_once_and_unused_cancellations_do_not_pile_up() {
        let mut pace = PingPace::new(16);
        for _ in 0..1000 {
            pace.add_request();
            assert!(pace.take());
        }
        (0..1000).for_each(|_| pace.add_request());
        assert_eq!(taken(&mut pace, 1000), 16 + PINGS_AT_ONCE);
    }
}
