//! Refusals and warnings of real daemons: a request that cannot be kept is refused in one line, and
//! nothing but a fault causes a warning.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use macro_rules_attribute::apply;
use p2pfs_proto::trust::{CHAIN_MAX, NodeKey, TestKeyring};
use p2pfs_types::id::NodeName;
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

#[apply(promise)]
fn a_mount_cannot_be_remounted_and_the_refusal_says_what_to_do() {
    // mount.fuse3(8) runs this for `mount -o remount,rw`.
    let mut remount = program();
    let refused = run(remount.args(["p2pfs", "/mnt/p2p", "-o", "rw,remount"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.stderr.contains("change [mount]"),
        "{}",
        refused.stderr
    );
}

#[apply(promise)]
fn the_whole_folder_has_a_name_in_messages() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let refused = node.cli(&["get", "/"]);
    assert!(
        refused.stderr.contains("/ is a directory"),
        "{}",
        refused.stderr
    );
    let why = node.cli(&["why", "/"]).expect_ok();
    assert!(why.starts_with("/: listed"), "{why}");
}

#[apply(promise)]
fn an_invalid_argument_is_named_and_nothing_is_fetched() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("file", b"text");
    node.wait_for_file("file");
    let missing = format!("{}/not-there/", node.share.display());
    for (command, told) in [
        (&["get", "file", "-o", &missing][..], "no such directory"),
        (&["say", " "], "there is nothing to say"),
        (&["limits", "--up", "-1"], "--up"),
        (&["ping", "on"], "p2pfs peers shows who is known"),
    ] {
        let refused = node.cli(command);
        assert!(!refused.status.success(), "{command:?}");
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(!refused.stderr.contains("unexpected argument"));
    }
}

#[apply(promise)]
fn a_node_too_far_from_the_founder_to_invite_says_where_to_invite() {
    let mut cluster = Cluster::with_own_secrets();
    let state = cluster.folder.path().join("far/state");
    let mut keys: Vec<_> = (1..CHAIN_MAX).map(|_| NodeKey::random()).collect();
    keys.push(NodeKey::load_or_create(&state).unwrap());
    let name = NodeName::new("one").unwrap();
    let ledger = TestKeyring::load_or_create(&state, &keys[0], &name, 1000).unwrap();
    for pair in keys.windows(2) {
        let admitted = ledger.state(&pair[0], |it| {
            it.admit(pair[1].node_id(), name.clone(), true)
        });
        admitted.unwrap();
    }
    let far = cluster.start("far");
    let refused = far.cli(&["invite"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("invite on one"),
        "{}",
        refused.stderr
    );
}

#[apply(promise)]
fn a_directory_dated_in_the_future_blames_no_clock() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("later/file", b"1");
    let dir = nodes[0].share.join("later");
    let later = SystemTime::now() + Duration::from_secs(400 * 86_400);
    fs::File::open(&dir).unwrap().set_modified(later).unwrap();
    let shown = |node: &Node| fs::metadata(node.mounted("later")).map(|found| found.mtime());
    for node in &nodes {
        node.wait_for_file("later/file");
        let want = fs::metadata(&dir).unwrap().mtime();
        eventually("the time is shown", HANG_LIMIT, || {
            shown(node).is_ok_and(|it| it == want)
        });
        let status = node.cli(&["status"]).expect_ok();
        assert!(!status.contains("clock"), "{status}");
    }
}

/// Programs that cache a directory check only its time.
#[apply(promise)]
fn a_file_dated_in_the_future_does_not_hide_later_changes_of_its_directory() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("d/dated", b"1");
    let far = SystemTime::now() + Duration::from_secs(400 * 86_400);
    let dated = fs::File::open(nodes[0].share.join("d/dated")).unwrap();
    dated.set_modified(far).unwrap();
    let modified = |path: &std::path::Path| fs::metadata(path).and_then(|found| found.modified());
    for node in &nodes {
        eventually("the file is shown with its date", HANG_LIMIT, || {
            modified(&node.mounted("d/dated")).is_ok_and(|it| it == far)
        });
    }
    let before = nodes
        .iter()
        .map(|node| modified(&node.mounted("d")).unwrap());
    let before: Vec<SystemTime> = before.collect();
    assert!(before.iter().all(|time| *time < far), "{before:?}");
    let clock = cluster.folder.path().join("clock");
    eventually(
        "the disk's clock is past it, which has long ticks",
        HANG_LIMIT,
        || {
            fs::write(&clock, b"").unwrap();
            modified(&clock).is_ok_and(|now| before.iter().all(|before| now > *before))
        },
    );
    nodes[0].write("d/later", b"2");
    for (node, before) in nodes.iter().zip(before) {
        node.wait_for_file("d/later");
        eventually("the directory's time is another", HANG_LIMIT, || {
            modified(&node.mounted("d")).is_ok_and(|it| it > before && it < far)
        });
    }
}

