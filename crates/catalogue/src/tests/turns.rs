//! Long logs are applied in turns, and no view shows a partly applied log.

use super::*;
use crate::intake::TURN_STEPS;
use crate::settle::LOOKS_PER_STEP;
use crate::staged::{STAGED_MAX_PARTS, StagedParts};
use crate::{Budgets, LogWrite, SWEEP_STEP_RECORDS};
use p2pfs_proto::wire::native::record::PATH_MAX_DEPTH;

const FILES: usize = 100;

/// Creates a node with enough directories for many turns, and returns its whole log as a part.
fn deep() -> (Catalogue, LogPart) {
    let mut author = node(1, "one");
    for number in 0..FILES {
        let deep = format!("{number}{}/f", "/d".repeat(PATH_MAX_DEPTH - 2));
        put(&mut author, &deep, file("x", 1));
    }
    let head = signed(&mut author);
    let pull = Pull {
        author: id(1),
        epoch: head.head.epoch,
        after: 0,
    };
    let part = part(&author, pull, FILES);
    assert!(part.last);
    (author, part)
}

fn watcher() -> Catalogue {
    let mut watcher = node(2, "two");
    watcher.set_live(id(1), true).unwrap();
    watcher
}

fn directories(of: &Catalogue) -> u64 {
    of.logs().cost_of(&id(1)).directories
}

/// Takes turns until there is an outcome. Returns the number of turns with it.
fn take_turns(watcher: &mut Catalogue) -> (usize, NodeId, Applied) {
    for turns in 0.. {
        if let Some((author, applied)) = watcher.intake().poll_applied() {
            return (turns, author, applied);
        }
        let before = directories(watcher);
        assert!(watcher.intake().take_turn(), "there is more to take in");
        let steps = directories(watcher).abs_diff(before) as usize;
        assert!(steps <= TURN_STEPS + SWEEP_STEP_RECORDS + PATH_MAX_DEPTH);
    }
    unreachable!("it ends")
}

#[test]
fn a_log_of_many_directories_is_applied_in_bounded_turns_with_the_same_result() {
    let (author, part) = deep();
    let (mut at_once, mut by_turns) = (watcher(), watcher());
    at_once.queue.steps = usize::MAX;
    bring(&id(1), &author, &mut at_once, FILES);
    by_turns.handle_head(&part.head);
    assert_eq!(by_turns.intake().begin(id(1), part.clone()), Ok(None));
    assert!(
        !by_turns.intake_queue().is_taking_in(),
        "a view shows nothing of it yet"
    );
    by_turns.intake().take_turn();
    assert!(by_turns.intake_queue().is_taking_in() && directories(&by_turns) > 0);
    // Other work continues in the meantime, and a repeat of the same part changes nothing.
    put(&mut by_turns, "own", file("y", 1));
    put(&mut at_once, "own", file("y", 1));
    assert_eq!(by_turns.intake().begin(id(1), part), Ok(None));
    let (turns, of, applied) = take_turns(&mut by_turns);
    assert_eq!((of, applied), (id(1), Applied::Complete));
    assert!(turns >= FILES * PATH_MAX_DEPTH / (2 * TURN_STEPS));
    assert!(!by_turns.intake_queue().is_taking_in() && !by_turns.intake().take_turn());
    assert_eq!(listing(&by_turns.view()), listing(&at_once.view()));
    assert_eq!(
        by_turns.logs().head_of(&id(1)),
        at_once.logs().head_of(&id(1))
    );
}

/// Fills the room for staged parts, so that no part can wait for the next.
fn without_room(mut watcher: Catalogue) -> Catalogue {
    watcher.set_live(id(9), true).unwrap();
    let other = watcher.logs.index_of(&id(9)).unwrap();
    watcher.logs.log_mut(other).pull.staged = Some(StagedParts {
        fresh: true,
        epoch: 1,
        base: 0,
        records: Vec::new(),
        parts: STAGED_MAX_PARTS,
    });
    watcher
}

