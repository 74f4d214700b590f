//! Tests of a full ledger.

use super::admitted::crowd;
use super::forged::{admission, expulsion, forged};
use super::*;
use crate::trust::ledger::idle::idle_statements;

/// Returns a full ledger. It has statements that node 2 signed after its expulsion, which do not
/// count, and statements of its helper, which count.
fn full() -> Ledger {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 1))]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.merge(crowd(&ledger, STATEMENTS_PER_ADMIN_MAX));
    let mut before = None;
    let helpers: Vec<_> = (0..1900u64)
        .map(|number| {
            let statement = Statement {
                cluster: ledger.cluster(),
                by: id(9),
                by_term: 1,
                at_s: 1,
                before,
                claim: Claim::Rotate {
                    epoch: EpochId(number.to_be_bytes()),
                    number,
                },
            };
            let signed = statement.sign(&key(9));
            before = Some(signed.id());
            signed
        })
        .collect();
    ledger.merge(helpers);
    assert_eq!(ledger.statements.len(), STATEMENTS_OF_OTHERS_MAX);
    ledger
}

#[test]
fn a_removed_nodes_filling_yields_to_statements_that_count() {
    let mut ledger = full();
    let apart = ledger.clone();
    ledger
        .signer(&key(4), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    own(&mut ledger, 4, "docs", Some(5)).unwrap();
    ledger.signer(&key(4), 70).expel(id(9)).unwrap();
    ledger.signer(&key(4), 70).rotate(EpochId([4; 8])).unwrap();
    ledger.signer(&key(3), 80).expel(id(3)).unwrap();
    assert_eq!(members(&ledger), [1, 4, 5]);
    assert_eq!(ledger.statements.len(), STATEMENTS_OF_OTHERS_MAX);
    assert!(ledger.departed().has_resigned(&id(3)));
    // Another node gets the same result, in one step and after a restart.
    let told = merged(&apart, &ledger);
    let anew = Ledger::of(ledger.statements().cloned().collect()).unwrap();
    for other in [told, anew] {
        assert_eq!(other.digest(), ledger.digest());
        assert_eq!(members(&other), [1, 4, 5]);
        assert_eq!(other.epoch(), ledger.epoch());
        assert_eq!(owner(&other, "docs"), Some(id(5)));
    }
}

#[test]
fn a_full_ledger_refuses_statements_of_removed_nodes_and_void_ones() {
    let mut ledger = full();
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(9))
        .unwrap();
    let before = ledger.digest();
    for (by, by_term, claim) in [
        (2, 1, admission(10, true, None, 1)),
        (9, 1, admission(10, true, None, 1)),
        (4, 1, expulsion(1, 1)),
        (4, 2, admission(10, true, None, 1)),
        (3, 1, admission(10, true, None, 1)),
    ] {
        let refused = forged(&ledger, by, by_term, claim);
        assert!(ledger.merge([refused]).is_empty(), "{by}");
    }
    assert_eq!(ledger.digest(), before);
}

#[test]
fn statements_that_count_are_never_displaced() {
    let mut ledger = full();
    let (before, counted) = (ledger.clone(), ledger.evaluation.valid.clone());
    let idle = idle_statements(&before, STATEMENTS_MAX);
    assert_eq!(idle.len() + counted.len(), STATEMENTS_OF_OTHERS_MAX);
    for number in 0..20 {
        own(&mut ledger, 4, &number.to_string(), Some(3)).unwrap();
    }
    assert!(counted.is_subset(&ledger.evaluation.valid));
    assert_eq!(ledger.statements.len(), before.statements.len());
}

#[test]
fn a_founders_statement_in_a_full_ledger_displaces_nothing_at_the_next_start() {
    let mut ledger = full();
    for number in 0..20 {
        own(&mut ledger, 1, &number.to_string(), Some(3)).unwrap();
    }
    let count = ledger.statements.len();
    assert!(count > STATEMENTS_OF_OTHERS_MAX);
    let anew = Ledger::of(ledger.statements().cloned().collect()).unwrap();
    assert_eq!(anew.statements.len(), count);
    assert_eq!(anew.digest(), ledger.digest());
}

#[test]
fn the_names_in_a_statement_make_no_room_for_it() {
    let mut ledger = full();
    let last = last_of(&ledger, &id(2));
    let claim = Claim::Expel {
        node: id(9),
        term: 1,
        stands: last,
    };
    let named = forged(&ledger, 4, 1, claim);
    assert_eq!(ledger.merge([named]).len(), 1);
    assert!(last.is_some_and(|last| ledger.statements.contains(&last)));
    ledger
        .signer(&key(4), 60)
        .admit(id(2), name(2), true)
        .unwrap();
    own(&mut ledger, 2, "docs", Some(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    assert_eq!(ledger.statements.len(), STATEMENTS_OF_OTHERS_MAX);
}
