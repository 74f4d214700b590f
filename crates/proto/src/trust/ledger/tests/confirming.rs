//! Tests of nodes that left by themselves and keep a copy of their keys.

use super::forged::{admission, expulsion, forged};
use super::*;

/// Number of farewells that one node signs, so that some sort before its first one and some behind
/// it.
const FAREWELLS: u64 = 12;

/// Returns a ledger in which node 2 admitted 4 and left.
fn left() -> Ledger {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(2), 50).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 4]);
    ledger
}

/// Returns statements by node 2 with a kept copy of its state: an admission, and farewells that
/// name it.
fn kept_copy(ledger: &Ledger, claim: impl Fn(StatementId) -> Claim) -> Vec<SignedStatement> {
    let admitted = forged(ledger, 2, 1, admission(9, true, None, 1));
    let last = admitted.id();
    let farewells = (0..FAREWELLS).map(|at_s| {
        let statement = Statement {
            at_s,
            before: Some(last),
            claim: claim(last),
            ..admitted.statement.clone()
        };
        statement.sign(&key(2))
    });
    farewells.chain([admitted.clone()]).collect()
}

#[test]
fn later_farewells_of_a_node_that_left_let_nothing_more_stand() {
    for term in [0, 1, 2, u32::MAX] {
        let ledger = left();
        let farewell = |last| Claim::Expel {
            node: id(2),
            term,
            stands: Some(last),
        };
        let shown = kept_copy(&ledger, farewell);
        let mut heard = ledger.clone();
        heard.merge(shown.iter().cloned());
        assert_eq!(members(&heard), [1, 3, 4], "{term}");
        let mut reversed = ledger.clone();
        reversed.merge(shown.into_iter().rev());
        assert_eq!(members(&reversed), [1, 3, 4], "{term}");
        assert_eq!(reversed.digest(), heard.digest(), "{term}");
    }
}

#[test]
fn a_rotation_confirms_farewells_so_that_later_ones_change_nothing() {
    let mut ledger = left();
    let stated = ledger.signer(&key(1), 60).rotate(EpochId([7; 8])).unwrap();
    assert_eq!(stated.iter().filter(|it| ledger.confirms(it)).count(), 1);
    assert!(
        ledger.departed().has_resigned(&id(2)),
        "it is not shown as expelled"
    );
    assert!(DepartureIndex::of(&ledger).words_against(&id(2)).is_empty());
    for claim in [expulsion(2, 1), expulsion(2, 2), expulsion(4, 1)] {
        let mut heard = ledger.clone();
        heard.merge(kept_copy(&ledger, |_| claim.clone()));
        assert_eq!(members(&heard), [1, 3, 4], "{claim:?}");
        assert_eq!(heard.epoch(), Some(EpochId([7; 8])));
    }
    // A departure is confirmed once.
    let stated = ledger.signer(&key(1), 70).rotate(EpochId([8; 8])).unwrap();
    assert_eq!(stated.len(), 1);
}

