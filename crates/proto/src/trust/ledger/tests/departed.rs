//! Tests of the reasons why nodes are out, and of the knowledge that a readmission needs.

use super::admitted::crowd;
use super::forged::{admission, expulsion, forged};
use super::*;

/// Returns whether a node that knew `known` may readmit the node now.
fn may_come(known: &Ledger, now: &Ledger, node: u8) -> bool {
    let needed = DepartureIndex::of(now).words_against(&id(node));
    needed.is_subset(&counting_expulsions(known))
}

#[test]
fn a_removed_node_changes_no_others_reason_by_a_certificate_it_signs() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 35)
        .admit(id(9), name(9), true)
        .unwrap();
    ledger.signer(&key(9), 40).expel(id(9)).unwrap();
    let invited = ledger.clone();
    let word = ledger.signer(&key(1), 50).expel(id(4)).unwrap().remove(0);
    for term in [2, 3, u32::MAX] {
        ledger.merge([forged(&ledger, 9, 1, admission(4, false, None, term))]);
        assert_eq!(ledger.departed().expulsion(&id(4)), Some(&word), "{term}");
        assert!(!may_come(&invited, &ledger, 4), "{term}");
    }
    assert!(may_come(&ledger, &ledger, 4));
}

#[test]
fn a_node_removed_with_another_does_not_return_by_claiming_that_it_left() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 20)
        .admit(id(9), name(9), true)
        .unwrap();
    ledger
        .signer(&key(1), 25)
        .expel_with_admitted(id(9))
        .unwrap();
    ledger
        .signer(&key(2), 30)
        .admit(id(4), name(4), false)
        .unwrap();
    let invited = ledger.clone();
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert!(!may_come(&invited, &ledger, 4));
    for term in [1, 2, u32::MAX] {
        ledger.merge([forged(&ledger, 4, 1, expulsion(4, term))]);
        ledger.merge([forged(&ledger, 9, 1, admission(4, false, None, term))]);
        assert!(!may_come(&invited, &ledger, 4), "{term}");
        assert!(!ledger.departed().has_resigned(&id(4)), "{term}");
    }
    assert!(may_come(&ledger, &ledger, 4));
}

#[test]
fn a_node_that_left_can_use_any_invitation_whoever_was_removed_since() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 30)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger.signer(&key(1), 40).expel(id(4)).unwrap();
    let before = cluster();
    assert!(!may_come(&before, &ledger, 4));
    ledger
        .signer(&key(2), 50)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger.signer(&key(4), 60).expel(id(4)).unwrap();
    ledger.signer(&key(1), 70).expel(id(2)).unwrap();
    assert!(may_come(&before, &ledger, 4) && ledger.departed().has_resigned(&id(4)));
    assert!(may_come(&before, &ledger, 3) && may_come(&before, &ledger, 9));
    // This fails once the statements of its issuer are void.
    ledger
        .signer(&key(1), 80)
        .expel_with_admitted(id(2))
        .unwrap();
    assert!(!may_come(&before, &ledger, 4));
}

#[test]
fn a_node_readmitted_repeatedly_is_removed_each_time() {
    let mut ledger = cluster();
    for turn in 0..20 {
        ledger.signer(&key(3), 50 + turn).expel(id(3)).unwrap();
        assert_eq!(members(&ledger), [1, 2], "{turn}");
        ledger
            .signer(&key(1), 50 + turn)
            .admit(id(3), name(3), false)
            .unwrap();
    }
    ledger.signer(&key(3), 99).expel(id(3)).unwrap();
    // A node that receives everything at once gets the same result, in any order.
    let all: Vec<_> = ledger.statements().cloned().collect();
    for turn in 0..4 {
        let mut others = all[1..].to_vec();
        others.sort_by_key(|it| (it.statement.by == id(1)) == (turn % 2 == 0));
        if turn >= 2 {
            others.reverse();
        }
        let mut heard = Ledger::of(vec![all[0].clone()]).unwrap();
        heard.merge(others);
        assert_eq!(heard.digest(), ledger.digest(), "{turn}");
    }
    // It can leave no more often than it was admitted.
    for number in (0..30).chain(0..30) {
        ledger.merge([forged(&ledger, 3, 1, expulsion(3, number))]);
    }
    let most = FAREWELLS_PER_MEMBERSHIP_MAX * 21;
    assert_eq!(ledger.statements.by(&id(3)).count(), most);
}

#[test]
fn removed_nodes_are_computed_once_for_each_change_regardless_of_queries() {
    let mut ledger = cluster();
    let crowd = crowd(&ledger, 300);
    let out: Vec<_> = crowd.iter().filter_map(SignedStatement::subject).collect();
    ledger.merge(crowd);
    ledger.signer(&key(3), 50).expel(id(3)).unwrap();
    let before: *const _ = ledger.departed();
    let word = ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    let found: *const _ = ledger.departed();
    assert_ne!(found, before);
    for node in &out {
        assert_eq!(ledger.departed().expulsion(node), word.first());
        assert!(!ledger.departed().has_resigned(node));
    }
    assert!(ledger.departed().has_resigned(&id(3)));
    assert_eq!(ledger.departed().by_time().len(), out.len() + 2);
    assert_eq!(ledger.departed() as *const _, found);
}
