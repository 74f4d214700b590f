//! Real mounts: bytes, and reads whose bytes do not arrive.

use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use crate::support::content::noise;
use crate::support::memory::{Behaviour, Memory};
use crate::support::mounted::{Mounted, errno};
use crate::support::process::{HANG_LIMIT, eventually, run_with};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs_cache::{Cache, CacheConfig, CacheError, CachedBytes};
use p2pfs_fs::FsError;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::pool::PiecePool;
use tempfile::NamedTempFile;

const NEEDS: &[Need] = &[mount_as_root];

#[apply(promise)]
fn every_byte_is_read_from_its_offset() {
    let content = Memory::new();
    let bytes = noise(1, (3 << 20) + 12_345);
    content.file("here", bytes.clone());
    let fetched = Behaviour::Fetched(Arc::new(bytes.clone()));
    content.behave("far", ContentHash::of(b"far"), bytes.len() as u64, fetched);
    let mounted = Mounted::of(&content);
    for name in ["here", "far"] {
        let file = File::open(mounted.at(name)).unwrap();
        let mut part = vec![0; 100_000];
        for offset in [2_999_999u64, 0, 1 << 20, 4095, 3 << 20] {
            let length = file.read_at(&mut part, offset).unwrap();
            let wanted = &bytes[offset as usize..][..length];
            assert_eq!(&part[..length], wanted, "{name} at {offset}");
            assert!(length > 0);
        }
        assert_eq!(
            file.read_at(&mut part, bytes.len() as u64).unwrap(),
            0,
            "the end"
        );
        assert!(
            fs::read(mounted.at(name)).unwrap() == bytes,
            "{name} as a whole"
        );
    }
    assert!(content.waits.load(Ordering::Relaxed) > 0);
}

#[apply(promise)]
fn many_concurrent_readers_get_the_right_bytes() {
    let content = Memory::new();
    let files: Vec<_> = (0..6)
        .map(|n| noise(n, (1 << 20) + n as usize * 777))
        .collect();
    for (number, bytes) in files.iter().enumerate() {
        let (name, hash) = (format!("f{number}"), ContentHash::of(bytes));
        let bytes = Arc::new(bytes.clone());
        let how = match number % 2 {
            0 => Behaviour::Here(bytes.clone()),
            _ => Behaviour::Fetched(bytes.clone()),
        };
        content.behave(&name, hash, bytes.len() as u64, how);
    }
    let mounted = Mounted::of(&content);
    thread::scope(|scope| {
        for reader in 0..12 {
            let (files, mounted) = (&files, &mounted);
            scope.spawn(move || {
                for round in 0..6 {
                    let number = (reader + round) % files.len();
                    let read = fs::read(mounted.at(&format!("f{number}"))).unwrap();
                    assert_eq!(ContentHash::of(&read), ContentHash::of(&files[number]));
                }
            });
        }
    });
    let md5 = run_with("md5sum", &[&mounted.at("f0"), &mounted.at("f1")]);
    assert!(md5.status.success());
}

#[apply(promise)]
fn a_program_on_the_mount_runs() {
    let content = Memory::new();
    content.executable("true", fs::read("/bin/true").unwrap());
    content.executable("script", b"#!/bin/sh\necho ran\n".to_vec());
    let mounted = Mounted::of(&content);
    assert!(
        run_with(mounted.at("true").to_str().unwrap(), &[])
            .status
            .success()
    );
    assert_eq!(
        run_with(mounted.at("script").to_str().unwrap(), &[]).stdout,
        b"ran\n"
    );
}

#[apply(promise)]
fn each_failure_of_a_content_has_its_errno() {
    let content = Memory::new();
    for (name, error) in [
        ("unreachable", FsError::Unreachable),
        ("unverified", FsError::Unverified),
        ("gone", FsError::Gone),
        ("denied", FsError::Denied),
    ] {
        content.behave(
            name,
            ContentHash::of(name.as_bytes()),
            100,
            Behaviour::Broken(error),
        );
    }
    let mounted = Mounted::of(&content);
    assert_eq!(errno(fs::read(mounted.at("unreachable"))), libc::EIO);
    assert_eq!(errno(fs::read(mounted.at("unverified"))), libc::EIO);
    // A buffered read gives EIO for any failure of a page. A read without the page cache gives the
    // errno.
    let direct = |name: &str| {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(mounted.at(name));
        errno(file.unwrap().read_at(&mut [0; 4096], 0))
    };
    assert_eq!(direct("gone"), libc::ESTALE);
    assert_eq!(direct("denied"), libc::EACCES);
}

