//! Content and timing of records, on streams that are cut, changed, worn or slow.

use std::future::poll_fn;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep, timeout};

use super::super::framing::io_reason;
use super::super::seal::tests::way;
use super::super::seal::{SEALED_MAX, WORN_AFTER};
use super::*;

/// Returns these pieces as wire bytes, each in its own record.
async fn sealed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut wire = vec![];
    let mut writer = RecordWriter::new(&mut wire, way(0).0, KeyWear::default());
    for piece in pieces {
        writer.write_all(piece).await.unwrap();
        writer.flush().await.unwrap();
    }
    drop(writer);
    wire
}

async fn opened(wire: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let mut reader = RecordReader::new(
        wire,
        way(0).1,
        KeyWear::default(),
        BytesLacked::default(),
        LastTcpInfo::default(),
    );
    let mut bytes = vec![];
    let outcome = reader.read_to_end(&mut bytes).await;
    (bytes, outcome)
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_ends_with_its_last_whole_record() {
    let wire = sealed(&[b"first", b"second"]).await;
    let first = 5 + OVERHEAD_BYTES;
    for length in 0..wire.len() {
        let (bytes, outcome) = opened(&wire[..length]).await;
        let whole = if length < first { &b""[..] } else { b"first" };
        assert_eq!((&bytes[..], outcome.unwrap()), (whole, whole.len()));
    }
    assert_eq!(opened(&wire).await.0, b"firstsecond");
}

#[tokio::test]
async fn nothing_of_a_record_that_was_changed_on_its_way_is_given() {
    let mut wire = sealed(&[b"first", b"second", b"third"]).await;
    wire[5 + OVERHEAD_BYTES + HEADER_BYTES] ^= 1;
    let (bytes, outcome) = opened(&wire).await;
    assert_eq!(bytes, b"first");
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let mut reader = RecordReader::new(
        &wire[..],
        way(0).1,
        KeyWear::default(),
        BytesLacked::default(),
        LastTcpInfo::default(),
    );
    for letter in b"first" {
        assert_eq!(reader.read_u8().await.unwrap(), *letter);
    }
    for _ in 0..3 {
        let outcome = reader.read_u8().await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

/// Opens five runs of this many empty records, each followed by a byte.
async fn opened_between_empty_records(in_a_row: u32) -> (Vec<u8>, io::Result<usize>) {
    let mut sealer = way(0).0;
    let mut wire = vec![];
    let row = vec![&b""[..]; in_a_row as usize];
    let pieces = [&row[..], &[b"x"]].concat().repeat(5);
    for piece in pieces {
        let mut room = vec![0; piece.len() + OVERHEAD_BYTES];
        sealer.seal([piece].into_iter(), &mut room).unwrap();
        wire.extend(room);
    }
    opened(&wire).await
}

#[tokio::test]
async fn so_many_empty_records_in_a_row_are_passed_over_and_one_more_ends_the_stream() {
    let (bytes, outcome) = opened_between_empty_records(EMPTY_RECORDS_MAX).await;
    assert_eq!((&bytes[..], outcome.is_ok()), (&b"xxxxx"[..], true));
    let (bytes, outcome) = opened_between_empty_records(EMPTY_RECORDS_MAX + 1).await;
    let reason = io_reason(&outcome.unwrap_err());
    assert_eq!((&bytes[..], reason), (&b""[..], DropReason::EmptyRecords));
    assert!(reason.is_breach());
}

#[tokio::test]
async fn a_record_without_content_is_not_on_the_way_to_an_answer() {
    let (mut sealer, opener) = way(0);
    let mut wire = [0; OVERHEAD_BYTES];
    sealer.seal([&b""[..]].into_iter(), &mut wire).unwrap();
    let link = LastTcpInfo::default();
    let mut reader = RecordReader::new(
        &wire[..],
        opener,
        KeyWear::default(),
        BytesLacked::default(),
        link.clone(),
    );
    assert_eq!(link.passed_over(), None);
    assert_eq!(reader.read(&mut [0; 9]).await.unwrap(), 0);
    assert!(link.passed_over().is_some());
}

#[tokio::test]
async fn both_ends_know_when_the_keys_are_worn_and_hear_all_that_these_bear() {
    for (left, first_worn) in [(WORN_AFTER, 1), (SEALED_MAX, 0)] {
        let (near, far) = duplex(1 << 20);
        let (wears, (sealer, opener)) = ([KeyWear::default(), KeyWear::default()], way(left - 2));
        let mut writer = RecordWriter::new(near, sealer, wears[0].clone());
        let mut reader = RecordReader::new(
            far,
            opener,
            wears[1].clone(),
            BytesLacked::default(),
            LastTcpInfo::default(),
        );
        for piece in 0..2 {
            writer.write_all(&[piece; 9]).await.unwrap();
            assert_eq!(reader.read_u8().await.unwrap(), piece);
            reader.read_exact(&mut [0; 8]).await.unwrap();
            let is_worn = wears.each_ref().map(KeyWear::is_worn);
            assert_eq!(is_worn, [usize::from(piece) >= first_worn; 2]);
        }
        let one_more = writer.write_all(b"more").await;
        assert_eq!(one_more.is_ok(), left == WORN_AFTER);
    }
}

#[tokio::test]
async fn what_was_sealed_before_the_keys_bear_no_more_is_heard() {
    let (near, far) = duplex(100);
    let (sealer, opener) = way(SEALED_MAX - 3);
    let mut writer = RecordWriter::new(near, sealer, KeyWear::default());
    let mut reader = RecordReader::new(
        far,
        opener,
        KeyWear::default(),
        BytesLacked::default(),
        LastTcpInfo::default(),
    );
    let saying = async move { writer.write_all(&[7; 5 * CARRIED_MAX_BYTES]).await };
    let mut heard = vec![];
    let (said, _) = tokio::join!(saying, reader.read_to_end(&mut heard));
    assert_eq!(said.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(heard == [7; 3 * CARRIED_MAX_BYTES]);
}

#[tokio::test]
async fn who_has_nothing_to_send_and_nothing_to_hear_keeps_little_memory() {
    let (near, far) = duplex(1 << 20);
    let mut writer = RecordWriter::new(near, way(0).0, KeyWear::default());
    let mut reader = RecordReader::new(
        far,
        way(0).1,
        KeyWear::default(),
        BytesLacked::default(),
        LastTcpInfo::default(),
    );
    writer.write_all(b"a request").await.unwrap();
    reader.read_exact(&mut [0; 9]).await.unwrap();
    let both = writer.room.len() + reader.room.len() + reader.opened.capacity();
    assert!(both <= 9 << 10, "{both}");
    writer.write_all(&[7; 700_000]).await.unwrap();
    assert!(writer.room.len() <= SMALL_ROOM_BYTES);
    reader.read_exact(&mut [0; 700_000]).await.unwrap();
    assert!(reader.room.len() <= READ_AHEAD_BYTES);
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Time for sent bytes to arrive and wake their reader.
const MOMENT: Duration = Duration::from_millis(2);

/// Returns the end of a link to write to, and the reader at the other end.
async fn listener() -> (TcpStream, RecordReader<QueueLimitedStream<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (far, (near, _)) = (dialled.await.unwrap(), listener.accept().await.unwrap());
    far.set_nodelay(true).unwrap();
    let near = QueueLimitedStream::new(near);
    let lack = near.lack();
    let reader = RecordReader::new(
        near,
        way(0).1,
        KeyWear::default(),
        lack,
        LastTcpInfo::default(),
    );
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
async fn a_reader_is_woken_for_a_record_and_not_for_each_packet_of_it() {
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
async fn a_short_record_and_the_end_of_the_stream_come_at_once_whatever_was_waited_for() {
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
