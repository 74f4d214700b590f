//! An invitation admits one stranger, once, in time, at its issuer.

use std::time::Duration;

use super::super::*;
use super::broken::{Damage, asker, on_the_way};
use super::harness::*;
use p2pfs_proto::trust::{
    CHAIN_MAX, EpochSecret, Grant, InviteRefusal, Known, TestKeyring, TrustError,
};

const HOUR: Duration = Duration::from_secs(3600);

fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn inviting(issuer: &Node) -> Arc<Invites> {
    let invites = Arc::new(Invites::new());
    issuer.net.set_invites(Arc::clone(&invites));
    invites
}

fn token(issuer: &Node, invites: &Invites) -> InviteToken {
    invites
        .issue(
            issuer.id,
            vec![issuer.addr()],
            HOUR,
            Grant::default(),
            Known::of(issuer.keyring.ledger().as_ref()),
            now_unix_s(),
        )
        .unwrap()
}

fn name() -> NodeName {
    NodeName::new("joiner").unwrap()
}

async fn refusal(joiner: &Node, token: &InviteToken) -> NetError {
    match joiner.net.enrol(token, &name()).await.unwrap_err() {
        NetError::InviteDeclined { .. } => NetError::InviteRefused,
        other => other,
    }
}

/// Returns the receiver of the refusals that a node reports.
fn reported(issuer: &Node) -> mpsc::UnboundedReceiver<(NodeId, Option<NodeName>, JoinRefusal)> {
    let (sender, refusals) = mpsc::unbounded_channel();
    let report = move |address: SocketAddr, refused: RefusedJoin| {
        assert!(address.ip().is_loopback(), "{address}");
        let _gone = sender.send((refused.node, refused.name, refused.why));
    };
    issuer.net.set_on_refused_join(Arc::new(report));
    refusals
}

#[tokio::test]
async fn a_token_makes_a_stranger_a_member() {
    let (issuer, joiner) = (Node::founder("issuer"), Node::founder("joiner"));
    let invites = inviting(&issuer);
    let token = token(&issuer, &invites);
    let token = InviteToken::parse(&token.encode()).unwrap();
    let Joining { secret, chain } = joiner.net.enrol(&token, &name()).await.unwrap();
    assert_eq!(secret, *issuer.keyring.epochs().sealing());
    joiner.join(secret, &chain);
    let ledger = issuer.keyring.ledger().unwrap();
    let certificate = ledger.certificate(&joiner.id).unwrap();
    assert_eq!((certificate.by, certificate.admin), (issuer.id, false));
    assert_eq!(certificate.name, name());
    let (seen, _net, _answering) = issuer.answer_all();
    assert!(joiner.ask(&seen, Lane::Urgent).await.is_ok());
}

#[tokio::test]
async fn a_token_can_be_used_once() {
    let (issuer, first, second) = (Node::new(1), Node::new(2), Node::new(3));
    let invites = inviting(&issuer);
    let token = token(&issuer, &invites);
    assert!(first.net.enrol(&token, &name()).await.is_ok());
    assert_eq!(refusal(&second, &token).await, NetError::InviteRefused);
}

#[tokio::test]
async fn a_joiner_whose_answer_was_lost_gets_the_same_membership_by_the_same_token() {
    let [issuer, joiner, other] = ["issuer", "joiner", "other"].map(Node::founder);
    let invites = inviting(&issuer);
    let used = token(&issuer, &invites);
    let lost = joiner.net.enrol(&used, &name()).await.unwrap();
    let stated = issuer.keyring.take_news().len();
    assert_eq!(stated, 1, "the certificate");
    let again = joiner.net.enrol(&used, &name()).await.unwrap();
    assert_eq!((&again.secret, &again.chain), (&lost.secret, &lost.chain));
    assert!(
        issuer.keyring.take_news().is_empty(),
        "a second certificate"
    );
    assert_eq!(refusal(&other, &used).await, NetError::InviteRefused);
    assert!(!issuer.keyring.is_member(&other.id));
    // a member gets the secret of its cluster, which may be another one by now
    let key = &issuer.key;
    issuer.keyring.rotate(key).unwrap();
    let Joining { secret, chain } = joiner.net.enrol(&used, &name()).await.unwrap();
    assert_eq!(secret, *issuer.keyring.epochs().newest());
    joiner.join(secret, &chain);
    issuer.keyring.state(key, |it| it.expel(joiner.id)).unwrap();
    assert_eq!(refusal(&joiner, &used).await, NetError::InviteRefused);
    assert!(!issuer.keyring.is_member(&joiner.id));
}

