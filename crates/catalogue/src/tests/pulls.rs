//! Exchange of heads and log parts between honest and dishonest nodes.

use super::*;
use crate::staged::STAGED_MAX_PARTS;
use crate::{
    CatalogueError, NODES_MAX, OWN_RECOVERIES_MAX, RECORDS_PER_AUTHOR_MAX, TOLD_NODES_MAX,
    TOLD_NODES_PER_TELLER_MAX, TOMBSTONES_MIN,
};
use p2pfs_proto::wire::native::record::{Fact, PATH_MAX_DEPTH, Record};

pub(super) fn author_of(files: i64) -> Catalogue {
    let mut author = node(1, "x");
    (0..files).for_each(|n| put(&mut author, &format!("f{n}"), file(&n.to_string(), n)));
    author
}

pub(super) fn watcher() -> Catalogue {
    let mut watcher = node(0xff, "watcher");
    watcher.set_live(id(1), true).unwrap();
    watcher
}

#[test]
fn a_suffix_contains_only_new_records() {
    let (mut author, mut watcher) = (author_of(10), watcher());
    share(&mut author, &mut watcher);
    put(&mut author, "new", file("new", 1));
    author.own_mut().remove(SHARE, &path("f3"));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let part = part(&author, pull, 4096);
    assert_eq!(
        (part.fresh, part.records.len(), part.last),
        (false, 2, true)
    );
    assert_eq!(watcher.intake().apply(id(1), part), Ok(Applied::Complete));
    assert_eq!(watcher.view().totals().entries, 10);
}

#[test]
fn suffix_and_snapshot_end_in_the_same_digest() {
    let (mut author, mut by_suffix, mut by_snapshot) = (author_of(3), watcher(), watcher());
    for round in 0..5 {
        put(
            &mut author,
            "f1",
            file(&format!("rewritten {round}"), round),
        );
        put(&mut author, &format!("g{round}"), file("x", round));
        share(&mut author, &mut by_suffix);
    }
    share(&mut author, &mut by_snapshot);
    assert_eq!(listing(&by_suffix.view()), listing(&by_snapshot.view()));
    assert_eq!(
        by_suffix.logs().head_of(&id(1)),
        by_snapshot.logs().head_of(&id(1))
    );
}

#[test]
fn any_node_that_has_a_log_forwards_it() {
    let (mut author, mut middle, mut far) = (author_of(10), watcher(), watcher());
    share(&mut author, &mut middle);
    bring(&id(1), &middle, &mut far, 3);
    assert_eq!(far.view().totals().entries, 10);
}

#[test]
fn a_log_that_changes_between_two_parts_arrives_intact() {
    let (mut author, mut watcher) = (author_of(20), watcher());
    let mut pull = pull_of(watcher.handle_head(&signed(&mut author)));
    for round in 0..100 {
        match watcher
            .intake()
            .apply(id(1), part(&author, pull, 4))
            .unwrap()
        {
            Applied::More(next) => pull = next,
            Applied::Complete => break,
            other => panic!("{other:?}"),
        }
        if round < 3 {
            author.own_mut().remove(SHARE, &path(&format!("f{round}")));
            put(
                &mut author,
                &format!("f{}", 19 - round),
                file("rewritten", 99),
            );
            signed(&mut author);
        }
    }
    assert_eq!(listing(&watcher.view()).len(), 17);
    assert_eq!(
        watcher.logs().head_of(&id(1)).unwrap().head,
        author.own().head()
    );
}

#[test]
fn a_node_that_missed_expired_tombstones_pulls_the_whole_log() {
    let (mut author, mut watcher) = (author_of(5), watcher());
    share(&mut author, &mut watcher);
    for n in 0..=TOMBSTONES_MIN {
        put(&mut author, &format!("short-lived {n}"), file("x", 1));
        author
            .own_mut()
            .remove(SHARE, &path(&format!("short-lived {n}")));
    }
    let head = signed(&mut author).head;
    assert!(head.floor > 0);
    assert!(author.logs.logs[&author.logs.me].rows.len() < TOMBSTONES_MIN as usize);
    let pull = pull_of(watcher.handle_head(author.logs().head_of(&id(1)).unwrap()));
    assert_eq!(pull.after, 0, "a suffix would lack the tombstones");
    assert!(part(&author, pull, 10).fresh);
    bring(&id(1), &author, &mut watcher, 100);
    assert_eq!(watcher.view().totals().entries, 5);
    assert_eq!(
        watcher.logs.logs[&watcher.logs.index_of(&id(1)).unwrap()]
            .cleanup
            .floor,
        head.floor
    );
}

