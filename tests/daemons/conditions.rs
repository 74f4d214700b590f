//! Conditions: `status`, `doctor`, the events, the journal and the metrics agree on which
//! conditions stand and when they end.

use std::fs;
use std::process::Command;
use std::time::Instant;

use macro_rules_attribute::apply;

use crate::disks::Disk;
use crate::metrics::{metrics, with_metrics};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};
use p2pfs_node::{Condition, Severity};

const NEEDS: &[Need] = &[root, mount];
/// The user `nobody`, which owns no file on any machine.
const NOBODY: &str = "65534";

fn status_shows(node: &Node, words: &str) -> bool {
    let status = node.cli(&["status", "--json"]).expect_json();
    status["warnings"].to_string().contains(words)
}

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|&word| word.to_owned()).collect()
}

/// Asserts that status and doctor show a condition with the severity of its table.
fn assert_one_severity(node: &Node, (name, words): (&str, &str)) {
    let mut all = Condition::ALL.iter().map(|it| it.text());
    let severity = all.find(|it| it.name == name).unwrap().severity;
    let word = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    for command in ["status", "doctor"] {
        let text = node.cli(&[command]).text();
        // Lines of one paragraph are indented below its first.
        let paragraphs = text.replace("\n         ", " ");
        // The line of a share in status has these words too, without a severity.
        let lines = paragraphs.lines().filter(|line| line.contains(words));
        let severities = lines.filter_map(|line| line.split(' ').next());
        let severities: Vec<_> = severities.filter(|it| !it.is_empty()).collect();
        assert_eq!(severities, [word], "{command}: {text}");
    }
    let doctor = node.cli(&["doctor"]).status.code();
    assert!(severity == Severity::Warning || doctor == Some(1));
}

/// Asserts that all views agree on whether a condition stands.
fn assert_views(node: &Node, (name, words): (&str, &str), stands: bool) {
    eventually("the status", 2 * HANG_LIMIT, || {
        status_shows(node, words) == stands
    });
    let text = node.cli(&["status"]).expect_ok();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let begun = Instant::now();
    let doctor = node.cli(&["doctor", "--json"]).text();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(doctor.contains(words), stands, "{doctor}");
    if stands {
        assert_one_severity(node, (name, words));
    }
    let gauge = format!("p2pfs_condition{{name=\"{name}\"}} {}\n", u8::from(stands));
    eventually("the metric", HANG_LIMIT, || metrics(node).contains(&gauge));
    let events = node.cli(&["events", "--json"]).expect_ok();
    let kind = if stands { "warning" } else { "warning-over" };
    let parts = [&*format!("\"{kind}\""), &format!("\"{name}\""), words];
    let is_it = |line: &str| parts.iter().all(|part| line.contains(part));
    assert!(events.lines().any(is_it), "{events}");
}

/// Asserts that the journal reports the start and the end of a condition once each.
fn assert_journal(node: &mut Node, words: &str) {
    let said = node.stop().stderr;
    let of = |is_end: bool| {
        let lines = said.lines().filter(|line| line.contains(words));
        lines
            .filter(|line| line.contains("no longer so: ") == is_end)
            .count()
    };
    assert_eq!((of(false), of(true)), (1, 1), "{said}");
}

/// Asserts in all views that `begin` begins a condition and `mend` ends it. The condition is its
/// name and the words of its sentence.
fn assert_begins_and_ends(
    node: &mut Node,
    condition: (&str, &str),
    begin: impl FnOnce(&Node),
    mend: impl FnOnce(&Node),
) {
    begin(node);
    assert_views(node, condition, true);
    mend(node);
    assert_views(node, condition, false);
    assert_journal(node, condition.1);
}

/// Fills the disk of a folder of a node and frees it again. Asserts that `condition` begins and
/// ends.
fn assert_full_disk(folder: &str, options: &str, config: &str, condition: (&str, &str)) {
    let mut cluster = Cluster::new();
    let at = cluster.folder.path().join("one").join(folder);
    fs::create_dir_all(&at).unwrap();
    let disk = Disk::mount_with(&at, options);
    let mut node = cluster.start_with(with_metrics(&cluster, NodeOptions::new("one"), config));
    let ballast = at.join("ballast");
    // This is more than the disk holds, so the write ends with an error.
    let fill = |_: &Node| drop(fs::write(&ballast, vec![1; 24 << 20]));
    let free = |node: &Node| {
        let place = at.display();
        for words in [format!("mounted at {place}"), format!("(df -h {place})")] {
            assert!(status_shows(node, &words), "{words}");
        }
        fs::remove_file(&ballast).unwrap();
    };
    assert_begins_and_ends(&mut node, condition, fill, free);
    drop(disk);
}

#[apply(promise)]
fn full_cache_disk_is_a_condition_until_it_has_room() {
    let config = "[cache]\nsize = '1GiB'\nfloor = '0B'\n";
    let condition = ("cache-full", "the cache's disk is full");
    assert_full_disk("cache", "size=8m,mode=755", config, condition);
}

