//! Shares that only some nodes may read.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use p2pfs_proto::trust::{NodeKey, ShareKey};
use p2pfs_proto::wire::native::record::{Fact, Record};

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

pub(super) fn id_of(number: u8) -> NodeId {
    key(number).node_id()
}

/// Creates a node that can open records sealed for it.
pub(super) fn keyed(number: u8) -> Catalogue {
    let name = NodeName::new(format!("n{number}")).unwrap();
    Catalogue::of_key(Arc::new(key(number)), name)
}

pub(super) fn readers(numbers: &[u8]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| id_of(*number)).collect()
}

pub(super) fn read_by(node: &mut Catalogue, numbers: Option<&[u8]>) {
    let list = numbers.map(readers);
    node.reader_lists().set(SHARE, list.as_ref()).unwrap();
    while node.reader_lists().restate() {}
}

pub(super) fn names(node: &mut Catalogue) -> Vec<String> {
    let view = node.view();
    listing(&view).into_iter().map(|(name, _)| name).collect()
}

pub(super) fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

/// Asserts that no query shows anything of a file.
fn assert_knows_nothing(node: &mut Catalogue, name: &str, content: &str, author: &str) {
    let view = node.view();
    assert_eq!(view.lookup(&path(name)), None);
    assert_eq!(view.peers().lookup(author, &path(name)), None);
    assert_eq!(view.contents().get(&hash(content)), None);
    assert_eq!(view.versions(&path(name)), []);
    assert!(
        view.contents().holders(&hash(content)).is_empty()
            && !view.contents().is_named(&hash(content))
    );
    assert!(view.contents().names_of(&hash(content), 9).is_empty());
}

#[test]
fn readers_list_their_entries_and_others_learn_nothing_of_them() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "d", directory(1));
    put(&mut a, "d/secret", file("bytes", 2));
    put(&mut a, "d/link", link("secret", 2));
    share(&mut a, &mut c);
    // The log arrives through a node that cannot read it.
    b.set_live(id_of(1), true).unwrap();
    bring(&id_of(1), &c, &mut b, 2);
    assert_eq!(names(&mut a), ["d", "d/link", "d/secret"]);
    assert_eq!(names(&mut b), names(&mut a));
    assert_eq!(b.view().peers().names(), ["n1", "n2"]);
    assert!(b.view().peers().lookup("n1", &path("d/secret")).is_some());
    assert_eq!(names(&mut c), [""; 0]);
    for name in ["d", "d/secret", "d/link"] {
        assert_knows_nothing(&mut c, name, "bytes", "n1");
    }
    assert_eq!(c.view().totals().unique_bytes, 0);
    let text = format!("{:?}", part(&c, all_of(&id_of(1)), 4096));
    assert!(!text.contains("secret"), "a name is in the log in clear");
}

fn all_of(author: &NodeId) -> Pull {
    Pull {
        author: *author,
        epoch: 1,
        after: 0,
    }
}

#[test]
fn a_changed_list_of_readers_is_applied_to_unchanged_entries() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    for number in 0..40 {
        put(
            &mut a,
            &format!("f{number:02}"),
            file(&format!("text {number}"), number),
        );
    }
    let open = names(&mut a);
    let lists: [(Option<&[u8]>, bool, bool); 6] = [
        (None, true, true),
        (Some(&[2]), true, false),
        (Some(&[2, 3]), true, true),
        (Some(&[3]), false, true),
        (Some(&[]), false, false),
        (None, true, true),
    ];
    for (list, to_b, to_c) in lists {
        read_by(&mut a, list);
        share(&mut a, &mut b);
        share(&mut a, &mut c);
        for (node, reads) in [(&mut a, true), (&mut b, to_b), (&mut c, to_c)] {
            let seen = names(node);
            assert_eq!(
                seen,
                if reads { open.clone() } else { Vec::new() },
                "{list:?}"
            );
        }
        assert_eq!(a.own().entries(SHARE).count(), 40);
        assert_eq!(
            a.own()
                .all_entries()
                .filter(|(share, ..)| *share == SHARE)
                .count(),
            40
        );
        assert_eq!(a.own().entry(SHARE, &path("f07")), Some(file("text 7", 7)));
        let own = a.view().lookup(&path("f07")).unwrap().own;
        assert_eq!(
            own,
            Some((SHARE, path("f07"))),
            "the file itself stands for it"
        );
    }
    assert!(!a.reader_lists().set(SHARE, None).unwrap(), "nothing to do");
    let count = a.own().head().count;
    assert_eq!(count, 40, "no list is left over");
}

