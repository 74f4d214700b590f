//! Tests of a store over a restart.

use std::os::unix::fs::PermissionsExt;

use super::*;
use p2pfs_catalogue::{Applied, HeadOutcome};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, SignedHead, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeName;
use p2pfs_types::path::SharedPath;

const SHARE: ShareIndex = ShareIndex(3);

fn node(number: u8) -> Catalogue {
    Catalogue::new(id(number), name(number))
}

fn id(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn name(number: u8) -> NodeName {
    NodeName::new(format!("node{number}")).unwrap()
}

fn put(node: &mut Catalogue, path: &str, content: &str) {
    let kind = Kind::File {
        hash: ContentHash::of(content.as_bytes()),
        size_bytes: content.len() as u64,
        executable: true,
    };
    let time = Timestamp {
        seconds: -1,
        nanoseconds: 5,
    };
    let path = SharedPath::new(path.as_bytes()).unwrap();
    node.own_mut()
        .put(
            SHARE,
            &path,
            Entry {
                kind,
                mtime: time,
                version_time: time,
                sent_by: None,
                replaces: Vec::new(),
            },
        )
        .unwrap();
}

/// Copies the first node's log to the second.
fn share(from: &mut Catalogue, to: &mut Catalogue) {
    let head = from.own().head();
    let author = head.author;
    assert!(from.own_mut().sign(SignedHead {
        head,
        signature: [[1; 32]; 2]
    }));
    let HeadOutcome::Pull(pull) = to.handle_head(from.logs().head_of(&author).unwrap()) else {
        panic!()
    };
    let part = from.logs().part(&author, pull.epoch, pull.after).unwrap();
    assert_eq!(to.intake().apply(author, part), Ok(Applied::Complete));
    to.set_live(author, true).unwrap();
}

fn listed(catalogue: &mut Catalogue) -> Vec<String> {
    let children = catalogue.view().children(&SharedPath::root(), None, 1000);
    children
        .iter()
        .map(|child| String::from_utf8_lossy(&child.name).into_owned())
        .collect()
}

#[test]
fn a_catalogue_is_unchanged_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut me, mut other) = (node(1), node(2));
    put(&mut me, "own", "one");
    put(&mut other, "theirs", "two");
    put(&mut other, "replaced", "three");
    share(&mut other, &mut me);
    let mut store = Store::open(dir.path()).unwrap();
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    put(&mut other, "replaced", "four");
    share(&mut other, &mut me);
    me.own_mut()
        .remove(SHARE, &SharedPath::new(&b"own"[..]).unwrap());
    put(&mut me, "newer", "five");
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    let mut again = store
        .load_catalogue(Catalogue::new(id(1), name(1)))
        .unwrap();
    again.set_live(id(2), true).unwrap();
    assert_eq!(listed(&mut again), ["newer", "replaced", "theirs"]);
    assert_eq!(again.own().head().digest, me.own().head().digest);
    assert_eq!(again.logs().head_of(&id(2)), me.logs().head_of(&id(2)));
}

#[test]
fn an_empty_store_gives_an_empty_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut catalogue = store
        .load_catalogue(Catalogue::new(id(1), name(1)))
        .unwrap();
    assert!(listed(&mut catalogue).is_empty());
    assert_eq!(store.generation().unwrap(), Generation(0));
    assert!(store.addresses().unwrap().is_empty());
}

#[test]
fn the_file_is_readable_by_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    drop(Store::open(dir.path()).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn settings_persist() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let addresses: Vec<SocketAddr> = ["10.0.0.1:1378", "[fe80::1]:99"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    store.set_generation(Generation(77)).unwrap();
    store.set_addresses(&addresses).unwrap();
    store.set_value("colour", b"green").unwrap();
    let long = store.set_value("long", &vec![0; VALUE_MAX_BYTES + 1]);
    assert!(matches!(long, Err(StoreError::TooLong { .. })));
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.generation().unwrap(), Generation(77));
    assert_eq!(store.addresses().unwrap(), addresses);
    assert_eq!(
        store.value("colour").unwrap().as_deref(),
        Some(&b"green"[..])
    );
    assert_eq!(store.value("none").unwrap(), None);
}

#[test]
fn a_second_daemon_on_the_same_state_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Store::open(dir.path()).unwrap();
    let second = Store::open(dir.path());
    assert!(matches!(second, Err(StoreError::InUse { .. })));
}