#[tokio::test]
async fn a_joiner_asks_again_after_its_connection_broke_and_is_admitted_once() {
    for damage in Damage::ALL {
        let [issuer, other] = ["issuer", "other"].map(Node::founder);
        let (joiner, invites) = (asker(), inviting(&issuer));
        let mut used = token(&issuer, &invites);
        used.seeds = vec![on_the_way(issuer.addr(), damage, usize::MAX).await];
        let lost = refusal(&joiner, &used).await;
        assert!(
            matches!(lost, NetError::InviteUnanswered { .. }),
            "{damage:?}: {lost}"
        );
        assert!(lost.to_string().contains("again with the same token"));
        used.seeds = vec![on_the_way(issuer.addr(), damage, 1).await];
        assert!(joiner.net.enrol(&used, &name()).await.is_ok(), "{damage:?}");
        assert_eq!(issuer.keyring.take_news().len(), 1, "{damage:?}");
        used.seeds = vec![issuer.addr()];
        assert_eq!(refusal(&other, &used).await, NetError::InviteRefused);
    }
}

#[tokio::test]
async fn a_used_token_brings_back_no_node_that_left() {
    let [issuer, joiner] = ["issuer", "joiner"].map(Node::founder);
    let invites = inviting(&issuer);
    let used = token(&issuer, &invites);
    let Joining { secret, chain } = joiner.net.enrol(&used, &name()).await.unwrap();
    joiner.join(secret, &chain);
    let key = &joiner.key;
    joiner.keyring.state(key, |it| it.expel(joiner.id)).unwrap();
    let farewell = joiner
        .keyring
        .ledger()
        .unwrap()
        .departed()
        .expulsion(&joiner.id)
        .cloned()
        .unwrap();
    issuer.keyring.receive_news(&farewell.encode());
    assert_eq!(refusal(&joiner, &used).await, NetError::InviteRefused);
    assert!(!issuer.keyring.is_member(&joiner.id));
}

#[tokio::test]
async fn a_joiner_whose_answer_was_lost_before_its_issuer_restarted_joins_by_a_new_token() {
    let [issuer, joiner] = ["issuer", "joiner"].map(Node::founder);
    let lost = token(&issuer, &inviting(&issuer));
    joiner.net.enrol(&lost, &name()).await.unwrap();
    let members = issuer.keyring.ledger().unwrap().members().count();
    // the issuer's invitations are in its memory alone
    let invites = inviting(&issuer);
    assert_eq!(refusal(&joiner, &lost).await, NetError::InviteRefused);
    let fresh = token(&issuer, &invites);
    let Joining { secret, chain } = joiner.net.enrol(&fresh, &name()).await.unwrap();
    joiner.join(secret, &chain);
    assert_eq!(issuer.keyring.ledger().unwrap().members().count(), members);
}