#[test]
fn a_compaction_during_a_pull_is_noticed() {
    let (mut author, mut watcher) = (author_of(6), watcher());
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let Ok(Applied::More(pull)) = watcher.intake().apply(id(1), part(&author, pull, 3)) else {
        panic!()
    };
    author.own_mut().remove(SHARE, &path("f0"));
    put(&mut author, "last", file("last", 1));
    let (me, floor) = (author.logs.me, author.own().head().sequence);
    author.logs.raise_floor(me, floor);
    signed(&mut author);
    let outcome = watcher
        .intake()
        .apply(id(1), part(&author, pull, 3))
        .unwrap();
    let Applied::Compacted(pull) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(pull.after, 0);
    bring(&id(1), &author, &mut watcher, 3);
    assert_eq!(watcher.view().lookup(&path("f0")), None);
}

#[test]
fn earlier_statements_are_never_missing_when_later_ones_are_listed() {
    let (mut author, mut watcher) = (node(1, "x"), watcher());
    let whole = |view: &View| {
        let shows = |name: &str| view.lookup(&path(name)).is_some();
        !shows("reference") || (0..30).all(|n| shows(&format!("object{n}")))
    };
    for round in 0..3 {
        (0..30).for_each(|n| put(&mut author, &format!("object{n}"), file(&n.to_string(), n)));
        put(&mut author, "reference", file(&round.to_string(), round));
        // These are recorded again, and are therefore behind the reference.
        (0..30).for_each(|n| {
            put(
                &mut author,
                &format!("object{n}"),
                file(&n.to_string(), n + 50),
            )
        });
        put(&mut author, &format!("other{round}"), file("o", 1));
        let mut pull = pull_of(watcher.handle_head(&signed(&mut author)));
        while let Applied::More(next) = watcher
            .intake()
            .apply(id(1), part(&author, pull, 3))
            .unwrap()
        {
            assert!(whole(&watcher.view()), "in the middle of pull {round}");
            // Another head, or the same one again, does not restart the pull.
            let again = watcher.handle_head(author.logs().head_of(&id(1)).unwrap());
            assert_eq!(pull_of(again), next);
            pull = next;
        }
        assert!(whole(&watcher.view()));
        assert!(watcher.view().lookup(&path("reference")).is_some());
    }
}

#[test]
fn a_restarted_pull_drops_its_earlier_parts() {
    let (mut author, mut watcher) = (author_of(20), watcher());
    let first = pull_of(watcher.handle_head(&signed(&mut author)));
    watcher
        .intake()
        .apply(id(1), part(&author, first, 5))
        .unwrap();
    watcher
        .intake()
        .apply(id(1), part(&author, first, 7))
        .unwrap();
    let mut pull = first;
    while let Applied::More(next) = watcher
        .intake()
        .apply(id(1), part(&author, pull, 6))
        .unwrap()
    {
        pull = next;
    }
    assert_eq!(watcher.view().totals().entries, 20);
}

#[test]
fn endless_parts_use_no_more_memory_than_their_budget() {
    let mut watcher = watcher();
    for number in 1..=40 {
        let mut author = node(number, "x");
        (0..40).for_each(|n| put(&mut author, &format!("f{n}"), file(&n.to_string(), n)));
        let mut pull = pull_of(watcher.handle_head(&signed(&mut author)));
        for _ in 0..4 {
            let part = author
                .logs()
                .part_within(&id(number), pull.epoch, pull.after, 2)
                .unwrap();
            let Ok(Applied::More(next)) = watcher.intake().apply(id(number), part) else {
                panic!("more is to come")
            };
            pull = next;
        }
        let logs = watcher.logs.logs.values();
        let waiting: usize = logs.map(|log| log.pull.staged_parts()).sum();
        assert!(waiting <= STAGED_MAX_PARTS);
    }
}

