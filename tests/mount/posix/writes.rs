//! Calls that would change something fail with EROFS for every user, after errors that have
//! precedence.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::place::{FLAVOURS, NOBODY, Place, as_user, c_path, outcome};
use super::{BESIDE, Case, PJD, XFS};
use crate::support::mounted::errno;

const OMIT: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: libc::UTIME_OMIT,
};
const SOME_TIME: libc::timespec = libc::timespec {
    tv_sec: 1_000_000,
    tv_nsec: 5,
};

/// Makes a call as root and as a user that owns no file.
fn both(what: &str, wanted: i32, attempt: impl Fn() -> i32 + Send + Sync) {
    assert_eq!(attempt(), wanted, "{what}");
    assert_eq!(
        as_user(NOBODY, &attempt),
        wanted,
        "{what}, as an ordinary user"
    );
}

fn open(path: &Path, flags: i32) -> i32 {
    let path = c_path(path);
    // SAFETY: a C string.
    let file = unsafe { libc::open(path.as_ptr(), flags, 0o644) };
    let said = outcome(file);
    if said == 0 {
        // SAFETY: just opened.
        unsafe { libc::close(file) };
    }
    said
}

/// Makes a changing call, selected by its name, with one or two paths.
fn change(group: &str, path: &Path, other: &Path) -> i32 {
    let (path, other) = (c_path(path), c_path(other));
    let (path, other) = (path.as_ptr(), other.as_ptr());
    // SAFETY: C strings, and times where times are wanted.
    outcome(unsafe {
        match group {
            "chmod" => libc::chmod(path, 0o600),
            "chown" => libc::chown(path, 1, 1),
            "lchown" => libc::lchown(path, 1, 1),
            "link" => libc::link(other, path),
            "mkdir" => libc::mkdir(path, 0o755),
            "mkfifo" => libc::mkfifo(path, 0o644),
            "mknod" => libc::mknod(path, libc::S_IFREG | 0o644, 0),
            "rename" => libc::rename(other, path),
            "rmdir" => libc::rmdir(path),
            "symlink" => libc::symlink(other, path),
            "truncate" => libc::truncate(path, 1),
            "unlink" => libc::unlink(path),
            "utimensat" => libc::utimensat(libc::AT_FDCWD, path, [SOME_TIME; 2].as_ptr(), 0),
            _ => unreachable!("{group}"),
        }
    })
}

/// The number if the suite has one, the call, and its path.
const READ_ONLY: [(&str, &str, &str); 14] = [
    ("chmod/09", "chmod", "words"),
    ("chown/09", "chown", "words"),
    ("chown/09", "lchown", "link"),
    ("link/16", "link", "dir/new"),
    ("mkdir/09", "mkdir", "dir/new"),
    ("mkfifo/08", "mkfifo", "dir/new"),
    ("mknod", "mknod", "dir/new"),
    ("rename/16", "rename", "dir/new"),
    ("rename/16", "rename", "script"),
    ("rmdir/14", "rmdir", "dir/empty"),
    ("symlink/10", "symlink", "dir/new"),
    ("truncate/10", "truncate", "words"),
    ("unlink/12", "unlink", "words"),
    ("utimensat/00", "utimensat", "words"),
];

