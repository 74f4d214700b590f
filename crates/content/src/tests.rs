//! Tests of the store over a real cache and real shares.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Asker, PublishedNames};
use super::error::ProofError;
use super::kept::KEPT_MAX;
use super::sample::{empty_names, store_in};
use super::store::ContentStore;
use p2pfs_catalogue::Catalogue;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_share::ShareSpec;
use p2pfs_types::digest::{self, ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Longer than anything here takes. A test waits for it only if it fails.
const LONG: Duration = Duration::from_secs(400);

/// Creates a store with one share for each element, named by its number. Each has a file `it` with
/// this number as its content.
fn shared(home: &Path, readers: &[Option<&str>]) -> (PublishedNames, ContentStore) {
    let names = empty_names();
    let store = store_in(home, names.clone());
    for (index, readers) in readers.iter().enumerate() {
        let dir = home.join(index.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("it"), index.to_string()).unwrap();
        let spec = ShareSpec {
            readers: readers.map(|reader| vec![reader.to_owned()]),
            ..ShareSpec::new(dir)
        };
        store.shares().add(spec).unwrap();
    }
    assert!(store.shares().wait_settled(LONG));
    store.shares().all_added();
    (names, store)
}

/// Creates a store with one share that has these files.
fn sharing(home: &Path, files: &[(&str, &[u8])]) -> ContentStore {
    let store = store_in(home, empty_names());
    let dir = home.join("share");
    fs::create_dir(&dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    store.shares().add(ShareSpec::new(dir)).unwrap();
    assert!(store.shares().wait_settled(LONG));
    store.shares().all_added();
    store
}

fn key_of(bytes: &[u8]) -> ContentKey {
    ContentKey::new(ContentHash::of(bytes), bytes.len() as u64)
}

/// Returns whether a proof has the bytes of a range.
fn proves(store: &ContentStore, bytes: &[u8], range: ByteRange) -> Result<bool, ProofError> {
    let content = key_of(bytes);
    let proof = store.prove(&content, range)?;
    let verified = digest::decode(content.hash, content.size_bytes, range, proof).unwrap();
    let wanted = &bytes[range.start as usize..range.end as usize];
    Ok(verified.bytes[..] == *wanted)
}

/// Returns how many files below a folder this process has open.
fn open_below(dir: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(dir)).count()
}

#[test]
fn a_restricted_shares_files_are_served_to_readers_before_the_namespace_lists_them() {
    let home = tempfile::tempdir().unwrap();
    let (names, store) = shared(home.path(), &[Some("alice"), None]);
    let [alice, bob] = [2, 3].map(|it| NodeId::new([it; 32]));
    let [restricted, open] = ["0", "1"].map(|it| ContentHash::of(it.as_bytes()));
    let given = |hash| [alice, bob].map(|asker| store.may_have(Asker::Member(&asker), &hash));
    assert_eq!(given(open), [true, true]);
    let to_stranger = |hash| store.may_have(Asker::Stranger, hash);
    assert!(to_stranger(&open) && !to_stranger(&restricted));
    // the key that the reader's name means is not known yet
    assert_eq!(given(restricted), [false, false]);
    let readers = [(ShareIndex(0), BTreeSet::from([alice]))];
    names.readers.store(Arc::new(readers.into()));
    assert_eq!(given(restricted), [true, false]);
    let readers = [(ShareIndex(0), BTreeSet::from([bob]))];
    names.readers.store(Arc::new(readers.into()));
    assert_eq!(given(restricted), [false, true]);
}

#[test]
fn a_file_announced_to_all_stays_open_until_its_readers_are_known() {
    let home = tempfile::tempdir().unwrap();
    let (names, store) = shared(home.path(), &[Some("alice")]);
    let hash = ContentHash::of(b"0");
    let mut catalogue = Catalogue::new(NodeId::new([1; 32]), NodeName::from_host("me"));
    let at = Timestamp {
        seconds: 1,
        nanoseconds: 0,
    };
    let entry = Entry {
        kind: Kind::File {
            hash,
            size_bytes: 1,
            executable: false,
        },
        mtime: at,
        version_time: at,
        sent_by: None,
        replaces: Vec::new(),
    };
    let path = SharedPath::new(b"it".to_vec()).unwrap();
    assert!(
        catalogue
            .own_mut()
            .put(ShareIndex(0), &path, entry)
            .unwrap()
    );
    names.view.store(catalogue.view());
    let [alice, bob] = [2, 3].map(|it| NodeId::new([it; 32]));
    let given = || [alice, bob].map(|asker| store.may_have(Asker::Member(&asker), &hash));
    assert_eq!(given(), [true, true]);
    let readers = [(ShareIndex(0), BTreeSet::from([alice]))];
    names.readers.store(Arc::new(readers.into()));
    assert_eq!(given(), [true, false]);
}

#[test]
fn file_that_grew_since_it_was_hashed_still_proves_its_former_content() {
    let home = tempfile::tempdir().unwrap();
    let bytes = vec![7; 300_000];
    let store = sharing(home.path(), &[("log", &bytes)]);
    let mut log = OpenOptions::new()
        .append(true)
        .open(home.path().join("share/log"))
        .unwrap();
    log.write_all(b"one more line").unwrap();
    let range = ByteRange::new(65_536, 131_072);
    assert_eq!(proves(&store, &bytes, range), Ok(true));
}

#[test]
fn bytes_changed_in_place_are_never_proven() {
    let home = tempfile::tempdir().unwrap();
    // the share keeps no copy of so large a file when it is replaced
    let bytes = vec![7; 3 << 20];
    let store = sharing(home.path(), &[("db", &bytes)]);
    let range = ByteRange::new(0, 65_536);
    assert_eq!(proves(&store, &bytes, range), Ok(true), "it is kept open");
    let db = File::options()
        .write(true)
        .open(home.path().join("share/db"));
    std::os::unix::fs::FileExt::write_all_at(&db.unwrap(), b"x", 1000).unwrap();
    assert!(proves(&store, &bytes, range).is_err());
    assert_eq!(store.prove_at_once(&key_of(&bytes), range), None);
}

#[test]
fn kept_file_of_a_replaced_folder_is_proven_and_the_new_file_is_found() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (vec![1; 200_000], vec![2; 200_000]);
    let store = sharing(home.path(), &[("it", &old)]);
    let range = ByteRange::new(0, 4096);
    assert_eq!(proves(&store, &old, range), Ok(true));
    let (share, aside) = (home.path().join("share"), home.path().join("aside"));
    fs::rename(&share, &aside).unwrap();
    fs::create_dir(&share).unwrap();
    fs::write(share.join("it"), &new).unwrap();
    store.shares().rescan();
    assert!(store.shares().wait_settled(LONG));
    assert_eq!(
        proves(&store, &old, range),
        Ok(true),
        "a peer is reading it"
    );
    assert_eq!(proves(&store, &new, range), Ok(true));
    let offered = store.provable(&key_of(&new).hash).unwrap();
    assert_eq!((offered.size_bytes, offered.is_whole), (200_000, true));
}

