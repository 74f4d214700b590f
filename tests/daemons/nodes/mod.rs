//! Three nodes as a user runs them: real daemons, real mounts, real signals, on loopback.

mod listener;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::content::{hash_of, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

const SECOND: Duration = Duration::from_secs(1);

fn names_below(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // what has gone since it was listed has no names
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let entry = entry.unwrap();
            names.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

fn hashes_below(dir: &Path) -> BTreeMap<PathBuf, String> {
    names_below(dir)
        .into_iter()
        .filter(|name| dir.join(name).is_file())
        .map(|name| (name.clone(), hash_of(&dir.join(&name)).unwrap()))
        .collect()
}

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
        eventually("the union is listed", 60 * SECOND, || {
            names_below(&node.mount) == union
        });
        assert_eq!(fs::read(node.mounted("resume.pdf")).unwrap(), b"the first");
        assert_eq!(
            fs::read(node.mounted("photos/2026/sea.jpg")).unwrap(),
            b"the second"
        );
        eventually("the executable bit is seen", 60 * SECOND, || {
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
fn names_are_bytes_and_survive() {
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
    eventually("all odd names are listed", 60 * SECOND, || {
        names_below(&nodes[1].mount) == expected
    });
    for name in &odd {
        let path = nodes[1].mount.join(OsStr::from_bytes(name));
        assert_eq!(&fs::read(path).unwrap(), name);
    }
}

#[apply(promise)]
fn a_tree_copied_through_the_mount_is_equal_to_its_source() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    for number in 0..5000u64 {
        let path = nodes[0]
            .share
            .join(format!("tree/d{}/f{number}", number % 50));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(number, (number % 3000) as usize)).unwrap();
    }
    let source = hashes_below(&nodes[0].share);
    eventually("all 5,000 files are listed", HANG_LIMIT, || {
        names_below(&nodes[1].mount) == names_below(&nodes[0].share)
    });
    let copy = nodes[1].home.join("copy");
    run(Command::new("cp")
        .arg("-r")
        .arg(nodes[1].mounted("tree"))
        .arg(&copy))
    .expect_ok();
    let strip = |(path, hash): (&PathBuf, &String)| {
        (path.strip_prefix("tree").unwrap().to_owned(), hash.clone())
    };
    assert_eq!(hashes_below(&copy), source.iter().map(strip).collect());
}

#[apply(promise)]
fn a_gibibyte_copied_through_the_mount_is_equal_to_its_source() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let source = nodes[0].share.join("big.bin");
    let staging = nodes[0].home.join("big.bin");
    let piece = noise(1, 64 << 20);
    let whole: Vec<u8> = (0..16u8)
        .flat_map(|n| piece.iter().map(move |b| b ^ n))
        .collect();
    fs::write(&staging, whole).unwrap();
    fs::rename(&staging, &source).unwrap();
    nodes[1].wait_for_file("big.bin");
    let copy = nodes[1].home.join("copy.bin");
    run(Command::new("cp")
        .arg(nodes[1].mounted("big.bin"))
        .arg(&copy))
    .expect_ok();
    assert_eq!(hash_of(&copy).unwrap(), hash_of(&source).unwrap());
    let resident_kib = resident_kib(nodes[1].pid());
    assert!(
        resident_kib < 400 * 1024,
        "{resident_kib} KiB resident after a file of 1 GiB"
    );
}

#[apply(promise)]
fn files_larger_than_the_cache_and_all_memory_for_them_are_read_to_their_end() {
    let mut cluster = Cluster::new();
    let one = cluster.start("one");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), "24MiB".to_owned()],
        ..NodeOptions::new("two")
    });
    let piece = noise(2, 40 << 20);
    let names: Vec<String> = (0..4).map(|number| format!("film-{number}")).collect();
    for (number, name) in (0u8..).zip(&names) {
        let staging = one.home.join(name);
        let bytes: Vec<u8> = piece.iter().map(|byte| byte ^ number).collect();
        fs::write(&staging, bytes).unwrap();
        fs::rename(&staging, one.share.join(name)).unwrap();
    }
    names.iter().for_each(|name| reader.wait_for_file(name));
    std::thread::scope(|scope| {
        for name in &names {
            let (from, to) = (one.share.join(name), reader.mounted(name));
            scope.spawn(move || run(Command::new("cmp").arg(from).arg(to)).expect_ok());
        }
    });
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[apply(promise)]
fn a_change_in_a_share_is_seen_on_every_mount() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let seen = nodes[1].mounted("note.txt");
    assert!(!seen.exists());
    nodes[0].write("note.txt", b"first");
    eventually("the new file appears", 60 * SECOND, || seen.exists());
    assert_eq!(fs::read(&seen).unwrap(), b"first");
    let old_inode = fs::metadata(&seen).unwrap().ino();
    nodes[0].write("note.txt", b"second, longer");
    eventually("the new content appears", 60 * SECOND, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"second, longer")
    });
    assert_ne!(fs::metadata(&seen).unwrap().ino(), old_inode);
    fs::rename(
        nodes[0].share.join("note.txt"),
        nodes[0].share.join("moved.txt"),
    )
    .unwrap();
    eventually("the move is seen", 60 * SECOND, || {
        !seen.exists() && nodes[1].mounted("moved.txt").exists()
    });
    fs::remove_file(nodes[0].share.join("moved.txt")).unwrap();
    eventually("the removal is seen", 60 * SECOND, || {
        names_below(&nodes[1].mount).is_empty()
    });
}

