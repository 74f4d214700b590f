//! Real mounts: names, listings, the hidden folder, and visible changes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use macro_rules_attribute::apply;
use p2pfs_catalogue::sample::directory;
use p2pfs_fs::LISTED_LIVE_LIFETIME;

use crate::support::content::noise;
use crate::support::memory::{MTIME, Memory};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{HANG_LIMIT, eventually, run_with};
use crate::support::promise::{Need, mount_as_root, promise};

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
fn non_text_names_are_preserved() {
    let content = Memory::new();
    let odd: [&[u8]; 4] = [b"with space", b"new\nline", b"\xff\xfe\x80", &[b'x'; 255]];
    let entry = directory(MTIME);
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
    let listings = |activity: p2pfs_fuse::Activity| -> u64 {
        let wanted = ["readdir", "readdirplus"];
        let counts = activity
            .operations
            .iter()
            .filter(|it| wanted.contains(&it.name));
        counts.map(|it| it.count).sum()
    };
    // A kernel under memory pressure may have dropped a part and asks for that once.
    eventually("the kernel asks for none of them again", HANG_LIMIT, || {
        let before = listings(mounted.mount.activity());
        assert_eq!(fs::read_dir(mounted.at("big")).unwrap().count(), 100_000);
        listings(mounted.mount.activity()) == before
    });
}

/// Records all paths below a directory with the results of `stat`.
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
fn a_second_walk_of_a_tree_sends_no_request() {
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
    // The kernel asks again for listings that it did not cache whole, and for entries dropped under
    // memory pressure.
    eventually("a walk asks for nothing", HANG_LIMIT, || {
        let (before, mut seen) = (requests(), Vec::new());
        walk(mounted.dir(), &mut seen);
        assert!(seen == first);
        requests() == before
    });
    content.file("d1/e1/new", vec![1]);
    content.publish(Some(&mounted.mount));
    eventually("the new name is listed", HANG_LIMIT, || {
        names(&mounted.at("d1/e1")).contains("new")
    });
}

#[apply(promise)]
fn own_files_are_listed_again_with_attributes_and_without_single_requests() {
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
    // Continue for longer than the kernel caches attributes of own files.
    let (begun, mut judged) = (Instant::now(), 0);
    while begun.elapsed() < 3 * LISTED_LIVE_LIFETIME || judged < 3 {
        let (before, mut seen, walking) =
            ((requests(""), requests("readdir")), vec![], Instant::now());
        walk(&mounted.at("own"), &mut seen);
        let (asked, listed) = (requests("") - before.0, requests("readdir") - before.1);
        assert_eq!(seen.len(), 500);
        // Attributes from the start of a very slow walk expire before its end. A walk that began
        // before the kernel dropped the listing uses attributes from the listing before. Neither
        // walk is judged.
        if walking.elapsed() < LISTED_LIVE_LIFETIME && listed > 0 {
            assert!(asked < 250, "{asked} requests, {listed} of them for names");
            judged += 1;
        }
        assert!(begun.elapsed() < HANG_LIMIT, "{judged} walks were judged");
    }
}

#[apply(promise)]
fn the_hidden_folders_show_the_current_state() {
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
        eventually(&name, HANG_LIMIT, || names(&far).contains(&name));
    }
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
