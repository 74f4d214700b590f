//! Attributes, locks, programs, and descriptors made by other calls than open(2).

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::Command;

use super::place::{NOBODY, Place, as_user, c_path, odd_times, outcome};
use super::{BESIDE, Case, PJD, XFS};
use crate::support::mounted::errno;
use crate::support::process::{HANG_LIMIT, eventually};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            PJD,
            "utimensat/08_a_time_has_parts_of_a_second",
            times_are_shown,
        ),
        Case::new(
            PJD,
            "utimensat/09_a_time_after_2038_is_shown",
            times_are_shown,
        ),
        Case::new(
            XFS,
            "generic/258_a_time_before_1970_is_shown",
            times_are_shown,
        ),
        Case::new(
            XFS,
            "generic/126_who_may_read_and_run_is_as_the_mode_says",
            generic_126,
        ),
        Case::new(
            XFS,
            "generic/131_a_lock_for_reading_keeps_writers_out",
            generic_131,
        ),
        Case::of_mount(
            XFS,
            "generic/377_attributes_are_listed_whole_or_not",
            generic_377,
        ),
        Case::new(XFS, "generic/423_statx_says_what_stat_says", generic_423),
        Case::new(
            XFS,
            "generic/426_a_handle_opens_its_own_file_or_is_stale",
            generic_426,
        ),
        Case::new(XFS, "generic/452_a_program_runs", generic_452),
        Case::new(
            XFS,
            "generic/478_a_lock_belongs_to_its_open_file",
            generic_478,
        ),
        Case::new(XFS, "generic/504_a_lock_is_in_proc_locks", generic_504),
        Case::new(
            BESIDE,
            "a_descriptor_without_rights_can_be_opened_anew",
            path_descriptor,
        ),
    ]
}

fn times_are_shown(place: &Place) {
    for (name, time) in odd_times() {
        let meta = fs::metadata(place.at(name)).unwrap();
        let shown = (meta.mtime(), meta.mtime_nsec());
        assert_eq!(shown, (time.seconds, i64::from(time.nanoseconds)), "{name}");
    }
}

fn access(place: &Place, name: &str, how: i32) -> i32 {
    let path = c_path(&place.at(name));
    // SAFETY: a C string; with the rights that the thread has now.
    outcome(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), how, libc::AT_EACCESS) })
}

fn generic_126(place: &Place) {
    for (name, runs) in [
        ("words", libc::EACCES),
        ("script", 0),
        ("dir", 0),
        ("dir/empty", 0),
    ] {
        let ask = || {
            let (read, write, run) = (libc::R_OK, libc::W_OK, libc::X_OK);
            [read, write, run].map(|how| access(place, name, how))
        };
        let wanted = [0, libc::EROFS, runs];
        assert_eq!(ask(), wanted, "{name}, root");
        assert_eq!(as_user(NOBODY, ask), wanted, "{name}, somebody");
    }
    let bytes = as_user(NOBODY, || fs::read(place.at("dir/sub/deep")));
    assert_eq!(bytes.unwrap(), b"deep\n");
}

/// Returns a lock of ten bytes from `start`.
fn lock(kind: i32, start: i64) -> libc::flock {
    // SAFETY: all its fields are numbers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (start, 10);
    lock
}

fn set(file: &File, command: i32, mut lock: libc::flock) -> i32 {
    // SAFETY: the file is open, and the lock is ours.
    outcome(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) })
}

fn generic_131(place: &Place) {
    let file = place.open("words");
    assert_eq!(set(&file, libc::F_SETLK, lock(libc::F_RDLCK, 0)), 0);
    let writing = set(&file, libc::F_SETLK, lock(libc::F_WRLCK, 0));
    assert_eq!(writing, libc::EBADF, "that takes a descriptor for writing");
    let program = "import fcntl, sys\n\
        f = open(sys.argv[1], 'rb')\n\
        fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB, 10)\n\
        print('shared')\n";
    match Command::new("python3")
        .args(["-c", program])
        .arg(place.at("words"))
        .output()
    {
        Ok(ran) => assert_eq!(ran.stdout, b"shared\n", "{ran:?}"),
        Err(error) => eprintln!("SKIPPED: no other process asks: {error}"),
    }
    assert_eq!(set(&file, libc::F_SETLK, lock(libc::F_UNLCK, 0)), 0);
}

/// Returns the obstacle to a write lock, F_UNLCK if there is none.
fn obstacle(file: &File, start: i64) -> i32 {
    let mut asked = lock(libc::F_WRLCK, start);
    // SAFETY: the file is open, and the lock is ours.
    let said = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) };
    assert_eq!(outcome(said), 0);
    asked.l_type.into()
}

fn generic_478(place: &Place) {
    let (one, two) = (place.open("words"), place.open("words"));
    assert_eq!(set(&one, libc::F_OFD_SETLK, lock(libc::F_RDLCK, 0)), 0);
    assert_eq!(obstacle(&two, 0), libc::F_RDLCK);
    assert_eq!(obstacle(&two, 5), libc::F_RDLCK, "it overlaps");
    assert_eq!(obstacle(&two, 10), libc::F_UNLCK, "it does not");
    assert_eq!(
        set(&two, libc::F_OFD_SETLK, lock(libc::F_RDLCK, 0)),
        0,
        "both may read"
    );
    assert_eq!(set(&two, libc::F_OFD_SETLK, lock(libc::F_UNLCK, 0)), 0);
    let same = one.try_clone().unwrap();
    drop(same);
    assert_eq!(
        obstacle(&two, 0),
        libc::F_RDLCK,
        "a duplicate takes it not along"
    );
    drop(one);
    eventually("the last one does", HANG_LIMIT, || {
        obstacle(&two, 0) == libc::F_UNLCK
    });
}

