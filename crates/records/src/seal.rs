//! Records of a connection after its handshake (TLS 1.3, RFC 8446, section 5). A [`Sealer`] and an
//! [`Opener`] read a caller's buffers and write another one. Only the parts of a record from
//! several buffers are copied before they are sealed.
//!
//! This module never reads or writes a stream.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Bytes of a record header: its type, a version, and the length of the rest in bytes.
pub(crate) const HEADER_BYTES: usize = 5;
/// Maximum bytes that one record carries.
pub const CARRIED_MAX_BYTES: usize = 16 << 10;
/// Bytes that the seal adds at the end: the type of the content, and the tag.
const SEAL_BYTES: usize = 1 + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// Bytes of an outgoing record in addition to what it carries.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SEAL_BYTES;
/// Maximum bytes after a header (section 5.2).
pub(crate) const BODY_MAX_BYTES: usize = CARRIED_MAX_BYTES + 256;
/// Maximum bytes of a record.
pub(crate) const RECORD_MAX_BYTES: usize = HEADER_BYTES + BODY_MAX_BYTES;

/// Outer type of every record, and inner type of a record that carries bytes of the stream.
const DATA: u8 = 23;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const KEY_UPDATE: u8 = 24;
const VERSION: [u8; 2] = [3, 3];
/// Alert `access_denied`, which is fatal (section 6.2).
const REFUSAL: [u8; 2] = [2, 49];
/// Bytes of the record of a refusal.
pub(crate) const REFUSAL_BYTES: usize = REFUSAL.len() + OVERHEAD_BYTES;

/// Maximum records sealed with one key: the `confidentiality_limit` of rustls for AES-GCM. RFC 8446
/// allows 2^24.5 records of the full size (section 5.5).
pub(crate) const SEALED_MAX: u64 = 1 << 24;
/// Number of records after which the key is updated: 128 GiB in full records.
pub(crate) const UPDATE_AFTER: u64 = SEALED_MAX / 2;
/// Handshake message of a key update, without its last byte, which tells whether the other end must
/// update its key too (section 4.6.3).
const KEY_UPDATE_HEAD: [u8; 4] = [KEY_UPDATE, 0, 0, 1];
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;
/// Bytes of the record of a key update.
pub(crate) const KEY_UPDATE_BYTES: usize = KEY_UPDATE_HEAD.len() + 1 + OVERHEAD_BYTES;

/// Returns the length that a header states: the bytes of its record after the header.
pub(crate) fn record_bytes(header: &[u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Reason why a connection ends by a received record, or cannot be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not a record that the other end sealed. Any machine on the path can cause
    /// this.
    #[error("a record is not authentic")]
    Forged,
    /// An authentic record has no valid content: data, an alert or a key update. Only the other end
    /// can cause it.
    #[error("a record has the wrong form")]
    Malformed,
    /// More than `EMPTY_RECORDS_MAX` authentic records in a row carry no byte of the stream. Only
    /// the other end can cause it.
    #[error("too many empty records in a row")]
    Empty,
    /// The other end sent an alert other than a refusal: it has finished or reports an error.
    #[error("the other end has ended the connection")]
    Over,
    /// The other end refuses this one. No machine on the path can cause it.
    #[error("the other end refuses this one")]
    Refused,
    /// The key has sealed its maximum of records, or rustls cannot derive the next key.
    #[error("the key is worn")]
    Worn,
}

struct TrafficKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl TrafficKey {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            sequence,
        })
    }

    /// Returns the nonce of the next record. No other record under this key has it (section 5.3).
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        let last = nonce.iter_mut().skip(NONCE_LEN - sequence.len());
        last.zip(sequence).for_each(|(byte, it)| *byte ^= it);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Sealer of records for the other end.
pub struct Sealer(TrafficKey);

impl Sealer {
    /// Creates a sealer. Returns `None` for an unsupported cipher.
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        TrafficKey::new(secrets).map(Self)
    }

    /// Returns whether the key must be updated before more is sealed.
    pub(crate) fn needs_update(&self) -> bool {
        self.0.sequence >= UPDATE_AFTER
    }

    /// Seals a key update into the first [`KEY_UPDATE_BYTES`] of `room`. This must be the last
    /// record of this sealer: further records are sealed with the next key.
    ///
    /// # Errors
    /// [`RecordError::Worn`]: nothing was sealed.
    pub(crate) fn seal_update(&mut self, room: &mut [u8]) -> Result<(), RecordError> {
        let [a, b, c, d] = KEY_UPDATE_HEAD;
        let message = [a, b, c, d, UPDATE_NOT_REQUESTED];
        self.seal_as(HANDSHAKE, [&message[..]].into_iter(), room)?;
        Ok(())
    }

    /// Seals a refusal of the other end into the first [`REFUSAL_BYTES`] of `room`.
    ///
    /// # Errors
    /// [`RecordError::Worn`]: nothing was sealed.
    pub(crate) fn seal_refusal(&mut self, room: &mut [u8]) -> Result<(), RecordError> {
        self.seal_as(ALERT, [&REFUSAL[..]].into_iter(), room)?;
        Ok(())
    }

    /// Seals the beginning of `parts`, as much as one record carries, into the beginning of `room`.
    /// `room` must hold [`OVERHEAD_BYTES`] more than that. Returns how many bytes of `parts` were
    /// sealed.
    ///
    /// # Errors
    /// [`RecordError::Worn`]: nothing was sealed.
    pub fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        room: &mut [u8],
    ) -> Result<usize, RecordError> {
        self.seal_as(DATA, parts, room)
    }

    fn seal_as<'a>(
        &mut self,
        kind: u8,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        room: &mut [u8],
    ) -> Result<usize, RecordError> {
        if self.0.sequence >= SEALED_MAX {
            return Err(RecordError::Worn);
        }
        let all: usize = parts.clone().map(<[u8]>::len).sum();
        let carried = all.min(CARRIED_MAX_BYTES);
        let (header, room) = room.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&header_of(carried + SEAL_BYTES));
        let (room, seal) = room.split_at_mut(carried);
        let (aad, nonce) = (Aad::from(&*header), self.0.next_nonce());
        let key = &self.0.key;
        let mut parts = parts.filter(|part| !part.is_empty());
        let first = parts.next().unwrap_or_default();
        let sealed = match first.get(..carried) {
            Some(first) => {
                let seal = &mut seal[..SEAL_BYTES];
                key.seal_out_of_place_scatter(nonce, aad, first, room, &[kind], seal)
            }
            None => {
                gather(std::iter::once(first).chain(parts), room);
                key.seal_in_place_scatter(nonce, aad, room, &[kind], &mut seal[..SEAL_BYTES])
            }
        };
        sealed.map_err(|_| RecordError::Worn)?;
        Ok(carried)
    }
}