/// Applies a wrong log in two parts, the first of them at once.
fn take_in_parts(watcher: &mut Catalogue, whole: LogPart) -> usize {
    let mut first = whole.clone();
    let rest = first.records.split_off(20);
    first.last = false;
    let second = LogPart {
        fresh: false,
        records: rest,
        ..whole
    };
    assert_eq!(watcher.intake().begin(id(1), first), Ok(None));
    let (turns, _, applied) = take_turns(watcher);
    assert!(matches!(applied, Applied::More(_)));
    assert_eq!(watcher.intake().begin(id(1), second), Ok(None));
    let (more_turns, _, applied) = take_turns(watcher);
    assert!(matches!(applied, Applied::Mismatch { .. }));
    turns + more_turns
}

#[test]
fn no_view_ever_shows_a_long_log_that_contradicts_its_head() {
    let (_, mut part) = deep();
    part.head.head.digest = [9; 32];
    let mut watcher = watcher();
    watcher.handle_head(&part.head);
    assert_eq!(watcher.intake().begin(id(1), part), Ok(None));
    let before = watcher.logs.merge.settling.looks;
    let (_, _, applied) = take_turns(&mut watcher);
    assert!(matches!(applied, Applied::Mismatch { .. }));
    assert_eq!(
        (watcher.logs.merge.settling.looks, directories(&watcher)),
        (before, 0)
    );
    assert_eq!(listing(&watcher.view()), []);
}

#[test]
fn a_wrong_log_beyond_the_staging_limit_leaves_nothing() {
    let (_, mut part) = deep();
    part.head.head.digest = [9; 32];
    let mut watcher = without_room(watcher());
    watcher.handle_head(&part.head);
    take_in_parts(&mut watcher, part);
    while watcher.intake_queue().is_taking_in() {
        let before = directories(&watcher);
        assert!(watcher.intake().take_turn());
        let let_go = (before - directories(&watcher)) as usize;
        assert!(let_go <= TURN_STEPS + PATH_MAX_DEPTH);
    }
    while watcher.advance(SWEEP_STEP_RECORDS) {}
    assert_eq!(listing(&watcher.view()), []);
}

#[test]
fn a_log_over_its_budget_is_removed_in_bounded_steps() {
    let (_, part) = deep();
    let mut watcher = watcher();
    let mut budgets = Budgets::default();
    budgets.author.directories = (FILES * PATH_MAX_DEPTH - 1000) as u64;
    watcher.set_budgets(budgets);
    watcher.handle_head(&part.head);
    assert_eq!(watcher.intake().begin(id(1), part), Ok(None));
    let (_, _, applied) = take_turns(&mut watcher);
    assert_eq!(applied, Applied::OverBudget);
    let mut steps = 0;
    while directories(&watcher) > 0 {
        let before = directories(&watcher);
        watcher.advance(SWEEP_STEP_RECORDS);
        let let_go = (before - directories(&watcher)) as usize;
        assert!(let_go <= SWEEP_STEP_RECORDS + PATH_MAX_DEPTH);
        steps += 1;
    }
    assert!(steps > 2, "{steps} steps");
    assert_eq!(listing(&watcher.view()), []);
}

#[test]
fn a_node_forgotten_while_its_log_is_applied_leaves_nothing() {
    let (author, part) = deep();
    let mut watcher = watcher();
    watcher.handle_head(&part.head);
    assert_eq!(watcher.intake().begin(id(1), part), Ok(None));
    watcher.intake().take_turn();
    watcher.forget(&id(1));
    while watcher.advance(SWEEP_STEP_RECORDS) {}
    assert!(!watcher.intake_queue().is_taking_in() && !watcher.intake().take_turn());
    assert_eq!(
        (listing(&watcher.view()), directories(&watcher)),
        (vec![], 0)
    );
    watcher.set_live(id(1), true).unwrap();
    bring(&id(1), &author, &mut watcher, FILES);
    assert_eq!(directories(&watcher), (FILES * (PATH_MAX_DEPTH - 1)) as u64);
}

