//! Reads of open contents, and the errors of those that fail.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::*;
use crate::sample::{empty_names, store_in};
use p2pfs_share::ShareSpec;
use p2pfs_types::digest::ContentHash;

/// Longer than anything here takes. A test waits for it only if it fails.
const LONG: Duration = Duration::from_secs(400);

fn version_of(bytes: &[u8]) -> FileVersion {
    FileVersion {
        path: SharedPath::root(),
        hash: ContentHash::of(bytes),
        size_bytes: bytes.len() as u64,
        mtime: Default::default(),
        executable: false,
        own: None,
    }
}

/// Shares a folder with one file of these bytes, fully hashed.
fn share(store: &ContentStore, home: &Path, name: &str, bytes: &[u8]) {
    let dir = home.join("share");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
    store.shares().add(ShareSpec::new(&dir)).unwrap();
    assert!(store.shares().wait_settled(LONG));
}

fn errors_of(why: &PlanError) -> [FsError; 2] {
    [true, false].map(|is_named| read_failure(&why.clone().into(), is_named))
}

#[test]
fn a_read_over_a_limit_of_this_node_is_enfile_and_not_late_or_gone() {
    assert_eq!(errors_of(&PlanError::TooMany), [FsError::TooManyHandles; 2]);
    // A retry can succeed at once.
    assert!(!FsError::TooManyHandles.is_worth_remembering());
}

#[test]
fn missing_bytes_of_an_unnamed_version_are_gone_and_those_of_a_named_one_are_not() {
    let of_named = [
        (PlanError::NoHolder, FsError::Unreachable),
        (PlanError::TimedOut, FsError::DeadlinePassed),
        (PlanError::Unanswered, FsError::DeadlinePassed),
        (PlanError::Refused, FsError::DeadlinePassed),
    ];
    for (why, named) in of_named {
        assert_eq!(errors_of(&why), [named, FsError::Gone], "{why}");
    }
    assert_eq!(errors_of(&PlanError::Gone), [FsError::Gone; 2]);
    assert_eq!(errors_of(&PlanError::OnlyLiars), [FsError::Unverified; 2]);
}

#[test]
fn an_open_version_is_read_from_an_own_share_that_acquired_its_bytes() {
    let home = tempfile::tempdir().unwrap();
    let store = store_in(home.path(), empty_names());
    let bytes = vec![7; 100_000];
    let file = version_of(&bytes);
    // some shares are not added yet
    let opened = FixedBytes::open(&file, &store);
    assert_eq!(opened.hindrance(), Some(Hindrance::Beginning));
    store.shares().all_added();
    let opened = FixedBytes::open(&file, &store);
    assert_eq!(opened.hindrance(), None);
    let mut page = [0; 4096];
    assert_eq!(opened.read(&store, 4096, &mut page), ReadNow::Wait);
    share(&store, home.path(), "vm.img", &bytes);
    assert_eq!(opened.read(&store, 4096, &mut page), ReadNow::Done(4096));
    assert!(page == bytes[..4096] && !opened.is_partial());
    let beyond = opened.read(&store, 99_000, &mut page);
    assert_eq!(beyond, ReadNow::Failed(FsError::Fault));
}

#[test]
fn version_of_a_growing_own_file_is_read_on_its_own_node() {
    let home = tempfile::tempdir().unwrap();
    let store = store_in(home.path(), empty_names());
    store.shares().all_added();
    for (name, bytes) in [("small", vec![7; 100_000]), ("large", vec![8; 3_000_000])] {
        let home = home.path().join(name);
        fs::create_dir(&home).unwrap();
        share(&store, &home, "log", &bytes);
        let file = version_of(&bytes);
        let early = FixedBytes::open(&file, &store);
        let log = home.join("share/log");
        let mut log = OpenOptions::new().append(true).open(log).unwrap();
        log.write_all(b"one more line").unwrap();
        let late = FixedBytes::open(&file, &store);
        for opened in [early, late] {
            let mut page = [0; 4096];
            let offset = file.size_bytes - 4096;
            let read = opened.read(&store, offset, &mut page);
            assert_eq!(read, ReadNow::Done(4096));
            assert!(page == bytes[..4096] && !opened.is_partial());
        }
        drop(log);
        assert!(store.shares().wait_settled(LONG));
    }
}
