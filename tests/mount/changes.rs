//! Real mounts: changes of the namespace are visible despite all that the kernel has cached.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::support::memory::{MTIME, Memory};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs_proto::wire::native::record::{Entry, Kind, Timestamp};
use p2pfs_types::path::SharedPath;

const NEEDS: &[Need] = &[mount_as_root];

#[apply(promise)]
fn blocks_count_cached_bytes_and_follow_what_is_cached() {
    let content = Memory::new();
    let hash = content.file("file", vec![1; 1 << 20]);
    let mounted = Mounted::of(&content);
    let blocks = || fs::metadata(mounted.at("file")).unwrap().blocks();
    assert_eq!(
        blocks(),
        1,
        "never 0 for a file with bytes, or tar would skip it"
    );
    content.set_cached(hash, 65536);
    assert_eq!(blocks(), 1, "from the kernel's cache");
    mounted.mount.cached_changed(&hash);
    eventually("the kernel asks again", HANG_LIMIT, || blocks() == 128);
}

#[apply(promise)]
fn a_listing_continues_while_names_change() {
    let content = Memory::new();
    for number in 0..5_000 {
        content.file(&format!("d/stays-{number:05}"), Vec::new());
        content.file(&format!("d/goes-{number:05}"), Vec::new());
    }
    let mounted = Mounted::of(&content);
    let mut seen = Vec::new();
    for (number, entry) in fs::read_dir(mounted.at("d")).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if number % 500 == 0 && number / 500 < 10 {
            let at = number / 500 * 500;
            for gone in at..at + 500 {
                content.remove(&format!("d/goes-{gone:05}"));
                content.file(&format!("d/comes-{gone:05}"), Vec::new());
            }
            mounted.publish();
        }
    }
    let stays: Vec<_> = seen
        .iter()
        .filter(|name| name.starts_with("stays"))
        .collect();
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(stays.len(), 5_000, "what was there all the while is listed");
    assert_eq!(distinct.len(), seen.len(), "and nothing twice");
}

#[apply(promise)]
fn an_unknown_name_is_absent_at_once_and_appears_when_listed() {
    let content = Memory::new();
    content.directory("dir");
    let mounted = Mounted::of(&content);
    for _ in 0..3 {
        assert_eq!(errno(fs::metadata(mounted.at("dir/later"))), libc::ENOENT);
    }
    let lookups = |mounted: &Mounted| {
        let operations = mounted.mount.activity().operations;
        operations
            .iter()
            .find(|it| it.name == "lookup")
            .map_or(0, |it| it.count)
    };
    eventually("the kernel remembers the absence", HANG_LIMIT, || {
        let asked = lookups(&mounted);
        assert_eq!(errno(fs::metadata(mounted.at("dir/later"))), libc::ENOENT);
        lookups(&mounted) == asked
    });
    content.file("dir/later", b"now".to_vec());
    mounted.publish();
    eventually("the name appears", HANG_LIMIT, || {
        fs::read(mounted.at("dir/later")).is_ok()
    });
}

#[apply(promise)]
fn a_new_name_appears_in_a_cached_listing_and_a_removed_one_disappears() {
    let content = Memory::new();
    content.file("dir/old", b"1".to_vec());
    let mounted = Mounted::of(&content);
    let dir = mounted.at("dir");
    for _ in 0..3 {
        assert_eq!(names(&dir), BTreeSet::from(["old".to_owned()]));
    }
    content.file("dir/new", b"2".to_vec());
    mounted.publish();
    eventually("the new name is listed", HANG_LIMIT, || {
        names(&dir).len() == 2
    });
    assert!(fs::metadata(dir.join("old")).is_ok());
    content.remove("dir/old");
    mounted.publish();
    eventually("the old name is gone", HANG_LIMIT, || {
        names(&dir) == BTreeSet::from(["new".to_owned()])
    });
    eventually("and not found", HANG_LIMIT, || !dir.join("old").exists());
}

/// The answer to a listing can be in flight while the kernel is notified of a change. The time of
/// the directory is the same before and after, so only another notification would correct the
/// listing.
#[apply(promise)]
fn a_listing_that_overlaps_a_change_is_not_cached() {
    let content = Memory::new();
    content.directory("dir");
    let mounted = Mounted::of(&content);
    let dir = mounted.at("dir");
    std::thread::scope(|scope| {
        // Dropped at the end, also after a failure.
        let going = Arc::new(());
        for _ in 0..4 {
            let (going, dir) = (Arc::downgrade(&going), &dir);
            scope.spawn(move || {
                while going.upgrade().is_some() {
                    names(dir);
                }
            });
        }
        for round in 0..60 {
            let name = format!("new-{round}");
            content.file(&format!("dir/{name}"), vec![]);
            mounted.publish();
            eventually("the new name is listed", HANG_LIMIT, || {
                names(&dir).contains(&name)
            });
        }
        drop(going);
    });
}

