//! Keys of restricted shares: how they are made, handed to the readers, and used.
//!
//! Sealing is deterministic: the same text and label under the same key give the same bytes,
//! because the nonce is a keyed hash of both. A node with a key can read everything that was ever
//! sealed under it. So each list of readers needs its own key.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA512, digest};
use curve25519_dalek::edwards::CompressedEdwardsY;
use zeroize::Zeroizing;

use super::NodeKey;
use p2pfs_types::id::NodeId;

/// Number of bytes that sealing adds to a text: a nonce and a tag (RFC 8439).
pub const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Labels that separate the uses of a key.
const MADE: &str = "p2pfs share key 1";
const WRAPPED: &str = "p2pfs share key wrap 1";
const NONCES: &str = "p2pfs share key nonce 1";

/// A share key encrypted for one reader. It has two parts, because serialization supports arrays of
/// up to 32 bytes.
pub type WrappedKey = ([u8; 32], [u8; 16]);

/// A key that the readers of a share have. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ShareKey(Zeroizing<[u8; 32]>);

impl ShareKey {
    /// Derives the key that a node makes for one purpose. It is always the same, and no other node
    /// can derive it.
    pub fn derive(maker: &NodeKey, purpose: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(MADE);
        hasher.update(maker.seed()).update(purpose);
        Self(Zeroizing::new(*hasher.finalize().as_bytes()))
    }

    /// Encrypts the key for one reader, which needs the maker's id and `about` to decrypt it.
    /// Returns none if the reader's id is not a valid key. A maker must never wrap two different
    /// keys for one reader with the same `about`, because the nonce is fixed.
    pub fn wrap(&self, maker: &NodeKey, reader: &NodeId, about: &[u8]) -> Option<WrappedKey> {
        let between = between(maker, &maker.node_id(), reader, reader, about)?;
        let mut bytes = self.0.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_BYTES]);
        let sealed = cipher(&between).seal_in_place_append_tag(nonce, Aad::empty(), &mut bytes);
        sealed.expect("a key is far below the limit of the cipher");
        let (first, second) = bytes.split_at(32);
        Some((first.try_into().ok()?, second.try_into().ok()?))
    }

    /// Decrypts a key that `maker` wrapped for the node of `reader`. Returns none if that fails.
    pub fn unwrap(
        wrapped: &WrappedKey,
        reader: &NodeKey,
        maker: &NodeId,
        about: &[u8],
    ) -> Option<Self> {
        let between = between(reader, maker, &reader.node_id(), maker, about)?;
        let mut bytes = Zeroizing::new([&wrapped.0[..], &wrapped.1[..]].concat());
        let nonce = Nonce::assume_unique_for_key([0; NONCE_BYTES]);
        let opened = cipher(&between).open_in_place(nonce, Aad::empty(), &mut bytes);
        let key: [u8; 32] = (&*opened.ok()?).try_into().ok()?;
        Some(Self(Zeroizing::new(key)))
    }

    /// Seals a text. The label `about` is required to open it and is not secret.
    ///
    /// # Panics
    /// Panics if the text exceeds the cipher's limit of 256 GiB.
    pub fn seal(&self, about: &[u8], text: &[u8]) -> Vec<u8> {
        let nonces = Zeroizing::new(blake3::derive_key(NONCES, &self.0[..]));
        let mut hasher = blake3::Hasher::new_keyed(&nonces);
        hasher.update(&(about.len() as u64).to_le_bytes());
        hasher.update(about).update(text);
        let hash = hasher.finalize();
        let nonce: [u8; NONCE_BYTES] = *hash.as_bytes().first_chunk().expect("12 of 32 bytes");
        let mut sealed = text.to_vec();
        cipher(&self.0)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(about),
                &mut sealed,
            )
            .expect("a text is far below the limit of the cipher");
        sealed.extend_from_slice(&nonce);
        sealed
    }

    /// Opens a sealed text. Returns none if it was sealed with another key or another `about`, or
    /// if it was changed.
    pub fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (sealed, nonce) = sealed.split_last_chunk::<NONCE_BYTES>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = cipher(&self.0).open_in_place(nonce, Aad::from(about), &mut text);
        let length = opened.ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl fmt::Debug for ShareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareKey")
    }
}

