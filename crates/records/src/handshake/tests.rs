//! Handshakes and traffic with rustls at the other end, and handshakes that fail.

use tokio::io::{DuplexStream, duplex, split};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::stream::RecordObserver;
use crate::testing::configs::{configs, configs_of, key, name};

const LABEL: &[u8] = b"EXPORTER-test";
struct Unobserved;

impl RecordObserver for Unobserved {
    fn lacks(&self, _bytes: usize) {}
    fn passed_over(&self) {}
}

type Ours = TlsStream<DuplexStream>;
type Theirs = tokio_rustls::TlsStream<DuplexStream>;

/// Connects an end of this crate with one of rustls.
async fn ends(ours: Side, pipe_bytes: usize) -> (Ours, Theirs) {
    ends_with(ours, pipe_bytes, configs(true)).await
}

/// Connects an end of this crate with one of rustls, by these configurations.
async fn ends_with(
    ours: Side,
    pipe_bytes: usize,
    (client, server): (ClientConfig, ServerConfig),
) -> (Ours, Theirs) {
    let (near, far) = duplex(pipe_bytes);
    if ours == Side::Client {
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (ours, theirs) =
            tokio::join!(connect(&client, name(), near, || ()), acceptor.accept(far));
        (ours.unwrap(), theirs.unwrap().into())
    } else {
        let connector = TlsConnector::from(Arc::new(client));
        let (ours, theirs) = tokio::join!(accept(&server, near), connector.connect(name(), far));
        (ours.unwrap(), theirs.unwrap().into())
    }
}

fn exported(stream: &Theirs) -> [u8; 32] {
    let exported = match stream {
        Theirs::Client(it) => it.get_ref().1.export_keying_material([0; 32], LABEL, None),
        Theirs::Server(it) => it.get_ref().1.export_keying_material([0; 32], LABEL, None),
    };
    exported.unwrap()
}

/// Makes rustls update its key and request the other end's update.
fn refresh(stream: &mut Theirs) {
    let refreshed = match stream {
        Theirs::Client(it) => it.get_mut().1.refresh_traffic_keys(),
        Theirs::Server(it) => it.get_mut().1.refresh_traffic_keys(),
    };
    refreshed.unwrap();
}

const SIDES: [Side; 2] = [Side::Client, Side::Server];

#[tokio::test]
async fn both_ends_see_each_other_and_export_the_same_as_rustls() {
    for side in SIDES {
        let (ours, theirs) = ends(side, 100).await;
        assert_eq!(ours.side(), side);
        assert_eq!(ours.alpn_protocol(), Some(&b"test/1"[..]));
        assert_eq!(ours.peer_certificate(), Some(&key().cert[0]));
        assert_eq!(ours.export_keying_material(LABEL), Some(exported(&theirs)));
        assert_ne!(
            ours.export_keying_material(b"other"),
            Some(exported(&theirs))
        );
    }
}

#[tokio::test]
async fn each_suite_exports_and_updates_keys_as_rustls_does() {
    let suites = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    let suites: Vec<_> = suites.iter().filter(|it| it.tls13().is_some()).collect();
    assert!(suites.len() >= 3);
    for (suite, side) in suites
        .into_iter()
        .flat_map(|it| SIDES.map(|side| (it, side)))
    {
        let configs = configs_of(true, Some(*suite));
        let (ours, mut theirs) = ends_with(side, 4 << 20, configs).await;
        assert_eq!(ours.export_keying_material(LABEL), Some(exported(&theirs)));
        let (mut reading, mut writing) = ours.split(Unobserved).unwrap();
        for round in 0..3 {
            refresh(&mut theirs);
            say(&mut theirs, round, 50_000).await;
            hear(&mut reading, round, 50_000).await;
            writing.request_update();
            say(&mut writing, round, 50_000).await;
            hear(&mut theirs, round, 50_000).await;
        }
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), byte: u8, bytes: usize) {
    stream.write_all(&vec![byte; bytes]).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), byte: u8, bytes: usize) {
    let mut heard = vec![0; bytes];
    stream.read_exact(&mut heard).await.unwrap();
    assert!(heard.iter().all(|it| *it == byte));
}

#[tokio::test]
async fn keys_that_rustls_updates_in_mid_stream_are_followed_in_both_directions() {
    for side in SIDES {
        let (ours, mut theirs) = ends(side, 4 << 20).await;
        let (mut reading, mut writing) = ours.split(Unobserved).unwrap();
        for round in 0..20 {
            say(&mut theirs, round, 50_000).await;
            refresh(&mut theirs);
            say(&mut theirs, round + 100, 50_000).await;
            hear(&mut reading, round, 50_000).await;
            hear(&mut reading, round + 100, 50_000).await;
            // The answer begins with the update that rustls requested.
            say(&mut writing, round, 100_000).await;
            hear(&mut theirs, round, 100_000).await;
        }
    }
}