#[tokio::test]
async fn a_joiner_cannot_choose_a_name_with_a_meaning_at_the_issuer() {
    let [issuer, guest, other] = ["issuer", "guest", "other"].map(Node::founder);
    let invites = inviting(&issuer);
    invites.reserve(Box::new(|name| name.as_str() == "reader"));
    let first = token(&issuer, &invites);
    let reader = NodeName::new("reader").unwrap();
    let refused = guest.net.enrol(&first, &reader).await;
    assert_eq!(
        refused.err(),
        Some(NetError::InviteDeclined {
            why: DeclineReason::NameReserved
        })
    );
    assert!(!issuer.keyring.is_member(&guest.id));
    // the invitation is not used up
    assert!(guest.net.enrol(&first, &name()).await.is_ok());
    let second = token(&issuer, &invites);
    assert_eq!(refusal(&other, &second).await, NetError::InviteRefused);
    let free = NodeName::new("free").unwrap();
    assert!(other.net.enrol(&second, &free).await.is_ok());
}

#[tokio::test]
async fn an_expelled_node_needs_a_newer_token_and_one_that_left_any() {
    let (issuer, joiner) = (Node::founder("issuer"), Node::founder("joiner"));
    let invites = inviting(&issuer);
    let [first, early, spare] = [(); 3].map(|()| token(&issuer, &invites));
    joiner.net.enrol(&first, &name()).await.unwrap();
    issuer
        .keyring
        .state(&issuer.key, |it| it.expel(joiner.id))
        .unwrap();
    assert_eq!(refusal(&joiner, &early).await, NetError::InviteRefused);
    assert!(!issuer.keyring.is_member(&joiner.id));
    let late = token(&issuer, &invites);
    let Joining { secret, chain } = joiner.net.enrol(&late, &name()).await.unwrap();
    assert!(issuer.keyring.is_member(&joiner.id));
    joiner.join(secret, &chain);
    let key = &joiner.key;
    joiner.keyring.state(key, |it| it.expel(joiner.id)).unwrap();
    let word = joiner
        .keyring
        .ledger()
        .unwrap()
        .departed()
        .expulsion(&joiner.id)
        .cloned()
        .unwrap();
    issuer.keyring.receive_news(&word.encode());
    assert!(!issuer.keyring.is_member(&joiner.id), "it left");
    joiner.net.enrol(&spare, &name()).await.unwrap();
    assert!(issuer.keyring.is_member(&joiner.id));
}

#[tokio::test]
async fn a_joiner_that_cannot_be_stored_is_refused_and_not_a_member() {
    let directory = tempfile::tempdir().unwrap();
    let (key, issuer) = (
        Arc::new(NodeKey::random()),
        NodeName::new("issuer").unwrap(),
    );
    let keyring = TestKeyring::load_or_create(directory.path(), &key, &issuer, 1000).unwrap();
    let issuer = Node::with(key, Arc::new(keyring), PeerLimits::default());
    let joiner = Node::founder("joiner");
    let invites = inviting(&issuer);
    let tokens = [(); 2].map(|()| token(&issuer, &invites));
    // the members file cannot be replaced while a directory has its name
    let members = directory.path().join("members");
    std::fs::remove_file(&members).unwrap();
    std::fs::create_dir(&members).unwrap();
    let mut refusals = reported(&issuer);
    assert_eq!(refusal(&joiner, &tokens[0]).await, NetError::InviteRefused);
    let (_, _, why) = refusals.recv().await.unwrap();
    assert!(
        matches!(why, JoinRefusal::NotRecorded(TrustError::File { .. })),
        "{why:?}"
    );
    assert!(!issuer.keyring.is_member(&joiner.id));
    assert!(issuer.keyring.take_news().is_empty());
    std::fs::remove_dir(&members).unwrap();
    joiner.net.enrol(&tokens[1], &name()).await.unwrap();
    assert!(issuer.keyring.is_member(&joiner.id));
}

