//! Restrictions of shares: files that a folder keeps back, and nodes that may read it.

use std::fs;
use std::path::{Path, PathBuf};

use macro_rules_attribute::apply;
use p2pfs_proto::wire::native::tcp::{PackedBatch, Request, Response, SmallFile};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use serde_json::Value;

use crate::support::daemon::*;
use crate::support::hostile::Hostile;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

/// Creates a folder that a node shares by its configuration.
fn folder(cluster: &Cluster, name: &str) -> PathBuf {
    let folder = cluster.folder.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    set_mode(&folder, 0o755);
    folder
}

/// Returns the paths that a node offers to other nodes.
fn mine(node: &Node) -> Vec<String> {
    let told = node.cli(&["ls", "--mine", "--json"]).expect_json();
    let path = |entry: &Value| entry["path"].as_str().unwrap().to_owned();
    told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(path)
        .collect()
}

#[apply(promise)]
fn excluded_files_stay_local_and_disappear_after_a_reload() {
    let mut cluster = Cluster::new();
    let folder = folder(&cluster, "project");
    fs::create_dir(folder.join("build")).unwrap();
    for name in ["README", ".env", "build/out", "x.log"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let share = format!("[[share]]\ndir = '{}'\n", folder.display());
    let author = cluster.start_with(NodeOptions {
        config: share.clone(),
        ..NodeOptions::new("author")
    });
    let reader = cluster.start("reader");
    for name in ["README", "build/out", "x.log"] {
        reader.wait_for_file(name);
    }
    assert_eq!(mine(&author), ["README", "build", "build/out", "x.log"]);
    assert!(!reader.cli(&["get", ".env"]).status.success());
    let why = author.cli(&["why", "--json", ".env"]).expect_json();
    let said = why["left_out"].as_str().unwrap();
    assert!(
        said.contains("a pattern excludes it: .env, by default"),
        "{said}"
    );
    for command in ["ls", "get"] {
        let absent = author.cli(&[command, ".env"]);
        let reason = ".env is not listed: this node has the file and does not share it";
        assert!(absent.stderr.contains(reason), "{absent:?}");
    }

    let config = format!("{share}exclude = ['*.log', '/build/']\n");
    fs::write(author.home.join("p2pfs.toml"), config).unwrap();
    author.signal(libc::SIGHUP);
    eventually("the names are gone everywhere", HANG_LIMIT, || {
        reader.cli(&["ls"]).expect_ok() == "README\n"
    });
    assert_eq!(mine(&author), ["README"]);
    let why = author.cli(&["why", "--json", "build/out"]).expect_json();
    let said = why["left_out"].as_str().unwrap();
    assert!(said.contains("/build/, of this share's exclude"), "{said}");
    let told = author.cli(&["ls", "--mine", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap();
    let place = folder.to_str().unwrap();
    let ours = shares.iter().find(|share| share["path"] == place).unwrap();
    assert_eq!(ours["excluded_files"], 3);
    assert_eq!(ours["left_out"][0]["count"], 3);
    fs::write(folder.join("y.log"), "later").unwrap();
    fs::write(folder.join("last"), "last").unwrap();
    reader.wait_for_file("last");
    assert!(!reader.cli(&["get", "y.log"]).status.success());
}

#[apply(promise)]
fn names_of_partial_files_are_reported_as_left_out_except_in_the_inbox() {
    let mut cluster = Cluster::new();
    let home = cluster.folder.path().join("one");
    let inbox = folder(&cluster, "one/inbox");
    fs::create_dir_all(inbox.join(".p2pfs-arriving")).unwrap();
    let node = cluster.start_with(NodeOptions {
        config: format!("[inbox]\ndir = '{}'\nfrom = ['*']\n", inbox.display()),
        ..NodeOptions::new("one")
    });
    node.write("d/.p2pfs-arriving", b"a user's own");
    node.write("last", b"last");
    node.wait_for_file("last");
    let why = node
        .cli(&["why", "--json", "d/.p2pfs-arriving"])
        .expect_json();
    let said = why["left_out"].as_str().unwrap();
    assert!(said.contains("arriving in an inbox: rename it"), "{said}");
    assert_eq!(why["listed"], false);
    assert!(!why["rule"].to_string().contains("being read"), "{why}");
    // The inbox's own folder is not a name that users look for.
    let why = node.cli(&["why", "--json", ".p2pfs-arriving"]);
    assert!(why.stderr.contains("no node shares such a name"), "{why:?}");
    let told = node.cli(&["share", "--json"]).expect_json();
    for share in told["shares"].as_array().unwrap() {
        let own = share["path"] == home.join("share").to_str().unwrap();
        assert_eq!(share["left_out_files"], u64::from(own), "{share}");
    }
}

fn key_of(node: &Node) -> String {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["node"].as_str().unwrap().to_owned()
}

/// Returns a `[[share]]` section for a folder and these readers.
fn share_of(folder: &Path, readers: &[&str]) -> String {
    let readers = readers.join("', '");
    format!(
        "[[share]]\ndir = '{}'\nreaders = ['{readers}']\n",
        folder.display()
    )
}

fn reload(node: &Node, config: &str) {
    fs::write(node.home.join("p2pfs.toml"), config).unwrap();
    node.signal(libc::SIGHUP);
}

/// Returns a node's responses to an asker that knows the hash and size of a content.
fn answers(asker: &Hostile, of: &Node, content: &[u8]) -> Vec<Response> {
    let (hash, size_bytes) = (ContentHash::of(content), content.len() as u64);
    let questions = [
        Request::Range {
            hash,
            size_bytes,
            range: ByteRange::new(0, size_bytes),
        },
        Request::Holdings { hash },
        Request::Batch {
            files: vec![SmallFile { hash, size_bytes }],
        },
    ];
    let ask = |question| asker.ask(of.address, question).expect("it answers members");
    questions.into_iter().map(ask).collect()
}

/// Asserts that a node gives the asker no byte of a content.
#[track_caller]
fn assert_refused(asker: &Hostile, of: &Node, content: &[u8]) {
    let mut nothing = PackedBatch::with_capacity(0);
    nothing.push_not_here();
    let packed = nothing.into_bytes().into();
    assert_eq!(
        answers(asker, of, content),
        [
            Response::NotHere,
            Response::NotHere,
            Response::Batch { packed }
        ],
        "{}",
        of.name
    );
}

/// Asserts that a node gives the asker a content for every kind of request.
#[track_caller]
fn assert_given(asker: &Hostile, of: &Node, content: &[u8]) {
    let answers = answers(asker, of, content);
    assert!(matches!(answers[0], Response::Data { .. }), "{answers:?}");
    assert!(
        matches!(answers[1], Response::Holdings { .. }),
        "{answers:?}"
    );
}

/// Asserts that a node shows no trace of a file in any command or in the mount.
#[track_caller]
fn assert_unseen(node: &Node, author: &str, name: &str, content: &[u8]) {
    let by_hash = format!(".p2pfs/by-hash/{}", ContentHash::of(content));
    for path in [name, &format!(".p2pfs/peers/{author}/{name}"), &by_hash] {
        let error = fs::metadata(node.mounted(path)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{path}");
    }
    for command in [
        &["get", name][..],
        &["wait", "--file", name, "--timeout", "10ms"],
    ] {
        assert_eq!(node.cli(command).status.code(), Some(1), "{command:?}");
    }
    let listed = node.cli(&["ls"]).expect_ok();
    assert!(!listed.contains(name), "{listed}");
    let why = node.cli(&["why", "--json", name]);
    let told = String::from_utf8_lossy(&why.stdout);
    assert!(!told.contains(author), "{told}");
}

#[apply(promise)]
fn a_restricted_share_is_listed_and_served_only_to_its_readers_even_from_caches() {
    let mut cluster = Cluster::new();
    let folder = folder(&cluster, "restricted");
    let secret = vec![7; 40_000];
    fs::write(folder.join("secret"), &secret).unwrap();
    let (mut reader, other) = (cluster.start("reader"), cluster.start("other"));
    let reads = key_of(&reader);
    let mut author = cluster.start_with(NodeOptions {
        config: share_of(&folder, &[&reads]),
        ..NodeOptions::new("author")
    });
    let seeds = [reader.address, other.address, author.address];
    let eve = Hostile::join(&cluster.folder.path().join("secret"), &seeds);
    reader.wait_for_file("secret");
    let there = fs::read(reader.mounted("secret")).unwrap();
    assert_eq!(there, secret);
    let told = author.cli(&["share", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap().iter();
    let mut restricted = shares.filter(|share| share["path"] == folder.to_str().unwrap());
    let readers = &restricted.next().unwrap()["readers"];
    assert_eq!(readers[0]["node"], Value::from(reads.clone()));

    // A later file is listed, so the restricted one will not arrive either.
    let open = vec![8; 40_000];
    author.write("open", &open);
    reader.wait_for_file("open");
    other.wait_for_file("open");
    assert_eq!(fs::read(reader.mounted("open")).unwrap(), open);
    assert_unseen(&other, "author", "secret", &secret);
    let hashes = [ContentHash::of(&secret), ContentHash::of(&open)];
    eventually("what is open is offered", HANG_LIMIT, || {
        eve.want(&hashes);
        let offered = eve.offered();
        let of = |node: &Node| offered.contains(&(eve.who_is_at(node.address), hashes[1]));
        of(&author) && of(&reader)
    });
    assert!(eve.offered().iter().all(|(_, hash)| *hash != hashes[0]));
    for node in [&author, &reader] {
        assert_given(&eve, node, &open);
        assert_refused(&eve, node, &secret);
    }

    // A reader's cache follows the list without the author, also after a restart. The reader can
    // still read.
    author.kill();
    assert_refused(&eve, &reader, &secret);
    reader.stop();
    reader.launch();
    assert_refused(&eve, &reader, &secret);
    reader.wait_for_file("secret");
    assert_eq!(fs::read(reader.mounted("secret")).unwrap(), secret);
    author.launch();
    assert_lists_are_followed((&author, &reader, &other), &folder, &secret, &eve);
}

/// Asserts that nodes follow a changed list while the author runs.
fn assert_lists_are_followed(
    (author, reader, other): (&Node, &Node, &Node),
    folder: &Path,
    secret: &[u8],
    eve: &Hostile,
) {
    let (reads, reads_not) = (key_of(reader), key_of(other));
    reload(author, &share_of(folder, &[&reads, &reads_not]));
    other.wait_for_file("secret");
    assert_eq!(fs::read(other.mounted("secret")).unwrap(), secret);
    reload(author, &share_of(folder, &[&reads_not]));
    eventually("who lost the right lists it no more", HANG_LIMIT, || {
        !reader.mounted("secret").exists()
    });
    assert_unseen(reader, "author", "secret", secret);
    for node in [author, reader, other] {
        assert_refused(eve, node, secret);
    }
    let all = format!("[[share]]\ndir = '{}'\n", folder.display());
    reload(author, &all);
    reader.wait_for_file("secret");
    other.wait_for_file("secret");
    eventually("what is open to all is given to all", HANG_LIMIT, || {
        let gives = |node| matches!(answers(eve, node, secret)[0], Response::Data { .. });
        gives(author) && gives(other)
    });
    // The caches that received the file meanwhile follow the list too.
    reload(author, &share_of(folder, &[&reads]));
    eventually("who lost the right lists it no more", HANG_LIMIT, || {
        !other.mounted("secret").exists()
    });
    for node in [author, other] {
        assert_refused(eve, node, secret);
    }
}

#[apply(promise)]
fn readers_are_named_by_certificates_and_groups_and_an_expelled_one_reads_no_more() {
    let mut cluster = Cluster::with_own_secrets();
    let folder = folder(&cluster, "restricted");
    fs::write(folder.join("secret"), "secret").unwrap();
    let groups = "groups = ['office=two nobody']\n";
    let one = cluster.start_with(NodeOptions {
        config: format!("{groups}{}", share_of(&folder, &["@office"])),
        ..NodeOptions::new("one")
    });
    let (two, three) = (cluster.start("two"), cluster.start("three"));
    // Only the inviter can give a name that this configuration uses.
    let nameless = one.cli(&["invite"]).expect_ok();
    let refused = two.cli(&["join", nameless.trim()]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.text());
    let reported = one.cli(&["events", "--json"]).expect_ok();
    assert!(reported.contains("p2pfs invite --name two"), "{reported}");
    for (name, joiner) in [("two", &two), ("three", &three)] {
        let token = one.cli(&["invite", "--name", name]).expect_ok();
        joiner.cli(&["join", token.trim()]).expect_ok();
    }
    two.wait_for_file("secret");
    one.write("open", b"open");
    three.wait_for_file("open");
    assert_unseen(&three, "one", "secret", b"secret");
    let in_one_line = |told: &str| told.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = in_one_line(&one.cli(&["share"]).expect_ok());
    assert!(
        told.contains("to two alone; not to nobody: no member"),
        "{told}"
    );
    let told = one.cli(&["ls", "--mine", "--json"]).expect_json();
    assert!(told["shares"].to_string().contains(&key_of(&two)), "{told}");
    let told = in_one_line(&String::from_utf8_lossy(&one.cli(&["doctor"]).stdout));
    assert!(told.contains("its reader nobody is not a member"), "{told}");

    let refused = one.cli(&["share", "add", "/srv", "--yes", "--readers", "@gone"]);
    assert!(
        refused.stderr.contains("there is no group \"gone\""),
        "{}",
        refused.stderr
    );
    let refused = one.cli(&["share", "add", "/srv", "--yes", "--readers", "a b"]);
    assert!(refused.stderr.contains("its key"), "{}", refused.stderr);

    reload(
        &one,
        &format!(
            "groups = ['office=three']\n{}",
            share_of(&folder, &["@office"])
        ),
    );
    three.wait_for_file("secret");
    eventually("the group has others in it", HANG_LIMIT, || {
        !two.mounted("secret").exists()
    });
    one.cli(&["expel", "three", "--yes"]).expect_ok();
    eventually("it reads nothing more", HANG_LIMIT, || {
        !three.mounted("secret").exists()
    });
}

#[apply(promise)]
fn an_invited_node_cannot_read_under_another_name() {
    let mut cluster = Cluster::with_own_secrets();
    let folder = folder(&cluster, "restricted");
    fs::write(folder.join("secret"), "secret").unwrap();
    let one = cluster.start_with(NodeOptions {
        config: share_of(&folder, &["boss", "clerk"]),
        ..NodeOptions::new("one")
    });
    // Each node calls itself by the name of a reader.
    let (boss, clerk) = (cluster.start("boss"), cluster.start("clerk"));
    for (joiner, name) in [(&boss, "guest"), (&clerk, "clerk")] {
        let token = one.cli(&["invite", "--name", name]).expect_ok();
        joiner.cli(&["join", token.trim()]).expect_ok();
    }
    clerk.wait_for_file("secret");
    one.write("open", b"open");
    boss.wait_for_file("open");
    assert_unseen(&boss, "one", "secret", b"secret");
    let trust = one.cli(&["trust"]).expect_ok();
    assert!(
        trust.contains("guest") && !trust.contains("boss"),
        "{trust}"
    );
    let refused = one.cli(&["invite", "--name", "a b"]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    let taken = one.cli(&["invite", "--name", "guest"]);
    assert_eq!(taken.status.code(), Some(1), "{}", taken.stderr);
    assert!(
        taken.stderr.contains("a member is called guest already"),
        "{}",
        taken.stderr
    );
}
