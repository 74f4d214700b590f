//! Versions whose holders do not serve them.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    Portion, Rule, UNSERVED_MAX, UNSERVED_PER_AUTHOR, WITHHELD_NAMES_MAX,
    WITHHELD_NAMES_PER_AUTHOR, WithheldVersion, Withholding,
};

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

#[test]
fn unserved_version_ranks_behind_one_that_can_be_had_and_why_says_so() {
    let (mut watcher, now) = (contested(1), Instant::now());
    assert!(!shows_true(&mut watcher, 0));
    while watcher.poll_change().is_some() {}
    let unserved = key(&false_content(0));
    assert_eq!(watcher.unserved().mark(unserved, now + LONG), [id(LIAR)]);
    assert!(shows_true(&mut watcher, 0));
    assert!(watcher.view().contents().is_unserved(&unserved));
    assert_eq!(names(&watcher.view()), ["a0", "a0~liar"]);
    let of_name = crate::Change::Entry(path("a0"));
    assert!(std::iter::from_fn(|| watcher.poll_change()).any(|it| it == of_name));
    assert_eq!(rules(&mut watcher, "a0"), [Rule::Served; 2]);
    let mut marks = watcher.unserved();
    marks.clear(&unserved, &[id(LIAR)], Portion::Part);
    assert!(!shows_true(&mut watcher, 0), "it was served");
    assert_eq!(rules(&mut watcher, "a0"), [Rule::Newest; 2]);
}

#[test]
fn unserved_version_without_another_keeps_its_name_and_names_no_author() {
    let (mut watcher, now) = (contested(0), Instant::now());
    let mut author = node(3, "alone");
    put(&mut author, "a", file("one", 1));
    share(&mut author, &mut watcher);
    assert!(watcher.unserved().mark(key("one"), now + LONG).is_empty());
    assert_eq!(shown(&watcher.view(), "a"), Some(hash("one")));
    assert_eq!(rules(&mut watcher, "a"), [Rule::Only]);
}

#[test]
fn two_unserved_versions_rank_by_the_usual_rules() {
    let (mut watcher, now) = (contested(1), Instant::now());
    let both = [false_content(0), true_content(0)].map(|content| key(&content));
    assert_eq!(watcher.unserved().mark(both[0], now + LONG), [id(LIAR)]);
    assert!(watcher.unserved().mark(both[1], now + LONG).is_empty());
    assert!(!shows_true(&mut watcher, 0));
    assert_eq!(rules(&mut watcher, "a0"), [Rule::Newest; 2]);
}

#[test]
fn mark_ends_at_its_expiry_and_not_by_a_new_head_or_another_name() {
    let (mut watcher, now) = (contested(1), Instant::now());
    watcher.unserved().mark(key(&false_content(0)), now + LONG);
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
    let kept = key(&false_content(0));
    watcher.own_mut().have(kept.hash, kept.size_bytes).unwrap();
    assert!(watcher.unserved().mark(kept, now + LONG).is_empty());
    assert!(!watcher.view().contents().is_unserved(&kept));
    let unserved = key(&false_content(1));
    watcher.unserved().mark(unserved, now + LONG);
    put(&mut watcher, "own", file(&false_content(1), 1));
    assert!(
        !watcher.view().contents().is_unserved(&unserved),
        "it is shared here"
    );
    assert!(!shows_true(&mut watcher, 1));
    watcher.set_live(id(LIAR), false).unwrap();
    watcher.set_live(id(HONEST), false).unwrap();
    let gone = key(&true_content(0));
    assert!(watcher.unserved().mark(gone, now + LONG).is_empty());
    assert!(!watcher.view().contents().is_unserved(&gone));
}