#[test]
fn changes_made_while_a_list_changes_are_published_once_and_correctly() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    for number in 0..5000 {
        put(&mut a, &format!("f{number:04}"), file("text", number));
    }
    assert!(a.reader_lists().set(SHARE, Some(&readers(&[2]))).unwrap());
    assert!(a.reader_lists().restate(), "it is done by pieces");
    put(&mut a, "f4999", file("newer", 9000));
    put(&mut a, "f0001", file("newer", 9000));
    assert!(a.own_mut().remove(SHARE, &path("f4998")) && a.own_mut().remove(SHARE, &path("f0002")));
    assert_eq!(a.own().entry(SHARE, &path("f4998")), None);
    while a.reader_lists().restate() {}
    share(&mut a, &mut b);
    assert_eq!(names(&mut b).len(), 4998);
    for name in ["f4999", "f0001"] {
        let found = b.view().lookup(&path(name)).unwrap();
        assert_eq!(found.kind, file("newer", 9000).kind);
    }
    assert!(
        a.own()
            .entries(SHARE)
            .all(|(path, _)| a.own().entry(SHARE, &path).is_some())
    );
}

#[test]
fn an_unchanged_list_keeps_its_key_even_with_an_invalid_reader() {
    let mut a = keyed(1);
    let mut list = readers(&[2]);
    // This key is the neutral element, so nothing can be sealed for it.
    let mut no_key = [0; 32];
    no_key[0] = 1;
    list.insert(NodeId::new(no_key));
    assert!(a.reader_lists().set(SHARE, Some(&list)).unwrap());
    while a.reader_lists().restate() {}
    for again in [&list, &readers(&[2])] {
        assert!(
            !a.reader_lists().set(SHARE, Some(again)).unwrap(),
            "{again:?}"
        );
    }
}

#[test]
fn lists_and_numbers_survive_a_restart() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "secret", file("bytes", 1));
    share(&mut a, &mut b);
    let restarted = |node: &mut Catalogue, number: u8| {
        let mut again = keyed(number);
        for write in node.storage().take_writes(usize::MAX) {
            let state = write.state.expect("nothing was forgotten");
            assert!(
                again
                    .storage()
                    .restore(write.author, state, write.puts)
                    .unwrap()
            );
        }
        again.set_live(id_of(3 - number), true).unwrap();
        again
    };
    let mut a = restarted(&mut a, 1);
    let mut b = restarted(&mut b, 2);
    assert_eq!(names(&mut b), ["secret"]);
    assert!(
        !b.view().contents().admits(&id_of(3), &hash("bytes")),
        "before anybody is heard of"
    );
    assert!(
        !a.reader_lists().set(SHARE, Some(&readers(&[2]))).unwrap(),
        "the same list"
    );
    while a.reader_lists().restate() {}
    put(&mut a, "later", file("later", 2));
    share(&mut a, &mut b);
    assert_eq!(names(&mut b), ["later", "secret"]);
    let mut c = keyed(3);
    share(&mut a, &mut c);
    assert_eq!(names(&mut c), [""; 0], "also what came after the restart");
}

#[test]
fn a_node_without_its_key_publishes_nothing_rather_than_openly() {
    let mut a = node(1, "a");
    assert!(a.reader_lists().set(SHARE, Some(&readers(&[2]))).is_err());
}

#[test]
fn a_name_sealed_twice_is_the_same_log_for_readers_and_others() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "one", file("one", 1));
    let other = ShareKey::derive(&key(1), b"mine");
    let number = ShareIndex::FIRST_SEALED;
    // One record is from a forger with the key of its own share, and one opens to nothing.
    for path in [other.seal(b"", b"one"), vec![7; 60]] {
        let entry = vec![1; 90].into();
        let path = path.into();
        let sealed = Fact::Sealed {
            number,
            path,
            entry,
        };
        a.own_mut().record(sealed).unwrap();
    }
    share(&mut a, &mut b);
    share(&mut a, &mut c);
    assert_eq!(names(&mut b), ["one"]);
    for node in [&b, &c] {
        let head = node.logs().head_of(&id_of(1)).expect("the log is whole");
        assert_eq!(head.head, a.own().head());
    }
}

#[test]
fn an_entry_that_cannot_be_decrypted_is_the_same_log_for_readers_and_others() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "one", file("one", 1));
    put(&mut a, "two", file("two", 1));
    share(&mut a, &mut b);
    assert_eq!(names(&mut b), ["one", "two"]);
    let Fact::Sealed { number, path, .. } = part(&a, all_of(&id_of(1)), 99).records.remove(1).fact
    else {
        panic!("an entry of a share with readers is sealed")
    };
    let entry = vec![1; 90].into();
    a.own_mut()
        .record(Fact::Sealed {
            number,
            path,
            entry,
        })
        .unwrap();
    share(&mut a, &mut b);
    share(&mut a, &mut c);
    assert_eq!(names(&mut b), ["two"]);
    for node in [&b, &c] {
        let head = node.logs().head_of(&id_of(1)).expect("the log is whole");
        assert_eq!(head.head, a.own().head());
    }
}