fn header_of(body_bytes: usize) -> [u8; HEADER_BYTES] {
    let length = u16::try_from(body_bytes).unwrap_or(u16::MAX).to_be_bytes();
    [DATA, VERSION[0], VERSION[1], length[0], length[1]]
}

fn gather<'a>(parts: impl Iterator<Item = &'a [u8]>, mut room: &mut [u8]) {
    for part in parts {
        let some = part.len().min(room.len());
        let (now, later) = room.split_at_mut(some);
        now.copy_from_slice(&part[..some]);
        room = later;
    }
}

/// Content of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// This many bytes of the stream, possibly none.
    Data(usize),
    /// The other end seals the following records with its next key.
    KeyUpdate {
        /// Whether this end must update its key too.
        is_requested: bool,
    },
}

impl Opened {
    /// Returns the number of bytes of the stream.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Data(bytes) => bytes,
            Self::KeyUpdate { .. } => 0,
        }
    }
}

/// Opener of the other end's records.
pub struct Opener(TrafficKey);

impl Opener {
    /// Creates an opener. Returns `None` for an unsupported cipher.
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        TrafficKey::new(secrets).map(Self)
    }

    /// Returns the length of the record that begins with these bytes, or `None` if the header is
    /// incomplete.
    ///
    /// # Errors
    /// [`RecordError::Forged`] if no sealed record can have this header.
    pub(crate) fn length_of(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = record_bytes(header);
        let is_good = header[..3] == [DATA, VERSION[0], VERSION[1]]
            && (SEAL_BYTES..=BODY_MAX_BYTES).contains(&length);
        is_good
            .then_some(Some(HEADER_BYTES + length))
            .ok_or(RecordError::Forged)
    }

    /// Returns the size in bytes of the buffer into which a whole record of this length is opened.
    pub(crate) fn room_for(record_bytes: usize) -> usize {
        record_bytes - HEADER_BYTES - TAG_BYTES
    }

    /// Opens a whole record into `room`, which must have the length of [`Self::room_for`]. If the
    /// record carries data, the data is then at the beginning of `room`.
    ///
    /// # Errors
    /// [`RecordError::Forged`], [`RecordError::Malformed`], [`RecordError::Over`],
    /// [`RecordError::Refused`]: the content of `room` is then meaningless.
    pub(crate) fn open(&mut self, record: &[u8], room: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) = record.split_at(HEADER_BYTES);
        let (sealed, tag) = body.split_at(body.len() - TAG_BYTES);
        let nonce = self.0.next_nonce();
        let opened = self
            .0
            .key
            .open_separate_gather(nonce, Aad::from(header), sealed, tag, room);
        opened.map_err(|_| RecordError::Forged)?;
        // the content is followed by its type and possibly zeroes (section 5.4)
        let last = room.iter().rposition(|byte| *byte != 0);
        let carried = last.ok_or(RecordError::Malformed)?;
        match (room[carried], &room[..carried]) {
            (DATA, _) if carried <= CARRIED_MAX_BYTES => Ok(Opened::Data(carried)),
            (ALERT, alert) if *alert == REFUSAL => Err(RecordError::Refused),
            (ALERT, [_, _]) => Err(RecordError::Over),
            (HANDSHAKE, [head @ .., UPDATE_NOT_REQUESTED]) if head == KEY_UPDATE_HEAD => {
                Ok(Opened::KeyUpdate {
                    is_requested: false,
                })
            }
            (HANDSHAKE, [head @ .., UPDATE_REQUESTED]) if head == KEY_UPDATE_HEAD => {
                Ok(Opened::KeyUpdate { is_requested: true })
            }
            _ => Err(RecordError::Malformed),
        }
    }
}

#[cfg(any(test, feature = "test-support"))]
impl Sealer {
    /// Seals any content: bytes, their type, and padding.
    pub(crate) fn seal_inside(&mut self, inside: &[u8]) -> Vec<u8> {
        let header = header_of(inside.len() + TAG_BYTES);
        let (nonce, mut body) = (self.0.next_nonce(), inside.to_vec());
        let key = &self.0.key;
        let sealed = key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body);
        sealed.expect("a short content can be sealed");
        [&header[..], &body].concat()
    }
}

#[cfg(test)]
mod tests;
