//! Programs that list: names, attributes and totals, with few requests to the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::{MANY, NEEDS, count, world};
use crate::support::content::{hash_of, names_below};
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("find")]
fn find_sees_every_name_once_by_type_size_and_mode() {
    let world = world();
    let found = |dir: &Path, conditions: &str| -> BTreeSet<String> {
        let mut find = Command::new("find");
        find.arg(".").args(conditions.split(' ')).current_dir(dir);
        run(&mut find)
            .expect_ok()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let (seen, source) = (world.seen("find"), world.source("find"));
    for conditions in [
        "-type f",
        "-type d",
        "-type l",
        "-size +10k",
        "-perm -0111",
        "-empty",
    ] {
        assert_eq!(
            found(&seen, conditions),
            found(&source, conditions),
            "{conditions}"
        );
    }
}

#[apply(promise)]
#[takes("du")]
fn du_counts_what_is_cached_and_apparent_sizes_what_is_shared() {
    let world = world();
    let du = |more: &[&str]| -> u64 {
        let text = run(Command::new("du").args(more).arg(world.seen("du.bin"))).expect_ok();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(du(&["-B512"]), 1, "nothing is cached, and it is no hole");
    assert_eq!(du(&["--apparent-size", "-B1"]), 3_000_000);
    fs::read(world.seen("du.bin")).unwrap();
    eventually("what was read is counted", HANG_LIMIT, || {
        du(&["-B512"]) == 3_000_000u64.div_ceil(512)
    });
}

#[apply(promise)]
#[takes("df")]
fn df_shows_what_the_cluster_shares() {
    let world = world();
    let mut df = Command::new("df");
    df.args(["-B1", "--output=used,avail,fstype"])
        .arg(&world.reader.mount);
    let text = run(&mut df).expect_ok();
    let figures: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let [used, free]: [u64; 2] = [0, 1].map(|n: usize| figures[n].parse().unwrap());
    let share = &world.author.share;
    let files = names_below(share).into_iter().map(|name| share.join(name));
    let contents: BTreeMap<String, u64> = files
        .filter(|file| file.is_file())
        .map(|file| (hash_of(&file).unwrap(), fs::metadata(&file).unwrap().len()))
        .collect();
    let unique: u64 = contents.values().sum();
    assert_eq!(
        used,
        unique.next_multiple_of(4096),
        "each content counts once"
    );
    assert!(free > 1 << 20 && figures[2].starts_with("fuse"), "{text}");
}

#[apply(promise)]
#[takes("getfattr")]
fn getfattr_shows_the_hash_and_who_holds_it() {
    let world = world();
    let getfattr = |arguments: &[&str]| {
        let mut getfattr = Command::new("getfattr");
        getfattr.arg("--absolute-names").args(arguments);
        run(getfattr.arg(world.seen("attr.bin"))).expect_ok()
    };
    let hash = hash_of(&world.source("attr.bin")).unwrap().to_string();
    for (name, value) in [
        ("hash", &*hash),
        ("holders", "author"),
        ("cached", "0"),
        ("verified", "blake3"),
    ] {
        let text = getfattr(&["--only-values", "-n", &format!("user.p2pfs.{name}")]);
        assert_eq!(text, value, "{name}");
    }
    assert_eq!(getfattr(&["-d", "-m", "-"]), "", "none is listed");
}

#[apply(promise)]
fn stat_shows_the_same_file_before_and_after_it_was_read() {
    let world = world();
    let of = |path: PathBuf| {
        let meta = fs::metadata(path).unwrap();
        (
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.mode(),
            meta.nlink(),
        )
    };
    let before = of(world.seen("stat.bin"));
    fs::read(world.seen("stat.bin")).unwrap();
    assert_eq!(of(world.seen("stat.bin")), before);
    let source = fs::metadata(world.source("stat.bin")).unwrap();
    assert_eq!(
        (before.1, before.2, before.3),
        (source.len(), source.mtime(), source.mtime_nsec())
    );
    assert_eq!(before.4 & 0o7777, 0o644);
}

#[apply(promise)]
#[takes("ls")]
fn a_second_ls_of_an_idle_tree_sends_no_request_for_a_file() {
    let world = world();
    let tree = world.seen("ls");
    let list = || run(Command::new("ls").arg("-lR").arg(&tree)).expect_ok();
    let first = list();
    let before = count(&world.reader, "requests");
    assert_eq!(list(), first);
    let asked = count(&world.reader, "requests") - before;
    // `ls` asks twice for labels or access lists. The kernel has cached all other answers.
    assert!(asked <= 2, "{asked} requests");
}

#[apply(promise)]
fn a_long_listing_has_each_lasting_name_once_during_changes() {
    let world = world();
    let stays: BTreeSet<String> = (0..MANY).map(|n| format!("name-{n:05}")).collect();
    let (dir, seen) = (world.source("many"), world.seen("many"));
    let mut comers = BTreeSet::new();
    for round in 0..12 {
        let mut listed = fs::read_dir(&seen).unwrap();
        let mut names = Vec::new();
        // The directory changes after a part of the listing was read.
        names.extend(listed.by_ref().take(2000));
        fs::write(dir.join(format!("comes-{round}")), b"").unwrap();
        if round > 2 {
            fs::remove_file(dir.join(format!("comes-{}", round - 3))).unwrap();
        }
        names.extend(listed);
        let names: Vec<String> = names
            .into_iter()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let unique: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(unique.len(), names.len(), "no name twice");
        assert!(stays.is_subset(&unique), "no name that stays is missing");
        comers.extend(unique.difference(&stays).cloned());
    }
    eventually("the last to come is listed", HANG_LIMIT, || {
        seen.join("comes-11").exists() && !seen.join("comes-8").exists()
    });
    let last = names_below(&seen);
    assert_eq!(
        last.len(),
        MANY + 3,
        "those that came, without those that went"
    );
}