fn generic_504(place: &Place) {
    let file = place.open("words");
    file.lock_shared().unwrap();
    let ino = file.metadata().unwrap().ino();
    let listed = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let own = format!(":{ino} ");
        locks
            .lines()
            .any(|line| line.contains("FLOCK") && line.contains(&own))
    };
    assert!(listed());
    drop(file);
    // A program that another test starts holds all files that are open here until it runs.
    eventually("it is free", HANG_LIMIT, || !listed());
}

fn list_attributes(place: &Place, name: &str, room: &mut [u8]) -> Result<usize, i32> {
    let path = c_path(&place.at(name));
    // SAFETY: a C string, and room that is ours.
    let listed = unsafe { libc::listxattr(path.as_ptr(), room.as_mut_ptr().cast(), room.len()) };
    match outcome(listed as i64) {
        0 => Ok(listed as usize),
        error => Err(error),
    }
}

fn generic_377(place: &Place) {
    let mut room = [0; 500];
    for name in ["words", "dir"] {
        assert_eq!(list_attributes(place, name, &mut room), Ok(0), "{name}");
        assert_eq!(list_attributes(place, name, &mut []), Ok(0), "{name}");
        assert_eq!(list_attributes(place, name, &mut room[..1]), Ok(0));
    }
    assert_eq!(
        list_attributes(place, "missing", &mut room),
        Err(libc::ENOENT)
    );
}

fn generic_423(place: &Place) {
    for name in ["file", "dir", "link", "empty", "script", "many"] {
        let path = c_path(&place.at(name));
        let meta = fs::symlink_metadata(place.at(name)).unwrap();
        for how in [libc::AT_STATX_FORCE_SYNC, libc::AT_STATX_DONT_SYNC, 0] {
            let flags = libc::AT_SYMLINK_NOFOLLOW | how;
            // SAFETY: a C string, and room for the answer.
            let found = unsafe {
                let mut found: libc::statx = std::mem::zeroed();
                let cwd = libc::AT_FDCWD;
                let all = libc::STATX_BASIC_STATS;
                let said = libc::statx(cwd, path.as_ptr(), flags, all, &raw mut found);
                assert_eq!(outcome(said), 0, "{name}");
                found
            };
            assert_eq!(
                found.stx_mask & libc::STATX_BASIC_STATS,
                libc::STATX_BASIC_STATS
            );
            let said = (u32::from(found.stx_mode), found.stx_ino, found.stx_size);
            assert_eq!(said, (meta.mode(), meta.ino(), meta.size()), "{name}");
            let said = (u64::from(found.stx_nlink), found.stx_blocks);
            assert_eq!(said, (meta.nlink(), meta.blocks()), "{name}");
            let time = (found.stx_mtime.tv_sec, i64::from(found.stx_mtime.tv_nsec));
            assert_eq!(time, (meta.mtime(), meta.mtime_nsec()), "{name}");
        }
    }
}

fn generic_426(place: &Place) {
    let mount = File::open(&place.root).unwrap();
    for (name, wanted) in [
        ("words", &b"some words\n"[..]),
        ("script", b"#!/bin/sh\nexit 7\n"),
    ] {
        let path = c_path(&place.at(name));
        // The head says how much room there is.
        let mut handle = [32u32; 34];
        let mut number = 0i32;
        let cwd = libc::AT_FDCWD;
        // SAFETY: a C string, room for a handle of 128 bytes, and for a number.
        let opened = unsafe {
            let room = handle.as_mut_ptr();
            let call = libc::SYS_name_to_handle_at;
            let named = libc::syscall(call, cwd, path.as_ptr(), room, &raw mut number, 0);
            assert_eq!(outcome(named), 0, "{name}");
            let call = libc::SYS_open_by_handle_at;
            libc::syscall(call, mount.as_raw_fd(), room, libc::O_RDONLY)
        };
        assert_eq!(outcome(opened), 0, "{name}");
        // SAFETY: new, and ours.
        let mut file = unsafe { File::from_raw_fd(opened as i32) };
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert_eq!(found, wanted);
    }
}

fn generic_452(place: &Place) {
    let ran = Command::new(place.at("program")).arg("ran").output();
    assert_eq!(ran.unwrap().stdout, b"ran\n");
    let ran = Command::new(place.at("script")).status().unwrap();
    assert_eq!(ran.code(), Some(7));
    let ran = as_user(NOBODY, || {
        Command::new(place.at("program")).arg("ran").output()
    });
    assert_eq!(ran.unwrap().stdout, b"ran\n");
    assert_eq!(
        errno(Command::new(place.at("empty")).status()),
        libc::EACCES
    );
}

fn path_descriptor(place: &Place) {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH);
    let file = options.open(place.at("words")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 11);
    let mut byte = [0; 1];
    use std::os::unix::fs::FileExt;
    assert_eq!(errno(file.read_at(&mut byte, 0)), libc::EBADF);
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert_eq!(fs::read(&again).unwrap(), b"some words\n");
    let writing = File::options().write(true).open(&again);
    assert_eq!(errno(writing), libc::EROFS);
    let directory = options.open(place.at("dir")).unwrap();
    let below = format!("/proc/self/fd/{}/sub/deep", directory.as_raw_fd());
    assert_eq!(fs::read(below).unwrap(), b"deep\n");
}
