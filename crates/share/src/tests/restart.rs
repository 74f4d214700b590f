//! Tests of the state that survives a restart.

use super::*;
use p2pfs_proto::wire::native::record::SHARES_MAX;

/// Writes a file with an old date, so that its hash is not racy.
fn old_file(bench: &ShareBench, name: &str, bytes: &[u8]) {
    bench.write(name, bytes);
    date(&bench.at(name), 1_000_000);
}

#[test]
fn an_unchanged_share_is_recognized_without_an_event() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    old_file(&bench, "d/f", b"f");
    let index = bench.start();
    let before = bench.listing.clone();
    bench.prove();
    bench.stop();
    assert_eq!(bench.start(), index);
    assert_eq!(bench.history, [ShareEvent::Scanned { share: index }]);
    assert_eq!(bench.listing, before);
    assert!(bench.set().source(&ContentHash::of(b"f")).is_ok());
}

#[test]
fn a_known_file_is_not_read_again() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"real");
    bench.start();
    let stat = rustix::fs::stat(bench.at("f")).unwrap();
    bench.prove();
    bench.stop();
    let ledger = bench.ledger();
    let row = ledger.get(stat.st_dev, stat.st_ino).unwrap();
    assert_ne!(row.proof, HashProof::Missing);
    drop(ledger);
    bench.start();
    assert!(bench.has("f", b"real"));
    assert_eq!(bench.set().read_bytes(), 0);
}

#[test]
fn a_file_with_a_reused_inode_number_keeps_its_own_hash() {
    let mut bench = ShareBench::bare();
    for (name, bytes) in [("a", b"aaaa"), ("b", b"bbbb")] {
        old_file(&bench, name, bytes);
    }
    bench.start();
    let stat = rustix::fs::stat(bench.at("b")).unwrap();
    bench.prove();
    bench.stop();
    // as after a new mount of a disk that invents inode numbers, where a file of the same size and
    // date had this number
    let ledger = bench.ledger();
    let mut row = ledger.get(stat.st_dev, stat.st_ino).unwrap();
    row.hash = ContentHash::of(b"aaaa");
    ledger.put(row);
    drop(ledger);
    bench.start();
    assert!(bench.has("a", b"aaaa") && bench.has("b", b"bbbb"));
    assert_eq!(
        bench.history,
        [ShareEvent::Scanned {
            share: ShareIndex(0)
        }]
    );
    assert!(bench.set().source(&ContentHash::of(b"bbbb")).is_ok());
}

#[test]
fn a_racy_hash_is_not_trusted_after_a_restart() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    bench.write("f", b"real");
    bench.wait_for("listed", |b| b.has("f", b"real"));
    let stat = rustix::fs::stat(bench.at("f")).unwrap();
    bench.stop();
    let ledger = bench.ledger();
    let mut row = ledger.get(stat.st_dev, stat.st_ino).unwrap();
    assert_eq!(row.proof, HashProof::Missing);
    row.hash = ContentHash::of(b"false memory");
    ledger.put(row);
    drop(ledger);
    bench.start();
    assert!(bench.has("f", b"real"));
}

#[test]
fn a_racy_hash_is_computed_again_when_the_file_is_at_rest() {
    let mut bench = ShareBench::new();
    bench.write("f", b"f");
    bench.wait_for("listed", |b| b.has("f", b"f"));
    let stat = rustix::fs::stat(bench.at("f")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let racy = |bench: &ShareBench| {
        let state = bench.set().inner.shared.lock();
        state
            .listing
            .ledger
            .get(stat.st_dev, stat.st_ino)
            .unwrap()
            .proof
            == HashProof::Missing
    };
    while racy(&bench) {
        assert!(Instant::now() < deadline, "never verified");
        std::thread::yield_now();
    }
}

#[test]
fn changes_made_while_stopped_are_reported_at_the_start() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.mkdir("emptied");
    for name in ["d/gone", "changed", "same", "emptied/f"] {
        old_file(&bench, name, b"old");
    }
    bench.start();
    bench.stop();
    fs::remove_dir_all(bench.at("d")).unwrap();
    fs::remove_file(bench.at("emptied/f")).unwrap();
    bench.write("changed", b"new");
    bench.write("fresh", b"fresh");
    bench.start();
    assert_eq!(bench.names(), ["changed", "emptied", "fresh", "same"]);
    assert!(bench.has("changed", b"new") && bench.has("same", b"old"));
    let about = |name: &str| {
        let wanted = path(name);
        let named = |event: &&ShareEvent| match event {
            ShareEvent::Put { path, .. } | ShareEvent::Removed { path, .. } => *path == wanted,
            _ => false,
        };
        bench.history.iter().filter(named).count()
    };
    assert_eq!(
        ["d", "d/gone", "changed", "fresh", "same"].map(about),
        [1, 1, 1, 1, 0]
    );
}

#[test]
fn a_version_time_survives_a_restart_even_without_the_log() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"f");
    date(&bench.at("f"), 4_000_000_000);
    bench.start();
    let before = bench.entry("f").unwrap().clone();
    bench.stop();
    bench.config.known.clear();
    bench.listing.clear();
    bench.start();
    assert_eq!(bench.entry("f"), Some(&before));
}

