//! Promises about reads: right bytes or an error, and right bytes while any node has them.

use std::time::Duration;

use p2pfs_catalogue::Rule;
use p2pfs_fetch::plan::PlanError;
use p2pfs_node::Offence;
use p2pfs_node::machine::NodeEvent;
use p2pfs_node::machine::UNSERVED_FOR;
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::digest::ContentHash;
use rand::RngExt;

use crate::nodes::fetching::PATIENCE;
use crate::nodes::namespace::settle;
use crate::nodes::network::Weather;
use crate::nodes::running::Manner;
use crate::nodes::world::{Death, World, path};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a world in which all nodes but the first share one file.
fn with_holders(count: usize, seed: u64, weather: Weather, size: usize) -> (World, ContentHash) {
    let mut world = World::of(count, seed, weather);
    let hash = world.content(size);
    for node in 1..count {
        world.put(node, &format!("of{node}"), hash);
    }
    settle(&mut world, 30 * SECOND);
    (world, hash)
}

fn outcome(world: &World, reader: usize) -> Option<Result<(), PlanError>> {
    let ended = &world.running(0).readers[reader].ended;
    ended.as_ref().map(|(_, outcome)| outcome.clone())
}

#[test]
fn a_file_is_read_from_any_holder() {
    each_seed(30, |seed| {
        let size = [0, 1, 4096, 65_536, 200_001, 1_500_000][seed as usize % 6];
        let weather = Weather::stormy((seed % 3) as f64 / 10.0);
        let (mut world, hash) = with_holders(4, seed, weather, size);
        assert_eq!(world.read_to_end(0, hash), Ok(()));
        // A file that was read to its end is listed as cached, and can be read again without any
        // peer.
        settle(&mut world, 30 * SECOND);
        (1..4).for_each(|node| world.crash(node, Death::Power));
        assert_eq!(world.read_to_end(0, hash), Ok(()));
    });
}

#[test]
fn with_another_holder_alive_a_read_completes_despite_dead_lying_or_silent_ones() {
    each_seed(60, |seed| {
        let size = world_size(seed);
        let (mut world, hash) = with_holders(5, seed, Weather::calm(), size);
        world.network.weather.rate = 5e6;
        let good = world.rng.random_range(1..5);
        let mut doomed = Vec::new();
        for node in (1..5).filter(|node| *node != good) {
            match world.rng.random_range(0..4) {
                0 => world.nodes[node].manner = Manner::Liar,
                1 => world.nodes[node].manner = Manner::Mute,
                2 => doomed.push((node, Death::Process)),
                _ => doomed.push((node, Death::Power)),
            }
        }
        let reader = world.read(0, hash);
        for (node, death) in doomed {
            let wait = Duration::from_millis(world.rng.random_range(0..300));
            world.run_for(wait);
            world.crash(node, death);
        }
        let ended = |world: &World| outcome(world, reader).is_some();
        assert!(world.run_until(60 * SECOND, ended).is_some());
        assert_eq!(outcome(&world, reader), Some(Ok(())));
        let longest = world.running(0).readers[reader].longest_wait;
        assert!(longest < 5 * SECOND, "a read waited {longest:?}");
    });
}

fn world_size(seed: u64) -> usize {
    [150_000, 800_000, 3_000_000][seed as usize % 3]
}

#[test]
fn a_sender_of_wrong_bytes_is_excluded_and_not_asked_again() {
    each_seed(20, |seed| {
        let (mut world, hash) = with_holders(3, seed, Weather::calm(), 700_000);
        let next = world.content(700_000);
        for node in 1..3 {
            world.put(node, &format!("next{node}"), next);
        }
        world.nodes[1].manner = Manner::Liar;
        let liar = world.nodes[1].id;
        settle(&mut world, 10 * SECOND);
        for hash in [hash, next] {
            assert_eq!(world.read_to_end(0, hash), Ok(()));
        }
        let running = world.running(0);
        assert!(running.liars.iter().all(|(_, node)| *node == liar));
        assert!(running.liars.len() <= 1, "a shunned node was asked again");
        let rates = running.session.plan.peers().rates(world.now);
        let asked = rates.iter().find(|rate| rate.node == liar);
        let said_wrong = !running.liars.is_empty();
        assert_eq!(asked.is_some_and(|rate| rate.shunned), said_wrong);
    });
}