#[apply(promise)]
fn a_panic_during_a_read_is_eio_and_the_mount_continues() {
    let content = Memory::new();
    content.behave("panics", ContentHash::of(b"p"), 100, Behaviour::Panics);
    content.behave("short", ContentHash::of(b"s"), 100, Behaviour::Short);
    content.file("good", b"bytes".to_vec());
    let mounted = Mounted::of(&content);
    for _ in 0..8 {
        assert_eq!(errno(fs::read(mounted.at("panics"))), libc::EIO);
        assert_eq!(
            errno(fs::read(mounted.at("short"))),
            libc::EIO,
            "never short data"
        );
        assert_eq!(fs::read(mounted.at("good")).unwrap(), b"bytes");
    }
    assert!(mounted.mount.is_mounted());
}

#[apply(promise)]
fn a_new_version_is_a_new_inode_and_an_open_handle_reads_the_old_one() {
    let content = Memory::new();
    let (old_bytes, new_bytes) = (noise(1, 1 << 20), noise(2, 2 << 20));
    content.file("file", old_bytes.clone());
    let mounted = Mounted::of(&content);
    let mut old = File::open(mounted.at("file")).unwrap();
    let mut first = vec![0; 1000];
    old.read_exact(&mut first).unwrap();
    let old_inode = old.metadata().unwrap().ino();

    content.file("file", new_bytes.clone());
    mounted.publish();
    eventually("the new version shows", HANG_LIMIT, || {
        fs::metadata(mounted.at("file")).unwrap().len() == 2 << 20
    });
    assert!(fs::read(mounted.at("file")).unwrap() == new_bytes);
    assert_ne!(fs::metadata(mounted.at("file")).unwrap().ino(), old_inode);

    let mut rest = Vec::new();
    old.read_to_end(&mut rest).unwrap();
    assert!([first, rest].concat() == old_bytes, "never a mixture");
    assert_eq!(old.metadata().unwrap().ino(), old_inode);
    assert_eq!(old.metadata().unwrap().len(), 1 << 20);
}

#[apply(promise)]
fn an_own_file_is_the_file_itself_with_its_live_attributes() {
    let content = Memory::new();
    let scratch = tempfile::tempdir().unwrap();
    let shared = scratch.path().join("own");
    fs::write(&shared, "first").unwrap();
    content.own("own", &shared);
    let mounted = Mounted::of(&content);
    let file = mounted.at("own");
    assert_eq!(fs::read(&file).unwrap(), b"first");
    let open = File::open(&file).unwrap();
    fs::write(&shared, "second, and longer").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 18);
    assert_eq!(fs::read(&file).unwrap(), b"second, and longer");
    let mut again = [0; 6];
    open.read_exact_at(&mut again, 0).unwrap();
    assert_eq!(&again, b"second", "writing in place shows in an open file");
    fs::write(&shared, "third!, and longer").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"third!, and longer");
    assert!(run_with("cmp", &[&file, &shared]).status.success());
}

#[apply(promise)]
fn a_replaced_own_file_keeps_its_bytes_and_attributes_while_open() {
    let content = Memory::new();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let shared = folder.path().join("notes");
    fs::write(&shared, "first").unwrap();
    content.own("notes", &shared);
    let mounted = Mounted::of(&content);
    let open = File::open(mounted.at("notes")).unwrap();
    fs::write(folder.path().join("new"), "replacement").unwrap();
    fs::rename(folder.path().join("new"), &shared).unwrap();
    let mut old = [0; 5];
    open.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"first");
    let seen = fs::read(mounted.at("notes")).unwrap();
    let shown = fs::metadata(mounted.at("notes")).unwrap();
    assert_eq!(seen, b"replacement", "before it is hashed");
    assert_eq!(
        shown.len(),
        seen.len() as u64,
        "size and bytes are of one file"
    );
    content.own("notes", &shared);
    content.publish(Some(&mounted.mount));
    eventually("the new version is seen", HANG_LIMIT, || {
        fs::read(mounted.at("notes")).is_ok_and(|bytes| bytes == b"replacement")
    });
    assert_eq!(
        open.metadata().unwrap().len(),
        5,
        "the old one is as it was"
    );
}

/// This is like a log that is empty after each rotation, while its reader waits for more.
#[apply(promise)]
fn an_own_file_equal_to_its_replaced_version_is_read_by_name() {
    for passthrough in [true, false] {
        a_log_is_rotated(passthrough);
    }
}

