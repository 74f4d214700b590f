//! Whom to greet when: addresses to join through, tried for ever.
//!
//! While nobody is known the seeds are greeted often, then ever less often. When somebody is known
//! one seed that is no member is still greeted now and then, without end: a join packet that was
//! lost, or a partition that outlasted all memory of the other side, must not split a cluster for
//! good.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::Cluster;
use super::config::{GREETINGS_MAX, HINTS_PER_S, SEEDS_MAX};
use super::links::canonical;
use crate::bucket::TokenBucket;

/// The pauses between greetings while nobody is known; the last one repeats.
const ALONE_GAPS_MS: [u64; 9] = [250, 250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000];
/// A hint for one address is followed once in this time.
const HINT_PERIOD: Duration = Duration::from_secs(5);
/// How long a hinted address is greeted like a seed: the first greeting may be lost, or come while
/// either side has no address yet, and who announces itself does so once.
const HINT_LIFETIME: Duration = Duration::from_secs(600);
/// The most hinted addresses that are remembered: anyone on the network may make them up.
const HINTS_MAX: usize = 32;

/// The seeds, and when to greet them.
pub(super) struct Seeds {
    addresses: BTreeSet<SocketAddr>,
    hinted: BTreeMap<SocketAddr, Instant>,
    hints: TokenBucket,
    period: Duration,
    greeted_alone: usize,
    next: Instant,
}

impl Seeds {
    /// The first greeting is due at once.
    pub(super) fn new(addresses: &[SocketAddr], period: Duration, now: Instant) -> Self {
        let mut seeds = Self {
            addresses: BTreeSet::new(),
            hinted: BTreeMap::new(),
            hints: TokenBucket::per_second(HINTS_PER_S, 4 * HINTS_PER_S, now),
            period,
            greeted_alone: 0,
            next: now,
        };
        addresses
            .iter()
            .for_each(|address| seeds.add(*address, now));
        seeds
    }

    /// One more; beyond the limit it is ignored.
    pub(super) fn add(&mut self, address: SocketAddr, now: Instant) {
        let address = canonical(address);
        if self.addresses.len() < SEEDS_MAX && self.addresses.insert(address) {
            self.start_over(now);
        }
    }

    /// Greet soon and often again.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.greeted_alone = 0;
        self.next = self.next.min(now);
    }

    /// Whether a hint that someone is at `address` is to be followed.
    pub(super) fn take_hint(&mut self, address: SocketAddr, now: Instant) -> bool {
        let address = canonical(address);
        self.forget_old_hints(now);
        let again = self.hinted.get(&address);
        let is_fresh = again.is_some_and(|at| now.saturating_duration_since(*at) < HINT_PERIOD);
        if is_fresh || !self.hints.take(1, now) {
            return false;
        }
        if again.is_none() && self.hinted.len() >= HINTS_MAX {
            let oldest = self.hinted.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.and_then(|address| self.hinted.remove(&address));
        }
        self.hinted.insert(address, now);
        true
    }

    fn forget_old_hints(&mut self, now: Instant) {
        self.hinted
            .retain(|_, at| now.saturating_duration_since(*at) < HINT_LIFETIME);
    }

    /// When [`Self::due`] has something to give.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Whom to greet now, where the time has come.
    pub(super) fn due(
        &mut self,
        now: Instant,
        members: &BTreeSet<SocketAddr>,
        rng: &mut StdRng,
    ) -> Vec<SocketAddr> {
        if now < self.next {
            return Vec::new();
        }
        self.forget_old_hints(now);
        let mut strangers: Vec<_> = self.addresses.difference(members).copied().collect();
        if members.is_empty() {
            let hinted = self.hinted.keys().filter(|it| !self.addresses.contains(it));
            strangers.extend(hinted);
            let last = ALONE_GAPS_MS.len() - 1;
            let gap_ms = ALONE_GAPS_MS[self.greeted_alone.min(last)];
            self.greeted_alone += 1;
            self.next = now + Duration::from_millis(gap_ms);
            strangers.shuffle(rng);
            strangers.truncate(GREETINGS_MAX);
            strangers
        } else {
            self.greeted_alone = 0;
            self.next = now + self.period;
            strangers.choose(rng).copied().into_iter().collect()
        }
    }
}

