//! The read-only part of two suites that filesystems are held to, case by case: pjdfstest, and the
//! generic group of xfstests. The code is our own; each test has the group and number of the case
//! that it stands for, and what this mount must do there.
//!
//! Each case is tried on the mount and, where it can show the same, on a read-only tmpfs with the
//! same names and bytes: a case that fails there is wrong itself. The
//! mount is served by a process of its own, as always outside tests: a mapping of one's own mount
//! can stand still.
//!
//! Bytes come to a reader in four ways, and each reading case is tried on all four: `file` is
//! answered at once, `fetched` later, by another thread; `backed` is a complete file and `own` a
//! file of this node, both read by the kernel itself (where it has no passthrough, by the daemon).
//!
//! # pjdfstest
//!
//! | group | here | not here, and why |
//! |---|---|---|
//! | `chflags`, `granular` | | flags and access lists of other systems |
//! | `chmod`, `chown` | 01 02 03 04 06 09 10 | 00 11 12: they change a file that cannot be changed. 05: every directory can be searched by all. 07 08: EROFS comes before EPERM |
//! | `ftruncate`, `posix_fallocate` | a descriptor for reading is refused | all else needs one for writing, which is EROFS at its open |
//! | `link` | 01 02 03 04 08 09 10 14 16 17 | 00 05 06 07 11 12 13 15: as above; no room is EROFS, too |
//! | `mkdir`, `mkfifo`, `mknod` | 01 02 03 04 07, EEXIST (10, 09, 08), EROFS (09, 08; `mknod` has none), EFAULT (12, 12, 10) | 05 06: EROFS comes before EACCES. All else makes something, or wants flags or a full disk |
//! | `open` | 01 02 03 04 06 12 13 14 15 16 21 22 23 25 | 00 26: they create. 05: as above. 07 08: EROFS comes before EACCES. 09 10 11 18 19 20: flags, locks at open, no space, a busy text: nothing is opened for writing. 17 24: fifos and sockets are never shown |
//! | `rename` | 01 02 03 11 12 15 16 17 19 24 | 00 04 to 10, 13 14 18 20 to 23: EROFS comes first (16) |
//! | `rmdir` | 01 02 03 04 05 12 13 14 15 | 00 06 to 11: EROFS comes first (14) |
//! | `symlink` | 01 02 03 04 07 08 10 12 | 00 05 06 09 11: EROFS comes first (10) |
//! | `truncate` | 01 02 03 04 07 09 10 13 14 | 00 05 06 08 11 12: EROFS comes first (10) |
//! | `unlink` | 01 02 03 04 07 12 13 | 00 05 06 08 to 11: EROFS comes first (12). 14, an open file outlives its name: `reads`, `daemons` |
//! | `utimensat` | 00 02 08 09 | 01 03 to 07: EROFS comes first (00) |
//!
//! # xfstests, generic
//!
//! | what | here | elsewhere, and what has no meaning here |
//! |---|---|---|
//! | names and links | 005 453 | 006 007 011 make names; 637 and 736, names that come and go while a directory is read: `changes`, `daemons::tools` |
//! | read-only filesystems | 004 008 024 050 294 306 452 | |
//! | listings | 257 310 401 676 | 100,000 names: `names` |
//! | reading | 095 124 130 132 210 249 285 391 450 471 525 564 591 749 | 141 246 to 248 340 344 to 346: mapped writing |
//! | attributes | 126 258 377 423 | 003 192: atime is the mtime. 020 062 454: attributes cannot be set |
//! | handles and locks | 131 426 478 504 | |
//! | end of a mount | | 604: `life` |
//! | quota, log, freeze, clone, dedupe, prealloc, trim, encrypt, verity, dax, idmapped | | what a read-only, networked folder does not have |
//!
//! What no case has, but programs do, is in `beside`.

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

/// One case: its suite, its name, where it is tried, and how.
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
    /// A case that a disk can show, too.
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

    /// A case in which the mount has a way of its own.
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

/// The cases as tests; each is ignored where this process has no mounts of its own.
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

/// Takes away what the cases share.
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