#[test]
fn when_all_holders_lie_a_reader_gets_an_error_by_the_deadline() {
    each_seed(15, |seed| {
        let (mut world, hash) = with_holders(4, seed, Weather::calm(), 300_000);
        (1..4).for_each(|node| world.nodes[node].manner = Manner::Liar);
        let begun = world.now;
        assert_eq!(world.read_to_end(0, hash), Err(PlanError::OnlyLiars));
        assert!(world.now - begun <= PATIENCE + SECOND);
    });
}

#[test]
fn when_every_holder_is_gone_a_reader_gets_an_error_by_the_deadline() {
    each_seed(30, |seed| {
        // The file is larger than three links carry in 400 ms plus the bytes then in flight.
        let (mut world, hash) = with_holders(4, seed, Weather::calm(), 4_000_000);
        world.network.weather.rate = 1e6;
        let reader = world.read(0, hash);
        let wait = Duration::from_millis(world.rng.random_range(0..400));
        world.run_for(wait);
        for node in 1..4 {
            match seed % 3 {
                0 => world.crash(node, Death::Process),
                1 => world.crash(node, Death::Power),
                _ => world.nodes[node].manner = Manner::Mute,
            }
        }
        let begun = world.now;
        let ended = |world: &World| outcome(world, reader).is_some();
        assert!(world.run_until(60 * SECOND, ended).is_some());
        assert!(matches!(outcome(&world, reader), Some(Err(_))));
        let took = world.now - begun;
        assert!(took <= PATIENCE * 3 + SECOND, "{took:?}");
    });
}

#[test]
fn a_changed_file_is_never_read_as_its_old_version() {
    each_seed(20, |seed| {
        let (mut world, hash) = with_holders(3, seed, Weather::calm(), 1_000_000);
        world.network.weather.rate = 2e6;
        let reader = world.read(0, hash);
        let wait = Duration::from_millis(world.rng.random_range(0..400));
        world.run_for(wait);
        let newer = world.content(1_000_000);
        for node in 1..3 {
            world.put(node, &format!("of{node}"), newer);
        }
        let ended = |world: &World| outcome(world, reader).is_some();
        assert!(world.run_until(60 * SECOND, ended).is_some());
        assert_eq!(world.read_to_end(0, newer), Ok(()));
        settle(&mut world, 10 * SECOND);
    });
}

#[test]
fn a_part_of_a_file_in_a_cache_is_served_when_its_owner_is_gone() {
    each_seed(15, |seed| {
        let mut world = World::of(3, seed, Weather::calm());
        let hash = world.content(1_200_000);
        world.put(2, "large", hash);
        settle(&mut world, 10 * SECOND);
        world.network.weather.rate = 1e6;
        let reader = world.read(1, hash);
        world.run_for(Duration::from_millis(500));
        assert!(world.running(1).readers[reader].ended.is_none());
        let held = world.nodes[1].cache[&hash].offered();
        world.network.weather.rate = 100e6;
        // Node 0 begins while the owner is alive, so it knows the file, and continues without the
        // owner.
        world.read(0, hash);
        world.crash(2, Death::Process);
        world.run_for(8 * SECOND);
        let got = world.nodes[0].cache[&hash].present().clone();
        let first = held.iter().next().expect("some of it is held");
        assert!(got.contains(first), "{got:?} of {held:?}");
    });
}

/// Returns the content that a name shows on the first node.
fn shown(world: &World, name: &str) -> Option<ContentHash> {
    match world.running(0).view.lookup(&path(name))?.kind {
        Kind::File { hash, .. } => Some(hash),
        Kind::Directory | Kind::Symlink { .. } => None,
    }
}

