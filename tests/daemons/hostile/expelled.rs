//! An expelled member that continues with its key, its certificate and its old secret.

use p2pfs_types::extent::ByteRange;

use super::*;

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
    eventually("she is a member", SOON, || gets(b"before"));
    one.cli(&["expel", "eve"]).expect_ok();
    eventually("she is out everywhere", SOON, || !gets(b"before"));
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
