//! Conflict names in very large numbers, and names that compete for the same conflict name.

use proptest::prelude::*;

use super::*;
use crate::labels::RENAME_PAUSE_SECONDS;

const MANY: usize = 600;

/// Creates a watcher and two nodes, each with its own versions of very many names.
fn contested() -> (Catalogue, Catalogue) {
    let mut watcher = node(0xff, "watcher");
    let (mut early, mut late) = (node(1, "early"), node(2, "late"));
    for (author, seconds) in [(&mut late, 2), (&mut early, 1)] {
        for number in 0..MANY {
            let content = format!("{number} at {seconds}");
            put(
                author,
                &format!("tree/{number:03}.c"),
                file(&content, seconds),
            );
        }
        share(author, &mut watcher);
    }
    assert_eq!(names(&watcher.view()).len(), 2 * MANY + 1);
    (late, watcher)
}

/// Takes a view and returns the number of candidates examined for it.
fn looks_of_a_view(watcher: &mut Catalogue) -> usize {
    let before = watcher.logs.merge.settling.looks;
    watcher.view();
    watcher.logs.merge.settling.looks - before
}

#[test]
fn a_change_among_many_conflicts_costs_only_its_own_name() {
    let (mut late, mut watcher) = contested();
    put(&mut late, "tree/007.c", file("changed", 3));
    share(&mut late, &mut watcher);
    let looks = looks_of_a_view(&mut watcher);
    assert!((1..10).contains(&looks), "{looks}");
    assert_eq!(shown(&watcher.view(), "tree/007.c"), Some(hash("changed")));
    assert_eq!(
        shown(&watcher.view(), "tree/007~early.c"),
        Some(hash("7 at 1"))
    );
    late.own_mut().remove(SHARE, &path("tree/007.c"));
    put(&mut late, "tree/008~early.c", file("real", 3));
    share(&mut late, &mut watcher);
    let looks = looks_of_a_view(&mut watcher);
    assert!((1..20).contains(&looks), "{looks}");
    let view = watcher.view();
    assert_eq!(view.lookup(&path("tree/007~early.c")), None);
    assert_eq!(shown(&view, "tree/007.c"), Some(hash("7 at 1")));
    assert_eq!(shown(&view, "tree/008~early.c"), Some(hash("real")));
    assert_eq!(
        shown(&view, "tree/008~early-01010101.c"),
        Some(hash("8 at 1"))
    );
}

#[test]
fn many_conflicts_that_change_together_are_settled_in_bounded_steps() {
    let (mut late, mut watcher) = contested();
    watcher.logs.merge.settling.step_records = 20;
    for number in 0..MANY {
        put(
            &mut late,
            &format!("tree/{number:03}.c"),
            file("changed", 3),
        );
    }
    watcher.queue.steps = 20;
    share(&mut late, &mut watcher);
    let looks = looks_of_a_view(&mut watcher);
    assert!(looks <= 2 * (20 + 20), "{looks}");
    assert_eq!(names(&watcher.view()).len(), 2 * MANY + 1);
}

#[test]
fn a_renamed_node_updates_its_conflict_names_in_bounded_steps() {
    let (_, mut watcher) = contested();
    watcher.logs.merge.settling.step_records = 20;
    let before = watcher.logs.merge.settling.looks;
    let index = watcher.logs.index_of(&id(1)).unwrap();
    let name = NodeName::new("renamed").unwrap();
    watcher.logs.merge.node_names().set(index, &name);
    assert!(watcher.logs.merge.settling.looks - before < 60);
    let is_new = |watcher: &mut Catalogue, number: &str| {
        let view = watcher.view();
        let named = |label| path(&format!("tree/{number}~{label}.c"));
        let found = ["renamed", "early"].map(|label| view.lookup(&named(label)).is_some());
        assert!(found[0] != found[1], "it has one of both");
        found[0]
    };
    assert!(is_new(&mut watcher, "001") && !is_new(&mut watcher, "599"));
    // The node is renamed again in the middle of the pass.
    watcher
        .logs
        .merge
        .node_names()
        .set(index, &NodeName::new("early").unwrap());
    watcher.logs.merge.node_names().set(index, &name);
    while watcher.advance(20) {
        assert!(looks_of_a_view(&mut watcher) < 60);
    }
    assert!(is_new(&mut watcher, "001") && is_new(&mut watcher, "599"));
    assert_eq!(names(&watcher.view()).len(), 2 * MANY + 1);
}