#[test]
fn author_of_several_unserved_contents_ranks_behind_until_one_is_served() {
    let (mut watcher, now) = (contested(600), Instant::now());
    for number in 0..UNSERVED_PER_AUTHOR {
        assert!(!shows_true(&mut watcher, 599), "after {number}");
        let unserved = key(&false_content(number));
        assert_eq!(watcher.unserved().mark(unserved, now + LONG), [id(LIAR)]);
    }
    while watcher.advance(7) {}
    for number in 0..600 {
        assert!(shows_true(&mut watcher, number), "{number}");
    }
    assert_eq!(rules(&mut watcher, "a500"), [Rule::Served; 2]);
    let served = key(&false_content(500));
    let mut marks = watcher.unserved();
    marks.clear(&served, &[id(HONEST)], Portion::Whole);
    assert!(shows_true(&mut watcher, 500), "another node gave it");
    let mut marks = watcher.unserved();
    marks.clear(&served, &[id(LIAR)], Portion::Part);
    assert!(shows_true(&mut watcher, 500), "it gave only a part");
    let mut marks = watcher.unserved();
    marks.clear(&served, &[id(LIAR)], Portion::Whole);
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
                .mark(key(&false_content(number)), now + LONG);
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
        watcher.unserved().mark(key(&false_content(number)), until);
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
    let at_fault = watcher.unserved().mark(key(&false_content(0)), now + LONG);
    assert_eq!(at_fault, [id(LIAR), id(3)]);
    assert!(shows_true(&mut watcher, 0));
}

#[test]
fn author_with_many_marks_ends_no_mark_of_another_author() {
    let (mut watcher, now) = (contested(UNSERVED_MAX), Instant::now());
    let mut other = node(3, "other");
    put(&mut other, "b", file("other false", 9));
    share(&mut other, &mut watcher);
    let mut honest = node(4, "fourth");
    put(&mut honest, "b", file("other true", 1));
    share(&mut honest, &mut watcher);
    watcher.unserved().mark(key("other false"), now + LONG);
    for number in 0..UNSERVED_MAX {
        let until = now + LONG + Duration::from_secs(number as u64);
        watcher.unserved().mark(key(&false_content(number)), until);
    }
    while watcher.advance(100) {}
    assert_eq!(shown(&watcher.view(), "b"), Some(hash("other true")));
}

/// A watcher of names of which one author replaces its newer versions all the time.
struct Replaced {
    watcher: Catalogue,
    begun: Instant,
    versions: usize,
}

impl Replaced {
    fn begin() -> Self {
        Self {
            watcher: contested(1),
            begun: Instant::now(),
            versions: 0,
        }
    }

    /// Lets the liar list another version of the first name, and returns its content.
    fn replace(&mut self) -> ContentHash {
        self.versions += 1;
        let content = format!("false again {}", self.versions);
        let mut liar = node(LIAR, "liar");
        liar.own_mut().begin(self.versions as u64 + 1);
        put(&mut liar, "a0", file(&content, 9 + self.versions as i64));
        share(&mut liar, &mut self.watcher);
        hash(&content)
    }

    /// Lets a read of the version of an author fail some seconds after the beginning. The author
    /// has replaced the version already. Returns the authors at fault.
    fn fail(&mut self, author: u8, how: Withholding, seconds: u64) -> Vec<NodeId> {
        let hash = self.replace();
        self.replace();
        self.withhold(author, hash, how, seconds)
    }

    fn withhold(
        &mut self,
        author: u8,
        hash: ContentHash,
        how: Withholding,
        seconds: u64,
    ) -> Vec<NodeId> {
        let version = WithheldVersion {
            path: path("a0"),
            hash,
            authors: vec![id(author)],
            how,
        };
        let now = self.begun + Duration::from_secs(seconds);
        self.watcher.unserved().withhold(&version, now, now + LONG)
    }

    /// Lets a node give bytes of a version of the name.
    fn give(&mut self, giver: u8, given: Portion) {
        let mut unserved = self.watcher.unserved();
        unserved.clear_name(&path("a0"), &[id(giver)], given);
    }

    fn is_behind(&mut self) -> bool {
        shows_true(&mut self.watcher, 0)
    }
}

#[test]
fn author_that_was_silent_for_several_replaced_versions_loses_the_name_and_is_at_fault() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 20] {
        assert!(replaced.fail(LIAR, Withholding::Silent, seconds).is_empty());
        assert!(!replaced.is_behind());
    }
    assert_eq!(replaced.fail(LIAR, Withholding::Silent, 30), [id(LIAR)]);
    assert!(replaced.is_behind());
    replaced.replace();
    assert!(replaced.is_behind(), "a new version took the name back");
    assert_eq!(rules(&mut replaced.watcher, "a0"), [Rule::Served; 2]);
    let end = replaced.begun + Duration::from_secs(30) + LONG;
    assert_eq!(replaced.watcher.next_unserved_expiry(), Some(end));
    replaced.watcher.unserved().expire(end);
    assert!(!replaced.is_behind());
    assert_eq!(replaced.watcher.next_unserved_expiry(), None);
}

