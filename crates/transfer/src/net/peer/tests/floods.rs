//! A member that floods a node with cheap traffic: empty records, pings, pongs, frames in drips.
//! Its connection ends and it is reported. All tests use real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Duration, timeout};

use super::super::greet::{AdmissionPolicy, admit};
use super::super::limits::{PINGS_AT_ONCE, PINGS_PER_S};
use super::super::*;
use super::harness::*;
use p2pfs_proto::wire::native::tcp::{Frame, FrameKind, HEADER_BYTES};
use p2pfs_records::{EMPTY_RECORDS_MAX, OVERHEAD_BYTES, Opener, Sealer, TlsStream, testing};

const PATIENCE: Duration = Duration::from_secs(400);
const DRIP_EACH: Duration = Duration::from_millis(50);

/// Hostile end of a connection, which seals arbitrary bytes.
struct Hostile {
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
}

impl Hostile {
    /// Dials and proves membership, with the key of `member`.
    async fn dial(member: &Node, node: &Node) -> Self {
        let addr = node.addr();
        let stream = TcpStream::connect(addr).await.unwrap();
        let dialler = member.shared().local.tls.dialler(Some(node.id)).unwrap();
        let stream = tls::dial(&dialler, stream, || ()).await;
        let mut stream = stream.unwrap();
        let proven = greet::prove(member.shared(), &mut stream, Lane::Urgent);
        proven.await.unwrap();
        Self::of(stream)
    }

    /// Accepts one connection and proves membership, with the key of `member`.
    async fn accept(member: &Node, listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = member.shared();
        let mut stream = shared.local.tls.accept(stream).await.unwrap();
        let door = AdmissionPolicy {
            ledger: &shared.local.ledger,
            invites: None,
            now_unix_s: 0,
            on_refused: &|_| {},
        };
        let admitted = admit(&mut stream, shared.local.me, door, &shared.limits);
        admitted.await.unwrap();
        Self::of(stream)
    }

    fn of(stream: TlsStream<TcpStream>) -> Self {
        let (stream, sealer, opener) = stream.into_parts();
        Self {
            stream,
            sealer,
            opener,
        }
    }

    /// Seals these bytes in their own record.
    fn record(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut room = vec![0; bytes.len() + OVERHEAD_BYTES];
        self.sealer.seal([bytes].into_iter(), &mut room).unwrap();
        room
    }

    /// Sends all pieces, or as much as the other end accepts before it hangs up.
    async fn say(&mut self, pieces: &[&[u8]]) {
        let records: Vec<u8> = pieces.iter().flat_map(|it| self.record(it)).collect();
        let _hung_up = self.stream.write_all(&records).await;
    }

    /// Reads one record.
    async fn hear(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).await.ok()?;
        let length = testing::length_of(&header).ok()??;
        let mut record = [&header[..], &vec![0; length - 5]].concat();
        self.stream.read_exact(&mut record[5..]).await.ok()?;
        testing::open(&mut self.opener, &record).ok()
    }
}

/// Returns the breaches that a node reports of its peers.
fn blamed(node: &Node) -> UnboundedReceiver<(NodeId, DropReason)> {
    let (tell, told) = mpsc::unbounded_channel();
    let note = move |peer, _, reason| tell.send((peer, reason)).unwrap_or_default();
    node.net.set_on_breach(Arc::new(note));
    told
}

async fn next<T>(told: &mut UnboundedReceiver<T>) -> T {
    timeout(PATIENCE, told.recv()).await.unwrap().unwrap()
}

fn ping(id: u32) -> [u8; HEADER_BYTES] {
    Frame::empty(id, FrameKind::Ping).header
}

#[tokio::test]
async fn a_member_that_sends_endless_empty_records_is_disconnected_and_named() {
    let (member, node) = (Node::new(1), Node::new(1));
    let mut told = blamed(&node);
    let mut hostile = Hostile::dial(&member, &node).await;
    // the maximum in a row, repeated, is not a breach
    let (ping, pong) = (ping(0), Frame::empty(0, FrameKind::Pong).header);
    let row = [&[&b""[..]; EMPTY_RECORDS_MAX as usize][..], &[&ping]].concat();
    hostile.say(&row.repeat(2)).await;
    for _ in 0..2 {
        assert_eq!(hostile.hear().await.unwrap(), pong);
    }
    hostile
        .say(&[&b""[..]; EMPTY_RECORDS_MAX as usize + 1])
        .await;
    assert_eq!(hostile.hear().await, None);
    assert_eq!(next(&mut told).await, (member.id, DropReason::EmptyRecords));
    // a far larger number is a breach too
    let mut hostile = Hostile::dial(&member, &node).await;
    hostile.say(&vec![&b""[..]; 100_000]).await;
    assert_eq!(next(&mut told).await, (member.id, DropReason::EmptyRecords));
}

