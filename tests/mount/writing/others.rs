//! Changes of files of another node, which are copied before they change.

use std::fs::{self, File};
use std::io::{Write, read_to_string};
use std::process::Command;
use std::time::Instant;

use macro_rules_attribute::apply;
use p2pfs_types::digest::ContentHash;

use super::{NEEDS, each_way, expect, read};
use crate::support::content::noise;
use crate::support::memory::{Behaviour, Memory, path};
use crate::support::mounted::{Mounted, errno, names};
use crate::support::process::{AT_ONCE, HANG_LIMIT, Running, eventually, start};
use crate::support::promise::promise;

/// Number of copies that stand still: more than the threads that serve a mount.
const MANY: usize = 100;

#[apply(promise)]
fn a_change_of_another_nodes_file_keeps_its_other_bytes() {
    each_way(|mounted| {
        let mut file = File::options()
            .append(true)
            .open(mounted.at("others/file"))
            .unwrap();
        file.write_all(b" and more").unwrap();
        drop(file);
        expect(mounted, "others/file", b"bytes and more");
    });
}

#[apply(promise)]
fn another_nodes_file_is_truncated_without_its_bytes() {
    let content = Memory::new();
    content.dead("dead", 1 << 40);
    let mounted = Mounted::writable(&content, |_| {});
    fs::write(mounted.at("dead"), b"alive").unwrap();
    expect(&mounted, "dead", b"alive");
    assert_eq!(content.stuck(), 0);
}

#[apply(promise)]
fn a_change_after_renames_of_another_nodes_files_is_of_the_named_one() {
    for has_reader in [false, true] {
        each_way(|mounted| {
            let at = |name: &str| mounted.at("others").join(name);
            mounted.content.file("others/second", b"second".to_vec());
            mounted.publish();
            let reader = has_reader.then(|| File::open(at("file")).unwrap());
            fs::rename(at("file"), at("third")).unwrap();
            fs::rename(at("second"), at("file")).unwrap();
            let third = File::options().write(true).open(at("third")).unwrap();
            third.set_len(2).unwrap();
            expect(mounted, "others/third", b"by");
            expect(mounted, "others/file", b"second");
            if let Some(mut reader) = reader {
                assert_eq!(read_to_string(&mut reader).unwrap(), "bytes");
            }
        });
    }
}

#[apply(promise)]
fn another_nodes_file_is_renamed_and_removed_for_all() {
    each_way(|mounted| {
        mounted.content.file("others/second", b"second".to_vec());
        mounted.publish();
        fs::rename(mounted.at("others/file"), mounted.at("mine")).unwrap();
        expect(mounted, "mine", b"bytes");
        assert_eq!(errno(fs::metadata(mounted.at("others/file"))), libc::ENOENT);
        fs::remove_file(mounted.at("others/second")).unwrap();
        assert_eq!(errno(File::open(mounted.at("others/second"))), libc::ENOENT);
        mounted.publish();
        assert_eq!(errno(File::open(mounted.at("others/second"))), libc::ENOENT);
        assert!(!names(mounted.dir()).contains("second"));
    });
}

#[apply(promise)]
fn a_removed_name_of_another_node_can_be_used_for_anything_at_once() {
    each_way(|mounted| {
        for (number, name) in ["file", "dir", "link"].iter().enumerate() {
            mounted.content.file(name, vec![number as u8; 10]);
        }
        mounted.publish();
        for name in ["file", "dir", "link"] {
            fs::remove_file(mounted.at(name)).unwrap();
        }
        fs::write(mounted.at("file"), b"new").unwrap();
        fs::create_dir(mounted.at("dir")).unwrap();
        std::os::unix::fs::symlink("file", mounted.at("link")).unwrap();
        for _ in 0..2 {
            expect(mounted, "file", b"new");
            assert!(mounted.at("dir").is_dir());
            assert_eq!(read(&mounted.at("link")), b"new");
            mounted.publish();
        }
    });
}

#[apply(promise)]
fn the_bytes_of_a_copy_may_arrive_later() {
    each_way(|mounted| {
        let bytes = noise(5, 3 << 20);
        let (hash, size) = (ContentHash::of(&bytes), bytes.len() as u64);
        let fetched = Behaviour::Fetched(bytes.clone().into());
        mounted.content.behave("far", hash, size, fetched);
        mounted.publish();
        let mut file = File::options()
            .append(true)
            .open(mounted.at("far"))
            .unwrap();
        file.write_all(b"end").unwrap();
        expect(mounted, "far", &[&bytes[..], b"end"].concat());
    });
}

