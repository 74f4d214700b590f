//! The system calls that take a path, each with the numbers of its cases.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "every call gets live buffers and paths that end in NUL"
)]

use std::os::raw::c_char;

use super::place::{Place, c_path, outcome};

/// A call with a path, and its cases about wrong paths in pjdfstest.
pub(super) struct Call {
    pub group: &'static str,
    /// 0, or the errno.
    pub attempt: fn(&Place, *const c_char) -> i32,
    pub numbers: Numbers,
}

/// The numbers of the group's cases, one for each kind of wrong path.
pub(super) struct Numbers {
    pub not_a_directory: &'static str,
    pub component_too_long: &'static str,
    pub path_too_long: &'static str,
    pub missing: &'static str,
    pub looping: &'static str,
    pub outside_memory: &'static str,
}

const fn numbers(all: [&'static str; 6]) -> Numbers {
    let [
        not_a_directory,
        component_too_long,
        path_too_long,
        missing,
        looping,
        outside_memory,
    ] = all;
    Numbers {
        not_a_directory,
        component_too_long,
        path_too_long,
        missing,
        looping,
        outside_memory,
    }
}

// SAFETY, of each call here: the path is a C string of the caller's, or an address that the
// kernel must find to be none.

fn chmod(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::chmod(path, 0o600) })
}

fn chown(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::chown(path, 1, 1) })
}

fn link_from(place: &Place, path: *const c_char) -> i32 {
    let new = c_path(&place.at("new"));
    outcome(unsafe { libc::link(path, new.as_ptr()) })
}

fn link_to(place: &Place, path: *const c_char) -> i32 {
    let old = c_path(&place.at("words"));
    outcome(unsafe { libc::link(old.as_ptr(), path) })
}

fn mkdir(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::mkdir(path, 0o755) })
}

fn mkfifo(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::mkfifo(path, 0o644) })
}

fn mknod(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::mknod(path, libc::S_IFCHR | 0o644, libc::makedev(1, 3)) })
}

fn open(_: &Place, path: *const c_char) -> i32 {
    let file = unsafe { libc::open(path, libc::O_RDONLY) };
    let said = outcome(file);
    if said == 0 {
        unsafe { libc::close(file) };
    }
    said
}

fn rename_from(place: &Place, path: *const c_char) -> i32 {
    let new = c_path(&place.at("new"));
    outcome(unsafe { libc::rename(path, new.as_ptr()) })
}

fn rename_to(place: &Place, path: *const c_char) -> i32 {
    let old = c_path(&place.at("words"));
    outcome(unsafe { libc::rename(old.as_ptr(), path) })
}

fn rmdir(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::rmdir(path) })
}

fn symlink(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::symlink(c"words".as_ptr(), path) })
}

fn truncate(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::truncate(path, 123) })
}

fn unlink(_: &Place, path: *const c_char) -> i32 {
    outcome(unsafe { libc::unlink(path) })
}

macro_rules! calls {
    ($($group:literal $attempt:ident $numbers:expr;)*) => {
        pub(super) const CALLS: &[Call] = &[$(Call {
            group: $group,
            attempt: $attempt,
            numbers: numbers($numbers),
        }),*];
    };
}

calls! {
    "chmod" chmod ["01", "02", "03", "04", "06", "10"];
    "chown" chown ["01", "02", "03", "04", "06", "10"];
    "link" link_from ["01", "02", "03", "09", "08", "17"];
    "link" link_to ["01", "02", "03", "04", "08", "17"];
    "mkdir" mkdir ["01", "02", "03", "04", "07", "12"];
    "mkfifo" mkfifo ["01", "02", "03", "04", "07", "12"];
    "mknod" mknod ["01", "02", "03", "04", "07", "10"];
    "open" open ["01", "02", "03", "04", "12", "21"];
    "rename" rename_from ["12", "01", "02", "03", "11", "17"];
    "rename" rename_to ["12", "01", "02", "03", "11", "17"];
    "rmdir" rmdir ["01", "02", "03", "04", "05", "15"];
    "symlink" symlink ["01", "02", "03", "04", "07", "12"];
    "truncate" truncate ["01", "02", "03", "04", "07", "14"];
    "unlink" unlink ["01", "02", "03", "04", "07", "13"];
}