#[apply(promise)]
fn a_pin_without_room_and_a_budget_below_the_pins_are_refused() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), "4MiB".to_owned()],
        ..NodeOptions::new("reader")
    });
    author.write("small", &noise(1, 1 << 20));
    author.write("large", &noise(2, 6 << 20));
    reader.wait_for_file("small");
    reader.wait_for_file("large");
    let refused = reader.cli(&["pin", "large"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("cache resize"),
        "{}",
        refused.stderr
    );
    reader.cli(&["prefetch", "small"]).expect_ok();
    reader.cli(&["pin", "small"]).expect_ok();
    let refused = reader.cli(&["cache", "resize", "512KiB"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("unpin"), "{}", refused.stderr);
    reader.cli(&["cache", "resize", "2MiB"]).expect_ok();
    reader.cli(&["unpin", "small"]).expect_ok();
    reader.cli(&["cache", "resize", "512KiB"]).expect_ok();
}

/// Returns a reader with a cache of this size, and an author of files of these sizes, all listed.
fn with_cache(cluster: &mut Cluster, size: &str, files: &[(&str, usize)]) -> (Node, Node) {
    let author = cluster.start("author");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), size.to_owned()],
        ..NodeOptions::new("reader")
    });
    for (seed, (name, size)) in (0..).zip(files) {
        author.write(name, &noise(seed, *size));
    }
    for (name, _) in files {
        reader.wait_for_file(name);
    }
    (author, reader)
}

#[apply(promise)]
fn files_that_fit_without_their_proofs_only_are_refused() {
    let mut cluster = Cluster::new();
    let (_author, reader) = with_cache(&mut cluster, "4MiB", &[("film", (4 << 20) - 2048)]);
    for command in ["prefetch", "pin"] {
        let refused = reader.cli(&[command, "film"]);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("cache resize"),
            "{}",
            refused.stderr
        );
    }
    reader.cli(&["cache", "resize", "5MiB"]).expect_ok();
    reader.cli(&["pin", "film"]).expect_ok();
    await_cached(&reader, "film", (4 << 20) - 2048);
    let refused = reader.cli(&["cache", "resize", "4MiB"]);
    assert!(refused.stderr.contains("proofs"), "{}", refused.stderr);
}

