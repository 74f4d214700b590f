//! A daemon at its limit of open files: its reports, and its remaining functions.

use std::fs::{self, File};
use std::io::Read;
use std::thread;

use macro_rules_attribute::apply;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// A limit below the number of files that every daemon has open.
const LIMIT: u64 = 10;
/// A limit with room for some files, and the number of files that a program opens at once.
const FEW: u64 = 64;
const MANY: u64 = 400;

/// Sets a daemon's limit of open files. Returns the limit before.
fn limit_open_files(node: &Node, current: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(node.pid().cast_signed());
    let had = fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let line = had.lines().find(|line| line.starts_with("Max open files"));
    let mut numbers = line.unwrap().split_whitespace().skip(3);
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    let (before, maximum) = (number(), number());
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    before
}

#[apply(promise)]
fn the_limit_of_open_files_is_reported_while_it_is_reached() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["owner", "reader"]);
    let bytes = [1, 2].map(|seed| noise(seed, 1 << 20));
    for (name, bytes) in ["first", "second"].iter().zip(&bytes) {
        nodes[0].write(name, bytes);
        nodes[1].wait_for_file(name);
    }
    assert!(fs::read(nodes[1].mounted("first")).unwrap() == bytes[0]);
    let before = limit_open_files(&nodes[1], Some(LIMIT));
    assert!(fs::read(nodes[1].mounted("second")).unwrap() == bytes[1]);
    // The daemon opens no file for this read.
    let told = || fs::read_to_string(nodes[1].mounted(".p2pfs/status.json")).unwrap();
    let named = format!("as many files open as it may ({LIMIT}); raise LimitNOFILE=");
    eventually("the limit is named", HANG_LIMIT, || told().contains(&named));
    assert!(!told().contains("unmounted by hand"), "{}", told());
    limit_open_files(&nodes[1], before);
    eventually("nothing is said of it any more", HANG_LIMIT, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["warnings"].as_array().is_some_and(Vec::is_empty)
    });
    let said = nodes[1].stop().stderr;
    assert!(!said.contains("the folder is gone"), "{said}");
}

#[apply(promise)]
fn a_program_with_more_open_files_than_the_daemons_limit_reads_all_of_them() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["owner", "reader"]);
    let files: Vec<_> = (0..MANY).map(|seed| noise(seed, 20 << 10)).collect();
    for (n, bytes) in files.iter().enumerate() {
        nodes[0].write(&format!("many/{n}"), bytes);
    }
    eventually("all are listed", HANG_LIMIT, || {
        let listed = fs::read_dir(nodes[1].mounted("many"));
        listed.is_ok_and(|listed| listed.count() == files.len())
    });
    limit_open_files(&nodes[1], Some(FEW));
    let open = |n| File::open(nodes[1].mounted(&format!("many/{n}"))).unwrap();
    let mut opened: Vec<_> = (0..files.len()).map(open).collect();
    for (n, (file, bytes)) in opened.iter_mut().zip(&files).enumerate() {
        let mut read = Vec::new();
        let said = file.read_to_end(&mut read);
        assert!(said.is_ok() && read == *bytes, "many/{n}: {said:?}");
    }
}

#[apply(promise)]
fn a_holder_at_its_limit_of_open_files_is_awaited_and_its_own_readers_are_told() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["owner", "reader"]);
    let [small, large] = [20 << 10, 3 << 20].map(|length| noise(7, length));
    nodes[0].write("first", b"for which a connection is made");
    nodes[0].write("small", &small);
    nodes[0].write("large", &large);
    for name in ["first", "small", "large"] {
        nodes[1].wait_for_file(name);
    }
    fs::read(nodes[1].mounted("first")).unwrap();
    let before = limit_open_files(&nodes[0], Some(LIMIT));
    let own = File::open(nodes[0].mounted("small")).unwrap_err();
    assert_eq!(own.raw_os_error(), Some(libc::ENFILE), "{own}");
    let reading = [("small", small), ("large", large)].map(|(name, bytes)| {
        let path = nodes[1].mounted(name);
        thread::spawn(move || assert!(fs::read(path).expect(name) == bytes))
    });
    // Requests before each ping have been answered.
    for _ in 0..3 {
        nodes[1].cli(&["ping", "owner", "--count", "1"]).expect_ok();
    }
    assert!(reading.iter().all(|reading| !reading.is_finished()));
    limit_open_files(&nodes[0], before);
    for reading in reading {
        reading.join().unwrap();
    }
}