/// Creates a log of `files` files, and returns the whole log as a part.
fn plain(number: u8, files: i64) -> (Catalogue, LogPart) {
    let mut author = node(number, "plain");
    for n in 0..files {
        put(
            &mut author,
            &format!("{number}/{n}"),
            file(&n.to_string(), n),
        );
    }
    let whole = whole_of(&mut author);
    (author, whole)
}

fn whole_of(author: &mut Catalogue) -> LogPart {
    let head = signed(author).head;
    let pull = Pull {
        author: head.author,
        epoch: head.epoch,
        after: 0,
    };
    part(author, pull, usize::MAX)
}

/// Returns the log of the same node in a further life, with a few files. The sum of the log may be
/// wrong.
fn later_life(epoch: u64, is_wrong: bool) -> LogPart {
    let mut again = node(1, "one");
    again.own_mut().recover(epoch);
    (0..30).for_each(|n| put(&mut again, &format!("f{n}"), file("y", n)));
    let mut whole = whole_of(&mut again);
    if is_wrong {
        whole.head.head.digest = [9; 32];
    }
    whole
}

#[test]
fn an_old_generation_is_removed_in_bounded_turns_when_the_next_is_wrong() {
    let (author, part) = deep();
    let mut watcher = watcher();
    bring(&id(1), &author, &mut watcher, FILES);
    let before = listing(&watcher.view());
    let second = later_life(part.head.head.epoch, true);
    watcher.handle_head(&second.head);
    assert_eq!(watcher.intake().begin(id(1), second.clone()), Ok(None));
    let (_, _, applied) = take_turns(&mut watcher);
    assert!(matches!(applied, Applied::Mismatch { .. }));
    assert_eq!(listing(&watcher.view()), before, "it came at once");
    let mut watcher = without_room(watcher);
    let turns = take_in_parts(&mut watcher, second);
    assert!(turns > FILES * PATH_MAX_DEPTH / (2 * TURN_STEPS));
    assert_eq!(
        (listing(&watcher.view()), directories(&watcher)),
        (vec![], 0)
    );
}

#[test]
fn an_old_generation_is_removed_in_bounded_turns_when_a_third_overtakes_the_second() {
    let (author, part) = deep();
    let mut watcher = watcher();
    bring(&id(1), &author, &mut watcher, FILES);
    let mut second = later_life(part.head.head.epoch, false);
    let third = later_life(second.head.head.epoch, false);
    second.records.truncate(20);
    second.last = false;
    let mut watcher = without_room(watcher);
    for (life, is_whole) in [(second, false), (third, true)] {
        watcher.handle_head(&life.head);
        assert_eq!(watcher.intake().begin(id(1), life), Ok(None));
        let (turns, _, applied) = take_turns(&mut watcher);
        assert_eq!(applied == Applied::Complete, is_whole, "{applied:?}");
        assert_eq!(turns > FILES * PATH_MAX_DEPTH / (2 * TURN_STEPS), is_whole);
    }
    assert_eq!(watcher.view().totals().entries, 30);
}

#[test]
fn logs_are_applied_in_order_of_arrival_and_a_view_can_be_taken_between_two() {
    let mut watcher = watcher();
    watcher.queue.steps = 5;
    let logs: Vec<(Catalogue, LogPart)> =
        [(3, 40), (1, 2), (5, 20)].map(|(n, f)| plain(n, f)).into();
    for (_, part) in &logs {
        let author = part.head.head.author;
        watcher.set_live(author, true).unwrap();
        watcher.handle_head(&part.head);
        assert_eq!(watcher.intake().begin(author, part.clone()), Ok(None));
    }
    let mut listed = 0;
    for (_, part) in &logs {
        let (_, author, applied) = take_turns(&mut watcher);
        assert_eq!(
            (author, applied),
            (part.head.head.author, Applied::Complete)
        );
        assert!(
            !watcher.intake_queue().is_taking_in(),
            "a view shows whole logs"
        );
        // The count includes the directory that contains them.
        listed += part.records.len() + 1;
        assert_eq!(watcher.view().totals().entries, listed as u64);
    }
    assert!(!watcher.intake().take_turn());
}

