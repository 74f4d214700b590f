//! The writes suffice to restore the catalogue.

use std::collections::BTreeMap;

use super::*;
use crate::{LogState, LogWrite, RESTART_GAP};
use p2pfs_proto::wire::native::record::{Fact, Record};

/// A simple store in memory.
#[derive(Default)]
struct Plain(BTreeMap<NodeId, (BTreeMap<u64, Fact>, Option<LogState>)>);

impl Plain {
    fn write(&mut self, writes: Vec<LogWrite>) {
        for write in writes {
            if write.state.is_none() {
                self.0.remove(&write.author);
                continue;
            }
            let (records, state) = self.0.entry(write.author).or_default();
            if write.anew {
                records.clear();
            }
            write.deletes.iter().for_each(|sequence| {
                records.remove(sequence);
            });
            records.extend(write.puts.into_iter().map(|put| (put.sequence, put.fact)));
            *state = write.state;
        }
    }

    fn load(&self, into: &mut Catalogue) -> Vec<bool> {
        let load = |(author, (records, state)): (&NodeId, &(BTreeMap<u64, Fact>, _))| {
            let records = records.iter().map(|(sequence, fact)| Record {
                sequence: *sequence,
                fact: fact.clone(),
            });
            let state: &Option<LogState> = state;
            into.storage()
                .restore(*author, state.clone().unwrap(), records.collect::<Vec<_>>())
                .unwrap()
        };
        self.0.iter().map(load).collect()
    }
}

fn pair() -> (Catalogue, Catalogue) {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    put(&mut x, "d/a", file("one", 1));
    put(&mut x, "d/b", file("two", 1));
    x.own_mut().remove(SHARE, &path("d/a"));
    put(&mut y, "own", file("three", 1));
    y.own_mut().have(hash("two"), 3).unwrap();
    share(&mut x, &mut y);
    (x, y)
}

#[test]
fn a_catalogue_continues_from_its_stored_state() {
    let (mut x, mut y) = pair();
    let mut store = Plain::default();
    store.write(y.storage().take_writes(usize::MAX));
    put(&mut y, "own2", file("four", 1));
    y.own_mut().remove(SHARE, &path("own"));
    put(&mut x, "d/c", file("five", 1));
    share(&mut x, &mut y);
    store.write(y.storage().take_writes(usize::MAX));
    assert!(
        y.storage().take_writes(usize::MAX).is_empty(),
        "all is stored"
    );

    let mut again = node(2, "y");
    assert_eq!(store.load(&mut again), [true, true]);
    again.set_live(id(1), true).unwrap();
    assert_eq!(listing(&again.view()), listing(&y.view()));
    assert_eq!(again.logs().head_of(&id(1)), x.logs().head_of(&id(1)));
    let (now, then) = (again.own().head(), y.own().head());
    assert_eq!(
        (now.digest, now.count, now.epoch),
        (then.digest, then.count, then.epoch)
    );
    assert_eq!(now.sequence, then.sequence + RESTART_GAP);
    assert_eq!(again.own().haves().collect::<Vec<_>>(), [(hash("two"), 3)]);
}

#[test]
fn others_update_a_restarted_node_by_a_suffix() {
    let (mut x, mut y) = pair();
    let mut store = Plain::default();
    store.write(x.storage().take_writes(usize::MAX));
    let mut again = node(1, "x");
    store.load(&mut again);
    let pull = pull_of(y.handle_head(&signed(&mut again)));
    let part = part(&again, pull, 4096);
    assert!(!part.fresh && part.records.is_empty());
    assert_eq!(y.intake().apply(id(1), part), Ok(Applied::Complete));
}

#[test]
fn an_unfinished_pull_is_not_stored() {
    let (mut x, mut y) = (node(1, "x"), node(2, "y"));
    (0..6).for_each(|n| put(&mut x, &n.to_string(), file("x", n)));
    let pull = pull_of(y.handle_head(&signed(&mut x)));
    let Ok(Applied::More(pull)) = y.intake().apply(id(1), part(&x, pull, 3)) else {
        panic!()
    };
    let stored = |y: &mut Catalogue| {
        let mut store = Plain::default();
        store.write(y.storage().take_writes(usize::MAX));
        store.0.get(&id(1)).map_or(0, |(records, _)| records.len())
    };
    assert_eq!(stored(&mut y), 0);
    y.intake().apply(id(1), part(&x, pull, 3)).unwrap();
    assert_eq!(stored(&mut y), 6);
}

