//! Promises about statements of the ledger on disks that are slow, hang, or are cut off by a crash.
//!
//! The harness carries out each write of a machine after a time, or never. A crash loses what is
//! not written. See `p2pfs_proto::trust::keyring` for the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2pfs_proto::trust::{Grant, InvitedNode, Known, StatementId, TrustCommand};
use p2pfs_types::id::NodeId;
use rand::RngExt;

use crate::nodes::expulsion::{
    Answered, SECOND, admit, certified, command, expel, found, is_one, trust,
};
use crate::nodes::network::Weather;
use crate::nodes::running::TrustDisk;
use crate::nodes::world::{Death, World, live_of};
use crate::support::seeds::each_seed;

/// Asserts that every statement that any node knows is on the disk of its author, and that no
/// author has two statements with one predecessor. A statement that a crash could still take back
/// has been seen by its author alone.
fn assert_all_seen_is_stored(world: &World) {
    let stored: BTreeMap<NodeId, _> = world
        .nodes
        .iter()
        .filter_map(|node| Some((node.id, &node.trust.as_ref()?.ledger)))
        .collect();
    let mut after: BTreeMap<(NodeId, Option<StatementId>), StatementId> = BTreeMap::new();
    for node in &world.nodes {
        let running = node.running.as_ref();
        let Some(ledger) = running.and_then(|it| it.machine.trust().ledger()) else {
            continue;
        };
        for signed in ledger.statements() {
            let (by, id) = (signed.statement.by, signed.id());
            let is_stored = stored
                .get(&by)
                .is_some_and(|disk| disk.statements().any(|it| it.id() == id));
            assert!(is_stored, "{} knows what its author can lose", node.name);
            let first = after.entry((by, signed.statement.before)).or_insert(id);
            assert_eq!(*first, id, "an honest node has one chain");
        }
    }
}

/// Runs for a time, and checks all along that nothing unstored was seen.
fn run_checked(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let step = Duration::from_millis(200).min(end - world.now);
        world.run_for(step);
        assert_all_seen_is_stored(world);
    }
}

/// Returns whether these nodes run and agree on all statements and on the secret.
fn agree(world: &World, nodes: &BTreeSet<usize>) -> bool {
    let known = |index: usize| {
        let trust = trust(world, index);
        let digest = trust.ledger().map(|ledger| ledger.digest());
        (digest, trust.epochs().newest().id(), trust.wanted_epoch())
    };
    let first = *nodes.first().expect("some");
    let is_running = |index: usize| world.nodes[index].running.is_some();
    nodes.iter().all(|it| is_running(*it)) && nodes.iter().all(|it| known(*it) == known(first))
}

/// Returns the digest of the statements that a running node knows.
fn digest(world: &World, index: usize) -> [u8; 32] {
    trust(world, index).ledger().expect("a ledger").digest()
}

/// Asks a running node to expel another with a fresh secret, whenever its disk answers.
fn ask_to_expel(world: &mut World, admin: usize, out: NodeId) -> Answered<()> {
    command(world, admin, |reply| TrustCommand::StateAndRotate {
        claims: Box::new(move |signer| signer.expel(out)),
        reply: Box::new(move |made| reply(made.map(drop))),
    })
}

/// Asks a running node to state that it leaves.
fn ask_to_resign(world: &mut World, index: usize) -> Answered<()> {
    let me = world.nodes[index].id;
    command(world, index, |reply| TrustCommand::State {
        claims: Box::new(move |signer| signer.expel(me)),
        reply,
    })
}

/// Asks a running node to admit a stopped one.
fn ask_to_admit(world: &mut World, admin: usize, joiner: usize) -> Answered<()> {
    let node = &world.nodes[joiner];
    let invited = InvitedNode {
        node: node.id,
        name: node.name.clone(),
        grant: Grant::default(),
        known: Known::of(trust(world, admin).ledger()),
        is_repeated: false,
    };
    command(world, admin, |reply| TrustCommand::Admit {
        invited,
        reply: Box::new(move |made| reply(made.map(drop))),
    })
}