#[test]
fn newest_version_of_a_mute_holder_loses_its_name_after_one_failed_read() {
    each_seed(20, |seed| {
        let mut world = World::of(3, seed, Weather::calm());
        let old = world.content(300_000);
        world.put(1, "name", old);
        settle(&mut world, 30 * SECOND);
        world.run_for(2 * SECOND);
        let newest = world.content(300_000);
        world.put(2, "name", newest);
        settle(&mut world, 30 * SECOND);
        assert_eq!(shown(&world, "name"), Some(newest));
        world.nodes[2].manner = Manner::Mute;
        assert!(world.read_to_end(0, newest).is_err());
        let shows_old = |world: &World| shown(world, "name") == Some(old);
        assert!(world.run_until(2 * SECOND, shows_old).is_some());
        assert_eq!(world.read_to_end(0, old), Ok(()));
        let mute = world.nodes[2].id;
        let is_named = world.running(0).events.iter().any(|(_, event)| {
            matches!(event, NodeEvent::Offended { node, what: Offence::GivesNothing } if *node == mute)
        });
        assert!(is_named);
        world.run_for(UNSERVED_FOR);
        assert_eq!(shown(&world, "name"), Some(newest), "it is tried again");
    });
}

/// A world in which the second node shares one version of a name, and the third one replaces its
/// newer version of the name again and again.
struct Churn {
    world: World,
    old: ContentHash,
    newest: ContentHash,
    reader: Option<usize>,
}

impl Churn {
    fn begin(seed: u64) -> Self {
        let mut world = World::of(3, seed, Weather::calm());
        let old = world.content(300_000);
        world.put(1, "name", old);
        settle(&mut world, 30 * SECOND);
        world.run_for(2 * SECOND);
        // a version takes as long to read as it is listed
        world.network.weather.rate = 200e3;
        Self {
            world,
            old,
            newest: old,
            reader: None,
        }
    }

    /// Replaces the third node's version, and begins a read of what the name shows if the previous
    /// read is over. Returns whether a read succeeded since the previous call.
    fn step(&mut self) -> bool {
        self.replace();
        self.world.run_for(SECOND / 2);
        let ended = self.read_again();
        let rest = Duration::from_millis(self.world.rng.random_range(500..3500));
        self.world.run_for(rest);
        ended == Some(Ok(()))
    }

    fn replace(&mut self) {
        self.newest = self.world.content(300_000);
        self.world.put(2, "name", self.newest);
    }

    /// Begins a read of what the name shows if the previous read is over. Returns the end of the
    /// previous read.
    fn read_again(&mut self) -> Option<Result<(), PlanError>> {
        let ended = self.reader.and_then(|reader| outcome(&self.world, reader));
        if self.reader.is_none() || ended.is_some() {
            let shown = shown(&self.world, "name").unwrap();
            self.reader = Some(self.world.read(0, shown));
        }
        ended
    }

    /// Returns whether the first node ranks the third one's version behind the older one.
    fn is_behind(&self) -> bool {
        let versions = self.world.running(0).view.versions(&path("name"));
        versions.iter().any(|version| version.rule == Rule::Served)
    }

    fn is_named(&self) -> bool {
        let author = self.world.nodes[2].id;
        let mut events = self.world.running(0).events.iter();
        events.any(|(_, event)| {
            matches!(event, NodeEvent::Offended { node, what: Offence::GivesNothing } if *node == author)
        })
    }
}

/// Lets the third node replace its versions in a dishonest manner, until they rank behind.
fn loses_the_name_and_is_named(seed: u64, manner: Manner) {
    let mut churn = Churn::begin(seed);
    churn.world.nodes[2].manner = manner;
    let begun = churn.world.now;
    while !churn.is_behind() {
        assert!(!churn.step());
        assert!(
            churn.world.now < begun + 90 * SECOND,
            "the name is still taken"
        );
    }
    assert!(churn.is_named());
    for _ in 0..5 {
        churn.step();
        assert_eq!(shown(&churn.world, "name"), Some(churn.old));
    }
    assert_eq!(churn.world.read_to_end(0, churn.old), Ok(()));
    // another node has not asked, and ranks by the usual rules
    let of_other = churn.world.running(1).view.versions(&path("name"));
    assert!(of_other.iter().all(|it| it.rule != Rule::Served));
    churn.world.run_for(UNSERVED_FOR + SECOND);
    assert_eq!(
        shown(&churn.world, "name"),
        Some(churn.newest),
        "it is tried again"
    );
}

#[test]
fn author_that_replaces_each_version_before_a_read_of_it_fails_loses_the_name_and_is_named() {
    each_seed(5, |seed| {
        loses_the_name_and_is_named(seed, Manner::Withholder);
    });
}