fn a_log_is_rotated(passthrough: bool) {
    let content = Memory::new();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    content.own("log", &log);
    let mounted = Mounted::start(&content, |o| o.server.passthrough = passthrough);
    let hashed = || {
        let wanted = content.own("log", &log).to_string();
        mounted.publish();
        let mut hash = [0; 64];
        eventually("the kernel is told", HANG_LIMIT, || {
            rustix::fs::getxattr(mounted.at("log"), "user.p2pfs.hash", &mut hash[..]).unwrap();
            hash == wanted.as_bytes()
        });
    };
    let seen = || {
        let read = fs::read(mounted.at("log")).unwrap();
        let shown = fs::metadata(mounted.at("log")).unwrap();
        assert_eq!(shown.len(), read.len() as u64, "of one file");
        (String::from_utf8(read).unwrap(), shown.ino())
    };
    let mut followed = File::open(mounted.at("log")).unwrap();
    for round in 0..3 {
        let replaced = followed.metadata().unwrap().ino();
        fs::write(&log, "grown").unwrap();
        hashed();
        assert_eq!(seen().0, "grown");
        fs::rename(&log, folder.path().join(format!("log.{round}"))).unwrap();
        fs::write(&log, "").unwrap();
        hashed();
        assert_eq!(seen().0, "");
        let opened = File::open(mounted.at("log")).unwrap();
        assert_ne!(seen().1, replaced, "who looks at the name opens it anew");
        assert_eq!(opened.metadata().unwrap().ino(), seen().1);
        fs::write(&log, "new").unwrap();
        assert_eq!(seen().0, "new", "not hashed yet");
        let mut rest = String::new();
        followed.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "grown", "the old one stays open");
        followed = opened;
    }
    drop(followed);
    eventually("all is closed", HANG_LIMIT, || content.open_count() == 0);
    assert_eq!(seen().0, "new");
}

#[apply(promise)]
fn the_kernel_reads_an_own_file_directly_and_sees_each_write() {
    let content = Memory::new();
    let shared = NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(shared.path(), noise(5, 1 << 20)).unwrap();
    content.own("own", shared.path());
    let mounted = Mounted::of(&content);
    let open = File::open(mounted.at("own")).unwrap();
    for round in 0..5u8 {
        shared.as_file().write_all_at(&[round; 4096], 8192).unwrap();
        let mut page = [77; 4096];
        open.read_exact_at(&mut page, 8192).unwrap();
        assert_eq!(page, [round; 4096]);
    }
    shared.as_file().write_all_at(b"grown", 1 << 20).unwrap();
    let mut tail = [0; 16];
    assert_eq!(open.read_at(&mut tail, 1 << 20).unwrap(), 5);
    assert_eq!(open.metadata().unwrap().len(), (1 << 20) + 5);
    if mounted.mount.passthrough_refusal().is_none() {
        assert_eq!(mounted.mount.activity().read_bytes, 0, "no byte through us");
    }
}

/// Lets the kernel read a content from a file with these bytes, which exists as long as the
/// returned value.
fn back(content: &Memory, hash: ContentHash, bytes: &[u8]) -> NamedTempFile {
    let backing = NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(backing.path(), bytes).unwrap();
    content.set_backing(hash, File::open(backing.path()).unwrap());
    backing
}

#[apply(promise)]
fn the_kernel_reads_a_complete_file_directly() {
    let content = Memory::new();
    let bytes = noise(1, 4 << 20);
    let hash = content.file("whole", bytes.clone());
    let mounted = Mounted::of(&content);
    let first = File::open(mounted.at("whole")).unwrap();
    let _backing = back(&content, hash, &bytes);
    let mut byte = [0];
    first.read_exact_at(&mut byte, 77).unwrap();
    drop(File::open(mounted.at("whole")).unwrap());
    drop(first);
    eventually(
        "the last of the asked opens is released",
        HANG_LIMIT,
        || content.open_count() == 0,
    );

    let before = mounted.mount.activity().read_bytes;
    assert!(fs::read(mounted.at("whole")).unwrap() == bytes);
    let mapped = run_with("md5sum", &[&mounted.at("whole")]);
    assert!(mapped.status.success());
    match mounted.mount.passthrough_refusal() {
        None => assert_eq!(
            mounted.mount.activity().read_bytes,
            before,
            "no byte through us"
        ),
        Some(why) => eprintln!("SKIPPED: this kernel takes no backing file: {why}"),
    }
}