#[test]
fn crashes_during_joins_expulsions_and_departures_lose_nothing_that_was_seen() {
    each_seed(12, |seed| {
        let mut world = certified(6, seed, Weather::stormy(0.05));
        for index in 0..6 {
            let time = Duration::from_millis(world.rng.random_range(0..3000));
            world.nodes[index].trust_disk = TrustDisk::After(time);
        }
        // Node 5 leaves, node 4 is expelled, node 6 joins. The administrators die in between.
        let joiner = world.add();
        found(&mut world, joiner);
        let mut answered = Vec::new();
        for turn in 0..6 {
            let admin = (seed as usize + turn) % 2;
            if world.nodes[admin].running.is_none() {
                world.boot(admin);
            }
            let asked = match world.rng.random_range(0..4) {
                0 => ask_to_admit(&mut world, admin, joiner),
                1 => {
                    let out = world.nodes[4].id;
                    ask_to_expel(&mut world, admin, out)
                }
                2 if world.nodes[5].running.is_some() => ask_to_resign(&mut world, 5),
                _ => command(&mut world, admin, |reply| TrustCommand::StateAndRotate {
                    claims: Box::new(|_| Ok(Vec::new())),
                    reply: Box::new(move |made| reply(made.map(drop))),
                }),
            };
            answered.push(asked);
            let rest = Duration::from_millis(world.rng.random_range(0..4000));
            run_checked(&mut world, rest);
            let victim = [admin, 5][world.rng.random_range(0..2)];
            if world.rng.random_bool(0.5) && world.nodes[victim].running.is_some() {
                world.crash(victim, Death::Process);
                let rest = Duration::from_millis(world.rng.random_range(0..2000));
                run_checked(&mut world, rest);
                world.boot(victim);
            }
        }
        for index in 0..6 {
            if world.nodes[index].running.is_none() {
                world.boot(index);
            }
        }
        // Who is out no longer hears the members, so only these have to agree.
        let members: BTreeSet<usize> = [0, 1, 2, 3].into();
        let met = world.run_until(300 * SECOND, |world| agree(world, &members));
        assert!(met.is_some(), "the members do not come together");
        run_checked(&mut world, SECOND);
        // A command that was answered has its effect at the end.
        for answer in answered {
            let answer = answer.lock().take();
            if let Some(Err(error)) = answer {
                let text = error.to_string();
                assert!(text.contains("member"), "{text}");
            }
        }
    });
}

#[test]
fn a_statement_stored_before_a_crash_is_spread_by_the_next_start() {
    each_seed(12, |seed| {
        let mut world = certified(5, seed, Weather::stormy(0.05));
        let joiner = world.add();
        found(&mut world, joiner);
        let (admin, kind) = ((seed % 2) as usize, seed % 3);
        let author = if kind == 2 { 4 } else { admin };
        world.nodes[author].trust_disk = TrustDisk::LastBreath;
        let answered = match kind {
            0 => ask_to_admit(&mut world, author, joiner),
            1 => {
                let out = world.nodes[4].id;
                ask_to_expel(&mut world, author, out)
            }
            _ => ask_to_resign(&mut world, author),
        };
        assert!(world.nodes[author].running.is_none(), "it died");
        assert!(answered.lock().is_none(), "no user was told");
        run_checked(&mut world, 5 * SECOND);
        let subject = world.nodes[if kind == 0 { joiner } else { 4 }].id;
        let others: Vec<usize> = (0..4).filter(|it| *it != author).collect();
        let counts =
            |world: &World, index: &usize| trust(world, *index).is_member(&subject) == (kind == 0);
        assert!(others.iter().all(|it| !counts(&world, it)), "it was spread");
        world.boot(author);
        let told = world.run_until(120 * SECOND, |world| {
            others.iter().all(|it| counts(world, it))
        });
        assert!(told.is_some(), "kind {kind} was not spread");
        assert_all_seen_is_stored(&world);
    });
}