#[test]
fn author_that_gives_only_the_beginning_of_each_version_loses_the_name_and_is_named() {
    each_seed(5, |seed| {
        loses_the_name_and_is_named(seed, Manner::Beginner);
    });
}

#[test]
fn honest_author_of_an_ever_changing_file_keeps_its_name_and_is_not_named() {
    each_seed(5, |seed| {
        let mut churn = Churn::begin(seed);
        let mut succeeded = 0;
        for _ in 0..60 {
            succeeded += u32::from(churn.step());
            assert!(!churn.is_behind());
        }
        assert!(succeeded > 0);
        assert!(!churn.is_named());
    });
}

#[test]
fn honest_author_of_a_file_that_changes_in_mid_read_at_any_speed_is_not_named() {
    each_seed(2, |seed| {
        for pause_ms in [50, 300, 1600, 5000] {
            let pause = Duration::from_millis(pause_ms);
            let mut churn = Churn::begin(seed);
            let end = churn.world.now + 80 * SECOND;
            while churn.world.now < end {
                churn.replace();
                let mut rest = pause;
                while !rest.is_zero() {
                    let next = rest.min(SECOND / 4);
                    churn.world.run_for(next);
                    churn.read_again();
                    rest -= next;
                }
                assert!(!churn.is_named(), "{pause:?}");
            }
        }
    });
}

#[test]
fn honest_author_on_a_slow_link_keeps_its_name_and_is_not_named() {
    each_seed(3, |seed| {
        let mut churn = Churn::begin(seed);
        churn.world.network.weather.rate = 25e3;
        for _ in 0..20 {
            churn.replace();
            for _ in 0..20 {
                churn.world.run_for(SECOND);
                churn.read_again();
            }
            assert!(!churn.is_behind());
        }
        assert!(!churn.is_named());
    });
}

#[test]
fn author_that_crashes_while_each_version_is_read_is_not_named() {
    each_seed(15, |seed| {
        let mut churn = Churn::begin(seed);
        for round in 0..8 {
            churn.replace();
            churn.world.run_for(4 * SECOND);
            churn.read_again();
            let wait = Duration::from_millis(churn.world.rng.random_range(0..1500));
            churn.world.run_for(wait);
            let death = match (seed + round) % 2 {
                0 => Death::Process,
                _ => Death::Power,
            };
            churn.world.crash(2, death);
            let down = Duration::from_millis(churn.world.rng.random_range(500..20_000));
            churn.world.run_for(down);
            churn.world.boot(2);
            churn.world.run_for(2 * SECOND);
            churn.read_again();
            assert!(!churn.is_named());
        }
    });
}

#[test]
fn author_that_gives_a_version_once_and_no_later_one_loses_the_name() {
    each_seed(5, |seed| {
        let mut churn = Churn::begin(seed);
        let begun = churn.world.now;
        churn.world.nodes[2].manner = Manner::Withholder;
        while churn.world.now < begun + PATIENCE * 2 {
            churn.step();
        }
        assert!(!churn.is_behind(), "two versions prove nothing");
        churn.world.nodes[2].manner = Manner::Honest;
        while !churn.step() {}
        assert!(!churn.is_behind());
        churn.world.nodes[2].manner = Manner::Withholder;
        let begun = churn.world.now;
        while !churn.is_behind() {
            churn.step();
            assert!(churn.world.now < begun + 90 * SECOND);
        }
        let took = churn.world.now - begun;
        assert!(
            took > PATIENCE * 2,
            "the count did not begin again: {took:?}"
        );
        assert!(churn.is_named());
    });
}

#[test]
fn author_that_refuses_each_version_loses_the_name_after_a_minute_and_is_not_named() {
    each_seed(5, |seed| {
        let mut churn = Churn::begin(seed);
        churn.world.nodes[2].manner = Manner::Refuser;
        let begun = churn.world.now;
        while !churn.is_behind() {
            assert!(!churn.step());
            assert!(churn.world.now < begun + 90 * SECOND);
        }
        assert!(churn.world.now > begun + 60 * SECOND);
        assert!(!churn.is_named());
        churn.step();
        assert_eq!(churn.world.read_to_end(0, churn.old), Ok(()));
    });
}
