//! Promises about expelled members and new secrets, under partitions.
//!
//! Each node has its own ledger. The harness replaces TLS: it shows each end's key to the other,
//! and asks both ends whether that key is a member's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use p2pfs_proto::trust::{EPOCH_OVERLAP_S, EPOCH_SWITCH_S, EpochSecret, Keyring};
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use rand::RngExt;

use crate::nodes::model::listing;
use crate::nodes::network::{Payload, Weather};
use crate::nodes::world::{Death, World, live_of};
use crate::support::seeds::each_seed;

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Time after which an expelled node can read no sealed data and hears from no member.
pub(super) const BOUND: Duration = Duration::from_secs(EPOCH_SWITCH_S + EPOCH_OVERLAP_S + 5);

/// Starts nodes that know each other. The first founded the cluster, the second may also admit and
/// expel, and each shares a file.
pub(super) fn certified(count: usize, seed: u64, weather: Weather) -> World {
    let mut world = World::new(seed, weather);
    let now_s = world.unix_s();
    for index in 0..count {
        world.add();
        let node = &mut world.nodes[index];
        let secret = EpochSecret::new([index as u8 + 1; 32]);
        let keyring = Keyring::founded_in_memory(secret, &node.key, node.name.clone(), now_s);
        node.keyring = Some(Arc::new(keyring));
    }
    for index in 1..count {
        admit(&world, 0, index, index == 1);
    }
    for index in 0..count {
        let hash = world.content(1000 + index);
        world.put(index, &format!("file{index}"), hash);
        world.boot(index);
    }
    let all: BTreeSet<usize> = (0..count).collect();
    let met = world.run_until(60 * SECOND, |world| is_one(world, &all));
    assert!(met.is_some(), "the nodes did not meet");
    world
}

pub(super) fn keyring(world: &World, index: usize) -> &Keyring {
    world.nodes[index]
        .keyring
        .as_ref()
        .expect("a certified world")
}

/// Lets `joiner` join by an invitation of `admin`.
fn admit(world: &World, admin: usize, joiner: usize, as_admin: bool) {
    let (inviter, node) = (keyring(world, admin), &world.nodes[joiner]);
    let name = node.name.clone();
    inviter
        .state(&world.nodes[admin].key, |it| {
            it.admit(node.id, name, as_admin)
        })
        .unwrap();
    let secret = EpochSecret::new(*inviter.epochs().newest().as_bytes());
    let chain = inviter.proofs().of_membership(&node.id);
    keyring(world, joiner)
        .join(&node.id, secret, &chain, &Default::default())
        .unwrap();
}

pub(super) fn expel(world: &mut World, admin: usize, out: usize) {
    let id = world.nodes[out].id;
    keyring(world, admin)
        .state(&world.nodes[admin].key, |it| it.expel(id))
        .unwrap();
    rotate(world, admin);
}

pub(super) fn rotate(world: &mut World, admin: usize) {
    keyring(world, admin)
        .rotate(&world.nodes[admin].key)
        .unwrap();
    membership_changed(world, admin);
}

/// Lets a node apply a change of its own ledger and announce it.
pub(super) fn membership_changed(world: &mut World, admin: usize) {
    let now = world.now;
    let running = world.nodes[admin].running.as_mut().expect("it runs");
    running.machine.advance(now);
    world.settle(admin);
}

/// Returns the content of the file that a node shares.
fn file_of(world: &World, index: usize) -> ContentHash {
    let mut shared = world.nodes[index].shares.values();
    let hash = shared.find_map(|entry| match entry.kind {
        Kind::File { hash, .. } => Some(hash),
        _ => None,
    });
    hash.expect("each shares a file")
}

/// Returns whether exactly these nodes see each other alive, list the same files, and agree on the
/// secret.
fn is_one(world: &World, nodes: &BTreeSet<usize>) -> bool {
    let ids: BTreeSet<NodeId> = nodes.iter().map(|n| world.nodes[*n].id).collect();
    let names: BTreeSet<String> = nodes.iter().map(|n| format!("file{n}")).collect();
    nodes.iter().all(|&index| {
        let Some(running) = &world.nodes[index].running else {
            return false;
        };
        let mut seen: BTreeSet<NodeId> = live_of(running).into_iter().collect();
        seen.insert(world.nodes[index].id);
        let listed = listing(&running.view);
        let listed: BTreeSet<String> = listed.keys().map(|path| path.to_string()).collect();
        let first = *nodes.first().expect("some");
        let newest = keyring(world, index).epochs().newest();
        seen == ids && listed == names && newest == keyring(world, first).epochs().newest()
    })
}

/// Asserts that from now on no member sends to a node, and that it can open nothing that it
/// overhears.
pub(super) fn assert_shut_out(world: &mut World, out: usize, members: &BTreeSet<usize>) {
    world.network.recording = Some(Vec::new());
    let hash = world.content(777);
    let first = *members.first().expect("some");
    world.put(first, "after", hash);
    world.run_for(20 * SECOND);
    let sent = world.network.recording.take().expect("it was recorded");
    let known = keyring(world, out).epochs();
    let opens = |datagram: &[u8]| known.all().any(|secret| datagram[2..10] == secret.id().0);
    let addresses: BTreeSet<_> = members.iter().map(|n| world.nodes[*n].address).collect();
    let readable = sent
        .iter()
        .filter(|parcel| addresses.contains(&parcel.from));
    let readable = readable.filter(|parcel| match &parcel.payload {
        Payload::Datagram(bytes) => opens(bytes),
        _ => false,
    });
    assert_eq!(readable.count(), 0, "it could read what members say");
    let listed = listing(&world.running(out).view);
    assert!(
        !listed.keys().any(|path| path.to_string() == "after"),
        "it learned a name"
    );
    let own = world.nodes[out].id;
    for &member in members {
        let running = world.running(member);
        assert!(!live_of(running).contains(&own));
        assert!(
            running.machine.known().logs().head_of(&own).is_none(),
            "its names are gone"
        );
    }
    world.remove(first, "after");
    world.run_for(5 * SECOND);
}

