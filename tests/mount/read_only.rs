//! No write passes through a mount: the errors, and the reactions of copies and programs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use macro_rules_attribute::apply;
use rustix::fs::StatVfsMountFlags;

use crate::support::memory::Memory;
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::run_with;
use crate::support::promise::{Need, mount_as_root, promise};

const NEEDS: &[Need] = &[mount_as_root];

#[apply(promise)]
fn a_copy_can_be_repeated_changed_and_removed_by_its_owner() {
    let content = Memory::new();
    content.file("tree/deep/resume.pdf", b"bytes".to_vec());
    content.executable("tree/run", b"#!/bin/sh\n".to_vec());
    content.file("resume.pdf", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let home = mounted.beside("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let above = home.parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    let script = "umask 022; cd \"$1\" && cp \"$2/resume.pdf\" . && cp \"$2/resume.pdf\" . &&
        echo more >> resume.pdf && for how in -r -a; do
            cp $how \"$2/tree\" . && cp $how \"$2/tree\" . && echo >> tree/deep/resume.pdf &&
            rm -r tree || exit 1; done";
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = Vec::new();
    arguments.extend(user.iter().map(|it| it as &dyn AsRef<std::ffi::OsStr>));
    let dir = mounted.dir();
    arguments.extend([&"sh" as &dyn AsRef<std::ffi::OsStr>, &"-c", &script, &"sh"]);
    arguments.extend([&home as &dyn AsRef<std::ffi::OsStr>, &dir]);
    let ran = run_with("setpriv", &arguments);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(names(&home), BTreeSet::from(["resume.pdf".to_owned()]));
}

#[apply(promise)]
fn harmless_flags_open_a_file_for_reading() {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    for flag in [
        libc::O_APPEND,
        libc::O_APPEND | libc::O_SYNC,
        libc::O_DSYNC,
        libc::O_NONBLOCK,
        libc::O_NOATIME,
        libc::O_CREAT,
        libc::O_NOCTTY | libc::O_NOFOLLOW,
    ] {
        let mut file = fs::File::options();
        let file = file.read(true).custom_flags(flag).open(mounted.at("file"));
        let mut file = file.unwrap_or_else(|error| panic!("{flag:o}: {error}"));
        assert_eq!(std::io::read_to_string(&file).unwrap(), "bytes");
        let written = std::io::Write::write(&mut file, b"more");
        assert_eq!(errno(written), libc::EBADF, "{flag:o}");
        let appending = fs::File::options()
            .write(true)
            .custom_flags(flag)
            .open(mounted.at("file"));
        assert_eq!(errno(appending), libc::EROFS, "{flag:o}");
    }
}

#[apply(promise)]
fn every_write_is_refused_as_on_a_read_only_filesystem() {
    let content = Memory::new();
    content.file("dir/file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let file = mounted.at("dir/file");
    let new = mounted.at("dir/new");
    let open = |read: bool| fs::File::options().read(read).write(true).open(&file);
    let mode = fs::Permissions::from_mode(0o777);
    for (what, outcome) in [
        ("open for writing", open(false).map(drop)),
        ("open for both", open(true).map(drop)),
        (
            "append",
            fs::File::options().append(true).open(&file).map(drop),
        ),
        (
            "truncate",
            fs::File::options()
                .write(true)
                .truncate(true)
                .open(&file)
                .map(drop),
        ),
        ("create", fs::File::create(&new).map(drop)),
        ("mkdir", fs::create_dir(&new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(mounted.at("dir"))),
        ("rename", fs::rename(&file, &new)),
        ("link", fs::hard_link(&file, &new)),
        ("symlink", std::os::unix::fs::symlink("x", &new)),
        ("chmod", fs::set_permissions(&file, mode)),
        ("chown", std::os::unix::fs::chown(&file, Some(1), None)),
    ] {
        assert_eq!(errno(outcome), libc::EROFS, "{what}");
    }
    let set = rustix::fs::setxattr(&file, "user.x", b"1", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::ROFS));
    let removed = rustix::fs::removexattr(&file, "user.p2pfs.hash");
    assert_eq!(removed, Err(rustix::io::Errno::ROFS));
    let times = run_with("touch", &[&file]);
    assert!(times.stderr.contains("Read-only"), "{times:?}");
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[apply(promise)]
fn mount_and_its_copies_are_writable_only_while_the_mount_is_made_so() {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let copy = mounted.beside("copy");
    fs::create_dir(&copy).unwrap();
    rustix::mount::mount_bind(mounted.dir(), &copy).unwrap();
    let flags = |dir: &std::path::Path| rustix::fs::statvfs(dir).unwrap().f_flag;
    let always = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    for is_writable in [false, true, true, false, false, true] {
        mounted.mount.set_writable(is_writable).unwrap();
        for dir in [mounted.dir(), &copy] {
            let found = flags(dir);
            assert_ne!(found.contains(StatVfsMountFlags::RDONLY), is_writable);
            assert!(found.contains(always), "{found:?}");
        }
    }
    mounted.mount.set_writable(false).unwrap();
    let refused = fs::File::create(copy.join("new"));
    assert_eq!(errno(refused), libc::EROFS);
    assert_eq!(fs::read(copy.join("file")).unwrap(), b"bytes");
    rustix::mount::unmount(&copy, rustix::mount::UnmountFlags::DETACH).unwrap();
}
