//! Three nodes as a user runs them: real daemons, real mounts, real signals, on loopback. The tests
//! here check the mounts of the merged shares. Each file beside this one tests one subject.

mod copies;
mod listener;
mod restarts;
mod strangers;
mod versions;
mod waits;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::content::{names_below, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);

#[apply(promise)]
fn each_mount_lists_the_union_of_what_all_nodes_share() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two", "three"]);
    nodes[0].write("resume.pdf", b"the first");
    nodes[1].write("photos/2026/sea.jpg", b"the second");
    nodes[2].write("bin/run.sh", b"#!/bin/sh\necho ran\n");
    set_mode(&nodes[2].share.join("bin/run.sh"), 0o755);
    fs::create_dir(nodes[2].share.join("empty")).unwrap();
    let union: Vec<PathBuf> = [
        "bin",
        "bin/run.sh",
        "empty",
        "photos",
        "photos/2026",
        "photos/2026/sea.jpg",
        "resume.pdf",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    for node in &nodes {
        eventually("the union is listed", HANG_LIMIT, || {
            names_below(&node.mount) == union
        });
        assert_eq!(fs::read(node.mounted("resume.pdf")).unwrap(), b"the first");
        assert_eq!(
            fs::read(node.mounted("photos/2026/sea.jpg")).unwrap(),
            b"the second"
        );
        eventually("the executable bit is seen", HANG_LIMIT, || {
            fs::metadata(node.mounted("bin/run.sh"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
                == 0o755
        });
        assert_eq!(
            run(&mut Command::new(node.mounted("bin/run.sh"))).expect_ok(),
            "ran\n"
        );
        let source = fs::metadata(nodes[0].share.join("resume.pdf")).unwrap();
        let shown = fs::metadata(node.mounted("resume.pdf")).unwrap();
        assert_eq!(
            (shown.size(), shown.mtime_nsec()),
            (source.size(), source.mtime_nsec())
        );
        assert_eq!(shown.mode() & 0o7777, 0o644);
    }
}

#[apply(promise)]
fn names_are_bytes_and_are_preserved() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let odd: Vec<Vec<u8>> = vec![
        b"with space".to_vec(),
        b"new\nline".to_vec(),
        vec![b'n'; 255],
        b"not utf-8 \xff\xfe".to_vec(),
        "snowman \u{2603}".as_bytes().to_vec(),
        b"-rf".to_vec(),
    ];
    for name in &odd {
        let path = nodes[0].share.join(OsStr::from_bytes(name));
        fs::write(&path, name).unwrap();
    }
    let expected = names_below(&nodes[0].share);
    eventually("all odd names are listed", HANG_LIMIT, || {
        names_below(&nodes[1].mount) == expected
    });
    for name in &odd {
        let path = nodes[1].mount.join(OsStr::from_bytes(name));
        assert_eq!(&fs::read(path).unwrap(), name);
    }
}

#[apply(promise)]
fn a_change_in_a_share_is_seen_on_every_mount() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let seen = nodes[1].mounted("note.txt");
    assert!(!seen.exists());
    nodes[0].write("note.txt", b"first");
    eventually("the new file appears", HANG_LIMIT, || seen.exists());
    assert_eq!(fs::read(&seen).unwrap(), b"first");
    let old_inode = fs::metadata(&seen).unwrap().ino();
    nodes[0].write("note.txt", b"second, longer");
    eventually("the new content appears", HANG_LIMIT, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"second, longer")
    });
    assert_ne!(fs::metadata(&seen).unwrap().ino(), old_inode);
    fs::rename(
        nodes[0].share.join("note.txt"),
        nodes[0].share.join("moved.txt"),
    )
    .unwrap();
    eventually("the move is seen", HANG_LIMIT, || {
        !seen.exists() && nodes[1].mounted("moved.txt").exists()
    });
    fs::remove_file(nodes[0].share.join("moved.txt")).unwrap();
    eventually("the removal is seen", HANG_LIMIT, || {
        names_below(&nodes[1].mount).is_empty()
    });
}

#[apply(promise)]
fn a_write_to_the_mount_gets_erofs() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("a.txt", b"a");
    node.wait_for_file("a.txt");
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    denied(fs::write(node.mounted("new.txt"), b"x"));
    denied(fs::write(node.mounted("a.txt"), b"x"));
    denied(fs::remove_file(node.mounted("a.txt")));
    denied(fs::create_dir(node.mounted("dir")));
    denied(fs::rename(node.mounted("a.txt"), node.mounted("b.txt")));
    assert_eq!(fs::read(node.share.join("a.txt")).unwrap(), b"a");
}

