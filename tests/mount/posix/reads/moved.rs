//! Bytes that the kernel moves without a read(2): asynchronous reads, pipes, sockets and copies.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use super::{Aligned, direct};
use crate::posix::place::{FLAVOURS, LENGTH, PAGE, Place, bytes_of, outcome};

/// Returns an in-memory file on another filesystem than both places.
fn memory_file() -> File {
    // SAFETY: a C string; the descriptor is new and ours.
    unsafe {
        let file = libc::memfd_create(c"copy".as_ptr(), 0);
        assert_eq!(outcome(file), 0);
        File::from_raw_fd(file)
    }
}

fn assert_holds(mut file: &File, wanted: &[u8], what: &str) {
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut found).unwrap();
    assert!(found == wanted, "{what}");
}

/// Returns the reading and the writing end of a pipe.
pub(super) fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are new and ours.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

pub(super) fn splice(from: RawFd, offset: usize, into: RawFd, length: usize) {
    let (mut offset, mut left) = (offset as libc::loff_t, length);
    while left > 0 {
        // SAFETY: both files are open, and the offset is ours.
        let moved =
            unsafe { libc::splice(from, &raw mut offset, into, std::ptr::null_mut(), left, 0) };
        assert!(moved > 0, "{}", std::io::Error::last_os_error());
        left -= moved as usize;
    }
}

/// The structures of the kernel's asynchronous reads: `struct iocb` and `struct io_event`, as in
/// io_submit(2).
#[repr(C)]
struct Submission {
    data: u64,
    key: u32,
    flags: u32,
    operation: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_file: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    submission: u64,
    result: i64,
    more: i64,
}

/// Reads by io_submit(2). Returns the number of bytes.
fn read_asynchronously(file: &File, room: &mut [u8], offset: usize) -> i64 {
    let mut context: libc::c_ulong = 0;
    let submission = Submission {
        data: 7,
        key: 0,
        flags: 0,
        operation: 0,
        priority: 0,
        file: file.as_raw_fd() as u32,
        buffer: room.as_mut_ptr() as u64,
        length: room.len() as u64,
        offset: offset as i64,
        reserved: 0,
        more_flags: 0,
        event_file: 0,
    };
    let mut done = Completion::default();
    // SAFETY: the room outlives the read, which is waited for.
    unsafe {
        let set_up = libc::syscall(libc::SYS_io_setup, 8, &raw mut context);
        assert_eq!(outcome(set_up), 0);
        let list = [&raw const submission];
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, list.as_ptr());
        assert_eq!(submitted, 1, "{}", std::io::Error::last_os_error());
        let none = std::ptr::null::<libc::timespec>();
        let events = libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut done, none);
        assert_eq!((events, done.data), (1, 7));
        libc::syscall(libc::SYS_io_destroy, context);
    }
    done.result
}

pub(super) fn generic_210(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (direct(place, name), bytes_of(name));
        let mut room = Aligned::new(2 * PAGE);
        for offset in [0, 1 << 20, LENGTH / PAGE * PAGE, (LENGTH / PAGE + 1) * PAGE] {
            let read = read_asynchronously(&file, room.bytes(), offset);
            let wanted = &bytes[offset.min(LENGTH)..(offset + 2 * PAGE).min(LENGTH)];
            assert_eq!(read, wanted.len() as i64, "{name} at {offset}");
            assert!(
                room.bytes()[..wanted.len()] == *wanted,
                "{name} at {offset}"
            );
        }
    }
}

pub(super) fn generic_249(place: &Place) {
    for name in FLAVOURS {
        let (file, copy) = (place.open(name), memory_file());
        let (mut offset, mut sent) = (0, 1);
        while sent > 0 {
            // SAFETY: both files are open, and the offset is ours.
            sent = unsafe {
                libc::sendfile(copy.as_raw_fd(), file.as_raw_fd(), &raw mut offset, 300_001)
            };
            assert!(sent >= 0, "{}", std::io::Error::last_os_error());
        }
        assert_eq!(offset as usize, LENGTH);
        assert_holds(&copy, &bytes_of(name), name);
    }
}

pub(super) fn generic_564(place: &Place) {
    for name in FLAVOURS {
        let (file, copy) = (place.open(name), memory_file());
        let none = std::ptr::null_mut();
        // SAFETY: both files are open.
        let copied = unsafe {
            libc::copy_file_range(file.as_raw_fd(), none, copy.as_raw_fd(), none, LENGTH, 0)
        };
        assert_eq!(outcome(copied as i64), libc::EXDEV, "{name}");
        // Programs expect this error, and then copy in another way.
        let copied = std::io::copy(&mut &file, &mut &copy).unwrap();
        assert_eq!(copied as usize, LENGTH);
        assert_holds(&copy, &bytes_of(name), name);
    }
}

pub(super) fn generic_591(place: &Place) {
    for name in FLAVOURS {
        for file in [place.open(name), direct(place, name)] {
            let (mut out, into) = pipe();
            let mut found = Vec::new();
            for offset in (0..16).map(|n| n * 16 * PAGE) {
                let mut part = vec![0; 16 * PAGE];
                splice(file.as_raw_fd(), offset, into.as_raw_fd(), part.len());
                out.read_exact(&mut part).unwrap();
                found.extend(part);
            }
            assert!(found == bytes_of(name)[..found.len()], "{name}");
        }
    }
}