#[apply(promise)]
fn changes_beyond_the_limit_are_all_seen() {
    let content = Memory::new();
    for number in 0..3_000 {
        content.file(&format!("dir/old-{number}"), b"1".to_vec());
    }
    let mounted = Mounted::of(&content);
    assert_eq!(names(&mounted.at("dir")).len(), 3_000);
    assert_eq!(errno(fs::metadata(mounted.at("dir/new-7"))), libc::ENOENT);
    assert_eq!(fs::read(mounted.at("dir/old-7")).unwrap(), b"1");
    for number in 0..3_000 {
        content.file(&format!("dir/new-{number}"), b"1".to_vec());
        content.file(&format!("dir/old-{number}"), b"other".to_vec());
    }
    mounted.publish();
    eventually("new names are listed", HANG_LIMIT, || {
        names(&mounted.at("dir")).len() == 6_000
    });
    eventually("an absence is over", HANG_LIMIT, || {
        mounted.at("dir/new-7").exists()
    });
    eventually("a name shows its new content", HANG_LIMIT, || {
        fs::read(mounted.at("dir/old-7")).unwrap() == b"other"
    });
}

#[apply(promise)]
fn an_open_file_without_a_name_has_no_links() {
    let content = Memory::new();
    content.file("file", b"old".to_vec());
    content.file("other", b"stays".to_vec());
    let mounted = Mounted::of(&content);
    let [replaced, other] = ["file", "other"].map(|name| fs::File::open(mounted.at(name)).unwrap());
    let links = |file: &fs::File| file.metadata().unwrap().nlink();
    assert_eq!((links(&replaced), links(&other)), (1, 1));
    content.file("file", b"new".to_vec());
    mounted.publish();
    eventually("the kernel asks again", HANG_LIMIT, || {
        links(&replaced) == 0
    });
    assert_eq!(links(&other), 1);
    content.file("file", b"old".to_vec());
    mounted.publish();
    eventually("the name is its own again", HANG_LIMIT, || {
        links(&replaced) == 1
    });
}

#[apply(promise)]
fn a_new_mtime_keeps_the_inode_and_is_seen() {
    let content = Memory::new();
    let hash = content.file("file", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    let before = fs::metadata(mounted.at("file")).unwrap();
    let mtime = Timestamp {
        seconds: 1_800_000_000,
        nanoseconds: 1,
    };
    let kind = Kind::File {
        hash,
        size_bytes: 5,
        executable: true,
    };
    content.put_entry(
        b"file",
        Entry {
            kind,
            mtime,
            version_time: MTIME,
            sent_by: None,
            replaces: Vec::new(),
        },
    );
    mounted.publish();
    let now = || fs::metadata(mounted.at("file")).unwrap();
    eventually("the new mtime shows", HANG_LIMIT, || {
        now().mtime() == 1_800_000_000
    });
    assert_eq!((now().ino(), now().mode() & 0o777), (before.ino(), 0o755));
}

/// A directory's time changes with every new name in it, and many programs, such as shells and git,
/// ask for their directory (getcwd). A name that the kernel was told to drop has no path.
#[apply(promise)]
fn a_program_in_a_directory_keeps_it_when_it_changes() {
    let content = Memory::new();
    content.file("work/here/file", b"1".to_vec());
    let mounted = Mounted::of(&content);
    let here = mounted.at("work/here");
    let work = fs::File::open(&here).unwrap();
    let place = || fs::read_link(format!("/proc/self/fd/{}", work.as_raw_fd())).unwrap();
    assert_eq!(place(), here);
    for round in 0..20 {
        content.file(&format!("work/here/new-{round}"), b"2".to_vec());
        content.file(&format!("work/new-{round}"), b"2".to_vec());
        mounted.publish();
        eventually("the change shows", HANG_LIMIT, || {
            assert_eq!(place(), here);
            mounted
                .mount
                .shows(&SharedPath::new(format!("work/new-{round}").into_bytes()).unwrap())
        });
        assert_eq!(place(), here);
    }
    content.remove("work/here/file");
    (0..20).for_each(|round| content.remove(&format!("work/here/new-{round}")));
    mounted.publish();
    eventually("it is gone", HANG_LIMIT, || !here.exists());
    assert_ne!(place(), here);
}