#[apply(promise)]
fn private_files_stay_private() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let private = nodes[0].share.join("private.txt");
    fs::write(&private, b"mine").unwrap();
    set_mode(&private, 0o600);
    nodes[0].write("public.txt", b"ours");
    nodes[1].wait_for_file("public.txt");
    assert_eq!(names_below(&nodes[1].mount), [PathBuf::from("public.txt")]);
    eventually("the share says what it left out", HANG_LIMIT, || {
        nodes[0]
            .cli(&["share", "--json"])
            .expect_ok()
            .contains("private.txt")
    });
    set_mode(&private, 0o644);
    nodes[1].wait_for_file("private.txt");
    set_mode(&private, 0o640);
    eventually("it is withdrawn", HANG_LIMIT, || {
        !nodes[1].mounted("private.txt").exists()
    });
}

#[apply(promise)]
fn the_hidden_status_file_equals_the_commands_output() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let status = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    let hidden = || fs::read_to_string(node.mounted(".p2pfs/status.json")).unwrap();
    let said = node.cli(&["status", "--json"]).expect_json();
    let shown = status(&hidden());
    let keys = |it: &serde_json::Value| -> Vec<String> {
        it.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&shown), keys(&said));
    assert_eq!(
        (&shown["node"], &shown["pid"]),
        (&said["node"], &said["pid"])
    );
    node.write("file", b"bytes");
    eventually("what changes is in it soon", HANG_LIMIT, || {
        let said = node.cli(&["status", "--json"]).expect_json();
        said["namespace"]["entries"] == 1 && status(&hidden())["namespace"] == said["namespace"]
    });
}

#[apply(promise)]
fn two_hard_links_are_two_files_fetched_once() {
    use std::os::unix::fs::MetadataExt;
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("first", &noise(1, 300_000));
    fs::hard_link(nodes[0].share.join("first"), nodes[0].share.join("second")).unwrap();
    let (first, second) = (nodes[1].mounted("first"), nodes[1].mounted("second"));
    nodes[1].wait_for_file("first");
    nodes[1].wait_for_file("second");
    let of = |path: &Path| fs::metadata(path).unwrap();
    assert_ne!(of(&first).ino(), of(&second).ino());
    assert_eq!((of(&first).nlink(), of(&second).nlink()), (1, 1));
    let cached = || {
        let mut room = [0; 20];
        let length = rustix::fs::getxattr(&second, "user.p2pfs.cached", &mut room).unwrap();
        String::from_utf8(room[..length].to_vec()).unwrap()
    };
    assert_eq!(cached(), "0");
    assert_eq!(fs::read(&first).unwrap(), noise(1, 300_000));
    eventually("what the one brought, the other has", HANG_LIMIT, || {
        cached() == "300000"
    });
}

#[apply(promise)]
fn an_own_file_shows_its_current_size_while_written() {
    use std::io::Write;
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("log", b"a line\n");
    node.wait_for_file("log");
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(node.share.join("log"))
        .unwrap();
    let mut length = 7;
    // This lasts longer than the hashing and announcing of a version, so that many writes come in
    // between.
    let begun = std::time::Instant::now();
    while begun.elapsed() < 3 * SECOND {
        log.write_all(b"another line\n").unwrap();
        length += 13;
        let shown = fs::metadata(node.mounted("log")).unwrap().len();
        assert_eq!(shown, length, "after {:?}", begun.elapsed());
    }
    assert_eq!(fs::read(node.mounted("log")).unwrap().len() as u64, length);
}

#[apply(promise)]
fn blocks_show_cached_bytes_and_are_never_zero() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("film.bin", &noise(13, 4 << 20));
    nodes[1].wait_for_file("film.bin");
    let seen = nodes[1].mounted("film.bin");
    let blocks = || fs::metadata(&seen).unwrap().blocks();
    assert!(
        (1..100).contains(&blocks()),
        "{} blocks of nothing",
        blocks()
    );
    fs::read(&seen).unwrap();
    eventually("all blocks are counted", HANG_LIMIT, || {
        blocks() * 512 >= 4 << 20
    });
    // The kernel reports a close shortly after it.
    eventually("no block is counted", HANG_LIMIT, || {
        nodes[1].cli(&["cache", "clear"]).expect_ok();
        blocks() < 100
    });
}
