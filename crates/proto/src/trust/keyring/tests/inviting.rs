//! Tests of admission by an invitation.

use super::*;
use crate::trust::{Grant, Known};

#[test]
fn a_change_after_an_invitation_was_checked_is_checked_again_before_admission() {
    let (elsewhere, one) = (founded(9), founded(1));
    let node = key(2).node_id();
    let known = Known::of(one.ledger().as_deref());
    let welcome = || Welcome::admit(&one, &key(1), node, name(2), &Grant::default(), &known);
    let welcomed = welcome().unwrap();
    assert_eq!(welcomed.secret, one.epochs().newest());
    assert_eq!(welcomed.chain, one.proofs().of_membership(&node));
    one.state(&key(1), |it| it.expel(node)).unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    // A node that has joined another cluster does not give that cluster's secret for an older
    // invitation.
    let me = key(1).node_id();
    elsewhere
        .state(&key(9), |it| it.admit(me, name(1), true))
        .unwrap();
    let secret = EpochSecret::new(*elsewhere.epochs().newest().as_bytes());
    one.join(
        &me,
        secret,
        &elsewhere.proofs().of_membership(&me),
        &BTreeSet::new(),
    )
    .unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    assert!(!one.is_member(&node));
}