#[test]
fn several_failed_reads_at_one_time_or_of_one_version_prove_nothing() {
    let mut replaced = Replaced::begin();
    for _ in 0..5 {
        assert!(replaced.fail(LIAR, Withholding::Silent, 10).is_empty());
    }
    assert!(!replaced.is_behind());
    let mut replaced = Replaced::begin();
    let one = replaced.replace();
    for seconds in [10, 20, 30, 40] {
        let at_fault = replaced.withhold(LIAR, one, Withholding::Silent, seconds);
        assert!(at_fault.is_empty());
    }
    assert!(!replaced.is_behind());
}

#[test]
fn whole_version_of_its_author_ends_the_count_and_a_part_or_another_node_does_not() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 20] {
        replaced.fail(LIAR, Withholding::Silent, seconds);
    }
    assert!(replaced.watcher.view().is_suspect(&path("a0")));
    replaced.give(LIAR, Portion::Whole);
    assert!(!replaced.watcher.view().is_suspect(&path("a0")));
    for seconds in [30, 40] {
        assert!(replaced.fail(LIAR, Withholding::Silent, seconds).is_empty());
    }
    replaced.give(HONEST, Portion::Whole);
    replaced.give(LIAR, Portion::Part);
    assert_eq!(replaced.fail(LIAR, Withholding::Silent, 50), [id(LIAR)]);
    assert!(replaced.is_behind());
    replaced.give(HONEST, Portion::Whole);
    replaced.give(LIAR, Portion::Part);
    assert!(replaced.is_behind());
    replaced.give(LIAR, Portion::Whole);
    assert!(!replaced.is_behind());
}

#[test]
fn first_bytes_of_a_version_of_its_author_end_what_is_due_to_refusals() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 40] {
        replaced.fail(LIAR, Withholding::Refused, seconds);
    }
    replaced.give(LIAR, Portion::Part);
    assert!(!replaced.watcher.view().is_suspect(&path("a0")));
    for seconds in [70, 100] {
        replaced.fail(LIAR, Withholding::Refused, seconds);
    }
    assert!(!replaced.is_behind());
    replaced.fail(LIAR, Withholding::Refused, 130);
    assert!(replaced.is_behind());
    replaced.give(LIAR, Portion::Part);
    assert!(!replaced.is_behind());
    assert_eq!(replaced.watcher.next_unserved_expiry(), None);
}

/// A node whose file changes too fast to be read whole, and that is rarely silent.
#[test]
fn refusals_do_not_keep_the_count_of_silent_versions() {
    let mut replaced = Replaced::begin();
    let mut seconds = 0;
    for _ in 0..5 {
        assert!(replaced.fail(LIAR, Withholding::Silent, seconds).is_empty());
        for _ in 0..7 {
            seconds += 100;
            replaced.fail(LIAR, Withholding::Refused, seconds);
            replaced.give(LIAR, Portion::Part);
            assert!(!replaced.is_behind());
        }
    }
}

#[test]
fn refused_versions_rank_behind_after_a_longer_time_and_name_no_author() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 30, 50] {
        assert!(
            replaced
                .fail(LIAR, Withholding::Refused, seconds)
                .is_empty()
        );
        assert!(!replaced.is_behind());
    }
    assert!(replaced.fail(LIAR, Withholding::Silent, 75).is_empty());
    assert!(replaced.is_behind());
}

#[test]
fn many_quick_refusals_count_from_the_first_one() {
    let mut replaced = Replaced::begin();
    for seconds in 0..60 {
        replaced.fail(LIAR, Withholding::Refused, seconds);
        assert!(!replaced.is_behind(), "{seconds}");
    }
    replaced.fail(LIAR, Withholding::Refused, 60);
    assert!(replaced.is_behind());
}

#[test]
fn node_that_is_down_is_not_counted() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 20, 30] {
        let hash = replaced.replace();
        replaced.watcher.set_live(id(LIAR), false).unwrap();
        assert!(
            replaced
                .withhold(LIAR, hash, Withholding::Silent, seconds)
                .is_empty()
        );
    }
    replaced.watcher.set_live(id(LIAR), true).unwrap();
    assert!(!replaced.is_behind());
}

