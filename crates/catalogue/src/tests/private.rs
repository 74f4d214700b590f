//! Which nodes receive the bytes of private contents.

use std::collections::BTreeMap;

use super::readers::{hash, id_of, keyed, names, read_by};
use super::*;
use crate::{LogWrite, Mark};

#[test]
fn a_restricted_shares_bytes_go_only_to_its_readers_even_from_a_cache() {
    let [mut a, mut b, mut c] = [keyed(1), keyed(2), keyed(3)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "secret", file("bytes", 1));
    put(&mut c, "open", file("open", 1));
    for node in [&mut b, &mut c] {
        share(&mut a, node);
    }
    share(&mut c, &mut b);
    for node in [&mut a, &mut b] {
        let view = node.view();
        assert!(
            view.contents().admits(&id_of(1), &hash("bytes"))
                && view.contents().admits(&id_of(2), &hash("bytes"))
        );
        assert!(
            !view.contents().admits(&id_of(3), &hash("bytes"))
                && view.contents().is_private(&hash("bytes"))
        );
        assert!(
            view.contents().admits(&id_of(3), &hash("open"))
                && view.contents().admits(&id_of(3), &hash("other"))
        );
    }
    // A node that learnt the hash lists the content openly.
    put(&mut c, "claimed", file("bytes", 1));
    share(&mut c, &mut a);
    share(&mut c, &mut b);
    assert!(!a.view().contents().admits(&id_of(3), &hash("bytes")));
    assert!(!b.view().contents().admits(&id_of(3), &hash("bytes")));
    assert_eq!(
        b.own_mut().have(hash("bytes"), 5),
        Ok(false),
        "of it nothing is said"
    );
    // A content that its author also shares openly is open where it is shared.
    let other = ShareIndex(1);
    assert!(
        a.own_mut()
            .put(other, &path("also"), file("bytes", 1))
            .unwrap()
    );
    assert!(a.view().contents().admits(&id_of(3), &hash("bytes")));
}

#[test]
fn an_entry_without_its_sealed_name_is_served_to_no_node_until_its_author_opens_it() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    read_by(&mut a, Some(&[2]));
    put(&mut a, "gone", file("gone", 1));
    put(&mut a, "kept", file("kept", 1));
    share(&mut a, &mut b);
    a.own_mut().remove(SHARE, &path("gone"));
    share(&mut a, &mut b);
    let mark = Mark {
        content: hash("gone"),
        author: id_of(1),
    };
    assert!(!b.view().contents().admits(&id_of(2), &hash("gone")) && b.storage().marks() == [mark]);
    let written = |node: &mut Catalogue| -> Vec<(Mark, bool)> {
        let writes = node.storage().take_writes(99).into_iter();
        writes.flat_map(|write| write.marks).collect()
    };
    assert_eq!(written(&mut b), [(mark, true)], "it outlives a restart");
    read_by(&mut a, None);
    share(&mut a, &mut b);
    assert!(b.view().contents().admits(&id_of(9), &hash("kept")));
    let mut anew = keyed(2);
    anew.storage().restore_marks([mark]);
    assert!(!anew.view().contents().admits(&id_of(1), &hash("gone")));
    anew.storage().drop_marks(&[mark]);
    assert!(anew.view().contents().admits(&id_of(1), &hash("gone")));
    // An open listing by another node keeps it private. An open listing by its author does not.
    let mut c = keyed(3);
    put(&mut c, "claimed", file("gone", 1));
    share(&mut c, &mut b);
    assert!(!b.view().contents().admits(&id_of(3), &hash("gone")));
    put(&mut a, "open", file("gone", 1));
    share(&mut a, &mut b);
    assert!(b.view().contents().admits(&id_of(3), &hash("gone")) && b.storage().marks().is_empty());
    assert!(written(&mut b).contains(&(mark, false)));
}