#[test]
fn a_statement_not_stored_before_a_crash_is_seen_by_no_node() {
    each_seed(12, |seed| {
        let mut world = certified(5, seed, Weather::stormy(0.05));
        let joiner = world.add();
        found(&mut world, joiner);
        let admin = (seed % 2) as usize;
        let before: Vec<_> = (0..5).map(|it| digest(&world, it)).collect();
        for index in [admin, 4] {
            world.nodes[index].trust_disk = TrustDisk::Hangs;
        }
        let out = world.nodes[3].id;
        let answered = [
            ask_to_admit(&mut world, admin, joiner),
            ask_to_expel(&mut world, admin, out),
            ask_to_resign(&mut world, 4),
        ];
        run_checked(&mut world, 20 * SECOND);
        assert!(answered.iter().all(|it| it.lock().is_none()));
        for index in [admin, 4] {
            world.crash(index, Death::Power);
            world.nodes[index].trust_disk = TrustDisk::After(Duration::ZERO);
            world.boot(index);
        }
        run_checked(&mut world, 20 * SECOND);
        let after: Vec<_> = (0..5).map(|it| digest(&world, it)).collect();
        assert_eq!(before, after);
        // The chain of the author goes on, and every node takes its next statement.
        expel(&mut world, admin, 3);
        let members: BTreeSet<usize> = [0, 1, 2, 4].into();
        let one = world.run_until(120 * SECOND, |world| is_one(world, &members));
        assert!(one.is_some());
    });
}

#[test]
fn a_node_whose_disk_hangs_enforces_an_expulsion_and_passes_it_on() {
    each_seed(12, |seed| {
        let mut world = certified(5, seed, Weather::calm());
        let (hung, out) = (2, 4);
        world.nodes[hung].trust_disk = TrustDisk::Hangs;
        let id = world.nodes[out].id;
        // The others learn of it from the node whose disk hangs alone.
        world.part(&[&[0, hung], &[1, 3, out]]);
        expel(&mut world, 0, out);
        let is_out = |world: &World, index: usize| !trust(world, index).is_member(&id);
        let soon = world.run_until(10 * SECOND, |world| is_out(world, hung));
        assert!(soon.is_some(), "the disk delays the expulsion");
        world.crash(0, Death::Power);
        world.part(&[&[0], &[1, hung, 3, out]]);
        let told = world.run_until(180 * SECOND, |world| is_out(world, 1) && is_out(world, 3));
        assert!(told.is_some(), "the disk delays the others");
        assert!(!live_of(world.running(hung)).contains(&id));
        // It forgets the expulsion in a crash, and hears of it again.
        world.crash(hung, Death::Process);
        world.nodes[hung].trust_disk = TrustDisk::After(Duration::ZERO);
        world.boot(hung);
        assert!(!is_out(&world, hung));
        let again = world.run_until(120 * SECOND, |world| is_out(world, hung));
        assert!(again.is_some());
    });
}

#[test]
fn a_node_whose_disk_hangs_goes_on_with_gossip_and_reads() {
    each_seed(12, |seed| {
        let mut world = certified(4, seed, Weather::calm());
        let hung = 2;
        world.nodes[hung].trust_disk = TrustDisk::Hangs;
        let joiner = world.add();
        found(&mut world, joiner);
        admit(&mut world, 0, joiner);
        let hash = world.content(5000);
        world.put(joiner, &format!("file{joiner}"), hash);
        world.boot(joiner);
        let all: BTreeSet<usize> = (0..5).collect();
        let one = world.run_until(60 * SECOND, |world| is_one(world, &all));
        assert!(one.is_some(), "the disk delays the namespace");
        world.read_to_end(hung, hash).expect("it reads");
        world.run_for(60 * SECOND);
        assert!(is_one(&world, &all), "it is taken for down");
    });
}