#[apply(promise)]
fn the_pages_of_a_complete_file_are_dropped_at_its_last_close() {
    let content = Memory::new();
    let bytes = noise(4, 4 << 20);
    let hash = content.file("large", bytes.clone());
    let mounted = Mounted::of(&content);
    let open = || File::open(mounted.at("large")).unwrap();
    let (first, second) = (open(), open());
    assert!(fs::read(mounted.at("large")).unwrap() == bytes);
    let _backing = back(&content, hash, &bytes);
    drop(first);
    let before = mounted.mount.activity().read_bytes;
    let mut read = vec![0; bytes.len()];
    second.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes);
    assert_eq!(mounted.mount.activity().read_bytes, before, "still cached");
    drop(second);
    eventually("it is closed", HANG_LIMIT, || content.open_count() == 0);
    assert!(fs::read(mounted.at("large")).unwrap() == bytes);
    if mounted.mount.passthrough_refusal().is_none() {
        let after = mounted.mount.activity().read_bytes;
        assert_eq!(after, before, "the kernel reads the backing file");
    }
}

/// Reads a file to its end, and returns it still open.
fn read_in_order(path: &Path, bytes: &[u8]) -> File {
    let mut file = File::open(path).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    file
}

#[apply(promise)]
fn pages_behind_a_reader_in_order_are_dropped_while_the_file_is_open() {
    let content = Memory::new();
    let bytes = noise(5, 32 << 20);
    content.file("large", bytes.clone());
    let mounted = Mounted::of(&content);
    let file = read_in_order(&mounted.at("large"), &bytes);
    let before = mounted.mount.activity().read_bytes;
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, bytes.len() as u64 - 4096)
        .unwrap();
    assert_eq!(mounted.mount.activity().read_bytes, before, "the end stays");
    if mounted.mount.passthrough_refusal().is_some() {
        return;
    }
    eventually("the first page is dropped", HANG_LIMIT, || {
        file.read_exact_at(&mut page, 0).unwrap();
        assert!(page == bytes[..4096]);
        mounted.mount.activity().read_bytes > before
    });
}

/// Returns the nice levels of the threads of this process that are named so.
fn nice_levels(name: &str) -> Vec<i32> {
    let nice_of = |task: &Path| {
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let (start, fields) = stat.rsplit_once(')')?;
        let nice = fields.split_whitespace().nth(16)?.parse().ok()?;
        start.ends_with(&format!("({name}")).then_some(nice)
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let levels = tasks.filter_map(|task| nice_of(&task.unwrap().path()));
    levels.collect()
}

#[apply(promise)]
fn the_thread_that_drops_pages_yields_to_those_that_answer_reads() {
    let _mounted = Mounted::of(&Memory::new());
    let answering = nice_levels("fuse-0")[0];
    eventually("the thread has a lower priority", HANG_LIMIT, || {
        let dropping = nice_levels("fuse-pages");
        dropping.iter().any(|nice| *nice > answering)
    });
}

#[apply(promise)]
fn pages_of_bytes_that_the_cache_did_not_accept_stay_behind_a_reader() {
    let content = Memory::new();
    let bytes = noise(6, 32 << 20);
    let fetched = Behaviour::Fetched(Arc::new(bytes.clone()));
    content.behave(
        "large",
        ContentHash::of(&bytes),
        bytes.len() as u64,
        fetched,
    );
    let mounted = Mounted::of(&content);
    let file = read_in_order(&mounted.at("large"), &bytes);
    let before = mounted.mount.activity().read_bytes;
    let mut read = vec![0; bytes.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes);
    assert_eq!(mounted.mount.activity().read_bytes, before);
}

#[apply(promise)]
fn damaged_bytes_reach_no_further_reader() {
    let content = Memory::new();
    let bytes = noise(2, 1 << 20);
    let hash = content.file("whole", bytes.clone());
    let mounted = Mounted::of(&content);
    let backing = back(&content, hash, &bytes);
    let first = File::open(mounted.at("whole")).unwrap();
    if let Some(why) = mounted.mount.passthrough_refusal() {
        eprintln!("SKIPPED: this kernel takes no backing file: {why}");
        return;
    }
    backing.as_file().write_all_at(b"damage", 4096).unwrap();
    content.lose_backing(hash);
    let refused = File::open(mounted.at("whole"));
    assert_eq!(
        errno(refused),
        libc::ESTALE,
        "the kernel could only read the same for it"
    );
    drop(first);
    eventually(
        "it is read anew once all have closed it",
        HANG_LIMIT,
        || fs::read(mounted.at("whole")).is_ok_and(|read| read == bytes),
    );
}

/// A cache in a folder of its own.
struct Cached {
    cache: Cache,
    dir: tempfile::TempDir,
}

impl Cached {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = CacheConfig {
            dir: dir.path().to_owned(),
            budget_bytes: 1 << 30,
            floor_bytes: 0,
        };
        let cache = Cache::open(config).unwrap().0;
        Self { cache, dir }
    }

    /// Changes bytes of a content on the disk, as a failing disk does.
    fn damage(&self, hash: ContentHash, offset: u64) {
        let hash = hash.to_string();
        let shard = self.dir.path().join(&hash[..2]);
        let data = File::options()
            .write(true)
            .open(shard.join(format!("{hash}.data")));
        data.unwrap().write_all_at(b"damage", offset).unwrap();
    }
}

