//! Traffic after the greeting between an end that uses the keys itself and one that leaves them to
//! rustls, as older nodes do, and the times at which records wake their reader.

use std::future::poll_fn;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::low_water::BytesLacked;
use super::super::queue_limit::{LastTcpInfo, QueueLimitedStream};
use super::super::split::{LinkObserver, SplitConnection};
use super::super::tls::channel_of;
use super::super::*;
use super::harness::*;
use p2pfs_proto::wire::native::tcp::{Frame, FrameKind, Greeting};
use p2pfs_records::{CARRIED_MAX_BYTES, OVERHEAD_BYTES, RecordReader, TlsStream, testing};

type Ours = TlsStream<QueueLimitedStream<DuplexStream>>;
type Theirs = tokio_rustls::TlsStream<DuplexStream>;

/// Returns both ends of a connection after the handshake, the dialler's first.
async fn ends(pipe_bytes: usize) -> (Ours, Ours) {
    let (dialler, acceptor) = (Node::new(1), Node::new(1));
    let (near, far) = duplex(pipe_bytes);
    let config = dialler
        .shared()
        .local
        .tls
        .dialler(Some(acceptor.id))
        .unwrap();
    let (near, far) = tokio::join!(
        tls::dial(&config, QueueLimitedStream::new(near), || ()),
        acceptor
            .shared()
            .local
            .tls
            .accept(QueueLimitedStream::new(far)),
    );
    let (near, far) = (near.unwrap(), far.ok().unwrap());
    assert_eq!(tls::peer_of(&far), Some(dialler.id));
    (near, far)
}

