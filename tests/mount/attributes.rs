//! The attributes of a file: size, times, number, permissions and extended attributes, and the free
//! space.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use macro_rules_attribute::apply;
use p2pfs_fuse::MountOptions;

use crate::support::memory::{MTIME, Memory};
use crate::support::mounted::Mounted;
use crate::support::process::run_with;
use crate::support::promise::{Need, mount_as_root, promise};

const NEEDS: &[Need] = &[mount_as_root];

#[apply(promise)]
fn attributes_are_correct() {
    let content = Memory::new();
    content.file("file", vec![1; 5000]);
    content.executable("program", b"#!/bin/sh\n".to_vec());
    content.file("empty", Vec::new());
    content.directory("dir");
    content.directory("dir/sub");
    let mounted = Mounted::start(&content, |o| (o.uid, o.gid) = (1234, 4321));
    let file = fs::metadata(mounted.at("file")).unwrap();
    assert_eq!((file.len(), file.mode() & 0o7777), (5000, 0o644));
    assert_eq!(
        (file.mtime(), file.mtime_nsec()),
        (MTIME.seconds, 123_456_789)
    );
    assert_eq!((file.uid(), file.gid(), file.nlink()), (1234, 4321, 1));
    let program = fs::metadata(mounted.at("program")).unwrap();
    assert_eq!(program.permissions().mode() & 0o7777, 0o755);
    let dir = fs::metadata(mounted.at("dir")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.nlink()), (0o755, 3));
    assert_eq!(fs::metadata(mounted.at("empty")).unwrap().blocks(), 0);
}

#[apply(promise)]
fn inode_numbers_survive_a_restart() {
    let content = Memory::new();
    content.file("dir/file", b"bytes".to_vec());
    let numbers = |mounted: &Mounted| {
        let number = |name: &str| fs::metadata(mounted.at(name)).unwrap().ino();
        (number("dir"), number("dir/file"))
    };
    let first = Mounted::of(&content);
    let before = numbers(&first);
    drop(first);
    assert_eq!(numbers(&Mounted::of(&content)), before);
}

#[apply(promise)]
fn extended_attributes_show_hash_holders_and_cached_bytes() {
    let content = Memory::new();
    let hash = content.file("file", b"bytes".to_vec());
    content.directory("dir");
    let mounted = Mounted::of(&content);
    content.set_cached(hash, 3);
    let get = |name: &str| {
        let mut room = [0; 256];
        let length = rustix::fs::getxattr(mounted.at("file"), name, &mut room)?;
        Ok::<_, rustix::io::Errno>(String::from_utf8(room[..length].to_vec()).unwrap())
    };
    assert_eq!(get("user.p2pfs.hash"), Ok(hash.to_string()));
    assert_eq!(get("user.p2pfs.holders"), Ok("far".to_owned()));
    assert_eq!(get("user.p2pfs.copies"), Ok("1".to_owned()));
    assert_eq!(get("user.p2pfs.cached"), Ok("3".to_owned()));
    assert_eq!(get("user.p2pfs.verified"), Ok("blake3".to_owned()));
    assert_eq!(get("user.other"), Err(rustix::io::Errno::NODATA));
    assert_eq!(
        get("security.capability"),
        Err(rustix::io::Errno::OPNOTSUPP)
    );

    let mut room = [0; 8];
    let short = rustix::fs::getxattr(mounted.at("file"), "user.p2pfs.hash", &mut room);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let file = std::ffi::CString::new(mounted.at("file").as_os_str().as_bytes()).unwrap();
    // SAFETY: both names are C strings, and no byte is written where the size is 0.
    let size = unsafe {
        libc::getxattr(
            file.as_ptr(),
            c"user.p2pfs.hash".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    assert_eq!(size, 64, "asked with no room, it says how much is needed");
    let mut room = [0; 256];
    for name in ["user.p2pfs.hash", "user.p2pfs.cached"] {
        let of_directory = rustix::fs::getxattr(mounted.at("dir"), name, &mut room);
        assert_eq!(of_directory, Err(rustix::io::Errno::NODATA), "{name}");
    }
}

#[apply(promise)]
fn extended_attributes_are_answered_by_name_and_not_copied() {
    let content = Memory::new();
    content.file("tree/file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    for name in ["tree/file", "tree", ""] {
        for room in [&mut [][..], &mut [0; 256]] {
            let listed = rustix::fs::listxattr(mounted.at(name), room);
            assert_eq!(listed, Ok(0), "{name:?}");
        }
    }
    let copy = mounted.beside("copy");
    let copied = run_with("cp", &[&"-a", &mounted.at("tree"), &copy]);
    assert!(copied.status.success(), "{copied:?}");
    let of_copy = rustix::fs::getxattr(copy.join("file"), "user.p2pfs.hash", &mut [0; 256]);
    assert_eq!(of_copy, Err(rustix::io::Errno::NODATA));
}

#[apply(promise)]
fn masks_remove_permissions_of_files_and_directories() {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    content.executable("program", b"#!/bin/sh\n".to_vec());
    content.symlink("link", "file");
    content.directory("dir");
    let masks = |file, directory| {
        move |options: &mut MountOptions| {
            (options.file_mask, options.directory_mask) = (file, directory);
        }
    };
    for (file_mask, directory_mask, wanted) in [
        (0o022, 0o022, [0o644, 0o755, 0o755]),
        (0o002, 0o077, [0o664, 0o775, 0o700]),
        (0o137, 0o027, [0o640, 0o640, 0o750]),
        (0o000, 0o000, [0o666, 0o777, 0o777]),
    ] {
        let mounted = Mounted::start(&content, masks(file_mask, directory_mask));
        let mode = |name| fs::symlink_metadata(mounted.at(name)).unwrap().mode() & 0o7777;
        assert_eq!(["file", "program", "dir"].map(mode), wanted);
        let [file, _, directory] = wanted;
        assert_eq!((mode(""), mode(".p2pfs")), (directory, directory));
        assert_eq!((mode(".p2pfs/status.json"), mode("link")), (file, 0o777));
    }
}

#[apply(promise)]
fn df_shows_shared_bytes_and_the_caches_capacity() {
    let content = Memory::new();
    content.file("a", vec![1; 1 << 20]);
    content.file("same", vec![1; 1 << 20]);
    let mounted = Mounted::of(&content);
    let stat = rustix::fs::statvfs(mounted.dir()).unwrap();
    let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
    assert_eq!(used, 1 << 20, "the same content counts once");
    assert_eq!(stat.f_bavail * stat.f_frsize, 6 << 30);
    assert_eq!((stat.f_namemax, stat.f_files - stat.f_ffree), (255, 2));
    assert!(stat.f_ffree > 1 << 20, "df -i shows room");
}
