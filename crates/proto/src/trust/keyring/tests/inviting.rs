//! Tests of admission by an invitation.

use super::*;
use crate::trust::Grant;

#[test]
fn a_change_after_an_invitation_was_checked_is_checked_again_before_admission() {
    let (elsewhere, one) = (founded(9), founded(1));
    let node = key(2).node_id();
    let known = one.known();
    let welcome = || one.welcome(&key(1), node, name(2), &Grant::default(), &known);
    let welcomed = welcome().unwrap();
    assert_eq!(welcomed.secret, one.newest());
    assert_eq!(welcomed.chain, one.chain_of(&node));
    one.expel(&key(1), node).unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    // A node that has joined another cluster does not give that cluster's secret for an older
    // invitation.
    let me = key(1).node_id();
    elsewhere.admit(&key(9), me, name(1), true).unwrap();
    let secret = EpochSecret::new(*elsewhere.newest().as_bytes());
    one.join(&me, secret, &elsewhere.chain_of(&me), &BTreeSet::new())
        .unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    assert!(!one.is_member(&node));
}
