//! Promises about statements that were named, and that nobody has shown.

use super::forged::{admission, expulsion, forged};
use super::*;

/// What a node that goes, or another of it, says of its end: this statement is the last that stands.
fn ends(node: u8, term: u32, last: &SignedStatement) -> Claim {
    Claim::Expel {
        node: id(node),
        term,
        stands: Some(last.id()),
    }
}

/// Node 2 let in 4, an administrator too, and one of the two has named as 4's last statement one
/// that nobody has seen: it lets in 9.
fn hidden(by: u8) -> (Ledger, SignedStatement) {
    let mut ledger = cluster();
    ledger.admit(&key(2), id(4), name(4), true, 35).unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, by, 1, ends(4, 1, &held_back))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
    (ledger, held_back)
}

#[test]
fn a_statement_that_was_named_and_never_seen_lets_nobody_in_after_the_expulsion() {
    for by in [2, 4] {
        let (mut ledger, held_back) = hidden(by);
        let stated = ledger.expel(&key(1), id(2), 50).unwrap();
        assert_eq!(
            stated.len(),
            2,
            "the word on 2, and the end of what 4 could say"
        );
        for statements in [
            vec![held_back.clone()],
            ledger.statements().cloned().collect(),
        ] {
            let mut heard = ledger.clone();
            heard.merge(statements);
            heard.merge([held_back.clone()]);
            assert_eq!(members(&heard), [1, 3], "{by}");
        }
        // who hears of it first comes to the same
        let mut first = Ledger::of(cluster().statements().cloned().collect()).unwrap();
        first.merge(ledger.statements().skip(1).cloned().chain([held_back]));
        assert_eq!(members(&first), [1, 3], "{by}");
    }
}

#[test]
fn nor_by_those_whom_one_had_let_in_that_goes_further_down() {
    let mut ledger = cluster();
    ledger.admit(&key(2), id(4), name(4), true, 35).unwrap();
    ledger.admit(&key(4), id(6), name(6), true, 36).unwrap();
    let held_back = forged(&ledger, 6, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 6, 1, ends(6, 1, &held_back))]);
    ledger.expel(&key(1), id(2), 50).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3, 4]);
}

#[test]
fn nor_what_one_that_is_put_out_had_said_in_a_membership_before() {
    let mut ledger = cluster();
    ledger.admit(&key(1), id(4), name(4), true, 35).unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 2, 1, ends(4, 1, &held_back))]);
    ledger.admit(&key(1), id(4), name(4), true, 40).unwrap();
    ledger.admit(&key(4), id(5), name(5), false, 41).unwrap();
    ledger.expel(&key(1), id(4), 50).unwrap();
    ledger.expel(&key(1), id(2), 51).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3, 5]);
}

#[test]
fn a_word_that_is_said_again_names_nothing_that_was_not_seen() {
    let mut ledger = cluster();
    ledger.admit(&key(1), id(4), name(4), true, 35).unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 2, 1, ends(4, 1, &held_back))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
    let stated = ledger.expel_with_admitted(&key(1), id(2), 50).unwrap();
    assert_eq!(stated.len(), 2, "4 stays out");
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn however_many_have_named_what_nobody_has_seen_who_let_them_in_is_put_out() {
    let mut ledger = cluster();
    let mut all = Vec::new();
    for n in 40..100 {
        ledger.merge([forged(&ledger, 2, 1, admission(n, true, None, 1))]);
        let held_back = forged(&ledger, n, 1, admission(9, true, None, 1));
        ledger.merge([forged(&ledger, n, 1, ends(n, 1, &held_back))]);
        all.push(held_back);
    }
    let stated = ledger.expel(&key(1), id(2), 50).unwrap();
    assert_eq!(stated.len(), 61);
    ledger.merge(all);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn of_one_whose_statements_are_all_known_nothing_more_is_said_and_all_stands() {
    let mut ledger = cluster();
    ledger.admit(&key(2), id(4), name(4), true, 35).unwrap();
    ledger.admit(&key(4), id(5), name(5), false, 36).unwrap();
    ledger.expel(&key(4), id(4), 40).unwrap();
    ledger.merge([forged(&ledger, 2, 1, expulsion(7, 1))]);
    let stated = ledger.expel(&key(1), id(2), 50).unwrap();
    assert_eq!((stated.len(), members(&ledger)), (1, vec![1, 3, 5]));
    assert!(ledger.has_resigned(&id(4)));
}