#[apply(promise)]
fn a_file_read_to_its_end_stays_readable_without_its_node() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let bytes = noise(3, 3 << 20);
    nodes[0].write("kept.bin", &bytes);
    nodes[0].write("unread.bin", &noise(4, 1000));
    nodes[1].wait_for_file("kept.bin");
    nodes[1].wait_for_file("unread.bin");
    assert_eq!(fs::read(nodes[1].mounted("kept.bin")).unwrap(), bytes);
    nodes[0].kill();
    eventually("the unread file leaves the listing", 60 * SECOND, || {
        !nodes[1].mounted("unread.bin").exists()
    });
    assert_eq!(fs::read(nodes[1].mounted("kept.bin")).unwrap(), bytes);
}

#[apply(promise)]
fn a_copy_goes_on_when_its_holder_is_killed_and_another_has_it() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two", "three"]);
    let bytes = noise(5, 256 << 20);
    nodes[0].write("film.bin", &bytes);
    nodes[1].write("same.bin", &bytes);
    nodes[2].wait_for_file("film.bin");
    nodes[2].wait_for_file("same.bin");
    let copy = nodes[2].home.join("copy");
    let running = start(
        Command::new("cp")
            .arg(nodes[2].mounted("film.bin"))
            .arg(&copy),
    );
    eventually("the copy has begun", 60 * SECOND, || {
        fs::metadata(&copy).is_ok_and(|meta| meta.len() > 1 << 20)
    });
    nodes[0].kill();
    running.finish(HANG_LIMIT).expect_ok();
    assert_eq!(
        hash_of(&copy).unwrap(),
        blake3::hash(&bytes).to_hex().to_string()
    );
}

#[apply(promise)]
fn a_copy_whose_only_holder_dies_ends_in_an_error() {
    let mut cluster = Cluster::new();
    let mut nodes = vec![cluster.start("one")];
    let mut options = NodeOptions::new("two");
    options.config = "[mount]\nread_deadline = \"3s\"\n".to_owned();
    nodes.push(cluster.start_with(options));
    let bytes = noise(6, 400 << 20);
    nodes[0].write("film.bin", &bytes);
    nodes[1].wait_for_file("film.bin");
    let copy = nodes[1].home.join("copy");
    let running = start(
        Command::new("cp")
            .arg(nodes[1].mounted("film.bin"))
            .arg(&copy),
    );
    eventually("the copy has begun", 60 * SECOND, || {
        fs::metadata(&copy).is_ok_and(|meta| meta.len() > 1 << 20)
    });
    nodes[0].kill();
    let finished = running.finish(HANG_LIMIT);
    if fs::metadata(&copy).unwrap().len() < bytes.len() as u64 {
        assert!(!finished.status.success(), "a short copy with exit 0");
        assert!(
            finished.stderr.contains("Input/output error"),
            "{}",
            finished.stderr
        );
    } else {
        assert_eq!(
            hash_of(&copy).unwrap(),
            blake3::hash(&bytes).to_hex().to_string()
        );
    }
}

