//! What an audit reads.

use super::*;

#[test]
fn what_a_node_did_within_one_second_is_told_in_the_order_in_which_it_did_it() {
    let mut ledger = cluster();
    for turn in 0..40 {
        let owner = (turn % 2 == 0).then(|| id(3));
        ledger.own(&key(2), b"docs".to_vec(), owner, 40).unwrap();
    }
    ledger.admit(&key(1), id(4), name(4), false, 40).unwrap();
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