#[test]
fn while_much_is_being_applied_no_more_is_requested() {
    let mut watcher = watcher();
    let (author, whole) = plain(1, STAGED_MAX_PARTS as i64 + 10);
    let mut pull = pull_of(watcher.handle_head(&whole.head));
    while let Some(Applied::More(next)) = watcher
        .intake()
        .begin(id(1), part(&author, pull, 1))
        .expect("it is taken")
    {
        assert!(!watcher.intake_queue().is_behind());
        pull = next;
    }
    assert_eq!(watcher.queue.parts(), STAGED_MAX_PARTS + 1);
    assert!(watcher.intake_queue().is_behind());
    let (another, whole) = plain(5, 3);
    let first = pull_of(watcher.handle_head(&whole.head));
    let begun = watcher.intake().begin(id(5), part(&another, first, 1));
    assert!(matches!(begun, Ok(Some(Applied::More(_)))), "{begun:?}");
    let (_, of, applied) = take_turns(&mut watcher);
    assert!(matches!(applied, Applied::More(_)) && of == id(1));
    assert!(!watcher.intake_queue().is_behind());
}

#[test]
fn a_stored_log_is_whole_even_while_more_of_it_is_applied() {
    let (mut author, first) = plain(1, 10);
    let mut watcher = watcher();
    watcher.handle_head(&first.head);
    watcher.intake().apply(id(1), first.clone()).unwrap();
    let before = watcher.storage().take_writes(usize::MAX);
    assert!(before.iter().any(|write| write.author == id(1)));
    (0..10).for_each(|n| put(&mut author, &format!("1/{n}"), file("new", n)));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    watcher.queue.steps = 3;
    assert_eq!(
        watcher.intake().begin(id(1), part(&author, pull, 99)),
        Ok(None)
    );
    while !watcher.intake_queue().is_taking_in() {
        assert!(watcher.intake().take_turn());
    }
    let of_it = |writes: &[LogWrite]| writes.iter().any(|write| write.author == id(1));
    assert!(!of_it(&watcher.storage().take_writes(usize::MAX)));
    assert_eq!(
        watcher.logs().part(&id(1), 0, 0),
        None,
        "nor is it given on"
    );
    assert_eq!(take_turns(&mut watcher).2, Applied::Complete);
    let after = watcher.storage().take_writes(usize::MAX);
    let stored = after.iter().find(|write| write.author == id(1)).unwrap();
    assert_eq!((stored.anew, stored.puts.len()), (false, 10));
    assert_eq!(
        stored.state.as_ref().unwrap().head,
        author.logs().head_of(&id(1)).cloned()
    );
}

/// Returns a log with one name in `shares` shares, each with another content.
fn one_name(shares: u16) -> LogPart {
    let mut author = node(1, "one");
    for number in 0..shares {
        let entry = file(&number.to_string(), i64::from(number));
        author
            .own_mut()
            .put(ShareIndex(number), &path("x"), entry)
            .unwrap();
    }
    whole_of(&mut author)
}

/// Candidates that one turn may examine, including those of the last name.
const TURN_LOOKS: usize = (TURN_STEPS + 1) * LOOKS_PER_STEP;

