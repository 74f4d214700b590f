//! Promises about statements that no honest program signs, by keys with the right to say others.

use super::*;

/// What a node says, as no honest program would: `by_term` is the membership in which it says to
/// have said it.
fn forged(ledger: &Ledger, by: u8, by_term: u32, claim: Claim) -> SignedStatement {
    let statement = Statement {
        cluster: ledger.cluster(),
        by: id(by),
        by_term,
        at_s: 1,
        before: ledger.last_of(&id(by)),
        claim,
    };
    statement.sign(&key(by))
}

fn admission(node: u8, admin: bool, until_s: Option<u64>, term: u32) -> Claim {
    let (node, name) = (id(node), name(node));
    Claim::Admit {
        node,
        name,
        admin,
        until_s,
        term,
    }
}

fn expulsion(node: u8, term: u32) -> Claim {
    let (node, stands) = (id(node), None);
    Claim::Expel { node, term, stands }
}

#[test]
fn who_was_put_out_gets_in_by_no_membership_that_it_never_had() {
    for with_admitted in [false, true] {
        let mut ledger = cluster();
        ledger.admit(&key(2), id(4), name(4), true, 35).unwrap();
        match with_admitted {
            false => drop(ledger.expel(&key(1), id(2), 40).unwrap()),
            true => drop(ledger.expel_with_admitted(&key(1), id(2), 40).unwrap()),
        }
        let before = members(&ledger);
        for term in [0, 1, 2, 3, u32::MAX] {
            for claim in [
                admission(2, true, None, term),
                admission(9, true, None, 1),
                expulsion(1, term),
                expulsion(3, 1),
            ] {
                ledger.merge([forged(&ledger, 2, term, claim)]);
                assert_eq!(members(&ledger), before, "{term}");
            }
        }
        let chain = [admission(2, true, None, 2), admission(9, true, None, 1)];
        let chain = chain.map(|claim| forged(&ledger, 2, 2, claim));
        ledger.merge(chain);
        assert_eq!(members(&ledger), before);
    }
}

#[test]
fn who_is_let_in_again_without_the_right_has_not_the_one_of_before() {
    let mut ledger = cluster();
    ledger.expel(&key(1), id(2), 40).unwrap();
    ledger.admit(&key(1), id(2), name(2), false, 50).unwrap();
    for term in 1..=3 {
        ledger.merge([forged(&ledger, 2, term, admission(9, true, None, 1))]);
        ledger.merge([forged(&ledger, 2, term, admission(2, true, None, term))]);
    }
    assert_eq!(members(&ledger), [1, 2, 3]);
    assert!(!ledger.is_admin(&id(2), 100));
}

#[test]
fn what_did_not_stand_of_a_membership_does_not_after_the_end_of_the_next() {
    let mut ledger = cluster();
    let apart = ledger.clone();
    ledger.expel(&key(1), id(2), 40).unwrap();
    // it was said before it heard of that, or so it seems
    ledger.merge([forged(&apart, 2, 1, admission(9, true, None, 1))]);
    assert_eq!(members(&ledger), [1, 3]);
    ledger.admit(&key(1), id(2), name(2), true, 50).unwrap();
    ledger.admit(&key(2), id(5), name(5), false, 60).unwrap();
    ledger.expel(&key(1), id(2), 70).unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
}

#[test]
fn nobody_takes_by_a_certificate_what_another_gave() {
    for (admin, until_s) in [(false, None), (false, Some(1)), (true, Some(1))] {
        for term in [0, 1, 2, u32::MAX] {
            let mut ledger = cluster();
            for node in [1, 3] {
                let claim = admission(node, admin, until_s, term);
                ledger.merge([forged(&ledger, 2, 1, claim)]);
            }
            assert_eq!(members(&ledger), [1, 2, 3], "{admin} {until_s:?} {term}");
            assert!(ledger.is_admin(&id(1), 100));
            ledger.expel(&key(1), id(2), 50).unwrap();
            assert_eq!(members(&ledger), [1, 3], "{admin} {until_s:?} {term}");
        }
    }
}