#[apply(promise)]
fn a_blocked_reader_goes_at_once_on_ctrl_c() {
    let mut cluster = Cluster::new();
    let mut nodes = ["one", "two"].map(|name| {
        cluster.start_with(NodeOptions {
            config: "[mount]\nread_deadline = '300s'\n".to_owned(),
            ..NodeOptions::new(name)
        })
    });
    nodes[0].write("far.bin", &noise(7, 64 << 20));
    nodes[1].wait_for_file("far.bin");
    nodes[0].signal(libc::SIGSTOP);
    let reader = start(Command::new("cat").arg(nodes[1].mounted("far.bin")));
    eventually("the read waits", 60 * SECOND, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["waiting_reads"]
            .as_u64()
            .is_some_and(|waiting| waiting > 0)
    });
    reader.signal(libc::SIGINT);
    reader.finish(AT_ONCE);
    nodes[0].signal(libc::SIGCONT);
    nodes[0].kill();
}

/// Whether a process waits in a call that the mount is asked by. Looking at that takes no lock
/// that a blocked reader may hold.
fn waits_for_the_mount(reader: &Running) -> bool {
    let place = fs::read_to_string(format!("/proc/{}/wchan", reader.pid())).unwrap_or_default();
    ["request_wait_answer", "folio_wait", "fuse"]
        .iter()
        .any(|name| place.contains(name))
}

#[apply(promise)]
fn readers_of_every_kind_go_at_once_on_ctrl_c() {
    const ROUNDS: usize = 20;
    let mut cluster = Cluster::new();
    let far = cluster.start("far");
    // a legacy peer that is asked and never answers
    let legacy_peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let near = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[mount]\nread_deadline = '300s'\n[legacy]\nmembers = ['{}']\nlookup = '300s'\n",
            legacy_peer.local_addr().unwrap()
        ),
        ..NodeOptions::new("near")
    });
    far.write("far.bin", &noise(7, 64 << 20));
    near.wait_for_file("far.bin");
    far.signal(libc::SIGSTOP);
    let file = near.mounted("far.bin");
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", file.display()));
    dd.args(["of=/dev/null", "bs=4096", "count=1", "iflag=direct"]);
    for command in [
        Command::new("cat").arg(&file),
        &mut dd,
        Command::new("stat").arg(near.mounted("unknown")),
    ] {
        for round in 0..ROUNDS {
            let mut reader = start(command);
            eventually("the reader waits", 60 * SECOND, || {
                assert!(reader.is_running(), "{command:?} ended by itself");
                waits_for_the_mount(&reader)
            });
            reader.signal(libc::SIGINT);
            let (_, within) = reader.end_within(AT_ONCE);
            assert!(within, "{command:?} stayed, round {round}");
        }
    }
    far.signal(libc::SIGCONT);
}