#[apply(promise)]
fn no_reader_gets_damaged_bytes_after_the_verification_that_finds_them() {
    let (content, kept) = (Memory::new(), Cached::new());
    let bytes = noise(3, 4 << 20);
    let hash = content.cache("file", &kept.cache, bytes.clone());
    let mounted = Mounted::start(&content, |o| o.server.passthrough = false);
    kept.damage(hash, 1 << 20);
    // the pages of the kernel are filled with the damage
    let open = File::open(mounted.at("file")).unwrap();
    assert!(fs::read(mounted.at("file")).unwrap() != bytes);
    let mut page = [0; 4096];
    let is_right = |page: &mut [u8; 4096]| {
        open.read_exact_at(page, 1 << 20).unwrap();
        page[..] == bytes[1 << 20..][..4096]
    };
    assert!(!is_right(&mut page));
    let verified = kept.cache.verify(|progress| {
        assert_eq!(is_right(&mut page), progress.dropped_bytes > 0);
        ControlFlow::Continue(())
    });
    assert_eq!(verified.dropped_bytes, 65_536);
    assert!(fs::read(mounted.at("file")).unwrap() == bytes);
    let mut read = vec![0; bytes.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "through a handle from before");
}

#[apply(promise)]
fn damage_found_by_serving_reaches_no_reader_for_long() {
    let (content, kept) = (Memory::new(), Cached::new());
    let bytes = noise(4, 1 << 20);
    let hash = content.cache("file", &kept.cache, bytes.clone());
    let mounted = Mounted::start(&content, |o| o.server.passthrough = false);
    kept.damage(hash, 70_000);
    assert!(fs::read(mounted.at("file")).unwrap() != bytes);
    let file = kept.cache.existing(&hash).unwrap().unwrap();
    let range = ByteRange::new(65_536, 131_072);
    let given = file.encode(range, &PiecePool::default());
    assert!(matches!(given, Err(CacheError::Damaged { .. })));
    eventually("the kernel drops its pages", HANG_LIMIT, || {
        fs::read(mounted.at("file")).unwrap() == bytes
    });
}

#[apply(promise)]
fn a_verification_without_a_mount_ends() {
    let (content, kept) = (Memory::new(), Cached::new());
    let bytes = noise(5, 1 << 20);
    let hash = content.cache("file", &kept.cache, bytes.clone());
    kept.damage(hash, 70_000);
    let verified = kept.cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!(verified.dropped_bytes, 65_536);
    let mounted = Mounted::start(&content, |o| o.server.passthrough = false);
    assert!(fs::read(mounted.at("file")).unwrap() == bytes);
    // a mount that has ended takes part in no verification
    kept.damage(hash, 200_000);
    mounted.mount.end().unwrap();
    let verified = kept.cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!(verified.dropped_bytes, 65_536);
}

#[apply(promise)]
fn an_open_never_fails_while_a_file_becomes_complete() {
    const FILES: usize = 40;
    const READERS: usize = 6;
    let content = Memory::new();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let name = |number: usize| format!("file-{number}");
    let bytes: Vec<Vec<u8>> = (0..FILES)
        .map(|number| noise(number as u64, 20_000))
        .collect();
    let hashes: Vec<ContentHash> = (0..FILES)
        .map(|number| content.file(&name(number), bytes[number].clone()))
        .collect();
    let mounted = Mounted::of(&content);
    for number in 0..FILES {
        let path = mounted.at(&name(number));
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..30 {
                            assert!(fs::read(&path).unwrap() == bytes[number]);
                        }
                    })
                })
                .collect();
            let on_disk = folder.path().join(name(number));
            fs::write(&on_disk, &bytes[number]).unwrap();
            content.set_backing(hashes[number], File::open(on_disk).unwrap());
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
    eventually("nothing stays open", HANG_LIMIT, || {
        content.open_count() == 0
    });
}
