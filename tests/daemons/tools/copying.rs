//! Programs that copy: the copy equals the other node's file, with its times, links and holes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::{NEEDS, assert_same_trees, world};
use crate::support::content::{hash_of, names_below};
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("cp", "diff")]
fn cp_copies_a_tree_byte_by_byte() {
    let world = world();
    let copy = world.out("cp");
    run(Command::new("cp")
        .arg("-r")
        .arg(world.seen("cp"))
        .arg(&copy))
    .expect_ok();
    assert_same_trees(&world.source("cp"), &copy);
}

#[apply(promise)]
#[takes("cp")]
fn cp_a_keeps_times_and_links() {
    let world = world();
    let copy = world.out("cp-a");
    run(Command::new("cp")
        .arg("-a")
        .arg(world.seen("cp-a"))
        .arg(&copy))
    .expect_ok();
    let times = |dir: &Path| -> BTreeMap<PathBuf, (i64, i64)> {
        let files = names_below(dir)
            .into_iter()
            .filter(|name| dir.join(name).is_file());
        files
            .map(|name| {
                let meta = fs::symlink_metadata(dir.join(&name)).unwrap();
                (name, (meta.mtime(), meta.mtime_nsec()))
            })
            .collect()
    };
    assert_eq!(times(&copy), times(&world.source("cp-a")));
    assert_eq!(
        fs::read_link(copy.join("link")).unwrap(),
        Path::new("d0/f0.txt")
    );
}

#[apply(promise)]
#[takes("rsync")]
fn rsync_by_checksum_copies_and_then_finds_nothing_to_do() {
    let world = world();
    let copy = world.out("rsync");
    let from = format!("{}/", world.seen("rsync").display());
    let rsync = || {
        let mut rsync = Command::new("rsync");
        run(rsync
            .args(["-a", "--checksum", "--itemize-changes"])
            .arg(&from)
            .arg(&copy))
        .expect_ok()
    };
    rsync();
    assert_same_trees(&world.source("rsync"), &copy);
    assert_eq!(rsync(), "", "the second time there is nothing to do");
}

#[apply(promise)]
#[takes("tar", "diff")]
fn tar_copies_a_tree() {
    let world = world();
    let out = world.out("tar");
    fs::create_dir(&out).unwrap();
    let (mount, into) = (world.reader.mount.display(), out.display());
    shell(&format!("tar -C {mount} -cf - tar | tar -C {into} -xf -")).expect_ok();
    assert_same_trees(&world.source("tar"), &out.join("tar"));
}

#[apply(promise)]
#[takes("tar")]
fn tar_never_mistakes_uncached_bytes_for_a_hole() {
    let world = world();
    let out = world.out("tar-s");
    fs::create_dir(&out).unwrap();
    let (mount, into) = (world.reader.mount.display(), out.display());
    let names = "tar-hole.bin sparse/holes.img";
    shell(&format!(
        "tar -C {mount} -Scf - {names} | tar -C {into} -xf -"
    ))
    .expect_ok();
    for name in names.split(' ') {
        assert_eq!(
            hash_of(&out.join(name)).unwrap(),
            hash_of(&world.source(name)).unwrap(),
            "{name}"
        );
    }
}

#[apply(promise)]
#[takes("cp")]
fn cp_never_mistakes_uncached_bytes_for_a_hole() {
    let world = world();
    for name in ["cp-hole.bin", "sparse/holes.img"] {
        let copy = world.out("copied");
        let mut cp = Command::new("cp");
        let cp = cp.arg("--sparse=auto").arg(world.seen(name)).arg(&copy);
        run(cp).expect_ok();
        assert_eq!(
            hash_of(&copy).unwrap(),
            hash_of(&world.source(name)).unwrap(),
            "{name}"
        );
    }
}

#[apply(promise)]
#[takes("git")]
fn git_clones_and_finds_a_shared_repository_clean() {
    let world = world();
    let (seen, clone) = (world.seen("repository"), world.out("clone"));
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "clone", "-q"]);
    run(git.env("GIT_CONFIG_NOSYSTEM", "1").arg(&seen).arg(&clone)).expect_ok();
    assert_eq!(
        fs::read(clone.join("src/f7.c")).unwrap(),
        fs::read(world.source("repository/src/f7.c")).unwrap()
    );
    for question in ["status --porcelain", "fsck --no-progress", "diff --stat"] {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C"]).arg(&seen);
        assert_eq!(
            run(git.args(question.split(' '))).expect_ok(),
            "",
            "{question}"
        );
    }
}