#[apply(promise)]
fn names_and_attributes_never_wait_for_peers_that_are_silent_or_dead() {
    let mut cluster = Cluster::new();
    let nodes = ["near", "far"].map(|name| {
        cluster.start_with(NodeOptions {
            config: "[mount]\nread_deadline = '300s'\n".to_owned(),
            ..NodeOptions::new(name)
        })
    });
    for node in &nodes {
        for number in 0..50 {
            // each has bytes of its own: what another can give stays listed
            let name = format!("{}/f{number}", node.name);
            node.write(&name, name.as_bytes());
        }
        std::os::unix::fs::symlink("f0", node.share.join(&node.name).join("link")).unwrap();
    }
    nodes[1].write("far.bin", &noise(8, 8 << 20));
    for name in ["near/link", "far/f49", "far/link", "far.bin"] {
        nodes[0].wait_for_file(name);
    }
    let [near, mut far] = nodes;
    let ask_all = |state: &str| {
        let reader = start(Command::new("cat").arg(near.mounted("far.bin")));
        // a busy machine may stand still; who waits for a peer does each time
        let mut slow = Vec::new();
        for number in 0..500 {
            let name = ["near", "far"][number % 2];
            let file = near.mounted(&format!("{name}/f{}", number % 50));
            let begun = Instant::now();
            let _ = fs::read_dir(near.mounted(name)).map(Iterator::count);
            let _ = fs::metadata(&file);
            let _ = rustix::fs::getxattr(&file, "user.p2pfs.holders", &mut [0; 256]);
            let _ = fs::read_link(near.mounted(&format!("{name}/link")));
            let _ = fs::metadata(near.mounted(&format!("absent-{number}")));
            rustix::fs::statvfs(&near.mount).unwrap();
            let took = begun.elapsed();
            slow.extend((took >= 2 * SECOND).then_some(took));
        }
        assert!(slow.len() < 5, "{slow:?}, {state}");
        reader.signal(libc::SIGKILL);
        assert!(reader.end_within(AT_ONCE).1, "{state}");
    };
    far.signal(libc::SIGSTOP);
    ask_all("every peer silent");
    far.signal(libc::SIGCONT);
    far.kill();
    ask_all("every peer dead");
    eventually("their names leave", 60 * SECOND, || {
        !near.mounted("far/f49").exists()
    });
    ask_all("every peer given up");
    assert_eq!(fs::read(near.mounted("near/f7")).unwrap(), b"near/f7");
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
    eventually("the share says what it left out", 60 * SECOND, || {
        nodes[0]
            .cli(&["share", "--json"])
            .expect_ok()
            .contains("private.txt")
    });
    set_mode(&private, 0o644);
    nodes[1].wait_for_file("private.txt");
    set_mode(&private, 0o640);
    eventually("it is withdrawn", 60 * SECOND, || {
        !nodes[1].mounted("private.txt").exists()
    });
}

#[apply(promise)]
fn a_killed_daemon_leaves_a_mount_that_its_next_start_cleans() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.write("a.txt", b"a");
    node.wait_for_file("a.txt");
    node.kill();
    let error = fs::read_dir(&node.mount).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    node.launch();
    node.wait_for_file("a.txt");
    assert_eq!(fs::read(node.mounted("a.txt")).unwrap(), b"a");
}

#[apply(promise)]
fn after_a_kill_cached_files_are_checked_again() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let bytes = noise(12, 3 << 20);
    nodes[0].write("kept.bin", &bytes);
    nodes[1].wait_for_file("kept.bin");
    assert!(fs::read(nodes[1].mounted("kept.bin")).unwrap() == bytes);
    // a clean stop puts all of it on disk
    nodes[1].stop();
    nodes[1].launch();
    nodes[1].kill();
    let hash = blake3::hash(&bytes).to_hex();
    let data = nodes[1]
        .home
        .join(format!("cache/{}/{hash}.data", &hash[..2]));
    let file = fs::OpenOptions::new().write(true).open(data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"not what was there", 1 << 20).unwrap();
    nodes[1].launch();
    eventually("the wrong bytes are found", 60 * SECOND, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["warnings"].to_string().contains("wrong")
    });
    nodes[1].wait_for_file("kept.bin");
    assert!(fs::read(nodes[1].mounted("kept.bin")).unwrap() == bytes);
}

#[apply(promise)]
fn a_clean_stop_unmounts_and_exits_0() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    assert!(is_mounted(&node.mount));
    let finished = node.stop();
    assert!(
        finished.status.success(),
        "{:?}: {}",
        finished.status,
        finished.stderr
    );
    assert!(!is_mounted(&node.mount));
}

#[apply(promise)]
fn a_restarted_node_keeps_its_shares_and_its_cache() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let added = nodes[1].home.join("added");
    fs::create_dir(&added).unwrap();
    fs::write(added.join("late.txt"), b"late").unwrap();
    nodes[1]
        .cli(&["share", "add", added.to_str().unwrap()])
        .expect_ok();
    nodes[0].wait_for_file("late.txt");
    let bytes = noise(8, 1 << 20);
    nodes[0].write("cached.bin", &bytes);
    nodes[1].wait_for_file("cached.bin");
    assert_eq!(fs::read(nodes[1].mounted("cached.bin")).unwrap(), bytes);
    nodes[1].stop();
    nodes[1].launch();
    nodes[0].kill();
    assert_eq!(fs::read(nodes[1].mounted("cached.bin")).unwrap(), bytes);
    nodes[1].wait_for_file("late.txt");
}

