//! Logs that are not what their heads say.

use super::pulls::{author_of, watcher};
use super::*;
use crate::catalogue::{CatalogueError, FRESH_PULLS_MAX, LogPart, Pull};
use crate::wire::native::record::Fact;

/// A part as honest as can be but for one record.
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
fn a_forged_log_is_never_seen_and_is_pulled_anew_a_few_times() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    let head = signed(&mut author);
    let mut pull = pull_of(watcher.handle_head(&head));
    for _ in 0..FRESH_PULLS_MAX {
        let outcome = watcher.apply(id(1), forged(&mut author, pull)).unwrap();
        let Applied::Mismatch { retry: Some(next) } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(names(&watcher.view()).is_empty());
        pull = next;
    }
    let outcome = watcher.apply(id(1), forged(&mut author, pull));
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
fn a_size_of_nothing_is_refused_of_all_but_the_empty_file() {
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
            let refused = watcher.apply(id(1), part) == Err(CatalogueError::BadFact);
            assert_eq!(refused, !is_sound, "{content:?}");
            assert!(names(&watcher.view()).is_empty());
        }
    }
}

#[test]
fn a_forged_suffix_takes_back_what_it_said() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    share(&mut author, &mut watcher);
    put(&mut author, "new", file("new", 1));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    watcher.apply(id(1), forged(&mut author, pull)).unwrap();
    assert!(!names(&watcher.view()).contains(&"forged".to_owned()));
    bring(&id(1), &author, &mut watcher, 2);
    assert_eq!(watcher.view().totals().entries, 6);
}
