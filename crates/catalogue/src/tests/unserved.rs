//! Versions whose holders do not serve them.

use std::time::{Duration, Instant};

use super::*;
use crate::{Rule, UNSERVED_MAX, UNSERVED_PER_AUTHOR};

const LONG: Duration = Duration::from_secs(600);
const LIAR: u8 = 1;
const HONEST: u8 = 2;

/// Creates a watcher of a liar that dates its versions ahead, and of an honest node. `count` names
/// have a version of both.
fn contested(count: usize) -> Catalogue {
    let (mut liar, mut honest) = (node(LIAR, "liar"), node(HONEST, "honest"));
    for number in 0..count {
        let name = format!("a{number}");
        put(&mut liar, &name, file(&false_content(number), 9));
        put(&mut honest, &name, file(&true_content(number), 1));
    }
    let mut watcher = node(0xff, "watcher");
    share(&mut liar, &mut watcher);
    share(&mut honest, &mut watcher);
    watcher
}

fn false_content(number: usize) -> String {
    format!("false {number}")
}

fn true_content(number: usize) -> String {
    format!("true {number}")
}

fn shows_true(watcher: &mut Catalogue, number: usize) -> bool {
    let content = shown(&watcher.view(), &format!("a{number}"));
    content == Some(hash(&true_content(number)))
}

fn rules(watcher: &mut Catalogue, name: &str) -> Vec<Rule> {
    let versions = watcher.view().versions(&path(name));
    versions.iter().map(|version| version.rule).collect()
}

#[test]
fn unserved_version_ranks_behind_one_that_can_be_had_and_why_says_so() {
    let (mut watcher, now) = (contested(1), Instant::now());
    assert!(!shows_true(&mut watcher, 0));
    while watcher.poll_change().is_some() {}
    let unserved = hash(&false_content(0));
    assert_eq!(watcher.unserved().mark(unserved, now + LONG), [id(LIAR)]);
    assert!(shows_true(&mut watcher, 0));
    assert!(watcher.view().contents().is_unserved(&unserved));
    assert_eq!(names(&watcher.view()), ["a0", "a0~liar"]);
    let of_name = crate::Change::Entry(path("a0"));
    assert!(std::iter::from_fn(|| watcher.poll_change()).any(|it| it == of_name));
    assert_eq!(
        rules(&mut watcher, "a0"),
        [Rule::OthersUnserved, Rule::Unserved]
    );
    watcher.unserved().clear(unserved);
    assert!(!shows_true(&mut watcher, 0), "it was served");
    assert_eq!(rules(&mut watcher, "a0"), [Rule::Newest, Rule::Older]);
}

#[test]
fn unserved_version_without_another_keeps_its_name_and_names_no_author() {
    let (mut watcher, now) = (contested(0), Instant::now());
    let mut author = node(3, "alone");
    put(&mut author, "a", file("one", 1));
    share(&mut author, &mut watcher);
    assert!(watcher.unserved().mark(hash("one"), now + LONG).is_empty());
    assert_eq!(shown(&watcher.view(), "a"), Some(hash("one")));
    assert_eq!(rules(&mut watcher, "a"), [Rule::Only]);
}

#[test]
fn two_unserved_versions_rank_by_the_usual_rules() {
    let (mut watcher, now) = (contested(1), Instant::now());
    let both = [false_content(0), true_content(0)].map(|content| hash(&content));
    assert_eq!(watcher.unserved().mark(both[0], now + LONG), [id(LIAR)]);
    assert!(watcher.unserved().mark(both[1], now + LONG).is_empty());
    assert!(!shows_true(&mut watcher, 0));
    assert_eq!(rules(&mut watcher, "a0"), [Rule::Newest, Rule::Older]);
}

#[test]
fn mark_ends_at_its_expiry_and_not_by_a_new_head_or_another_name() {
    let (mut watcher, now) = (contested(1), Instant::now());
    watcher.unserved().mark(hash(&false_content(0)), now + LONG);
    let mut liar = node(LIAR, "liar");
    liar.own_mut().begin(7);
    put(&mut liar, "b", file("another", 1));
    share(&mut liar, &mut watcher);
    assert!(shows_true(&mut watcher, 0), "the liar lists it no more");
    put(&mut liar, "a0", file(&false_content(0), 9));
    share(&mut liar, &mut watcher);
    assert!(shows_true(&mut watcher, 0), "a new head ended the mark");
    watcher.set_live(id(LIAR), false).unwrap();
    watcher.set_live(id(LIAR), true).unwrap();
    assert!(shows_true(&mut watcher, 0), "a return ended the mark");
    assert_eq!(watcher.next_unserved_expiry(), Some(now + LONG));
    watcher.unserved().expire(now + LONG / 2);
    assert!(shows_true(&mut watcher, 0));
    watcher.unserved().expire(now + LONG);
    assert!(!shows_true(&mut watcher, 0));
    assert_eq!(watcher.next_unserved_expiry(), None);
}

