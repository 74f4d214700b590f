//! Tests of the keyring: stored state, the end of secrets, and the exchange with other nodes.

use std::fs;
use std::path::PathBuf;

use super::files::{LEDGER_FILE, SECRET_FILE, line};
use super::*;
use crate::trust::epochs::{EPOCH_OVERLAP_S, EPOCH_SWITCH_S};
use crate::trust::ledger::CHAIN_MAX_BYTES;
use crate::trust::statement::{Claim, Statement};
use crate::trust::{exchange, file};
use p2pfs_types::id::to_hex;

mod inviting;
mod named;
mod storing;
mod unkept;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

fn name(n: u8) -> NodeName {
    NodeName::new(format!("n{n}")).unwrap()
}

fn founded(n: u8) -> TestKeyring {
    TestKeyring::founded_in_memory(EpochSecret::random(), &key(n), name(n), 100)
}

/// Lets `joiner` join the cluster of `admin` as the greeting does.
fn join(admin: &TestKeyring, admin_key: u8, joiner: &TestKeyring, joiner_key: u8) {
    let node = key(joiner_key).node_id();
    admin
        .state(&key(admin_key), |it| {
            it.admit(node, name(joiner_key), false)
        })
        .unwrap();
    let secret = EpochSecret::new(*admin.epochs().newest().as_bytes());
    joiner
        .join(
            secret,
            &admin.view().certificates_of(&node),
            &BTreeSet::new(),
        )
        .unwrap();
}

/// Lets both exchange their knowledge as the exchange over TCP does.
fn meet(asker: &TestKeyring, answerer: &TestKeyring) {
    for all in [false, true] {
        let (answer, fault) = answerer.answer(&asker.view().question(all));
        assert_eq!(fault, None);
        assert_eq!(asker.receive_answer(&answer.unwrap()).1, None);
    }
}

#[test]
fn the_first_start_founds_a_cluster_and_the_next_finds_it() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let first = load();
    assert!(first.view().is_admin(&key(1).node_id()));
    first
        .state(&key(1), |it| it.admit(key(2).node_id(), name(2), false))
        .unwrap();
    let epoch = first.rotate(&key(1)).unwrap();
    let again = load();
    assert!(again.is_member(&key(2).node_id()) && !again.is_member(&key(3).node_id()));
    assert_eq!(
        again.epochs().sealing().id(),
        epoch,
        "a restart goes on with the newest secret"
    );
    assert_eq!(
        again.ledger().unwrap().history(),
        first.ledger().unwrap().history()
    );
}

#[test]
fn joining_another_cluster_drops_the_previous_secrets_and_members() {
    let directory = tempfile::tempdir().unwrap();
    let joiner = TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    let old = joiner.epochs().sealing();
    joiner
        .state(&key(2), |it| it.admit(key(7).node_id(), name(7), false))
        .unwrap();
    let admin = founded(1);
    join(&admin, 1, &joiner, 2);
    let kept = TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    for keyring in [joiner, kept] {
        assert_eq!(keyring.epochs().by_id(old.id()), None);
        assert_eq!(keyring.epochs().sealing(), admin.epochs().sealing());
        assert!(!keyring.is_member(&key(7).node_id()));
        assert!(keyring.is_member(&key(1).node_id()) && keyring.is_member(&key(2).node_id()));
    }
}

#[test]
fn names_given_in_an_earlier_cluster_are_former_until_they_are_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(2), &name(2), 5).unwrap();
    let joiner = load();
    let me = key(2).node_id();
    let given = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
    let join = |admin: &TestKeyring, names: &[&str]| {
        let admitted = admin.state(&key(1), |it| it.admit(me, name(2), false));
        let _is_in_already = admitted.is_err();
        let secret = EpochSecret::new(*admin.epochs().newest().as_bytes());
        let chain = admin.view().certificates_of(&me);
        joiner.join(secret, &chain, &given(names)).unwrap();
    };
    let first = founded(1);
    join(&first, &["early"]);
    assert!(
        joiner.view().former_names().is_empty(),
        "it had no other members"
    );
    join(&first, &["bob"]);
    assert!(
        joiner.view().former_names().is_empty(),
        "it is the same cluster"
    );
    let second = TestKeyring::founded_in_memory(EpochSecret::random(), &key(1), name(9), 7);
    join(&second, &["bob", "carol"]);
    for keyring in [&joiner, &load()] {
        assert_eq!(
            keyring.view().former_names().clone(),
            given(&["bob", "carol"])
        );
    }
    joiner.retain_former_names(|it| it != "bob").unwrap();
    assert!(
        !joiner.view().former_names().contains("bob")
            && joiner.view().former_names().contains("carol")
    );
    joiner.forget(&given(&["bob"])).unwrap();
    assert_eq!(
        load().view().former_names().clone(),
        given(&["bob", "carol"])
    );
}

