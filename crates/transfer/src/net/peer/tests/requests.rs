//! Requests reach the node, and answers reach their askers.

use tokio::time::{Duration, sleep};

use super::super::request_room::LARGE_REQUESTS_PER_PEER_BYTES;
use super::super::*;
use super::harness::*;
use p2pfs_proto::wire::native::tcp::MEMBERS_MAX_BYTES;

#[tokio::test]
async fn a_request_is_answered_on_either_lane_over_warm_connections() {
    let asker = Node::new(1);
    let (server, net, _answering) = Node::new(1).answer_all();
    for _ in 0..3 {
        for lane in [Lane::Urgent, Lane::Bulk] {
            let reason = format!("{lane:?}");
            assert_eq!(
                asker.ask(&server, lane).await,
                Ok(Response::Refused { reason })
            );
        }
    }
    assert_eq!(asker.net.counters().dialled, 2);
    assert_eq!(net.counters().accepted, 2);
}

#[tokio::test]
async fn a_waiter_for_a_new_connection_is_told_of_handshake_progress() {
    let asker = Node::new(1);
    let (server, _net, _answering) = Node::new(1).answer_all();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let progress = Progress {
        tell: Arc::new(move |node, key, bytes| {
            let _ = tell.send((node, key, bytes));
        }),
        node: server.id,
        key: 7,
    };
    let ask = || {
        let (net, progress) = (asker.net.clone(), Some(progress.clone()));
        async move {
            let (lane, question) = (Lane::Urgent, question());
            net.request_telling(server.id, server.addr, lane, question, progress)
                .await
        }
    };
    assert!(ask().await.is_ok());
    let mut steps = vec![];
    while let Ok(step) = told.try_recv() {
        steps.push(step);
    }
    assert!(!steps.is_empty() && steps.iter().all(|step| *step == (server.id, 7, 0)));
    assert!(ask().await.is_ok(), "over the warm connection");
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_silent_peer_that_accepted_the_connection_is_not_considered_at_work() {
    let asker = Node::new(1);
    let server = Node::new(1).seen().id;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let progress = Progress {
        tell: Arc::new(move |_, _, _| {
            let _ = tell.send(());
        }),
        node: server,
        key: 7,
    };
    let (net, address) = (asker.net.clone(), listener.local_addr().unwrap());
    let asking = tokio::spawn(async move {
        let (lane, question) = (Lane::Urgent, question());
        net.request_telling(server, address, lane, question, Some(progress))
            .await
    });
    let accepting = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        // the beginning of the handshake has arrived, and the other end hangs up
        let hello = stream.read(&mut [0; 64]).unwrap();
        assert!(hello > 0);
    });
    accepting.await.unwrap();
    assert!(asking.await.unwrap().is_err());
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn the_node_learns_which_peer_asks_what() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let serve = async {
        let incoming = server.requests.recv().await.unwrap();
        assert_eq!(incoming.from, asker.id);
        assert!(incoming.addr.ip().is_loopback());
        assert_eq!(incoming.request, question());
        incoming.reply.send(Response::Gone);
    };
    let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Bulk), serve);
    assert_eq!(answer, Ok(Response::Gone));
}

#[tokio::test]
async fn concurrent_requests_dial_once() {
    let asker = Node::new(1);
    let (server, net, _answering) = Node::new(1).answer_all();
    let asks = (0..50).map(|_| {
        let net = asker.net.clone();
        tokio::spawn(async move {
            net.request(server.id, server.addr, Lane::Urgent, question())
                .await
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert!(ask.await.unwrap().is_ok());
    }
    assert_eq!(net.counters().accepted, 1);
}

#[tokio::test]
async fn answers_in_any_order_reach_their_requests() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let serve = async {
        let first = server.requests.recv().await.unwrap();
        let second = server.requests.recv().await.unwrap();
        for incoming in [second, first] {
            let Request::Log { after, .. } = incoming.request else {
                panic!()
            };
            incoming.reply.send(Response::Refused {
                reason: after.to_string(),
            });
        }
    };
    let ask = |after| {
        let request = Request::Log {
            author: seen.id,
            epoch: 1,
            after,
        };
        asker.net.request(seen.id, seen.addr, Lane::Urgent, request)
    };
    let (first, second, ()) = tokio::join!(ask(1), ask(2), serve);
    assert_eq!(first, Ok(Response::Refused { reason: "1".into() }));
    assert_eq!(second, Ok(Response::Refused { reason: "2".into() }));
}

#[tokio::test]
async fn a_request_tells_whether_its_sender_can_decode_replacements() {
    let earlier = PeerLimits {
        batches: false,
        ..PeerLimits::default()
    };
    for (limits, can_decode) in [(PeerLimits::default(), true), (earlier, false)] {
        let asker = Node::with_limits(1, limits);
        let mut server = Node::new(1);
        let seen = server.seen();
        let serve = async {
            let incoming = server.requests.recv().await.unwrap();
            assert_eq!(incoming.has_replacements, can_decode);
            incoming.reply.send(Response::NotHere);
        };
        let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Bulk), serve);
        assert_eq!(answer, Ok(Response::NotHere));
    }
}

