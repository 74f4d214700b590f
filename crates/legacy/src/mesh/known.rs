//! Addresses that may be dialled: configured ones, and those learned from peers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use super::machine::Who;
use crate::IsOwn;
use crate::wire::discovery::MemberName;

/// Maximum learned addresses. Further ones are ignored.
pub const KNOWN_MAX: usize = 256;
/// Maximum addresses learned from one peer.
pub const KNOWN_OF_PEER_MAX: usize = 64;
/// Failed dials after which a learned address is forgotten.
pub const TRIES_MAX: u32 = 5;
/// Maximum learned addresses that are dialled in one round, as in the original programs.
pub const DIALS_AT_ONCE: usize = 3;
/// Maximum random delay before learned addresses are dialled.
pub const DIAL_JITTER: Duration = Duration::from_secs(5);
/// Wait after the first failed dial of a configured address. Each further failure doubles the wait,
/// up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum wait after failed dials of a configured address. Also the wait after the first failed
/// dial of a learned address, and after [`DialResult::Full`].
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Maximum wait after failed dials of a learned address. Also the wait after [`DialResult::Known`].
const RETRY_RARELY: Duration = Duration::from_secs(600);

struct KnownAddress {
    origin: AddressOrigin,
    failures: u32,
    /// Time of the next dial; `None` while the address is being dialled.
    next_try: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum AddressOrigin {
    Configured,
    /// From a list of the peer with this ID; `None` for the former address of a peer.
    Learned(Option<String>),
}

/// Result of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialResult {
    /// The handshake with a peer succeeded.
    Connected,
    /// No answer, or one of another protocol.
    Failed,
    /// A peer that is already connected, or this node itself.
    Known,
    /// A peer that rejects further connections, or one beyond this node's maximum.
    Full,
}

/// The known addresses, and the time of the next round in which learned ones are dialled.
pub(super) struct AddressBook {
    known: BTreeMap<MemberName, KnownAddress>,
    is_own: IsOwn,
    random: StdRng,
    next_round: Option<Instant>,
}

