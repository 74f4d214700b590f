//! Daemons that stop, are killed and return: the state that they leave behind, and the state after
//! the restart.

use std::fs;
use std::io::Read;
use std::sync::mpsc;
use std::thread;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
fn a_mount_left_by_a_killed_daemon_is_cleaned_by_the_next_start() {
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
fn without_a_broker_readers_fail_at_once_when_the_daemon_is_killed() {
    const READERS: usize = 6;
    let mut cluster = Cluster::new();
    let mut nodes = ["far", "near"].map(|name| {
        cluster.start_with(NodeOptions {
            config: "[mount]\nread_deadline = '300s'\n".to_owned(),
            ..NodeOptions::new(name)
        })
    });
    let names: Vec<String> = (0..READERS).map(|number| format!("{number}.bin")).collect();
    for (seed, name) in names.iter().enumerate() {
        nodes[0].write(name, &noise(seed as u64, 4 << 20));
        nodes[1].wait_for_file(name);
    }
    let open = |name: &String| fs::File::open(nodes[1].mounted(name)).unwrap();
    let files: Vec<fs::File> = names.iter().map(open).collect();
    nodes[0].signal(libc::SIGSTOP);
    let (told, ended) = mpsc::channel();
    for mut file in files {
        let told = told.clone();
        thread::spawn(move || told.send(file.read(&mut [0; 4096])));
    }
    eventually("they wait", HANG_LIMIT, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["waiting_reads"].as_u64() >= Some(READERS as u64)
    });
    nodes[1].kill();
    for _ in 0..READERS {
        let error = ended.recv_timeout(AT_ONCE).unwrap().unwrap_err();
        // The first is for requests in flight at the daemon's end, the second for requests after
        // it.
        let errors = [libc::ECONNABORTED, libc::ENOTCONN].map(Some);
        assert!(errors.contains(&error.raw_os_error()), "{error}");
    }
    let error = fs::read_dir(&nodes[1].mount).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    nodes[0].signal(libc::SIGCONT);
}

#[apply(promise)]
fn after_a_kill_cached_files_are_checked_again() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let bytes = noise(12, 3 << 20);
    nodes[0].write("kept.bin", &bytes);
    nodes[1].wait_for_file("kept.bin");
    assert!(fs::read(nodes[1].mounted("kept.bin")).unwrap() == bytes);
    // A clean stop writes the whole file to disk.
    nodes[1].stop();
    nodes[1].launch();
    nodes[1].kill();
    nodes[1].damage_cached(&bytes, 1 << 20);
    nodes[1].launch();
    eventually("the wrong bytes are found", HANG_LIMIT, || {
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
fn inode_numbers_survive_a_restart_of_the_daemon() {
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
    eventually("the same again", HANG_LIMIT, || {
        numbers(&nodes[1]) == before
    });
}
