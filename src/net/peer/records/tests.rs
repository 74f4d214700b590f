//! What a record says and when: of streams that are cut, changed, worn, or slow.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::super::seal::tests::way;
use super::super::seal::{SEALED_MAX, WORN_AFTER};
use super::*;

/// These pieces as they go over the wire, each in a record of its own.
async fn sealed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut wire = vec![];
    let mut writer = RecordWriter::new(&mut wire, way(0).0, Wear::default());
    for piece in pieces {
        writer.write_all(piece).await.unwrap();
        writer.flush().await.unwrap();
    }
    drop(writer);
    wire
}

async fn opened(wire: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let mut reader = RecordReader::new(wire, way(0).1, Wear::default());
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
    let mut reader = RecordReader::new(&wire[..], way(0).1, Wear::default());
    for letter in b"first" {
        assert_eq!(reader.read_u8().await.unwrap(), *letter);
    }
    for _ in 0..3 {
        let outcome = reader.read_u8().await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn many_empty_records_are_passed_over() {
    let (mut sealer, opener) = way(0);
    let mut wire = vec![];
    for piece in [&b""[..]; 1000].into_iter().chain([&b"said"[..]]) {
        let mut room = vec![0; piece.len() + OVERHEAD_BYTES];
        sealer.seal([piece].into_iter(), &mut room).unwrap();
        wire.extend(room);
    }
    let mut reader = RecordReader::new(&wire[..], opener, Wear::default());
    let mut bytes = vec![];
    reader.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"said");
}

#[tokio::test]
async fn both_ends_know_when_the_keys_are_worn_and_hear_all_that_these_bear() {
    for (left, first_worn) in [(WORN_AFTER, 1), (SEALED_MAX, 0)] {
        let (near, far) = duplex(1 << 20);
        let (wears, (sealer, opener)) = ([Wear::default(), Wear::default()], way(left - 2));
        let mut writer = RecordWriter::new(near, sealer, wears[0].clone());
        let mut reader = RecordReader::new(far, opener, wears[1].clone());
        for piece in 0..2 {
            writer.write_all(&[piece; 9]).await.unwrap();
            assert_eq!(reader.read_u8().await.unwrap(), piece);
            reader.read_exact(&mut [0; 8]).await.unwrap();
            let is_worn = wears.each_ref().map(Wear::is_worn);
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
    let mut writer = RecordWriter::new(near, sealer, Wear::default());
    let mut reader = RecordReader::new(far, opener, Wear::default());
    let saying = async move { writer.write_all(&[7; 5 * CARRIED_MAX_BYTES]).await };
    let mut heard = vec![];
    let (said, _) = tokio::join!(saying, reader.read_to_end(&mut heard));
    assert_eq!(said.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(heard == [7; 3 * CARRIED_MAX_BYTES]);
}

#[tokio::test]
async fn who_has_nothing_to_send_and_nothing_to_hear_keeps_little_memory() {
    let (near, far) = duplex(1 << 20);
    let mut writer = RecordWriter::new(near, way(0).0, Wear::default());
    let mut reader = RecordReader::new(far, way(0).1, Wear::default());
    writer.write_all(b"a request").await.unwrap();
    reader.read_exact(&mut [0; 9]).await.unwrap();
    let both = writer.room.len() + reader.room.len() + reader.opened.capacity();
    assert!(both <= 9 << 10, "{both}");
    writer.write_all(&[7; 700_000]).await.unwrap();
    assert!(writer.room.len() <= SMALL_ROOM_BYTES);
    reader.read_exact(&mut [0; 700_000]).await.unwrap();
    assert!(reader.room.len() <= READ_AHEAD_BYTES);
}