#[test]
fn a_confirmed_leave_brings_back_no_node_that_the_leaver_had_expelled() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(2), 40).expel(id(4)).unwrap();
    ledger.signer(&key(2), 50).expel(id(2)).unwrap();
    ledger.signer(&key(1), 60).rotate(EpochId([7; 8])).unwrap();
    ledger.merge([forged(&ledger, 2, 1, expulsion(2, 1))]);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn a_statement_held_back_before_leaving_is_worth_nothing_after_a_rotation() {
    let mut ledger = cluster();
    let hidden = forged(&ledger, 2, 1, admission(9, true, None, 1));
    let farewell = Claim::Expel {
        node: id(2),
        term: 1,
        stands: Some(hidden.id()),
    };
    ledger.merge([forged(&ledger, 2, 1, farewell)]);
    assert_eq!(members(&ledger), [1, 3]);
    ledger.signer(&key(1), 60).rotate(EpochId([7; 8])).unwrap();
    ledger.merge([hidden]);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn a_node_that_left_can_be_expelled_by_a_senior() {
    let mut ledger = left();
    let refused = ledger.signer(&key(4), 60).expel(id(2));
    assert!(matches!(refused, Err(TrustError::SeniorLeft { .. })));
    let word = ledger.signer(&key(1), 60).expel(id(2)).unwrap().remove(0);
    assert_eq!(ledger.departed().expulsion(&id(2)), Some(&word));
    assert!(!ledger.departed().has_resigned(&id(2)));
    ledger.merge(kept_copy(&ledger, |_| expulsion(2, 1)));
    assert_eq!(members(&ledger), [1, 3, 4]);
    let again = ledger.signer(&key(1), 70).expel(id(2));
    assert!(matches!(again, Err(TrustError::NoMember)));
}

#[test]
fn two_statements_of_one_node_on_one_membership_hold_together() {
    let mut ledger = cluster();
    let first = ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    let last = ledger
        .signer(&key(2), 41)
        .admit(id(5), name(5), false)
        .unwrap();
    for at_s in 0..FAREWELLS {
        let mut both = ledger.clone();
        for stands in [&first, &last] {
            let stands = stands.last().map(SignedStatement::id);
            let claim = Claim::Expel {
                node: id(2),
                term: 1,
                stands,
            };
            both.signer(&key(1), 50 + at_s).state(claim).unwrap();
        }
        assert_eq!(members(&both), [1, 3, 4], "{at_s}");
    }
}

proptest! {
    #[test]
    fn no_statement_signed_after_leaving_lets_a_node_in_in_any_order(
        said in proptest::collection::vec(
            (0u8..4, 1u8..12, 0u32..4, 0u32..4, any::<bool>(), 0usize..40, 0usize..40),
            1..20,
        ),
    ) {
        let ledger = left();
        let before = members(&ledger);
        let mut known: Vec<_> = ledger.statements.by(&id(2)).map(|(id, _)| id).collect();
        let mut shown = Vec::new();
        for (kind, node, term, by_term, admin, place, stands) in said {
            let stands = known.get(stands % (known.len() + 1)).copied();
            let claim = match kind {
                0 | 1 => admission(node, admin, None, term),
                _ => Claim::Expel { node: id(2), term, stands },
            };
            let statement = Statement {
                before: known.get(place % (known.len() + 1)).copied(),
                ..forged(&ledger, 2, by_term, claim).statement
            };
            let signed = statement.sign(&key(2));
            known.push(signed.id());
            shown.push(signed);
        }
        let mut one = ledger.clone();
        for signed in &shown {
            one.merge([signed.clone()]);
            prop_assert!(members(&one).iter().all(|it| before.contains(it)));
        }
        let mut other = ledger;
        other.merge(shown.into_iter().rev());
        prop_assert_eq!(other.digest(), one.digest());
        prop_assert_eq!(members(&other), members(&one));
    }
}

#[test]
fn a_farewell_is_confirmed_when_it_is_received_whole_and_then_withdraws_nothing() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger.signer(&key(2), 45).expel(id(4)).unwrap();
    ledger.signer(&key(2), 50).expel(id(2)).unwrap();
    assert!(ledger.has_unconfirmed(&id(1)));
    let before = ledger.digest();
    assert!(
        ledger.signer(&key(3), 60).confirm_received().is_empty(),
        "not by a junior or a plain member"
    );
    assert_eq!(ledger.digest(), before);
    let stated = ledger.signer(&key(1), 60).confirm_received();
    assert_eq!(stated.len(), 1);
    assert!(ledger.confirms(&stated[0]) && ledger.departed().has_resigned(&id(2)));
    assert!(
        ledger.signer(&key(1), 61).confirm_received().is_empty(),
        "once"
    );
    // a farewell that lets less stand brings back no node that was expelled
    let founded = ledger.cluster();
    let withdrawing = forged(
        &ledger,
        2,
        1,
        Claim::Expel {
            node: id(2),
            term: 1,
            stands: Some(founded),
        },
    );
    let members_before = members(&ledger);
    ledger.merge([withdrawing]);
    assert_eq!(members(&ledger), members_before);
}

