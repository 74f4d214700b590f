//! Tests of files that are renamed before they are read under their new names.

use super::*;
use crate::identity::{FileIdentity, FileTimestamp};
use crate::ledger::LedgerRow;
use crate::status::StatusView;

/// Creates a file `new` that was read under another name, before the rename changed its ctime.
fn renamed(rounds: &mut Rounds, bytes: &[u8]) -> ContentHash {
    let hash = ContentHash::of(bytes);
    fs::write(rounds.at("new"), bytes).unwrap();
    let now = FileIdentity::of(&rustix::fs::stat(rounds.at("new")).unwrap());
    let row = LedgerRow {
        identity: FileIdentity {
            ctime: FileTimestamp::default(),
            ..now
        },
        hash,
        first_seen: now.mtime,
        proof: HashProof::Times,
        mark: None,
    };
    rounds.shared.lock().listing.ledger.put(row);
    rounds.run();
    hash
}

#[test]
fn a_renamed_file_is_served_before_rehashing_to_its_readers_only() {
    let mut rounds = Rounds::new();
    let hash = renamed(&mut rounds, b"for some");
    let mut state = rounds.shared.lock();
    let slot = state.listing.tree.child(rounds.root, b"new").unwrap();
    assert!(
        !state
            .listing
            .tree
            .file(slot)
            .is_some_and(|file| file.listed)
    );
    assert_eq!(
        state.listing.moved.get(&hash).map(|(slot, _)| slot),
        Some(slot)
    );
    // No node may read it yet, because the file was not read under its new name.
    assert_eq!(StatusView::of(&state).shared_for(&hash), SharedFor::Nobody);
    let readers = Some(vec!["somebody".to_owned()]);
    state
        .listing
        .shares
        .by_index
        .get_mut(&0)
        .unwrap()
        .spec
        .readers = readers;
    let alone = SharedFor::ReadersOf([ShareIndex(0)].into());
    assert_eq!(StatusView::of(&state).shared_for(&hash), alone);
    let other = ContentHash::of(b"never shared");
    assert_eq!(StatusView::of(&state).shared_for(&other), SharedFor::Nobody);
    drop(state);
    rounds.run_and_hash();
    let state = rounds.shared.lock();
    assert!(
        state
            .listing
            .tree
            .file(slot)
            .is_some_and(|file| file.listed)
    );
    assert!(state.listing.moved.get(&hash).is_none());
}

#[test]
fn a_file_renamed_and_deleted_before_rehashing_frees_its_place() {
    let mut rounds = Rounds::new();
    let hash = renamed(&mut rounds, b"of no use");
    assert!(rounds.shared.lock().listing.moved.get(&hash).is_some());
    fs::remove_file(rounds.at("new")).unwrap();
    rounds.run();
    assert!(rounds.shared.lock().listing.moved.get(&hash).is_none());
}
