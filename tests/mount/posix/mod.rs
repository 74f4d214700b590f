//! The read-only part of two test suites for filesystems, case by case: pjdfstest, and the generic
//! group of xfstests. The code is written for this repository. Each test names the group and number
//! of its case, and the required behaviour of this mount.
//!
//! Each case runs on the mount and, if it can behave the same, on a read-only tmpfs with the same
//! names and bytes. A case that fails there is wrong itself. A separate process serves the mount,
//! as always outside tests, because a mapping of a process's own mount can hang.
//!
//! Bytes reach a reader in four ways, and each reading case runs on all four. `file` is answered at
//! once, and `fetched` later by another thread. `backed` is a complete file and `own` a file of
//! this node. The kernel reads both by itself, or through the daemon if it has no passthrough.
//!
//! # pjdfstest
//!
//! | group | here | not here, and why |
//! |---|---|---|
//! | `chflags`, `granular` | | flags and access lists of other systems |
//! | `chmod`, `chown` | 01 02 03 04 06 09 10 | 00 11 12 change a file, which is not possible. 05: all users can search every directory. 07 08: EROFS precedes EPERM |
//! | `ftruncate`, `posix_fallocate` | a descriptor for reading is refused | all others need one for writing, whose open fails with EROFS |
//! | `link` | 01 02 03 04 08 09 10 14 16 17 | 00 05 06 07 11 12 13 15: as `chmod`; no space is EROFS too |
//! | `mkdir`, `mkfifo`, `mknod` | 01 02 03 04 07, EEXIST (10, 09, 08), EROFS (09, 08; `mknod` has none), EFAULT (12, 12, 10) | 05 06: EROFS precedes EACCES. All others create something, or need flags or a full disk |
//! | `open` | 01 02 03 04 06 12 13 14 15 16 21 22 23 25 | 00 26 create files. 05: as `chmod`. 07 08: EROFS precedes EACCES. 09 10 11 18 19 20: flags, locks at open, no space, a busy text: no file can be opened for writing. 17 24: fifos and sockets are never shown |
//! | `rename` | 01 02 03 11 12 15 16 17 19 24 | 00 04 to 10, 13 14 18 20 to 23: EROFS comes first (16) |
//! | `rmdir` | 01 02 03 04 05 12 13 14 15 | 00 06 to 11: EROFS comes first (14) |
//! | `symlink` | 01 02 03 04 07 08 10 12 | 00 05 06 09 11: EROFS comes first (10) |
//! | `truncate` | 01 02 03 04 07 09 10 13 14 | 00 05 06 08 11 12: EROFS comes first (10) |
//! | `unlink` | 01 02 03 04 07 12 13 | 00 05 06 08 to 11: EROFS comes first (12). 14, an open file outlives its name, is in `reads` and `daemons` |
//! | `utimensat` | 00 02 08 09 | 01 03 to 07: EROFS comes first (00) |
//!
//! # xfstests, generic
//!
//! | subject | here | elsewhere, or without meaning here |
//! |---|---|---|
//! | names and links | 005 453 | 006 007 011 create names. 637 and 736, names that appear and disappear while a directory is read, are in `changes` and `daemons::tools` |
//! | read-only filesystems | 004 008 024 050 294 306 452 | |
//! | listings | 257 310 401 676 | 100,000 names are in `names` |
//! | reading | 095 124 130 132 210 249 285 391 450 471 525 564 591 749 | 141 246 to 248 340 344 to 346: mapped writing |
//! | attributes | 126 258 377 423 | 003 192: atime is the mtime. 020 062 454: attributes cannot be set |
//! | handles and locks | 131 426 478 504 | |
//! | end of a mount | | 604 is in `life` |
//! | quota, log, freeze, clone, dedupe, prealloc, trim, encrypt, verity, dax, idmapped | | a read-only, networked folder does not have these |
//!
//! `beside` has calls that no case makes, but programs do.

mod beside;
mod calls;
mod handles;
mod listings;
mod paths;
mod place;
mod reads;
mod ring;
mod writes;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use libtest_mimic::Trial;
use parking_lot::Mutex;
use place::{Place, World};
pub(crate) use place::{enter_own_namespace, is_server, serve};

use crate::support::promise::{self, mount_as_root};

/// One case: its suite, its name, whether it also runs on the disk, and its code.
pub(crate) struct Case {
    pub suite: &'static str,
    pub name: String,
    pub also_on_disk: bool,
    pub attempt: Box<dyn Fn(&Place) + Send + 'static>,
}

pub(crate) const PJD: &str = "pjdfstest";
pub(crate) const XFS: &str = "xfstests";
pub(crate) const BESIDE: &str = "beside";

impl Case {
    /// Returns a case that runs on the mount and on the disk.
    pub(crate) fn new(
        suite: &'static str,
        name: &str,
        attempt: impl Fn(&Place) + Send + 'static,
    ) -> Self {
        Self {
            suite,
            name: name.to_owned(),
            also_on_disk: true,
            attempt: Box::new(attempt),
        }
    }

    /// Returns a case in which the mount differs from a disk.
    pub(crate) fn of_mount(
        suite: &'static str,
        name: &str,
        attempt: impl Fn(&Place) + Send + 'static,
    ) -> Self {
        Self {
            also_on_disk: false,
            ..Self::new(suite, name, attempt)
        }
    }
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// Returns the cases as tests. They are ignored if this process has no mount namespace of its own.
pub(crate) fn trials(own_namespace: Result<(), String>) -> Vec<Trial> {
    let cases = [
        paths::cases(),
        writes::cases(),
        listings::cases(),
        reads::cases(),
        handles::cases(),
        beside::cases(),
    ];
    let trial = |case: Case| {
        let (name, suite) = (format!("posix::{}", case.name), case.suite);
        let own_namespace = own_namespace.clone();
        let obstacle = move || mount_as_root().or(own_namespace.err());
        promise::trial(name, obstacle, move || run(&case)).with_kind(suite)
    };
    cases.into_iter().flatten().map(trial).collect()
}

/// Removes the places that the cases share.
pub(crate) fn end() {
    drop(WORLD.lock().take());
}

fn run(case: &Case) {
    let mut world = WORLD.lock();
    let world = world.get_or_insert_with(World::start);
    let mut places = vec![&world.mount];
    if case.also_on_disk {
        places.insert(0, &world.disk);
    }
    for place in places {
        let tried = catch_unwind(AssertUnwindSafe(|| (case.attempt)(place)));
        if let Err(panic) = tried {
            eprintln!("{}: failed on the {}", case.name, place.what());
            resume_unwind(panic);
        }
    }
}
