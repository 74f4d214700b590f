//! Records of a connection after its greeting (TLS 1.3, RFC 8446, section 5), with the keys that
//! rustls negotiated. Each record is sealed and opened directly between its source and its
//! destination. rustls, which does the handshake, would copy the bytes once on the way out and
//! three times on the way in.
//!
//! This module owns keys, nonces and the form of a record. It never reads or writes a stream. Keys
//! are not updated (section 4.6.3): a connection with worn keys is replaced.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Bytes of a record header: its type, a version, and the length of the rest in bytes.
pub(super) const HEADER_BYTES: usize = 5;
/// Maximum bytes that one record carries.
pub(super) const CARRIED_MAX_BYTES: usize = 16 << 10;
/// Bytes that the seal adds at the end: the type of the content, and the tag.
const SEAL_BYTES: usize = 1 + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// Bytes of an outgoing record in addition to what it carries.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + SEAL_BYTES;
/// Maximum bytes after a header (section 5.2).
const BODY_MAX_BYTES: usize = CARRIED_MAX_BYTES + 256;
/// Maximum bytes of a record.
pub(super) const RECORD_MAX_BYTES: usize = HEADER_BYTES + BODY_MAX_BYTES;

/// Outer type of every record, and inner type of ours.
const DATA: u8 = 23;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const KEY_UPDATE: u8 = 24;
const VERSION: [u8; 2] = [3, 3];

/// Maximum records sealed with one key. AES-GCM allows them (section 5.5: 2^24.5 of the full size).
pub(super) const SEALED_MAX: u64 = 1 << 24;
/// Number of records from which a connection must be replaced: 128 GiB in full records.
pub(super) const WORN_AFTER: u64 = SEALED_MAX / 2;