#[apply(promise)]
fn an_old_version_stays_readable_through_an_open_file() {
    use std::io::{Read, Seek, SeekFrom};
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let old = noise(9, 2 << 20);
    nodes[0].write("changing.bin", &old);
    nodes[1].wait_for_file("changing.bin");
    let seen = nodes[1].mounted("changing.bin");
    assert_eq!(fs::read(&seen).unwrap(), old);
    let mut open = fs::File::open(&seen).unwrap();
    let new = noise(10, 1 << 20);
    nodes[0].write("next.bin", &new);
    fs::rename(
        nodes[0].share.join("next.bin"),
        nodes[0].share.join("changing.bin"),
    )
    .unwrap();
    eventually("the new version is seen", 60 * SECOND, || {
        fs::metadata(&seen).is_ok_and(|meta| meta.len() == new.len() as u64)
    });
    let mut bytes = Vec::new();
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == old, "the open file is not the old version");
    assert!(fs::read(&seen).unwrap() == new);
}

#[apply(promise)]
fn a_replaced_version_that_nobody_has_is_estale_and_the_name_gives_the_new_one() {
    use std::os::unix::fs::FileExt;
    let mut cluster = Cluster::new();
    let mut holder = cluster.start("one");
    let reader = cluster.start_with(NodeOptions {
        config: "[mount]\nread_deadline = \"5m\"\n".to_owned(),
        ..NodeOptions::new("two")
    });
    // far more than is read ahead
    let old = noise(11, 64 << 20);
    holder.write("changing.bin", &old);
    reader.wait_for_file("changing.bin");
    let seen = reader.mounted("changing.bin");
    let open = fs::File::open(&seen).unwrap();
    let mut start = [0; 1000];
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, old[..1000]);
    // the one who has it stops, so that it does not serve what it has open
    holder.stop();
    holder.write("changing.bin", b"the new one");
    holder.launch();
    eventually("the new version is seen", 60 * SECOND, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"the new one")
    });
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, old[..1000], "what is cached is there");
    let begun = Instant::now();
    let lost = open.read_at(&mut start, 60 << 20);
    assert_eq!(lost.unwrap_err().raw_os_error(), Some(libc::ESTALE));
    let took = begun.elapsed();
    assert!(took < 60 * SECOND, "not by the deadline: {took:?}");
    assert_eq!(fs::read(&seen).unwrap(), b"the new one");
}

#[apply(promise)]
fn the_hidden_status_is_what_the_command_says() {
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
    eventually("what changes is in it soon", 60 * SECOND, || {
        let said = node.cli(&["status", "--json"]).expect_json();
        said["namespace"]["entries"] == 1 && status(&hidden())["namespace"] == said["namespace"]
    });
}

#[apply(promise)]
fn conflicting_versions_stand_beside_each_other() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two", "three"]);
    nodes[0].write("plan.txt", b"older");
    nodes[2].wait_for_file("plan.txt");
    nodes[1].write("plan.txt", b"newer");
    for node in &nodes {
        eventually("both versions are listed", 60 * SECOND, || {
            names_below(&node.mount) == ["plan.txt", "plan~one.txt"].map(PathBuf::from)
        });
        assert_eq!(fs::read(node.mounted("plan.txt")).unwrap(), b"newer");
        assert_eq!(fs::read(node.mounted("plan~one.txt")).unwrap(), b"older");
        assert_eq!(
            fs::read(node.mounted(".p2pfs/peers/one/plan.txt")).unwrap(),
            b"older"
        );
        let hash = blake3::hash(b"older").to_hex().to_string();
        assert_eq!(
            fs::read(node.mounted(&format!(".p2pfs/by-hash/{hash}"))).unwrap(),
            b"older"
        );
    }
}