#[test]
fn a_node_that_rejoins_its_cluster_still_knows_the_expelled() {
    let (admin, member) = (founded(1), founded(2));
    join(&admin, 1, &member, 2);
    let bad = key(7).node_id();
    admin
        .state(&key(1), |it| it.admit(bad, name(7), true))
        .unwrap();
    meet(&member, &admin);
    let chain = admin.view().certificates_of(&bad);
    assert!(member.view().is_admin(&bad));
    admin.state(&key(1), |it| it.expel(bad)).unwrap();
    meet(&member, &admin);
    let me = key(2).node_id();
    admin
        .state(&key(1), |it| it.admit(me, name(2), true))
        .unwrap();
    let secret = EpochSecret::new(*admin.epochs().newest().as_bytes());
    member
        .join(secret, &admin.view().certificates_of(&me), &BTreeSet::new())
        .unwrap();
    assert!(member.view().is_admin(&me));
    assert!(!member.receive_certificates(&bad, &chain));
}

#[test]
fn a_chain_is_accepted_up_to_its_limit_of_bytes() {
    let (admin, member) = (founded(1), founded(2));
    join(&admin, 1, &member, 2);
    let node = key(3).node_id();
    admin
        .state(&key(1), |it| it.admit(node, name(3), false))
        .unwrap();
    let chain = admin.view().certificates_of(&node);
    assert!(chain.len() < CHAIN_MAX_BYTES);
    // Repeats each statement, so that only the length is wrong.
    let long = chain.repeat(CHAIN_MAX_BYTES / chain.len() + 1);
    assert!(long.len() > CHAIN_MAX_BYTES && !member.receive_certificates(&node, &long));
    assert!(member.receive_certificates(&node, &chain));
}

#[test]
fn a_chain_that_admits_no_node_is_dropped() {
    let (admin, member) = (founded(1), founded(2));
    join(&admin, 1, &member, 2);
    let (bad, helper) = (key(7), key(8).node_id());
    admin
        .state(&key(1), |it| it.admit(bad.node_id(), name(7), true))
        .unwrap();
    let mut apart = admin.ledger().unwrap();
    admin.state(&key(1), |it| it.expel(bad.node_id())).unwrap();
    meet(&member, &admin);
    apart
        .signer(&bad, 100)
        .admit(helper, name(8), true)
        .unwrap();
    let chain = SignedStatement::encode_all(&apart.chain(&helper));
    let before = member.ledger().unwrap().history();
    for node in [bad.node_id(), helper] {
        assert!(!member.receive_certificates(&node, &chain));
        assert_eq!(member.ledger().unwrap().history(), before);
    }
    // A statement that expels no node is not stored either.
    let me = key(2).node_id();
    for statement in apart.chain(&helper) {
        member.receive_expulsion(&me, &statement.encode());
    }
    assert_eq!(member.ledger().unwrap().history(), before);
    admin.state(&key(1), |it| it.expel(me)).unwrap();
    member.receive_expulsion(
        &me,
        &admin
            .ledger()
            .unwrap()
            .departed()
            .expulsion(&me)
            .cloned()
            .unwrap()
            .encode(),
    );
    assert!(!member.is_member(&me));
}

#[test]
fn a_ledger_that_does_not_admit_this_node_is_not_joined() {
    let (admin, joiner) = (founded(1), founded(2));
    let before = joiner.epochs().sealing();
    for chain in [
        Vec::new(),
        admin.view().certificates_of(&key(1).node_id()),
        vec![1, 2, 3],
    ] {
        let refused = joiner.join(EpochSecret::random(), &chain, &BTreeSet::new());
        assert!(matches!(refused, Err(TrustError::BadChain)));
    }
    assert_eq!(joiner.epochs().sealing(), before);
}