#[test]
fn an_older_head_changes_nothing() {
    let (mut author, mut watcher) = (author_of(1), watcher());
    let old = signed(&mut author);
    put(&mut author, "new", file("new", 1));
    share(&mut author, &mut watcher);
    assert_eq!(watcher.handle_head(&old), HeadOutcome::Known);
    assert_eq!(watcher.view().totals().entries, 2);
}

#[test]
fn a_lost_pull_is_requested_again() {
    let (mut author, mut watcher) = (author_of(1), watcher());
    let head = signed(&mut author);
    let first = pull_of(watcher.handle_head(&head));
    assert_eq!(pull_of(watcher.handle_head(&head)), first);
}

#[test]
fn two_logs_under_one_number_reveal_a_copied_key() {
    let (mut author, mut twin, mut watcher) = (author_of(2), node(1, "x"), watcher());
    share(&mut author, &mut watcher);
    put(&mut twin, "p", file("p", 1));
    put(&mut twin, "q", file("q", 1));
    let copied = HeadOutcome::CopiedKey { author: id(1) };
    assert_eq!(watcher.handle_head(&signed(&mut twin)), copied);
    assert_eq!(
        author.handle_head(&signed(&mut twin)),
        copied,
        "the owner sees it too"
    );
    assert_eq!(watcher.view().totals().entries, 2);
}

#[test]
fn a_node_that_lost_its_state_continues_above_its_old_head() {
    let (mut author, mut watcher) = (author_of(9), watcher());
    share(&mut author, &mut watcher);
    let old = author.logs().head_of(&id(1)).unwrap().clone();
    let mut reborn = node(1, "x");
    put(&mut reborn, "only", file("only", 1));
    let HeadOutcome::OwnStateLost { epoch } = reborn.handle_head(&old) else {
        panic!()
    };
    reborn.own_mut().recover(epoch);
    share(&mut reborn, &mut watcher);
    assert_eq!(names(&watcher.view()), ["only"]);
    assert_eq!(reborn.handle_head(&old), HeadOutcome::Known);
}

#[test]
fn a_new_generation_after_lost_state_does_not_contradict_the_earlier_one() {
    let mut watcher = watcher();
    for life in [5, 6] {
        // The log has as many names as before, and other contents.
        let mut author = node(1, "x");
        author.own_mut().begin(life);
        put(&mut author, "p", file(&format!("life {life}"), 1));
        share(&mut author, &mut watcher);
        author.own_mut().begin(life + 1);
        assert_eq!(author.own().head().epoch, life, "a log goes on as it began");
        let found = watcher.view().lookup(&path("p")).unwrap();
        assert_eq!(found.kind, file(&format!("life {life}"), 1).kind);
    }
}

#[test]
fn two_nodes_that_outbid_each_other_reveal_a_copied_key() {
    let (mut one, mut two) = (node(1, "x"), node(1, "x"));
    put(&mut one, "a", file("a", 1));
    for _ in 0..2 * OWN_RECOVERIES_MAX + 2 {
        std::mem::swap(&mut one, &mut two);
        match one.handle_head(&signed(&mut two)) {
            HeadOutcome::OwnStateLost { epoch } => one.own_mut().recover(epoch),
            HeadOutcome::CopiedKey { author } => return assert_eq!(author, id(1)),
            other => panic!("{other:?}"),
        }
    }
    panic!("it never ended");
}

#[test]
fn old_entries_stay_listed_while_a_log_is_replaced() {
    let (mut author, mut watcher) = (author_of(6), watcher());
    share(&mut author, &mut watcher);
    author.own_mut().recover(1);
    author.own_mut().remove(SHARE, &path("f0"));
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let Ok(Applied::More(pull)) = watcher.intake().apply(id(1), part(&author, pull, 2)) else {
        panic!()
    };
    assert_eq!(watcher.view().totals().entries, 6);
    assert_eq!(
        watcher.intake().apply(id(1), part(&author, pull, 99)),
        Ok(Applied::Complete)
    );
    assert_eq!(watcher.view().totals().entries, 5);
}

