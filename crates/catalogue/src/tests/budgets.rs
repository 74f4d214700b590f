//! Budgets of one author, and of all authors together.

use super::*;
use crate::{Budgets, CatalogueError, Cost, DropCause, Dropped};

const ENDLESS: Cost = Cost {
    bytes: u64::MAX,
    directories: u64::MAX,
    replaced: u64::MAX,
};

fn directories(directories: u64) -> Cost {
    Cost {
        directories,
        ..ENDLESS
    }
}

/// Creates a node with these budgets for each author and for all together.
fn keeper(author: Cost, total: Cost) -> Catalogue {
    let mut keeper = node(9, "keeper");
    keeper.set_budgets(Budgets { author, total });
    keeper
}

/// Creates a node with a file in each of `depth` nested directories.
fn deep(number: u8, name: &str, depth: usize) -> Catalogue {
    let mut author = node(number, name);
    for end in 1..=depth {
        let dirs = format!("{name}/").repeat(end);
        put(&mut author, &format!("{dirs}file"), file(name, 1));
    }
    author
}

fn work_off(node: &mut Catalogue) {
    while node.advance(4096) {}
}

fn dropped(node: &mut Catalogue) -> Vec<(NodeId, DropCause)> {
    let all = std::iter::from_fn(|| node.poll_dropped());
    all.map(|Dropped { author, why }| (author, why)).collect()
}

#[test]
fn an_author_at_its_budget_is_kept_and_one_more_directory_drops_it_entirely() {
    for (depth, is_kept) in [(4, true), (5, true), (6, false)] {
        let mut keeper = keeper(directories(5), ENDLESS);
        share(&mut deep(1, "a", depth), &mut keeper);
        share(&mut deep(2, "b", 3), &mut keeper);
        work_off(&mut keeper);
        let count = if is_kept { depth as u64 } else { 0 };
        assert_eq!(keeper.logs().cost_of(&id(1)).directories, count);
        assert_eq!(
            keeper.logs().cost_of(&id(2)).directories,
            3,
            "another's stays"
        );
        let told = dropped(&mut keeper);
        let expected = [(id(1), DropCause::OverAuthor)];
        assert_eq!(told, if is_kept { &[][..] } else { &expected[..] });
        let files = names(&keeper.view());
        let of_a = files.iter().filter(|name| name.starts_with("a/")).count();
        assert_eq!(of_a > 0, is_kept);
        assert!(files.contains(&"b/b/b/file".to_owned()));
    }
}

#[test]
fn counts_are_released_with_their_rows_and_nothing_counts_twice() {
    let mut keeper = keeper(ENDLESS, ENDLESS);
    let mut author = deep(1, "a", 3);
    put(&mut author, "a", directory(1));
    put(&mut author, "a/a", directory(1));
    put(&mut author, "empty", directory(1));
    share(&mut author, &mut keeper);
    assert_eq!(keeper.logs().cost_of(&id(1)).directories, 4);
    author.remove_share(SHARE);
    share(&mut author, &mut keeper);
    // Tombstones keep their directories. The records of directories do not.
    assert_eq!(keeper.logs().cost_of(&id(1)).directories, 3);
    keeper.forget(&id(1));
    work_off(&mut keeper);
    assert_eq!(keeper.logs().cost_of(&id(1)), Cost::default());
}

#[test]
fn long_names_and_link_targets_count_by_their_bytes() {
    let mut keeper = keeper(
        Cost {
            bytes: 10_000,
            ..ENDLESS
        },
        ENDLESS,
    );
    let mut author = node(1, "a");
    let far = format!("x{}", "/y".repeat(2000));
    for name in ["1", "2", "3"] {
        let entry = Entry {
            kind: Kind::Symlink {
                target: far.clone().into_bytes().into(),
            },
            ..link("x", 1)
        };
        put(&mut author, name, entry);
    }
    share(&mut author, &mut keeper);
    assert_eq!(dropped(&mut keeper), [(id(1), DropCause::OverAuthor)]);
}