const EXISTING: [(&str, &str); 5] = [
    ("link/10", "link"),
    ("mkdir/10", "mkdir"),
    ("mkfifo/09", "mkfifo"),
    ("mknod/08", "mknod"),
    ("symlink/08", "symlink"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = READ_ONLY
        .iter()
        .map(|(number, call, target)| {
            let target_words = target.replace('/', "_");
            let name = format!("{number}_{call}_of_{target_words}_is_erofs");
            let suite = if number.contains('/') { PJD } else { BESIDE };
            Case::new(suite, &name, move |place| {
                let words = place.at("words");
                both(call, libc::EROFS, || {
                    change(call, &place.at(target), &words)
                });
                assert_eq!(fs::read(words).unwrap(), b"some words\n");
            })
        })
        .collect();
    cases.extend(EXISTING.iter().map(|(number, call)| {
        let name = format!("{number}_a_name_that_is_taken_is_eexist");
        Case::new(PJD, &name, move |place| {
            for taken in ["words", "dir", "link", "dangling"] {
                both(taken, libc::EEXIST, || {
                    change(call, &place.at(taken), &place.at("script"))
                });
            }
        })
    }));
    cases.extend(others());
    cases
}

#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn others() -> Vec<Case> {
    vec![
        Case::new(
            PJD,
            "ftruncate/00_a_descriptor_for_reading_is_einval",
            ftruncate,
        ),
        Case::new(
            PJD,
            "posix_fallocate/00_a_descriptor_for_reading_is_ebadf",
            posix_fallocate,
        ),
        Case::new(PJD, "link/14_a_link_to_another_disk_is_exdev", link_14),
        Case::new(PJD, "rename/15_a_move_to_another_disk_is_exdev", rename_15),
        Case::new(PJD, "rename/19_dot_and_dot_dot_are_ebusy", rename_19),
        Case::new(PJD, "rmdir/12_dot_is_einval", rmdir_12),
        Case::new(PJD, "rmdir/13_the_mount_point_is_ebusy", rmdir_13),
        Case::new(PJD, "truncate/09_a_directory_is_eisdir", truncate_09),
        Case::new(PJD, "truncate/13_a_length_below_nothing_is_einval", |p| {
            let path = c_path(&p.at("words"));
            // SAFETY: a C string.
            let said = outcome(unsafe { libc::truncate(path.as_ptr(), -1) });
            assert_eq!(said, libc::EINVAL);
        }),
        Case::new(
            PJD,
            "utimensat/02_nothing_to_change_is_no_error",
            utimensat_02,
        ),
        Case::new(PJD, "open/06_executing_what_is_no_program_is_eacces", |p| {
            for name in ["words", "file", "dir"] {
                let ran = std::process::Command::new(p.at(name)).status();
                assert_eq!(errno(ran), libc::EACCES, "{name}");
            }
        }),
        Case::new(PJD, "open/13_a_directory_for_writing_is_eisdir", |p| {
            for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
                both("dir", libc::EISDIR, || open(&p.at("dir"), flags));
            }
            both("O_CREAT", libc::EISDIR, || {
                open(&p.at("dir"), libc::O_CREAT | libc::O_RDONLY)
            });
        }),
        Case::new(PJD, "open/14_a_file_for_writing_is_erofs", |p| {
            let truncate = libc::O_RDONLY | libc::O_TRUNC;
            for name in FLAVOURS {
                let append = libc::O_WRONLY | libc::O_APPEND;
                for flags in [libc::O_WRONLY, libc::O_RDWR, append, truncate] {
                    both(name, libc::EROFS, || open(&p.at(name), flags));
                }
            }
        }),
        Case::new(PJD, "open/15_a_new_file_is_erofs", |p| {
            for more in [0, libc::O_EXCL, libc::O_TRUNC] {
                let flags = libc::O_CREAT | libc::O_RDWR | more;
                both("new", libc::EROFS, || open(&p.at("dir/new"), flags));
            }
            let existing = libc::O_CREAT | libc::O_RDONLY;
            both("O_CREAT of what is there", 0, || {
                open(&p.at("words"), existing)
            });
        }),
        Case::new(PJD, "open/22_a_file_that_must_be_new_is_eexist", |p| {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY;
            for name in ["words", "dir", "link", "dangling"] {
                both(name, libc::EEXIST, || open(&p.at(name), flags));
            }
        }),
        Case::new(
            PJD,
            "open/23_flags_that_exclude_each_other_are_einval",
            |p| {
                let flags = libc::O_TMPFILE & !libc::O_DIRECTORY | libc::O_RDWR;
                both("flags", libc::EINVAL, || open(&p.at("dir"), flags));
            },
        ),
        Case::new(XFS, "generic/004_an_unnamed_file_is_erofs", |p| {
            let flags = libc::O_TMPFILE | libc::O_RDWR;
            both("O_TMPFILE", libc::EROFS, || open(&p.at("dir"), flags));
        }),
        Case::new(
            XFS,
            "generic/008_a_hole_is_not_made_by_who_reads",
            generic_008,
        ),
        Case::new(
            XFS,
            "generic/024_every_kind_of_rename_is_erofs",
            generic_024,
        ),
        Case::new(XFS, "generic/050_touch_says_read_only", generic_050),
        Case::new(
            XFS,
            "generic/294_a_taken_name_is_eexist_before_erofs",
            generic_294,
        ),
        Case::of_mount(
            XFS,
            "generic/306_statfs_says_read_only_nosuid_nodev",
            |place| {
                let path = c_path(&place.root);
                // SAFETY: a C string, and room for the answer.
                let found = unsafe {
                    let mut found: libc::statvfs = std::mem::zeroed();
                    assert_eq!(libc::statvfs(path.as_ptr(), &raw mut found), 0);
                    found
                };
                let wanted = libc::ST_RDONLY | libc::ST_NOSUID | libc::ST_NODEV;
                assert_eq!(found.f_flag & wanted, wanted);
                assert_eq!(found.f_namemax, 255);
            },
        ),
    ]
}

