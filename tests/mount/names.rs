//! Real mounts: names, attributes, listings, and how changes are seen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use crate::support::content::noise;
use crate::support::memory::{MTIME, Memory};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{PATIENCE, eventually, run_with};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs::fs::LISTED_LIVE_LIFETIME;
use p2pfs::fuse::MountOptions;
use p2pfs::wire::native::record::{Entry, Kind};

const NEEDS: &[Need] = &[mount_as_root];

#[apply(promise)]
fn the_mount_lists_files_directories_and_links() {
    let content = Memory::new();
    content.file("a", b"hello".to_vec());
    content.file("deep/er/b", noise(1, 100_000));
    content.directory("empty");
    content.symlink("link", "deep/er/b");
    let mounted = Mounted::of(&content);
    let wanted = ["a", "deep", "empty", "link"].map(str::to_owned);
    assert_eq!(names(mounted.dir()), BTreeSet::from(wanted));
    assert_eq!(fs::read(mounted.at("a")).unwrap(), b"hello");
    assert_eq!(fs::read(mounted.at("link")).unwrap(), noise(1, 100_000));
    assert_eq!(
        fs::read_link(mounted.at("link")).unwrap(),
        Path::new("deep/er/b")
    );
    assert_eq!(names(&mounted.at("empty")), BTreeSet::new());
    assert_eq!(errno(fs::read(mounted.at("deep"))), libc::EISDIR);
    assert_eq!(errno(fs::read_dir(mounted.at("a"))), libc::ENOTDIR);
}

