//! Greeting schedule: addresses to join through, tried without end.
//!
//! While no member is known, seeds are greeted often at first and then ever less often. Lost
//! members are greeted as well. The engine greets no node while it is alone, and nodes that met
//! through a seed that is gone have no other way to find each other. Once a member is known, one
//! seed that is not a member and one lost member are still greeted occasionally, without end.
//! Otherwise a lost join packet, or a partition that outlasts the memory of the other side, would
//! split the cluster for good.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::config::{GREETINGS_MAX, HINTS_PER_S, SEEDS_MAX};
use super::lives::NodeLives;
use super::oldest;
use p2pfs_proto::wire::canonical;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

/// Pauses in ms between greetings while no member is known. The last one repeats.
const ALONE_GAPS_MS: [u64; 9] = [250, 250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000];
/// Minimum time between two hints that are followed for one address.
const HINT_PERIOD: Duration = Duration::from_secs(5);
/// Time for which a hinted address is greeted. The first greeting may be lost, or arrive while
/// either side has no address yet, and a node announces itself only once.
const HINT_LIFETIME: Duration = Duration::from_secs(600);
/// Pause between the first two greetings of a hinted address. Each further pause is twice as long,
/// which makes ten greetings in [`HINT_LIFETIME`]. While no member is known, a hinted address is
/// also greeted with the seeds.
const HINT_RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum number of remembered hinted addresses. Any host on the network can invent them.
const HINTS_MAX: usize = 32;

/// The seeds, and when to greet them.
pub(super) struct SeedSchedule {
    addresses: BTreeSet<SocketAddr>,
    /// Members that are down, and the addresses at which they may return.
    lost: BTreeMap<NodeId, BTreeSet<SocketAddr>>,
    hinted: BTreeMap<SocketAddr, Hint>,
    hints: TokenBucket,
    period: Duration,
    greeted_alone: usize,
    next: Instant,
}

/// An address at which a member may be.
struct Hint {
    since: Instant,
    /// Pause after the next greeting.
    pause: Duration,
    next: Instant,
}

impl Hint {
    /// Creates a hint whose address is greeted by the caller now.
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            pause: 2 * HINT_RETRY_MIN,
            next: now + HINT_RETRY_MIN,
        }
    }

    /// Returns whether a greeting is due, and schedules the one after it.
    fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.next = now + self.pause;
            self.pause *= 2;
        }
        is_due
    }
}

impl SeedSchedule {
    /// Creates the schedule. The first greeting is due at once.
    pub(super) fn new(addresses: &[SocketAddr], period: Duration, now: Instant) -> Self {
        let mut seeds = Self {
            addresses: BTreeSet::new(),
            lost: BTreeMap::new(),
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

    /// Adds a seed. Ignores it beyond the limit.
    pub(super) fn add(&mut self, address: SocketAddr, now: Instant) {
        let address = canonical(address);
        if self.addresses.len() < SEEDS_MAX && self.addresses.insert(address) {
            self.start_over(now);
        }
    }

    /// Remembers a member that is down and may return at these addresses. Ignores it beyond the
    /// limit.
    pub(super) fn add_lost(&mut self, node: NodeId, addresses: BTreeSet<SocketAddr>) {
        if self.lost.len() < SEEDS_MAX || self.lost.contains_key(&node) {
            self.lost.insert(node, addresses);
        }
    }

    /// Stops greeting a lost member that has returned or left for good.
    pub(super) fn remove_lost(&mut self, node: &NodeId) {
        self.lost.remove(node);
    }

    /// Forgets lost members that are not members of the cluster any more.
    fn retain_lost(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.lost.retain(|node, _| is_member(node));
    }

    /// Restarts the schedule with frequent greetings.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.greeted_alone = 0;
        self.next = self.next.min(now);
    }

    /// Returns whether to try another address of a member now. Shares the rate of the hints.
    pub(super) fn take_trial(&mut self, now: Instant) -> bool {
        self.hints.take(1, now)
    }

    /// Returns whether to follow a hint that a member is at `address`.
    pub(super) fn accept_hint(&mut self, address: SocketAddr, now: Instant) -> bool {
        let address = canonical(address);
        self.forget_old_hints(now);
        let again = self.hinted.get(&address);
        let is_fresh =
            again.is_some_and(|it| now.saturating_duration_since(it.since) < HINT_PERIOD);
        if is_fresh || !self.hints.take(1, now) {
            return false;
        }
        if again.is_none() && self.hinted.len() >= HINTS_MAX {
            let oldest = oldest(&self.hinted, |it| it.since);
            oldest.and_then(|address| self.hinted.remove(&address));
        }
        self.hinted.insert(address, Hint::new(now));
        true
    }

    fn forget_old_hints(&mut self, now: Instant) {
        self.hinted
            .retain(|_, it| now.saturating_duration_since(it.since) < HINT_LIFETIME);
    }

    /// Returns when the next greetings are due.
    pub(super) fn poll_timeout(&self) -> Instant {
        let hints = self.hinted.values().map(|hint| hint.next);
        hints.fold(self.next, Instant::min)
    }

    /// Greets the seeds, hinted addresses and lost members that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant, lives: &mut NodeLives) {
        if now < self.poll_timeout() {
            return;
        }
        let live = lives.roster.live().values();
        let members = live
            .flat_map(|it| lives.links.table.addresses(it))
            .collect();
        let trust = lives.admission.trust.load();
        self.retain_lost(|node| trust.is_member(node));
        drop(trust);
        for address in self.due(now, &members, &mut lives.rng) {
            lives.approach(now, address);
        }
    }

