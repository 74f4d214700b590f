//! Calls that neither suite tests, but programs make.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

use super::place::{FLAVOURS, LENGTH, PAGE, Place, bytes_of, c_path, outcome};
use super::reads::{Aligned, direct};
use super::ring::Ring;
use super::{BESIDE, Case};

/// FS_IOC_FIEMAP, FS_IOC_GETFLAGS and FICLONE, as defined in their headers.
const FIEMAP: libc::c_ulong = 0xc020_660b;
const GET_FLAGS: libc::c_ulong = 0x8008_6601;
const CLONE: libc::c_ulong = 0x4004_9409;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::of_mount(
            BESIDE,
            "questions_about_blocks_and_flags_are_refused",
            |place| {
                let file = place.open("words");
                let mut room = [0u8; 256];
                for (request, wanted) in [(FIEMAP, libc::EOPNOTSUPP), (GET_FLAGS, libc::ENOTTY)] {
                    // SAFETY: the file is open, and the room is longer than either answer.
                    let said = unsafe { libc::ioctl(file.as_raw_fd(), request, room.as_mut_ptr()) };
                    assert_eq!(outcome(said), wanted, "{request:x}");
                }
            },
        ),
        Case::new(BESIDE, "a_clone_onto_another_disk_is_exdev", |place| {
            let folder = tempfile::tempdir().unwrap();
            let copy = File::create(folder.path().join("copy")).unwrap();
            let file = place.open("words");
            // SAFETY: both files are open.
            let said = outcome(unsafe { libc::ioctl(copy.as_raw_fd(), CLONE, file.as_raw_fd()) });
            // The reference is on a disk that cannot clone, which gives another errno.
            let wanted = [libc::EXDEV, libc::EOPNOTSUPP];
            assert!(wanted.contains(&said), "{said}");
        }),
        Case::new(BESIDE, "io_uring_reads_the_same_bytes", io_uring_reads),
        Case::new(BESIDE, "fanotify_tells_of_opens_and_closes", fanotify_tells),
        Case::new(
            BESIDE,
            "inotify_tells_who_watches_of_local_readers",
            inotify_tells,
        ),
        Case::new(BESIDE, "waiting_for_bytes_with_poll_never_waits", |place| {
            let file = place.open("words");
            let mut asked = libc::pollfd {
                fd: file.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, which is ours.
            let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
            assert_eq!((ready, asked.revents), (1, libc::POLLIN));
        }),
        Case::new(BESIDE, "flushing_what_was_only_read_is_no_error", |place| {
            for name in ["words", "file", "dir"] {
                let file = place.open(name);
                let said = file.sync_all().and_then(|()| file.sync_data());
                assert!(said.is_ok(), "{name}: {said:?}");
            }
        }),
        Case::new(BESIDE, "a_read_does_not_change_the_access_time", |place| {
            let accessed = || fs::metadata(place.at("words")).unwrap().accessed().unwrap();
            let before = accessed();
            assert_eq!(fs::read(place.at("words")).unwrap(), b"some words\n");
            assert_eq!(accessed(), before);
        }),
    ]
}

/// Runs in a separate thread. The kernel ends a ring's work in the thread that made it, which
/// interrupts later calls of that thread, and the harness reuses its threads for other tests.
fn io_uring_reads(place: &Place) {
    thread::scope(|scope| scope.spawn(|| io_uring_reads_here(place)).join()).unwrap();
}

fn io_uring_reads_here(place: &Place) {
    let mut ring = match Ring::new() {
        Ok(ring) => ring,
        Err(error) => {
            eprintln!("SKIPPED: no io_uring here (errno {error})");
            return;
        }
    };
    for name in FLAVOURS {
        let bytes = bytes_of(name);
        let mut room = Aligned::new(64 << 10);
        for file in [place.open(name), direct(place, name)] {
            for offset in [
                0,
                1 << 20,
                LENGTH / PAGE * PAGE,
                LENGTH.next_multiple_of(PAGE),
            ] {
                let wanted = &bytes[offset.min(LENGTH)..(offset + (64 << 10)).min(LENGTH)];
                let mut found = 0;
                // Any read may be short before the end of the file.
                while found < wanted.len() {
                    let read = ring.read(&file, &mut room.bytes()[found..], offset + found);
                    assert!(read > 0, "{name} at {offset}: {read}");
                    found += read as usize;
                }
                assert!(room.bytes()[..found] == *wanted, "{name} at {offset}");
            }
        }
    }
    let read = ring.read(&place.open("dir"), &mut [0; 8], 0);
    assert_eq!(read, -libc::EISDIR);
}

fn fanotify_tells(place: &Place) {
    let path = c_path(&place.at("words"));
    let wanted = libc::FAN_OPEN | libc::FAN_CLOSE_NOWRITE;
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
    // SAFETY: a C string; the descriptor is new and ours.
    let mut events = unsafe {
        let events = libc::fanotify_init(flags, libc::O_RDONLY as u32);
        if events < 0 {
            eprintln!("SKIPPED: no fanotify here (errno {})", outcome(events));
            return;
        }
        let (add, cwd) = (libc::FAN_MARK_ADD, libc::AT_FDCWD);
        let marked = libc::fanotify_mark(events, add, wanted, cwd, path.as_ptr());
        assert_eq!(outcome(marked), 0);
        File::from_raw_fd(events)
    };
    assert_eq!(fs::read(place.at("words")).unwrap(), b"some words\n");
    let mut room = [0; 4096];
    let length = events.read(&mut room).unwrap();
    let mut seen = 0;
    for event in room[..length].chunks_exact(24) {
        seen |= u64::from_ne_bytes(event[8..16].try_into().unwrap());
        let file = i32::from_ne_bytes(event[16..20].try_into().unwrap());
        // SAFETY: each event has a descriptor of its own, which is ours.
        drop(unsafe { File::from_raw_fd(file) });
    }
    assert_eq!(seen & wanted, wanted, "{seen:x}");
}

fn inotify_tells(place: &Place) {
    let path = c_path(&place.at("words"));
    let wanted = libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE_NOWRITE;
    // SAFETY: a C string; the descriptor is new and ours.
    let mut events = unsafe {
        let events = libc::inotify_init1(libc::IN_NONBLOCK);
        assert_eq!(outcome(events), 0);
        let watch = libc::inotify_add_watch(events, path.as_ptr(), wanted);
        assert_eq!(outcome(watch), 0);
        File::from_raw_fd(events)
    };
    assert_eq!(fs::read(place.at("words")).unwrap(), b"some words\n");
    let mut room = [0; 4096];
    let length = events.read(&mut room).unwrap();
    let seen = room[..length].chunks_exact(16).fold(0, |seen, event| {
        seen | u32::from_ne_bytes(event[4..8].try_into().unwrap())
    });
    assert_eq!(seen & wanted, wanted, "{seen:x}");
}
