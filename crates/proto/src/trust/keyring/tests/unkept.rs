//! Tests of a keyring that cannot write to disk.

use super::*;
use crate::trust::STATEMENTS_PER_ADMIN_MAX;

/// A file that cannot be replaced, as on a full disk, because a directory has its name.
struct Unwritable {
    path: PathBuf,
    aside: PathBuf,
}

impl Unwritable {
    fn make(path: PathBuf) -> Self {
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        Self { path, aside }
    }

    fn mend(self) {
        fs::remove_dir(&self.path).unwrap();
        fs::rename(&self.aside, &self.path).unwrap();
    }
}

#[test]
fn a_statement_that_cannot_be_stored_is_not_made_and_works_once_the_disk_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let keyring = load();
    let id = |n| key(n).node_id();
    keyring
        .state(&key(1), |it| it.admit(id(2), name(2), true))
        .unwrap();
    let (_told, before) = (keyring.take_news(), keyring.ledger().unwrap().history());
    let disk = Unwritable::make(directory.path().join(LEDGER_FILE));
    for refused in [
        keyring.state(&key(1), |it| it.expel(id(2))),
        keyring.state(&key(1), |it| it.expel_with_admitted(id(2))),
        keyring.state(&key(1), |it| it.admit(id(3), name(3), false)),
        keyring.state(&key(1), |it| it.own(b"docs".to_vec(), Some(id(2)))),
    ] {
        assert!(matches!(refused, Err(TrustError::File { .. })));
    }
    assert!(keyring.is_member(&id(2)) && !keyring.is_member(&id(3)));
    assert_eq!(keyring.ledger().unwrap().history(), before);
    assert!(keyring.take_news().is_empty(), "others are told nothing");
    disk.mend();
    assert_eq!(load().ledger().unwrap().history(), before);
    keyring.state(&key(1), |it| it.expel(id(2))).unwrap();
    assert!(!keyring.is_member(&id(2)) && !load().is_member(&id(2)));
    assert_eq!(keyring.take_news().len(), 1);
}

#[test]
fn received_statements_count_even_if_they_cannot_be_stored() {
    let directory = tempfile::tempdir().unwrap();
    let one = founded(1);
    let member = TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    join(&one, 1, &member, 2);
    join(&one, 1, &founded(3), 3);
    meet(&member, &one);
    one.take_news();
    one.state(&key(1), |it| it.expel(key(3).node_id())).unwrap();
    let word = one.take_news().remove(0).encode();
    let _disk = Unwritable::make(directory.path().join(LEDGER_FILE));
    assert_eq!(member.receive_news(&word), None);
    assert!(!member.is_member(&key(3).node_id()));
    assert_eq!(member.take_news().len(), 1);
}

/// Adds as many statements of the founder as one node may sign.
fn fill(keyring: &TestKeyring, left: usize) {
    let cluster = keyring.ledger().unwrap().history()[0].0.id();
    let claim = |number| Statement {
        cluster,
        by: key(1).node_id(),
        by_term: 1,
        at_s: 100,
        before: None,
        claim: Claim::Own {
            path: b"docs".to_vec(),
            node: None,
            term: 0,
            number,
        },
    };
    let missing = STATEMENTS_PER_ADMIN_MAX - left - keyring.ledger().unwrap().history().len();
    let all: Vec<_> = (1..=missing as u64)
        .map(|number| claim(number).sign(&key(1)))
        .collect();
    let question = exchange::TrustQuestion {
        digest: [0; 32],
        epoch: keyring.epochs().newest().id(),
        statements: SignedStatement::encode_all(&all),
    };
    assert_eq!(keyring.answer(&question.encode()).1, None);
    assert_eq!(
        keyring.ledger().unwrap().history().len(),
        STATEMENTS_PER_ADMIN_MAX - left
    );
}

#[test]
fn a_rotation_without_statements_left_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let keyring = load();
    fill(&keyring, 0);
    let before = keyring.epochs().newest();
    let refused = keyring.rotate(&key(1));
    assert!(matches!(refused, Err(TrustError::LedgerFull)));
    assert_eq!(keyring.epochs().newest(), before);
    assert_eq!(load().epochs().newest(), before);
    assert!(keyring.take_news().is_empty());
}

#[test]
fn a_rotation_that_cannot_store_either_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let keyring = load();
    let (before, history) = (
        keyring.epochs().newest(),
        keyring.ledger().unwrap().history(),
    );
    for file in [SECRET_FILE, LEDGER_FILE] {
        let disk = Unwritable::make(directory.path().join(file));
        let refused = keyring.rotate(&key(1));
        assert!(matches!(refused, Err(TrustError::File { .. })), "{file}");
        disk.mend();
        for keyring in [&keyring, &load()] {
            assert_eq!(
                keyring.epochs().all().collect::<Vec<_>>(),
                [&before],
                "{file}"
            );
            assert_eq!(keyring.ledger().unwrap().history(), history, "{file}");
        }
        assert!(keyring.take_news().is_empty(), "{file}");
    }
    let fresh = keyring.rotate(&key(1)).unwrap();
    assert_eq!(keyring.epochs().newest().id(), fresh);
    assert_eq!(load().epochs().newest().id(), fresh);
}

