//! Content and timing of records, on streams that are cut, changed or slow, and updates of keys.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::seal::UPDATE_AFTER;
use crate::testing::{first_key, reader, seal_inside, seal_update, way, writer};

/// Returns these pieces as wire bytes, each in its own record.
async fn sealed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut wire = vec![];
    let mut writer = writer(&mut wire, 0);
    for piece in pieces {
        writer.write_all(piece).await.unwrap();
        writer.flush().await.unwrap();
    }
    drop(writer);
    wire
}

async fn opened(wire: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let mut reader = reader(wire, 0);
    let mut bytes = vec![];
    let outcome = reader.read_to_end(&mut bytes).await;
    (bytes, outcome)
}

#[tokio::test]
async fn a_truncated_stream_ends_with_its_last_whole_record() {
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
async fn nothing_of_a_changed_record_is_delivered() {
    let mut wire = sealed(&[b"first", b"second", b"third"]).await;
    wire[5 + OVERHEAD_BYTES + HEADER_BYTES] ^= 1;
    let (bytes, outcome) = opened(&wire).await;
    assert_eq!(bytes, b"first");
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let mut reader = reader(&wire[..], 0);
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
async fn empty_records_in_a_row_are_bounded() {
    let (bytes, outcome) = opened_between_empty_records(EMPTY_RECORDS_MAX).await;
    assert_eq!((&bytes[..], outcome.is_ok()), (&b"xxxxx"[..], true));
    let (bytes, outcome) = opened_between_empty_records(EMPTY_RECORDS_MAX + 1).await;
    assert_eq!(
        (&bytes[..], reason(outcome)),
        (&b""[..], RecordError::Empty)
    );
}

/// Observer that counts.
#[derive(Clone, Default)]
struct Counts(Arc<[AtomicUsize; 2]>);

impl RecordObserver for Counts {
    fn lacks(&self, bytes: usize) {
        self.0[0].store(bytes, Ordering::Relaxed);
    }

    fn passed_over(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_record_without_content_is_reported_and_is_no_progress() {
    let mut wire = [0; OVERHEAD_BYTES];
    way(0).0.seal([&b""[..]].into_iter(), &mut wire).unwrap();
    let counts = Counts::default();
    let mut reader = reader(&wire[..], 0).observed_by(counts.clone());
    assert_eq!(reader.read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(counts.0[1].load(Ordering::Relaxed), 1);
    assert_eq!(counts.0[0].load(Ordering::Relaxed), HEADER_BYTES);
}

/// Returns the error of a stream.
fn reason(outcome: io::Result<usize>) -> RecordError {
    let error = outcome.unwrap_err();
    let reason = error.get_ref().and_then(|why| why.downcast_ref());
    *reason.unwrap()
}

#[tokio::test]
async fn a_key_is_updated_in_time_and_both_ends_go_on() {
    let (near, far) = duplex(1 << 20);
    let mut writer = writer(near, UPDATE_AFTER - 2);
    let mut reader = reader(far, UPDATE_AFTER - 2);
    for piece in 0..5 {
        writer.write_all(&[piece; 9]).await.unwrap();
        let mut heard = [0; 9];
        reader.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [piece; 9]);
    }
    // A new key begins with its first record, and three followed the update.
    assert!(!writer.state.sealer.needs_update());
    writer.write_all(&[7; 3 * CARRIED_MAX_BYTES]).await.unwrap();
    let mut heard = vec![0; 3 * CARRIED_MAX_BYTES];
    reader.read_exact(&mut heard).await.unwrap();
    assert!(heard == [7; 3 * CARRIED_MAX_BYTES]);
}

#[tokio::test]
async fn an_update_fits_where_the_buffers_are_full() {
    let (near, far) = duplex(100);
    let mut writer = writer(near, UPDATE_AFTER - 17);
    let mut reader = reader(far, UPDATE_AFTER - 17);
    let bytes = vec![7; 2 << 20];
    let saying = async {
        writer.write_all(&bytes).await.unwrap();
        writer.flush().await.unwrap();
    };
    let mut heard = vec![0; bytes.len()];
    let ((), read) = tokio::join!(saying, reader.read_exact(&mut heard));
    read.unwrap();
    assert!(heard == bytes);
}

#[tokio::test]
async fn a_requested_update_is_made_before_the_next_bytes() {
    for is_requested in [false, true] {
        let (mut sealer, mut number) = (way(0).0, first_key());
        let mut wire = seal_update(&mut sealer, &mut number, is_requested);
        wire.extend(seal_inside(&mut sealer, b"bytes\x17"));
        let mut reader = reader(&wire[..], 0);
        let mut heard = [0; 5];
        reader.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"bytes");
        let updates = reader.state.updates.clone();
        let mut sent = vec![];
        let mut writer = RecordWriter::with_keys(&mut sent, way(0).0, updates);
        writer.write_all(b"answer").await.unwrap();
        writer.write_all(b"answer").await.unwrap();
        drop(writer);
        let of_update = if is_requested { KEY_UPDATE_BYTES } else { 0 };
        assert_eq!(sent.len(), of_update + 2 * (6 + OVERHEAD_BYTES));
        assert_eq!(opened(&sent).await.0, b"answeranswer");
    }
}

#[tokio::test]
async fn the_old_key_opens_nothing_after_its_update() {
    let (mut sealer, mut number) = (way(0).0, first_key());
    let mut old = way(1).0;
    let mut wire = seal_update(&mut sealer, &mut number, false);
    wire.extend(seal_inside(&mut old, b"bytes\x17"));
    let (bytes, outcome) = opened(&wire).await;
    assert_eq!(
        (&bytes[..], reason(outcome)),
        (&b""[..], RecordError::Forged)
    );
}

#[tokio::test]
async fn updates_without_end_are_hung_up_on() {
    for (updates, is_good) in [(EMPTY_RECORDS_MAX, true), (EMPTY_RECORDS_MAX + 1, false)] {
        let (mut sealer, mut number) = (way(0).0, first_key());
        let mut wire = vec![];
        for _ in 0..updates {
            wire.extend(seal_update(&mut sealer, &mut number, true));
        }
        wire.extend(seal_inside(&mut sealer, b"bytes\x17"));
        let (bytes, outcome) = opened(&wire).await;
        assert_eq!((bytes == b"bytes", outcome.is_ok()), (is_good, is_good));
    }
}

#[tokio::test]
async fn an_idle_connection_holds_little_memory() {
    let (near, far) = duplex(1 << 20);
    let mut writer = writer(near, 0);
    let mut reader = reader(far, 0);
    writer.write_all(b"a request").await.unwrap();
    reader.read_exact(&mut [0; 9]).await.unwrap();
    let both = writer.state.room.len() + reader.state.room.len() + reader.state.opened.capacity();
    assert!(both <= 9 << 10, "{both}");
    writer.write_all(&[7; 700_000]).await.unwrap();
    assert!(writer.state.room.len() <= SMALL_ROOM_BYTES);
    reader.read_exact(&mut [0; 700_000]).await.unwrap();
    assert!(reader.state.room.len() <= READ_AHEAD_BYTES);
}