/// Returns a ledger in which node 2 left and was admitted again, junior to administrator 4, who
/// expelled it.
fn expelled_by_a_former_junior() -> (Ledger, Ledger) {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(2), 40).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    let readmitted = ledger.clone();
    ledger.signer(&key(4), 60).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 4]);
    (readmitted, ledger)
}

#[test]
fn a_farewell_of_a_later_membership_does_not_cancel_the_expulsion_by_a_former_junior() {
    let (readmitted, mut ledger) = expelled_by_a_former_junior();
    for rotates in [false, true] {
        if rotates {
            ledger.signer(&key(1), 70).rotate(EpochId([7; 8])).unwrap();
        }
        let hidden = forged(&readmitted, 2, 2, admission(9, true, None, 1));
        for term in [1, 2, 3, u32::MAX] {
            let farewell = Claim::Expel {
                node: id(2),
                term,
                stands: Some(hidden.id()),
            };
            let farewell = Statement {
                before: Some(hidden.id()),
                ..forged(&readmitted, 2, 2, farewell).statement
            };
            let shown = [hidden.clone(), farewell.sign(&key(2))];
            let mut heard = ledger.clone();
            heard.merge(shown.iter().cloned());
            assert_eq!(members(&heard), [1, 3, 4], "{term}");
            assert_eq!(heard.epoch(), ledger.epoch(), "{term}");
        }
    }
}

#[test]
fn a_farewell_that_withdraws_rotations_does_not_undo_a_later_one() {
    for rotated_by in [1, 4] {
        let mut ledger = cluster();
        ledger
            .signer(&key(1), 30)
            .admit(id(4), name(4), true)
            .unwrap();
        ledger.signer(&key(1), 35).rotate(EpochId([5; 8])).unwrap();
        ledger.signer(&key(2), 40).rotate(EpochId([6; 8])).unwrap();
        ledger.signer(&key(2), 50).expel(id(2)).unwrap();
        let fresh = EpochId([7; 8]);
        ledger.signer(&key(rotated_by), 60).rotate(fresh).unwrap();
        assert_eq!(ledger.epoch(), Some(fresh));
        let withdrawing = forged(&ledger, 2, 1, expulsion(2, 1));
        ledger.merge([withdrawing]);
        assert_eq!(ledger.epoch(), Some(fresh), "rotated by {rotated_by}");
    }
}

#[test]
fn a_rotation_confirms_a_first_membership_although_a_junior_ended_the_second() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(1), 32)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(2), 35).expel(id(5)).unwrap();
    ledger.signer(&key(2), 40).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger.signer(&key(4), 60).expel(id(2)).unwrap();
    ledger.signer(&key(1), 70).rotate(EpochId([7; 8])).unwrap();
    let before = members(&ledger);
    assert_eq!(before, [1, 3, 4]);
    for term in [1, 2, 3] {
        for by_term in [1, 2] {
            let mut heard = ledger.clone();
            heard.merge([forged(&ledger, 2, by_term, expulsion(2, term))]);
            assert_eq!(members(&heard), before, "{term} {by_term}");
        }
    }
}

#[test]
fn closing_an_open_membership_brings_back_no_node_that_its_holder_had_expelled() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(2), 41)
        .admit(id(5), name(5), false)
        .unwrap();
    let unseen = StatementId([9; 16]);
    let expelling = Statement {
        before: Some(unseen),
        ..forged(&ledger, 4, 1, expulsion(5, 1)).statement
    };
    let expelling = expelling.sign(&key(4));
    let farewell = Claim::Expel {
        node: id(4),
        term: 1,
        stands: Some(expelling.id()),
    };
    let farewell = forged(&ledger, 4, 1, farewell);
    ledger.merge([expelling, farewell]);
    ledger.signer(&key(2), 50).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    ledger.signer(&key(1), 60).rotate(EpochId([7; 8])).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    assert_eq!(ledger.epoch(), Some(EpochId([7; 8])));
}