/// Returns both ends of a connection after the handshake, of which one is of rustls.
async fn ends_with_rustls(pipe_bytes: usize, dialler_is_ours: bool) -> (Ours, Theirs) {
    let (dialler, acceptor) = (Node::new(1), Node::new(1));
    let (near, far) = duplex(pipe_bytes);
    let config = dialler
        .shared()
        .local
        .tls
        .dialler(Some(acceptor.id))
        .unwrap();
    let ours = QueueLimitedStream::new(near);
    if dialler_is_ours {
        let theirs = TlsAcceptor::from(acceptor.shared().local.tls.server()).accept(far);
        let (ours, theirs) = tokio::join!(tls::dial(&config, ours, || ()), theirs);
        (ours.unwrap(), theirs.unwrap().into())
    } else {
        let connector = TlsConnector::from(Arc::new(config));
        let theirs = connector.connect(tls::nameless(), far);
        let (ours, theirs) = tokio::join!(acceptor.shared().local.tls.accept(ours), theirs);
        (ours.unwrap(), theirs.unwrap().into())
    }
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
async fn our_records_and_rustls_understand_each_other_through_any_pipe() {
    for pipe_bytes in [100, 5000, 4 << 20] {
        for dialler_has_keys in [true, false] {
            let (ours, theirs) = ends_with_rustls(pipe_bytes, dialler_has_keys).await;
            let ours = SplitConnection::after_greeting(ours).unwrap();
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
async fn two_ends_with_our_records_understand_each_other_in_any_read_size() {
    for at_a_time in [1, 13, 4096, 16_384, 16_385, 1 << 20] {
        let lengths = [1, 9, 20_000, 50_000];
        let (dialler, acceptor) = ends(5000).await;
        let near = SplitConnection::after_greeting(dialler).unwrap();
        let far = SplitConnection::after_greeting(acceptor).unwrap();
        tokio::join!(
            say(near.writing, &lengths),
            hear(near.reading, &lengths, at_a_time),
            say(far.writing, &lengths),
            hear(far.reading, &lengths, at_a_time),
        );
    }
}

#[tokio::test]
async fn unsent_data_waits_within_its_limit_and_then_blocks_the_writer() {
    let (dialler, acceptor) = ends(4096).await;
    let mut near = SplitConnection::after_greeting(dialler).unwrap().writing;
    let mut far = SplitConnection::after_greeting(acceptor).unwrap().reading;
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
async fn a_request_right_after_the_greeting_is_read_unless_in_the_same_record() {
    for in_one_record in [false, true] {
        let (member, mut node) = (Node::new(1), Node::new(1));
        let (near, far) = duplex(1 << 20);
        let serving = node.serve(far);
        let dialler = member.shared().local.tls.dialler(Some(node.id)).unwrap();
        let mut stream = tls::dial(&dialler, near, || ()).await.unwrap();
        let channel = channel_of(&stream, member.id).unwrap();
        let proof = channel.membership_proof(
            &member.keyring.epochs().sealing(),
            p2pfs_proto::trust::Role::Client,
        );
        let chain = bytes::Bytes::new();
        let lane = Lane::Urgent;
        let greeting = Greeting::Prove { lane, proof, chain }.encode();
        let request = Frame::empty(7, FrameKind::AskMembers);
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

/// Returns these pieces as wire bytes, each in its own record.
async fn sealed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut wire = vec![];
    let mut writer = testing::writer(&mut wire, 0);
    for piece in pieces {
        writer.write_all(piece).await.unwrap();
        writer.flush().await.unwrap();
    }
    drop(writer);
    wire
}

const PATIENCE: Duration = Duration::from_secs(400);
/// Time for sent bytes to arrive and wake their reader.
const MOMENT: Duration = Duration::from_millis(2);

/// Returns the end of a link to write to, and the reader at the other end.
async fn listener() -> (TcpStream, RecordReader<QueueLimitedStream<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (far, (near, _)) = (dialled.await.unwrap(), listener.accept().await.unwrap());
    far.set_nodelay(true).unwrap();
    let near = QueueLimitedStream::new(near);
    let lack: BytesLacked = near.lack();
    let link = LastTcpInfo::default();
    let reader = testing::reader(near, 0).observed_by(LinkObserver { lack, link });
    (far, reader)
}

/// Returns the output of a future, and how often it was polled.
async fn counted<F: Future>(future: F) -> (F::Output, usize) {
    let (mut future, mut polls) = (pin!(future), 0);
    let output = poll_fn(|context| {
        polls += 1;
        future.as_mut().poll(context)
    });
    (output.await, polls)
}

#[tokio::test]
async fn a_reader_wakes_for_a_record_and_not_for_each_packet() {
    let wire = sealed(&[&[7; CARRIED_MAX_BYTES]]).await;
    let (mut far, mut reader) = listener().await;
    let hearing = tokio::spawn(counted(async move {
        let mut heard = vec![0; CARRIED_MAX_BYTES];
        reader.read_exact(&mut heard).await.unwrap();
        heard
    }));
    for packet in wire.chunks(1000) {
        far.write_all(packet).await.unwrap();
        sleep(MOMENT).await;
    }
    let (heard, polls) = timeout(PATIENCE, hearing).await.unwrap().unwrap();
    assert!(heard == [7; CARRIED_MAX_BYTES]);
    // first, when the length of the record is known, and when it is complete
    assert!(polls <= 3, "{polls}");
}

#[tokio::test]
async fn a_short_record_and_the_end_of_stream_are_delivered_at_once() {
    let long = [7; CARRIED_MAX_BYTES];
    let wire = sealed(&[&long, b"short", &long]).await;
    let (first, rest) = wire.split_at(CARRIED_MAX_BYTES + OVERHEAD_BYTES);
    let (short, last) = rest.split_at(5 + OVERHEAD_BYTES);
    let (mut far, mut reader) = listener().await;
    let mut heard = vec![0; CARRIED_MAX_BYTES];
    // each part arrives when its reader already waits
    for (parts, bytes) in [
        (vec![&first[..100], &first[100..]], CARRIED_MAX_BYTES),
        (vec![short], 5),
        (vec![&last[..100]], 0),
    ] {
        let saying = async {
            for part in parts {
                sleep(MOMENT).await;
                far.write_all(part).await.unwrap();
            }
            if bytes == 0 {
                sleep(MOMENT).await;
                far.shutdown().await.unwrap();
            }
        };
        let hearing = async {
            match bytes {
                0 => reader.read(&mut heard).await,
                _ => reader.read_exact(&mut heard[..bytes]).await,
            }
        };
        let ((), read) = tokio::join!(saying, timeout(PATIENCE, hearing));
        assert_eq!(read.unwrap().unwrap(), bytes);
    }
}