/// Starts a shell that appends to a file.
fn appender(mounted: &Mounted, name: &str) -> Running {
    let script = format!("echo more >> '{}'", mounted.at(name).display());
    start(Command::new("sh").arg("-c").arg(script))
}

#[apply(promise)]
fn copies_that_stand_still_delay_no_others_and_end_with_their_programs() {
    let content = Memory::new();
    content.file("here", b"bytes".to_vec());
    for number in 0..MANY {
        content.dead(&format!("dead-{number}"), 1 << 20);
    }
    let mounted = Mounted::writable(&content, |_| {});
    fs::write(mounted.at("mine"), b"bytes").unwrap();
    let waiting: Vec<Running> = (0..MANY)
        .map(|number| appender(&mounted, &format!("dead-{number}")))
        .collect();
    eventually("all wait", HANG_LIMIT, || {
        mounted.mount.activity().waiting >= MANY as u64
    });
    let begun = Instant::now();
    assert_eq!(read(&mounted.at("here")), b"bytes");
    assert_eq!(read(&mounted.at("mine")), b"bytes");
    fs::write(mounted.at("new"), b"new").unwrap();
    expect(&mounted, "new", b"new");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    for program in &waiting {
        program.signal(libc::SIGTERM);
    }
    for program in waiting {
        assert!(!program.finish(HANG_LIMIT).status.success());
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    eventually("no request waits", HANG_LIMIT, || {
        mounted.mount.activity().waiting == 0
    });
    eventually("nothing stays open", HANG_LIMIT, || {
        mounted.mount.activity().handles == 0
    });
    assert_eq!(
        names(mounted.upper()).len(),
        2,
        "no part of a copy has a name"
    );
    content.drop_stuck();
}

#[apply(promise)]
fn what_cannot_be_written_has_its_errno() {
    let content = Memory::new();
    content.file("others/file", b"bytes".to_vec());
    content.file("docs/far", b"bytes".to_vec());
    content.dead("docs/large", (256 << 20) + 1);
    let mounted = Mounted::writable_below(path("docs"), &content, |_| {});
    let at = |name: &str| mounted.at(name);
    fs::create_dir(at("docs/dir")).unwrap();
    fs::write(at("docs/dir/own"), b"own").unwrap();
    assert_eq!(errno(File::create(at("new"))), libc::EROFS);
    let appended = File::options().append(true).open(at("others/file"));
    assert_eq!(errno(appended), libc::EROFS);
    let moved_out = fs::rename(at("docs/dir/own"), at("others/own"));
    assert_eq!(errno(moved_out), libc::EROFS);
    assert_eq!(errno(fs::rename(at("docs"), at("docs-2"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(at("docs"))), libc::EBUSY);
    let large = File::options().append(true).open(at("docs/large"));
    assert_eq!(errno(large), libc::EFBIG);
    drop(File::create(at("docs/large")).unwrap());
    content.file("docs/dir/far", b"bytes".to_vec());
    mounted.publish();
    eventually("the name is shown", HANG_LIMIT, || {
        at("docs/dir/far").exists()
    });
    assert_eq!(
        errno(fs::rename(at("docs/dir"), at("docs/dir-2"))),
        libc::EXDEV
    );
    content.set_open(false);
    mounted.publish();
    eventually("the newest view is shown", HANG_LIMIT, || {
        mounted.mount.is_up_to_date()
    });
    assert_eq!(errno(fs::remove_file(at("docs/far"))), libc::EPERM);
    let renamed = fs::rename(at("docs/far"), at("docs/near"));
    assert_eq!(errno(renamed), libc::EPERM);
    assert_eq!(read(&at("docs/far")), b"bytes");
}

#[apply(promise)]
fn a_failed_copy_changes_nothing() {
    each_way(|mounted| {
        let (hash, error) = (ContentHash::of(b"broken"), p2pfs_fs::FsError::Unreachable);
        mounted
            .content
            .behave("broken", hash, 6, Behaviour::Broken(error));
        mounted.publish();
        let opened = File::options().append(true).open(mounted.at("broken"));
        assert_eq!(errno(opened), libc::EIO);
        assert!(!mounted.upper().join("broken").exists());
        assert_eq!(fs::metadata(mounted.at("broken")).unwrap().len(), 6);
    });
}