#[test]
fn a_certificate_for_later_brings_back_nobody_who_is_put_out() {
    let mut ledger = cluster();
    for (node, admin) in [(3, true), (4, false), (5, true)] {
        for term in [1, 2, 7] {
            ledger.merge([forged(&ledger, 2, 1, admission(node, admin, None, term))]);
        }
    }
    for node in [3, 4, 5] {
        ledger.expel(&key(1), id(node), 50).unwrap();
    }
    assert_eq!(members(&ledger), [1, 2]);
    // and they can be let in again
    for node in [3, 4, 5] {
        ledger
            .admit(&key(1), id(node), name(node), false, 60)
            .unwrap();
    }
    assert_eq!(members(&ledger), [1, 2, 3, 4, 5]);
    assert!(!ledger.is_admin(&id(5), 100));
}

#[test]
fn a_key_that_can_be_let_in_no_more_is_named_as_such() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, admission(9, false, None, u32::MAX))]);
    ledger.expel(&key(1), id(9), 50).unwrap();
    assert_eq!(members(&ledger), [1, 2, 3]);
    let before = ledger.digest();
    let refused = ledger.admit(&key(1), id(9), name(9), false, 60);
    assert!(matches!(refused, Err(TrustError::KeyWorn)));
    assert_eq!(ledger.digest(), before);
}

#[test]
fn nobody_may_admit_who_is_not_seen_among_the_members() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 0))]);
    ledger.merge([forged(&ledger, 9, 0, admission(10, true, None, 1))]);
    ledger.merge([forged(&ledger, 9, 1, admission(10, true, None, 1))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
}

#[test]
fn certificates_from_far_down_take_nobodys_way_to_the_founding() {
    let mut ledger = cluster();
    let below: Vec<u8> = [2].into_iter().chain(100..130).collect();
    for pair in below.windows(2) {
        ledger.merge([forged(
            &ledger,
            pair[0],
            1,
            admission(pair[1], true, None, 1),
        )]);
    }
    for by in &below {
        for (node, term) in [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)] {
            ledger.merge([forged(&ledger, *by, 1, admission(node, true, None, term))]);
        }
    }
    for node in 1..=3 {
        let alone = Ledger::of(ledger.chain(&id(node))).unwrap();
        assert!(alone.is_member(&id(node), 100), "{node}");
    }
    ledger.admit(&key(1), id(4), name(4), false, 50).unwrap();
    ledger.admit(&key(2), id(5), name(5), false, 50).unwrap();
    ledger.expel(&key(1), id(2), 60).unwrap();
    assert!(ledger.is_member(&id(5), 100));
}

#[test]
fn a_senior_ends_a_later_membership_of_one_that_was_let_in_before_it() {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    ledger.admit(&key(1), id(2), name(2), true, 20).unwrap();
    ledger.admit(&key(1), id(3), name(3), true, 30).unwrap();
    ledger.expel(&key(1), id(2), 40).unwrap();
    ledger.admit(&key(1), id(2), name(2), true, 50).unwrap();
    ledger.expel(&key(3), id(2), 60).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    // and nobody ends what a founder that has left had said
    ledger.expel(&key(1), id(1), 70).unwrap();
    ledger.merge([forged(&ledger, 3, 1, expulsion(1, 1))]);
    ledger.merge([forged(&ledger, 3, 1, expulsion(1, 9))]);
    assert_eq!(members(&ledger), [3]);
}

#[test]
fn a_number_beyond_all_others_keeps_nobody_from_the_last_word() {
    let mut ledger = cluster();
    for number in [2, 77, u64::MAX] {
        let epoch = EpochId([6; 8]);
        ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        let (path, node, term) = (b"docs".to_vec(), Some(id(2)), 1);
        let claim = Claim::Own {
            path,
            node,
            term,
            number,
        };
        ledger.merge([forged(&ledger, 2, 1, claim)]);
    }
    ledger.rotate(&key(1), EpochId([7; 8]), 50).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([7; 8])));
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    ledger.expel(&key(1), id(2), 60).unwrap();
    ledger.rotate(&key(1), EpochId([8; 8]), 60).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([8; 8])));
}