fn ftruncate(place: &Place) {
    for name in FLAVOURS {
        let file = place.open(name);
        // SAFETY: the file is open.
        let said = outcome(unsafe { libc::ftruncate(file.as_raw_fd(), 0) });
        assert_eq!(said, libc::EINVAL, "{name}");
    }
}

fn posix_fallocate(place: &Place) {
    for name in FLAVOURS {
        let file = place.open(name);
        // SAFETY: the file is open.
        let said = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 4096) };
        assert_eq!(said, libc::EBADF, "{name}");
    }
}

/// Returns a folder on another filesystem than both places.
fn elsewhere() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in("/dev/shm").ok();
    if folder.is_none() {
        eprintln!("SKIPPED: no /dev/shm here");
    }
    folder
}

fn link_14(place: &Place) {
    let Some(other) = elsewhere() else { return };
    let new = other.path().join("new");
    assert_eq!(change("link", &new, &place.at("words")), libc::EXDEV);
}

fn rename_15(place: &Place) {
    let Some(other) = elsewhere() else { return };
    let new = other.path().join("new");
    assert_eq!(change("rename", &new, &place.at("words")), libc::EXDEV);
    fs::write(&new, b"x").unwrap();
    assert_eq!(change("rename", &place.at("new"), &new), libc::EXDEV);
}

fn rename_19(place: &Place) {
    for name in [".", ".."] {
        let dot = place.at(&format!("dir/{name}"));
        assert_eq!(change("rename", &place.at("new"), &dot), libc::EBUSY);
    }
}

fn rmdir_12(place: &Place) {
    let words = place.at("words");
    assert_eq!(change("rmdir", &place.at("dir/."), &words), libc::EINVAL);
    assert_eq!(
        change("rmdir", &place.at("dir/.."), &words),
        libc::ENOTEMPTY
    );
}

fn rmdir_13(place: &Place) {
    assert_eq!(change("rmdir", &place.root, &place.root), libc::EBUSY);
}

fn truncate_09(place: &Place) {
    both("dir", libc::EISDIR, || {
        change("truncate", &place.at("dir"), &place.root)
    });
}

fn utimensat_02(place: &Place) {
    let path = c_path(&place.at("words"));
    // SAFETY: a C string, and two times.
    let said = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [OMIT; 2].as_ptr(), 0) };
    assert_eq!(outcome(said), 0);
}

fn generic_008(place: &Place) {
    let file = place.open("file");
    for mode in [
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        libc::FALLOC_FL_COLLAPSE_RANGE,
    ] {
        // SAFETY: the file is open.
        let said = outcome(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, 4096) });
        assert_eq!(said, libc::EBADF, "{mode}");
    }
}

fn generic_024(place: &Place) {
    let (from, new) = (c_path(&place.at("words")), c_path(&place.at("dir/new")));
    let taken = c_path(&place.at("script"));
    for (to, flags) in [
        (&new, libc::RENAME_NOREPLACE),
        (&taken, libc::RENAME_EXCHANGE),
        (&new, 0),
    ] {
        let cwd = libc::AT_FDCWD;
        // SAFETY: C strings.
        let said = unsafe { libc::renameat2(cwd, from.as_ptr(), cwd, to.as_ptr(), flags) };
        assert_eq!(outcome(said), libc::EROFS, "{flags}");
    }
}

fn generic_050(place: &Place) {
    for name in ["words", "dir", "new"] {
        let mut touch = std::process::Command::new("touch");
        let done = touch
            .env("LC_ALL", "C")
            .arg(place.at(name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            !done.status.success() && said.contains("Read-only"),
            "{said}"
        );
    }
}

fn generic_294(place: &Place) {
    for taken in ["words", "dir", "link"] {
        for call in ["mknod", "mkdir", "symlink"] {
            let said = change(call, &place.at(taken), &place.at("script"));
            assert_eq!(said, libc::EEXIST, "{call} {taken}");
        }
        let said = File::create_new(place.at(taken));
        assert_eq!(errno(said), libc::EEXIST);
    }
}
