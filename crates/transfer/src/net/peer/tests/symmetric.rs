//! Both ends of a connection ask on it, whichever of them dialled.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::duplex;
use tokio::net::TcpListener;
use tokio::time::{Duration, sleep};

use super::super::connection::Connection;
use super::super::*;
use super::harness::*;
use p2pfs_proto::trust::EpochSecret;

/// Times that two nodes dial each other at once.
const ROUNDS: usize = 100;

/// Waits until a node may ask another one on an open connection, and returns it.
async fn asked(node: &PeerNet, other: NodeId, lane: Lane) -> Arc<Connection> {
    let shared = &node.owner.shared;
    loop {
        if let Some(connection) = shared.pool.open(other, lane, &shared.limits) {
            return connection;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_accepting_node_asks_first() {
    let (dialler, net_a, _a) = Node::new(1).answer_all();
    let (acceptor, net_b, _b) = Node::new(1).answer_all();
    for lane in [Lane::Urgent, Lane::Bulk] {
        net_a.warm(acceptor.id, acceptor.addr, lane).await.unwrap();
        asked(&net_b, dialler.id, lane).await;
        let nowhere = ANYWHERE.parse().unwrap();
        let answer = net_b.request(dialler.id, nowhere, lane, question()).await;
        let reason = format!("{lane:?}");
        assert_eq!(answer, Ok(Response::Refused { reason }));
    }
    assert_eq!(net_b.counters().dialled, 0);
    assert_eq!(net_a.counters().accepted, 0);
}

#[tokio::test]
async fn both_ends_ask_at_once_with_the_same_numbers() {
    let (a, net_a, _a) = Node::new(1).answer_all();
    let (b, net_b, _b) = Node::new(1).answer_all();
    net_a.warm(b.id, b.addr, Lane::Bulk).await.unwrap();
    asked(&net_b, a.id, Lane::Bulk).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        for (net, other) in [(net_a.clone(), b), (net_b.clone(), a)] {
            asking.spawn(async move {
                let lane = Lane::Bulk;
                net.request(other.id, other.addr, lane, question()).await
            });
        }
    }
    for answer in asking.join_all().await {
        let reason = "Bulk".to_owned();
        assert_eq!(answer, Ok(Response::Refused { reason }));
    }
    assert_eq!(net_a.counters().dialled + net_b.counters().dialled, 1);
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_lose_no_request_and_choose_one_connection() {
    for _ in 0..ROUNDS {
        let (a, net_a, _a) = Node::new(1).answer_all();
        let (b, net_b, _b) = Node::new(1).answer_all();
        let mut asking = tokio::task::JoinSet::new();
        for (net, other) in [(net_a.clone(), b), (net_b.clone(), a)] {
            asking.spawn(async move {
                for _ in 0..10 {
                    let request = net.request(other.id, other.addr, Lane::Bulk, question());
                    request.await.unwrap();
                }
            });
        }
        asking.join_all().await;
        // of two connections, the one that an end sees last may not be there yet
        loop {
            let at_a = asked(&net_a, b.id, Lane::Bulk).await;
            let at_b = asked(&net_b, a.id, Lane::Bulk).await;
            if at_a.is_dialled() != at_b.is_dialled() {
                let both = net_a.counters().dialled + net_b.counters().dialled == 2;
                assert!(!both || at_a.is_dialled() == (a.id < b.id));
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_one_is_left_and_an_open_request_is_answered() {
    let (mut a, mut b) = (Node::new(1), Node::new(1));
    let (to_b, at_b) = duplex(1 << 20);
    let (to_a, at_a) = duplex(1 << 20);
    let (ending_b, ending_a) = (b.serve(at_b), a.serve(at_a));
    let dialled_by_a = a.over(to_b, b.id).await;
    let dialled_by_b = b.over(to_a, a.id).await;
    let [question_a, question_b] = [question(), question()];
    let asks = async {
        tokio::join!(
            dialled_by_a.ask(&question_a, None, None),
            dialled_by_b.ask(&question_b, None, None),
        )
    };
    let hold = async {
        let (at_b, at_a) = (b.requests.recv().await, a.requests.recv().await);
        sleep(Duration::from_secs(25)).await;
        at_b.unwrap().reply.send(Response::Gone);
        at_a.unwrap().reply.send(Response::Gone);
    };
    let ((of_a, of_b), ()) = tokio::join!(asks, hold);
    assert_eq!((of_a, of_b), (Ok(Response::Gone), Ok(Response::Gone)));
    let begun = tokio::time::Instant::now();
    let (kept, ending) = if a.id < b.id {
        (&dialled_by_a, ending_a)
    } else {
        (&dialled_by_b, ending_b)
    };
    assert_eq!(ending.await.unwrap(), DropReason::PeerClosed);
    let limits = PeerLimits::default();
    assert!(begun.elapsed() <= limits.times.handshake + Duration::from_secs(1));
    assert!(kept.is_usable(&limits), "the other one is left");
    let at_a = asked(&a.net, b.id, Lane::Bulk).await;
    assert_eq!(at_a.is_dialled(), a.id < b.id);
}

#[tokio::test]
async fn a_peer_of_an_earlier_release_only_answers_on_connections_that_it_accepted() {
    let earlier = PeerLimits {
        batches: false,
        ..PeerLimits::default()
    };
    let (old, net_old, _old) = Node::with_limits(1, earlier).answer_all();
    let (new, net_new, _new) = Node::new(1).answer_all();
    for _ in 0..2 {
        let asked = net_old.request(new.id, new.addr, Lane::Bulk, question());
        assert!(asked.await.is_ok());
        let asked = net_new.request(old.id, old.addr, Lane::Bulk, question());
        assert!(asked.await.is_ok());
    }
    assert_eq!(net_old.counters().dialled, 1);
    assert_eq!(net_new.counters().dialled, 1);
}

#[tokio::test]
async fn an_expelled_member_is_answered_nothing_on_a_connection_that_was_dialled_to_it() {
    let (mut admin, b) = (Node::founder("a"), Node::founder("b"));
    let (key, name) = (&admin.key, NodeName::new("b").unwrap());
    let admitted = admin.keyring.state(key, |it| it.admit(b.id, name, false));
    admitted.unwrap();
    let secret = EpochSecret::new(*admin.keyring.epochs().newest().as_bytes());
    let chain = admin.keyring.view().certificates_of(&b.id);
    b.join(secret, &chain);
    admin.net.warm(b.id, b.addr(), Lane::Bulk).await.unwrap();
    asked(&b.net, admin.id, Lane::Bulk).await;
    admin.keyring.state(key, |it| it.expel(b.id)).unwrap();
    admin.net.close_strangers();
    let address = admin.addr();
    let refused = b.net.request(admin.id, address, Lane::Bulk, question());
    assert!(refused.await.is_err());
    let refused = b
        .net
        .request(admin.id, address, Lane::Bulk, question())
        .await;
    assert!(
        matches!(refused, Err(NetError::PutOut { .. } | NetError::Outsider)),
        "{refused:?}"
    );
    assert!(admin.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_probe_is_not_asked() {
    let (a, b) = (Node::new(1), Node::new(1));
    assert_eq!(a.net.probe(b.addr()).await, Probed::Member(b.id));
    while b.net.counters().dropped(DropReason::PeerClosed) == 0 {
        tokio::task::yield_now().await;
    }
    let shared = b.shared();
    assert!(
        shared
            .pool
            .open(a.id, Lane::Urgent, &shared.limits)
            .is_none()
    );
}

/// Returns a node that has asked a hidden one, whose calls arrive there, and the number of calls.
async fn calling(hidden: &(Seen, PeerNet)) -> (Seen, PeerNet, Arc<AtomicUsize>) {
    let (node, net, _answering) = Node::new(1).answer_all();
    let request = (hidden.1).request(node.id, node.addr, Lane::Bulk, question());
    request.await.unwrap();
    asked(&net, hidden.0.id, Lane::Bulk).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let (called, counted) = (hidden.1.clone(), Arc::clone(&calls));
    net.set_on_call(Arc::new(move |_, lane| {
        counted.fetch_add(1, Ordering::Relaxed);
        called.answer_call(node.id, node.addr, lane);
    }));
    (node, net, calls)
}

#[tokio::test]
async fn a_member_that_cannot_be_dialled_dials_back_when_it_is_called() {
    let (hidden, net_hidden, _answering) = Node::new(1).answer_all();
    let of_hidden = (hidden, net_hidden.clone());
    let (_, net, calls) = calling(&of_hidden).await;
    // takes connections and never answers, like a router
    let router = TcpListener::bind(ANYWHERE).await.unwrap();
    let nowhere = router.local_addr().unwrap();
    net.close_peer(hidden.id);
    for lane in [Lane::Bulk, Lane::Urgent] {
        let answer = net.request(hidden.id, nowhere, lane, question()).await;
        let reason = format!("{lane:?}");
        assert_eq!(answer, Ok(Response::Refused { reason }));
    }
    assert!(calls.load(Ordering::Relaxed) >= 2);
    assert_eq!(net.counters().dialled, 0);
    assert_eq!(net_hidden.counters().dialled, 3);
}

#[tokio::test]
async fn a_member_that_calls_endlessly_is_dialled_rarely_and_an_outsider_never() {
    let (node, net, _answering) = Node::new(1).answer_all();
    let called = Node::new(1);
    called
        .net
        .answer_call(NodeKey::random().node_id(), node.addr, Lane::Bulk);
    for _ in 0..1000 {
        called.net.answer_call(node.id, node.addr, Lane::Bulk);
        tokio::task::yield_now().await;
    }
    asked(&net, called.id, Lane::Bulk).await;
    assert!(called.net.counters().dialled <= 2);
}
