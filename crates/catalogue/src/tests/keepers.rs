//! Tests of the offers to keep files.

use super::*;
use crate::Keeper;
use p2pfs_proto::wire::native::record::{KEEP_PATHS_MAX, KEEP_PATHS_MAX_BYTES, KeepOffer};

fn offer(paths: &[&str], full: bool) -> KeepOffer {
    KeepOffer {
        paths: paths.iter().map(|it| path(it)).collect(),
        all: false,
        full,
    }
}

#[test]
fn offers_of_all_nodes_are_in_the_view_and_the_last_one_counts() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    put(&mut a, "f", file("f", 1));
    for (paths, full) in [(&["docs"][..], false), (&["docs", "photos"], true)] {
        assert!(a.own_mut().set_keep_offer(offer(paths, full)).unwrap());
        assert!(!a.own_mut().set_keep_offer(offer(paths, full)).unwrap());
        share(&mut a, &mut b);
    }
    assert_eq!(a.own().head().count, 2);
    let keeper = |is_live| Keeper {
        node: id(1),
        offer: offer(&["docs", "photos"], true),
        is_live,
    };
    assert_eq!(a.view().keepers(), [keeper(true)]);
    assert_eq!(b.view().keepers(), [keeper(true)]);
    assert!(!a.logs().is_of_first_form(&id(1)));
    b.set_live(id(1), false).unwrap();
    assert!(b.is_dirty());
    assert_eq!(b.view().keepers(), [keeper(false)]);
}

#[test]
fn offer_without_paths_withdraws_the_former_one() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    assert!(!a.own_mut().set_keep_offer(offer(&[], false)).unwrap());
    a.own_mut().set_keep_offer(offer(&["docs"], false)).unwrap();
    share(&mut a, &mut b);
    assert_eq!(b.view().keepers().len(), 1);
    assert!(a.own_mut().set_keep_offer(offer(&[], false)).unwrap());
    share(&mut a, &mut b);
    assert_eq!(a.own().head().count, 0);
    assert!(b.view().keepers().is_empty());
}

#[test]
fn offer_ends_with_the_log_of_its_author() {
    let (mut a, mut b) = (node(1, "a"), node(2, "b"));
    a.own_mut().set_keep_offer(offer(&[""], false)).unwrap();
    share(&mut a, &mut b);
    b.set_live(id(1), false).unwrap();
    b.forget(&id(1));
    while b.advance(5) {}
    assert!(b.view().keepers().is_empty());
}

#[test]
fn offer_beyond_its_limits_is_refused() {
    let mut a = node(1, "a");
    let many = |count: usize| KeepOffer {
        paths: (0..count).map(|at| path(&format!("p{at:03}"))).collect(),
        ..KeepOffer::default()
    };
    assert!(a.own_mut().set_keep_offer(many(KEEP_PATHS_MAX)).unwrap());
    assert!(
        a.own_mut()
            .set_keep_offer(many(KEEP_PATHS_MAX + 1))
            .is_err()
    );
    let name = "n".repeat(250);
    let names = KEEP_PATHS_MAX_BYTES / (2 * name.len() + 3) + 1;
    assert!(names < KEEP_PATHS_MAX);
    let long = KeepOffer {
        paths: (0..names)
            .map(|at| path(&format!("{at:02}{name}/{name}")))
            .collect(),
        ..KeepOffer::default()
    };
    assert!(a.own_mut().set_keep_offer(long).is_err());
    assert!(
        a.own_mut()
            .set_keep_offer(offer(&["b", "a"], false))
            .is_err()
    );
    assert_eq!(a.view().keepers()[0].offer, many(KEEP_PATHS_MAX));
}