/// Two nodes of one name, which some labels must tell apart, and one that looks on.
#[apply(promise)]
fn conflict_names_are_the_same_for_all_and_leave_nothing_unreachable() {
    let (mut cluster, mut other) = (Cluster::new(), Cluster::new());
    let first = cluster.start("twin");
    let mut options = NodeOptions::new("twin");
    options.seeds.push(first.address);
    let second = other.start_with(options);
    let reader = cluster.start("reader");
    reader
        .cli(&["wait", "--peers", "2", "--timeout", "60s"])
        .expect_ok();
    let key = |node: &Node| {
        let status = node.cli(&["status", "--json"]).expect_json();
        status["node"].as_str().unwrap().to_owned()
    };
    let key = key(&first);
    let long = format!("{}.txt", "n".repeat(251));
    let label = format!("twin-{}", &key[..4]);
    reader.write(&format!("taken~{label}.txt"), b"really shared");
    for name in ["plan.tar.gz", "taken.txt", &long] {
        first.write(name, b"older");
        reader.wait_for_file(name);
        second.write(name, b"newer");
    }
    let beside = format!("plan.tar~{label}.gz");
    let by_key = format!("taken~{label}-{}.txt", &key[..8]);
    let mut expected = [
        ("plan.tar.gz", &b"newer"[..]),
        (&beside, b"older"),
        ("taken.txt", b"newer"),
        (&format!("taken~{label}.txt"), b"really shared"),
        (&by_key, b"older"),
        (&long, b"newer"),
    ];
    expected.sort_unstable();
    for node in [&first, &second, &reader] {
        eventually("each version has its name", 60 * SECOND, || {
            let names = names_below(&node.mount);
            names == expected.map(|it| PathBuf::from(it.0))
        });
        for (name, bytes) in expected {
            eventually("and its bytes", 60 * SECOND, || {
                fs::read(node.mounted(name)).is_ok_and(|read| read == bytes)
            });
        }
        // for the name of 255 bytes there is no other
        let in_peer = node.mounted(&format!(".p2pfs/peers/{label}/{long}"));
        assert_eq!(fs::read(in_peer).unwrap(), b"older");
        let hash = blake3::hash(b"older").to_hex();
        let by_hash = node.mounted(&format!(".p2pfs/by-hash/{hash}"));
        assert_eq!(fs::read(by_hash).unwrap(), b"older");
        let why = node.cli(&["why", &long, "--json"]).expect_json();
        let lost = &why["versions"][1];
        assert_eq!(
            (lost["won"].as_bool(), lost["shown_as"].is_null()),
            (Some(false), true)
        );
        assert_eq!(lost["author"].as_str(), Some(&*label), "{why}");
        assert_eq!(lost["hash"].as_str(), Some(hash.as_str()));
    }
}

#[apply(promise)]
fn inode_numbers_are_the_same_after_a_restart_of_the_daemon() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("dir/theirs", b"of another node");
    std::os::unix::fs::symlink("dir", nodes[0].share.join("link")).unwrap();
    nodes[1].write("own", b"of its own");
    let names = ["dir", "dir/theirs", "link", "own"];
    nodes[1].wait_for_file("dir/theirs");
    nodes[1].wait_for_file("own");
    nodes[1].wait_for_file("link");
    let numbers = |node: &Node| {
        names.map(|name| {
            let meta = fs::symlink_metadata(node.mounted(name));
            meta.map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
                .ok()
        })
    };
    let before = numbers(&nodes[1]);
    assert!(before.iter().all(Option::is_some));
    nodes[1].stop();
    nodes[1].launch();
    eventually("the same again", 60 * SECOND, || {
        numbers(&nodes[1]) == before
    });
}

#[apply(promise)]
fn two_hard_links_are_two_files_whose_bytes_are_fetched_once() {
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
    eventually("what the one brought, the other has", 60 * SECOND, || {
        cached() == "300000"
    });
}

#[apply(promise)]
fn an_own_file_shows_its_size_at_the_moment_it_is_written() {
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
    // for longer than a version takes to be hashed and told, so that many come between
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
fn a_directory_keeps_its_name_and_why_says_so() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("thing.d", b"a file");
    nodes[1].write("thing.d/inside", b"in a directory");
    for node in &nodes {
        node.wait_for_file("thing.d/inside");
        node.wait_for_file("thing~one.d");
        assert_eq!(fs::read(node.mounted("thing~one.d")).unwrap(), b"a file");
        let why = node.cli(&["why", "thing.d", "--json"]).expect_json();
        let told: Vec<_> = (why["versions"].as_array().unwrap().iter())
            .map(|v| (v["kind"].as_str().unwrap(), v["won"].as_bool().unwrap()))
            .collect();
        assert_eq!(told, [("directory", true), ("file", false)], "{why}");
    }
}