#[test]
fn a_cached_content_that_becomes_private_is_no_longer_announced() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    put(&mut a, "f", file("bytes", 1));
    share(&mut a, &mut b);
    assert!(b.own_mut().have(hash("bytes"), 5).unwrap());
    read_by(&mut a, Some(&[2]));
    share(&mut a, &mut b);
    assert!(b.own().has_haves_to_review());
    b.own_mut().review_haves().unwrap();
    assert_eq!(b.own_mut().have(hash("bytes"), 5), Ok(false));
    assert_eq!(b.own().haves().count(), 0);
    // A content that is cached here stays listed here, and on no other node.
    let mut c = keyed(3);
    read_by(&mut a, Some(&[2, 3]));
    for node in [&mut b, &mut c] {
        share(&mut a, node);
        node.set_live(id_of(1), false).unwrap();
    }
    share(&mut b, &mut c);
    assert_eq!(
        (names(&mut b), names(&mut c)),
        (vec!["f".to_owned()], vec![])
    );
    assert_eq!(b.view().totals().unique_bytes, 5);
    b.own_mut().have_not(hash("bytes"));
    assert_eq!(names(&mut b), [""; 0]);
}

#[test]
fn restricting_a_content_shared_openly_elsewhere_limits_only_its_readers_caches() {
    let [mut owner, mut bad] = [keyed(1), keyed(2)];
    let [mut reader, mut other] = [keyed(3), keyed(4)];
    let public = hash("public");
    put(&mut owner, "f", file("public", 1));
    read_by(&mut bad, Some(&[3]));
    put(&mut bad, "mine", file("public", 1));
    for node in [&mut reader, &mut other] {
        share(&mut owner, node);
        node.own_mut().have(public, 6).unwrap();
        share(&mut bad, node);
    }
    share(&mut bad, &mut owner);
    let anybody = id_of(9);
    for node in [&mut owner, &mut other] {
        assert!(node.view().contents().admits(&anybody, &public));
        assert!(!node.own().has_haves_to_review() && !node.view().contents().is_private(&public));
    }
    let view = reader.view();
    assert!(
        !view.contents().admits(&anybody, &public) && view.contents().admits(&id_of(2), &public)
    );
    assert_eq!(names(&mut reader), ["f", "mine"], "it is read as before");
    assert!(
        reader
            .view()
            .contents()
            .holders(&public)
            .contains(&id_of(1))
    );
    // A removal and an open listing by another node do not make it open. An own share of it does.
    bad.own_mut().remove(SHARE, &path("mine"));
    share(&mut bad, &mut reader);
    assert!(!reader.view().contents().admits(&anybody, &public));
    put(&mut reader, "own", file("public", 1));
    assert!(reader.view().contents().admits(&anybody, &public));
}

#[test]
fn a_content_that_becomes_restricted_leaves_no_cache_until_it_is_open_again() {
    let [mut a, mut reader, mut other] = [keyed(1), keyed(2), keyed(3)];
    let [bytes, also] = [hash("bytes"), hash("also")];
    put(&mut a, "f", file("bytes", 1));
    put(&mut a, "g", file("also", 1));
    for node in [&mut reader, &mut other] {
        share(&mut a, node);
        node.own_mut().have(bytes, 5).unwrap();
        node.own_mut().have(also, 4).unwrap();
    }
    put(&mut other, "copy", file("also", 1));
    share(&mut other, &mut reader);
    read_by(&mut a, Some(&[2]));
    for node in [&mut reader, &mut other] {
        share(&mut a, node);
        node.own_mut().review_haves().unwrap();
        assert!(!node.own().haves().any(|(hash, _)| hash == bytes));
        assert!(!node.view().contents().admits(&id_of(9), &bytes));
    }
    assert!(
        reader.view().contents().admits(&id_of(2), &bytes)
            && !other.view().contents().admits(&id_of(2), &bytes)
    );
    // A node that could read it and shares it itself may continue to do so.
    assert!(
        other.view().contents().admits(&id_of(9), &also)
            && !reader.view().contents().admits(&id_of(9), &also)
    );
    read_by(&mut a, None);
    for node in [&mut reader, &mut other] {
        share(&mut a, node);
        node.own_mut().review_haves().unwrap();
        assert!(
            node.own().haves().any(|(hash, _)| hash == bytes),
            "it is said again"
        );
        assert!(
            node.view().contents().admits(&id_of(9), &bytes) && node.storage().marks().is_empty()
        );
    }
}