#[test]
fn an_invalid_part_is_refused_and_changes_nothing() {
    let (mut author, mut watcher) = (author_of(3), watcher());
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let good = part(&author, pull, 4096);
    let with = |edit: fn(&mut LogPart)| {
        let mut part = good.clone();
        edit(&mut part);
        part
    };
    let root = |share| Fact::Removed {
        share,
        path: SharedPath::root(),
    };
    let mut rooted = good.clone();
    rooted.records[0].fact = root(SHARE);
    let many = vec![
        Record {
            sequence: 1,
            fact: root(SHARE)
        };
        4097
    ];
    for (bad, why) in [
        (
            with(|part| part.records.reverse()),
            CatalogueError::BadOrder,
        ),
        (
            with(|part| part.records[0].sequence = 0),
            CatalogueError::BadOrder,
        ),
        (
            with(|part| part.records[2].sequence = 9),
            CatalogueError::BadOrder,
        ),
        (
            with(|part| {
                *part = LogPart {
                    records: vec![],
                    last: false,
                    ..part.clone()
                }
            }),
            CatalogueError::BadOrder,
        ),
        (
            with(|part| part.head.head.author = id(9)),
            CatalogueError::WrongAuthor,
        ),
        (rooted, CatalogueError::BadFact),
        (
            LogPart {
                records: many,
                ..good.clone()
            },
            CatalogueError::PartTooLong { count: 4097 },
        ),
    ] {
        assert_eq!(watcher.intake().apply(id(1), bad), Err(why));
    }
    assert!(names(&watcher.view()).is_empty());
    assert_eq!(watcher.intake().apply(id(1), good), Ok(Applied::Complete));
}

#[test]
fn a_part_of_an_older_log_is_stale() {
    let (mut author, mut watcher) = (author_of(3), watcher());
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    let old = part(&author, pull, 4096);
    put(&mut author, "new", file("new", 1));
    share(&mut author, &mut watcher);
    assert_eq!(
        watcher.intake().apply(id(1), old),
        Err(CatalogueError::Stale)
    );
}

#[test]
fn another_node_cannot_write_this_nodes_log() {
    let (mut author, mut twin) = (author_of(1), author_of(2));
    let head = signed(&mut twin);
    let part = LogPart {
        head,
        fresh: true,
        records: vec![],
        last: true,
    };
    assert_eq!(
        author.intake().apply(id(1), part),
        Err(CatalogueError::WrongAuthor)
    );
}

#[test]
fn logs_and_nodes_over_their_limits_are_refused() {
    let (mut author, mut watcher) = (author_of(1), watcher());
    let mut head = signed(&mut author);
    head.head.count = RECORDS_PER_AUTHOR_MAX as u64 + 1;
    let count = head.head.count;
    let refused = HeadOutcome::Refused(CatalogueError::TooManyRecords { count });
    assert_eq!(watcher.handle_head(&head), refused);
    for number in 0..NODES_MAX as u32 - 2 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        watcher.set_live(NodeId::new(key), true).unwrap();
    }
    let outcome = watcher.handle_head(&signed(&mut node(2, "surplus")));
    assert_eq!(outcome, HeadOutcome::Refused(CatalogueError::TooManyNodes));
    watcher.forget(&id(1));
    pull_of(watcher.handle_head(&signed(&mut node(2, "surplus"))));
}

/// Returns the key of a made-up node.
fn made_up(number: u32) -> NodeId {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    NodeId::new(key)
}

/// Returns a head of a made-up node. The catalogue does not check its signature.
fn made_up_head(number: u32) -> SignedHead {
    let mut head = signed(&mut node(2, "made-up"));
    head.head.author = made_up(number);
    head
}

#[test]
fn told_nodes_are_bounded_by_teller_and_in_total_and_leave_room_for_live_ones() {
    let mut watcher = watcher();
    let refused = HeadOutcome::Refused(CatalogueError::TooManyNodes);
    let mut taken = 0;
    for teller in 0..40 {
        let heads = 100 * (teller + 1)..100 * (teller + 1) + 2 * TOLD_NODES_PER_TELLER_MAX as u32;
        let mut of_teller = 0;
        for number in heads {
            let head = made_up_head(number * 1000);
            let is_known = watcher.logs().is_known(&head.head.author);
            let outcome = watcher.handle_told_head(&head, made_up(teller));
            of_teller += usize::from(outcome != refused && !is_known);
        }
        assert!(of_teller <= TOLD_NODES_PER_TELLER_MAX);
        taken += of_teller;
    }
    assert_eq!(taken, TOLD_NODES_MAX);
    // The author tells of itself once it is live.
    watcher.set_live(id(1), true).unwrap();
    pull_of(watcher.handle_told_head(&signed(&mut author_of(1)), made_up(0)));
}

