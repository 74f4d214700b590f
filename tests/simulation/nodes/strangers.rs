//! Promises about non-members: nodes with another secret, and a listener that replays datagrams.

use std::time::Duration;

use p2pfs_types::id::Generation;
use rand::RngExt;

use crate::nodes::model::{agrees, explain, listing};
use crate::nodes::namespace::{furnished, settle};
use crate::nodes::network::{Parcel, Payload, Weather};
use crate::nodes::world::{Death, live_of};
use crate::support::seeds::each_seed;

const SECOND: Duration = Duration::from_secs(1);

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

#[test]
fn a_node_with_another_secret_learns_nothing_and_changes_nothing() {
    each_seed(30, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        let before = listing(&world.running(0).view);
        let stranger = world.add();
        world.nodes[stranger].secret = 99;
        let hash = world.content(1000);
        world.put(stranger, "a lure", hash);
        world.boot(stranger);
        world.run_for(60 * SECOND);
        let strange = world.running(stranger);
        assert!(live_of(strange).is_empty() && strange.events.is_empty());
        let own = listing(&strange.view);
        assert_eq!(own.len(), 1, "{own:?}");
        assert!(strange.machine.known().logs().heads().len() <= 1);
        for node in 0..3 {
            let running = world.running(node);
            assert_eq!(listing(&running.view), before);
            assert_eq!(live_of(running).len(), 2);
            let knocks = running.machine.cluster().counters().unusable.unknown_epoch;
            assert_eq!(knocks > 0, node < 2, "the stranger knocks at its seeds");
        }
    });
}

#[test]
fn no_name_of_a_file_or_node_is_in_any_datagram() {
    each_seed(20, |seed| {
        let mut world = furnished(3, seed, Weather::stormy(0.1));
        world.network.recording = Some(Vec::new());
        let hash = world.content(300_000);
        world.put(1, "telltale-name/telltale-file", hash);
        settle(&mut world, 20 * SECOND);
        assert_eq!(world.read_to_end(0, hash), Ok(()));
        world.crash(2, Death::Power);
        world.run_for(10 * SECOND);
        world.boot(2);
        settle(&mut world, 20 * SECOND);
        let sent = world.network.recording.take().expect("it was recorded");
        let ids: Vec<_> = world.nodes.iter().map(|node| node.id).collect();
        for parcel in &sent {
            let Payload::Datagram(bytes) = &parcel.payload else {
                continue;
            };
            assert!(!contains(bytes, b"telltale") && !contains(bytes, b"node1"));
            assert!(!contains(bytes, hash.as_bytes()));
            assert!(ids.iter().all(|id| !contains(bytes, id.as_bytes())));
        }
    });
}

#[test]
fn datagrams_of_an_earlier_generation_change_nothing() {
    each_seed(30, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        world.network.recording = Some(Vec::new());
        let hash = world.content(100);
        world.put(2, "short-lived", hash);
        settle(&mut world, 10 * SECOND);
        world.crash(2, Death::Process);
        world.run_for(Duration::from_millis(seed * 100));
        world.boot(2);
        world.remove(2, "short-lived");
        settle(&mut world, 10 * SECOND);
        let recorded = world.network.recording.take().expect("it was recorded");
        // All nodes, with the restarted one, receive all of it again, from true addresses.
        let members = |world: &crate::nodes::world::World, node: usize| -> Vec<Generation> {
            let cluster = world.running(node).machine.cluster();
            cluster.live().map(|member| member.generation).collect()
        };
        let before: Vec<_> = (0..3).map(|node| members(&world, node)).collect();
        let drops = |world: &crate::nodes::world::World| -> u64 {
            let counters = |n: usize| world.running(n).machine.cluster().counters();
            (0..3)
                .map(|n| counters(n).unusable.replayed + counters(n).untrusted.unproven)
                .sum()
        };
        let dropped = drops(&world);
        for parcel in &recorded {
            world.deliver(parcel.clone());
        }
        for parcel in recorded.iter().rev() {
            let elsewhere = world.nodes[world.rng.random_range(0..3)].address;
            let parcel = Parcel {
                to: elsewhere,
                ..parcel.clone()
            };
            world.deliver(parcel);
            world.run_for(Duration::from_millis(1));
        }
        assert!(drops(&world) > dropped);
        assert!(agrees(&world), "{}", explain(&world));
        world.run_for(20 * SECOND);
        assert!(agrees(&world), "{}", explain(&world));
        let after: Vec<_> = (0..3).map(|node| members(&world, node)).collect();
        assert_eq!(before, after);
    });
}

#[test]
fn garbage_on_the_port_changes_only_a_counter() {
    each_seed(20, |seed| {
        let mut world = furnished(3, seed, Weather::calm());
        world.network.recording = Some(Vec::new());
        world.run_for(5 * SECOND);
        let recorded = world.network.recording.take().expect("it was recorded");
        for parcel in recorded {
            let Payload::Datagram(mut bytes) = parcel.payload else {
                continue;
            };
            match world.rng.random_range(0..4) {
                0 => {
                    let at = world.rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << world.rng.random_range(0..8);
                }
                1 => bytes.truncate(world.rng.random_range(0..bytes.len())),
                2 => bytes.extend_from_slice(&[7; 2000]),
                _ => world.rng.fill(&mut bytes[..]),
            }
            let payload = Payload::Datagram(bytes);
            world.deliver(Parcel { payload, ..parcel });
        }
        assert!(agrees(&world), "{}", explain(&world));
        world.run_for(10 * SECOND);
        assert!(agrees(&world), "{}", explain(&world));
        let counters = (0..3).map(|node| world.running(node).machine.cluster().counters());
        let dropped: u64 = counters
            .map(|c| c.unusable.bad_seal + c.unusable.foreign + c.unusable.unknown_epoch)
            .sum();
        assert!(dropped > 0);
    });
}
