//! Addresses that may be dialled: configured ones, and those learned from peers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use super::{DIAL_JITTER, Who};
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
/// Wait after the first failed dial of a configured address. Each further failure doubles the wait,
/// up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum wait after failed dials of a configured address. Also the wait after the first failed
/// dial of a learned address, and after [`DialResult::Full`].
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Maximum wait after failed dials of a learned address. Also the wait after [`DialResult::Known`].
const RETRY_RARELY: Duration = Duration::from_secs(600);

struct KnownAddress {
    is_configured: bool,
    /// ID of the peer that sent the address in a list.
    from: Option<String>,
    failures: u32,
    next_try: Instant,
    is_dialling: bool,
}

/// The known addresses, and the time of the next round in which learned ones are dialled.
pub(super) struct AddressBook {
    known: BTreeMap<MemberName, KnownAddress>,
    is_own: IsOwn,
    random: StdRng,
    next_round: Option<Instant>,
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
    /// A peer that rejects further connections.
    Full,
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
        let known = self.known.entry(plain(address)).or_insert(KnownAddress {
            is_configured: true,
            from: None,
            failures: 0,
            next_try: now,
            is_dialling: false,
        });
        known.is_configured = true;
        known.next_try = now;
    }

    /// Adds an address from a list of the peer `from`, or the former address of a peer if
    /// `from` is `None`. Returns false if the address was known already or there is no room.
    pub(super) fn learn(&mut self, address: MemberName, from: Option<&str>, now: Instant) -> bool {
        let address = plain(address);
        if self.known.contains_key(&address) {
            return false;
        }
        let learned = || self.known.values().filter(|known| !known.is_configured);
        let of_peer = learned().filter(|known| known.from.as_deref() == from);
        if learned().count() >= KNOWN_MAX || of_peer.count() >= KNOWN_OF_PEER_MAX {
            return false;
        }
        let known = KnownAddress {
            is_configured: false,
            from: from.map(str::to_owned),
            failures: 0,
            next_try: now,
            is_dialling: false,
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
        for address in addresses {
            let address = plain(address);
            if let MemberName::Address(at) = &address {
                // a loopback address of another machine cannot be dialled from here
                let is_elsewhere = at.ip().is_loopback() && !from.address.ip().is_loopback();
                if (self.is_own)(*at) || is_elsewhere {
                    continue;
                }
            }
            if self.learn(address, Some(&from.id), now) {
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

    /// Returns the configured addresses that are due and, if `learned`, up to [`DIALS_AT_ONCE`]
    /// random ones of the learned addresses that are due. Marks them as being dialled.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        learned: bool,
        is_connected: impl Fn(&MemberName) -> bool,
    ) -> Vec<MemberName> {
        let is_due = |address: &MemberName, known: &KnownAddress| {
            !known.is_dialling && known.next_try <= now && !is_connected(address)
        };
        let due = |configured: bool| {
            let all = self.known.iter();
            all.filter(move |(address, known)| {
                known.is_configured == configured && is_due(address, known)
            })
            .map(|(address, _)| address.clone())
        };
        let mut chosen: Vec<MemberName> = due(true).collect();
        if learned {
            chosen.extend(due(false).sample(&mut self.random, DIALS_AT_ONCE));
        }
        for address in &chosen {
            if let Some(known) = self.known.get_mut(address) {
                known.is_dialling = true;
            }
        }
        chosen
    }

    pub(super) fn dialled(&mut self, now: Instant, address: &MemberName, how: DialResult) {
        let Some(known) = self.known.get_mut(address) else {
            return;
        };
        known.is_dialling = false;
        let doubled = |base: Duration, times: u32| base * 2_u32.pow(times.min(10));
        known.next_try = now
            + match how {
                DialResult::Connected => {
                    known.failures = 0;
                    RETRY_MIN
                }
                DialResult::Known => RETRY_RARELY,
                DialResult::Full => RETRY_MAX,
                DialResult::Failed => {
                    known.failures += 1;
                    let times = known.failures - 1;
                    if known.is_configured {
                        doubled(RETRY_MIN, times).min(RETRY_MAX)
                    } else {
                        doubled(RETRY_MAX, times).min(RETRY_RARELY)
                    }
                }
            };
        if !known.is_configured && known.failures >= TRIES_MAX {
            self.known.remove(address);
        }
    }

    /// Returns when the next unconnected configured address is due.
    pub(super) fn next_due(&self, is_connected: impl Fn(&MemberName) -> bool) -> Option<Instant> {
        let waiting = self.known.iter().filter(|(address, known)| {
            known.is_configured && !known.is_dialling && !is_connected(address)
        });
        waiting.map(|(_, known)| known.next_try).min()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &MemberName> {
        self.known.keys()
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