/// Returns the bytes of the record after this header.
pub(super) fn record_bytes(header: &[u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Reason why a connection ends by a received record, or cannot be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// The bytes are not a record of the end that has the keys. Any machine on the way can cause
    /// it.
    #[error("a record is not authentic")]
    Forged,
    /// An authentic record contains what no honest end seals. Only the other end can cause it.
    #[error("a record has the wrong form")]
    Malformed,
    /// More authentic records in a row carry no byte than `EMPTY_RECORDS_MAX`. Only the other end
    /// can cause it.
    #[error("too many empty records in a row")]
    Empty,
    /// The other end has finished, reports an error, or wants new keys.
    #[error("the other end has ended the connection")]
    Over,
    /// The key has been used too often.
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

    /// Returns the nonce of the next record, which no other record has (section 5.3).
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
pub(super) struct Sealer(TrafficKey);

impl Sealer {
    /// Creates a sealer. Returns `None` for an unsupported cipher.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        TrafficKey::new(secrets).map(Self)
    }

    pub(super) fn is_worn(&self) -> bool {
        self.0.sequence >= WORN_AFTER
    }

    /// Seals the beginning of `parts`, as much as one record carries, into the beginning of `room`,
    /// which must hold [`OVERHEAD_BYTES`] more than that. Returns how many bytes were sealed.
    ///
    /// # Errors
    /// [`RecordError::Worn`]: nothing was sealed.
    pub(super) fn seal<'a>(
        &mut self,
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
                key.seal_out_of_place_scatter(nonce, aad, first, room, &[DATA], seal)
            }
            None => {
                gather(std::iter::once(first).chain(parts), room);
                key.seal_in_place_scatter(nonce, aad, room, &[DATA], &mut seal[..SEAL_BYTES])
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

/// Opener of the other end's records.
pub(super) struct Opener(TrafficKey);

impl Opener {
    /// Creates an opener. Returns `None` for an unsupported cipher.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Option<Self> {
        TrafficKey::new(secrets).map(Self)
    }

    pub(super) fn is_worn(&self) -> bool {
        self.0.sequence >= WORN_AFTER
    }

    /// Returns the length of the record that begins with these bytes, or `None` if the header is
    /// incomplete.
    ///
    /// # Errors
    /// [`RecordError::Forged`] if there is no such record.
    pub(super) fn length_of(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
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

    /// Returns the size of the buffer for opening a whole record of this length.
    pub(super) fn room_for(record_bytes: usize) -> usize {
        record_bytes - HEADER_BYTES - TAG_BYTES
    }

    /// Opens a whole record into `room`, whose length is that of [`Self::room_for`]. Returns how
    /// many bytes at its beginning belong to the stream.
    ///
    /// # Errors
    /// [`RecordError::Forged`], [`RecordError::Malformed`], [`RecordError::Over`]: the content of
    /// `room` is then meaningless.
    pub(super) fn open(&mut self, record: &[u8], room: &mut [u8]) -> Result<usize, RecordError> {
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
            (DATA, _) if carried <= CARRIED_MAX_BYTES => Ok(carried),
            (ALERT, [_, _]) | (HANDSHAKE, [KEY_UPDATE, ..]) => Err(RecordError::Over),
            _ => Err(RecordError::Malformed),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets(cipher: usize, key: u8, sequence: u64) -> (u64, ConnectionTrafficSecrets) {
        let (key, iv) = (AeadKey::from([key; 32]), Iv::from([9; NONCE_LEN]));
        let secrets = match cipher {
            0 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        };
        (sequence, secrets)
    }

    /// Both ends of one direction, starting with this record.
    pub(in super::super) fn way(sequence: u64) -> (Sealer, Opener) {
        let sealer = Sealer::new(secrets(0, 7, sequence)).unwrap();
        (sealer, Opener::new(secrets(0, 7, sequence)).unwrap())
    }

    fn seal(sealer: &mut Sealer, parts: &[&[u8]]) -> (Vec<u8>, usize) {
        let mut room = vec![0; CARRIED_MAX_BYTES + OVERHEAD_BYTES];
        let carried = sealer.seal(parts.iter().copied(), &mut room).unwrap();
        room.truncate(carried + OVERHEAD_BYTES);
        (room, carried)
    }

    fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, RecordError> {
        assert_eq!(Opener::length_of(record)?, Some(record.len()));
        let mut room = vec![0; Opener::room_for(record.len())];
        let carried = opener.open(record, &mut room)?;
        room.truncate(carried);
        Ok(room)
    }

    impl Sealer {
        /// Seals a record that carries data under another type.
        pub(in super::super) fn seal_as(&mut self, kind: u8, carried: &[u8]) -> Vec<u8> {
            self.seal_inside(&[carried, &[kind]].concat())
        }

        fn seal_inside(&mut self, inside: &[u8]) -> Vec<u8> {
            let header = header_of(inside.len() + TAG_BYTES);
            let (nonce, mut body) = (self.0.next_nonce(), inside.to_vec());
            let key = &self.0.key;
            let sealed = key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body);
            sealed.unwrap();
            [&header[..], &body].concat()
        }
    }

    /// Returns a record of the other end with this content.
    fn record_of(inside: &[u8]) -> Vec<u8> {
        way(0).0.seal_inside(inside)
    }

    #[test]
    fn what_one_end_seals_the_other_opens_whatever_its_length_and_its_parts() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        for cipher in 0..2 {
            let mut sealer = Sealer::new(secrets(cipher, 7, 5)).unwrap();
            let mut opener = Opener::new(secrets(cipher, 7, 5)).unwrap();
            for length in [1, 2, 15, 16, 17, 1000, 16_383, 16_384, 16_385, 40_000] {
                for first in [0, 1, 9, 16_384, length].map(|it: usize| it.min(length)) {
                    let parts = [&bytes[..first], &bytes[first..length]];
                    let (record, carried) = seal(&mut sealer, &parts);
                    assert_eq!(carried, length.min(CARRIED_MAX_BYTES));
                    assert_eq!(open(&mut opener, &record).unwrap(), bytes[..carried]);
                }
            }
        }
    }

    #[test]
    fn a_record_that_was_changed_anywhere_is_forged() {
        let (mut sealer, _) = way(0);
        let (record, _) = seal(&mut sealer, &[b"what was said"]);
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            let length = Opener::length_of(&changed);
            let whole = length == Ok(Some(record.len()));
            let opened = whole.then(|| open(&mut way(0).1, &changed));
            assert!(!whole || opened == Some(Err(RecordError::Forged)), "{at}");
            assert!(whole || at < HEADER_BYTES, "{at}");
        }
    }

    #[test]
    fn a_record_that_comes_again_or_out_of_its_order_is_forged() {
        let (mut sealer, mut opener) = way(0);
        let (first, _) = seal(&mut sealer, &[b"first"]);
        let (second, _) = seal(&mut sealer, &[b"second"]);
        assert_eq!(open(&mut way(0).1, &second), Err(RecordError::Forged));
        assert_eq!(open(&mut opener, &first).unwrap(), b"first");
        assert_eq!(open(&mut opener, &first), Err(RecordError::Forged));
    }

    #[test]
    fn padding_is_taken_off_and_nothing_but_data_is_taken_for_data() {
        for (inside, expected) in [
            (&b"data\x17"[..], Ok(&b"data"[..])),
            (b"data\0\0\x17\0\0\0", Ok(b"data\0\0")),
            (b"\x17", Ok(b"")),
            (b"", Err(RecordError::Malformed)),
            (b"\0\0\0", Err(RecordError::Malformed)),
            (b"\x01\0\x15", Err(RecordError::Over)),
            (b"\x02\0\x15\0", Err(RecordError::Over)),
            (b"\x02\x28\x15", Err(RecordError::Over)),
            (b"\x02\x15", Err(RecordError::Malformed)),
            (b"\x18\0\0\x01\0\x16", Err(RecordError::Over)),
            (b"\x04\0\0\x01\0\x16", Err(RecordError::Malformed)),
            (b"data\x14", Err(RecordError::Malformed)),
        ] {
            let record = record_of(inside);
            let mut room = vec![0; inside.len()];
            let opened = way(0).1.open(&record, &mut room);
            assert_eq!(
                opened.map(|carried| &room[..carried]),
                expected,
                "{inside:?}"
            );
        }
        let too_much = [&vec![1; CARRIED_MAX_BYTES + 1][..], &[DATA]].concat();
        let mut room = vec![0; too_much.len()];
        let opened = way(0).1.open(&record_of(&too_much), &mut room);
        assert_eq!(opened, Err(RecordError::Malformed));
    }

    #[test]
    fn what_does_not_begin_as_a_record_is_forged_before_the_rest_of_it_comes() {
        let most = BODY_MAX_BYTES as u16;
        for (kind, version, length, is_good) in [
            (DATA, [3, 3], 17, true),
            (DATA, [3, 3], most, true),
            (DATA, [3, 3], 16, false),
            (DATA, [3, 3], 0, false),
            (DATA, [3, 3], most + 1, false),
            (DATA, [3, 3], u16::MAX, false),
            (DATA, [3, 1], 17, false),
            (ALERT, [3, 3], 19, false),
            (20, [3, 3], 17, false),
        ] {
            let [high, low] = length.to_be_bytes();
            let header = [kind, version[0], version[1], high, low];
            assert_eq!(Opener::length_of(&header).is_ok(), is_good, "{header:?}");
            assert_eq!(Opener::length_of(&header[..4]), Ok(None));
        }
    }

    #[test]
    fn a_key_seals_no_more_than_it_bears_and_is_worn_long_before() {
        let (mut sealer, _) = way(SEALED_MAX - 1);
        assert!(sealer.is_worn());
        seal(&mut sealer, &[b"the last"]);
        let mut room = [0; 100];
        let sealed = sealer.seal([&b"one more"[..]].into_iter(), &mut room);
        assert_eq!((sealed, room), (Err(RecordError::Worn), [0; 100]));
        let (mut sealer, mut opener) = way(WORN_AFTER - 1);
        assert!(!sealer.is_worn() && !opener.is_worn());
        let (record, _) = seal(&mut sealer, &[b"on"]);
        open(&mut opener, &record).unwrap();
        assert!(sealer.is_worn() && opener.is_worn());
    }

    #[test]
    fn no_two_records_have_a_nonce_in_common_or_that_of_another_sequence() {
        let mut key = TrafficKey::new(secrets(0, 7, 0x0102_0304_0506_0708)).unwrap();
        let nonce = *key.next_nonce().as_ref();
        assert_eq!(nonce, [9, 9, 9, 9, 8, 11, 10, 13, 12, 15, 14, 1]);
        assert_eq!(
            *key.next_nonce().as_ref(),
            [9, 9, 9, 9, 8, 11, 10, 13, 12, 15, 14, 0]
        );
    }
}
