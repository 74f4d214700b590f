//! Keys and records for tests: both ends of a direction without a handshake, and records that no
//! honest end seals.

pub mod configs;

use std::sync::Arc;

use aws_lc_rs::aead::NONCE_LEN;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, Error};

use crate::keys::{KeySource, KeyUpdates};
use crate::seal::{Opened, Opener, RecordError, Sealer};
use crate::stream::{RecordReader, RecordWriter};

/// Number of the first key.
const FIRST_KEY: u8 = 7;

/// Returns the secrets of the key with this number, and the number of the next record.
pub(crate) fn secrets(number: u8, sequence: u64) -> (u64, ConnectionTrafficSecrets) {
    let (key, iv) = (AeadKey::from([number; 32]), Iv::from([9; NONCE_LEN]));
    (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
}

/// Returns the secrets of the next key.
pub(crate) fn next_secrets(number: &mut u8) -> Result<(u64, ConnectionTrafficSecrets), Error> {
    *number = number.wrapping_add(1);
    Ok(secrets(*number, 0))
}

/// Returns both ends of one direction. The next record has the number `sequence`.
///
/// # Panics
/// Never.
pub fn way(sequence: u64) -> (Sealer, Opener) {
    let sealer = Sealer::new(secrets(FIRST_KEY, sequence));
    let opener = Opener::new(secrets(FIRST_KEY, sequence));
    sealer.zip(opener).expect("a supported cipher")
}

/// Returns the updates of both ends of [`way`].
pub(crate) fn updates() -> Arc<KeyUpdates> {
    Arc::new(KeyUpdates::new(KeySource::Numbered {
        sealer: FIRST_KEY,
        opener: FIRST_KEY,
    }))
}

/// Returns a reader of what [`writer`] writes. The next record has the number `sequence`.
pub fn reader<R>(stream: R, sequence: u64) -> RecordReader<R> {
    RecordReader::with_keys(stream, way(sequence).1, updates())
}

/// Returns a writer. The next record has the number `sequence`.
pub fn writer<W>(stream: W, sequence: u64) -> RecordWriter<W> {
    RecordWriter::with_keys(stream, way(sequence).0, updates())
}

/// Seals a record with any content: bytes, their type, and padding.
pub fn seal_inside(sealer: &mut Sealer, inside: &[u8]) -> Vec<u8> {
    sealer.seal_inside(inside)
}

/// Seals a key update. Increments `number`, and replaces `sealer` by one with the key of that
/// number.
pub fn seal_update(sealer: &mut Sealer, number: &mut u8, is_requested: bool) -> Vec<u8> {
    let record = sealer.seal_inside(&[24, 0, 0, 1, u8::from(is_requested), 22]);
    let next = next_secrets(number).ok().and_then(Sealer::new);
    *sealer = next.expect("a supported cipher");
    record
}

/// Returns the number of the first key, for [`seal_update`].
pub fn first_key() -> u8 {
    FIRST_KEY
}

/// Opens a whole record. Returns the bytes of the stream that it carries.
///
/// # Errors
/// [`RecordError`]
pub fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let length = Opener::length_of(record)?;
    if length != Some(record.len()) {
        return Err(RecordError::Forged);
    }
    let mut room = vec![0; Opener::room_for(record.len())];
    let opened = opener.open(record, &mut room)?;
    room.truncate(opened.bytes());
    Ok(room)
}

/// Returns the length of the record that begins with this header.
///
/// # Errors
/// [`RecordError::Forged`]
pub fn length_of(header: &[u8]) -> Result<Option<usize>, RecordError> {
    Opener::length_of(header)
}

/// Opens a whole record. If it is a key update, returns whether it requests an update of the other
/// key. Returns `None` for data.
///
/// # Errors
/// [`RecordError`]
pub fn open_update(opener: &mut Opener, record: &[u8]) -> Result<Option<bool>, RecordError> {
    let mut room = vec![0; Opener::room_for(record.len())];
    Ok(match opener.open(record, &mut room)? {
        Opened::KeyUpdate { is_requested } => Some(is_requested),
        Opened::Data(_) => None,
    })
}