#[test]
fn an_offered_file_is_not_opened_again_for_the_request_that_follows() {
    let home = tempfile::tempdir().unwrap();
    let bytes = vec![3; 200_000];
    let store = sharing(home.path(), &[("it", &bytes)]);
    let share = home.path().join("share");
    assert!(store.provable(&key_of(&bytes).hash).unwrap().is_whole);
    assert_eq!(open_below(&share), 1);
    // a file under another name is found only by an open
    fs::rename(share.join("it"), home.path().join("away")).unwrap();
    assert_eq!(proves(&store, &bytes, ByteRange::new(0, 4096)), Ok(true));
}

#[test]
fn offers_of_many_contents_open_few_files_and_close_none_that_is_being_read() {
    let home = tempfile::tempdir().unwrap();
    let contents: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 10]).collect();
    let names: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let named = names.iter().zip(&contents);
    let files: Vec<_> = named.map(|(name, it)| (&name[..], &it[..])).collect();
    let store = sharing(home.path(), &files);
    let being_read = &contents[0];
    assert_eq!(proves(&store, being_read, ByteRange::new(0, 10)), Ok(true));
    for content in &contents {
        assert!(store.provable(&key_of(content).hash).unwrap().is_whole);
    }
    assert!(open_below(&home.path().join("share")) <= KEPT_MAX.get());
    let range = ByteRange::new(0, 10);
    assert!(store.prove_at_once(&key_of(being_read), range).is_some());
}

#[test]
fn an_ended_store_has_no_file_open() {
    let home = tempfile::tempdir().unwrap();
    let bytes = vec![3; 200_000];
    let store = sharing(home.path(), &[("it", &bytes)]);
    assert_eq!(proves(&store, &bytes, ByteRange::new(0, 4096)), Ok(true));
    drop(store);
    assert_eq!(open_below(home.path()), 0);
}