#[tokio::test]
async fn a_large_answer_arrives_completely() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let proof: Vec<u8> = (0..(1 << 20) + 5000)
        .map(|i: u32| ((i * 31) >> 3) as u8)
        .collect();
    let proof = bytes::Bytes::from(proof);
    let serve = async {
        while let Some(incoming) = server.requests.recv().await {
            incoming.reply.send(Response::Data {
                proof: proof.clone(),
            });
        }
    };
    let asks = async {
        for _ in 0..8 {
            let answer = asker.ask(&seen, Lane::Bulk).await.unwrap();
            assert_eq!(
                answer,
                Response::Data {
                    proof: proof.clone()
                }
            );
        }
    };
    tokio::select! { () = serve => panic!(), () = asks => {} }
}

#[tokio::test]
async fn an_urgent_request_does_not_wait_behind_bulk_ones() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let in_flight = PeerLimits::default().in_flight_bulk;
    let mut bulk = Vec::new();
    let mut held = Vec::new();
    for _ in 0..in_flight {
        let net = asker.net.clone();
        bulk.push(tokio::spawn(async move {
            net.request(seen.id, seen.addr, Lane::Bulk, question())
                .await
        }));
        held.push(server.requests.recv().await.unwrap());
    }
    let serve = async {
        server
            .requests
            .recv()
            .await
            .unwrap()
            .reply
            .send(Response::Gone)
    };
    let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Urgent), serve);
    assert_eq!(answer, Ok(Response::Gone));
    held.into_iter()
        .for_each(|incoming| incoming.reply.send(Response::NotHere));
    for answer in bulk {
        assert_eq!(answer.await.unwrap(), Ok(Response::NotHere));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_in_flight_limit_wait() {
    let (asker, mut server) = (Node::new(1), Node::new(1));
    let (connection, _serving) = asker.pipe_to(&server).await;
    let in_flight = PeerLimits::default().in_flight_bulk;
    let asks: Vec<_> = (0..3 * in_flight)
        .map(|_| {
            let connection = Arc::clone(&connection);
            tokio::spawn(async move { connection.ask(&question(), None, None).await })
        })
        .collect();
    let mut answered = 0;
    while answered < asks.len() {
        // Virtual time advances only when no task can run; then the limit must hold.
        sleep(Duration::from_millis(1)).await;
        let mut held = Vec::new();
        while let Ok(incoming) = server.requests.try_recv() {
            held.push(incoming);
        }
        assert!(
            !held.is_empty() && held.len() <= in_flight,
            "{}",
            held.len()
        );
        answered += held.len();
        held.into_iter()
            .for_each(|incoming| incoming.reply.send(Response::Gone));
    }
    for ask in asks {
        assert_eq!(ask.await.unwrap(), Ok(Response::Gone));
    }
}

#[tokio::test]
async fn a_request_dropped_by_the_node_is_answered_busy() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let forget = async { drop(server.requests.recv().await) };
    let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Urgent), forget);
    assert_eq!(answer, Ok(Response::Busy));
}

#[tokio::test]
async fn a_node_whose_queue_is_full_answers_busy_at_once() {
    let asker = Node::new(1);
    let mut server = Node::with_limits(
        1,
        PeerLimits {
            incoming: 1,
            ..PeerLimits::default()
        },
    );
    let seen = server.seen();
    let net = asker.net.clone();
    let ask = || asker.ask(&seen, Lane::Urgent);
    let (first, second) = (ask(), ask());
    tokio::pin!(first, second);
    let busy = tokio::select! { answer = &mut first => answer, answer = &mut second => answer };
    assert_eq!(busy, Ok(Response::Busy));
    assert_eq!(server.net.counters().overloaded, 1);
    assert!(server.requests.recv().await.is_some());
    drop(net);
}

#[tokio::test]
async fn large_requests_are_bounded_by_their_bytes_and_leave_room_for_small_ones() {
    const FITTING: usize = LARGE_REQUESTS_PER_PEER_BYTES / MEMBERS_MAX_BYTES;
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let members = bytes::Bytes::from(vec![0; MEMBERS_MAX_BYTES]);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..=FITTING {
        let (net, members) = (asker.net.clone(), members.clone());
        let (node, address) = (seen.id, seen.addr);
        asked.spawn(async move {
            let request = Request::Members { members };
            net.request(node, address, Lane::Urgent, request).await
        });
    }
    let one = asked.join_next().await.unwrap().unwrap();
    assert_eq!(one, Ok(Response::Busy), "one does not fit");
    assert_eq!(server.net.counters().overloaded, 1);
    // The others keep their room while they are answered. A small one has a place.
    let answer = async {
        let mut large = Vec::new();
        for _ in 0..FITTING {
            let Incoming { request, reply, .. } = server.requests.recv().await.unwrap();
            assert!(matches!(request, Request::Members { .. }));
            large.push(reply);
        }
        let small = server.requests.recv().await.unwrap();
        small.reply.send(Response::NotHere);
        let more = Request::Members { members };
        let more = asker.net.request(seen.id, seen.addr, Lane::Urgent, more);
        assert_eq!(more.await, Ok(Response::Busy));
        for reply in large {
            reply.send(Response::NotHere);
        }
    };
    let small = asker.ask(&seen, Lane::Urgent);
    let (small, ()) = tokio::join!(small, answer);
    assert_eq!(small, Ok(Response::NotHere));
    for answer in asked.join_all().await {
        assert_eq!(answer, Ok(Response::NotHere));
    }
}

