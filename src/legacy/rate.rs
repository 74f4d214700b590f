//! How much one address may say.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use crate::bucket::TokenBucket;

/// Datagrams that an address may send in the long run.
pub const PER_S: u32 = 32;
/// And at once: the lists of a large cluster all told from one machine.
pub const BURST: u32 = 256;
/// Addresses that are counted; beyond it those whose buckets are full again are forgotten, and
/// where there are none, strangers share one bucket.
const ADDRESSES_MAX: usize = 4096;
/// What each member may send besides, in the long run and at once, where another at its address has
/// used up what the address may say: its lists, and the questions of a person.
pub const MEMBER_PER_S: u32 = 2;
/// See [`MEMBER_PER_S`].
pub const MEMBER_BURST: u32 = 16;
#[derive(Default)]
pub(super) struct Rates {
    buckets: HashMap<Ipv4Addr, TokenBucket>,
    members: HashMap<SocketAddrV4, TokenBucket>,
}

impl Rates {
    /// Whether one more datagram is taken. Those of one address share what it may say, and a member
    /// has a little of its own.
    pub(super) fn admit(&mut self, from: SocketAddrV4, is_member: bool, now: Instant) -> bool {
        self.admit_address(*from.ip(), now) || (is_member && self.admit_member(from, now))
    }

    fn admit_member(&mut self, from: SocketAddrV4, now: Instant) -> bool {
        if self.members.len() >= ADDRESSES_MAX {
            self.members.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_room = self.members.contains_key(&from) || self.members.len() < ADDRESSES_MAX;
        let full = || TokenBucket::per_second(MEMBER_PER_S, MEMBER_BURST, now);
        is_room && self.members.entry(from).or_insert_with(full).take(1, now)
    }

    fn admit_address(&mut self, from: Ipv4Addr, now: Instant) -> bool {
        let is_known = self.buckets.contains_key(&from);
        if !is_known && self.buckets.len() >= ADDRESSES_MAX {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_room = is_known || self.buckets.len() < ADDRESSES_MAX;
        let key = if is_room { from } else { Ipv4Addr::UNSPECIFIED };
        let full = || TokenBucket::per_second(PER_S, BURST, now);
        self.buckets.entry(key).or_insert_with(full).take(1, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_its_burst_then_its_rate_and_takes_nothing_from_others() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let a = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
        let b = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 1);
        let taken = (0..1000).filter(|_| rates.admit(a, false, now)).count();
        assert_eq!(taken as u32, BURST);
        assert!(rates.admit(b, false, now));
        let later = now + Duration::from_secs(1);
        let taken = (0..1000).filter(|_| rates.admit(a, false, later)).count();
        assert_eq!(taken as u32, PER_S);
    }

    #[test]
    fn a_member_is_heard_beside_one_that_floods_from_its_address() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let (flood, honest) = (SocketAddrV4::new(address, 1), SocketAddrV4::new(address, 2));
        let stranger = SocketAddrV4::new(address, 3);
        let taken = (0..1000).filter(|_| rates.admit(flood, true, now)).count();
        assert_eq!(taken as u32, BURST + MEMBER_BURST);
        assert!(rates.admit(honest, true, now) && !rates.admit(stranger, false, now));
        let later = now + Duration::from_secs(1);
        let taken = (0..1000)
            .filter(|_| rates.admit(flood, true, later))
            .count();
        assert_eq!(taken as u32, PER_S + MEMBER_PER_S);
    }

    #[test]
    fn ever_new_addresses_are_bounded_together() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let address = |n: u32| SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 1);
        let taken = (0..100_000)
            .filter(|n| rates.admit(address(*n), false, now))
            .count();
        assert!(rates.buckets.len() <= ADDRESSES_MAX + 1);
        assert_eq!(taken, ADDRESSES_MAX + BURST as usize);
    }
}
