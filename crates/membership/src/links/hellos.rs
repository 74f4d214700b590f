//! Hellos that wait for their answers, and their repetitions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2pfs_proto::wire::native::udp::Token;

/// Gaps in ms after each transmission of an unanswered hello. After the last gap the hello is given
/// up.
pub(super) const HELLO_GAPS_MS: [u64; 4] = [200, 400, 800, 1600];

/// A hello that waits for its answer.
pub(super) struct PendingHello {
    nonce: Token,
    sent: Instant,
    repeated: usize,
    next: Instant,
    /// Whether an answer from another address has arrived. That address was greeted too.
    is_diverted: bool,
}

impl PendingHello {
    /// Returns when the hello was first sent.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Returns the time since the hello was sent. Returns `None` if it was repeated, because the
    /// answer may be to any of its transmissions.
    pub(super) fn round_trip(&self, now: Instant) -> Option<Duration> {
        let once = self.repeated == 0;
        once.then(|| now.saturating_duration_since(self.sent))
    }
}

/// The next step for a hello without an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DueHello {
    /// The hello to this address, with this nonce, must be sent again.
    Repeat(SocketAddr, Token),
    /// The hello to this address was repeated often enough, and is forgotten.
    GiveUp(SocketAddr),
}

/// The hellos that wait for their answers, at most one for each address.
#[derive(Default)]
pub(super) struct PendingHellos {
    by_address: BTreeMap<SocketAddr, PendingHello>,
    /// The addresses by the time at which their hello is due again.
    due: BTreeSet<(Instant, SocketAddr)>,
}

impl PendingHellos {
    /// Returns whether a hello to this address waits for its answer.
    pub(super) fn is_waiting(&self, address: SocketAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Records that a hello with this nonce was sent now.
    pub(super) fn begin(&mut self, now: Instant, address: SocketAddr, nonce: Token) {
        self.end(address);
        let next = now + Duration::from_millis(HELLO_GAPS_MS[0]);
        let hello = PendingHello {
            nonce,
            sent: now,
            repeated: 0,
            next,
            is_diverted: false,
        };
        self.by_address.insert(address, hello);
        self.due.insert((next, address));
    }

    /// Returns the hello to this address, if it has this nonce.
    pub(super) fn get(&self, address: SocketAddr, nonce: &Token) -> Option<&PendingHello> {
        let hello = self.by_address.get(&address);
        hello.filter(|hello| hello.nonce == *nonce)
    }

    /// Returns true for the first call with the nonce of a waiting hello, otherwise false. Without
    /// this limit, answers with forged senders would make this node greet many addresses.
    pub(super) fn divert(&mut self, nonce: &Token) -> bool {
        let mut hellos = self.by_address.values_mut();
        let hello = hellos.find(|hello| hello.nonce == *nonce);
        hello.is_some_and(|hello| !std::mem::replace(&mut hello.is_diverted, true))
    }

    /// Forgets the hello to this address.
    pub(super) fn end(&mut self, address: SocketAddr) {
        if let Some(hello) = self.by_address.remove(&address) {
            self.due.remove(&(hello.next, address));
        }
    }

    /// Returns when [`Self::take_due`] has something to return.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Returns the next step for a hello that is due, and schedules its next repetition.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<DueHello> {
        while let Some((at, address)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let Some(hello) = self.by_address.get_mut(&address) else {
                continue;
            };
            hello.repeated += 1;
            let Some(gap_ms) = HELLO_GAPS_MS.get(hello.repeated) else {
                self.by_address.remove(&address);
                return Some(DueHello::GiveUp(address));
            };
            hello.next = now + Duration::from_millis(*gap_ms);
            self.due.insert((hello.next, address));
            return Some(DueHello::Repeat(address, hello.nonce));
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_address.len(), self.due.len());
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 1378))
    }

    #[test]
    fn a_hello_is_repeated_at_its_gaps_and_then_given_up() {
        let start = Instant::now();
        let mut hellos = PendingHellos::default();
        hellos.begin(start, address(1), [7; 16]);
        let (mut due, mut waited) = (Vec::new(), Vec::new());
        let mut now = start;
        while let Some(at) = hellos.poll_timeout() {
            waited.push((at - now).as_millis() as u64);
            now = at;
            due.extend(hellos.take_due(now));
        }
        let repeat = || DueHello::Repeat(address(1), [7; 16]);
        let give_up = DueHello::GiveUp(address(1));
        assert_eq!(due, [repeat(), repeat(), repeat(), give_up]);
        assert_eq!(waited, HELLO_GAPS_MS);
        assert!(!hellos.is_waiting(address(1)));
    }

    #[test]
    fn a_due_time_without_a_hello_delays_no_other_hello() {
        let start = Instant::now();
        let mut hellos = PendingHellos::default();
        hellos.due.insert((start, address(1)));
        hellos.begin(start, address(2), [7; 16]);
        let due = hellos.take_due(start + Duration::from_secs(1));
        assert_eq!(due, Some(DueHello::Repeat(address(2), [7; 16])));
    }

    #[test]
    fn only_the_answer_to_a_single_transmission_measures_a_round_trip() {
        let start = Instant::now();
        let mut hellos = PendingHellos::default();
        hellos.begin(start, address(1), [7; 16]);
        let round_trip = |hellos: &PendingHellos, now| {
            let hello = hellos.get(address(1), &[7; 16]).unwrap();
            hello.round_trip(now)
        };
        let now = start + Duration::from_millis(3);
        let measured = Some(Duration::from_millis(3));
        assert_eq!(round_trip(&hellos, now), measured);
        let now = hellos.poll_timeout().unwrap();
        assert!(hellos.take_due(now).is_some());
        assert_eq!(round_trip(&hellos, now), None);
        assert!(hellos.get(address(1), &[8; 16]).is_none(), "another nonce");
        assert!(hellos.get(address(2), &[7; 16]).is_none(), "another peer");
    }

    #[test]
    fn only_the_first_answer_from_another_address_is_followed() {
        let start = Instant::now();
        let mut hellos = PendingHellos::default();
        hellos.begin(start, address(1), [7; 16]);
        assert!(!hellos.divert(&[8; 16]));
        assert!(hellos.divert(&[7; 16]));
        assert!(!hellos.divert(&[7; 16]));
        hellos.begin(start, address(1), [9; 16]);
        assert!(hellos.divert(&[9; 16]), "for each hello");
        hellos.end(address(1));
        assert!(!hellos.divert(&[9; 16]));
        assert_eq!((hellos.len(), hellos.poll_timeout()), (0, None));
    }
}