#[test]
fn an_expelled_node_gets_no_byte_or_name_after_the_bound_and_no_other_is_cut_off() {
    each_seed(12, |seed| {
        let mut world = certified(5, seed, Weather::stormy(0.05));
        let admin = (seed % 2) as usize;
        let out = 2 + (seed % 3) as usize;
        expel(&mut world, admin, out);
        let members: BTreeSet<usize> = (0..5).filter(|n| *n != out).collect();
        let id = world.nodes[out].id;
        let soon = world.run_until(10 * SECOND, |world| {
            members
                .iter()
                .all(|n| !live_of(world.running(*n)).contains(&id))
        });
        assert!(soon.is_some(), "it is still a member somewhere");
        // No member answers its requests now, although it can still read some gossip.
        let file = file_of(&world, admin);
        assert!(world.read_to_end(out, file).is_err(), "it got a byte");
        world.run_for(BOUND);
        assert!(is_one(&world, &members));
        assert_shut_out(&mut world, out, &members);
        assert!(is_one(&world, &members));
    });
}

#[test]
fn partitioned_nodes_respect_an_expulsion_and_unite_under_the_fresh_secret() {
    each_seed(12, |seed| {
        let mut world = certified(6, seed, Weather::calm());
        // The expelled node is in the part that does not learn of the expulsion.
        let out = 5;
        world.part(&[&[0, 2], &[1, 3, 4, 5]]);
        let apart = Duration::from_secs(world.rng.random_range(1..200));
        expel(&mut world, 0, out);
        world.run_for(apart);
        if seed % 3 == 0 {
            // Meanwhile each side makes its own secret.
            rotate(&mut world, 1);
            let rest = Duration::from_secs(world.rng.random_range(0..100));
            world.run_for(rest);
        }
        world.heal();
        let members: BTreeSet<usize> = (0..5).collect();
        let took = world.run_until(180 * SECOND, |world| is_one(world, &members));
        assert!(took.is_some(), "they did not come together");
        world.run_for(BOUND);
        assert!(is_one(&world, &members));
        assert_shut_out(&mut world, out, &members);
    });
}

#[test]
fn a_node_absent_during_rotations_returns_by_its_certificate() {
    each_seed(12, |seed| {
        let mut world = certified(4, seed, Weather::stormy(0.05));
        world.crash(3, Death::Power);
        world.run_for(5 * SECOND);
        for turn in 0..1 + seed % 3 {
            rotate(&mut world, (turn % 2) as usize);
            let rest = Duration::from_secs(world.rng.random_range(1..100));
            world.run_for(rest);
        }
        world.run_for(BOUND);
        world.boot(3);
        let all: BTreeSet<usize> = (0..4).collect();
        let back = world.run_until(120 * SECOND, |world| is_one(world, &all));
        assert!(back.is_some(), "it did not come back");
    });
}

#[test]
fn a_node_expelled_while_off_is_refused_everywhere() {
    each_seed(12, |seed| {
        let mut world = certified(4, seed, Weather::calm());
        world.crash(3, Death::Power);
        world.run_for(5 * SECOND);
        expel(&mut world, 1, 3);
        world.run_for(BOUND);
        world.boot(3);
        world.run_for(60 * SECOND);
        let members: BTreeSet<usize> = (0..3).collect();
        assert!(is_one(&world, &members));
        assert!(live_of(world.running(3)).is_empty());
        assert_shut_out(&mut world, 3, &members);
    });
}

#[test]
fn a_new_member_is_accepted_by_nodes_that_have_not_learned_of_its_admission() {
    each_seed(12, |seed| {
        let mut world = certified(4, seed, Weather::calm());
        let new = world.add();
        let node = &mut world.nodes[new];
        let secret = EpochSecret::new([99; 32]);
        let keyring = Keyring::founded_in_memory(secret, &node.key, node.name.clone(), 1);
        node.keyring = Some(Arc::new(keyring));
        // Only the second node learns of the admission. Later only the others can meet the new
        // node.
        world.part(&[&[1], &[0, 2, 3, 4]]);
        world.run_for(SECOND);
        admit(&world, 1, new, false);
        let hash = world.content(5000);
        world.put(new, &format!("file{new}"), hash);
        world.boot(new);
        let without: BTreeSet<usize> = [0, 2, 3, 4].into();
        let taken = world.run_until(60 * SECOND, |world| {
            let id = world.nodes[new].id;
            [0, 2, 3]
                .iter()
                .all(|n| live_of(world.running(*n)).contains(&id))
        });
        assert!(taken.is_some(), "it was not taken by {without:?}");
        world.heal();
        let all: BTreeSet<usize> = (0..5).collect();
        let one = world.run_until(120 * SECOND, |world| is_one(world, &all));
        assert!(one.is_some());
    });
}
