//! Promises about expelled members and new secrets, under partitions.
//!
//! Each node has its own ledger. The harness replaces TLS: it shows each end's key to the other,
//! and asks both ends whether that key is a member's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use p2pfs_proto::trust::{
    CHAIN_MAX, EPOCH_OVERLAP_S, EPOCH_SWITCH_S, EpochSecret, Grant, InvitedNode, Known, Ledger,
    LedgerSigner, Reply, SignedStatement, StoredTrust, TrustCommand, TrustError, TrustView,
};
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use parking_lot::Mutex;
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
        found(&mut world, index);
    }
    for index in 1..count {
        let (id, name) = (world.nodes[index].id, world.nodes[index].name.clone());
        let admin = &mut world.nodes[0];
        let key = admin.key.clone();
        let stored = admin.trust.as_mut().expect("it founded a cluster");
        let admitted = stored
            .ledger
            .signer(&key, now_s)
            .admit(id, name, index == 1);
        admitted.unwrap();
        let chain = stored.ledger.chain(&id);
        let joined = StoredTrust {
            ledger: Ledger::of(chain).expect("certificates from the founding"),
            ..stored.clone()
        };
        world.nodes[index].trust = Some(joined);
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

/// Lets a stopped node found its own cluster.
pub(super) fn found(world: &mut World, index: usize) {
    let now_s = world.unix_s();
    let node = &mut world.nodes[index];
    node.trust = Some(StoredTrust {
        secret: EpochSecret::new([index as u8 + 1; 32]),
        ledger: Ledger::found(&node.key, node.name.clone(), now_s),
        former_names: BTreeSet::new(),
    });
}

/// Returns what a running node knows of its cluster.
pub(super) fn trust(world: &World, index: usize) -> &TrustView {
    world.running(index).machine.trust()
}

/// The result of a command, once the node has stored it.
pub(super) type Answered<T> = Arc<Mutex<Option<Result<T, TrustError>>>>;

/// Gives a running node a command on its ledger.
pub(super) fn command<T: Send + 'static>(
    world: &mut World,
    index: usize,
    command: impl FnOnce(Reply<Result<T, TrustError>>) -> TrustCommand,
) -> Answered<T> {
    let answered = Answered::default();
    let slot = answered.clone();
    let command = command(Box::new(move |result| *slot.lock() = Some(result)));
    world.with(index, |machine, now| machine.command(now, command));
    answered
}

/// Makes statements on a running node whose disk answers at once.
pub(super) fn state(
    world: &mut World,
    admin: usize,
    claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError> + Send + 'static,
) {
    let claims = Box::new(claims);
    let stated = command(world, admin, |reply| TrustCommand::State { claims, reply });
    stated.lock().take().expect("it is stored").unwrap();
}

/// Lets the stopped node `joiner` join by an invitation of the running node `admin`.
pub(super) fn admit(world: &mut World, admin: usize, joiner: usize) {
    let node = &world.nodes[joiner];
    let invited = InvitedNode {
        node: node.id,
        name: node.name.clone(),
        grant: Grant::default(),
        known: Known::of(trust(world, admin).ledger()),
        is_repeated: false,
    };
    let admitted = command(world, admin, |reply| TrustCommand::Admit { invited, reply });
    let welcome = admitted.lock().take().expect("it is stored").unwrap();
    let chain = SignedStatement::decode_all(&welcome.chain, CHAIN_MAX).expect("certificates");
    world.nodes[joiner].trust = Some(StoredTrust {
        secret: EpochSecret::clone(&welcome.secret),
        ledger: Ledger::of(chain).expect("certificates from the founding"),
        former_names: BTreeSet::new(),
    });
}

pub(super) fn expel(world: &mut World, admin: usize, out: usize) {
    let id = world.nodes[out].id;
    rotate_with(world, admin, move |it| it.expel(id));
}

pub(super) fn rotate(world: &mut World, admin: usize) {
    rotate_with(world, admin, |_| Ok(Vec::new()));
}

fn rotate_with(
    world: &mut World,
    admin: usize,
    claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError> + Send + 'static,
) {
    let claims = Box::new(claims);
    let rotated = command(world, admin, |reply| TrustCommand::StateAndRotate {
        claims,
        reply,
    });
    rotated.lock().take().expect("it is stored").unwrap();
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
pub(super) fn is_one(world: &World, nodes: &BTreeSet<usize>) -> bool {
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
        let newest = trust(world, index).epochs().newest();
        seen == ids && listed == names && newest == trust(world, first).epochs().newest()
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
    let known = trust(world, out).epochs();
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
        // Only the second node learns of the admission. Later only the others can meet the new
        // node.
        world.part(&[&[1], &[0, 2, 3, 4]]);
        world.run_for(SECOND);
        admit(&mut world, 1, new);
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
