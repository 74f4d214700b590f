//! Copies of whole files from other nodes: through the mount and by `get`, of any size, also if
//! holders die during the copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::{hash_of, names_below, noise, write_noise};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

fn hashes_below(dir: &Path) -> BTreeMap<PathBuf, String> {
    names_below(dir)
        .into_iter()
        .filter(|name| dir.join(name).is_file())
        .map(|name| (name.clone(), hash_of(&dir.join(&name)).unwrap()))
        .collect()
}

#[apply(promise)]
fn a_tree_copied_through_the_mount_equals_its_source() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    for number in 0..1000u64 {
        let path = nodes[0]
            .share
            .join(format!("tree/d{}/f{number}", number % 50));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(number, (number % 3000) as usize)).unwrap();
    }
    let source = hashes_below(&nodes[0].share);
    eventually("all 1,000 files are listed", HANG_LIMIT, || {
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
fn a_gibibyte_copied_through_the_mount_equals_its_source() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let source = nodes[0].share.join("big.bin");
    let staging = nodes[0].home.join("big.bin");
    write_noise(&staging, 1, 1 << 30);
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
fn files_larger_than_cache_and_memory_are_read_to_their_end() {
    let mut cluster = Cluster::new();
    let one = cluster.start("one");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), "24MiB".to_owned()],
        ..NodeOptions::new("two")
    });
    let names: Vec<String> = (0..4).map(|number| format!("film-{number}")).collect();
    for (number, name) in (0..).zip(&names) {
        let staging = one.home.join(name);
        write_noise(&staging, number, 40 << 20);
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
    eventually("the unread file leaves the listing", HANG_LIMIT, || {
        !nodes[1].mounted("unread.bin").exists()
    });
    assert_eq!(fs::read(nodes[1].mounted("kept.bin")).unwrap(), bytes);
}

#[apply(promise)]
fn a_copy_continues_when_one_of_its_holders_is_killed() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two", "three"]);
    let source = nodes[0].share.join("film.bin");
    write_noise(&source, 5, 256 << 20);
    write_noise(&nodes[1].share.join("same.bin"), 5, 256 << 20);
    nodes[2].wait_for_file("film.bin");
    nodes[2].wait_for_file("same.bin");
    let copy = nodes[2].home.join("copy");
    let running = start(
        Command::new("cp")
            .arg(nodes[2].mounted("film.bin"))
            .arg(&copy),
    );
    eventually("the copy has begun", HANG_LIMIT, || {
        fs::metadata(&copy).is_ok_and(|meta| meta.len() > 1 << 20)
    });
    nodes[0].kill();
    running.finish(HANG_LIMIT).expect_ok();
    assert_eq!(hash_of(&copy).unwrap(), hash_of(&source).unwrap());
}

#[apply(promise)]
fn a_copy_whose_only_holder_dies_ends_in_an_error() {
    let mut cluster = Cluster::new();
    let mut nodes = vec![cluster.start("one")];
    let mut options = NodeOptions::new("two");
    options.config = "[mount]\nread_deadline = \"3s\"\n".to_owned();
    nodes.push(cluster.start_with(options));
    let source = nodes[0].share.join("film.bin");
    write_noise(&source, 6, 400 << 20);
    nodes[1].wait_for_file("film.bin");
    let copy = nodes[1].home.join("copy");
    let running = start(
        Command::new("cp")
            .arg(nodes[1].mounted("film.bin"))
            .arg(&copy),
    );
    eventually("the copy has begun", HANG_LIMIT, || {
        fs::metadata(&copy).is_ok_and(|meta| meta.len() > 1 << 20)
    });
    nodes[0].kill();
    let finished = running.finish(HANG_LIMIT);
    if fs::metadata(&copy).unwrap().len() < fs::metadata(&source).unwrap().len() {
        assert!(!finished.status.success(), "a short copy with exit 0");
        assert!(
            finished.stderr.contains("Input/output error"),
            "{}",
            finished.stderr
        );
    } else {
        assert_eq!(hash_of(&copy).unwrap(), hash_of(&source).unwrap());
    }
}

#[apply(promise)]
fn get_reads_the_same_content_from_another_own_file() {
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