#[apply(promise)]
fn full_state_disk_is_a_condition_until_it_has_room() {
    let condition = ("state-full", "its disk is full");
    assert_full_disk("state", "size=24m,mode=700", "", condition);
}

#[apply(promise)]
fn damaged_cache_block_is_a_condition_until_the_cache_is_well() {
    let mut cluster = Cluster::new();
    let owner = cluster.start("owner");
    let options = with_metrics(&cluster, NodeOptions::new("reader"), "");
    let mut reader = cluster.start_with(options);
    let bytes = noise(1, 1 << 20);
    owner.write("file", &bytes);
    reader.wait_for_file("file");
    reader.cli(&["prefetch", "file"]).expect_ok();
    let damage = |reader: &Node| {
        reader.damage_cached(&bytes, 300_000);
        reader.cli(&["cache", "verify"]);
    };
    let mend = |reader: &Node| {
        let damaged = "p2pfs_cache_damaged_bytes_total 65536\n";
        assert!(metrics(reader).contains(damaged), "{}", metrics(reader));
        assert!(fs::read(reader.mounted("file")).unwrap() == bytes);
        reader.cli(&["cache", "verify"]).expect_ok();
    };
    let condition = (
        "cache-damaged",
        "bytes of the cache were wrong or unreadable, the last of them",
    );
    assert_begins_and_ends(&mut reader, condition, damage, mend);
}

#[apply(promise)]
fn no_answering_peer_is_a_condition_until_one_is_back() {
    let mut cluster = Cluster::new();
    let mut other = cluster.start("other");
    let options = with_metrics(&cluster, NodeOptions::new("one"), "");
    let mut node = cluster.start_with(options);
    node.cli(&["wait", "--peers", "1"]).expect_ok();
    other.kill();
    eventually("the lost node is named", 2 * HANG_LIMIT, || {
        let status = node.cli(&["status"]).expect_ok();
        status.contains("absent   other is down since ")
    });
    let doctor = node.cli(&["doctor"]).text();
    assert!(
        doctor.contains("note     absent: other is down since "),
        "{doctor}"
    );
    let peers = doctor.lines().filter(|line| line.contains(" peers: "));
    let peers: Vec<_> = peers.collect();
    assert!(
        matches!(peers[..], [line] if line.contains("no other node answers (1 known)")),
        "{doctor}"
    );
    assert!(!doctor.contains("p2pfs doctor"), "{doctor}");
    let condition = ("peers-down", "no other node answers");
    let restart = |node: &Node| {
        other.launch();
        let wait = ["wait", "--peers", "1", "--timeout", WAIT_LIMIT];
        node.cli(&wait).expect_ok();
    };
    assert_begins_and_ends(&mut node, condition, |_| (), restart);
}

#[apply(promise)]
#[takes("setpriv")]
fn closed_directory_above_a_share_is_a_condition_until_it_is_open() {
    let mut cluster = Cluster::new();
    let above = cluster.folder.path().join("above");
    let share = above.join("share");
    fs::create_dir_all(&share).unwrap();
    let options = NodeOptions {
        shares: vec![share.clone()],
        ..NodeOptions::unmounted("one")
    };
    let mut node = cluster.start_with(with_metrics(&cluster, options, ""));
    node.stop();
    run(Command::new("chown").args(["-R", NOBODY]).arg(&node.home)).expect_ok();
    let ids = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    node.options.through = words(&[&["setpriv"], &ids[..]].concat());
    node.launch();
    let close = |_: &Node| {
        set_mode(&above, 0o700);
        // The kernel does not report the change of the directory above. It reports this one.
        fs::write(share.join("new"), b"new").unwrap();
    };
    let open = |node: &Node| {
        set_mode(&above, 0o755);
        node.wait_for_file("new");
    };
    let words = "does not let the daemon's user pass, so nothing in the share is listed";
    assert_begins_and_ends(&mut node, ("share-unreadable", words), close, open);
}

/// Starts a node in a user namespace where one kind of inotify resource is used up. Adds some later
/// and asserts that the condition ends.
fn assert_inotify_limit(kind: &str) {
    let mut cluster = Cluster::new();
    let limit = format!("/proc/sys/user/max_inotify_{kind}");
    let script = format!("echo 0 >{limit} && exec \"$@\"");
    let options = NodeOptions {
        through: words(&[
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            &script,
            "sh",
        ]),
        ..NodeOptions::unmounted("one")
    };
    let mut node = cluster.start_with(with_metrics(&cluster, options, ""));
    let raise = |node: &Node| {
        let (pid, script) = (node.pid().to_string(), format!("echo 4096 >{limit}"));
        let mut enter = Command::new("nsenter");
        run(enter.args(["--user", "--target", &pid, "sh", "-c", &script])).expect_ok();
    };
    let mend = |node: &Node| {
        raise(node);
        let is_over = || !status_shows(node, "inotify");
        eventually("the next rescan", 2 * HANG_LIMIT, is_over);
        node.write("new", b"new");
        // The file must appear before the next rescan.
        let wait = ["wait", "--file", "new", "--timeout", WAIT_LIMIT];
        node.cli(&wait).expect_ok();
    };
    let condition = ("share-problem", "the limit of inotify watches is reached");
    assert_begins_and_ends(&mut node, condition, |_| (), mend);
}

