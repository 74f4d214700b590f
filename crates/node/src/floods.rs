//! Hosts that ask for more than any node needs: told by the address that they come from.
//!
//! In a cluster of a secret file a host makes up as many keys as it likes, so a key names no sender
//! there. What is asked is bounded elsewhere: here it is only counted and told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::events::EventLog;
use super::inbox::Origin;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;
use p2pfs_types::offences::{Ledger, Offending};

/// Questions about logs, members and statements that a host may ask at once. A node that starts
/// anew asks for the logs of all authors, a MiB at a time.
const QUESTIONS_BURST: u32 = 4096;
/// The same in a second, in the long run: a node asks a few in each round of gossip.
const QUESTIONS_PER_S: u32 = 64;
/// Files and messages of a host that may be refused at once: a sender gives up at the first
/// refusal, and a person may have told it to send a folder.
const REFUSED_BURST: u32 = 256;
/// The same in a second, in the long run.
const REFUSED_PER_S: u32 = 4;
/// Hosts that are counted at one time: as many as can be connected
/// ([`p2pfs_transfer::net::peer::ACCEPTED_CONNECTIONS`]).
const HOSTS_MAX: usize = 1024;

/// What a host does too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flood {
    /// It asks.
    #[error("asks more than any node needs to know")]
    Questions,
    /// It pushes what is refused.
    #[error("sends files or messages again and again that are refused")]
    Refused,
}

impl Offending for Flood {}

/// The counts. Clones are the same.
#[derive(Clone)]
pub(super) struct Floods {
    state: Arc<Mutex<State>>,
    events: EventLog,
}

struct State {
    hosts: HashMap<Origin, Meters>,
    ledger: Ledger<Origin, Flood>,
}

/// What one host may still do before it is told of.
struct Meters {
    questions: TokenBucket,
    refused: TokenBucket,
}

impl Meters {
    fn new(now: Instant) -> Self {
        Self {
            questions: TokenBucket::per_second(QUESTIONS_PER_S, QUESTIONS_BURST, now),
            refused: TokenBucket::per_second(REFUSED_PER_S, REFUSED_BURST, now),
        }
    }

    fn of(&mut self, what: Flood) -> &mut TokenBucket {
        match what {
            Flood::Questions => &mut self.questions,
            Flood::Refused => &mut self.refused,
        }
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.questions.is_full(now) && self.refused.is_full(now)
    }
}

impl State {
    /// Counts one of these; says whether the host is to be told of.
    fn count(&mut self, now: Instant, host: Origin, what: Flood) -> bool {
        if !self.hosts.contains_key(&host) && self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, meters| !meters.is_full(now));
            if self.hosts.len() >= HOSTS_MAX {
                return false;
            }
        }
        let meters = self.hosts.entry(host).or_insert_with(|| Meters::new(now));
        !meters.of(what).take(1, now) && self.ledger.note(now, &host, what)
    }
}

impl Floods {
    pub(super) fn new(events: &EventLog) -> Self {
        let state = State {
            hosts: HashMap::new(),
            ledger: Ledger::new(Instant::now()),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            events: events.clone(),
        }
    }

    /// Counts one of these, and tells of a host that does more than any node needs, where it was
    /// not told of lately.
    pub(super) fn count(&self, from: &NodeId, address: SocketAddr, what: Flood) {
        let host = Origin::at(address);
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

    fn told(floods: &Floods) -> Vec<String> {
        floods.events.warnings()
    }

    #[test]
    fn a_flood_of_made_up_keys_is_told_by_its_address() {
        let floods = Floods::new(&EventLog::default());
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
    fn hosts_that_are_counted_are_bounded_and_quiet_ones_give_way() {
        let (begin, events) = (Instant::now(), EventLog::default());
        let floods = Floods::new(&events);
        let mut state = floods.state.lock();
        let host = |n: u32| Origin::at(SocketAddr::from((n.to_be_bytes(), 1)));
        for n in 0..2 * HOSTS_MAX as u32 {
            state.count(begin, host(n), Flood::Questions);
        }
        assert_eq!(state.hosts.len(), HOSTS_MAX);
        let later = begin + Duration::from_secs(1);
        state.count(later, host(u32::MAX), Flood::Questions);
        assert_eq!(state.hosts.len(), 1);
    }
}
