//! Reads of open contents, and the errors of those that fail.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::*;
use crate::sample::{empty_names, store_in};
use p2pfs_share::ShareSpec;
use p2pfs_types::digest::ContentHash;

/// Longer than anything here takes. A test waits for it only if it fails.
const LONG: Duration = Duration::from_secs(60);

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

/// Other nodes that have nothing, with the contents whose read-ahead ended.
#[derive(Default)]
struct NoNodes(parking_lot::Mutex<Vec<ContentKey>>);

impl RemoteBytes for NoNodes {
    fn read(&self, read: Read<SupplyReply>) -> ReadWait {
        (read.handle)(Err(TransferError::Cancelled));
        ReadWait::ended()
    }

    fn read_unstored(&self, _: &ContentKey, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn record_read(&self, _: ContentKey, _: ByteRange) {}

    fn record_closed(&self, content: ContentKey) {
        self.0.lock().push(content);
    }

    fn has_holder(&self, _: &ContentKey) -> bool {
        false
    }
}

impl ReadWatch for NoNodes {
    fn opened(&self, _: &SharedPath, _: ContentKey) -> Arc<dyn OpenWatch> {
        Arc::new(NoNodes::default())
    }
}

impl OpenWatch for NoNodes {
    fn wait_ended(&self, _: Result<(), &TransferError>) {}

    fn failed(&self, _: FsError, _: Option<&TransferError>) {}

    fn closed(&self, _: bool) {}
}

#[test]
fn read_ahead_of_a_content_ends_with_its_last_close_whatever_it_was_opened_by() {
    let home = tempfile::tempdir().unwrap();
    let store = store_in(home.path(), empty_names());
    let nodes = Arc::new(NoNodes::default());
    let opener = ContentOpener::new(store, nodes.clone(), nodes.clone(), LONG);
    let file = version_of(b"not here");
    let other_name = FileVersion {
        path: SharedPath::new(*b"other").unwrap(),
        ..file.clone()
    };
    let first = opener.open_unchanging(&file).unwrap();
    let second = opener.open(&other_name).unwrap();
    drop(first);
    assert_eq!(*nodes.0.lock(), []);
    drop(second);
    assert_eq!(
        *nodes.0.lock(),
        [ContentKey::new(file.hash, file.size_bytes)]
    );
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