#[apply(promise)]
#[takes("unshare", "nsenter")]
fn used_up_inotify_watches_are_a_condition_until_there_are_more() {
    assert_inotify_limit("watches");
}

#[apply(promise)]
#[takes("unshare", "nsenter")]
fn used_up_inotify_instances_are_a_condition_until_there_are_more() {
    assert_inotify_limit("instances");
}

#[apply(promise)]
fn setting_that_needs_a_restart_is_a_condition_until_it_is_set_back() {
    let mut cluster = Cluster::new();
    let options = with_metrics(&cluster, NodeOptions::unmounted("one"), "");
    let mut node = cluster.start_with(options);
    let reload = |node: &Node, more: &str| {
        let config = format!("{}{more}", node.options.config);
        fs::write(node.home.join("p2pfs.toml"), config).unwrap();
        node.signal(libc::SIGHUP);
    };
    let change = |node: &Node| reload(node, "[inbox]\nfrom = ['*']\n");
    let condition = (
        "restart-needed",
        "these settings need a restart: inbox.from",
    );
    assert_begins_and_ends(&mut node, condition, change, |node| reload(node, ""));
}

#[apply(promise)]
fn standing_condition_stays_among_the_events_behind_a_thousand_new_files() {
    let mut cluster = Cluster::new();
    let node = cluster.start_with(NodeOptions::unmounted("one"));
    let config = format!("{}[inbox]\nfrom = ['*']\n", node.options.config);
    fs::write(node.home.join("p2pfs.toml"), config).unwrap();
    node.signal(libc::SIGHUP);
    let condition = "restart-needed";
    let events = || node.cli(&["events", "--json"]).expect_ok();
    eventually("the condition begins", HANG_LIMIT, || {
        events().contains(condition)
    });
    for number in 0..1100 {
        node.write(&format!("file-{number}"), b"new");
    }
    let added = |events: &str| {
        let added = events.lines().filter(|it| it.contains("\"file-added\""));
        added.count()
    };
    // The log holds a thousand events. Few of them are of other conditions.
    eventually("the files fill the log", HANG_LIMIT, || {
        added(&events()) >= 980
    });
    let events = events();
    assert!(events.contains(condition), "{events}");
}

#[apply(promise)]
fn full_inbox_is_a_condition_until_it_has_room() {
    let mut cluster = Cluster::new();
    let inbox = cluster.folder.path().join("inbox");
    let settings = format!("from = ['*']\ndir = '{}'\n", inbox.display());
    let config = format!("[inbox]\n{settings}budget = '1MiB'\nfloor = '0B'\n");
    let options = with_metrics(&cluster, NodeOptions::unmounted("one"), &config);
    let mut node = cluster.start_with(options);
    let sender = cluster.start_with(NodeOptions::unmounted("sender"));
    sender.cli(&["wait", "--peers", "1"]).expect_ok();
    let file = sender.home.join("pushed");
    fs::write(&file, noise(1, 100_000)).unwrap();
    let push = || sender.cli(&["send", file.to_str().unwrap(), "--to", "one"]);
    let ballast = inbox.join("ballast");
    let fill = |_: &Node| {
        fs::write(&ballast, vec![1; 1 << 20]).unwrap();
        assert_eq!(push().status.code(), Some(1));
    };
    let free = |_: &Node| {
        fs::remove_file(&ballast).unwrap();
    };
    let words = "refused a file: the inbox has room for 0 bytes of its budget";
    assert_begins_and_ends(&mut node, ("inbox-full", words), fill, free);
    node.launch();
    sender.cli(&["wait", "--peers", "1"]).expect_ok();
    push().expect_ok();
}

#[apply(promise)]
#[takes("unshare", "nsenter", "ip")]
fn missing_multicast_is_a_condition_until_there_is_a_network() {
    let mut cluster = Cluster::new();
    let script = "ip link set lo up && exec \"$@\"";
    let options = NodeOptions {
        listen: "0.0.0.0:1378".to_owned(),
        through: words(&["unshare", "--net", "sh", "-c", script, "sh"]),
        ..NodeOptions::unmounted("one")
    };
    let mut node = cluster.start_with(with_metrics(&cluster, options, ""));
    let connect = |node: &Node| {
        let script = "ip link add eth0 type veth peer name eth1 && ip link set eth1 up && \
                      ip address add 10.77.0.1/24 dev eth0 && ip link set eth0 up";
        let mut enter = Command::new("nsenter");
        enter.args(["--net", "--target", &node.pid().to_string()]);
        run(enter.args(["sh", "-c", script])).expect_ok();
    };
    let condition = ("no-multicast", "no nodes are found by mDNS");
    assert_begins_and_ends(&mut node, condition, |_| (), connect);
}
