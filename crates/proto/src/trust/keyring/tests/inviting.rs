//! Tests of admission by an invitation.

use super::*;

#[test]
fn a_change_after_an_invitation_was_checked_is_checked_again_before_admission() {
    let (elsewhere, one) = (founded(9), founded(1));
    let node = key(2).node_id();
    let known = Known::of(one.ledger().as_ref());
    let welcome = || one.admit(node, name(2), Grant::default(), known.clone());
    let welcomed = welcome().unwrap();
    assert_eq!(welcomed.secret, one.epochs().newest());
    assert_eq!(welcomed.chain, one.view().certificates_of(&node));
    one.state(&key(1), |it| it.expel(node)).unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    // A node that has joined another cluster does not give that cluster's secret for an older
    // invitation.
    let me = key(1).node_id();
    elsewhere
        .state(&key(9), |it| it.admit(me, name(1), true))
        .unwrap();
    let secret = EpochSecret::new(*elsewhere.epochs().newest().as_bytes());
    let chain = elsewhere.view().certificates_of(&me);
    one.join(secret, &chain, &BTreeSet::new()).unwrap();
    assert!(matches!(welcome(), Err(TrustError::Overtaken)));
    assert!(!one.is_member(&node));
}