#[test]
fn without_the_remembered_hashes_a_known_file_keeps_its_entry() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"f");
    date(&bench.at("f"), 4_000_000_000);
    bench.start();
    let before = bench.entry("f").unwrap().clone();
    bench.stop();
    bench.ledger().retain([]);
    bench.start();
    assert_eq!(bench.entry("f"), Some(&before));
    let puts = bench
        .history
        .iter()
        .filter(|e| matches!(e, ShareEvent::Put { .. }))
        .count();
    assert_eq!(puts, 0);
}

#[test]
fn a_share_no_longer_offered_is_forgotten_once_that_is_certain() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"f");
    bench.start();
    bench.stop();
    bench.open();
    bench.settle();
    assert_eq!(bench.names(), ["f"]);
    bench.set().forget_absent(&[]);
    bench.settle();
    assert!(bench.names().is_empty());
}

#[test]
fn entries_of_a_lost_ledger_are_removed_and_their_numbers_not_given_to_other_shares() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"f");
    let lost = bench.start();
    bench.stop();
    fs::remove_file(bench.config.state_dir.join(LEDGER_FILE)).unwrap();
    let other = bench.home.path().join("other");
    fs::create_dir(&other).unwrap();
    bench.open();
    assert_ne!(bench.set().add(ShareSpec::new(other)).unwrap(), lost);
    bench.settle();
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn the_number_of_a_removed_share_is_free_once_its_removal_is_stored() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"f");
    let other = bench.home.path().join("other");
    fs::create_dir(&other).unwrap();
    bench.open();
    // all numbers but the first belong to listed shares
    let in_use = (1..SHARES_MAX as u16).map(|index| (index, Vec::new()));
    bench.set().inner.shared.lock().absent.known.extend(in_use);
    let freed = bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.settle();
    assert_eq!(bench.names(), ["f"]);
    bench.set().remove(&bench.dir()).unwrap();
    let vacated = |bench: &ShareBench| {
        bench.history.iter().find_map(|event| match event {
            ShareEvent::Vacated { share, removal } => Some((*share, *removal)),
            _ => None,
        })
    };
    bench.wait_for("the share is vacated", |bench| vacated(bench).is_some());
    assert!(bench.names().is_empty(), "the entries are removed before");
    let (share, removal) = vacated(&bench).unwrap();
    assert_eq!(share, freed);
    let add = |bench: &ShareBench| bench.set().add(ShareSpec::new(&other));
    let numbers = bench.set().former_numbers();
    numbers.release(share, removal - 1);
    assert!(matches!(add(&bench), Err(ShareError::TooMany { .. })));
    numbers.release(share, removal);
    assert_eq!(add(&bench).unwrap(), freed);
}

/// Creates a share of that name beside the bench's own, and returns a link to it.
fn linked_share(bench: &ShareBench, name: &str) -> PathBuf {
    let (dir, link) = (bench.home.path().join(name), bench.home.path().join("link"));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    link
}

#[test]
fn a_share_on_an_awaited_disk_stays_listed_even_behind_a_link() {
    let mut bench = ShareBench::bare();
    let link = linked_share(&bench, "linked");
    bench.open();
    let index = bench.set().add(ShareSpec::new(&link)).unwrap();
    fs::write(link.join("f"), b"f").unwrap();
    bench.settle();
    assert_eq!(
        (bench.names(), index),
        (vec!["f".to_owned()], ShareIndex(0))
    );
    bench.stop();
    bench.open();
    let missing = |is_awaited| MissingShare {
        dir: link.clone(),
        is_awaited,
    };
    bench.set().forget_absent(&[missing(true)]);
    bench.settle();
    assert_eq!(bench.names(), ["f"]);
    bench.set().forget_absent(&[missing(false)]);
    bench.settle();
    assert!(bench.names().is_empty());
}

#[test]
fn a_missing_share_that_appears_is_not_hashed_again() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"f");
    bench.start();
    bench.prove();
    bench.stop();
    bench.open();
    let missing = MissingShare {
        dir: bench.dir(),
        is_awaited: false,
    };
    bench.set().forget_absent(&[missing]);
    bench.settle();
    assert!(bench.names().is_empty());
    let keeps_hashes =
        |bench: &ShareBench| bench.set().inner.shared.lock().absent.misses_configured;
    assert!(keeps_hashes(&bench));
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.set().forget_absent(&[]);
    bench.settle();
    assert!(bench.has("f", b"f") && !keeps_hashes(&bench));
    assert_eq!(bench.set().read_bytes(), 0);
}

#[test]
fn a_share_of_an_earlier_run_can_be_removed_by_its_name() {
    let mut bench = ShareBench::bare();
    old_file(&bench, "f", b"f");
    bench.start();
    bench.stop();
    bench.open();
    bench.set().remove(&bench.dir()).unwrap();
    bench.settle();
    assert!(bench.names().is_empty());
}

#[test]
fn the_state_directory_is_private_and_for_one_set_only() {
    let mut bench = ShareBench::bare();
    bench.open();
    let mode = fs::metadata(&bench.config.state_dir)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let second = ShareSet::open(bench.config.clone());
    assert!(matches!(second, Err(ShareError::Locked { .. })));
}
