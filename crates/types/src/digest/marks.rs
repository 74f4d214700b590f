//! Memory of the chunks that this process has hashed. Proving a known chunk costs a message
//! authentication code instead of the hash.
//!
//! A node checks its own bytes before it sends a proof of them, because the file may have changed.
//! A node that sends bytes which do not verify is taken for a liar. The check must find every
//! change, even one by an attacker that wants the node to look like a liar. It need not convince
//! any other node. A code under a key that only this process knows achieves that in a fifth of the
//! hash's time.

use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use parking_lot::Mutex;

use super::hash::NodeHash;
use crate::extent::CHUNK_BYTES;

/// Maximum number of remembered chunks, with 8 bytes each: the chunks of 32 GiB. A power of two.
const SLOTS: usize = 1 << 19;
/// Value of a slot without a chunk.
const FREE: u64 = 0;

/// The memory of this process. [`has_hash`] and [`record`] add chunks to it.
static MARKS: LazyLock<Option<HashedChunks>> = LazyLock::new(HashedChunks::new);

/// The code of each chunk's hash and bytes, in a slot selected by the hash. A newer code replaces
/// an older one. Pages of unused slots are never touched.
struct HashedChunks {
    key: LessSafeKey,
    slots: Mutex<Vec<u64>>,
}

impl HashedChunks {
    /// Creates an empty memory, or none if the system has no random bytes.
    fn new() -> Option<Self> {
        let mut key = [0; 16];
        rand::fill(&mut key).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?);
        let slots = Mutex::new(vec![FREE; SLOTS]);
        Some(Self { key, slots })
    }

    /// Computes the first 8 bytes of a GMAC (NIST SP 800-38D). The first 12 bytes of the hash are
    /// the nonce, and `bytes` are authenticated. Bytes with the hash and bytes without it share a
    /// nonce. That is harmless because codes are never disclosed.
    fn code(&self, hash: &NodeHash, bytes: &[u8]) -> Option<u64> {
        let (nonce, _) = hash.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut []);
        let (code, _) = sealed.as_ref().ok()?.as_ref().split_first_chunk()?;
        Some(u64::from_ne_bytes(*code).max(FREE + 1))
    }

    fn knows(&self, hash: &NodeHash, code: u64) -> bool {
        self.slots.lock()[slot_of(hash)] == code
    }

    fn record(&self, hash: &NodeHash, code: u64) {
        self.slots.lock()[slot_of(hash)] = code;
    }
}

fn slot_of(hash: &NodeHash) -> usize {
    let (_, index) = hash.split_last_chunk::<8>().expect("a hash has 32 bytes");
    u64::from_le_bytes(*index) as usize % SLOTS
}

/// Returns the memory and a chunk's code in it, or `None` if the bytes are not a whole chunk or
/// there is no memory.
fn marked(hash: &NodeHash, bytes: &[u8]) -> Option<(&'static HashedChunks, u64)> {
    if bytes.len() as u64 != CHUNK_BYTES {
        return None;
    }
    let marks = MARKS.as_ref()?;
    Some((marks, marks.code(hash, bytes)?))
}

/// Returns whether these bytes have this hash. Calls `hashed` for their hash if the memory does not
/// know them.
pub(super) fn has_hash(hash: &NodeHash, bytes: &[u8], hashed: impl FnOnce() -> NodeHash) -> bool {
    let Some((marks, code)) = marked(hash, bytes) else {
        return hashed() == *hash;
    };
    if marks.knows(hash, code) {
        return true;
    }
    let has = hashed() == *hash;
    if has {
        marks.record(hash, code);
    }
    has
}

/// Remembers a chunk that was just hashed. Ignores anything that is not a whole chunk.
pub(super) fn record(hash: &NodeHash, bytes: &[u8]) {
    if let Some((marks, code)) = marked(hash, bytes) {
        marks.record(hash, code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(bytes: &[u8]) -> NodeHash {
        *blake3::hash(bytes).as_bytes()
    }

    fn chunk(seed: u8) -> Vec<u8> {
        (0..CHUNK_BYTES).map(|at| (at / 5) as u8 ^ seed).collect()
    }

    #[test]
    fn hashed_bytes_are_not_hashed_again_unless_changed() {
        let mut bytes = chunk(1);
        let hash = hash_of(&bytes);
        record(&hash, &bytes);
        assert!(has_hash(&hash, &bytes, || unreachable!("it is known")));
        for place in [0, 12_345, bytes.len() - 1] {
            bytes[place] ^= 1;
            let mut hashed = false;
            assert!(!has_hash(&hash, &bytes, || {
                hashed = true;
                hash_of(&bytes)
            }));
            assert!(hashed, "byte {place}");
            bytes[place] ^= 1;
        }
        assert!(has_hash(&hash, &bytes, || unreachable!(
            "nothing changed it"
        )));
    }

    #[test]
    fn the_same_bytes_under_another_hash_are_unknown() {
        let bytes = chunk(2);
        let hash = hash_of(&bytes);
        record(&hash, &bytes);
        let mut other = hash;
        other[0] ^= 1;
        assert!(!has_hash(&other, &bytes, || hash));
    }

    #[test]
    fn less_than_a_chunk_is_always_hashed() {
        let bytes = &chunk(3)[1..];
        let hash = hash_of(bytes);
        record(&hash, bytes);
        assert!(!has_hash(&hash, bytes, || [7; 32]));
        assert!(has_hash(&hash, bytes, || hash));
    }
}