#[test]
fn a_log_publishes_nothing_in_clear_under_numbers_of_sealed_shares() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    put(&mut a, "one", file("one", 1));
    let head = signed(&mut a);
    b.set_live(id_of(1), true).unwrap();
    let pull = pull_of(b.handle_head(&head));
    let entry = file("one", 1);
    let bad = [
        Fact::Entry {
            share: ShareIndex::FIRST_SEALED,
            path: path("one"),
            entry,
        },
        Fact::Sealed {
            number: SHARE,
            path: vec![1; 40].into(),
            entry: vec![1; 40].into(),
        },
        Fact::Sealed {
            number: ShareIndex::FIRST_SEALED,
            path: vec![1; 6000].into(),
            entry: vec![1; 40].into(),
        },
        Fact::Readers {
            number: ShareIndex::FIRST_SEALED,
            share: SHARE,
            salt: [0; 16],
            readers: Vec::new(),
        },
    ];
    for fact in bad {
        let mut part = part(&a, pull, 99);
        part.records = vec![Record { sequence: 1, fact }];
        let refused = b.intake().apply(id_of(1), part);
        assert_eq!(refused, Err(crate::CatalogueError::BadFact));
    }
}

/// The share of one node in the random walk: its files with their contents, and its readers.
struct Sharing {
    files: BTreeSet<u8>,
    readers: Option<BTreeSet<NodeId>>,
}

const WALKERS: u8 = 4;
const WALK_STEPS: usize = 60;

fn name_of(author: u8, file: u8) -> String {
    format!("{author}-{file}")
}

fn step(rng: &mut StdRng, nodes: &mut [Catalogue], sharing: &mut [Sharing]) {
    let at = rng.random_range(0..nodes.len());
    let (author, number) = (&mut nodes[at], at as u8 + 1);
    let file_number = rng.random_range(0..6);
    let name = name_of(number, file_number);
    match rng.random_range(0..5) {
        0 | 1 => {
            author
                .own_mut()
                .put(SHARE, &path(&name), file(&name, 1))
                .unwrap();
            sharing[at].files.insert(file_number);
        }
        2 => {
            author.own_mut().remove(SHARE, &path(&name));
            sharing[at].files.remove(&file_number);
        }
        3 => {
            let some = (1..=WALKERS).filter(|_| rng.random_bool(0.5));
            let some: BTreeSet<NodeId> = some.map(id_of).collect();
            sharing[at].readers = rng.random_bool(0.8).then_some(some);
            let readers = sharing[at].readers.as_ref();
            author.reader_lists().set(SHARE, readers).unwrap();
        }
        _ => drop(author.reader_lists().restate()),
    }
}

/// Transfers every log to every node, through nodes in random order.
fn exchange(rng: &mut StdRng, nodes: &mut [Catalogue]) {
    for node in nodes.iter_mut() {
        while node.reader_lists().restate() {}
        signed(node);
    }
    let count = nodes.len();
    for author in 0..count {
        let mut has_it = vec![author];
        let id = id_of(author as u8 + 1);
        while has_it.len() < count {
            let to = rng.random_range(0..count);
            let from = has_it[rng.random_range(0..has_it.len())];
            if has_it.contains(&to) {
                continue;
            }
            let [from, node] = nodes.get_disjoint_mut([from, to]).unwrap();
            node.set_live(id, true).unwrap();
            bring(&id, from, node, 1 + rng.random_range(0..5));
            has_it.push(to);
        }
    }
}

#[test]
fn any_sequence_of_list_changes_shows_readers_everything_and_others_nothing() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut nodes: Vec<Catalogue> = (1..=WALKERS).map(keyed).collect();
        let empty = |_| Sharing {
            files: BTreeSet::new(),
            readers: None,
        };
        let mut sharing: Vec<Sharing> = (1..=WALKERS).map(empty).collect();
        for _ in 0..6 {
            for _ in 0..WALK_STEPS / 6 {
                step(&mut rng, &mut nodes, &mut sharing);
            }
            exchange(&mut rng, &mut nodes);
            for (at, node) in nodes.iter_mut().enumerate() {
                assert_as_shared(seed, at, node, &sharing);
            }
        }
    }
}