#[test]
fn a_node_that_is_renamed_repeatedly_is_updated_after_a_pause() {
    let (mut author, mut watcher) = (node(1, "first"), node(0xff, "watcher"));
    watcher.set_clock(1_000);
    put(&mut author, "f", file("x", 1));
    let mut called = |watcher: &mut Catalogue, name: &str| {
        let index = author.logs.me;
        author
            .logs
            .merge
            .node_names()
            .set(index, &NodeName::new(name).unwrap());
        put(&mut author, name, file(name, 1));
        share(&mut author, watcher);
        watcher.view().label(&id(1)).unwrap()
    };
    assert_eq!(called(&mut watcher, "first"), "first");
    assert_eq!(called(&mut watcher, "second"), "second");
    assert_eq!(called(&mut watcher, "third"), "second");
    assert_eq!(called(&mut watcher, "fourth"), "second");
    watcher.set_clock(1_000 + RENAME_PAUSE_SECONDS - 1);
    assert_eq!(watcher.view().label(&id(1)).as_deref(), Some("second"));
    watcher.set_clock(1_000 + RENAME_PAUSE_SECONDS);
    assert_eq!(watcher.view().label(&id(1)).as_deref(), Some("fourth"));
}

#[test]
fn a_node_has_the_name_in_its_head_before_its_log_arrives() {
    let (mut author, mut watcher) = (node(1, "attic"), node(0xff, "watcher"));
    put(&mut author, "f", file("x", 1));
    watcher.set_live(id(1), true).unwrap();
    assert_eq!(watcher.view().label(&id(1)), None);
    watcher.handle_head(&signed(&mut author));
    let view = watcher.view();
    assert_eq!(view.label(&id(1)).as_deref(), Some("attic"));
    assert_eq!(view.lookup(&path("f")), None);
}

#[test]
fn a_certified_name_replaces_the_name_that_a_node_gives_itself() {
    let (mut author, mut watcher) = (node(1, "attic"), node(0xff, "watcher"));
    let certified = |name: &str| [(id(1), NodeName::new(name).unwrap())].into();
    put(&mut author, "f", file("x", 1));
    share(&mut author, &mut watcher);
    watcher.set_certified_names(certified("attic3"));
    assert_eq!(watcher.view().label(&id(1)).as_deref(), Some("attic3"));
    put(&mut author, "g", file("y", 1));
    share(&mut author, &mut watcher);
    assert_eq!(watcher.view().label(&id(1)).as_deref(), Some("attic3"));
    // A name that is certified first also holds for a head that arrives later.
    let mut late = node(0xfe, "late");
    late.set_certified_names(certified("attic3"));
    share(&mut author, &mut late);
    assert_eq!(late.view().label(&id(1)).as_deref(), Some("attic3"));
    // The node itself announces its certified name.
    author.set_certified_names(certified("attic3"));
    assert_eq!(author.own().head().name.as_str(), "attic3");
}

/// Names and nodes that compete for the same conflict names.
const WANTED: [&str; 8] = [
    "a",
    "a.q",
    "a.q.q",
    "a~p",
    "a~p.q",
    "a~p.q.q",
    "a~p-01010101",
    "b",
];
const CALLED: [&str; 4] = ["p", "p.q", "p.q.q", "p-01010101"];

fn said() -> impl Strategy<Value = Vec<(usize, usize, u16, i64)>> {
    let one = (0..CALLED.len(), 0..WANTED.len(), 0u16..2, 0i64..4);
    proptest::collection::vec(one, 1..60)
}

proptest! {
    #[test]
    fn conflict_names_match_a_fresh_merge_after_changes_in_any_order(
        said in said(),
        renamed in (0..CALLED.len(), 0..CALLED.len()),
    ) {
        let mut authors: Vec<Catalogue> = (0..CALLED.len())
            .map(|number| node(number as u8 + 1, CALLED[number]))
            .collect();
        let mut watcher = node(0xff, "watcher");
        for (step, (author, name, share_number, seconds)) in said.iter().enumerate() {
            let author = &mut authors[*author];
            let (share_number, name) = (ShareIndex(*share_number), path(WANTED[*name]));
            // The last second stands for a removal.
            if *seconds == 3 {
                author.own_mut().remove(share_number, &name);
            } else {
                let content = format!("{step}");
                author.own_mut().put(share_number, &name, file(&content, *seconds)).unwrap();
            }
            share(author, &mut watcher);
            if step % 3 == 0 {
                watcher.view();
            }
        }
        let (index, called) = renamed;
        let author = &mut authors[index];
        let me = author.logs.me;
        author.logs.merge.node_names().set(me, &NodeName::new(CALLED[called]).unwrap());
        put(author, "c", file("c", 1));
        let mut fresh = node(0xff, "watcher");
        for author in &mut authors {
            share(author, &mut watcher);
            share(author, &mut fresh);
        }
        prop_assert_eq!(listing(&watcher.view()), listing(&fresh.view()));
    }
}