    /// Returns the addresses to greet now.
    fn due(
        &mut self,
        now: Instant,
        members: &BTreeSet<SocketAddr>,
        rng: &mut StdRng,
    ) -> Vec<SocketAddr> {
        let mut due = self.due_hints(now, members);
        if self.next <= now {
            let scheduled = self.due_by_schedule(now, members, rng);
            let further = scheduled.into_iter().filter(|it| !due.contains(it));
            due.extend(further.collect::<Vec<_>>());
        }
        due
    }

    /// Returns the hinted addresses to greet again now. Forgets those at which a member is.
    fn due_hints(&mut self, now: Instant, members: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        self.forget_old_hints(now);
        self.hinted.retain(|address, _| !members.contains(address));
        let due = self.hinted.iter_mut();
        let due = due.filter_map(|(address, hint)| hint.take_due(now).then_some(*address));
        due.collect()
    }

    /// Returns the addresses to greet with the seeds, and schedules the next greetings.
    fn due_by_schedule(
        &mut self,
        now: Instant,
        members: &BTreeSet<SocketAddr>,
        rng: &mut StdRng,
    ) -> Vec<SocketAddr> {
        let strangers = self.addresses.difference(members).copied();
        let mut strangers: Vec<_> = strangers.collect();
        let lost: BTreeSet<_> = self.lost.values().flatten().copied().collect();
        let is_new = |it: &SocketAddr| !members.contains(it) && !self.addresses.contains(it);
        let mut lost: Vec<_> = lost.into_iter().filter(is_new).collect();
        if members.is_empty() {
            let hinted = self.hinted.keys().copied();
            strangers.extend(hinted.filter(|it| is_new(it) && !lost.contains(it)));
            let last = ALONE_GAPS_MS.len() - 1;
            let gap_ms = ALONE_GAPS_MS[self.greeted_alone.min(last)];
            self.greeted_alone += 1;
            self.next = now + Duration::from_millis(gap_ms);
            strangers.shuffle(rng);
            lost.shuffle(rng);
            // Neither group may crowd out the other.
            strangers.truncate(GREETINGS_MAX - lost.len().min(GREETINGS_MAX / 2));
            lost.truncate(GREETINGS_MAX - strangers.len());
            strangers.extend(lost);
            strangers
        } else {
            self.greeted_alone = 0;
            self.next = now + self.period;
            let one_of_each = strangers.choose(rng).into_iter().chain(lost.choose(rng));
            one_of_each.copied().collect()
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
        seeds: &mut SeedSchedule,
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
    fn a_lonely_node_greets_often_then_less_but_never_stops() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[address(1)], Duration::from_secs(30), start);
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
    fn a_member_of_a_cluster_still_greets_one_stranger_each_period() {
        let start = Instant::now();
        let all: Vec<_> = (0..5).map(address).collect();
        let mut seeds = SeedSchedule::new(&all, Duration::from_secs(30), start);
        let members = BTreeSet::from([address(0), address(1)]);
        let times = greetings(&mut seeds, &members, start + Duration::from_secs(3000));
        assert_eq!(times.len(), 101);
    }

    #[test]
    fn lost_members_leave_room_for_the_seeds_and_are_dropped_when_removed() {
        let start = Instant::now();
        let node = |n: u16| NodeId::new([n as u8; 32]);
        let mut seeds = SeedSchedule::new(&[address(1)], Duration::from_secs(30), start);
        (100..200).for_each(|n| seeds.add_lost(node(n), BTreeSet::from([address(n)])));
        let mut rng = StdRng::seed_from_u64(1);
        let greeted = seeds.due(start, &BTreeSet::new(), &mut rng);
        assert!(greeted.len() == GREETINGS_MAX && greeted.contains(&address(1)));
        seeds.remove_lost(&node(150));
        seeds.retain_lost(|it| *it == node(150) || *it == node(151));
        let later = start + Duration::from_secs(1);
        let greeted = seeds.due(later, &BTreeSet::new(), &mut rng);
        assert_eq!(greeted, [address(1), address(151)]);
        let known = BTreeSet::from([address(7)]);
        let greeted = seeds.due(later + Duration::from_secs(60), &known, &mut rng);
        assert_eq!(greeted, [address(1), address(151)]);
    }

    #[test]
    fn seeds_and_hints_are_limited() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[], Duration::from_secs(30), start);
        (0..3000).for_each(|n| seeds.add(address(n), start));
        assert_eq!(seeds.addresses.len(), SEEDS_MAX);
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(
            seeds.due(start, &BTreeSet::new(), &mut rng).len(),
            GREETINGS_MAX
        );
        let followed = (0..3000)
            .filter(|n| seeds.accept_hint(address(*n), start))
            .count();
        assert_eq!(followed, 4 * HINTS_PER_S as usize);
        assert!(
            !seeds.accept_hint(address(0), start + Duration::from_secs(1)),
            "too soon again"
        );
    }

    #[test]
    fn a_hinted_address_is_greeted_ever_less_often_and_not_forever() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[], Duration::from_secs(30), start);
        let mut rng = StdRng::seed_from_u64(1);
        let known = BTreeSet::from([address(2)]);
        assert!(seeds.accept_hint(address(1), start));
        let mut greeted_s = Vec::new();
        while seeds.poll_timeout() < start + 2 * HINT_LIFETIME {
            let now = seeds.poll_timeout();
            if seeds.due(now, &known, &mut rng) == [address(1)] {
                greeted_s.push(now.duration_since(start).as_secs());
            }
        }
        assert_eq!(greeted_s, [1, 3, 7, 15, 31, 63, 127, 255, 511]);
    }

    #[test]
    fn a_hinted_address_of_a_member_is_not_greeted_again() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[], Duration::from_secs(30), start);
        let mut rng = StdRng::seed_from_u64(1);
        assert!(seeds.accept_hint(address(1), start));
        let known = BTreeSet::from([address(1)]);
        let later = start + HINT_RETRY_MIN;
        assert!(seeds.due(later, &known, &mut rng).is_empty());
        assert!(seeds.hinted.is_empty());
    }

    #[test]
    fn a_hinted_address_is_greeted_while_the_node_is_alone_but_not_forever() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[], Duration::from_secs(30), start);
        let mut rng = StdRng::seed_from_u64(1);
        assert!(seeds.accept_hint(address(1), start));
        let greeted = seeds.due(start, &BTreeSet::new(), &mut rng);
        assert_eq!(greeted, [address(1)]);
        let old = start + HINT_LIFETIME;
        assert!(seeds.due(old, &BTreeSet::new(), &mut rng).is_empty());
    }

    #[test]
    fn invented_hints_displace_the_oldest() {
        let start = Instant::now();
        let mut seeds = SeedSchedule::new(&[], Duration::from_secs(30), start);
        for n in 0..3 * HINTS_MAX as u16 {
            let now = start + u32::from(n) * Duration::from_secs(1);
            assert!(seeds.accept_hint(address(n), now));
        }
        assert_eq!(seeds.hinted.len(), HINTS_MAX);
        assert!(
            seeds
                .hinted
                .contains_key(&address(3 * HINTS_MAX as u16 - 1))
        );
    }
}