/// Returns whether the node's id is a valid public key, so that a share key can be encrypted for
/// the node.
pub fn has_key(node: &NodeId) -> bool {
    let point = CompressedEdwardsY(*node.as_bytes()).decompress();
    point.is_some_and(|point| !point.is_small_order())
}

/// Derives the key shared by the node of `own` and another one for `about` (X25519 of RFC 7748,
/// with the Ed25519 keys of RFC 8032 converted to Montgomery form).
fn between(
    own: &NodeKey,
    maker: &NodeId,
    reader: &NodeId,
    other: &NodeId,
    about: &[u8],
) -> Option<Zeroizing<[u8; 32]>> {
    let point = CompressedEdwardsY(*other.as_bytes()).decompress()?;
    let hash = digest(&SHA512, own.seed());
    let scalar: Zeroizing<[u8; 32]> = Zeroizing::new(*hash.as_ref().first_chunk()?);
    let agreed = point.to_montgomery().mul_clamped(*scalar);
    if agreed.to_bytes() == [0; 32] {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key(WRAPPED);
    hasher.update(agreed.as_bytes());
    hasher.update(maker.as_bytes()).update(reader.as_bytes());
    hasher.update(about);
    Some(Zeroizing::new(*hasher.finalize().as_bytes()))
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
    LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeKey {
        NodeKey::from_seed(&[number; 32])
    }

    #[test]
    fn a_share_key_is_available_to_its_readers_only() {
        let (maker, reader, other) = (node(1), node(2), node(3));
        let key = ShareKey::derive(&maker, b"one");
        let wrapped = key.wrap(&maker, &reader.node_id(), b"it").unwrap();
        let unwrap = |node: &NodeKey, maker: &NodeKey, about: &[u8]| {
            ShareKey::unwrap(&wrapped, node, &maker.node_id(), about)
        };
        assert_eq!(unwrap(&reader, &maker, b"it"), Some(key.clone()));
        assert_eq!(unwrap(&reader, &maker, b"else"), None);
        assert_eq!(unwrap(&reader, &other, b"it"), None);
        assert_eq!(unwrap(&other, &maker, b"it"), None);
        let own = key.wrap(&maker, &maker.node_id(), b"it").unwrap();
        let opened = ShareKey::unwrap(&own, &maker, &maker.node_id(), b"it");
        assert_eq!(opened, Some(key));
    }

    #[test]
    fn an_invalid_reader_key_gets_no_share_key() {
        // The neutral element, for which the key agreement is the same for every node.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let (maker, key) = (node(1), ShareKey::derive(&node(1), b"one"));
        assert_eq!(key.wrap(&maker, &NodeId::new(neutral), b"it"), None);
        assert!(!has_key(&NodeId::new(neutral)));
        // About half of all numbers are not a point of the curve.
        let none = |y: &u8| {
            let is_none = key.wrap(&maker, &NodeId::new([*y; 32]), b"it").is_none();
            assert_eq!(is_none, !has_key(&NodeId::new([*y; 32])));
            is_none
        };
        assert!((2..100).filter(none).count() > 9);
    }

    #[test]
    fn a_sealed_text_is_decrypted_unchanged_or_not_at_all() {
        let key = ShareKey::derive(&node(1), b"one");
        let sealed = key.seal(b"about", b"text");
        assert_eq!(sealed.len(), 4 + SEAL_BYTES);
        assert_eq!(sealed, key.seal(b"about", b"text"), "the same again");
        assert_eq!(key.open(b"about", &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(key.open(b"other", &sealed), None);
        assert_eq!(
            ShareKey::derive(&node(1), b"two").open(b"about", &sealed),
            None
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(b"about", &changed), None, "byte {at}");
            assert_eq!(key.open(b"about", &sealed[..at]), None, "cut at {at}");
        }
        assert_ne!(sealed, key.seal(b"about", b"test"));
        assert_eq!(format!("{key:?}"), "ShareKey");
    }
}
