//! Disks that stand still: each write waits until the disk goes on. A node on such a disk lists,
//! reads, hears and enforces as before. Only what must be stored waits.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use super::disks::{Disk, Frozen, images_can_be_mounted};
use super::trust::{invite, members, state_of};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount, images_can_be_mounted];

/// How long a disk hangs: longer than a read may wait, and longer than other nodes wait for a silent
/// member before they declare it down.
const HANG: Duration = Duration::from_secs(30);
/// Size of a file that takes several requests.
const FILE_BYTES: usize = 300_000;

/// A node with one of its directories on a disk of its own.
struct OnDisk {
    node: Node,
    /// Where the disk is mounted beside the node's directory.
    disk: PathBuf,
    _mounts: [Disk; 2],
}

/// Place of [`start_on_disk`] for a node with its mount point on a disk.
const MOUNT_POINT: &str = "mount-point";

/// Starts the node `name` with its directory `place` (`state`, `cache` or `share`) on a disk, or with
/// its mount point in a directory of the disk.
fn start_on_disk(cluster: &mut Cluster, name: &str, place: &str) -> OnDisk {
    let folder = cluster.folder.path();
    let (at, disk) = (folder.join(name).join(place), folder.join("disk"));
    for dir in [&at, &disk] {
        fs::create_dir_all(dir).unwrap();
    }
    let mounted = Disk::mount_image(&folder.join("disk.img"), &disk);
    let bound = Disk::mount_bound(&disk, &at);
    let is_private = ["state", "cache"].contains(&place);
    set_mode(&at, if is_private { 0o700 } else { 0o755 });
    let mut node = cluster.start(name);
    if place == MOUNT_POINT {
        node.stop();
        node.mount = disk.join("mnt");
        fs::create_dir(&node.mount).unwrap();
        node.launch();
    }
    OnDisk {
        node,
        disk,
        _mounts: [bound, mounted],
    }
}

fn file(number: usize) -> Vec<u8> {
    noise(number as u64, FILE_BYTES)
}

/// Lists and reads on a node, and expects each at once.
struct Reader<'a> {
    node: &'a Node,
    next: usize,
}

impl Reader<'_> {
    /// Lists the folder and reads a file that this node has not read before.
    fn read_one(&mut self) {
        let begun = Instant::now();
        let names = fs::read_dir(&self.node.mount).unwrap().count();
        assert!(
            names > 0 && begun.elapsed() < HANG_LIMIT,
            "a listing waited"
        );
        let name = format!("f{}", self.next);
        let bytes = fs::read(self.node.mounted(&name)).unwrap();
        assert!(bytes == file(self.next), "{name} has other bytes");
        self.next += 1;
    }

    /// Reads until something holds, or fails after a limit far beyond any wait.
    fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < HANG_LIMIT, "waited in vain for {what}");
            self.read_one();
        }
    }
}

/// Writes as many files as the tests read on a node.
fn stock(node: &Node, count: usize) {
    (0..count).for_each(|number| node.write(&format!("f{number}"), &file(number)));
}

/// Number of files for a reader. It reads a few files each second.
const FILES: usize = 1500;

#[apply(promise)]
fn a_state_directory_on_a_hanging_disk_delays_no_gossip_read_or_listing() {
    let mut cluster = Cluster::with_own_secrets();
    let one = cluster.start("one");
    let hung = start_on_disk(&mut cluster, "hung", "state");
    let two = cluster.start("two");
    stock(&one, FILES);
    invite(&one, &[], &hung.node);
    hung.node.wait_for_file(&format!("f{}", FILES - 1));
    let frozen = Frozen::new(&hung.disk);
    let begun = Instant::now();
    let mut reader = Reader {
        node: &hung.node,
        next: 0,
    };
    // A join arrives as a statement by gossip, and its files follow.
    invite(&one, &[], &two);
    two.write("of-two", b"two");
    let of_two = hung.node.mounted("of-two");
    reader.until("a file of the new member", || of_two.exists());
    one.write("new", b"new");
    let new = hung.node.mounted("new");
    reader.until("a new file", || new.exists());
    hung.node.write("own", b"own");
    let own = one.mounted("own");
    reader.until("an own file", || own.exists());
    let resized = run(&mut hung.node.cli_command(&["cache", "resize", "1MiB"]));
    resized.expect_ok();
    // An expulsion takes effect although it is not stored.
    one.cli(&["expel", "--yes", "two"]).expect_ok();
    reader.until("the expulsion", || !of_two.exists());
    assert_eq!(members(&hung.node), ["hung", "one"]);
    while begun.elapsed() < HANG {
        reader.read_one();
        assert_eq!(state_of(&one, "hung"), "alive");
        hung.node.cli(&["status"]).expect_ok();
    }
    drop(frozen);
    let mut node = hung.node;
    node.stop();
    node.launch();
    assert_eq!(members(&node), ["hung", "one"]);
}

