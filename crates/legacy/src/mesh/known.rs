//! Addresses that may be dialled: those configured, and those that peers told of.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use crate::wire::discovery::MemberName;

/// Addresses that are remembered besides the configured ones; further ones are not learned.
pub const KNOWN_MAX: usize = 256;
/// Of these, told by one peer.
pub const KNOWN_OF_PEER_MAX: usize = 64;
/// How often a learned address is dialled in vain until it is forgotten.
pub const TRIES_MAX: u32 = 5;
/// How many learned addresses are dialled at one time, as the old programs do.
pub const DIALS_AT_ONCE: usize = 3;
/// The first wait after a configured address did not answer; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest wait; the first one of a learned address.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The longest wait for a learned address, and the one after it was found to be connected by
/// another name.
const RETRY_RARELY: Duration = Duration::from_secs(600);

struct Known {
    is_configured: bool,
    /// Who told of it.
    teller: Option<String>,
    failures: u32,
    next_try: Instant,
    is_dialling: bool,
}

#[derive(Default)]
pub(super) struct Addresses {
    known: BTreeMap<MemberName, Known>,
}

/// How a dial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// A peer.
    Connected,
    /// Nobody, or nobody of this protocol.
    Failed,
    /// One that is connected already, or is us.
    Known,
    /// One that takes no more.
    Full,
}

impl Addresses {
    pub(super) fn configure(&mut self, address: MemberName, now: Instant) {
        let known = self.known.entry(plain(address)).or_insert(Known {
            is_configured: true,
            teller: None,
            failures: 0,
            next_try: now,
            is_dialling: false,
        });
        known.is_configured = true;
        known.next_try = now;
    }

    /// Whether it was not known before, and is now.
    pub(super) fn learn(
        &mut self,
        address: MemberName,
        teller: Option<&str>,
        now: Instant,
    ) -> bool {
        let address = plain(address);
        if self.known.contains_key(&address) {
            return false;
        }
        let learned = || self.known.values().filter(|known| !known.is_configured);
        let of_teller = learned().filter(|known| known.teller.as_deref() == teller);
        if learned().count() >= KNOWN_MAX || of_teller.count() >= KNOWN_OF_PEER_MAX {
            return false;
        }
        let known = Known {
            is_configured: false,
            teller: teller.map(str::to_owned),
            failures: 0,
            next_try: now,
            is_dialling: false,
        };
        self.known.insert(address, known);
        true
    }

    /// The configured addresses that are due, and some of the learned ones where `learned` is
    /// asked for; from now on they are being dialled.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        learned: bool,
        is_connected: impl Fn(&MemberName) -> bool,
        random: &mut StdRng,
    ) -> Vec<MemberName> {
        let is_due = |address: &MemberName, known: &Known| {
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
            chosen.extend(due(false).sample(random, DIALS_AT_ONCE));
        }
        for address in &chosen {
            if let Some(known) = self.known.get_mut(address) {
                known.is_dialling = true;
            }
        }
        chosen
    }

    pub(super) fn dialled(&mut self, now: Instant, address: &MemberName, how: Dialled) {
        let Some(known) = self.known.get_mut(address) else {
            return;
        };
        known.is_dialling = false;
        let doubled = |base: Duration, times: u32| base * 2_u32.pow(times.min(10));
        known.next_try = now
            + match how {
                Dialled::Connected => {
                    known.failures = 0;
                    RETRY_MIN
                }
                Dialled::Known => RETRY_RARELY,
                Dialled::Full => RETRY_MAX,
                Dialled::Failed => {
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

    /// When the next configured address is due that is not connected.
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

/// One spelling for this machine's own address, which the old programs call by its name.
pub(super) fn plain(address: MemberName) -> MemberName {
    match address {
        MemberName::Host { host, port } if &*host == "localhost" => {
            MemberName::Address(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        }
        other => other,
    }
}