impl Cluster {
    pub(super) fn greet_seeds(&mut self, now: Instant) {
        if now < self.seeds.poll_timeout() {
            return;
        }
        let members: BTreeSet<_> = self.roster.live().values().map(|m| m.address).collect();
        for address in self.seeds.due(now, &members, &mut self.rng) {
            self.approach(now, address);
        }
    }

    /// Makes whoever is at `address` take us in, if it is not a member here.
    pub(super) fn approach(&mut self, now: Instant, address: SocketAddr) {
        match self.links.proven(address) {
            Some(peer) if peer.node == self.links.me().node => {}
            Some(peer) if self.roster.live().contains_key(&peer.node) => {}
            Some(peer) => self.roster.announce(now, peer),
            None => self.links.greet(now, address),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1378))
    }

    fn greetings(
        seeds: &mut Seeds,
        members: &BTreeSet<SocketAddr>,
        until: Instant,
    ) -> Vec<Instant> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut times = Vec::new();
        while seeds.poll_timeout() <= until {
            let at = seeds.poll_timeout();
            times.extend(seeds.due(at, members, &mut rng).iter().map(|_| at));
        }
        times
    }

    #[test]
    fn a_lonely_node_greets_often_and_then_ever_less_but_never_stops() {
        let start = Instant::now();
        let mut seeds = Seeds::new(&[address(1)], Duration::from_secs(30), start);
        let times = greetings(
            &mut seeds,
            &BTreeSet::new(),
            start + Duration::from_secs(3600),
        );
        let first_second = times
            .iter()
            .filter(|t| **t <= start + Duration::from_secs(1));
        assert!(first_second.count() >= 4);
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.is_sorted() && gaps.last() == Some(&Duration::from_secs(30)));
        assert!(times.len() > 100);
    }

    #[test]
    fn a_member_of_a_cluster_still_greets_one_stranger_a_period_for_ever() {
        let start = Instant::now();
        let all: Vec<_> = (0..5).map(address).collect();
        let mut seeds = Seeds::new(&all, Duration::from_secs(30), start);
        let members = BTreeSet::from([address(0), address(1)]);
        let times = greetings(&mut seeds, &members, start + Duration::from_secs(3000));
        assert_eq!(times.len(), 101);
    }

    #[test]
    fn seeds_and_hints_are_limited() {
        let start = Instant::now();
        let mut seeds = Seeds::new(&[], Duration::from_secs(30), start);
        (0..3000).for_each(|n| seeds.add(address(n), start));
        assert_eq!(seeds.addresses.len(), SEEDS_MAX);
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(
            seeds.due(start, &BTreeSet::new(), &mut rng).len(),
            GREETINGS_MAX
        );
        let followed = (0..3000)
            .filter(|n| seeds.take_hint(address(*n), start))
            .count();
        assert_eq!(followed, 4 * HINTS_PER_S as usize);
        assert!(
            !seeds.take_hint(address(0), start + Duration::from_secs(1)),
            "too soon again"
        );
    }

    #[test]
    fn a_hinted_address_is_greeted_again_while_nobody_is_known_and_not_for_ever() {
        let start = Instant::now();
        let mut seeds = Seeds::new(&[], Duration::from_secs(30), start);
        let mut rng = StdRng::seed_from_u64(1);
        assert!(seeds.take_hint(address(1), start));
        let greeted = seeds.due(start, &BTreeSet::new(), &mut rng);
        assert_eq!(greeted, [address(1)]);
        let known = BTreeSet::from([address(2)]);
        let later = seeds.poll_timeout();
        assert!(seeds.due(later, &known, &mut rng).is_empty());
        let old = start + HINT_LIFETIME;
        assert!(seeds.due(old, &BTreeSet::new(), &mut rng).is_empty());
    }

    #[test]
    fn made_up_hints_push_the_oldest_out() {
        let start = Instant::now();
        let mut seeds = Seeds::new(&[], Duration::from_secs(30), start);
        for n in 0..3 * HINTS_MAX as u16 {
            let now = start + u32::from(n) * Duration::from_secs(1);
            assert!(seeds.take_hint(address(n), now));
        }
        assert_eq!(seeds.hinted.len(), HINTS_MAX);
        assert!(
            seeds
                .hinted
                .contains_key(&address(3 * HINTS_MAX as u16 - 1))
        );
    }
}
