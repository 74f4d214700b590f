//! False statements by a member about membership and about readers.

use p2pfs_proto::trust::{Claim, STATEMENTS_PER_ADMIN_MAX};
use p2pfs_proto::wire::native::record::{EntitledReader, ShareIndex};
use p2pfs_types::id::NodeId;

use super::*;

/// Starts two honest nodes and one hostile node, each with a certificate. Hers is made with these
/// flags.
fn certified(flags: &[&str]) -> Scene {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two, mut daemon) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("eve"),
    );
    for (joiner, flags) in [(&two, &[][..]), (&daemon, flags)] {
        let token = one.cli(&[&["invite"], flags].concat()).expect_ok();
        joiner.cli(&["join", token.trim()]).expect_ok();
    }
    two.write("honest.txt", b"honest");
    one.wait_for_file("honest.txt");
    daemon.wait_for_file("honest.txt");
    daemon.stop();
    let eve = Hostile::go_on_as(&daemon.home.join("state"), &[one.address, two.address]);
    Scene {
        cluster,
        one,
        two,
        eve,
        written: 0,
    }
}

fn made_up(number: u64) -> NodeId {
    NodeId::new(*ContentHash::of(&number.to_be_bytes()).as_bytes())
}

fn admission(number: u64) -> Claim {
    Claim::Admit {
        node: made_up(number),
        name: "more".parse().unwrap(),
        admin: false,
        until_s: None,
        term: 1,
    }
}

fn member_count(node: &Node) -> usize {
    told(node, "trust")["members"].as_array().unwrap().len()
}

#[apply(promise)]
fn an_administrator_that_admits_endlessly_is_limited_and_named() {
    let mut scene = certified(&["--admin"]);
    let numbers = 0..STATEMENTS_PER_ADMIN_MAX as u64 + 1;
    let eve = &scene.eve;
    let certificates: Vec<_> = numbers
        .map(|number| eve.state(eve.id, admission(number)))
        .collect();
    eve.tell(scene.one.address, &certificates);
    let how = "said more of who is in";
    scene.await_named(&scene.one, how);
    assert_eq!(member_count(&scene.one), 3 + STATEMENTS_PER_ADMIN_MAX);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn unsigned_statements_admit_and_expel_no_node_and_name_their_sender() {
    let mut scene = certified(&[]);
    let eve = &scene.eve;
    let founder = eve.who_is_at(scene.one.address);
    let victim = eve.who_is_at(scene.two.address);
    let expulsion = Claim::Expel {
        node: victim,
        term: 1,
        stands: None,
    };
    let mut forged = vec![eve.state(founder, expulsion)];
    forged.extend((0..2000).map(|number| eve.state(founder, admission(number))));
    for _ in 0..10 {
        eve.tell(scene.one.address, &forged);
    }
    // Her own statements have no authority, so they are not kept either.
    let own: Vec<_> = (0..2000)
        .map(|number| eve.state(eve.id, admission(number)))
        .collect();
    eve.tell(scene.one.address, &own);
    let how = "what they did not sign";
    scene.await_named(&scene.one, how);
    for node in [&scene.one, &scene.two] {
        assert_eq!(member_count(node), 3, "{}", node.name);
    }
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn endless_reader_lists_of_one_member_delay_only_its_own_names() {
    let mut scene = scene();
    let reader = EntitledReader {
        node: scene.eve.who_is_at(scene.one.address),
        key: ([5; 32], [6; 16]),
    };
    let list = |number: u16| Fact::Readers {
        number: ShareIndex(ShareIndex::FIRST_SEALED.0 + number),
        share: ShareIndex(number % 4),
        salt: [7; 16],
        readers: vec![reader.clone()],
    };
    // The first part of the lists is accepted and the next is refused, however slow the machine is.
    scene.eve.say((0..9_000).map(list).collect());
    let how = "lists of readers faster than a node may";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    let her = peer(&scene.two, &scene.eve.id.to_string());
    assert_eq!(her["offences"], 0, "it is in none of them");
    scene.assert_journal_names(how);
}
