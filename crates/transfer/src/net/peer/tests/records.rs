//! Traffic after the greeting between an end that uses the keys itself and one that leaves them to
//! rustls, as older nodes do.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsStream;

use super::super::cork::Corked;
use super::super::polite::QueueLimitedStream;
use super::super::records::Records;
use super::super::tls::{nameless, peer_of};
use super::super::*;
use super::harness::*;
use p2pfs_proto::wire::native::tcp::{Frame, Greeting, Kind};

type Tls = TlsStream<Corked<QueueLimitedStream<DuplexStream>>>;

/// Returns both ends of a connection after the handshake, the dialler's first.
async fn ends(pipe_bytes: usize) -> (Tls, Tls) {
    let (dialler, acceptor) = (Node::new(1), Node::new(1));
    let (near, far) = duplex(pipe_bytes);
    let connector = dialler.shared().tls.connector(Some(acceptor.id)).unwrap();
    let accepting = acceptor.shared().tls.acceptor();
    let (near, far) = tokio::join!(
        connector.connect(nameless(), Corked::new(QueueLimitedStream::new(near))),
        accepting.accept(Corked::new(QueueLimitedStream::new(far))),
    );
    let ends = (
        TlsStream::from(near.unwrap()),
        TlsStream::from(far.unwrap()),
    );
    assert_eq!(peer_of(&ends.1), Some(dialler.id));
    ends
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Writes pieces of these lengths, and one of all lengths together at the end.
async fn say(mut stream: impl AsyncWrite + Unpin, lengths: &[usize]) {
    for length in lengths {
        stream.write_all(&some_bytes(*length)).await.unwrap();
    }
    stream.flush().await.unwrap();
}

/// Reads pieces of these lengths, `at_a_time` bytes at a time.
async fn hear(mut stream: impl AsyncRead + Unpin, lengths: &[usize], at_a_time: usize) {
    for length in lengths {
        let mut heard = vec![];
        while heard.len() < *length {
            let mut some = vec![0; at_a_time.min(length - heard.len())];
            let came = stream.read(&mut some).await.unwrap();
            assert!(came > 0, "it ended after {} of {length}", heard.len());
            heard.extend_from_slice(&some[..came]);
        }
        assert!(heard == some_bytes(*length), "{length}");
    }
}

const LENGTHS: [usize; 7] = [1, 9, 16_384, 16_385, 70_000, 300, 1_000_000];

#[tokio::test]
async fn an_end_with_the_keys_and_one_of_rustls_hear_each_other_through_any_pipe() {
    for pipe_bytes in [100, 5000, 4 << 20] {
        for dialler_has_keys in [true, false] {
            let (dialler, acceptor) = ends(pipe_bytes).await;
            let (ours, theirs) = if dialler_has_keys {
                (dialler, acceptor)
            } else {
                (acceptor, dialler)
            };
            let ours = Records::after_greeting(ours).unwrap();
            let (their_reading, their_writing) = tokio::io::split(theirs);
            tokio::join!(
                say(ours.writing, &LENGTHS),
                hear(ours.reading, &LENGTHS, 100_000),
                say(their_writing, &LENGTHS),
                hear(their_reading, &LENGTHS, 100_000),
            );
        }
    }
}

#[tokio::test]
async fn two_ends_with_the_keys_hear_each_other_however_little_is_asked_for_at_a_time() {
    for at_a_time in [1, 13, 4096, 16_384, 16_385, 1 << 20] {
        let lengths = [1, 9, 20_000, 50_000];
        let (dialler, acceptor) = ends(5000).await;
        let near = Records::after_greeting(dialler).unwrap();
        let far = Records::after_greeting(acceptor).unwrap();
        tokio::join!(
            say(near.writing, &lengths),
            hear(near.reading, &lengths, at_a_time),
            say(far.writing, &lengths),
            hear(far.reading, &lengths, at_a_time),
        );
    }
}

#[tokio::test]
async fn what_the_socket_does_not_take_waits_within_its_limit_and_then_the_writer() {
    let (dialler, acceptor) = ends(4096).await;
    let mut near = Records::after_greeting(dialler).unwrap().writing;
    let mut far = Records::after_greeting(acceptor).unwrap().reading;
    let bytes = some_bytes(1 << 20);
    let (mut taken, patience) = (0, Duration::from_millis(50));
    while let Ok(step) = timeout(patience, near.write(&bytes[taken..])).await {
        taken += step.unwrap();
    }
    assert!((256 << 10..300 << 10).contains(&taken), "{taken}");
    let rest = async {
        near.write_all(&bytes[taken..]).await.unwrap();
        near.flush().await.unwrap();
    };
    let lengths = [bytes.len()];
    tokio::join!(rest, hear(&mut far, &lengths, 1 << 20));
}

#[tokio::test]
async fn a_request_right_behind_the_greeting_is_heard_and_one_in_the_same_record_is_not() {
    for in_one_record in [false, true] {
        let (member, mut node) = (Node::new(1), Node::new(1));
        let (near, far) = duplex(1 << 20);
        let serving = node.serve(far);
        let connector = member.shared().tls.connector(Some(node.id)).unwrap();
        let stream = connector.connect(nameless(), near).await.unwrap();
        let mut stream = TlsStream::from(stream);
        let channel = super::super::tls::channel_of(&stream, member.id).unwrap();
        let proof =
            channel.membership_proof(&member.keyring.current(), p2pfs_proto::trust::Role::Client);
        let chain = bytes::Bytes::new();
        let lane = Lane::Urgent;
        let greeting = Greeting::Prove { lane, proof, chain }.encode();
        let request = Frame::empty(7, Kind::AskMembers);
        let greeting = [&greeting.header[..], &greeting.body].concat();
        if in_one_record {
            let both = [&greeting[..], &request.header].concat();
            stream.write_all(&both).await.unwrap();
        } else {
            stream.write_all(&greeting).await.unwrap();
            stream.write_all(&request.header).await.unwrap();
        }
        stream.flush().await.unwrap();
        if in_one_record {
            assert_eq!(serving.await.unwrap(), DropReason::Malformed);
        } else {
            assert!(node.requests.recv().await.is_some());
        }
    }
}
