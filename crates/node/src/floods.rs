//! Hosts that send more requests than any node needs. They are reported by their address.
//!
//! In a cluster with a secret file, a host can make up as many keys as it likes, so a key does not
//! identify a sender there. Other code bounds the requests; this module only counts and reports
//! them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::events::EventLog;
use super::inbox::ChargedSender;
use p2pfs_types::id::NodeId;
use p2pfs_types::keyed_buckets::KeyedBuckets;
use p2pfs_types::offences::{OffenceLog, Offending};

/// Burst of requests for logs, members and statements that one host may send without a report. A
/// node without state requests the logs of all authors, 1 MiB at a time.
const QUESTIONS_BURST: u32 = 4096;
/// Long-term rate of these requests per second. A node sends a few in each round of gossip.
const QUESTIONS_PER_S: u32 = 64;
/// Burst of refused files and messages of one host without a report. A sender gives up a file at
/// the first refusal, but its user may have told it to send a whole folder.
const REFUSED_BURST: u32 = 256;
/// Long-term rate of refused files and messages per second.
const REFUSED_PER_S: u32 = 4;
/// Maximum number of hosts counted at once: as many as can be connected
/// ([`p2pfs_transfer::net::peer::ACCEPTED_CONNECTIONS`]).
const HOSTS_MAX: usize = 1024;

/// The kind of excess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    /// Too many requests.
    #[error("asks more than any node needs to know")]
    Questions,
    /// Too many pushes that are refused.
    #[error("sends files or messages again and again that are refused")]
    Refused,
}

impl Offending for Flood {}

/// The counters. Clones share their state.
#[derive(Clone)]
pub(super) struct FloodMeter {
    state: Arc<Mutex<FloodState>>,
    events: EventLog,
}

/// The remaining allowance of each host before it is reported.
struct FloodState {
    questions: KeyedBuckets<ChargedSender>,
    refused: KeyedBuckets<ChargedSender>,
    ledger: OffenceLog<ChargedSender, Flood>,
}

impl FloodState {
    fn new(now: Instant) -> Self {
        Self {
            questions: KeyedBuckets::per_second(QUESTIONS_PER_S, QUESTIONS_BURST, HOSTS_MAX),
            refused: KeyedBuckets::per_second(REFUSED_PER_S, REFUSED_BURST, HOSTS_MAX),
            ledger: OffenceLog::new(now),
        }
    }

    /// Counts one request and returns whether the host should be reported.
    fn count(&mut self, now: Instant, host: ChargedSender, what: Flood) -> bool {
        let allowances = match what {
            Flood::Questions => &mut self.questions,
            Flood::Refused => &mut self.refused,
        };
        let Some(left) = allowances.of(host, now) else {
            return false;
        };
        !left.take(1, now) && self.ledger.record(now, &host, what)
    }
}

impl FloodMeter {
    pub(super) fn new(events: &EventLog) -> Self {
        Self {
            state: Arc::new(Mutex::new(FloodState::new(Instant::now()))),
            events: events.clone(),
        }
    }

    /// Counts one request. Reports the host if it exceeds its allowance and was not reported
    /// recently.
    pub(super) fn count(&self, from: &NodeId, address: SocketAddr, what: Flood) {
        let host = ChargedSender::at(address);
        let is_told = self.state.lock().count(Instant::now(), host, what);
        if is_told {
            let (ip, key) = (address.ip(), from.short(8));
            self.events
                .warn(format!("{ip} {what} (the last time as node {key})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn told(floods: &FloodMeter) -> Vec<String> {
        floods.events.warnings()
    }

    #[test]
    fn a_flood_of_invented_keys_is_reported_by_address() {
        let floods = FloodMeter::new(&EventLog::default());
        let honest = SocketAddr::from(([192, 0, 2, 1], 1378));
        for n in 0..REFUSED_BURST * 4 {
            let key = NodeId::new([n as u8; 32]);
            let flooding = SocketAddr::from(([192, 0, 2, 7], n as u16));
            floods.count(&key, flooding, Flood::Refused);
            if n < REFUSED_BURST {
                assert!(told(&floods).is_empty(), "{n}");
                floods.count(&key, honest, Flood::Questions);
            }
        }
        let told = told(&floods);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("192.0.2.7 sends files or messages"));
    }

    #[test]
    fn counted_hosts_are_bounded_and_quiet_ones_are_dropped() {
        let (begin, events) = (Instant::now(), EventLog::default());
        let floods = FloodMeter::new(&events);
        let mut state = floods.state.lock();
        let host = |n: u32| ChargedSender::at(SocketAddr::from((n.to_be_bytes(), 1)));
        for n in 0..2 * HOSTS_MAX as u32 {
            state.count(begin, host(n), Flood::Questions);
        }
        assert_eq!(state.questions.len(), HOSTS_MAX);
        let later = begin + Duration::from_secs(1);
        state.count(later, host(u32::MAX), Flood::Questions);
        assert_eq!(state.questions.len(), 1);
    }
}