#[test]
fn content_that_this_node_has_or_no_live_node_claims_is_never_marked() {
    let (mut watcher, now) = (contested(2), Instant::now());
    let kept = hash(&false_content(0));
    watcher.own_mut().have(kept, 7).unwrap();
    assert!(watcher.unserved().mark(kept, now + LONG).is_empty());
    assert!(!watcher.view().contents().is_unserved(&kept));
    let unserved = hash(&false_content(1));
    watcher.unserved().mark(unserved, now + LONG);
    put(&mut watcher, "own", file(&false_content(1), 1));
    assert!(
        !watcher.view().contents().is_unserved(&unserved),
        "it is shared here"
    );
    assert!(!shows_true(&mut watcher, 1));
    watcher.set_live(id(LIAR), false).unwrap();
    watcher.set_live(id(HONEST), false).unwrap();
    let gone = hash(&true_content(0));
    assert!(watcher.unserved().mark(gone, now + LONG).is_empty());
    assert!(!watcher.view().contents().is_unserved(&gone));
}

#[test]
fn author_of_several_unserved_contents_ranks_behind_until_one_is_served() {
    let (mut watcher, now) = (contested(600), Instant::now());
    for number in 0..UNSERVED_PER_AUTHOR {
        assert!(!shows_true(&mut watcher, 599), "after {number}");
        let unserved = hash(&false_content(number));
        assert_eq!(watcher.unserved().mark(unserved, now + LONG), [id(LIAR)]);
    }
    while watcher.advance(7) {}
    for number in 0..600 {
        assert!(shows_true(&mut watcher, number), "{number}");
    }
    assert_eq!(
        rules(&mut watcher, "a500"),
        [Rule::OthersUnserved, Rule::Unserved]
    );
    watcher.unserved().clear(hash(&false_content(500)));
    while watcher.advance(7) {}
    for number in 0..600 {
        let is_marked = number < UNSERVED_PER_AUTHOR;
        assert_eq!(shows_true(&mut watcher, number), is_marked, "{number}");
    }
}

#[test]
fn author_ranks_by_the_usual_rules_after_its_marks_expired_or_it_was_forgotten() {
    for forgets in [false, true] {
        let (mut watcher, now) = (contested(9), Instant::now());
        for number in 0..UNSERVED_PER_AUTHOR {
            watcher
                .unserved()
                .mark(hash(&false_content(number)), now + LONG);
        }
        assert!(shows_true(&mut watcher, 8));
        if forgets {
            watcher.forget(&id(LIAR));
            while watcher.advance(100) {}
            let mut newcomer = node(3, "newcomer");
            put(&mut newcomer, "a8", file("new", 9));
            share(&mut newcomer, &mut watcher);
            let shown = shown(&watcher.view(), "a8");
            assert_eq!(shown, Some(hash("new")), "it has the number of the liar");
        } else {
            watcher.unserved().expire(now + LONG);
            assert!(!shows_true(&mut watcher, 8));
        }
    }
}

#[test]
fn beyond_the_limit_of_marks_the_first_to_expire_ends() {
    let (mut watcher, now) = (contested(0), Instant::now());
    let mut honest = node(HONEST, "honest");
    for number in 0..=UNSERVED_MAX {
        let mut liar = node(0, &format!("liar{number}"));
        // Each content has its own author, so that only the marks decide.
        liar = Catalogue::new(wide_id(number), liar.own().head().name);
        put(
            &mut liar,
            &format!("a{number}"),
            file(&false_content(number), 9),
        );
        put(
            &mut honest,
            &format!("a{number}"),
            file(&true_content(number), 1),
        );
        share(&mut liar, &mut watcher);
    }
    share(&mut honest, &mut watcher);
    for number in 0..=UNSERVED_MAX {
        let until = now + LONG + Duration::from_secs(number as u64);
        watcher.unserved().mark(hash(&false_content(number)), until);
    }
    assert!(!shows_true(&mut watcher, 0));
    for number in 1..=UNSERVED_MAX {
        assert!(shows_true(&mut watcher, number), "{number}");
    }
}

fn wide_id(number: usize) -> NodeId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId::new(bytes)
}

#[test]
fn same_content_of_another_node_is_marked_with_it() {
    let (mut watcher, now) = (contested(1), Instant::now());
    let mut fellow = node(3, "fellow");
    put(&mut fellow, "a0", file(&false_content(0), 8));
    share(&mut fellow, &mut watcher);
    let at_fault = watcher.unserved().mark(hash(&false_content(0)), now + LONG);
    assert_eq!(at_fault, [id(LIAR), id(3)]);
    assert!(shows_true(&mut watcher, 0));
}
