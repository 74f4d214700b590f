//! Connections that a machine on the way breaks within the greeting: nothing that it does is taken
//! for a statement of either node.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::super::*;
use super::harness::*;

/// Damage to a connection within the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// One bit of the dialler's second flight, by which it authenticates itself.
    FlippedFlight,
    /// One bit of the answer to the dialler's greeting.
    FlippedAnswer,
    /// The answer and all that follows.
    CutAnswer,
}

impl Damage {
    pub(super) const ALL: [Self; 3] = [Self::FlippedFlight, Self::FlippedAnswer, Self::CutAnswer];
}

/// Beginning of a sealed record (RFC 8446, section 5.2). The dialler's second flight begins with
/// one, or has one behind a short record.
const SEALED: [u8; 3] = [23, 3, 3];
/// Offset of the changed bit in a sealed record.
const FLIPPED_AT: usize = 10;

/// Changes a bit of the first sealed record. Returns whether there is one.
fn flip(bytes: &mut [u8]) -> bool {
    let begin = bytes.windows(SEALED.len()).position(|it| it == SEALED);
    if let Some(bit) = begin.and_then(|begin| bytes.get_mut(begin + FLIPPED_AT)) {
        *bit ^= 1;
    }
    begin.is_some()
}

/// Starts a machine on the way to `node` that does this damage to the first `damaged` connections.
/// Returns its address.
pub(super) async fn on_the_way(node: SocketAddr, damage: Damage, damaged: usize) -> SocketAddr {
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (dialler, _) = listener.accept().await.unwrap();
            let (from, to) = dialler.into_split();
            let (answers, requests) = TcpStream::connect(node).await.unwrap().into_split();
            let damage = (number < damaged).then_some(damage);
            let (tell, second_flight) = watch::channel(false);
            tokio::spawn(pass_requests(from, requests, damage, tell));
            tokio::spawn(pass_answers(answers, to, damage, second_flight));
        }
    });
    addr
}

async fn pass_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    damage: Option<Damage>,
    second_flight: watch::Sender<bool>,
) {
    let mut room = [0; 16 << 10];
    while let Ok(some @ 1..) = from.read(&mut room).await {
        let mut read = room[..some].to_vec();
        if !*second_flight.borrow() && flip(&mut read) {
            second_flight.send_replace(true);
            if damage == Some(Damage::FlippedFlight) {
                room[..some].copy_from_slice(&read);
            }
        }
        if to.write_all(&room[..some]).await.is_err() {
            return;
        }
    }
}

/// The node sends nothing between its first flight and its answer, which follows the dialler's
/// second flight.
async fn pass_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    damage: Option<Damage>,
    second_flight: watch::Receiver<bool>,
) {
    let mut room = [0; 16 << 10];
    while let Ok(some @ 1..) = from.read(&mut room).await {
        let is_answer = *second_flight.borrow();
        match damage {
            Some(Damage::CutAnswer) if is_answer => return,
            Some(Damage::FlippedAnswer) if is_answer => drop(flip(&mut room[..some])),
            _ => {}
        }
        if to.write_all(&room[..some]).await.is_err() {
            return;
        }
    }
}

/// Returns a node that repeats an attempt at once.
pub(super) fn asker() -> Node {
    let look_again = Duration::from_millis(1);
    let limits = PeerLimits {
        times: ConnectionTimes {
            look_again,
            ..ConnectionTimes::default()
        },
        ..PeerLimits::default()
    };
    Node::with_limits(1, limits)
}

#[tokio::test]
async fn a_greeting_that_breaks_on_the_way_is_no_refusal() {
    for damage in Damage::ALL {
        let (asker, node) = (asker(), Node::new(1));
        let addr = on_the_way(node.addr(), damage, usize::MAX).await;
        let seen = Seen { id: node.id, addr };
        let lost = asker.ask(&seen, Lane::Urgent).await;
        assert!(
            matches!(lost, Err(NetError::Lost { .. })),
            "{damage:?}: {lost:?}"
        );
        let lost = asker.net.knock(addr).await;
        assert!(
            matches!(lost, Err(NetError::Lost { .. })),
            "{damage:?}: {lost:?}"
        );
        let probed = asker.net.probe(addr).await;
        assert_eq!(probed, Probed::Broken(node.id), "{damage:?}");
    }
}

#[tokio::test]
async fn a_probe_and_a_repeated_request_outlast_one_broken_greeting() {
    for damage in Damage::ALL {
        let (asker, node) = (asker(), Node::new(1));
        let (seen, _net, _answering) = node.answer_all();
        let addr = on_the_way(seen.addr, damage, 1).await;
        assert_eq!(asker.net.probe(addr).await, Probed::Member(seen.id));
        let addr = on_the_way(seen.addr, damage, 1).await;
        let asked = asker
            .net
            .request_repeated(seen.id, addr, Lane::Urgent, question());
        assert!(asked.await.is_ok(), "{damage:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_a_broken_greeting() {
    let (asker, node) = (asker(), Node::new(2));
    let address = node.addr();
    let refused = asker.ask(&node.seen(), Lane::Urgent).await;
    assert_eq!(refused, Err(NetError::NotMember { address }));
    assert_eq!(
        asker.net.knock(address).await,
        Err(NetError::NotMember { address })
    );
    assert_eq!(asker.net.probe(address).await, Probed::Stranger(node.id));
}
