//! Results of probes if the other end hangs up during them.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::accept::serve_stream;
use super::super::*;
use super::harness::*;

/// Point at which a node stops during a greeting.
#[derive(Clone, Copy, Debug)]
enum Stop {
    InTheHandshake,
    InTheGreeting,
}

/// Returns a node that repeats a probe at once.
fn asker() -> Node {
    let look_again = Duration::from_millis(1);
    Node::with_limits(
        1,
        PeerLimits {
            times: ConnectionTimes {
                look_again,
                ..ConnectionTimes::default()
            },
            ..PeerLimits::default()
        },
    )
}

/// Starts a node that stops during a greeting once for each entry of `stops`, while its sockets
/// stay open as a service manager keeps them. Afterwards it serves, or is gone unless it comes
/// back.
async fn stopping(stops: Vec<Stop>, node: &Node, comes_back: bool) -> (SocketAddr, JoinHandle<()>) {
    let shared = Arc::clone(node.shared());
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        for stop in stops {
            let (stream, _) = listener.accept().await.unwrap();
            if matches!(stop, Stop::InTheGreeting) {
                shared.local.tls.accept(stream).await.unwrap();
            }
        }
        if !comes_back {
            return;
        }
        loop {
            let (stream, addr) = listener.accept().await.unwrap();
            let (place, _) = shared.register.enter(addr.ip(), &shared.limits).unwrap();
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { serve_stream(&shared, stream, addr, place).await });
        }
    });
    (addr, serving)
}

#[tokio::test]
async fn a_node_that_stops_during_a_probe_is_closed_or_back_and_refuses_no_one() {
    for stop in [Stop::InTheHandshake, Stop::InTheGreeting] {
        let (asker, node) = (asker(), Node::new(1));
        let (addr, gone) = stopping(vec![stop], &node, false).await;
        assert_eq!(asker.net.probe(addr).await, Probed::Closed, "{stop:?}");
        gone.await.unwrap();
        let (addr, _serving) = stopping(vec![stop], &node, true).await;
        let found = asker.net.probe(addr).await;
        assert_eq!(found, Probed::Member(node.id), "{stop:?}");
    }
}

#[tokio::test]
async fn repeated_hang_ups_are_broken_connections_and_another_secret_is_a_refusal() {
    let (asker, node) = (asker(), Node::new(2));
    let found = asker.net.probe(node.addr()).await;
    assert_eq!(found, Probed::Stranger(node.id));
    for (stop, means) in [
        (Stop::InTheGreeting, Probed::Broken(node.id)),
        (Stop::InTheHandshake, Probed::Other),
    ] {
        let (addr, _gone) = stopping(vec![stop; 2], &node, false).await;
        assert_eq!(asker.net.probe(addr).await, means);
    }
}

/// Small packets arrive and large ones are lost: the connection is established, and the greeting is
/// not. Both ends give up at about the same time, either of them first.
#[tokio::test(start_paused = true)]
async fn a_connection_without_data_is_neither_silence_nor_another_protocol() {
    let asker = asker();
    let patience = PeerLimits::default().times.handshake;
    for hangs_up_after in [patience * 9 / 10, patience * 2] {
        let listener = TcpListener::bind(ANYWHERE).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let holding = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::time::sleep(hangs_up_after).await;
            drop(stream);
        });
        assert_eq!(asker.net.probe(addr).await, Probed::Stalled);
        holding.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_within_its_patience_and_tells_a_stalled_node_from_a_silent_one() {
    let asker = asker();
    let patience = PeerLimits::default().times.handshake / 4;
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let begun = tokio::time::Instant::now();
    let probed = asker.net.probe_within(addr, patience).await;
    assert_eq!(probed, Probed::Stalled);
    assert!(begun.elapsed() < patience * 2);
}

#[tokio::test]
async fn a_request_to_a_stopping_node_is_repeated_and_a_refused_one_is_not() {
    let (asker, node) = (asker(), Node::new(1));
    let (addr, _serving) = stopping(vec![Stop::InTheGreeting], &node, true).await;
    let (seen, _net, _answering) = node.answer_all();
    let ask = |id, addr| {
        asker
            .net
            .request_repeated(id, addr, Lane::Urgent, question())
    };
    assert!(ask(seen.id, addr).await.is_ok());
    let stranger = Node::new(2);
    let address = stranger.addr();
    let refused = ask(stranger.id, address).await;
    assert_eq!(refused, Err(NetError::NotMember { address }));
    assert_eq!(stranger.net.counters().dropped(DropReason::Stranger), 1);
}