#[tokio::test]
async fn rustls_follows_the_updates_of_this_end_in_mid_stream() {
    for side in SIDES {
        let (ours, mut theirs) = ends(side, 4 << 20).await;
        let (mut reading, mut writing) = ours.split(Unobserved).unwrap();
        for round in 0..20 {
            say(&mut writing, round, 50_000).await;
            writing.request_update();
            say(&mut writing, round + 100, 50_000).await;
            hear(&mut theirs, round, 50_000).await;
            hear(&mut theirs, round + 100, 50_000).await;
            say(&mut theirs, round, 100_000).await;
            hear(&mut reading, round, 100_000).await;
        }
    }
}

#[tokio::test]
async fn traffic_flows_in_both_directions_at_once_while_both_ends_update() {
    for side in SIDES {
        let (ours, mut theirs) = ends(side, 5000).await;
        let (mut reading, mut writing) = ours.split(Unobserved).unwrap();
        refresh(&mut theirs);
        writing.request_update();
        let (mut their_reading, mut their_writing) = split(theirs);
        tokio::join!(
            say(&mut writing, 1, 1 << 20),
            hear(&mut reading, 2, 1 << 20),
            say(&mut their_writing, 2, 1 << 20),
            hear(&mut their_reading, 1, 1 << 20),
        );
    }
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_the_first_of_the_stream() {
    let (client, server) = configs(true);
    let (near, far) = duplex(1 << 20);
    let dialling = async {
        let connector = TlsConnector::from(Arc::new(client));
        let mut theirs = connector.connect(name(), far).await.unwrap();
        say(&mut theirs, 1, 40_000).await;
        theirs
    };
    // Everything is in the pipe before this end accepts the last message.
    let accepting = async {
        let mut ours = accept(&server, near).await.unwrap();
        hear(&mut ours, 1, 10).await;
        let unread = ours.split(Unobserved).err();
        assert!(unread.is_some_and(|unread| unread.0 > 0));
    };
    let (_theirs, ()) = tokio::join!(dialling, accepting);
}

#[tokio::test]
async fn an_end_that_is_refused_is_told_so() {
    let (client, server) = configs(false);
    let (near, far) = duplex(1 << 20);
    let (ours, theirs) = tokio::join!(connect(&client, name(), near, || ()), accept(&server, far));
    let ours = io::Error::from(ours.err().unwrap());
    assert_eq!(ours.kind(), io::ErrorKind::InvalidData);
    assert!(matches!(
        theirs,
        Err(HandshakeError::Tls(Error::AlertReceived(_)))
    ));
}

/// Returns the error of a handshake if the other end sends these bytes and then nothing.
async fn dialled(bytes: &[u8]) -> io::ErrorKind {
    let (client, _) = configs(true);
    let (near, mut far) = duplex(1 << 20);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let outcome = connect(&client, name(), near, || ()).await;
    io::Error::from(outcome.err().unwrap()).kind()
}

#[tokio::test]
async fn what_is_not_tls_is_told_from_an_end_that_hangs_up() {
    for greeting in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"SSH-2.0-OpenSSH_9\r\n",
    ] {
        assert_eq!(dialled(greeting).await, io::ErrorKind::InvalidData);
    }
    for cut in [&b""[..], &[22], &[22, 3, 3, 0, 90, 2, 0]] {
        assert_eq!(dialled(cut).await, io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_handshake_without_end_is_given_up_at_its_limit() {
    let (_, server) = configs(true);
    let (near, mut far) = duplex(1 << 20);
    // A client hello of 64 KiB, divided over several records. rustls would accept it.
    let mut wire = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    wire.resize(5 + 0x4000, 0);
    let next = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    far.write_all(&[wire, next.repeat(9)].concat())
        .await
        .unwrap();
    let outcome = accept(&server, near).await;
    assert!(matches!(outcome, Err(HandshakeError::TooLong)));
    let mut left = vec![];
    far.shutdown().await.unwrap();
    far.read_to_end(&mut left).await.unwrap();
    assert_eq!(end_of_record(&[], 0), Ok(None));
    const { assert!(HANDSHAKE_MAX_BYTES < 9 * 0x4000) };
}

#[tokio::test]
async fn a_record_that_is_too_long_ends_the_handshake_at_its_header() {
    for body_bytes in [BODY_MAX_BYTES + 1, 18_431, 0xffff] {
        let (_, server) = configs(true);
        let (near, mut far) = duplex(1 << 10);
        let length = u16::try_from(body_bytes).unwrap().to_be_bytes();
        far.write_all(&[22, 3, 1, length[0], length[1]])
            .await
            .unwrap();
        let outcome = accept(&server, near).await;
        assert!(
            matches!(outcome, Err(HandshakeError::Tls(_))),
            "{body_bytes}"
        );
    }
}