#[test]
fn a_file_deleted_from_an_open_share_is_not_a_secret() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    put(&mut a, "f", file("bytes", 1));
    let other = ShareIndex(1);
    a.own_mut().put(other, &path("g"), file("more", 1)).unwrap();
    read_by(&mut a, Some(&[2]));
    share(&mut a, &mut b);
    a.own_mut().remove(other, &path("g"));
    share(&mut a, &mut b);
    assert!(b.storage().marks().is_empty() && b.view().contents().admits(&id_of(9), &hash("more")));
}

/// Returns a later life of node 1, with the same readers and without its former files.
fn later_life(of: &Catalogue) -> Catalogue {
    let mut again = keyed(1);
    again.own_mut().recover(of.own().head().epoch);
    read_by(&mut again, Some(&[2]));
    put(&mut again, "other", file("other", 1));
    again
}

/// Restores a catalogue of node 2 from writes.
fn restored(writes: Vec<LogWrite>) -> Catalogue {
    let mut again = keyed(2);
    let mut marks = BTreeMap::new();
    for write in writes {
        marks.extend(write.marks);
        if let Some(state) = write.state {
            let puts = write.puts;
            again.storage().restore(write.author, state, puts).unwrap();
        }
    }
    let marks = marks.into_iter().filter(|(_, is_added)| *is_added);
    again.storage().restore_marks(marks.map(|(mark, _)| mark));
    again
}

#[test]
fn a_mark_made_in_a_later_step_is_stored_without_another_change() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    read_by(&mut a, Some(&[2]));
    (0..9).for_each(|n| put(&mut a, &format!("f{n}"), file(&format!("f{n}"), 1)));
    share(&mut a, &mut b);
    b.logs.merge.settling.step_records = 1;
    share(&mut later_life(&a), &mut b);
    let writes = |node: &mut Catalogue| node.storage().take_writes(usize::MAX);
    let mut stored = writes(&mut b);
    assert!(!stored.iter().any(|write| write.author == id_of(1)));
    while b.advance(1) {}
    stored.extend(writes(&mut b));
    assert!(stored.iter().any(|write| write.author == id_of(1)));
    // A mark that follows after the log was stored is the only change.
    let mark = Mark {
        content: hash("later"),
        author: id_of(1),
    };
    b.logs.merge.sealed.new_marks.insert(mark, true);
    let last = writes(&mut b);
    assert_eq!(last.len(), 1, "the mark is stored at once");
    stored.extend(last);
    let mut again = restored(stored);
    for name in ["f0", "f8", "later"] {
        assert!(
            !again.view().contents().admits(&id_of(3), &hash(name)),
            "{name}"
        );
    }
    assert!(writes(&mut b).is_empty());
}

#[test]
fn after_a_log_was_stored_in_part_no_content_without_a_name_is_given() {
    let [mut a, mut b] = [keyed(1), keyed(2)];
    read_by(&mut a, Some(&[2]));
    (0..9).for_each(|n| put(&mut a, &format!("f{n}"), file(&format!("f{n}"), 1)));
    share(&mut a, &mut b);
    let mut again = restored(b.storage().take_writes(3));
    assert!(!again.view().contents().admits(&id_of(3), &hash("f8")));
    let mut again = restored(b.storage().take_writes(usize::MAX));
    assert!(again.view().contents().admits(&id_of(3), &hash("public")));
}