#[test]
fn a_live_node_displaces_one_that_was_only_told_of_and_then_the_one_that_departed_first() {
    let (mut author, mut watcher) = (author_of(1), watcher());
    watcher.set_live(id(1), true).unwrap();
    share(&mut author, &mut watcher);
    watcher.handle_told_head(&made_up_head(1), made_up(2));
    let departed = 10..NODES_MAX as u32 + 10;
    let mut room = NODES_MAX - 3;
    for number in departed {
        watcher.set_live(made_up(number), true).unwrap();
        watcher.set_live(made_up(number), false).unwrap();
        let is_told_known = watcher.logs().is_known(&made_up(1));
        assert_eq!(is_told_known, room > 0, "{number}");
        room = room.saturating_sub(1);
    }
    assert!(watcher.logs().is_known(&made_up(NODES_MAX as u32 + 9)));
    assert!(!watcher.logs().is_known(&made_up(10)), "it departed first");
    assert!(watcher.logs().is_known(&id(1)), "it is live");
}

#[test]
fn an_unsigned_own_log_is_not_served() {
    let (mut author, mut watcher) = (author_of(1), watcher());
    let pull = pull_of(watcher.handle_head(&signed(&mut author)));
    put(&mut author, "new", file("new", 1));
    assert!(author.own().needs_signature());
    assert_eq!(author.logs().part(&id(1), pull.epoch, pull.after), None);
    let stale = SignedHead {
        head: watcher.own().head(),
        signature: [[0; 32]; 2],
    };
    assert!(!author.own_mut().sign(stale));
}

#[test]
fn an_invalid_size_link_or_depth_is_refused_on_receipt() {
    let entry = |name: &str, kind: Kind| Fact::Entry {
        share: SHARE,
        path: path(name),
        entry: Entry {
            kind,
            mtime: Timestamp::default(),
            version_time: Timestamp::default(),
            sent_by: None,
            replaces: Vec::new(),
        },
    };
    let file = |size_bytes: u64| Kind::File {
        hash: hash("x"),
        size_bytes,
        executable: false,
    };
    let link = |target: &'static str| Kind::Symlink {
        target: bytes::Bytes::from_static(target.as_bytes()),
    };
    let deep = |depth: usize| vec!["d"; depth].join("/");
    let bad = [
        entry("f", file(1 << 63)),
        entry("f", link("/srv/secret")),
        entry("d/f", link("../../..")),
        entry("f", link("z/../f")),
        entry("f", link("z/.p2pfs/peers")),
        entry("f", link("a\0b")),
        entry("f", link("")),
        entry(&deep(PATH_MAX_DEPTH + 1), Kind::Directory),
        Fact::Removed {
            share: SHARE,
            path: path(&deep(PATH_MAX_DEPTH + 1)),
        },
        Fact::Have {
            hash: hash("x"),
            size_bytes: u64::MAX,
        },
    ];
    for fact in bad {
        let (mut author, mut watcher) = (author_of(1), watcher());
        let pull = pull_of(watcher.handle_head(&signed(&mut author)));
        let mut part = part(&author, pull, 10);
        part.records[0].fact = fact.clone();
        let refused = watcher.intake().apply(id(1), part);
        assert_eq!(refused, Err(CatalogueError::BadFact), "{fact:?}");
    }
    let mut author = node(1, "x");
    put_kind(&mut author, "f", file((1 << 63) - 1));
    put_kind(&mut author, "d/l", link("../f"));
    put_kind(&mut author, &deep(PATH_MAX_DEPTH), Kind::Directory);
    let mut watcher = watcher();
    share(&mut author, &mut watcher);
    assert!(watcher.view().lookup(&path("d/l")).is_some());
}

fn put_kind(author: &mut Catalogue, name: &str, kind: Kind) {
    let entry = Entry {
        kind,
        mtime: Timestamp::default(),
        version_time: Timestamp::default(),
        sent_by: None,
        replaces: Vec::new(),
    };
    author.own_mut().put(SHARE, &path(name), entry).unwrap();
}
