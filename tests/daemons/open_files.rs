//! A daemon that may open no more files: what it says of that, and what stays of it.

use std::fs::{self, File};
use std::io::Read;

use macro_rules_attribute::apply;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Fewer than every daemon has open.
const LIMIT: u64 = 10;
/// What leaves room for some files, and those that a program has open at one time.
const FEW: u64 = 64;
const MANY: u64 = 400;

/// Lets a daemon have so many files open, and says how many it might before.
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
fn at_the_limit_of_open_files_it_is_named_and_when_it_is_over_nothing_is_said_of_it() {
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
    // for this the daemon opens nothing
    let told = || fs::read_to_string(nodes[1].mounted(".p2pfs/status.json")).unwrap();
    let named = format!("as many files open as it may ({LIMIT}); raise LimitNOFILE=");
    eventually("the limit is named", PATIENCE, || told().contains(&named));
    assert!(!told().contains("unmounted by hand"), "{}", told());
    limit_open_files(&nodes[1], before);
    eventually("nothing is said of it any more", PATIENCE, || {
        let status = nodes[1].cli(&["status", "--json"]).expect_json();
        status["warnings"].as_array().is_some_and(Vec::is_empty)
    });
    let said = nodes[1].stop().stderr;
    assert!(!said.contains("the folder is gone"), "{said}");
}

#[apply(promise)]
fn a_program_that_keeps_more_files_open_than_the_daemon_may_reads_all_of_them() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["owner", "reader"]);
    let files: Vec<_> = (0..MANY).map(|seed| noise(seed, 20 << 10)).collect();
    for (n, bytes) in files.iter().enumerate() {
        nodes[0].write(&format!("many/{n}"), bytes);
    }
    eventually("all are listed", PATIENCE, || {
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
