//! Content, order and wear of records.

use rustls::crypto::cipher::{AeadKey, Iv};

use super::*;
use crate::testing::{open, way};

fn secrets(cipher: usize, sequence: u64) -> (u64, ConnectionTrafficSecrets) {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; NONCE_LEN]));
    let secrets = match cipher {
        0 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
    };
    (sequence, secrets)
}

fn seal(sealer: &mut Sealer, parts: &[&[u8]]) -> (Vec<u8>, usize) {
    let mut room = vec![0; CARRIED_MAX_BYTES + OVERHEAD_BYTES];
    let carried = sealer.seal(parts.iter().copied(), &mut room).unwrap();
    room.truncate(carried + OVERHEAD_BYTES);
    (room, carried)
}

/// Returns a record of the other end with this content.
fn record_of(inside: &[u8]) -> Vec<u8> {
    way(0).0.seal_inside(inside)
}

#[test]
fn sealed_records_of_any_length_and_parts_are_opened() {
    let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
    for cipher in 0..2 {
        let mut sealer = Sealer::new(secrets(cipher, 5)).unwrap();
        let mut opener = Opener::new(secrets(cipher, 5)).unwrap();
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
fn a_record_changed_anywhere_is_forged() {
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
fn a_repeated_or_reordered_record_is_forged() {
    let (mut sealer, mut opener) = way(0);
    let (first, _) = seal(&mut sealer, &[b"first"]);
    let (second, _) = seal(&mut sealer, &[b"second"]);
    assert_eq!(open(&mut way(0).1, &second), Err(RecordError::Forged));
    assert_eq!(open(&mut opener, &first).unwrap(), b"first");
    assert_eq!(open(&mut opener, &first), Err(RecordError::Forged));
}

#[test]
fn padding_is_removed_and_only_data_counts_as_data() {
    for (inside, expected) in [
        (&b"data\x17"[..], Ok((&b"data"[..], None))),
        (b"data\0\0\x17\0\0\0", Ok((b"data\0\0", None))),
        (b"\x17", Ok((b"", None))),
        (b"", Err(RecordError::Malformed)),
        (b"\0\0\0", Err(RecordError::Malformed)),
        (b"\x01\0\x15", Err(RecordError::Over)),
        (b"\x02\0\x15\0", Err(RecordError::Over)),
        (b"\x02\x28\x15", Err(RecordError::Over)),
        (b"\x02\x15", Err(RecordError::Malformed)),
        (b"\x18\0\0\x01\0\x16", Ok((b"", Some(false)))),
        (b"\x18\0\0\x01\x01\x16\0", Ok((b"", Some(true)))),
        (b"\x18\0\0\x01\x02\x16", Err(RecordError::Malformed)),
        (b"\x18\0\0\x02\0\x16", Err(RecordError::Malformed)),
        (b"\x18\0\0\x01\x16", Err(RecordError::Malformed)),
        (
            b"\x18\0\0\x01\0\x18\0\0\x01\0\x16",
            Err(RecordError::Malformed),
        ),
        (b"\x04\0\0\x01\0\x16", Err(RecordError::Malformed)),
        (b"data\x14", Err(RecordError::Malformed)),
    ] {
        let record = record_of(inside);
        let mut room = vec![0; inside.len()];
        let opened = way(0).1.open(&record, &mut room);
        assert_eq!(
            opened.map(|opened| match opened {
                Opened::Data(carried) => (&room[..carried], None),
                Opened::KeyUpdate { is_requested } => (&b""[..], Some(is_requested)),
            }),
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
fn a_refusal_is_told_apart_from_other_alerts_and_cannot_be_forged() {
    let (mut sealer, mut opener) = way(0);
    let mut record = vec![0; REFUSAL_BYTES];
    sealer.seal_refusal(&mut record).unwrap();
    assert_eq!(open(&mut opener, &record), Err(RecordError::Refused));
    for at in HEADER_BYTES..REFUSAL_BYTES {
        let mut changed = record.clone();
        changed[at] ^= 1;
        assert_eq!(
            open(&mut way(0).1, &changed),
            Err(RecordError::Forged),
            "{at}"
        );
    }
    // close_notify, bad_record_mac, and the refusal as a warning
    for alert in [[1, 0], [2, 20], [1, 49]] {
        let record = record_of(&[alert[0], alert[1], ALERT]);
        assert_eq!(open(&mut way(0).1, &record), Err(RecordError::Over));
    }
}

#[test]
fn a_malformed_record_is_rejected_before_the_rest_arrives() {
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
fn a_key_seals_no_more_than_it_bears_and_is_to_be_updated_long_before() {
    let (mut sealer, _) = way(SEALED_MAX - 1);
    assert!(sealer.needs_update());
    seal(&mut sealer, &[b"the last"]);
    let mut room = [0; 100];
    let sealed = sealer.seal([&b"one more"[..]].into_iter(), &mut room);
    assert_eq!((sealed, room), (Err(RecordError::Worn), [0; 100]));
    let (mut sealer, _) = way(UPDATE_AFTER - 1);
    assert!(!sealer.needs_update());
    seal(&mut sealer, &[b"on"]);
    assert!(sealer.needs_update());
}

#[test]
fn the_limit_of_a_key_is_within_that_of_rustls_for_each_cipher() {
    for suite in rustls::crypto::aws_lc_rs::default_provider().cipher_suites {
        if let Some(suite) = suite.tls13() {
            assert!(SEALED_MAX <= suite.common.confidentiality_limit);
        }
    }
}

#[test]
fn all_records_have_distinct_nonces_in_sequence() {
    let mut key = TrafficKey::new(secrets(0, 0x0102_0304_0506_0708)).unwrap();
    let nonce = *key.next_nonce().as_ref();
    assert_eq!(nonce, [9, 9, 9, 9, 8, 11, 10, 13, 12, 15, 14, 1]);
    assert_eq!(
        *key.next_nonce().as_ref(),
        [9, 9, 9, 9, 8, 11, 10, 13, 12, 15, 14, 0]
    );
}
