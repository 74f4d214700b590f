//! Logs that do not match their heads.

use super::pulls::{author_of, watcher};
use super::*;
use crate::{Budgets, CatalogueError, FRESH_PULLS_MAX, LogPart, Pull};
use p2pfs_proto::wire::native::record::Fact;

/// Returns a part that is correct except for one record.
fn forged(author: &mut Catalogue, pull: Pull) -> LogPart {
    signed(author);
    let mut part = part(author, pull, 4096);
    let last = part.records.last_mut().unwrap();
    last.fact = Fact::Entry {
        share: SHARE,
        path: path("forged"),
        entry: file("forged", 99),
    };
    part
}

#[test]
fn a_forged_log_is_never_shown_and_is_pulled_again_a_few_times() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    let head = signed(&mut author);
    let mut pull = pull_of(watcher.handle_head(&head));
    for _ in 0..FRESH_PULLS_MAX {
        let outcome = watcher
            .intake()
            .apply(id(1), forged(&mut author, pull))
            .unwrap();
        let Applied::Mismatch { retry: Some(next) } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(names(&watcher.view()).is_empty());
        pull = next;
    }
    let outcome = watcher.intake().apply(id(1), forged(&mut author, pull));
    assert_eq!(outcome, Ok(Applied::Mismatch { retry: None }));
    assert_eq!(
        watcher.handle_head(&head),
        HeadOutcome::Known,
        "not again for the same head"
    );
    put(&mut author, "newer", file("newer", 1));
    share(&mut author, &mut watcher);
    assert_eq!(watcher.view().totals().entries, 6);
}

#[test]
fn size_zero_is_refused_unless_the_hash_is_that_of_the_empty_file() {
    let empty = |hash| Kind::File {
        hash,
        size_bytes: 0,
        executable: false,
    };
    for (content, is_sound) in [("", true), ("not empty", false)] {
        let mut entry = file(content, 1);
        entry.kind = empty(hash(content));
        let have = Fact::Have {
            hash: hash(content),
            size_bytes: 0,
        };
        let named = Fact::Entry {
            share: SHARE,
            path: path("said"),
            entry,
        };
        for fact in [named, have] {
            let (mut author, mut watcher) = (author_of(5), watcher());
            let head = signed(&mut author);
            let pull = pull_of(watcher.handle_head(&head));
            let mut part = part(&author, pull, 4096);
            part.records.last_mut().unwrap().fact = fact;
            let refused = watcher.intake().apply(id(1), part) == Err(CatalogueError::BadFact);
            assert_eq!(refused, !is_sound, "{content:?}");
            assert!(names(&watcher.view()).is_empty());
        }
    }
}

#[test]
fn a_forged_suffix_is_rolled_back() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    share(&mut author, &mut watcher);
    put(&mut author, "new", file("new", 1));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    watcher
        .intake()
        .apply(id(1), forged(&mut author, pull))
        .unwrap();
    assert!(!names(&watcher.view()).contains(&"forged".to_owned()));
    bring(&id(1), &author, &mut watcher, 2);
    assert_eq!(watcher.view().totals().entries, 6);
}

/// Returns the whole log.
fn whole(author: &mut Catalogue) -> LogPart {
    let head = signed(author).head;
    let pull = Pull {
        author: head.author,
        epoch: head.epoch,
        after: 0,
    };
    part(author, pull, 4096)
}

#[test]
fn a_sender_of_a_wrong_log_removes_no_verified_entry_and_is_named() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    share(&mut author, &mut watcher);
    let before = (whole(&mut author), listing(&watcher.view()));
    put(&mut author, "new", file("new", 1));
    let mut pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let mut tries = 0;
    loop {
        let outcome = watcher
            .intake()
            .apply(id(1), forged(&mut author, pull))
            .unwrap();
        assert_eq!(listing(&watcher.view()), before.1);
        tries += 1;
        match outcome {
            Applied::Mismatch { retry: Some(next) } => pull = next,
            Applied::Mismatch { retry: None } => break,
            other => panic!("{other:?}"),
        }
        // Another node sends what it has, which is here already.
        let known = watcher.intake().apply(id(1), before.0.clone());
        assert_eq!(known, Err(CatalogueError::Stale));
        assert_eq!(listing(&watcher.view()), before.1);
    }
    assert_eq!(tries, FRESH_PULLS_MAX + 1);
    put(&mut author, "newer", file("newer", 1));
    share(&mut author, &mut watcher);
    assert_eq!(watcher.view().totals().entries, 7);
}

#[test]
fn a_sender_of_a_wrong_log_gains_no_tries_from_older_logs_in_between() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    let older = whole(&mut author);
    put(&mut author, "new", file("new", 1));
    let mut pull = pull_of(watcher.handle_head(&signed(&mut author)));
    for _ in 0..10 {
        match watcher
            .intake()
            .apply(id(1), forged(&mut author, pull))
            .unwrap()
        {
            Applied::Mismatch { retry: Some(next) } => pull = next,
            Applied::Mismatch { retry: None } => {
                assert_eq!(watcher.view().totals().entries, 5);
                return;
            }
            other => panic!("{other:?}"),
        }
        match watcher.intake().apply(id(1), older.clone()) {
            Ok(Applied::More(next)) => pull = next,
            Err(CatalogueError::Stale) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(watcher.view().totals().entries, 5);
    }
    panic!("it is tried without end");
}

#[test]
fn an_author_is_not_charged_for_statements_it_never_made() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    let mut budgets = Budgets::default();
    budgets.author.directories = 3;
    watcher.set_budgets(budgets);
    watcher.set_clock(1_000);
    share(&mut author, &mut watcher);
    put(&mut author, "new", file("new", 1));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let mut part = part(&author, pull, 4096);
    part.records.last_mut().unwrap().fact = Fact::Entry {
        share: SHARE,
        path: path("a/b/c/d/e/f"),
        entry: file("forged", 1_000_000),
    };
    let outcome = watcher.intake().apply(id(1), part).unwrap();
    assert!(matches!(outcome, Applied::Mismatch { retry: Some(_) }));
    assert_eq!(watcher.poll_dropped(), None);
    assert_eq!(watcher.poll_dated_ahead(), None);
    bring(&id(1), &author, &mut watcher, 2);
    assert_eq!(watcher.view().totals().entries, 6);
}

#[test]
fn the_last_of_duplicate_statements_in_a_log_counts() {
    let (mut author, mut watcher) = (author_of(2), watcher());
    let mut said = whole(&mut author);
    let mut earlier = said.records[1].clone();
    earlier.fact = Fact::Entry {
        share: SHARE,
        path: path("f1"),
        entry: file("earlier", 1),
    };
    said.records[1].sequence += 1;
    said.head.head.sequence += 1;
    said.records.insert(1, earlier);
    watcher.handle_head(&said.head);
    assert_eq!(watcher.intake().apply(id(1), said), Ok(Applied::Complete));
    assert_eq!(shown(&watcher.view(), "f1"), Some(hash("1")));
}