fn assert_as_shared(seed: u64, at: usize, node: &mut Catalogue, sharing: &[Sharing]) {
    let me = id_of(at as u8 + 1);
    let may = |author: usize, who: &NodeId| {
        let readers = sharing[author].readers.as_ref();
        id_of(author as u8 + 1) == *who || readers.is_none_or(|readers| readers.contains(who))
    };
    let mut expected = Vec::new();
    let view = node.view();
    for (author, its) in sharing.iter().enumerate() {
        for file in &its.files {
            let name = name_of(author as u8 + 1, *file);
            let bytes = hash(&name);
            if !may(author, &me) {
                let found = view.contents().get(&bytes);
                assert_eq!(found, None, "seed {seed}: node {at} finds {name}");
                continue;
            }
            for asker in (1..=WALKERS).map(id_of) {
                let admitted = view.contents().admits(&asker, &bytes);
                assert_eq!(
                    admitted,
                    may(author, &asker),
                    "seed {seed}: node {at}, {name}"
                );
            }
            expected.push(name);
        }
    }
    expected.sort();
    assert_eq!(names(node), expected, "seed {seed}: node {at}");
}

/// Creates the entry of a file that replaces others.
fn replacing(content: &str, seconds: i64, replaced: &[&str]) -> Entry {
    Entry {
        replaces: replaced.iter().map(|content| hash(content)).collect(),
        ..file(content, seconds)
    }
}

#[test]
fn a_sealed_version_replaces_a_sealed_one_of_an_open_share_for_its_readers() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    assert!(a.own_mut().set_open(SHARE, true).unwrap());
    read_by(&mut a, Some(&[2, 3]));
    put(&mut a, "f", file("old", 1));
    read_by(&mut b, Some(&[1, 3]));
    put(&mut b, "f", replacing("new", 2, &["old"]));
    assert!(b.logs().is_of_first_form(&id_of(2)));
    for from in [&mut a, &mut b] {
        share(from, &mut c);
    }
    assert_eq!(names(&mut c), ["f"]);
    // The list of readers changes, and all entries move to another number.
    read_by(&mut a, Some(&[3]));
    read_by(&mut b, Some(&[3]));
    for from in [&mut a, &mut b] {
        share(from, &mut c);
        while c.advance(5) {}
    }
    assert_eq!(names(&mut c), ["f"]);
    assert_eq!(shown(&c.view(), "f"), Some(hash("new")));
    assert!(a.own_mut().set_open(SHARE, false).unwrap());
    share(&mut a, &mut c);
    while c.advance(5) {}
    assert_eq!(names(&mut c), ["f", "f~n1"]);
}

#[test]
fn a_clear_replacement_or_deletion_hides_nothing_in_a_share_with_readers() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    assert!(a.own_mut().set_open(SHARE, true).unwrap());
    read_by(&mut a, Some(&[3]));
    put(&mut a, "f", file("old", 1));
    put(&mut a, "g", file("old", 1));
    // The node is no reader, and has guessed the content.
    put(&mut b, "f", replacing("new", 2, &["old"]));
    let deleted = b.own_mut().delete(&path("g"), vec![hash("old")], time(2));
    assert!(deleted.unwrap());
    for from in [&mut a, &mut b] {
        share(from, &mut c);
    }
    assert_eq!(names(&mut c), ["f", "f~n1", "g"]);
    let standing = c.view().standing(&path("g"));
    assert!(standing.others && standing.closed);
}

#[test]
fn a_reader_names_no_private_content_in_the_clear() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "f", file("secret", 1));
    share(&mut a, &mut b);
    assert_eq!(b.view().contents_at(&path("f")).hashes, [hash("secret")]);
    put(&mut b, "f", replacing("new", 2, &["secret", "other"]));
    let own = b.own().entry(SHARE, &path("f")).unwrap();
    assert_eq!(own.replaces, [hash("other")]);
    let deleted = b
        .own_mut()
        .delete(&path("f"), vec![hash("secret")], time(2));
    assert_eq!(deleted, Ok(false));
    // A sealed entry may name it, until all nodes may read the share.
    let other = ShareIndex(1);
    let list = readers(&[1]);
    b.reader_lists().set(other, Some(&list)).unwrap();
    let entry = replacing("new", 2, &["secret"]);
    b.own_mut().put(other, &path("f"), entry).unwrap();
    let own = b.own().entry(other, &path("f")).unwrap();
    assert_eq!(own.replaces, [hash("secret")]);
    b.reader_lists().set(other, None).unwrap();
    while b.reader_lists().restate() {}
    let own = b.own().entry(other, &path("f")).unwrap();
    assert_eq!(own.replaces, []);
    let text = format!("{:?}", part_of_own(&mut b));
    assert!(!text.contains(&format!("{:?}", hash("secret"))));
}

fn part_of_own(node: &mut Catalogue) -> LogPart {
    let author = signed(node).head.author;
    node.logs().part(&author, 0, 0).unwrap()
}