#[tokio::test]
async fn a_joiner_too_far_from_the_founder_is_refused_and_the_token_kept() {
    let keys = [(); CHAIN_MAX].map(|()| Arc::new(NodeKey::random()));
    let keyring = TestKeyring::founded_in_memory(EpochSecret::random(), &keys[0], name(), 1000);
    for pair in keys.windows(2) {
        let admitted = keyring.state(&pair[0], |it| it.admit(pair[1].node_id(), name(), true));
        admitted.unwrap();
    }
    let (last, keyring) = (&keys[CHAIN_MAX - 1], Arc::new(keyring));
    let far = Node::with(Arc::clone(last), keyring, PeerLimits::default());
    let joiner = Node::founder("joiner");
    let invites = inviting(&far);
    let mut refusals = reported(&far);
    let token = token(&far, &invites);
    assert_eq!(refusal(&joiner, &token).await, NetError::InviteRefused);
    let (_, _, why) = refusals.recv().await.unwrap();
    assert!(
        matches!(why, JoinRefusal::CannotAdmit(TrustError::TooFar)),
        "{why:?}"
    );
    assert!(!far.keyring.is_member(&joiner.id));
    assert_eq!(
        invites.waiting(far.keyring.ledger().map(|it| it.cluster()), now_unix_s()),
        1
    );
}

#[tokio::test]
async fn a_token_expires_by_its_issuers_clock_only() {
    let (issuer, joiner) = (Node::new(1), Node::new(2));
    let invites = inviting(&issuer);
    let issue = |now_s| {
        let seeds = vec![issuer.addr()];
        let (grant, known) = (
            Grant::default(),
            Known::of(issuer.keyring.ledger().as_ref()),
        );
        let issued = invites.issue(issuer.id, seeds, HOUR, grant, known, now_s);
        issued.unwrap()
    };
    // expired by both clocks, or by the joiner's alone
    let mut over = issue(1000);
    assert_eq!(refusal(&joiner, &over).await, NetError::InviteExpired);
    assert_eq!(issuer.net.counters().dropped(DropReason::Stranger), 1);
    over.expires_unix_s = u64::MAX;
    assert_eq!(refusal(&joiner, &over).await, NetError::InviteExpired);
    let mut good = issue(now_unix_s());
    good.expires_unix_s = 1000;
    assert!(joiner.net.enrol(&good, &name()).await.is_ok());
}

#[tokio::test]
async fn a_guessed_token_uses_nothing_up() {
    let (issuer, joiner) = (Node::new(1), Node::new(2));
    let invites = inviting(&issuer);
    let token = token(&issuer, &invites);
    let mut guessed = token.clone();
    guessed.key[0] ^= 1;
    assert_eq!(refusal(&joiner, &guessed).await, NetError::InviteRefused);
    assert!(joiner.net.enrol(&token, &name()).await.is_ok());
}

#[tokio::test]
async fn a_node_without_issued_tokens_admits_no_node() {
    let (issuer, joiner) = (Node::new(1), Node::new(2));
    let token = token(&issuer, &Invites::new());
    assert_eq!(refusal(&joiner, &token).await, NetError::InviteRefused);
    assert_eq!(issuer.net.counters().dropped(DropReason::Stranger), 1);
}

#[tokio::test]
async fn only_the_issuer_gets_the_invitation_even_if_another_has_its_address() {
    let (issuer, impostor, joiner) = (Node::new(1), Node::new(3), Node::new(2));
    let invites = inviting(&issuer);
    let mut token = token(&issuer, &invites);
    token.seeds = vec![impostor.addr()];
    let failure = joiner.net.enrol(&token, &name()).await.unwrap_err();
    assert!(matches!(failure, NetError::InviterAway { .. }), "{failure}");
    assert!(failure.to_string().contains("is not the node"), "{failure}");
    token.seeds = vec![impostor.addr(), issuer.addr()];
    assert!(joiner.net.enrol(&token, &name()).await.is_ok());
}

#[tokio::test]
async fn join_with_a_token_without_an_address_reports_no_refusal_of_the_issuer() {
    let (issuer, joiner) = (Node::new(1), Node::new(2));
    let mut token = token(&issuer, &inviting(&issuer));
    token.seeds.clear();
    let failure = joiner.net.enrol(&token, &name()).await.unwrap_err();
    assert!(matches!(failure, NetError::InviterAway { .. }), "{failure}");
    assert!(failure.to_string().contains("no address"), "{failure}");
}