#[test]
fn a_restarted_log_is_not_counted_with_its_predecessor() {
    let mut keeper = keeper(directories(5), ENDLESS);
    share(&mut deep(1, "a", 4), &mut keeper);
    let mut again = deep(1, "b", 4);
    again.own_mut().recover(7);
    share(&mut again, &mut keeper);
    work_off(&mut keeper);
    assert_eq!(dropped(&mut keeper), []);
    assert_eq!(keeper.logs().cost_of(&id(1)).directories, 4);
    assert!(names(&keeper.view()).contains(&"b/b/b/b/file".to_owned()));
}

#[test]
fn over_the_total_the_longest_departed_nodes_are_dropped_first() {
    let mut keeper = keeper(ENDLESS, directories(10));
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        share(&mut deep(number, name, 3), &mut keeper);
    }
    for gone in [2, 1] {
        keeper.set_live(id(gone), false).unwrap();
    }
    let mut fourth = deep(4, "d", 3);
    share(&mut fourth, &mut keeper);
    assert_eq!(dropped(&mut keeper), [(id(2), DropCause::Gone)]);
    let head = signed(&mut deep(2, "b", 3));
    let again = keeper.handle_head(&head);
    assert_eq!(again, HeadOutcome::Known, "not pulled while it is gone");
    keeper.set_live(id(2), true).unwrap();
    assert!(matches!(keeper.handle_head(&head), HeadOutcome::Pull(_)));
}

#[test]
fn over_the_total_with_all_nodes_live_the_largest_is_dropped_and_named() {
    let mut keeper = keeper(ENDLESS, directories(10));
    share(&mut deep(1, "a", 2), &mut keeper);
    share(&mut deep(2, "b", 6), &mut keeper);
    share(&mut deep(3, "c", 3), &mut keeper);
    work_off(&mut keeper);
    assert_eq!(dropped(&mut keeper), [(id(2), DropCause::OverTotal)]);
    let files = names(&keeper.view());
    assert!(files.contains(&"a/a/file".to_owned()) && files.contains(&"c/c/c/file".to_owned()));
    assert!(!files.iter().any(|name| name.starts_with("b/")));
}

#[test]
fn stored_logs_obey_the_budgets_at_startup() {
    let mut before = keeper(ENDLESS, ENDLESS);
    share(&mut deep(1, "a", 6), &mut before);
    share(&mut deep(2, "b", 3), &mut before);
    let stored = before.storage().take_writes(usize::MAX);
    let mut keeper = keeper(directories(5), ENDLESS);
    for write in stored {
        let whole = keeper
            .storage()
            .restore(write.author, write.state.unwrap(), write.puts);
        assert_eq!(whole, Ok(write.author != id(1)));
    }
    work_off(&mut keeper);
    assert_eq!(dropped(&mut keeper), [(id(1), DropCause::OverAuthor)]);
    assert_eq!(keeper.logs().cost_of(&id(1)).directories, 0);
    assert_eq!(keeper.logs().cost_of(&id(2)).directories, 3);
    let voided = keeper.storage().take_writes(usize::MAX);
    let void = voided.iter().find(|write| write.author == id(1)).unwrap();
    assert!(void.anew && void.state.is_none(), "it is stored no more");
}

#[test]
fn a_node_publishes_no_more_than_others_would_keep() {
    let mut author = node(1, "a");
    author.set_budgets(Budgets {
        author: directories(5),
        total: ENDLESS,
    });
    put(&mut author, "a/a/a/file", file("x", 1));
    let refused = author
        .own_mut()
        .put(SHARE, &path("b/b/b/file"), file("x", 1));
    assert_eq!(refused, Err(CatalogueError::OverBudget));
    let mut keeper = keeper(directories(5), ENDLESS);
    share(&mut author, &mut keeper);
    assert_eq!(dropped(&mut keeper), []);
    assert!(
        author.own_mut().remove(SHARE, &path("a/a/a/file")),
        "it may take back"
    );
}

#[test]
fn a_few_short_records_with_endless_directories_exceed_the_budget() {
    const NAMES: u64 = 20;
    let mut author = node(1, "a");
    for number in 0..NAMES {
        let deep = format!("{number}{}", "/d".repeat(255));
        put(&mut author, &deep, file("x", 1));
    }
    let mut keeper = keeper(directories(NAMES * 255 - 1), ENDLESS);
    share(&mut author, &mut keeper);
    assert_eq!(dropped(&mut keeper), [(id(1), DropCause::OverAuthor)]);
}
