//! When a connection ends for any reason, its requests fail at the promised time.

use tokio::io::{copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::super::*;
use super::harness::*;

#[tokio::test]
async fn a_dropped_connection_fails_all_its_requests_at_once() {
    // no time limit may expire first on a busy machine
    let limits = PeerLimits {
        times: ConnectionTimes {
            dial: Duration::from_secs(3600),
            silent_after: Duration::from_secs(3600),
            ..ConnectionTimes::default()
        },
        ..PeerLimits::default()
    };
    let asker = Node::with_limits(1, limits);
    let mut server = Node::new(1);
    let seen = server.seen();
    let mut asks = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let net = asker.net.clone();
        asks.push(tokio::spawn(async move {
            net.request(seen.id, seen.addr, Lane::Bulk, question())
                .await
        }));
        held.push(server.requests.recv().await.unwrap());
    }
    server.net.close();
    for ask in asks {
        let lost = ask.await.unwrap().unwrap_err();
        assert!(lost.is_retryable());
        // The end of the connection causes the error, not a time limit.
        let NetError::Lost { reason } = lost else {
            panic!("{lost}")
        };
        assert!(
            matches!(reason, DropReason::PeerClosed | DropReason::Broken),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_request_after_a_lost_connection_dials_again() {
    let asker = Node::new(1);
    let (server, net, _answering) = Node::new(1).answer_all();
    assert!(asker.ask(&server, Lane::Urgent).await.is_ok());
    asker.net.close_peer(server.id);
    assert!(asker.ask(&server, Lane::Urgent).await.is_ok());
    assert_eq!(net.counters().accepted, 2);
}

#[tokio::test]
async fn closing_a_peer_fails_the_requests_of_both_ends() {
    let (mut a, mut b) = (Node::new(1), Node::new(1));
    let (seen_a, seen_b) = (a.seen(), b.seen());
    let (net_a, net_b) = (a.net.clone(), b.net.clone());
    let ask_b = net_a.request(seen_b.id, seen_b.addr, Lane::Urgent, question());
    let ask_a = net_b.request(seen_a.id, seen_a.addr, Lane::Urgent, question());
    let close = async {
        let held = (a.requests.recv().await, b.requests.recv().await);
        net_a.close_peer(seen_b.id);
        held
    };
    let (to_b, to_a, _held) = tokio::join!(ask_b, ask_a, close);
    assert_eq!(
        to_b,
        Err(NetError::Lost {
            reason: DropReason::ClosedHere
        })
    );
    assert!(matches!(to_a, Err(NetError::Lost { .. })));
    while net_a.counters().dropped(DropReason::ClosedHere) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_node_can_see_that_an_answer_is_no_longer_awaited() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let ask = asker.ask(&seen, Lane::Urgent);
    let serve = async {
        let incoming = server.requests.recv().await.unwrap();
        assert!(incoming.reply.is_wanted());
        asker.net.close();
        while incoming.reply.is_wanted() {
            tokio::task::yield_now().await;
        }
        incoming.reply.send(Response::Gone);
    };
    let (answer, ()) = tokio::join!(ask, serve);
    assert!(answer.is_err());
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let asker = Node::new(1);
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let nobody = Seen {
        id: NodeKey::random().node_id(),
        addr,
    };
    let error = asker.ask(&nobody, Lane::Urgent).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }) && error.is_retryable());
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[tokio::test]
async fn a_better_address_saves_a_waiter_from_the_failure_of_others() {
    let asker = Node::new(1);
    let (server, _net, _answering) = Node::new(1).answer_all();
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let stale = Seen {
        id: server.id,
        addr: listener.local_addr().unwrap(),
    };
    let first = asker.ask(&stale, Lane::Urgent);
    let second = async {
        let (stream, _) = listener.accept().await.unwrap();
        // The dial at the stale address is in progress. The next request joins it, sees it fail,
        // and dials its own address.
        let (answer, ()) = tokio::join!(asker.ask(&server, Lane::Urgent), async {
            tokio::task::yield_now().await;
            drop(stream);
        });
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err());
    assert!(second.is_ok(), "{second:?}");
}

#[tokio::test]
async fn a_closed_node_says_so_and_frees_its_port() {
    let node = Node::new(1);
    let (other, _net, _answering) = Node::new(1).answer_all();
    assert!(node.ask(&other, Lane::Urgent).await.is_ok());
    node.net.close();
    assert_eq!(node.ask(&other, Lane::Urgent).await, Err(NetError::Closed));
    let addr = node.addr();
    // The listener closes with its aborted task, at the runtime's next turn.
    while bind_tcp(addr).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_awaited_while_the_peer_answers_pings() {
    let (asker, mut server) = (Node::new(1), Node::new(1));
    let (connection, _serving) = asker.pipe_to(&server).await;
    let question = question();
    let serve = async {
        let incoming = server.requests.recv().await.unwrap();
        sleep(Duration::from_secs(20)).await;
        incoming.reply.send(Response::Gone);
    };
    let (answer, ()) = tokio::join!(connection.ask(&question, None, None), serve);
    assert_eq!(answer, Ok(Response::Gone));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_ends_the_connection() {
    let (asker, mut server) = (Node::new(1), Node::new(1));
    let (connection, _serving) = asker.pipe_to(&server).await;
    let start = Instant::now();
    let question = question();
    let hold = async { server.requests.recv().await };
    let (answer, _held) = tokio::join!(connection.ask(&question, None, None), hold);
    assert_eq!(
        answer,
        Err(NetError::Lost {
            reason: DropReason::Unanswered
        })
    );
    assert_eq!(
        start.elapsed(),
        PeerLimits::default().times.unanswered_after
    );
}

/// Returns a connection over a pipe that goes silent on request, like a pulled cable: nothing
/// arrives, nothing is reset.
async fn silenced(
    asker: &Node,
    server: &Node,
) -> (Arc<connection::Connection>, oneshot::Sender<()>) {
    let (near, mut proxy_near) = duplex(1 << 16);
    let (mut proxy_far, far) = duplex(1 << 16);
    let (cut, is_cut) = oneshot::channel();
    server.serve(far);
    tokio::spawn(async move {
        tokio::select! {
            _ = copy_bidirectional(&mut proxy_near, &mut proxy_far) => {}
            _ = is_cut => std::future::pending().await,
        }
    });
    (asker.over(near, server.id).await, cut)
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_after_2_s() {
    let (asker, mut server) = (Node::new(1), Node::new(1));
    let (connection, cut) = silenced(&asker, &server).await;
    let question = question();
    let silence = async {
        let held = server.requests.recv().await;
        cut.send(()).unwrap();
        held
    };
    let start = Instant::now();
    let (answer, _held) = tokio::join!(connection.ask(&question, None, None), silence);
    assert_eq!(
        answer,
        Err(NetError::Lost {
            reason: DropReason::Silent
        })
    );
    assert_eq!(start.elapsed(), PeerLimits::default().times.silent_after);
    assert!(!connection.is_usable(&PeerLimits::default()));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_died_unnoticed_costs_at_most_2_s() {
    let (asker, server) = (Node::new(1), Node::new(1));
    let (connection, cut) = silenced(&asker, &server).await;
    cut.send(()).unwrap();
    sleep(PeerLimits::default().times.idle_dialled / 2).await;
    let start = Instant::now();
    let answer = connection.ask(&question(), None, None).await;
    assert_eq!(
        answer,
        Err(NetError::Lost {
            reason: DropReason::Silent
        })
    );
    assert_eq!(start.elapsed(), PeerLimits::default().times.silent_after);
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed_by_its_dialler() {
    let (asker, server) = (Node::new(1), Node::new(1));
    let start = Instant::now();
    let (connection, serving) = asker.pipe_to(&server).await;
    let ended = serving.await.unwrap();
    assert_eq!(ended, DropReason::PeerClosed);
    assert_eq!(start.elapsed(), PeerLimits::default().times.idle_dialled);
    assert!(!connection.is_usable(&PeerLimits::default()));
}