#[tokio::test]
async fn a_token_admits_no_node_to_a_cluster_its_issuer_joined_later() {
    let (elsewhere, issuer) = (Node::founder("elsewhere"), Node::founder("issuer"));
    let joiner = Node::founder("joiner");
    let invites = inviting(&issuer);
    let early = token(&issuer, &invites);
    let admin = &elsewhere.key;
    let named = NodeName::new("issuer").unwrap();
    let admitted = elsewhere
        .keyring
        .state(admin, |it| it.admit(issuer.id, named, true));
    admitted.unwrap();
    let secret = EpochSecret::new(*elsewhere.keyring.epochs().newest().as_bytes());
    let chain = elsewhere.keyring.view().certificates_of(&issuer.id);
    issuer.join(secret, &chain);
    assert_eq!(refusal(&joiner, &early).await, NetError::InviteRefused);
    assert!(!issuer.keyring.is_member(&joiner.id));
    let late = token(&issuer, &invites);
    joiner.net.enrol(&late, &name()).await.unwrap();
    assert!(issuer.keyring.is_member(&joiner.id));
}

#[tokio::test]
async fn a_refused_joiner_is_told_the_one_cause_if_it_has_an_invitation_and_else_nothing() {
    let [issuer, first, joiner] = ["issuer", "first", "joiner"].map(Node::founder);
    let invites = inviting(&issuer);
    invites.reserve(Box::new(|name| name.as_str() == "reader"));
    let mut refusals = reported(&issuer);
    let [used, kept] = [(); 2].map(|()| token(&issuer, &invites));
    let taken = NodeName::new("first").unwrap();
    first.net.enrol(&used, &taken).await.unwrap();
    let mut guessed = kept.clone();
    guessed.key[0] ^= 1;
    let reserved = NodeName::new("reader").unwrap();
    let cases = [
        (&guessed, name(), InviteRefusal::Unknown, None),
        (
            &used,
            name(),
            InviteRefusal::Used(first.id),
            Some(DeclineReason::Used),
        ),
        (
            &kept,
            taken.clone(),
            InviteRefusal::NameTaken(taken),
            Some(DeclineReason::NameTaken),
        ),
        (
            &kept,
            reserved.clone(),
            InviteRefusal::NameReserved(reserved),
            Some(DeclineReason::NameReserved),
        ),
    ];
    for (token, called, expected, told) in cases {
        let refused = joiner.net.enrol(token, &called).await.unwrap_err();
        let declined = told.map(|why| NetError::InviteDeclined { why });
        assert_eq!(refused, declined.unwrap_or(NetError::InviteRefused));
        let (node, given, why) = refusals.recv().await.unwrap();
        assert_eq!((node, given), (joiner.id, Some(called)));
        assert!(
            matches!(&why, JoinRefusal::Invite(it) if *it == expected),
            "{expected:?}, not {why:?}"
        );
    }
    let key = &issuer.key;
    issuer.keyring.state(key, |it| it.expel(first.id)).unwrap();
    assert_eq!(refusal(&first, &kept).await, NetError::InviteRefused);
    let (_, _, why) = refusals.recv().await.unwrap();
    assert!(
        matches!(why, JoinRefusal::Invite(InviteRefusal::BeforeExpulsion)),
        "{why:?}"
    );
    joiner.net.enrol(&kept, &name()).await.unwrap();
    assert!(
        refusals.try_recv().is_err(),
        "an admission is not a refusal"
    );
}

#[tokio::test]
async fn a_node_cannot_join_itself() {
    let issuer = Node::new(1);
    let invites = inviting(&issuer);
    let token = token(&issuer, &invites);
    assert_eq!(refusal(&issuer, &token).await, NetError::OwnIdentity);
}