#[test]
fn a_partly_stored_log_is_dropped_for_others_and_kept_for_this_node() {
    let (_, mut y) = pair();
    (0..9).for_each(|n| put(&mut y, &n.to_string(), file("x", n)));
    let mut store = Plain::default();
    store.write(y.storage().take_writes(5));
    let mut again = node(2, "y");
    store.load(&mut again);
    let (own, digest) = (again.own().head(), again.own().head().digest);
    assert!(own.count > 0 && own.count < y.own().head().count);
    let mut counted = node(2, "y");
    for (path, entry) in again.own().entries(SHARE).collect::<Vec<_>>() {
        counted.own_mut().put(SHARE, &path, entry).unwrap();
    }
    for (hash, size_bytes) in again.own().haves().collect::<Vec<_>>() {
        counted.own_mut().have(hash, size_bytes).unwrap();
    }
    assert_eq!(digest, counted.own().head().digest, "summed anew");
    while !y.storage().take_writes(5).is_empty() {}
}

#[test]
fn a_stored_own_link_that_is_no_longer_allowed_is_withdrawn_before_publishing() {
    let mut author = node(1, "x");
    put(&mut author, "sound", link("d/f", 1));
    put(&mut author, "unsound", link("d/f", 2));
    let mut store = Plain::default();
    store.write(author.storage().take_writes(usize::MAX));
    let (records, state) = store.0.get_mut(&id(1)).unwrap();
    // An earlier version stored it like this. The digest is then computed again.
    for fact in records.values_mut() {
        if let Fact::Entry {
            path: at, entry, ..
        } = fact
            && *at == path("unsound")
        {
            *entry = link("z/../d/f", 2);
        }
    }
    state.as_mut().unwrap().complete = false;
    let mut again = node(1, "x");
    store.load(&mut again);
    again.own_mut().withdraw_unsound_links();
    let listed: Vec<_> = again.own().entries(SHARE).map(|(path, _)| path).collect();
    assert_eq!(listed, [path("sound")]);
    let mut watcher = node(2, "y");
    share(&mut again, &mut watcher);
    assert!(watcher.view().lookup(&path("sound")).is_some());
    assert!(watcher.view().lookup(&path("unsound")).is_none());
}

#[test]
fn writes_in_many_steps_end_in_the_same_store() {
    let (_, mut y) = pair();
    let (mut whole, mut stepwise) = (Plain::default(), Plain::default());
    whole.write(y.storage().take_writes(usize::MAX));
    y.storage().store_anew();
    loop {
        let writes = y.storage().take_writes(1);
        if writes.is_empty() {
            break;
        }
        stepwise.write(writes);
    }
    assert_eq!(whole.0, stepwise.0);
}

#[test]
fn a_stored_log_that_contradicts_its_head_is_left_out() {
    let (_, mut y) = pair();
    let mut store = Plain::default();
    store.write(y.storage().take_writes(usize::MAX));
    store.0.get_mut(&id(1)).unwrap().0.pop_last();
    store.0.get_mut(&id(1)).unwrap().0.pop_last();
    let mut again = node(2, "y");
    assert_eq!(store.load(&mut again), [false, true]);
    again.set_live(id(1), true).unwrap();
    assert_eq!(names(&again.view()), ["own"]);
    store.write(again.storage().take_writes(usize::MAX));
    assert!(!store.0.contains_key(&id(1)), "and is deleted");
}

#[test]
fn a_forgotten_node_is_removed_from_the_store() {
    let (_, mut y) = pair();
    let mut store = Plain::default();
    store.write(y.storage().take_writes(usize::MAX));
    y.forget(&id(1));
    store.write(y.storage().take_writes(usize::MAX));
    assert_eq!(store.0.keys().collect::<Vec<_>>(), [&id(2)]);
}
