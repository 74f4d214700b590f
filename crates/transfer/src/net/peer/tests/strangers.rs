//! A node that cannot prove membership learns nothing, at either end.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;

use super::super::framing::write_frame;
use super::super::greet::prove;
use super::super::tls::Tls;
use super::super::*;
use super::harness::*;
use p2pfs_proto::trust::{EpochSecret, TestKeyring};
use p2pfs_proto::wire::native::tcp::{FrameHeader, Greeting, HEADER_BYTES, Phase};

/// Returns all bytes that arrive until the other end closes.
async fn rest(stream: &mut (impl Wire + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset instead of a farewell is also an end.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn nodes_with_different_secrets_refuse_each_other() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    for (asker, other) in [(&a, &b), (&b, &a)] {
        let refused = asker.ask(&other.seen(), Lane::Urgent).await;
        assert_eq!(
            refused,
            Err(NetError::NotMember {
                address: other.addr()
            })
        );
        assert_eq!(other.net.counters().dropped(DropReason::Stranger), 1);
    }
    assert!(a.requests.try_recv().is_err() && b.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_dialling_stranger_receives_no_data_whatever_it_sends() {
    let (stranger, node) = (Node::new(2), Node::new(1));
    for greeting in [
        Greeting::Prove {
            lane: Lane::Urgent,
            proof: [0; 32],
            chain: Bytes::new(),
        },
        Greeting::Enrol {
            proof: [0; 32],
            name: Bytes::from_static(b"name"),
        },
        Greeting::Proven {
            proof: [0; 32],
            chain: Bytes::new(),
        },
        Greeting::Enrolled {
            secret: [0; 32],
            proof: [0; 32],
            chain: Bytes::new(),
        },
        Greeting::PutOut { word: Bytes::new() },
    ] {
        let connected = connect(stranger.shared(), node.id, node.addr(), || ()).await;
        let mut stream = connected.unwrap();
        let frame = greeting.encode();
        stream
            .write_all(&[&frame.header[..], &frame.body].concat())
            .await
            .unwrap();
        stream.flush().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{greeting:?}");
    }
}

#[tokio::test]
async fn a_dialled_stranger_receives_only_a_proof_it_cannot_read() {
    let node = Node::new(1);
    let key = NodeKey::random();
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let seen = Seen {
        id: key.node_id(),
        addr: listener.local_addr().unwrap(),
    };
    let stranger = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Tls::new(&key, true).unwrap().accept(stream).await.unwrap();
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await.unwrap();
        let header = FrameHeader::decode(&header, Phase::Greeting).unwrap();
        let mut body = vec![0; header.body_bytes];
        stream.read_exact(&mut body).await.unwrap();
        body
    };
    let (ended, heard) = tokio::join!(node.ask(&seen, Lane::Urgent), stranger);
    assert!(matches!(ended, Err(NetError::Lost { .. })), "{ended:?}");
    assert_eq!(heard.len(), 33);
    let epoch = node.keyring.epochs().sealing().id();
    assert!(!heard.windows(8).any(|window| window == epoch.0));
}

#[tokio::test]
async fn an_echoed_proof_is_refused() {
    let node = Node::new(1);
    let key = NodeKey::random();
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let seen = Seen {
        id: key.node_id(),
        addr: listener.local_addr().unwrap(),
    };
    let mirror = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Tls::new(&key, true).unwrap().accept(stream).await.unwrap();
        let mut frame = [0; HEADER_BYTES + 33];
        stream.read_exact(&mut frame).await.unwrap();
        let proof = frame[HEADER_BYTES + 1..].try_into().unwrap();
        let echo = Greeting::Proven {
            proof,
            chain: Bytes::new(),
        }
        .encode();
        stream
            .write_all(&[&echo.header[..], &echo.body].concat())
            .await
            .unwrap();
        stream.flush().await.unwrap();
        // The dialler hangs up without another word.
        assert_eq!(rest(&mut stream).await, b"");
    };
    let (refused, ()) = tokio::join!(node.ask(&seen, Lane::Urgent), mirror);
    assert_eq!(refused, Err(NetError::NotMember { address: seen.addr }));
}

#[tokio::test]
async fn a_proof_taken_from_one_connection_is_worthless_on_another() {
    let (member, node) = (Node::new(1), Node::new(1));
    let first = connect(member.shared(), node.id, node.addr(), || ())
        .await
        .unwrap();
    let channel = tls::channel_of(&first, member.id).unwrap();
    let secret = member.keyring.epochs().sealing();
    let proof = channel.membership_proof(&secret, p2pfs_proto::trust::Role::Client);
    let frame = Greeting::Prove {
        lane: Lane::Bulk,
        proof,
        chain: Bytes::new(),
    }
    .encode();
    let bytes = [&frame.header[..], &frame.body].concat();
    let mut second = connect(member.shared(), node.id, node.addr(), || ())
        .await
        .unwrap();
    second.write_all(&bytes).await.unwrap();
    second.flush().await.unwrap();
    assert_eq!(rest(&mut second).await, b"");
    assert_eq!(node.net.counters().dropped(DropReason::Stranger), 1);
}

#[tokio::test]
async fn another_node_at_the_address_is_refused() {
    let (asker, expected) = (Node::new(1), Node::new(1));
    let (other, net, _answering) = Node::new(1).answer_all();
    let swapped = Seen {
        id: expected.id,
        addr: other.addr,
    };
    let refused = asker.ask(&swapped, Lane::Urgent).await.unwrap_err();
    assert!(matches!(refused, NetError::WrongNode { .. }) && refused.is_retryable());
    // It did not learn the dialler's id: TLS failed before the dialler showed its key.
    assert!(asker.ask(&other, Lane::Urgent).await.is_ok());
    assert_eq!(net.counters().dropped(DropReason::TlsFailed), 1);
}

#[tokio::test]
async fn a_node_does_not_talk_to_itself_or_a_copy_of_its_key() {
    let key = Arc::new(NodeKey::random());
    let keyring = Arc::new(TestKeyring::in_memory(EpochSecret::new([1; 32])));
    let node = || {
        Node::with(
            Arc::clone(&key),
            Arc::clone(&keyring),
            PeerLimits::default(),
        )
    };
    let (original, copy) = (node(), node());
    let refused = original.ask(&original.seen(), Lane::Urgent).await;
    assert_eq!(refused, Err(NetError::OwnIdentity));
    let connected = connect(copy.shared(), key.node_id(), original.addr(), || ()).await;
    let mut stream = connected.unwrap();
    let proven = prove(copy.shared(), &mut stream, Lane::Urgent).await;
    assert!(proven.is_err());
    assert_eq!(original.net.counters().dropped(DropReason::OwnIdentity), 1);
}

#[tokio::test]
async fn a_node_with_the_secret_but_no_certificate_is_refused() {
    let node = Node::founder("node");
    let secret = EpochSecret::new(*node.keyring.epochs().newest().as_bytes());
    let key = Arc::new(NodeKey::random());
    let name = NodeName::new("thief").unwrap();
    for keyring in [
        TestKeyring::in_memory(EpochSecret::new(*secret.as_bytes())),
        TestKeyring::founded_in_memory(EpochSecret::new(*secret.as_bytes()), &key, name, 1),
    ] {
        let thief = Node::with(key.clone(), Arc::new(keyring), PeerLimits::default());
        let refused = thief.net.knock(node.addr()).await;
        assert_eq!(
            refused,
            Err(NetError::NotMember {
                address: node.addr()
            })
        );
    }
    assert_eq!(node.net.counters().dropped(DropReason::Stranger), 2);
}

#[tokio::test]
async fn an_unknown_member_presents_its_certificates_and_an_expelled_one_gets_nothing() {
    let (admin, b, c) = (Node::founder("a"), Node::founder("b"), Node::founder("c"));
    for (joiner, name) in [(&b, "b"), (&c, "c")] {
        let name = NodeName::new(name).unwrap();
        let key = &admin.key;
        admin
            .keyring
            .state(key, |it| it.admit(joiner.id, name, false))
            .unwrap();
        let secret = EpochSecret::new(*admin.keyring.epochs().newest().as_bytes());
        let chain = admin.keyring.view().certificates_of(&joiner.id);
        joiner.join(secret, &chain);
    }
    // neither knows the other, and a node shows nothing to an unknown one
    assert!(b.net.knock(c.addr()).await.is_err());
    let chain = admin.keyring.view().certificates_of(&c.id);
    assert!(b.keyring.receive_certificates(&c.id, &chain));
    assert_eq!(b.net.knock(c.addr()).await, Ok(c.id));
    assert!(c.keyring.is_member(&b.id), "it was shown the certificate");
    let (c_seen, _net, _answering) = c.answer_all();
    assert!(b.ask(&c_seen, Lane::Urgent).await.is_ok());
    admin
        .keyring
        .state(&admin.key, |it| it.expel(b.id))
        .unwrap();
    let refused = b.net.knock(admin.addr()).await;
    assert!(refused.is_err(), "{refused:?}");
    let asked = admin.ask(&b.seen(), Lane::Urgent).await;
    assert_eq!(
        asked,
        Err(NetError::Outsider),
        "nor is it asked for anything"
    );
}

#[tokio::test]
async fn an_expelled_node_receives_its_expulsion_and_other_strangers_do_not() {
    let (admin, b) = (Node::founder("a"), Node::founder("b"));
    let (key, name) = (&admin.key, NodeName::new("b").unwrap());
    let secret = EpochSecret::new(*admin.keyring.epochs().newest().as_bytes());
    admin
        .keyring
        .state(key, |it| it.admit(b.id, name.clone(), false))
        .unwrap();
    let chain = admin.keyring.view().certificates_of(&b.id);
    b.join(secret, &chain);
    let expulsion_in = |node: &Node| {
        let ledger = node.keyring.ledger().unwrap();
        ledger.departed().expulsion(&b.id).cloned()
    };
    assert_eq!(expulsion_in(&admin), None);
    admin.keyring.state(key, |it| it.expel(b.id)).unwrap();
    let expulsion = expulsion_in(&admin);
    let by = expulsion.as_ref().map(|it| it.statement.by);
    assert_eq!(by, Some(admin.id));
    assert!(b.keyring.is_member(&b.id), "it was away");
    let address = admin.addr();
    let refused = b.net.knock(address).await;
    assert_eq!(refused, Err(NetError::PutOut { address }));
    assert_eq!(expulsion_in(&b), expulsion);
    // a node that never was a member, and one that was admitted again
    let stranger = Node::founder("c");
    assert!(stranger.net.knock(admin.addr()).await.is_err());
    assert_eq!(stranger.keyring.ledger().unwrap().history().len(), 1);
    admin
        .keyring
        .state(key, |it| it.admit(b.id, name, false))
        .unwrap();
    assert_eq!(expulsion_in(&admin), None);
}

#[tokio::test]
async fn a_node_expelled_by_an_unknown_administrator_is_told_all_the_same() {
    let (admin, b, c) = (Node::founder("a"), Node::founder("b"), Node::founder("c"));
    for (joiner, name, is_admin) in [(&b, "b", false), (&c, "c", true)] {
        let (key, name) = (&admin.key, NodeName::new(name).unwrap());
        admin
            .keyring
            .state(key, |it| it.admit(joiner.id, name, is_admin))
            .unwrap();
        let secret = EpochSecret::new(*admin.keyring.epochs().newest().as_bytes());
        let chain = admin.keyring.view().certificates_of(&joiner.id);
        joiner.join(secret, &chain);
    }
    let chain = admin.keyring.view().certificates_of(&b.id);
    assert!(c.keyring.receive_certificates(&b.id, &chain));
    c.keyring.state(&c.key, |it| it.expel(b.id)).unwrap();
    assert!(b.keyring.is_member(&b.id), "it was away");
    assert!(b.net.knock(c.addr()).await.is_err());
    assert!(!b.keyring.is_member(&b.id));
    assert_eq!(
        b.keyring
            .ledger()
            .unwrap()
            .departed()
            .expulsion(&b.id)
            .cloned(),
        c.keyring
            .ledger()
            .unwrap()
            .departed()
            .expulsion(&b.id)
            .cloned()
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_expelled_during_its_greeting_is_served_nothing() {
    let (admin, b) = (Node::founder("a"), Node::founder("b"));
    let (key, name) = (&admin.key, NodeName::new("b").unwrap());
    admin
        .keyring
        .state(key, |it| it.admit(b.id, name, false))
        .unwrap();
    // the answer does not fit, so the greeting lasts until it is read
    let (near, far) = duplex(64);
    let serving = admin.serve(far);
    let dialler = b.shared().local.tls.dialler(Some(admin.id)).unwrap();
    let mut stream = tls::dial(&dialler, near, || ()).await.unwrap();
    let greeting = Greeting::Prove {
        lane: Lane::Bulk,
        proof: [0; 32],
        chain: Bytes::new(),
    };
    let limits = PeerLimits::default();
    write_frame(&mut stream, &greeting.encode(), &limits)
        .await
        .unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    admin.keyring.state(key, |it| it.expel(b.id)).unwrap();
    admin.net.close_strangers();
    assert!(!serving.is_finished(), "it was greeted as a member");
    rest(&mut stream).await;
    assert_eq!(serving.await.unwrap(), DropReason::Stranger);
}
