//! Limits the rate at which an ordinary user may cause work for other nodes.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use p2pfs_types::keyed_buckets::KeyedBuckets;

/// Time after which a user may make one more probe of another node. `p2pfs ping -c` asks once a
/// second. A connection and its handshake cost both ends milliseconds of a processor.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// Maximum burst of probes of one user.
const PROBES_AT_ONCE: u32 = 10;
/// Cost of a ping, in probes.
pub(super) const PING_PROBES: u32 = 1;
/// Cost of a checkup, in probes. It dials seeds and some of the peers.
pub(super) const CHECKUP_PROBES: u32 = 5;

/// Maximum number of users with recent probes. While there are as many, any other user waits.
const USERS_MAX: usize = 4096;

/// The probes of each ordinary user. Users without recent probes are forgotten.
#[derive(Debug)]
pub(in crate::daemon::service) struct ProbePace(Mutex<KeyedBuckets<u32>>);

impl Default for ProbePace {
    fn default() -> Self {
        let users = KeyedBuckets::one_in(PROBE_PERIOD, PROBES_AT_ONCE, USERS_MAX);
        Self(Mutex::new(users))
    }
}

impl ProbePace {
    /// Waits until the user may make these probes.
    pub(in crate::daemon::service) async fn wait(&self, uid: u32, probes: u32) {
        while !self.take(uid, probes, Instant::now()) {
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    }

    fn take(&self, uid: u32, probes: u32, now: Instant) -> bool {
        self.0.lock().take(uid, probes, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_probes_at_a_pace_and_delays_no_other_user() {
        let (pace, start) = (ProbePace::default(), Instant::now());
        let taken = |uid, at: Duration| {
            let took = |_: &u32| pace.take(uid, PING_PROBES, start + at);
            (0..1000).filter(took).count()
        };
        assert_eq!(taken(1000, Duration::ZERO), 10);
        assert_eq!(taken(1001, Duration::ZERO), 10);
        assert_eq!(taken(1000, Duration::from_secs(1)), 2);
        // A user without recent probes is forgotten.
        assert_eq!(taken(1002, Duration::from_secs(60)), 10);
        assert_eq!(pace.0.lock().len(), 1);
    }

    #[test]
    fn a_checkup_counts_as_several_probes() {
        let (pace, now) = (ProbePace::default(), Instant::now());
        assert!(pace.take(1000, CHECKUP_PROBES, now));
        assert!(pace.take(1000, CHECKUP_PROBES, now));
        assert!(!pace.take(1000, CHECKUP_PROBES, now));
    }
}
