//! An expelled member that continues with its key, its certificate and its old secret.

use std::process::Command;

use p2pfs_proto::trust::Claim;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

use super::super::trust::{invite, members, state_of};
use super::*;
use crate::support::process::{HANG_LIMIT, run};

#[apply(promise)]
fn an_expelled_member_with_its_own_program_gets_no_name_and_no_byte() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two, mut daemon) = (
        cluster.start("one"),
        cluster.start("two"),
        cluster.start("eve"),
    );
    for joiner in [&two, &daemon] {
        let token = one.cli(&["invite"]).expect_ok();
        joiner.cli(&["join", token.trim()]).expect_ok();
    }
    two.write("before.txt", b"before");
    daemon.wait_for_file("before.txt");
    daemon.stop();
    let eve = Hostile::go_on_as(&daemon.home.join("state"), &[one.address, two.address]);
    let range = |bytes: &[u8]| Request::Range {
        hash: ContentHash::of(bytes),
        size_bytes: bytes.len() as u64,
        range: ByteRange::new(0, bytes.len() as u64),
    };
    let gets = |bytes: &[u8]| {
        let answer = eve.try_ask(two.address, range(bytes));
        matches!(answer, Some(Response::Data { .. }))
    };
    eventually("she is a member", HANG_LIMIT, || gets(b"before"));
    one.cli(&["expel", "eve", "--yes"]).expect_ok();
    eventually("she is out everywhere", HANG_LIMIT, || !gets(b"before"));
    two.write("after.txt", b"after");
    one.wait_for_file("after.txt");
    for _ in 0..20 {
        assert!(
            !gets(b"before") && !gets(b"after"),
            "a byte after she was put out"
        );
        for address in [one.address, two.address] {
            let heads = Request::Heads { heads: vec![] };
            assert!(eve.try_ask(address, heads).is_none(), "a name");
            let members = Bytes::from_static(&[]);
            assert!(eve.try_ask(address, Request::Members { members }).is_none());
        }
    }
    eve.say(vec![file("hers.txt", ContentHash::of(b"hers"), 4, 1)]);
    two.write("last.txt", b"last");
    one.wait_for_file("last.txt");
    assert_eq!(fs::read(one.mounted("last.txt")).unwrap(), b"last");
    for node in [&one, &two] {
        assert!(!node.mounted("hers.txt").exists());
        assert_ne!(peer(node, &eve.id.to_string())["state"], "alive");
    }
}

#[apply(promise)]
fn a_kept_copy_of_a_node_that_left_gets_nothing_and_admits_no_node_after_a_rotation() {
    let mut cluster = Cluster::with_own_secrets();
    let (one, two) = (cluster.start("one"), cluster.start("two"));
    let (mut friend, mut eve) = (cluster.start("friend"), cluster.start("eve"));
    invite(&one, &[], &two);
    invite(&one, &[], &friend);
    invite(&one, &["--admin"], &eve);
    two.write("before.txt", b"before");
    eve.wait_for_file("before.txt");
    eve.stop();
    let (state, kept) = (eve.home.join("state"), eve.home.join("kept"));
    run(Command::new("cp").arg("-a").args([&state, &kept])).expect_ok();
    eve.launch();
    eve.cli(&["leave", "--yes"]).expect_ok();
    eve.await_end().expect_ok();
    eventually("she has left", HANG_LIMIT, || {
        [&one, &two, &friend].map(|node| state_of(node, "eve")) == ["left"; 3]
    });
    one.cli(&["rotate"]).expect_ok();
    let epoch = |node: &Node| told(node, "trust")["epoch"].clone();
    eventually("all have the fresh secret", HANG_LIMIT, || {
        epoch(&two) == epoch(&one) && epoch(&friend) == epoch(&one)
    });
    two.write("after.txt", b"after");
    one.wait_for_file("after.txt");
    let seeds = [one.address, two.address];
    let returned = Hostile::go_on_as(&kept, &seeds);
    let helper = NodeId::new(*ContentHash::of(b"helper").as_bytes());
    let admission = returned.state(
        returned.id,
        Claim::Admit {
            node: helper,
            name: "helper".parse().unwrap(),
            admin: true,
            until_s: None,
            term: 1,
        },
    );
    let farewell = returned.state(
        returned.id,
        Claim::Expel {
            node: returned.id,
            term: 1,
            stands: Some(admission.id()),
        },
    );
    // A member passes on what she signed, which no honest node would.
    friend.stop();
    let friend = Hostile::go_on_as(&friend.home.join("state"), &seeds);
    for address in seeds {
        friend.tell(address, &[admission.clone(), farewell.clone()]);
        for bytes in [&b"before"[..], b"after"] {
            let asked = Request::Range {
                hash: ContentHash::of(bytes),
                size_bytes: bytes.len() as u64,
                range: ByteRange::new(0, bytes.len() as u64),
            };
            let got = returned.try_ask(address, asked);
            assert!(!matches!(got, Some(Response::Data { .. })), "{got:?}");
        }
        let heads = Request::Heads { heads: vec![] };
        assert!(returned.try_ask(address, heads).is_none(), "a name");
    }
    for node in [&one, &two] {
        assert_eq!(members(node), ["friend", "one", "two"]);
        assert_eq!(state_of(node, "eve"), "left");
    }
    one.cli(&["expel", "eve", "--yes"]).expect_ok();
}
