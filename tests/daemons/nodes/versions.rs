//! Several versions of one name: which one is shown, the names of the others, and reads of old
//! ones.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::{names_below, noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

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
    eventually("the new version is seen", HANG_LIMIT, || {
        fs::metadata(&seen).is_ok_and(|meta| meta.len() == new.len() as u64)
    });
    let mut bytes = Vec::new();
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == old, "the open file is not the old version");
    assert!(fs::read(&seen).unwrap() == new);
}

#[apply(promise)]
fn a_replaced_version_without_holders_is_estale_and_the_name_shows_the_new_one() {
    use std::os::unix::fs::FileExt;
    let mut cluster = Cluster::new();
    let mut holder = cluster.start("one");
    let reader = cluster.start_with(NodeOptions {
        config: "[mount]\nread_deadline = \"5m\"\n".to_owned(),
        ..NodeOptions::new("two")
    });
    // The file is far larger than the read-ahead.
    let old = noise(11, 64 << 20);
    holder.write("changing.bin", &old);
    reader.wait_for_file("changing.bin");
    let seen = reader.mounted("changing.bin");
    let open = fs::File::open(&seen).unwrap();
    let mut start = [0; 1000];
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, old[..1000]);
    // The holder stops, so that it does not serve its open descriptor.
    holder.stop();
    holder.write("changing.bin", b"the new one");
    holder.launch();
    eventually("the new version is seen", HANG_LIMIT, || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"the new one")
    });
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, old[..1000], "what is cached is there");
    let begun = Instant::now();
    let lost = open.read_at(&mut start, 60 << 20);
    assert_eq!(lost.unwrap_err().raw_os_error(), Some(libc::ESTALE));
    let took = begun.elapsed();
    assert!(took < HANG_LIMIT, "not by the deadline: {took:?}");
    assert_eq!(fs::read(&seen).unwrap(), b"the new one");
}

#[apply(promise)]
fn conflicting_versions_are_listed_side_by_side() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two", "three"]);
    nodes[0].write("plan.txt", b"older");
    nodes[2].wait_for_file("plan.txt");
    nodes[1].write("plan.txt", b"newer");
    for node in &nodes {
        eventually("both versions are listed", HANG_LIMIT, || {
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

/// Two nodes with one name, which labels must tell apart, and one that only reads.
#[apply(promise)]
fn conflict_names_are_equal_everywhere_and_hide_nothing() {
    let (mut cluster, mut other) = (Cluster::new(), Cluster::new());
    let first = cluster.start("twin");
    let mut options = NodeOptions::new("twin");
    options.seeds.push(first.address);
    let second = other.start_with(options);
    let reader = cluster.start("reader");
    reader
        .cli(&["wait", "--peers", "2", "--timeout", WAIT_LIMIT])
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
        eventually("each version has its name", HANG_LIMIT, || {
            let names = names_below(&node.mount);
            names == expected.map(|it| PathBuf::from(it.0))
        });
        for (name, bytes) in expected {
            eventually("and its bytes", HANG_LIMIT, || {
                fs::read(node.mounted(name)).is_ok_and(|read| read == bytes)
            });
        }
        // A name of 255 bytes has no conflict name.
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
fn a_directory_keeps_its_name_and_why_explains_it() {
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
fn an_old_version_with_a_new_time_wins() {
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
fn why_tells_what_is_here_of_a_file_whose_only_holder_is_away() {
    const SIZE: usize = 64 << 20;
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["owner", "reader"]);
    nodes[0].write("large", &noise(1, SIZE));
    nodes[1].wait_for_file("large");
    let next_read = |node: &Node| {
        let why = node.cli(&["why", "large", "--json"]).expect_json();
        why["next_read"].as_str().unwrap().to_owned()
    };
    let first = &mut [0; 4096];
    let file = fs::File::open(nodes[1].mounted("large")).unwrap();
    file.read_exact_at(first, 0).unwrap();
    nodes[0].stop();
    eventually("its holder is away", HANG_LIMIT, || {
        next_read(&nodes[1]).contains("owner is away or down")
    });
    let told = next_read(&nodes[1]);
    let words = format!("of {SIZE} bytes that are here, then fails");
    assert!(
        told.starts_with("reads the ") && told.contains(&words),
        "{told}"
    );
    assert!(told.ends_with("no other node has the rest"), "{told}");
}