#[tokio::test]
async fn an_answer_over_the_limit_becomes_busy_and_the_connection_lives() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let serve = async {
        let huge = bytes::Bytes::from(vec![0; 3 << 20]);
        server
            .requests
            .recv()
            .await
            .unwrap()
            .reply
            .send(Response::Data { proof: huge });
        server
            .requests
            .recv()
            .await
            .unwrap()
            .reply
            .send(Response::Gone);
    };
    let asks = async {
        assert_eq!(asker.ask(&seen, Lane::Bulk).await, Ok(Response::Busy));
        assert_eq!(asker.ask(&seen, Lane::Bulk).await, Ok(Response::Gone));
    };
    tokio::join!(serve, asks);
    assert_eq!(server.net.counters().accepted, 1);
}

#[tokio::test]
async fn an_oversized_request_is_a_local_error_and_harms_nothing() {
    let asker = Node::new(1);
    let (server, net, _answering) = Node::new(1).answer_all();
    let members = bytes::Bytes::from(vec![0; 2 << 20]);
    let request = Request::Members { members };
    let answer = asker
        .net
        .request(server.id, server.addr, Lane::Bulk, request)
        .await;
    assert!(matches!(answer, Err(NetError::Request(_))));
    assert!(asker.ask(&server, Lane::Bulk).await.is_ok());
    assert_eq!(net.counters().accepted, 1);
}

#[tokio::test]
async fn abandoning_an_answer_leaves_the_connection_to_others() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let held = {
        let ask = asker.ask(&seen, Lane::Urgent);
        tokio::pin!(ask);
        tokio::select! {
            _ = &mut ask => panic!("nobody answered yet"),
            incoming = server.requests.recv() => incoming.unwrap(),
        }
    };
    held.reply.send(Response::Gone);
    let serve = async {
        server
            .requests
            .recv()
            .await
            .unwrap()
            .reply
            .send(Response::NotHere)
    };
    let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Urgent), serve);
    assert_eq!(answer, Ok(Response::NotHere));
    assert_eq!(server.net.counters().accepted, 1);
}

#[tokio::test]
async fn the_producer_of_an_answer_is_told_when_it_is_no_longer_needed() {
    let asker = Node::new(1);
    let mut server = Node::new(1);
    let seen = server.seen();
    let (held, unwanted) = {
        let ask = asker.ask(&seen, Lane::Bulk);
        tokio::pin!(ask);
        tokio::select! {
            _ = &mut ask => panic!("nobody answered yet"),
            incoming = server.requests.recv() => {
                let incoming = incoming.unwrap();
                let unwanted = incoming.reply.unwanted();
                (incoming, unwanted)
            }
        }
    };
    assert!(unwanted.await.is_err());
    let proof = bytes::Bytes::from(vec![7; 1 << 20]);
    held.reply.send(Response::Data { proof });
    let serve = async {
        let next = server.requests.recv().await.unwrap();
        next.reply.send(Response::NotHere);
    };
    let (answer, ()) = tokio::join!(asker.ask(&seen, Lane::Bulk), serve);
    assert_eq!(answer, Ok(Response::NotHere), "the connection lives");
    assert_eq!(server.net.counters().accepted, 1);
}

#[tokio::test]
async fn at_the_connection_limit_the_idle_one_is_closed() {
    let limits = PeerLimits {
        connections: ConnectionLimits {
            dialled: 1,
            ..ConnectionLimits::default()
        },
        ..PeerLimits::default()
    };
    let asker = Node::with_limits(1, limits);
    let (first, _first_net, _a) = Node::new(1).answer_all();
    let mut second = Node::new(1);
    let seen = second.seen();
    assert!(asker.ask(&first, Lane::Urgent).await.is_ok());
    let ask = asker.ask(&seen, Lane::Urgent);
    tokio::pin!(ask);
    let held = tokio::select! {
        _ = &mut ask => panic!("nobody answered yet"),
        incoming = second.requests.recv() => incoming.unwrap(),
    };
    let full = asker.ask(&first, Lane::Urgent).await;
    assert_eq!(full, Err(NetError::TooManyConnections));
    held.reply.send(Response::Gone);
    assert_eq!(ask.await, Ok(Response::Gone));
    assert!(asker.ask(&first, Lane::Urgent).await.is_ok());
}