#[tokio::test]
async fn a_malformed_record_names_its_sender() {
    let (member, node) = (Node::new(1), Node::new(1));
    let mut told = blamed(&node);
    let mut hostile = Hostile::dial(&member, &node).await;
    let sealed = testing::seal_inside(&mut hostile.sealer, b"data\x14");
    hostile.stream.write_all(&sealed).await.unwrap();
    assert_eq!(next(&mut told).await, (member.id, DropReason::Malformed));
    // any machine on the way can change a record
    let mut hostile = Hostile::dial(&member, &node).await;
    let mut sealed = hostile.record(&ping(0));
    sealed[9] ^= 1;
    hostile.stream.write_all(&sealed).await.unwrap();
    assert_eq!(hostile.hear().await, None);
    assert_eq!(node.net.counters().dropped(DropReason::TlsFailed), 1);
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_member_that_pings_endlessly_is_limited_and_named() {
    let (member, node) = (Node::new(1), Node::new(1));
    let mut told = blamed(&node);
    let mut hostile = Hostile::dial(&member, &node).await;
    let begun = std::time::Instant::now();
    let many = ping(7).repeat(1000);
    hostile.say(&[&many[..]; 4]).await;
    assert_eq!(next(&mut told).await, (member.id, DropReason::Pings));
    let most = PINGS_AT_ONCE + PINGS_PER_S * (begun.elapsed().as_secs() as u32 + 1);
    let mut pongs = 0;
    while hostile.hear().await.is_some() {
        pongs += 1;
    }
    assert!(pongs <= most, "{pongs}");
}

#[tokio::test]
async fn a_member_that_cancels_one_request_endlessly_is_named() {
    let (member, mut node) = (Node::new(1), Node::new(1));
    let mut told = blamed(&node);
    let mut hostile = Hostile::dial(&member, &node).await;
    let request = question().encode(7).unwrap();
    hostile.say(&[&request.header, &request.body]).await;
    let incoming = timeout(PATIENCE, node.requests.recv()).await.unwrap();
    let reply = incoming.unwrap().reply;
    let _told = reply.unwanted();
    hostile.say(&[&ping(7).repeat(1000)]).await;
    assert_eq!(next(&mut told).await, (member.id, DropReason::Pings));
}

#[tokio::test]
async fn a_member_that_cancels_each_of_many_requests_is_not_an_offender() {
    let (member, node) = (Node::new(1), Node::new(1));
    let mut told = blamed(&node);
    let (seen, _net, _answering) = node.answer_all();
    for _ in 0..10 * PINGS_AT_ONCE {
        let asking = member.ask(&seen, Lane::Urgent);
        // polled once, which sends it, and then dropped
        let _none = timeout(Duration::ZERO, asking).await;
    }
    assert!(member.ask(&seen, Lane::Urgent).await.is_ok());
    assert!(told.try_recv().is_err());
    assert_eq!(member.net.counters().dialled, 1);
}

/// Sends a request to a hostile holder, which answers by `saying`. Returns the reported breach, and
/// how often progress was reported to the asker.
async fn holder_says(saying: impl AsyncFnOnce(&mut Hostile)) -> (DropReason, usize) {
    let (asker, member) = (Node::new(1), Node::new(1));
    let mut told = blamed(&asker);
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let progress = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&progress);
    let telling = Progress {
        tell: Arc::new(move |_, _, _| *seen.lock() += 1),
        node: member.id,
        key: 7,
    };
    let net = asker.net.clone();
    let asked = async {
        // the dial itself reports progress
        net.warm(member.id, addr, Lane::Urgent).await.unwrap();
        let asking = net.request_telling(member.id, addr, Lane::Urgent, question(), Some(telling));
        asking.await
    };
    let answering = async {
        let mut hostile = Hostile::accept(&member, &listener).await;
        saying(&mut hostile).await;
        hostile
    };
    let (answer, _hostile) = tokio::join!(asked, answering);
    let (peer, reason) = next(&mut told).await;
    assert_eq!(answer, Err(NetError::Lost { reason }));
    assert_eq!(peer, member.id);
    let progress = *progress.lock();
    (reason, progress)
}

#[tokio::test]
async fn a_holder_that_answers_with_empty_records_makes_no_progress_and_is_named() {
    let (reason, progress) = holder_says(async |hostile| {
        hostile.hear().await.unwrap();
        for _ in 0..=EMPTY_RECORDS_MAX {
            hostile.say(&[b""]).await;
        }
    })
    .await;
    assert_eq!((reason, progress), (DropReason::EmptyRecords, 0));
}

#[tokio::test]
async fn a_holder_that_sends_unsolicited_pongs_is_named() {
    let (reason, progress) = holder_says(async |hostile| {
        hostile.hear().await.unwrap();
        // the first one may answer a ping
        let pong = Frame::empty(0, FrameKind::Pong).header;
        hostile.say(&[&pong, &pong]).await;
    })
    .await;
    assert_eq!((reason, progress), (DropReason::Pings, 0));
}

#[tokio::test]
async fn a_member_that_sends_a_dripping_frame_is_named() {
    let limits = PeerLimits {
        times: ConnectionTimes {
            frame_grace: DRIP_EACH * 40,
            ..ConnectionTimes::default()
        },
        ..PeerLimits::default()
    };
    let (member, node) = (Node::new(1), Node::with_limits(1, limits));
    let mut told = blamed(&node);
    let mut hostile = Hostile::dial(&member, &node).await;
    let request = question().encode(7).unwrap();
    // each byte is read before the next one arrives, and the last one never arrives
    for byte in &request.header[1..] {
        hostile.say(&[&[*byte]]).await;
        assert!(timeout(DRIP_EACH, told.recv()).await.is_err());
    }
    assert_eq!(next(&mut told).await, (member.id, DropReason::Drip));
}