#[apply(promise)]
fn a_pin_in_progress_keeps_its_room_beside_a_prefetch() {
    let mut cluster = Cluster::new();
    let files = [("pinned", 5 << 20), ("other", 4 << 20), ("small", 1 << 20)];
    let (author, reader) = with_cache(&mut cluster, "8MiB", &files);
    author.signal(libc::SIGSTOP);
    reader.cli(&["pin", "pinned"]).expect_ok();
    let refused = reader.cli(&["prefetch", "other"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    author.signal(libc::SIGCONT);
    reader.cli(&["prefetch", "small"]).expect_ok();
    await_cached(&reader, "pinned", 5 << 20);
    await_cached(&reader, "small", 1 << 20);
}

#[apply(promise)]
fn pinned_small_files_arrive_completely_in_any_number() {
    let mut cluster = Cluster::new();
    let names: Vec<_> = (0..200).map(|number| format!("many/{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), 20_000)).collect();
    // The cache has room for exactly the bytes of the files.
    let (_author, reader) = with_cache(&mut cluster, "4000kB", &files);
    let pinned = reader.cli(&["pin", "many"]);
    assert_eq!(pinned.status.code(), Some(1));
    assert!(pinned.stderr.contains("does not fit"), "{}", pinned.stderr);
    eventually("all that is pinned is here", HANG_LIMIT, || {
        let listed = reader.cli(&["cache", "ls", "--json"]).expect_json();
        let entries = listed["entries"].as_array().unwrap();
        let whole = entries
            .iter()
            .filter(|it| it["pinned"] == true && it["cached_bytes"] == 20_000);
        let status = reader.cli(&["status", "--json"]).expect_json();
        let pinned_bytes = status["cache"]["pinned_bytes"].as_u64().unwrap();
        pinned_bytes > 2_000_000 && pinned_bytes == whole.count() as u64 * 20_000
    });
}

/// Also right after all files were read, while they are kept open for the next reader.
#[apply(promise)]
fn a_reduced_budget_applies_at_once() {
    let mut cluster = Cluster::new();
    let names: Vec<_> = (0..20).map(|number| format!("many/{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), 400_000)).collect();
    let (_author, reader) = with_cache(&mut cluster, "64MiB", &files);
    for name in &names {
        assert_eq!(fs::read(reader.mounted(name)).unwrap().len(), 400_000);
    }
    for name in &names {
        await_cached(&reader, name, 400_000);
    }
    eventually("no program has one open", HANG_LIMIT, || {
        let status = reader.cli(&["status", "--json"]).expect_json();
        status["open_versions"] == 0
    });
    reader.cli(&["cache", "resize", "2MB"]).expect_ok();
    let status = reader.cli(&["status", "--json"]).expect_json();
    let used_bytes = status["cache"]["used_bytes"].as_u64().unwrap();
    assert!(used_bytes <= 2_000_000, "{used_bytes}");
}

pub(crate) fn await_cached(reader: &Node, name: &str, bytes: usize) {
    eventually("all of it is here", HANG_LIMIT, || {
        let listed = reader.cli(&["ls", "--json", name]).expect_json();
        listed["entries"][0]["cached_bytes"] == bytes
    });
}

/// An old version stays as long as it is pinned.
#[apply(promise)]
fn a_file_is_unpinned_by_its_name_even_after_a_change_or_removal() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    let names = ["changed", "deleted", "by-hash", "rest/one"];
    for (seed, name) in names.iter().enumerate() {
        author.write(name, &noise(seed as u64, 10_000));
        reader.wait_for_file(name);
        reader.cli(&["prefetch", name]).expect_ok();
        reader.cli(&["pin", name]).expect_ok();
    }
    let hash_of = |name: &str| {
        let why = reader.cli(&["why", name, "--json"]).expect_json();
        why["versions"][0]["hash"].as_str().unwrap().to_owned()
    };
    let by_hash = hash_of("by-hash");
    author.write("changed", b"new");
    for name in &names[1..] {
        fs::remove_file(author.share.join(name)).unwrap();
    }
    let pinned = || {
        let listed = reader.cli(&["cache", "ls", "--json"]).expect_json();
        let entries = listed["entries"].as_array().unwrap().clone();
        let pinned = entries.iter().filter(|entry| entry["pinned"] == true);
        let unlisted = pinned.filter(|entry| entry["names"].as_array().unwrap().is_empty());
        let name = |entry: &Value| entry["pinned_as"]["path"].as_str().unwrap().to_owned();
        unlisted.map(name).collect::<BTreeSet<_>>()
    };
    let left = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<BTreeSet<_>>()
    };
    eventually("no old version has a name", HANG_LIMIT, || {
        pinned() == left(&names)
    });
    let refused = reader.cli(&["unpin", "never"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("it is not pinned"),
        "{}",
        refused.stderr
    );
    reader.cli(&["unpin", "changed"]).expect_ok();
    assert_eq!(pinned(), left(&names[1..]));
    reader.cli(&["unpin", "deleted"]).expect_ok();
    assert_eq!(pinned(), left(&names[2..]));
    reader.cli(&["unpin", &by_hash[..16]]).expect_ok();
    assert_eq!(pinned(), left(&names[3..]));
    reader.cli(&["unpin", "/"]).expect_ok();
    assert_eq!(pinned(), left(&[]));
    let status = reader.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["cache"]["pinned_bytes"], 0);
}

#[apply(promise)]
fn unpin_reports_the_same_sums_as_pin() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    author.write("tree/one", &noise(1, 300_000));
    author.write("tree/below/two", &noise(2, 5000));
    author.write("tree/same", &noise(2, 5000));
    author.write("tree/empty", b"");
    reader.write("own", &noise(3, 70_000));
    for name in [
        "tree/one",
        "tree/below/two",
        "tree/same",
        "tree/empty",
        "own",
    ] {
        reader.wait_for_file(name);
    }
    // No byte arrives, so the counts are of requested files, not of present ones.
    reader.cli(&["limits", "--metered", "on"]).expect_ok();
    for named in ["/", "tree"] {
        let [pinned, unpinned] =
            ["pin", "unpin"].map(|call| reader.cli(&[call, named, "--json"]).expect_json());
        assert_eq!(pinned, unpinned, "of {named}");
    }
}

#[apply(promise)]
fn a_pin_counts_whole_and_continues_after_a_restart() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let mut reader = cluster.start("reader");
    author.write("film", &noise(3, 16 << 20));
    reader.wait_for_file("film");
    reader.cli(&["limits", "--down", "1MiB/s"]).expect_ok();
    reader.cli(&["pin", "film"]).expect_ok();
    // Most of the file has not arrived yet.
    let refused = reader.cli(&["cache", "resize", "8MiB"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("16MiB"), "{}", refused.stderr);
    reader.kill();
    reader.launch();
    reader.wait_for_file("film");
    await_cached(&reader, "film", 16 << 20);
}

#[apply(promise)]
fn configured_shares_are_not_changed_by_share_add() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().join("private");
    fs::create_dir(&folder).unwrap();
    let node = cluster.start_with(NodeOptions {
        config: format!(
            "[[share]]\ndir = '{}'\ninclude_private = true\n",
            folder.display()
        ),
        ..NodeOptions::new("one")
    });
    let place = folder.to_str().unwrap();
    for verb in ["add", "remove"] {
        let refused = node.cli(&["share", verb, place]);
        assert_eq!(refused.status.code(), Some(1), "{verb}");
        let why = refused.stderr;
        assert!(why.contains("shared by the configuration"), "{verb}: {why}");
    }
    let shares = node.cli(&["share", "--json"]).expect_json();
    let is_it = |it: &&serde_json::Value| it["path"] == place;
    let found = shares["shares"].as_array().unwrap().iter().find(is_it);
    assert_eq!(found.unwrap()["include_private"], true);
}

#[apply(promise)]
fn a_share_of_the_command_line_is_refused_by_that_name() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let place = node.share.to_str().unwrap();
    for verb in ["add", "remove"] {
        let refused = node.cli(&["share", verb, place]).stderr;
        assert!(refused.contains("(--share)"), "{verb}: {refused}");
        assert!(!refused.contains("configuration file"), "{verb}: {refused}");
    }
}

#[apply(promise)]
fn get_ends_quietly_when_its_reader_does() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("long", &noise(3, 8 << 20));
    node.wait_for_file("long");
    let mut child = node
        .cli_command(&["get", "long", "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    // A script with `pipefail` notices that bytes were lost, as with cat(1).
    assert_eq!(ended.status.code(), Some(1));
}

#[apply(promise)]
fn an_unreadable_share_is_reported_once() {
    let mut cluster = Cluster::new();
    let folder = cluster.folder.path().join("closed");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o000);
    let mut node = cluster.start("one");
    let place = folder.to_str().unwrap();
    node.cli(&["share", "add", place]).expect_ok();
    let told = || {
        let text = node.cli(&["share"]).expect_ok();
        text.matches(&format!("{place}:")).count()
    };
    eventually("it is told", HANG_LIMIT, || told() > 0);
    assert_eq!(told(), 1, "{}", node.cli(&["share"]).text());
    node.stop();
}

#[apply(promise)]
fn the_status_file_is_not_sparse() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let found = fs::metadata(node.mounted(".p2pfs/status.json")).unwrap();
    assert!(found.len() > 0 && found.blocks() > 0);
}

#[apply(promise)]
fn a_system_folder_is_shared_only_after_confirmation() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    for dir in ["/", "/etc", "/etc/init.d", "/home"] {
        let refused = node.cli(&["share", "add", dir]);
        assert_eq!(refused.status.code(), Some(1), "{dir}");
        assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    }
    node.cli(&["share", "add", "--yes", "/etc/init.d"])
        .expect_ok();
    let shares = node.cli(&["share"]).expect_ok();
    assert!(shares.contains("/etc/init.d"), "{shares}");
}