#[test]
fn an_expulsion_and_its_fresh_secret_are_stored_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let keyring = load();
    let (bad, before) = (key(2).node_id(), keyring.epochs().newest());
    keyring
        .state(&key(1), |it| it.admit(bad, name(2), true))
        .unwrap();
    keyring.take_news();
    for file in [SECRET_FILE, LEDGER_FILE] {
        let disk = Unwritable::make(directory.path().join(file));
        let refused = keyring.state_and_rotate(&key(1), move |it| it.expel(bad));
        assert!(matches!(refused, Err(TrustError::File { .. })), "{file}");
        disk.mend();
        for keyring in [&keyring, &load()] {
            assert!(keyring.is_member(&bad), "{file}");
            assert_eq!(
                keyring.epochs().all().collect::<Vec<_>>(),
                [&before],
                "{file}"
            );
        }
        assert!(keyring.take_news().is_empty(), "{file}");
    }
    let fresh = keyring
        .state_and_rotate(&key(1), move |it| it.expel(bad))
        .unwrap();
    for keyring in [&keyring, &load()] {
        assert!(!keyring.is_member(&bad));
        assert_eq!(keyring.epochs().newest().id(), fresh);
        assert_eq!(keyring.view().wanted_epoch(), None);
    }
}

#[test]
fn an_expulsion_without_room_for_a_rotation_takes_effect_and_reports_the_old_secret() {
    let keyring = founded(1);
    let (bad, before) = (key(2).node_id(), keyring.epochs().newest());
    keyring
        .state(&key(1), |it| it.admit(bad, name(2), false))
        .unwrap();
    fill(&keyring, 1);
    let partly = keyring.state_and_rotate(&key(1), move |it| it.expel(bad));
    assert!(
        matches!(partly, Err(TrustError::NoFreshSecret)),
        "{partly:?}"
    );
    assert!(!keyring.is_member(&bad));
    assert_eq!(keyring.epochs().newest(), before);
}

#[test]
fn a_secret_left_unnamed_by_a_crash_yields_to_that_of_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let (one, two) = (load(), founded(2));
    join(&one, 1, &two, 2);
    let epoch = one.rotate(&key(1)).unwrap();
    meet(&two, &one);
    // The next rotation stopped after writing its secret.
    let path = directory.path().join(SECRET_FILE);
    file::replace(&path, &line(&EpochSecret::random())).unwrap();
    let one = load();
    assert_eq!(one.view().wanted_epoch(), Some(epoch));
    meet(&one, &two);
    for keyring in [&one, &load()] {
        assert_eq!(keyring.epochs().newest().id(), epoch);
        assert_eq!(keyring.view().wanted_epoch(), None);
    }
}

#[test]
fn a_join_that_cannot_store_either_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    let (admin, joiner) = (founded(1), load());
    let (me, before, history) = (
        key(2).node_id(),
        joiner.epochs().sealing(),
        joiner.ledger().unwrap().history(),
    );
    admin
        .state(&key(1), |it| it.admit(me, name(2), false))
        .unwrap();
    let chain = admin.view().certificates_of(&me);
    let join = || {
        joiner.join(
            EpochSecret::new(*admin.epochs().newest().as_bytes()),
            &chain,
            &BTreeSet::new(),
        )
    };
    for file in [SECRET_FILE, LEDGER_FILE] {
        let disk = Unwritable::make(directory.path().join(file));
        assert!(matches!(join(), Err(TrustError::File { .. })), "{file}");
        disk.mend();
        for keyring in [&joiner, &load()] {
            assert_eq!(keyring.epochs().sealing(), before, "{file}");
            assert_eq!(keyring.ledger().unwrap().history(), history, "{file}");
        }
    }
    join().unwrap();
    for keyring in [&joiner, &load()] {
        assert_eq!(keyring.epochs().sealing(), admin.epochs().sealing());
        assert!(keyring.is_member(&key(1).node_id()));
    }
}

#[test]
fn a_fresh_cluster_secret_is_used_even_if_unstored_and_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    let (one, member) = (founded(1), load());
    join(&one, 1, &member, 2);
    let disk = Unwritable::make(directory.path().join(SECRET_FILE));
    let epoch = one.rotate(&key(1)).unwrap();
    meet(&member, &one);
    assert_eq!(member.epochs().newest().id(), epoch);
    disk.mend();
    let again = load();
    assert_eq!(again.view().wanted_epoch(), Some(epoch));
    meet(&again, &one);
    assert_eq!(load().epochs().newest().id(), epoch);
}
