//! Garbage, floods and drips cost the sender its connection, and this node a counter.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use super::super::*;
use super::harness::*;
use p2pfs_proto::wire::native::tcp::{Frame, FrameKind};

/// Waits until the other end closes, and ignores what it sends before.
async fn closed(stream: &mut (impl Wire + ?Sized)) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
}

/// Sends `bytes` as a proven member. Returns the reason why the node hung up.
async fn said_by_a_member(bytes: &[u8]) -> DropReason {
    let (member, mut node) = (Node::new(1), Node::new(1));
    let mut stream = member.proven(&node.seen()).await;
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    closed(&mut stream).await;
    assert!(node.requests.try_recv().is_err());
    let counters = node.net.counters();
    let counted = |(reason, _): &(DropReason, _)| counters.dropped(*reason) > 0;
    DropReason::ALL.into_iter().find(counted).unwrap().0
}

#[tokio::test]
async fn a_member_that_breaks_the_protocol_is_dropped_with_the_reason() {
    let mut oversized = Frame::empty(1, FrameKind::AskMembers).header;
    oversized[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let empty_range = Frame::empty(1, FrameKind::AskRange).header;
    let an_answer = Frame::empty(1, FrameKind::Gone).header;
    for (bytes, reason) in [
        (&oversized[..], DropReason::Oversized),
        (&empty_range, DropReason::Malformed),
        (&an_answer, DropReason::Malformed),
        (&[0xff; 100], DropReason::Malformed),
        (&[0; 100], DropReason::Malformed),
    ] {
        assert_eq!(said_by_a_member(bytes).await, reason, "{bytes:?}");
    }
}

#[tokio::test]
async fn garbage_on_the_port_changes_only_a_counter() {
    let (server, net, _answering) = Node::new(1).answer_all();
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], DropReason::NotTls),
        (&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5], DropReason::TlsFailed),
        (&[0x16, 0xff, 0xff, 0xff, 0xff, 0xff], DropReason::TlsFailed),
        (b"", DropReason::PeerClosed),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(&mut stream).await;
        while net.counters().dropped(reason) == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(Node::new(1).ask(&server, Lane::Urgent).await.is_ok());
}

#[tokio::test]
async fn a_connection_of_a_foreign_plane_is_handed_over_with_its_first_byte() {
    let node = Node::new(1);
    let (sender, mut foreign) = mpsc::channel(1);
    node.net.set_foreign_plane(Some(sender));
    let mut client = TcpStream::connect(node.addr()).await.unwrap();
    client.write_all(b"Get,name\n").await.unwrap();
    let (mut stream, from) = foreign.recv().await.unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    let mut line = [0; 9];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"Get,name\n");
    assert_eq!(node.net.counters().foreign_plane, 1);
}

#[tokio::test]
async fn idle_connections_make_room_and_a_member_connects_at_once() {
    let limits = PeerLimits {
        times: ConnectionTimes {
            first_byte: Duration::from_secs(3600),
            ..ConnectionTimes::default()
        },
        connections: ConnectionLimits {
            unproven_per_ip: 2,
            ..ConnectionLimits::default()
        },
        ..PeerLimits::default()
    };
    let (server, net, _answering) = Node::with_limits(1, limits).answer_all();
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    let _second = TcpStream::connect(server.addr).await.unwrap();
    let _third = TcpStream::connect(server.addr).await.unwrap();
    closed(&mut first).await;
    assert_eq!(net.counters().dropped(DropReason::TooMany), 1);
    assert!(Node::new(1).ask(&server, Lane::Urgent).await.is_ok());
}

#[tokio::test]
async fn a_connection_without_a_byte_is_closed_within_a_second() {
    let node = Node::new(1);
    let begun = std::time::Instant::now();
    let mut idle = TcpStream::connect(node.addr()).await.unwrap();
    closed(&mut idle).await;
    assert!(begun.elapsed() >= PeerLimits::default().times.first_byte / 2);
    assert_eq!(node.net.counters().dropped(DropReason::SlowGreeting), 1);
}

#[tokio::test]
async fn a_peers_newest_connections_replace_its_oldest() {
    let limits = PeerLimits {
        connections: ConnectionLimits {
            accepted_per_peer: 2,
            ..ConnectionLimits::default()
        },
        ..PeerLimits::default()
    };
    let (member, node) = (Node::new(1), Node::with_limits(1, limits));
    let mut oldest = member.proven(&node.seen()).await;
    let _second = member.proven(&node.seen()).await;
    let _third = member.proven(&node.seen()).await;
    closed(&mut oldest).await;
    assert_eq!(node.net.counters().dropped(DropReason::Replaced), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let node = Node::new(1);
    let (_silent, far) = duplex(1024);
    let start = Instant::now();
    assert_eq!(node.serve(far).await.unwrap(), DropReason::SlowGreeting);
    assert_eq!(start.elapsed(), PeerLimits::default().times.handshake);
}

#[tokio::test(start_paused = true)]
async fn a_dripping_greeting_is_closed() {
    let node = Node::new(1);
    let (mut near, far) = duplex(1 << 16);
    let start = Instant::now();
    let drip = async {
        let record = [&[0x16, 3, 1, 2, 0][..], &[1; 512]].concat();
        for byte in record.chunks(1) {
            if near.write_all(byte).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let reason = tokio::select! {
        reason = node.serve(far) => reason.unwrap(),
        () = drip => unreachable!(),
    };
    assert!(
        matches!(reason, DropReason::SlowGreeting | DropReason::TlsFailed),
        "{reason}"
    );
    assert!(start.elapsed() <= PeerLimits::default().times.handshake);
}
