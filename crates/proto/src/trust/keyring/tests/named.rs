//! Tests that the epoch of a cluster's first secret is named, so that a node without the secret can
//! request it.

use super::*;

fn load(directory: &Path, n: u8) -> TestKeyring {
    TestKeyring::load_or_create(directory, &key(n), &name(n), 100).unwrap()
}

fn lose_secret(directory: &Path) {
    fs::remove_file(directory.join(SECRET_FILE)).unwrap();
}

#[test]
fn a_node_that_lost_its_secret_gets_the_one_of_a_cluster_that_never_rotated() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (one, two) = (load(first.path(), 1), load(second.path(), 2));
    join(&one, 1, &two, 2);
    drop(two);
    lose_secret(second.path());
    let two = load(second.path(), 2);
    assert_ne!(two.epochs().newest(), one.epochs().newest());
    meet(&two, &one);
    assert_eq!(two.epochs().newest(), one.epochs().newest());
    two.tick(100 + EPOCH_SWITCH_S);
    assert_eq!(two.epochs().sealing(), one.epochs().sealing());
    assert_eq!(
        load(second.path(), 2).epochs().sealing(),
        one.epochs().sealing()
    );
}

#[test]
fn an_administrator_that_lost_the_secret_gives_the_others_a_new_one() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (one, two) = (load(first.path(), 1), load(second.path(), 2));
    join(&one, 1, &two, 2);
    meet(&two, &one);
    let before = two.epochs().sealing();
    drop(one);
    lose_secret(first.path());
    let one = load(first.path(), 1);
    assert_eq!(one.view().wanted_epoch(), None);
    meet(&two, &one);
    meet(&two, &one);
    assert_eq!(two.epochs().newest(), one.epochs().newest());
    assert_ne!(two.epochs().newest(), before);
}

#[test]
fn an_unnamed_secret_is_named_at_the_next_start_of_an_administrator() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    // The state as earlier versions left it.
    let ledger = Ledger::found(&key(1), name(1), 50);
    let statements = SignedStatement::encode_all(ledger.statements());
    file::create(&first.path().join(LEDGER_FILE), &statements).unwrap();
    let secret = EpochSecret::random();
    file::create(&first.path().join(SECRET_FILE), &line(&secret)).unwrap();
    let (one, two) = (load(first.path(), 1), load(second.path(), 2));
    assert_eq!(*one.epochs().sealing(), secret);
    assert_eq!(one.ledger().unwrap().epoch(), Some(secret.id()));
    // The epoch is named once, and only by an administrator.
    assert_eq!(
        load(first.path(), 1).ledger().unwrap().history(),
        one.ledger().unwrap().history()
    );
    join(&one, 1, &two, 2);
    assert_eq!(
        load(second.path(), 2).ledger().unwrap().history(),
        two.ledger().unwrap().history()
    );
}
