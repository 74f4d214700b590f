//! What is found out though the kernel did not say it by its name, or it could not be looked at.

use super::*;
use crate::path::HIDDEN_ROOT;
use crate::share::identity::{Identity, Seen};
use crate::share::ledger::Row;
use crate::share::observe::Found;
use crate::share::watch::Cause;

#[test]
fn a_name_that_is_left_out_for_what_it_is_called_is_left_out_no_more_once_it_is_gone() {
    let mut rounds = Rounds::new();
    let hidden = rounds.at(std::str::from_utf8(HIDDEN_ROOT).unwrap());
    let left_out = |rounds: &Rounds| rounds.shared.lock().shares[&0].left_out.len();
    fs::create_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 1);
    fs::remove_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 0);
}

#[test]
fn where_numbers_are_made_up_a_hash_is_only_known_by_the_name_that_it_was_listed_as() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("old"), b"1111").unwrap();
    date(&rounds.at("old"), 1_700_000_000);
    rounds.run_and_hash();
    let stat = rustix::fs::stat(rounds.at("old")).unwrap();
    let mut state = rounds.shared.lock();
    // what is listed was so when its file had another number
    let row = state.ledger.get(stat.st_dev, stat.st_ino).unwrap();
    let ino = stat.st_ino + 1;
    let identity = Identity {
        ino,
        ..row.identity
    };
    state.ledger.put(Row { identity, ..row });
    let mut is_known_by = |name: &[u8], made_up| {
        let found = Found::File(Seen {
            identity,
            made_up,
            ..Seen::of(&stat)
        });
        state.observe(rounds.root, name, found, Cause::Walk, Instant::now());
        let slot = state.tree.child(rounds.root, name).unwrap();
        let is_read = state.queue.stage(slot).is_none();
        state.remove_tree(slot);
        is_read
    };
    assert!(is_known_by(b"linked", false));
    assert!(!is_known_by(b"new", true));
    assert!(is_known_by(b"old", true));
}
