//! Rate limits of received datagrams, by sender.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::keyed_buckets::KeyedBuckets;

/// Maximum sustained datagrams per second from one address.
pub const PER_S: u32 = 32;
/// Maximum burst: the lists of a large cluster, all sent from one machine.
pub const BURST: u32 = 256;
/// Maximum IP addresses, and maximum members, whose bucket is not full. Further addresses share one
/// bucket. Further members get no rate of their own.
const ADDRESSES_MAX: usize = 4096;
/// Additional rate of each member, in datagrams per second. A member uses it when the rate of its
/// IP address is exhausted, for example by another program there. It suffices for the lists of the
/// member and the questions of a person.
pub const MEMBER_PER_S: u32 = 2;
/// Additional burst of each member; see [`MEMBER_PER_S`].
pub const MEMBER_BURST: u32 = 16;

/// Rate limits of all addresses and members.
pub(super) struct SenderRates {
    addresses: KeyedBuckets<Ipv4Addr>,
    members: KeyedBuckets<SocketAddrV4>,
    /// Bucket shared by the addresses beyond [`ADDRESSES_MAX`].
    strangers: Option<TokenBucket>,
}

impl Default for SenderRates {
    fn default() -> Self {
        Self {
            addresses: KeyedBuckets::per_second(PER_S, BURST, ADDRESSES_MAX),
            members: KeyedBuckets::per_second(MEMBER_PER_S, MEMBER_BURST, ADDRESSES_MAX),
            strangers: None,
        }
    }
}

impl SenderRates {
    /// Returns whether one more datagram is accepted. All senders at one IP address share its rate.
    /// A member has a small rate of its own in addition.
    pub(super) fn admit(&mut self, from: SocketAddrV4, is_member: bool, now: Instant) -> bool {
        self.admit_address(*from.ip(), now) || (is_member && self.members.take(from, 1, now))
    }

    fn admit_address(&mut self, from: Ipv4Addr, now: Instant) -> bool {
        let shared = || TokenBucket::per_second(PER_S, BURST, now);
        let strangers = &mut self.strangers;
        let bucket = self.addresses.of(from, now);
        bucket
            .unwrap_or_else(|| strangers.get_or_insert_with(shared))
            .take(1, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_its_burst_and_rate_independent_of_others() {
        let (mut rates, now) = (SenderRates::default(), Instant::now());
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
    fn a_member_is_served_beside_a_flood_from_its_address() {
        let (mut rates, now) = (SenderRates::default(), Instant::now());
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
    fn new_addresses_share_one_bound() {
        let (mut rates, now) = (SenderRates::default(), Instant::now());
        let address = |n: u32| SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 1);
        let taken = (0..100_000)
            .filter(|n| rates.admit(address(*n), false, now))
            .count();
        assert_eq!(rates.addresses.len(), ADDRESSES_MAX);
        assert_eq!(taken, ADDRESSES_MAX + BURST as usize);
    }

    #[test]
    fn an_address_that_was_quiet_makes_room_for_a_new_one() {
        let (mut rates, begun) = (SenderRates::default(), Instant::now());
        let address = |n: u32| SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 1);
        let full = ADDRESSES_MAX as u32 + BURST;
        let taken = |rates: &mut SenderRates, from, now| {
            let each = from..from + full;
            each.filter(|n| rates.admit(address(*n), false, now))
                .count()
        };
        assert_eq!(taken(&mut rates, 0, begun), full as usize);
        assert!(!rates.admit(address(full), false, begun));
        let later = begun + Duration::from_secs(8);
        assert_eq!(taken(&mut rates, 1 << 20, later), full as usize);
    }
}