#[apply(promise)]
fn an_own_statement_waits_for_the_disk_and_counts_nowhere_before() {
    let mut cluster = Cluster::with_own_secrets();
    let hung = start_on_disk(&mut cluster, "hung", "state");
    let two = cluster.start("two");
    let three = cluster.start("three");
    invite(&hung.node, &[], &two);
    invite(&hung.node, &[], &three);
    eventually("they meet", HANG_LIMIT, || members(&two).len() == 3);
    let frozen = Frozen::new(&hung.disk);
    let mut expelling = start(&mut hung.node.cli_command(&["expel", "--yes", "three"]));
    // The command waits, and the daemon goes on: it answers, and no node hears of the expulsion.
    for _ in 0..20 {
        assert_eq!(members(&hung.node), ["hung", "three", "two"]);
        assert_eq!(members(&two), ["hung", "three", "two"]);
        assert!(
            expelling.is_running(),
            "it was answered before it was stored"
        );
    }
    drop(frozen);
    expelling.finish(HANG_LIMIT).expect_ok();
    assert_eq!(members(&hung.node), ["hung", "two"]);
    eventually("two hears", HANG_LIMIT, || members(&two) == ["hung", "two"]);
}

#[apply(promise)]
fn a_killed_node_whose_expulsion_was_not_stored_never_made_it() {
    let mut cluster = Cluster::with_own_secrets();
    let mut hung = start_on_disk(&mut cluster, "hung", "state");
    let two = cluster.start("two");
    invite(&hung.node, &[], &two);
    eventually("they meet", HANG_LIMIT, || {
        state_of(&hung.node, "two") == "alive"
    });
    let frozen = Frozen::new(&hung.disk);
    let expelling = start(&mut hung.node.cli_command(&["expel", "--yes", "two"]));
    assert_eq!(members(&hung.node), ["hung", "two"]);
    hung.node.signal(libc::SIGKILL);
    // The thread that waits for the disk ends with it.
    drop(frozen);
    let ended = hung.node.await_end();
    assert!(!ended.status.success());
    assert!(!expelling.finish(HANG_LIMIT).status.success());
    hung.node.launch();
    // The kill may have come after the write. In both cases all nodes agree.
    let stored = members(&hung.node);
    eventually("two agrees", HANG_LIMIT, || {
        stored.len() == 1 || members(&two) == stored
    });
}

#[apply(promise)]
fn a_hanging_disk_delays_no_statement_join_new_file_or_eviction() {
    for place in ["cache", "share", MOUNT_POINT] {
        let mut cluster = Cluster::with_own_secrets();
        let one = cluster.start("one");
        let hung = start_on_disk(&mut cluster, "hung", place);
        let two = cluster.start("two");
        stock(&one, FILES);
        invite(&one, &[], &hung.node);
        hung.node.wait_for_file(&format!("f{}", FILES - 1));
        let mut reader = Reader {
            node: &hung.node,
            next: 0,
        };
        reader.read_one();
        let frozen = Frozen::new(&hung.disk);
        // An eviction from a cache on the disk waits, and reads do not.
        let resizing = start(&mut hung.node.cli_command(&["cache", "resize", "1MiB"]));
        invite(&one, &[], &two);
        two.write("of-two", b"two");
        let of_two = hung.node.mounted("of-two");
        reader.until("a file of the new member", || of_two.exists());
        one.cli(&["expel", "--yes", "two"]).expect_ok();
        reader.until("the expulsion", || !of_two.exists());
        hung.node.cli(&["status"]).expect_ok();
        assert_eq!(state_of(&one, "hung"), "alive", "{place}");
        let mut node = hung.node;
        if place == MOUNT_POINT {
            resizing.finish(HANG_LIMIT).expect_ok();
            node.stop();
            node.launch();
            node.wait_for_file("f0");
            drop(frozen);
        } else {
            drop(frozen);
            resizing.finish(HANG_LIMIT).expect_ok();
        }
    }
}

#[apply(promise)]
fn a_start_on_a_hanging_state_disk_says_so() {
    let mut cluster = Cluster::with_own_secrets();
    let mut hung = start_on_disk(&mut cluster, "hung", "state");
    hung.node.stop();
    let log = cluster.folder.path().join("log");
    let into_log = format!("exec \"$0\" \"$@\" 2>>{}", log.display());
    hung.node.options.through = ["sh", "-c", &into_log].map(str::to_owned).into();
    let frozen = Frozen::new(&hung.disk);
    let starting = start(&mut hung.node.daemon_command());
    eventually("it says why it waits", HANG_LIMIT, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("state directory") && said.contains("does not answer")
    });
    drop(frozen);
    hung.node
        .cli(&["wait", "--timeout", WAIT_LIMIT])
        .expect_ok();
    starting.signal(libc::SIGTERM);
    starting.finish(HANG_LIMIT);
}