#[test]
fn a_node_removed_with_another_was_a_member_and_a_stranger_never_was() {
    let one = founded(1);
    let id = |n| key(n).node_id();
    one.state(&key(1), |it| it.admit(id(2), name(2), true))
        .unwrap();
    one.state(&key(2), |it| it.admit(id(3), name(3), false))
        .unwrap();
    one.state(&key(1), |it| it.expel_with_admitted(id(2)))
        .unwrap();
    for n in [1, 2, 3] {
        assert!(one.ledger().unwrap().was_member(&id(n)), "{n}");
    }
    assert!(!one.is_member(&id(3)) && !one.ledger().unwrap().was_member(&id(9)));
}

#[test]
fn after_an_expulsion_the_others_get_a_fresh_secret_and_the_old_one_ends() {
    let (one, two, out) = (founded(1), founded(2), founded(3));
    join(&one, 1, &two, 2);
    join(&one, 1, &out, 3);
    meet(&two, &one);
    let old = one.epochs().sealing();
    one.state(&key(1), |it| it.expel(key(3).node_id())).unwrap();
    let fresh = one.rotate(&key(1)).unwrap();
    meet(&two, &one);
    assert!(
        !two.is_member(&key(3).node_id()) && two.ledger().unwrap().is_expelled(&key(3).node_id())
    );
    for keyring in [&one, &two] {
        keyring.tick(100 + EPOCH_SWITCH_S);
        assert_eq!(keyring.epochs().sealing().id(), fresh);
        assert!(keyring.epochs().by_id(old.id()).is_some());
        keyring.tick(100 + EPOCH_SWITCH_S + EPOCH_OVERLAP_S);
        assert_eq!(keyring.epochs().by_id(old.id()), None);
    }
    assert_eq!(out.epochs().by_id(fresh), None);
}

#[test]
fn a_secret_is_accepted_only_for_an_epoch_named_by_the_ledger() {
    let (one, two) = (founded(1), founded(2));
    join(&one, 1, &two, 2);
    let liar = exchange::TrustAnswer {
        digest: [0; 32],
        secret: Some([7; 32]),
        statements: Vec::new(),
    };
    two.receive_answer(&liar.encode());
    assert_eq!(two.epochs().newest(), one.epochs().newest());
    assert_eq!(two.epochs().by_id(EpochSecret::new([7; 32]).id()), None);
}

#[test]
fn a_statement_that_no_honest_member_makes_is_distinguished() {
    let (one, two) = (founded(1), founded(2));
    join(&one, 1, &two, 2);
    let of_founder = |number| Statement {
        cluster: one.ledger().unwrap().history()[0].0.id(),
        by: key(1).node_id(),
        by_term: 1,
        at_s: 100,
        before: None,
        claim: Claim::Rotate {
            epoch: EpochId([number; 8]),
            number: 1,
        },
    };
    let (forged, genuine) = (of_founder(1).sign(&key(2)), of_founder(2).sign(&key(1)));
    assert_eq!(two.receive_news(&forged.encode()), Some(Fault::Forged));
    assert_eq!(two.receive_news(b"garbage"), Some(Fault::Garbage));
    assert_eq!(two.answer(b"garbage"), (None, Some(Fault::Garbage)));
    assert_eq!(
        two.receive_answer(b"garbage"),
        (false, Some(Fault::Garbage))
    );
    // After a forged statement the rest of the message is ignored.
    let before = two.ledger().unwrap().history();
    let said = [forged, genuine.clone()];
    let question = exchange::TrustQuestion {
        digest: [0; 32],
        epoch: two.epochs().newest().id(),
        statements: SignedStatement::encode_all(&said),
    };
    assert_eq!(two.answer(&question.encode()).1, Some(Fault::Forged));
    assert_eq!(two.ledger().unwrap().history(), before);
    assert_eq!(two.receive_news(&genuine.encode()), None);
    assert_eq!(two.ledger().unwrap().history().len(), before.len() + 1);
}

#[test]
fn news_is_reported_once_and_bulk_history_is_not() {
    let (one, two) = (founded(1), founded(2));
    join(&one, 1, &two, 2);
    let news = one.take_news();
    assert_eq!(news.len(), 1);
    assert!(one.take_news().is_empty() && two.take_news().is_empty());
    one.state(&key(1), |it| it.admit(key(3).node_id(), name(3), false))
        .unwrap();
    let statement = one.take_news().remove(0).encode();
    assert_eq!(two.receive_news(&statement), None);
    assert_eq!(two.receive_news(&statement), None);
    assert_eq!(two.take_news().len(), 1);
}