#[apply(promise)]
fn a_stranger_with_another_secret_learns_and_changes_nothing() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("secret-name.txt", b"secret content");
    nodes[1].wait_for_file("secret-name.txt");
    cluster.change_secret(&"77".repeat(32));
    let stranger = cluster.start("mallory");
    let waited = stranger.cli(&["wait", "--peers", "1", "--timeout", "5s"]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(names_below(&stranger.mount).is_empty());
    let peers = stranger.cli(&["peers", "--json"]).expect_ok();
    assert!(!peers.contains("one") && !peers.contains("two"), "{peers}");
    let peers = nodes[0].cli(&["peers", "--json"]).expect_ok();
    assert!(
        peers.contains("two") && !peers.contains("mallory"),
        "{peers}"
    );
}

#[apply(promise)]
fn blocks_tell_what_is_cached_and_are_never_none() {
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
    eventually("all blocks are counted", 60 * SECOND, || {
        blocks() * 512 >= 4 << 20
    });
    // the kernel tells of a close a moment after it
    eventually("no block is counted", 60 * SECOND, || {
        nodes[1].cli(&["cache", "clear"]).expect_ok();
        blocks() < 100
    });
}

#[apply(promise)]
fn get_reads_the_same_content_from_another_of_the_own_files() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let bytes = noise(14, 3 << 20);
    nodes[1].write("mine.bin", &bytes);
    nodes[0].wait_for_file("mine.bin");
    nodes[0].write("theirs.bin", &bytes);
    nodes[1].wait_for_file("theirs.bin");
    nodes[0].signal(libc::SIGSTOP);
    let out = nodes[1].home.join("out.bin");
    nodes[1]
        .cli(&["get", "theirs.bin", "-o", out.to_str().unwrap()])
        .expect_ok();
    assert!(fs::read(&out).unwrap() == bytes);
    nodes[0].signal(libc::SIGCONT);
    nodes[0].kill();
}

#[apply(promise)]
fn a_listener_on_the_wire_reads_no_name_and_no_content() {
    let Some(listener) = listener::Listener::on_loopback() else {
        println!("SKIPPED: listening on the wire takes CAP_NET_RAW; run the tests as root");
        return;
    };
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["orpheus", "eurydice"]);
    let words = noise(12, 600)
        .iter()
        .map(|b| format!("plaintext{b:02x} "))
        .collect::<String>();
    nodes[0].write("underworld.txt", words.as_bytes());
    nodes[1].wait_for_file("underworld.txt");
    assert_eq!(
        fs::read(nodes[1].mounted("underworld.txt")).unwrap(),
        words.as_bytes()
    );
    let marker = b"end-of-the-listening";
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(marker, nodes[0].address).unwrap();
    let heard = listener.hear_until(marker, HANG_LIMIT);
    let ports = nodes
        .iter()
        .map(|node| node.address.port())
        .collect::<Vec<_>>();
    assert!(
        heard.to_ports(&ports) > 10,
        "the listener heard nothing of the nodes"
    );
    for secret in ["underworld", "plaintext", "orpheus", "eurydice"] {
        assert!(
            !heard.contains(secret.as_bytes()),
            "{secret} was read from the wire"
        );
    }
}