#[apply(promise)]
fn attributes_are_true() {
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
fn names_that_are_no_text_survive() {
    let content = Memory::new();
    let odd: [&[u8]; 4] = [b"with space", b"new\nline", b"\xff\xfe\x80", &[b'x'; 255]];
    let entry = Entry {
        kind: Kind::Directory,
        mtime: MTIME,
        version_time: MTIME,
        sent_by: None,
    };
    for name in odd {
        content.put_entry(name, entry.clone());
    }
    let mounted = Mounted::of(&content);
    let listed: BTreeSet<Vec<u8>> = fs::read_dir(mounted.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    assert_eq!(listed, odd.iter().map(|name| name.to_vec()).collect());
    for name in odd {
        assert!(
            mounted
                .dir()
                .join(std::ffi::OsStr::from_bytes(name))
                .is_dir()
        );
    }
    assert_eq!(
        errno(fs::metadata(mounted.at(&"x".repeat(256)))),
        libc::ENAMETOOLONG
    );
}

#[apply(promise)]
fn a_hundred_thousand_names_are_listed_once_each() {
    let content = Memory::new();
    for number in 0..100_000 {
        content.file(&format!("big/name-{number:06}"), Vec::new());
    }
    let mounted = Mounted::of(&content);
    for pass in ["from us", "from the kernel's cache"] {
        let mut count = 0;
        let distinct: BTreeSet<_> = fs::read_dir(mounted.at("big"))
            .unwrap()
            .inspect(|_| count += 1)
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!((count, distinct.len()), (100_000, 100_000), "{pass}");
    }
    let listings = |activity: p2pfs::fuse::Activity| -> u64 {
        let wanted = ["readdir", "readdirplus"];
        let counts = activity
            .operations
            .iter()
            .filter(|it| wanted.contains(&it.name));
        counts.map(|it| it.count).sum()
    };
    // a kernel that is short of memory may have let go of a part, and asks for that once
    eventually("the kernel asks for none of them again", PATIENCE, || {
        let before = listings(mounted.mount.activity());
        assert_eq!(fs::read_dir(mounted.at("big")).unwrap().count(), 100_000);
        listings(mounted.mount.activity()) == before
    });
}

/// All that there is below a directory, with what `stat` says of it.
fn walk(dir: &Path, seen: &mut Vec<(std::path::PathBuf, u64, u64)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        seen.push((path.clone(), stat.ino(), stat.size()));
        if stat.is_dir() {
            walk(&path, seen);
        }
    }
}

#[apply(promise)]
fn a_second_walk_of_a_tree_asks_the_daemon_nothing() {
    let content = Memory::new();
    for number in 0..300 {
        content.file(
            &format!("d{}/e{}/f{number}", number % 7, number % 3),
            vec![0; number],
        );
    }
    content.directory("empty");
    content.symlink("link", "d0");
    let mounted = Mounted::of(&content);
    let requests = || -> u64 {
        let operations = mounted.mount.activity().operations;
        operations.iter().map(|it| it.count).sum()
    };
    let mut first = Vec::new();
    walk(mounted.dir(), &mut first);
    // listings that were not kept whole are asked for again, and so is what a kernel let go of
    // that is short of memory
    eventually("a walk asks for nothing", PATIENCE, || {
        let (before, mut seen) = (requests(), Vec::new());
        walk(mounted.dir(), &mut seen);
        assert!(seen == first);
        requests() == before
    });
    content.file("d1/e1/new", vec![1]);
    content.publish(Some(&mounted.mount));
    eventually("the new name is listed", PATIENCE, || {
        names(&mounted.at("d1/e1")).contains("new")
    });
}

#[apply(promise)]
fn own_files_are_listed_again_with_their_attributes_and_not_asked_for_one_by_one() {
    let (content, share) = (Memory::new(), tempfile::tempdir().unwrap());
    for number in 0..500 {
        let file = share.path().join(number.to_string());
        fs::write(&file, b"own").unwrap();
        content.own(&format!("own/{number}"), &file);
    }
    let mounted = Mounted::of(&content);
    let requests = |of: &str| -> u64 {
        let operations = mounted.mount.activity().operations;
        let counted = operations.iter().filter(|it| it.name.contains(of));
        counted.map(|it| it.count).sum()
    };
    // for longer than attributes of own files are believed
    let (begun, mut judged) = (Instant::now(), 0);
    while begun.elapsed() < 3 * LISTED_LIVE_LIFETIME || judged < 3 {
        let (before, mut seen, walking) =
            ((requests(""), requests("readdir")), vec![], Instant::now());
        walk(&mounted.at("own"), &mut seen);
        let (asked, listed) = (requests("") - before.0, requests("readdir") - before.1);
        assert_eq!(seen.len(), 500);
        // a walk that takes so long itself believes no more at its end what it was told first, and
        // one that began before the kernel was told to list anew believes what the last was told
        if walking.elapsed() < LISTED_LIVE_LIFETIME && listed > 0 {
            assert!(asked < 250, "{asked} requests, {listed} of them for names");
            judged += 1;
        }
        assert!(begun.elapsed() < PATIENCE, "{judged} walks were judged");
    }
}

#[apply(promise)]
fn the_hidden_folders_show_what_is_there_now() {
    let content = Memory::new();
    content.file("dir/file", vec![1]);
    let mounted = Mounted::of(&content);
    let far = mounted.at(".p2pfs/peers/far/dir");
    let open = fs::read_dir(&far).unwrap();
    assert_eq!(names(&far), BTreeSet::from(["file".to_owned()]));
    assert_eq!(open.count(), 1);
    for number in 0..20 {
        let name = format!("file-{number}");
        content.file(&format!("dir/{name}"), vec![1]);
        content.publish(Some(&mounted.mount));
        eventually(&name, PATIENCE, || names(&far).contains(&name));
    }
}

#[apply(promise)]
fn inode_numbers_are_the_same_after_a_restart() {
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
fn the_hidden_folder_is_reachable_but_not_listed() {
    let content = Memory::new();
    let hash = content.file("dir/file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    assert_eq!(names(mounted.dir()), BTreeSet::from(["dir".to_owned()]));
    let hidden = mounted.at(".p2pfs");
    let wanted = ["by-hash", "peers", "status.json"].map(str::to_owned);
    assert_eq!(names(&hidden), BTreeSet::from(wanted));
    assert_eq!(
        fs::read(hidden.join("status.json")).unwrap(),
        br#"{"health":"good"}"#
    );
    assert_eq!(fs::metadata(hidden.join("status.json")).unwrap().len(), 17);
    assert_eq!(
        fs::read(hidden.join("by-hash").join(hash.to_string())).unwrap(),
        b"bytes"
    );
    assert_eq!(errno(fs::read(hidden.join("by-hash/00"))), libc::ENOENT);
    assert!(names(&hidden.join("peers")).contains("far"));
    assert_eq!(
        fs::read(hidden.join("peers/far/dir/file")).unwrap(),
        b"bytes"
    );
    assert_eq!(
        names(&hidden.join("peers/far/dir")),
        BTreeSet::from(["file".to_owned()])
    );
    assert_eq!(
        errno(fs::read_dir(hidden.join("peers/nobody"))),
        libc::ENOENT
    );
}

#[apply(promise)]
fn extended_attributes_tell_hash_holders_and_what_is_cached() {
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
fn extended_attributes_are_answered_by_name_and_carried_by_no_copy() {
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
fn masks_take_permissions_away_of_files_and_of_directories() {
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
fn a_copy_can_be_made_again_changed_and_removed_by_its_owner() {
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
fn flags_that_change_nothing_open_a_file_for_reading() {
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
fn df_shows_what_is_shared_and_what_the_cache_may_take() {
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

#[apply(promise)]
fn every_write_is_refused_as_to_a_read_only_filesystem() {
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
fn ordinary_tools_see_an_ordinary_folder() {
    let content = Memory::new();
    content.file("tree/a", noise(1, 70_000));
    content.file("tree/b/c", noise(2, 10));
    content.directory("tree/d");
    let mounted = Mounted::of(&content);
    let copy = mounted.beside("copy");
    let copied = run_with("cp", &[&"-a", &mounted.at("tree"), &copy]);
    assert!(copied.status.success(), "{copied:?}");
    assert!(
        run_with("diff", &[&"-r", &mounted.at("tree"), &copy])
            .status
            .success()
    );
    let found = run_with("find", &[&mounted.at("tree"), &"-type", &"d"]);
    assert_eq!(
        found.stdout.iter().filter(|byte| **byte == b'\n').count(),
        3
    );
    let archive = mounted.beside("archive.tar");
    assert!(
        run_with("tar", &[&"-cSf", &archive, &"-C", &mounted.dir(), &"tree"])
            .status
            .success()
    );
    let listed = run_with("tar", &[&"-dvf", &archive, &"-C", &mounted.dir()]);
    assert!(listed.status.success(), "{listed:?}");
    let long = run_with("ls", &[&"-la", &mounted.at("tree")]);
    assert!(long.status.success() && long.stdout.len() > 100, "{long:?}");
}

#[apply(promise)]
fn another_user_reads_a_mount_made_by_root() {
    let content = Memory::new();
    content.file("file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let scratch = mounted.dir().parent().unwrap();
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o755)).unwrap();
    let file = mounted.at("file");
    let read = run_with(
        "setpriv",
        &[
            &"--reuid",
            &"65534",
            &"--regid",
            &"65534",
            &"--clear-groups",
            &"cat",
            &file,
        ],
    );
    assert_eq!(read.stdout, b"bytes", "{read:?}");
}
