//! Directories of small files: programs that read them in order get the next files in batches, and
//! other programs do not. Real daemons, real mounts, real programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

fn length_of(number: usize) -> usize {
    1024 + number * 7919 % (15 * 1024)
}

/// Moves a directory of small files into shares at once, so that it is listed whole.
fn share_directory(nodes: &[&Node], name: &str, seed: u64, count: usize) {
    let bytes = noise(seed, count + 16 * 1024);
    for node in nodes {
        let staged = node.home.join(name);
        fs::create_dir(&staged).unwrap();
        for number in 0..count {
            let path = staged.join(format!("{number:04}"));
            fs::write(path, &bytes[number..number + length_of(number)]).unwrap();
        }
        fs::rename(&staged, node.share.join(name)).unwrap();
    }
}

#[track_caller]
fn wait_until_listed(node: &Node, name: &str, count: usize) {
    let dir = node.mounted(name);
    eventually("all files are listed", HANG_LIMIT, || {
        fs::read_dir(&dir).is_ok_and(|names| names.count() == count)
    });
}

/// Returns the hashes of the contents in a node's cache.
fn cached(node: &Node) -> BTreeSet<String> {
    let listed = node.cli(&["cache", "ls", "--json"]).expect_json();
    let entries = listed["entries"].as_array().unwrap();
    let whole = entries
        .iter()
        .filter(|it| it["cached_bytes"] == it["size_bytes"]);
    whole
        .map(|it| it["hash"].as_str().unwrap().to_owned())
        .collect()
}

/// Reads these files in this order in one program and compares them.
fn read_in_order(program: &str, node: &Node, name: &str, seed: u64, numbers: &[usize]) {
    let mut cat = Command::new(program);
    let paths = numbers
        .iter()
        .map(|number| node.mounted(name).join(format!("{number:04}")));
    let read = run(cat.args(paths));
    assert!(read.status.success(), "{}", read.stderr);
    let bytes = noise(seed, 1 << 20);
    let expected: Vec<&[u8]> = numbers
        .iter()
        .map(|number| &bytes[*number..number + length_of(*number)])
        .collect();
    assert!(read.stdout == expected.concat(), "wrong bytes of {name}");
}

fn two_nodes(cluster: &mut Cluster, config: &str) -> (Node, Node) {
    let author = cluster.start("author");
    let reader = cluster.start_with(NodeOptions {
        config: config.to_owned(),
        ..NodeOptions::new("reader")
    });
    reader
        .cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
        .expect_ok();
    (author, reader)
}

#[apply(promise)]
fn a_tree_of_small_files_is_copied_exactly() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster, "");
    for (seed, name) in ["a", "b", "c"].iter().enumerate() {
        share_directory(&[&author], name, seed as u64, 150);
        wait_until_listed(&reader, name, 150);
    }
    for (way, arguments) in [
        ("cp", ["-r"].as_slice()),
        ("cp", &["-r", "--sparse=always"]),
    ] {
        let copy = reader.home.join(format!("copy-{}", arguments.len()));
        run(Command::new(way)
            .args(arguments)
            .arg(&reader.mount)
            .arg(&copy))
        .expect_ok();
        run(Command::new("diff").arg("-r").arg(&author.share).arg(&copy)).expect_ok();
    }
    assert_eq!(cached(&reader).len(), 450);
}

#[apply(promise)]
fn reading_files_in_order_prefetches_the_next_ones() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster, "");
    share_directory(&[&author], "mail", 5, 200);
    wait_until_listed(&reader, "mail", 200);
    let first: Vec<usize> = (0..20).collect();
    read_in_order("cat", &reader, "mail", 5, &first);
    eventually("more than was read comes", HANG_LIMIT, || {
        cached(&reader).len() > 20
    });
    read_in_order("cat", &reader, "mail", 5, &(0..200).collect::<Vec<_>>());
}

#[apply(promise)]
fn reading_files_in_listing_order_prefetches_the_next_ones() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster, "");
    share_directory(&[&author], "mail", 11, 200);
    wait_until_listed(&reader, "mail", 200);
    let listed = fs::read_dir(reader.mounted("mail")).unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let first: Vec<usize> = names.take(20).map(|name| name.parse().unwrap()).collect();
    read_in_order("cat", &reader, "mail", 11, &first);
    eventually("more than was read comes", HANG_LIMIT, || {
        cached(&reader).len() > 20
    });
}

