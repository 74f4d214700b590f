//! Tests of the audit trail.

use super::*;

#[test]
fn statements_within_one_second_are_reported_in_their_order() {
    let mut ledger = cluster();
    for turn in 0..40 {
        let owner = (turn % 2 == 0).then(|| id(3));
        ledger
            .signer(&key(2), 40)
            .own(b"docs".to_vec(), owner)
            .unwrap();
    }
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    let told = ledger.history();
    let times = told.iter().map(|(signed, _)| signed.statement.at_s);
    assert!(times.is_sorted());
    let numbers = told
        .iter()
        .filter_map(|(signed, _)| match signed.statement.claim {
            Claim::Own { number, .. } => Some(number),
            _ => None,
        });
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    assert_eq!(told.len(), ledger.statements().count());
}

#[test]
fn seniority_follows_admission_regardless_of_the_issuers_clocks() {
    for (first, second) in [(2, 4), (4, 2)] {
        // The clock was set back between the two, or stood still.
        for then in [30, 40] {
            let mut ledger = Ledger::found(&key(1), name(1), 10);
            let mut admit = |n: u8, at_s| ledger.signer(&key(1), at_s).admit(id(n), name(n), true);
            admit(first, 40).unwrap();
            admit(second, then).unwrap();
            let refused = ledger.signer(&key(second), 50).expel(id(first));
            assert!(matches!(refused, Err(TrustError::Senior { .. })));
            ledger.signer(&key(first), 50).expel(id(second)).unwrap();
            assert_eq!(members(&ledger), [1, first]);
        }
    }
}