impl AddressBook {
    /// Creates an empty book. `is_own` tells which addresses belong to this node.
    pub(super) fn new(is_own: IsOwn, seed: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            is_own,
            random: StdRng::seed_from_u64(seed),
            next_round: None,
        }
    }

    pub(super) fn configure(&mut self, address: MemberName, now: Instant) {
        let address = plain(address);
        let before = self.known.get(&address);
        let is_dialling = before.is_some_and(|known| known.next_try.is_none());
        let known = KnownAddress {
            origin: AddressOrigin::Configured,
            failures: 0,
            next_try: (!is_dialling).then_some(now),
        };
        self.known.insert(address, known);
    }

    /// Adds an address from a list of the peer `from`, or the former address of a peer if
    /// `from` is `None`. Returns false if the address was known already or there is no room.
    pub(super) fn learn(&mut self, address: MemberName, from: Option<&str>, now: Instant) -> bool {
        let address = plain(address);
        let origin = AddressOrigin::Learned(from.map(str::to_owned));
        let learned = self.known.values().filter(|known| known.is_learned());
        let of_peer = learned.clone().filter(|known| known.origin == origin);
        let has_room = of_peer.count() < KNOWN_OF_PEER_MAX && learned.count() < KNOWN_MAX;
        if !has_room || self.known.contains_key(&address) {
            return false;
        }
        let known = KnownAddress {
            origin,
            failures: 0,
            next_try: Some(now),
        };
        self.known.insert(address, known);
        true
    }

    /// Adds the addresses from a list of a peer, except those that this node cannot dial. Returns
    /// the number of new ones, which are dialled soon.
    pub(super) fn learn_from(
        &mut self,
        now: Instant,
        from: &Who,
        addresses: Vec<MemberName>,
    ) -> usize {
        let mut count = 0;
        for address in addresses.into_iter().map(plain) {
            let is_useless = matches!(&address, MemberName::Address(at) if (self.is_own)(*at)
                // a loopback address of another machine cannot be dialled from here
                || (at.ip().is_loopback() && !from.address.ip().is_loopback()));
            if !is_useless && self.learn(address, Some(&from.id), now) {
                count += 1;
            }
        }
        if count > 0 {
            self.dial_soon(now);
        }
        count
    }

    /// Schedules a round for learned addresses within [`DIAL_JITTER`].
    pub(super) fn dial_soon(&mut self, now: Instant) {
        let jitter = self.random.random_range(0..=DIAL_JITTER.as_millis() as u64);
        let at = now + Duration::from_millis(jitter);
        self.next_round = Some(self.next_round.map_or(at, |before| before.min(at)));
    }

    /// Returns when the next round is due, if one is scheduled.
    pub(super) fn next_round(&self) -> Option<Instant> {
        self.next_round
    }

    /// Returns whether a round for learned addresses is due, and then forgets its schedule.
    pub(super) fn begin_round(&mut self, now: Instant) -> bool {
        self.next_round.take_if(|at| *at <= now).is_some()
    }

    /// Returns the configured addresses that are due and not in `connected` and, if `learned`, up
    /// to [`DIALS_AT_ONCE`] random ones of the learned addresses. Marks them as being dialled.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        learned: bool,
        connected: &[MemberName],
    ) -> Vec<MemberName> {
        let due = self.known.iter_mut().filter(|(address, known)| {
            known.next_try.is_some_and(|at| at <= now) && !connected.contains(address)
        });
        let (of_peers, mut chosen): (Vec<_>, Vec<_>) = due.partition(|(_, k)| k.is_learned());
        if learned {
            let of_peers = of_peers.into_iter();
            chosen.extend(of_peers.sample(&mut self.random, DIALS_AT_ONCE));
        }
        let dialled = chosen.into_iter().map(|(address, known)| {
            known.next_try = None;
            address.clone()
        });
        dialled.collect()
    }

    /// Records the result of a dial, which decides when the address is dialled again.
    pub(super) fn dialled(&mut self, now: Instant, address: &MemberName, how: DialResult) {
        let Some(known) = self.known.get_mut(address) else {
            return;
        };
        let (base, most) = if known.is_learned() {
            (RETRY_MAX, RETRY_RARELY)
        } else {
            (RETRY_MIN, RETRY_MAX)
        };
        let wait = match how {
            DialResult::Connected => RETRY_MIN,
            DialResult::Known => RETRY_RARELY,
            DialResult::Full => RETRY_MAX,
            DialResult::Failed => (base * 2_u32.pow(known.failures.min(10))).min(most),
        };
        match how {
            DialResult::Connected => known.failures = 0,
            DialResult::Failed => known.failures += 1,
            DialResult::Known | DialResult::Full => {}
        }
        known.next_try = Some(now + wait);
        if known.is_learned() && known.failures >= TRIES_MAX {
            self.known.remove(address);
        }
    }

    /// Returns when the next configured address that is not in `connected` is due.
    pub(super) fn next_due(&self, connected: &[MemberName]) -> Option<Instant> {
        let waiting = self.known.iter();
        let waiting =
            waiting.filter(|(address, known)| !known.is_learned() && !connected.contains(address));
        waiting.filter_map(|(_, known)| known.next_try).min()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &MemberName> {
        self.known.keys()
    }
}

impl KnownAddress {
    fn is_learned(&self) -> bool {
        self.origin != AddressOrigin::Configured
    }
}

/// Returns the address with the host `localhost` replaced by 127.0.0.1. The original programs
/// announce themselves as `localhost`.
pub(super) fn plain(address: MemberName) -> MemberName {
    match address {
        MemberName::Host { host, port } if &*host == "localhost" => {
            MemberName::Address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        }
        other => other,
    }
}