#[test]
fn a_name_with_many_versions_is_added_and_removed_in_bounded_turns() {
    const VERSIONS: u16 = 900;
    let (part, mut watcher) = (one_name(VERSIONS), watcher());
    watcher.handle_head(&part.head);
    assert_eq!(watcher.intake().begin(id(1), part), Ok(None));
    let mut turns = 0;
    while watcher.intake().poll_applied().is_none() {
        let before = watcher.logs.merge.settling.looks;
        assert!(watcher.intake().take_turn());
        let looks = watcher.logs.merge.settling.looks - before;
        assert!(looks <= TURN_LOOKS + 2 * usize::from(VERSIONS), "{looks}");
        turns += 1;
    }
    assert!(turns > 5, "{turns} turns");
    assert_eq!(names(&watcher.view()), ["x", "x~one", "x~one-01010101"]);
    let newest = Some(hash(&(VERSIONS - 1).to_string()));
    assert_eq!(shown(&watcher.view(), "x"), newest);

    let limit = 400;
    watcher.logs.merge.settling.step_records = limit;
    watcher.set_live(id(1), false).unwrap();
    let mut steps = 0;
    loop {
        let before = watcher.logs.merge.settling.looks;
        let has_more = watcher.advance(limit);
        let looks = watcher.logs.merge.settling.looks - before;
        assert!(looks <= (limit + 1) * LOOKS_PER_STEP + 3 * usize::from(VERSIONS));
        steps += 1;
        if !has_more {
            break;
        }
    }
    assert!(steps > 50, "{steps} steps");
    assert!(names(&watcher.view()).is_empty());
}

#[test]
fn a_content_under_one_name_in_many_shares_is_settled_in_bounded_steps() {
    let mut author = node(1, "one");
    for number in 0..500 {
        let share = ShareIndex(number);
        author
            .own_mut()
            .put(share, &path("x"), file("same", 1))
            .unwrap();
    }
    let mut watcher = watcher();
    share(&mut author, &mut watcher);
    watcher.set_live(id(1), false).unwrap();
    while watcher.advance(SWEEP_STEP_RECORDS) {}
    watcher.logs.merge.settling.step_records = 100;
    let before = watcher.logs.merge.settling.looks;
    watcher.own_mut().have(hash("same"), 4).unwrap();
    assert!(watcher.logs.merge.settling.looks - before <= 101 * LOOKS_PER_STEP + 500);
    assert_eq!(names(&watcher.view()), ["x"]);
    while watcher.advance(100) {}
    assert_eq!(names(&watcher.view()), ["x"]);
}

#[test]
fn versions_that_become_due_together_are_shown_in_bounded_steps() {
    let mut author = node(1, "one");
    (0..50).for_each(|n| put(&mut author, &format!("f{n}"), file("ahead", 1_000_000)));
    let mut watcher = watcher();
    watcher.set_clock(1_000);
    share(&mut author, &mut watcher);
    assert!(names(&watcher.view()).is_empty());
    watcher.logs.merge.settling.step_records = 10;
    watcher.set_clock(1_000_000);
    assert_eq!(watcher.view().totals().entries, 10);
    while watcher.advance(10) {}
    assert_eq!(watcher.view().totals().entries, 50);
}

#[test]
fn tombstones_that_expire_together_are_removed_in_bounded_steps() {
    let (mut author, mut watcher) = (node(1, "one"), watcher());
    for number in 0..500 {
        let name = format!("f{number}");
        put(&mut author, &name, file("x", 1));
        author.own_mut().remove(SHARE, &path(&name));
    }
    share(&mut author, &mut watcher);
    let (me, floor) = (author.logs.me, author.own().head().sequence);
    put(&mut author, "last", file("last", 1));
    author.logs.raise_floor(me, floor);
    let left = |of: &Catalogue| {
        of.logs.logs[&of.logs.index_of(&id(1)).unwrap()]
            .totals
            .tombstones
    };
    assert_eq!((left(&author), left(&watcher)), (0, 500));
    watcher.logs.merge.settling.step_records = 50;
    share(&mut author, &mut watcher);
    let mut before = left(&watcher);
    assert!(before >= 400, "{before}");
    while watcher.advance(50) {
        assert!(before - left(&watcher) <= 50);
        before = left(&watcher);
    }
    assert_eq!(left(&watcher), 0);
    assert_eq!(names(&watcher.view()), ["last"]);
}