#[apply(promise)]
fn reading_one_file_in_ten_prefetches_little_in_vain() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster, "");
    share_directory(&[&author], "tree", 6, 500);
    wait_until_listed(&reader, "tree", 500);
    let tenth: Vec<usize> = (0..50).map(|group| group * 10 + group * 7 % 10).collect();
    read_in_order("cat", &reader, "tree", 6, &tenth);
    eventually("what was read is kept", HANG_LIMIT, || {
        cached(&reader).len() >= 50
    });
    // A second program that reads in order waits for all requests of the first.
    share_directory(&[&author], "last", 7, 30);
    wait_until_listed(&reader, "last", 30);
    read_in_order("cat", &reader, "last", 7, &(0..30).collect::<Vec<_>>());
    eventually("that is kept too", HANG_LIMIT, || {
        cached(&reader).len() >= 80
    });
    assert!(cached(&reader).len() <= 90, "{}", cached(&reader).len());
}

/// Copies `cat` to this name.
fn program(cluster: &Cluster, name: &str) -> String {
    let program = cluster.folder.path().join(name);
    copy_program("/bin/cat", &program);
    program.to_str().unwrap().to_owned()
}

#[apply(promise)]
fn nothing_is_prefetched_for_a_program_with_a_budget() {
    let mut cluster = Cluster::new();
    let slow = program(&cluster, "slow-reader");
    let rule = "[readers]\nbudgets = ['slow-reader=100MiB/s']\n";
    let (author, reader) = two_nodes(&mut cluster, rule);
    share_directory(&[&author], "mail", 8, 100);
    wait_until_listed(&reader, "mail", 100);
    read_in_order(&slow, &reader, "mail", 8, &(0..40).collect::<Vec<_>>());
    eventually("what was read is kept", HANG_LIMIT, || {
        cached(&reader).len() >= 40
    });
    assert_eq!(cached(&reader).len(), 40);
}

#[apply(promise)]
fn nothing_is_prefetched_on_a_metered_network() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster, "");
    share_directory(&[&author], "mail", 12, 100);
    wait_until_listed(&reader, "mail", 100);
    reader.cli(&["limits", "--metered", "on"]).expect_ok();
    read_in_order("cat", &reader, "mail", 12, &(0..40).collect::<Vec<_>>());
    eventually("what was read is kept", HANG_LIMIT, || {
        cached(&reader).len() >= 40
    });
    assert_eq!(cached(&reader).len(), 40);
}

#[apply(promise)]
fn nothing_is_prefetched_for_a_program_limited_to_cached_bytes() {
    let mut cluster = Cluster::new();
    let indexer = program(&cluster, "indexer");
    let rule = "[readers]\ncached_only = ['indexer']\n";
    let (author, reader) = two_nodes(&mut cluster, rule);
    share_directory(&[&author], "mail", 9, 100);
    wait_until_listed(&reader, "mail", 100);
    let paths = (0..40).map(|number| reader.mounted("mail").join(format!("{number:04}")));
    let refused = run(Command::new(&indexer).args(paths));
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert_eq!(cached(&reader).len(), 0);
}

#[apply(promise)]
fn a_holder_killed_during_a_copy_of_its_files_costs_no_file() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["first", "second", "reader"]);
    share_directory(&[&nodes[0], &nodes[1]], "tree", 10, 600);
    let reader = &nodes[2];
    wait_until_listed(reader, "tree", 600);
    let of_both = |number: usize| {
        let path = reader.mounted("tree").join(format!("{number:04}"));
        let holders = rustix::fs::getxattr(&path, "user.p2pfs.holders", &mut vec![0; 256][..]);
        holders.is_ok_and(|length| length == "first,second".len())
    };
    eventually("both are known to have them", HANG_LIMIT, || {
        (0..600).all(of_both)
    });
    let copy = reader.home.join("copy");
    let cp = start(
        Command::new("cp")
            .arg("-r")
            .arg(reader.mounted("tree"))
            .arg(&copy),
    );
    eventually("some are copied", HANG_LIMIT, || count(&copy) > 50);
    nodes[0].kill();
    let copied = cp.finish(HANG_LIMIT);
    assert!(copied.status.success(), "{}", copied.stderr);
    run(Command::new("diff")
        .arg("-r")
        .arg(nodes[1].share.join("tree"))
        .arg(&copy))
    .expect_ok();
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}
