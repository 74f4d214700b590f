//! Limits of a record, a part of a log and a node's budget: values at, below and above each.

use super::*;
use crate::facts::check_fact;
use crate::{Budgets, Cost, PART_MAX_BYTES, PART_MAX_RECORDS, budget};
use p2pfs_proto::wire::native::link::LINK_TARGET_MAX_BYTES;
use p2pfs_proto::wire::native::record::{
    EntitledReader, FILE_MAX_BYTES, Fact, PATH_MAX_DEPTH, READERS_MAX, REPLACES_MAX,
    SEALED_MAX_BYTES, SENDER_MAX_BYTES, SHARES_MAX, Sender,
};

fn entry(name: &str, kind: Kind, sent_by: Option<Sender>) -> Fact {
    let entry = Entry {
        kind,
        mtime: time(1),
        version_time: time(1),
        sent_by,
        replaces: Vec::new(),
    };
    Fact::Entry {
        share: SHARE,
        path: path(name),
        entry,
    }
}

fn sized(size_bytes: u64) -> Kind {
    Kind::File {
        hash: hash("x"),
        size_bytes,
        executable: false,
    }
}

/// Returns values below a limit, at it and above it, and whether each is accepted.
fn around(limit: usize) -> [(usize, bool); 3] {
    [(limit - 1, true), (limit, true), (limit + 1, false)]
}

#[test]
fn a_fact_is_accepted_at_each_limit_and_refused_beyond() {
    for (depth, fits) in around(PATH_MAX_DEPTH) {
        let deep = vec!["d"; depth].join("/");
        let fact = entry(&deep, Kind::Directory, None);
        assert_eq!(check_fact(&fact).is_ok(), fits, "{depth} directories");
    }
    for (length, fits) in around(LINK_TARGET_MAX_BYTES) {
        let target = Bytes::from(vec![b't'; length]);
        let fact = entry("l", Kind::Symlink { target }, None);
        assert_eq!(
            check_fact(&fact).is_ok(),
            fits,
            "a target of {length} bytes"
        );
    }
    for (length, fits) in around(SENDER_MAX_BYTES) {
        let sender = Sender::Peer("s".repeat(length));
        let fact = entry("f", sized(1), Some(sender));
        assert_eq!(
            check_fact(&fact).is_ok(),
            fits,
            "a sender of {length} bytes"
        );
    }
    for (number, fits) in [(SHARES_MAX - 1, true), (SHARES_MAX, false)] {
        let share = ShareIndex(number as u16);
        let path = path("f");
        let removed = Fact::Removed { share, path };
        assert_eq!(check_fact(&removed).is_ok(), fits, "share {number}");
        let terms = Fact::Terms { share, open: true };
        assert_eq!(check_fact(&terms).is_ok(), fits, "share {number}");
    }
    for (count, fits) in around(REPLACES_MAX) {
        let replaces = vec![hash("x"); count];
        let gone = Fact::Gone {
            path: path("f"),
            replaces: replaces.clone(),
            time: time(1),
        };
        assert_eq!(check_fact(&gone).is_ok(), fits, "{count} deleted contents");
        for (kind, may_replace) in [(sized(1), true), (Kind::Directory, false)] {
            let mut fact = entry("f", kind, None);
            if let Fact::Entry { entry, .. } = &mut fact {
                entry.replaces.clone_from(&replaces);
            }
            let fits = fits && may_replace;
            assert_eq!(check_fact(&fact).is_ok(), fits, "{count} replaced contents");
        }
    }
    // Without contents it is a withdrawn deletion.
    for (name, fits) in [("", false), ("f", true)] {
        let gone = Fact::Gone {
            path: SharedPath::new(name.as_bytes()).unwrap(),
            replaces: Vec::new(),
            time: time(1),
        };
        assert_eq!(check_fact(&gone).is_ok(), fits);
    }
    for (size_bytes, fits) in [
        (FILE_MAX_BYTES - 1, true),
        (FILE_MAX_BYTES, true),
        (FILE_MAX_BYTES + 1, false),
    ] {
        let fact = entry("f", sized(size_bytes), None);
        assert_eq!(check_fact(&fact).is_ok(), fits, "{size_bytes} bytes");
    }
}

#[test]
fn limits_of_readers_and_sealed_bytes_are_inclusive() {
    let number = ShareIndex::FIRST_SEALED;
    let reader = |n: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        EntitledReader {
            node: NodeId::new(key),
            key: ([1; 32], [2; 16]),
        }
    };
    for (count, fits) in around(READERS_MAX) {
        let fact = Fact::Readers {
            number,
            share: SHARE,
            salt: [3; 16],
            // The list also has the author.
            readers: (0..=count).map(reader).collect(),
        };
        assert_eq!(check_fact(&fact).is_ok(), fits, "{count} readers");
    }
    for (length, fits) in around(SEALED_MAX_BYTES) {
        let sealed = |length| Bytes::from(vec![4; length]);
        for (path, entry) in [(length, 1), (1, length)] {
            let fact = Fact::Sealed {
                number,
                path: sealed(path),
                entry: sealed(entry),
            };
            assert_eq!(check_fact(&fact).is_ok(), fits, "{path} and {entry} bytes");
        }
    }
}

#[test]
fn limits_of_records_and_bytes_in_a_part_are_inclusive() {
    for (count, is_whole) in around(PART_MAX_RECORDS) {
        let mut author = pulls::author_of(count as i64);
        let pull = pull_of(pulls::watcher().handle_head(&signed(&mut author)));
        let whole = author.logs().part(&id(1), pull.epoch, 0).unwrap();
        assert_eq!(whole.last, is_whole, "{count}");
        assert_eq!(whole.records.len(), count.min(PART_MAX_RECORDS));
        let forced = part(&author, pull, count);
        let mut watcher = pulls::watcher();
        pull_of(watcher.handle_head(&signed(&mut author)));
        let taken = watcher.intake().apply(id(1), forced);
        assert_eq!(taken.is_ok(), is_whole, "{count}: {taken:?}");
    }
    let mut author = node(1, "x");
    for n in 0..600 {
        let long = format!("{n:03}{}", format!("/{}", "n".repeat(250)).repeat(15));
        put(&mut author, &long, file("x", 1));
    }
    let pull = pull_of(pulls::watcher().handle_head(&signed(&mut author)));
    let first = part(&author, pull, PART_MAX_RECORDS);
    let length = postcard::to_stdvec(&first.records).unwrap().len();
    // The estimate leaves some room.
    assert!(!first.last && length <= PART_MAX_BYTES, "{length}");
    assert!(length > PART_MAX_BYTES / 2, "{length}");
}

#[test]
fn default_budgets_match_the_manual() {
    let Budgets { author, total } = Budgets::default();
    let one = Cost {
        bytes: budget::AUTHOR_MAX_BYTES,
        directories: budget::AUTHOR_MAX_DIRECTORIES,
        replaced: budget::AUTHOR_MAX_REPLACED,
    };
    let all = Cost {
        bytes: budget::TOTAL_MAX_BYTES,
        directories: budget::TOTAL_MAX_DIRECTORIES,
        replaced: budget::TOTAL_MAX_REPLACED,
    };
    assert_eq!((author, total), (one, all));
}
