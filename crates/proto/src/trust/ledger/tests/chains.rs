//! Tests of the certificates that a node presents.

use super::*;

#[test]
fn a_node_admitted_by_one_that_left_presents_itself_and_admits_others() {
    let mut ledger = cluster();
    ledger.signer(&key(1), 40).expel(id(1)).unwrap();
    assert_eq!(members(&ledger), [2, 3]);
    ledger
        .signer(&key(2), 50)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    for (node, length) in [(2, 2), (3, 2), (4, 3), (5, 4)] {
        let chain = ledger.chain(&id(node));
        assert_eq!(chain.len(), length, "{node}");
        let alone = Ledger::of(chain).unwrap();
        assert!(alone.is_member(&id(node), 100), "{node}");
        // A node that joined by it and receives the rest knows as much as all others.
        let mut told = alone;
        told.merge(ledger.statements().cloned());
        assert_eq!(members(&told), [2, 3, 4, 5]);
    }
}

#[test]
fn a_node_admitted_by_one_that_was_expelled_admits_others() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger
        .signer(&key(4), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4, 5]);
    let alone = Ledger::of(ledger.chain(&id(5))).unwrap();
    assert!(alone.is_member(&id(5), 100));
    // A node whose statements are void admits no node.
    ledger
        .signer(&key(1), 70)
        .expel_with_admitted(id(2))
        .unwrap();
    assert!(ledger.chain(&id(4)).is_empty() && ledger.chain(&id(5)).is_empty());
    let refused = ledger.check_admits(&id(4), 100);
    assert!(matches!(refused, Err(TrustError::NotAdmin)));
}

#[test]
fn mutual_certificates_still_lead_to_the_founding() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(4), 50)
        .admit(id(3), name(3), true)
        .unwrap();
    for node in 2..=4 {
        let chain = ledger.chain(&id(node));
        assert!((2..=4).contains(&chain.len()), "{node}");
        ledger.check_admits(&id(node), 100).unwrap();
        assert!(Ledger::of(chain).unwrap().is_member(&id(node), 100));
    }
}

#[test]
fn a_founder_that_left_and_was_readmitted_admits_others() {
    let mut ledger = cluster();
    ledger.signer(&key(1), 40).expel(id(1)).unwrap();
    ledger
        .signer(&key(2), 50)
        .admit(id(1), name(1), true)
        .unwrap();
    ledger
        .signer(&key(1), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    for node in [1, 5] {
        let chain = ledger.chain(&id(node));
        assert!(Ledger::of(chain).unwrap().is_member(&id(node), 100));
    }
    assert_eq!(members(&ledger), [1, 2, 3, 5]);
}