#[test]
fn names_without_versions_are_bounded_and_displace_no_name_of_another_author() {
    let mut replaced = Replaced::begin();
    for seconds in [10, 20, 30] {
        replaced.fail(LIAR, Withholding::Silent, seconds);
    }
    assert!(replaced.is_behind());
    let now = replaced.begun + Duration::from_secs(30);
    let authors = WITHHELD_NAMES_MAX / WITHHELD_NAMES_PER_AUTHOR + 2;
    for author in 10..10 + authors as u8 {
        let mut many = node(author, "many");
        put(&mut many, "of", file("many", 1));
        share(&mut many, &mut replaced.watcher);
        for name in 0..WITHHELD_NAMES_PER_AUTHOR * 2 {
            let version = WithheldVersion {
                path: path(&format!("many{name}")),
                hash: hash("many"),
                authors: vec![id(author)],
                how: Withholding::Silent,
            };
            let mut unserved = replaced.watcher.unserved();
            unserved.withhold(&version, now, now + LONG);
        }
    }
    assert!(replaced.is_behind());
    let counted = replaced.watcher.unserved().marks.withheld_names();
    assert_eq!(counted, WITHHELD_NAMES_MAX);
}

#[test]
fn wrong_size_of_a_content_takes_no_name_from_the_right_one_and_blames_no_other_author() {
    let (mut watcher, now) = (contested(0), Instant::now());
    let (mut liar, mut honest) = (node(LIAR, "liar"), node(HONEST, "honest"));
    for number in 0..UNSERVED_PER_AUTHOR {
        let (name, content) = (format!("a{number}"), true_content(number));
        put(&mut honest, &name, file(&content, 1));
        let mut entry = file(&content, 9);
        if let Kind::File { size_bytes, .. } = &mut entry.kind {
            *size_bytes += 1;
        }
        put(&mut liar, &name, entry);
    }
    share(&mut honest, &mut watcher);
    share(&mut liar, &mut watcher);
    for number in 0..UNSERVED_PER_AUTHOR {
        let right = key(&true_content(number));
        let wrong = ContentKey::new(right.hash, right.size_bytes + 1);
        assert_eq!(watcher.unserved().mark(wrong, now + LONG), [id(LIAR)]);
        let found = watcher.view().lookup(&path(&format!("a{number}"))).unwrap();
        assert_eq!(found.author, id(HONEST));
    }
}

#[test]
fn versions_of_a_shunned_node_rank_behind_until_it_is_asked_again() {
    let (mut watcher, now) = (contested(9), Instant::now());
    watcher.unserved().shun(id(LIAR), now + LONG);
    assert!((0..9).all(|number| shows_true(&mut watcher, number)));
    watcher
        .unserved()
        .mark(key(&false_content(0)), now + LONG / 2);
    watcher.unserved().expire(now + LONG / 2);
    assert!(shows_true(&mut watcher, 0), "the end of a mark pardoned it");
    assert_eq!(watcher.next_unserved_expiry(), Some(now + LONG));
    watcher.unserved().expire(now + LONG);
    assert!((0..9).all(|number| !shows_true(&mut watcher, number)));
    watcher.unserved().shun(id(LIAR), now + LONG);
    let mut marks = watcher.unserved();
    marks.clear(&key("any"), &[id(LIAR)], Portion::Whole);
    assert!(shows_true(&mut watcher, 0), "bytes from before pardoned it");
}

/// Marks are restored at a start, before the logs of others are known again.
#[test]
fn shunned_node_ranks_behind_although_its_log_arrives_later() {
    let (now, mut watcher) = (Instant::now(), node(0xff, "watcher"));
    watcher.unserved().shun(id(LIAR), now + LONG);
    let (mut liar, mut honest) = (node(LIAR, "liar"), node(HONEST, "honest"));
    put(&mut liar, "a0", file(&false_content(0), 9));
    put(&mut honest, "a0", file(&true_content(0), 1));
    share(&mut liar, &mut watcher);
    share(&mut honest, &mut watcher);
    assert!(shows_true(&mut watcher, 0));
    watcher.forget(&id(LIAR));
    while watcher.advance(100) {}
    share(&mut liar, &mut watcher);
    assert!(shows_true(&mut watcher, 0), "its return pardoned it");
    watcher.unserved().expire(now + LONG);
    assert!(!shows_true(&mut watcher, 0));
}
