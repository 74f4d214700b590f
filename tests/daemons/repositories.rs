//! A repository that is written on one node and read on another: commands that succeed on the disk
//! succeed there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use macro_rules_attribute::apply;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::support::content::names_below;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
/// Number of runs of each reading command.
const ROUNDS: usize = 15;

/// Time between two commits, as short as a person's.
const PACE: Duration = Duration::from_millis(250);

/// Commands that repack the repository again and again on its node.
const PACKING: [&str; 3] = ["gc -q", "repack -a -d -q", "repack -d -q"];

/// A repository and the state of its writers.
struct Repository {
    at: PathBuf,
    home: PathBuf,
    /// Lock against new commits. The next lock is against repacking. `fsck` reports either as
    /// damage if it happens during the check, on any disk.
    commits: Mutex<usize>,
    packing: Mutex<()>,
    done: Mutex<bool>,
    ended: Condvar,
}

impl Repository {
    fn git(&self, dir: &Path, line: &str) -> Finished {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-c", "gc.auto=0"]);
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        git.arg("-C").arg(dir).args(line.split(' '));
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", &self.home);
        run(git.env("GIT_OPTIONAL_LOCKS", "0"))
    }

    fn commit(&self, number: &mut MutexGuard<'_, usize>) {
        **number += 1;
        for file in 0..5 {
            let dir = self.at.join(format!("dir-{}", (**number + file) % 4));
            fs::create_dir_all(&dir).unwrap();
            let text = format!("{number} {file}\n").repeat(**number % 50 + 1);
            fs::write(
                dir.join(format!("file-{}", (**number * 7 + file) % 20)),
                text,
            )
            .unwrap();
        }
        // `gc` removes empty directories, including one in which a new object is about to be
        // written.
        eventually("a commit", HANG_LIMIT, || {
            let added = self.git(&self.at, "add -A");
            added.status.success() && self.git(&self.at, "commit -q -m more").status.success()
        });
    }

    fn head(&self, dir: &Path) -> String {
        self.git(dir, "rev-parse HEAD").text()
    }

    fn is_done_within(&self, pace: Duration) -> bool {
        let mut done = self.done.lock();
        self.ended.wait_while_for(&mut done, |done| !*done, pace);
        *done
    }

    fn work(&self) {
        while !self.is_done_within(PACE) {
            self.commit(&mut self.commits.lock());
        }
    }

    fn pack(&self) {
        for line in PACKING.iter().cycle() {
            if self.is_done_within(2 * PACE) {
                return;
            }
            let _packing = self.packing.lock();
            self.git(&self.at, line).expect_ok();
        }
    }

    /// Runs a command beside repacking. On any disk, it may fail because its known packs were
    /// removed and new ones were not read yet. This is more frequent on slow disks. A failure
    /// counts if the packs are the same before and after.
    fn read_beside_packing(&self, dir: &Path, line: &str) -> Finished {
        loop {
            let before = names_below(&dir.join(".git/objects/pack"));
            let read = self.git(dir, line);
            if read.status.success() || names_below(&dir.join(".git/objects/pack")) == before {
                return read;
            }
        }
    }

    /// Runs `fsck` once all earlier work is visible in this directory.
    fn check(&self, dir: &Path) -> Finished {
        let _work = (self.commits.lock(), self.packing.lock());
        eventually("the last commit and its packs are here", HANG_LIMIT, || {
            self.head(dir) == self.head(&self.at)
                && names_below(&dir.join(".git/objects"))
                    == names_below(&self.at.join(".git/objects"))
        });
        self.git(dir, "fsck --no-progress")
    }

    /// Returns the messages of failed commands, by command.
    fn read(&self, dir: &Path) -> BTreeMap<&'static str, Vec<String>> {
        let mut failures: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let mut note = |what, finished: Finished| {
            let said = failures.entry(what).or_default();
            if !finished.status.success() {
                said.push(finished.stderr);
            }
        };
        for _ in 0..ROUNDS {
            note("log", self.read_beside_packing(dir, "log --stat"));
            note("status", self.read_beside_packing(dir, "status --short"));
            let copy = tempfile::tempdir_in(&self.home).unwrap();
            let clone = format!("clone -q --no-local . {}", copy.path().display());
            note("clone", self.read_beside_packing(dir, &clone));
            note("fsck", self.check(dir));
        }
        failures
    }
}

#[apply(promise)]
#[takes("git")]
fn a_repository_is_read_beside_commits_gc_and_repack_as_on_disk() {
    let mut cluster = Cluster::new();
    let writer = cluster.start("writer");
    let reader = cluster.start("reader");
    let repository = Repository {
        at: writer.share.join("repository"),
        home: cluster.folder.path().to_owned(),
        commits: Mutex::new(0),
        packing: Mutex::new(()),
        done: Mutex::new(false),
        ended: Condvar::new(),
    };
    fs::create_dir(&repository.at).unwrap();
    (repository.git(&repository.at, "init -q -b main")).expect_ok();
    (0..10).for_each(|_| repository.commit(&mut repository.commits.lock()));
    let seen = reader.mounted("repository");
    eventually("the repository", HANG_LIMIT, || {
        repository.head(&seen) == repository.head(&repository.at)
    });
    let (on_mount, on_disk) = thread::scope(|scope| {
        let repository = &repository;
        let works = [
            scope.spawn(|| repository.work()),
            scope.spawn(|| repository.pack()),
        ];
        let on_mount = scope.spawn(|| repository.read(&seen));
        let on_disk = repository.read(&repository.at);
        let on_mount = on_mount.join();
        *repository.done.lock() = true;
        repository.ended.notify_all();
        works.into_iter().for_each(|work| work.join().unwrap());
        (on_mount.unwrap(), on_disk)
    });
    for (what, said) in on_disk {
        assert!(said.is_empty(), "{what} on the disk: {said:#?}");
    }
    for (what, said) in on_mount {
        assert!(said.is_empty(), "{what} on the mount: {said:#?}");
    }
}
