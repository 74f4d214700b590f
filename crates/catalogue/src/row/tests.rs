//! Tests of `row`: stored entries and their size in memory.

use super::*;
use p2pfs_proto::wire::native::record::FILE_MAX_BYTES;

#[test]
fn a_row_is_one_allocation_and_its_pointer_is_thin() {
    assert!(size_of::<Facts>() <= 64, "{}", size_of::<Facts>());
    assert_eq!(size_of::<Row>(), 8);
}

#[test]
fn the_seal_of_a_name_is_kept_with_it() {
    let stamp = Stamp {
        author: NodeIndex(3),
        sequence: 7,
    };
    let number = ShareIndex::FIRST_SEALED;
    let entry = Entry {
        kind: Kind::Symlink {
            target: bytes::Bytes::from_static(b"../there"),
        },
        mtime: Timestamp::default(),
        version_time: Timestamp {
            seconds: 1,
            nanoseconds: 2,
        },
        sent_by: None,
        replaces: Vec::new(),
    };
    let place = (DirId(9), &b"name"[..]);
    let row = Row::entry_sealed(stamp, number, place, &entry, &seal(b"path", b"entry"));
    assert_eq!(row.to_entry(), Some(entry));
    assert_eq!(row.seal(), Some((&b"path"[..], &b"entry"[..])));
    let gone = Row::removed_sealed(stamp, number, place, &seal(b"path", b""));
    assert_eq!(
        (gone.name(), gone.seal()),
        (&b"name"[..], Some((&b"path"[..], &b""[..])))
    );
    let opaque = Row::opaque(stamp, Class::Sealed, number, b"path", b"entry");
    assert_eq!(opaque.seal(), Some((&b"path"[..], &b"entry"[..])));
    assert!(!opaque.has_name() && !opaque.gives_content() && !opaque.is_tombstone());
}

#[test]
fn an_entry_round_trips_through_a_row() {
    let stamp = Stamp {
        author: NodeIndex(3),
        sequence: 7,
    };
    let time = |seconds, nanoseconds| Timestamp {
        seconds,
        nanoseconds,
    };
    let plain = time(1_700_000_000, 999_999_999);
    let odd = [
        time(-5, 1),
        time(1 << 34, 0),
        time(i64::MIN, 0),
        time(i64::MAX, 7),
    ];
    let last = time((1 << 34) - 1, 999_999_999);
    let file = |size_bytes| Kind::File {
        hash: ContentHash::of(b"x"),
        size_bytes,
        executable: true,
    };
    let large = ContentHash::of(b"large");
    let have = Row::have(stamp, &large, FILE_MAX_BYTES);
    assert_eq!((have.size_bytes(), have.hash()), (FILE_MAX_BYTES, large));
    for kind in [
        file(1),
        file((1 << SIZE_BITS) - 1),
        file(1 << SIZE_BITS),
        file(FILE_MAX_BYTES),
        Kind::Directory,
        Kind::Symlink {
            target: bytes::Bytes::from_static(b"../there"),
        },
    ] {
        let sent_by = match kind {
            Kind::File { .. } => Some(Sender::Peer("bob".to_owned())),
            _ => None,
        };
        let times = [Timestamp::default(), plain, last].into_iter().chain(odd);
        for (mtime, version_time) in times
            .clone()
            .flat_map(|a| times.clone().map(move |b| (a, b)))
        {
            let replaces = match kind {
                Kind::File { .. } => vec![large; usize::try_from(mtime.seconds % 33).unwrap_or(0)],
                _ => Vec::new(),
            };
            let entry = Entry {
                kind: kind.clone(),
                mtime,
                version_time,
                sent_by: sent_by.clone(),
                replaces,
            };
            let row = Row::entry(stamp, ShareIndex(2), DirId(9), &[0xff; 255], &entry);
            assert_eq!(row.is_of_first_form(), entry.replaces.is_empty());
            assert_eq!(row.to_entry(), Some(entry.clone()));
            assert_eq!(row.name(), [0xff; 255]);
            let (number, place) = (ShareIndex::FIRST_SEALED, (DirId(9), &b"name"[..]));
            let seal = seal(b"path", b"entry");
            let sealed = Row::entry_sealed(stamp, number, place, &entry, &seal);
            assert_eq!(sealed.to_entry(), Some(entry));
            assert_eq!(sealed.seal(), Some((&b"path"[..], &b"entry"[..])));
        }
    }
}

#[test]
fn a_deletion_and_the_terms_of_a_share_round_trip_through_a_row() {
    let stamp = Stamp {
        author: NodeIndex(3),
        sequence: 7,
    };
    let hashes = [ContentHash::of(b"a"), ContentHash::of(b"b")];
    for seconds in [-5, 5, 1 << 40] {
        let time = Timestamp {
            seconds,
            nanoseconds: 6,
        };
        let gone = Row::gone(stamp, (DirId(9), b"name"), &hashes, time);
        assert_eq!((gone.name(), gone.version_time()), (&b"name"[..], time));
        assert_eq!(gone.replaces(), hashes.map(|hash| *hash.as_bytes()));
        assert!(gone.has_name() && !gone.is_named_object() && !gone.is_tombstone());
        assert_eq!((gone.to_entry(), gone.content()), (None, None));
    }
    let open = Row::terms(stamp, ShareIndex(4), true);
    let closed = Row::terms(stamp, ShareIndex(4), false);
    assert!(!open.has_name() && !open.is_tombstone() && closed.is_tombstone());
    assert_eq!(open.share, ShareIndex(4));
}