#[apply(promise)]
fn an_invited_node_joins_and_a_used_token_is_refused() {
    let mut cluster = Cluster::with_own_secrets();
    let first = cluster.start("one");
    first.write("a.txt", b"a");
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    let second = cluster.start("two");
    assert!(names_below(&second.mount).is_empty());
    second.cli(&["join", &token]).expect_ok();
    second
        .cli(&["wait", "--peers", "1", "--timeout", "30s"])
        .expect_ok();
    second.wait_for_file("a.txt");
    let third = cluster.start("three");
    let refused = third.cli(&["join", &token]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    let broken = third.cli(&["join", "p2pfs1-nonsense"]);
    assert_eq!(broken.status.code(), Some(1));
    assert_eq!(broken.stderr.trim().lines().count(), 1, "{}", broken.stderr);
    assert!(names_below(&third.mount).is_empty());
}

#[apply(promise)]
fn a_node_that_left_is_a_stranger_at_its_next_start() {
    let mut cluster = Cluster::with_own_secrets();
    let first = cluster.start("one");
    first.write("a.txt", b"a");
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    let mut second = cluster.start("two");
    second.cli(&["join", &token]).expect_ok();
    second.wait_for_file("a.txt");
    second.cli(&["leave"]).expect_ok();
    second.await_end().expect_ok();
    second.launch();
    let waited = second.cli(&["wait", "--peers", "1", "--timeout", "3s"]);
    assert_eq!(waited.status.code(), Some(1), "it is a member again");
    assert!(names_below(&second.mount).is_empty());
    let token = first.cli(&["invite"]).expect_ok().trim().to_owned();
    second.cli(&["join", &token]).expect_ok();
    second.wait_for_file("a.txt");
}

#[apply(promise)]
fn an_old_version_whose_time_is_set_anew_wins() {
    let mut cluster = Cluster::new();
    let (one, two) = (cluster.start("one"), cluster.start("two"));
    one.write("plan", b"of old");
    two.wait_for_file("plan");
    two.write("plan", b"of late");
    for node in [&one, &two] {
        eventually("the newest is shown", HANG_LIMIT, || {
            fs::read(node.mounted("plan")).is_ok_and(|bytes| bytes == b"of late")
        });
    }
    let touched = fs::File::open(one.share.join("plan")).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    for node in [&one, &two] {
        eventually("the touched one is shown", HANG_LIMIT, || {
            fs::read(node.mounted("plan")).is_ok_and(|bytes| bytes == b"of old")
        });
    }
}

#[apply(promise)]
fn get_fetches_without_a_mount_and_leaves_no_partial_file() {
    let mut cluster = Cluster::new();
    let one = cluster.start("one");
    let mut options = NodeOptions::new("two");
    options.config = "[mount]\nenabled = false\n".to_owned();
    options.mounted = false;
    let two = cluster.start_with(options);
    let bytes = noise(11, 20 << 20);
    one.write("dir/film.bin", &bytes);
    two.wait_for_file("dir/film.bin");
    let out = two.home.join("out.bin");
    two.cli(&["get", "dir/film.bin", "-o", out.to_str().unwrap()])
        .expect_ok();
    assert!(fs::read(&out).unwrap() == bytes);
    std::os::unix::fs::symlink("dir", one.share.join("link")).unwrap();
    two.wait_for_file("link");
    two.cli(&["get", "link/film.bin", "-o", out.to_str().unwrap()])
        .expect_ok();
    assert!(fs::read(&out).unwrap() == bytes, "over a link");
    let missing = two.home.join("missing.bin");
    let failed = two.cli(&["get", "no/such.bin", "-o", missing.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(!missing.exists());
}

#[apply(promise)]
fn garbage_on_both_ports_changes_nothing() {
    use std::io::{Read, Write};
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("a.txt", b"a");
    nodes[1].wait_for_file("a.txt");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for seed in 0..500u64 {
        let length = (seed * 7 % 1400) as usize;
        udp.send_to(&noise(seed, length), nodes[0].address).unwrap();
    }
    for first in [
        b"\x16\x03\x01\xff\xff".as_slice(),
        b"Get,a.txt\n",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
    ] {
        let mut tcp = std::net::TcpStream::connect(nodes[0].address).unwrap();
        tcp.set_read_timeout(Some(60 * SECOND)).unwrap();
        let _ = tcp.write_all(first);
        let _ = tcp.write_all(&noise(9, 100_000));
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(!String::from_utf8_lossy(&answer).contains("a.txt"));
    }
    nodes[0].write("b.txt", b"b");
    nodes[1].wait_for_file("b.txt");
    let status = nodes[0].cli(&["status", "--json"]).expect_json();
    let dropped = &status["dropped"];
    assert!(dropped["datagrams"].as_u64().unwrap() > 0, "{status}");
}