#[test]
fn a_newer_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store
        .set_value(VERSION_KEY, &encode(&(STORE_VERSION + 1)))
        .unwrap();
    drop(store);
    let before = std::fs::read(dir.path().join(STORE_FILE)).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(
        matches!(error, StoreError::Version { version: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains(STORE_FILE), "{error}");
    assert_eq!(
        before.len(),
        std::fs::read(dir.path().join(STORE_FILE)).unwrap().len()
    );
}

#[test]
fn an_invalid_store_is_an_error_and_can_be_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    for number in 1..3 {
        std::fs::write(
            &path,
            b"this is not a database, whatever it is called".repeat(99),
        )
        .unwrap();
        let error = Store::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("move it aside"), "{error}");
        let aside = Store::set_aside(dir.path()).unwrap();
        assert!(aside.ends_with(format!("{STORE_FILE}.aside-{number}")));
        drop(Store::open(dir.path()).unwrap());
    }
}

#[test]
fn a_meaningless_record_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut me = node(1);
    put(&mut me, "own", "one");
    let mut store = Store::open(dir.path()).unwrap();
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    let writing = store.file.begin_write().unwrap();
    writing
        .open_table(RECORDS)
        .unwrap()
        .insert((0, 1), &[250u8, 1][..])
        .unwrap();
    writing.commit().unwrap();
    let loaded = store.load_catalogue(Catalogue::new(id(1), name(1)));
    assert!(matches!(loaded, Err(StoreError::Damaged { .. })));
}

#[test]
fn a_forgotten_log_leaves_no_record_and_its_number_is_reused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut me = node(1);
    for number in 2..5 {
        let mut other = node(number);
        put(&mut other, &number.to_string(), "x");
        share(&mut other, &mut me);
        store
            .write_logs(&me.storage().take_writes(usize::MAX))
            .unwrap();
        me.forget(&id(number));
        store
            .write_logs(&me.storage().take_writes(usize::MAX))
            .unwrap();
        let reading = store.file.begin_read().unwrap();
        assert_eq!(reading.open_table(RECORDS).unwrap().len().unwrap(), 0);
        assert_eq!(reading.open_table(LOGS).unwrap().len().unwrap(), 0);
    }
}

#[test]
fn a_node_is_departed_thirty_days_after_it_was_last_live() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut me = node(1);
    put(&mut me, "own", "one");
    for number in 2..4 {
        let mut other = node(number);
        put(&mut other, &number.to_string(), "x");
        share(&mut other, &mut me);
    }
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    let start = 1_700_000_000;
    store.record_live(&[id(2)], start).unwrap();
    assert!(
        store.departed(start + 10).unwrap().is_empty(),
        "counts from the first look"
    );
    assert!(
        store
            .departed(start + FORGET_AFTER_SECONDS)
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        store.departed(start + FORGET_AFTER_SECONDS + 1).unwrap(),
        [id(2)]
    );
    let all = store.departed(start + FORGET_AFTER_SECONDS + 11).unwrap();
    assert_eq!(all, [id(2), id(3)], "but never this node");
    store
        .record_live(&[id(2), id(3)], start + FORGET_AFTER_SECONDS)
        .unwrap();
    assert!(
        store
            .departed(start + FORGET_AFTER_SECONDS + 11)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_forgotten_log_stays_forgotten_over_a_restart_until_more_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let (mut me, mut other) = (node(1), node(2));
    put(&mut other, "a", "x");
    share(&mut other, &mut me);
    let head = other.logs().head_of(&id(2)).unwrap().clone();
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    me.forget_until_back(&id(2));
    // writes that the disk refused are given out again
    me.storage().take_writes(usize::MAX);
    me.storage().store_anew();
    store
        .write_logs(&me.storage().take_writes(usize::MAX))
        .unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    let mut again = store.load_catalogue(node(1)).unwrap();
    assert_eq!(again.logs().authors(), []);
    assert_eq!(again.handle_head(&head), HeadOutcome::Known);
    put(&mut other, "b", "y");
    share(&mut other, &mut again);
    store
        .write_logs(&again.storage().take_writes(usize::MAX))
        .unwrap();
    assert_eq!(ForgottenTable(&store.file).all().unwrap(), []);
    let again = store.load_catalogue(node(1)).unwrap();
    assert_eq!(again.logs().authors(), [id(2)]);
}