#[test]
fn with_a_secret_file_its_holders_are_members_and_cannot_be_expelled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("given");
    let digits = "0123456789abcdefABCDEF".repeat(3)[..64].to_owned();
    file::create(&path, format!("{digits}\n").as_bytes()).unwrap();
    let keyring = TestKeyring::from_secret_file(&path).unwrap();
    assert_eq!(
        to_hex(keyring.epochs().sealing().as_bytes()),
        digits.to_lowercase()
    );
    assert!(keyring.is_member(&key(9).node_id()) && !keyring.view().has_ledger());
    for refused in [
        keyring.state(&key(1), |it| it.expel(key(2).node_id())),
        keyring.rotate(&key(1)).map(drop),
    ] {
        assert!(matches!(refused, Err(TrustError::NoLedger { .. })));
    }
    let refused = keyring.join(EpochSecret::random(), &[], &BTreeSet::new());
    assert!(matches!(refused, Err(TrustError::Given { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{digits}\n"));
}

#[test]
fn a_secret_file_holds_64_digits_and_a_newline_or_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let digits = "ab".repeat(32);
    for (n, bad) in [
        "",
        "\n",
        "xyz\n",
        &digits[..63],
        &format!("{digits}\n{digits}\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(n.to_string());
        file::create(&path, bad.as_bytes()).unwrap();
        let error = TestKeyring::from_secret_file(&path).unwrap_err();
        assert!(
            matches!(error, TrustError::BadFile { .. }),
            "{bad:?} gave {error}"
        );
    }
    let error = TestKeyring::from_secret_file(Path::new("/nonexistent/secret")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/secret"), "{error}");
    assert!(
        error.to_string().contains("64 hexadecimal digits"),
        "{error}"
    );
}

#[test]
fn a_forgotten_cluster_works_until_the_end_and_is_absent_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let load = || TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap();
    let keyring = load();
    let before = keyring.epochs().sealing();
    keyring
        .state(&key(1), |it| it.admit(key(2).node_id(), name(2), false))
        .unwrap();
    assert!(keyring.forget(&BTreeSet::new()).unwrap());
    assert_eq!(keyring.epochs().sealing().id(), before.id());
    // The node's own farewell does not restore the secret.
    keyring
        .state(&key(1), |it| it.expel(key(1).node_id()))
        .unwrap();
    let after = load();
    assert_ne!(after.epochs().sealing().id(), before.id());
    assert!(after.view().is_admin(&key(1).node_id()) && !after.is_member(&key(2).node_id()));
}

#[test]
fn a_secret_without_a_ledger_is_recognized_before_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!KeyringFiles::drops_secret(directory.path()));
    fs::write(directory.path().join(SECRET_FILE), b"of an earlier version").unwrap();
    assert!(KeyringFiles::drops_secret(directory.path()));
    drop(TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap());
    assert!(!KeyringFiles::drops_secret(directory.path()));
}

#[test]
fn a_damaged_ledger_is_an_error_with_its_remedy_and_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    drop(TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap());
    let path = directory.path().join(LEDGER_FILE);
    fs::write(&path, b"garbage").unwrap();
    let error = TestKeyring::load_or_create(directory.path(), &key(1), &name(1), 5).unwrap_err();
    assert!(
        error.to_string().contains("join the cluster again"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"garbage");
}

#[test]
fn an_admission_of_a_node_that_fell_with_its_issuer_spreads_all_its_statements() {
    let admin = founded(1);
    let [bad, helper] = [7, 8].map(|n| key(n).node_id());
    admin
        .state(&key(1), |it| it.admit(bad, name(7), true))
        .unwrap();
    admin
        .state(&key(7), |it| it.admit(helper, name(8), false))
        .unwrap();
    admin
        .state(&key(1), |it| it.expel_with_admitted(bad))
        .unwrap();
    assert!(!admin.is_member(&helper));
    // Another node knows everything so far, and receives the news alone from here on.
    let mut other = admin.ledger().unwrap();
    admin.take_news();
    admin
        .state(&key(1), |it| it.admit(helper, name(8), false))
        .unwrap();
    other.merge(admin.take_news());
    let all = admin.ledger().unwrap();
    assert!(other.is_member(&helper, admin.view().now_s()));
    assert_eq!(other.statements().count(), all.statements().count());
}
