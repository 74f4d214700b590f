//! The set digest: a digest of a set of records that does not depend on their order.
//!
//! It uses LtHash (Bellare and Micciancio 1997; parameters as in Lewi and others 2019). Each
//! element is expanded to 1024 lanes of 16 bits. The lanes of all elements are summed, and the
//! digest is a hash of the sums. A change of one record therefore costs the same in a log of any
//! size. The elements are the facts of the records without their sequence, so it does not matter
//! how often a name was rewritten in between.

use p2pfs_proto::wire::native::record::Fact;

/// Number of lanes. With lanes of 16 bits, the sum has at least 200 bits of security against
/// collisions (Lewi and others 2019).
const LANES: usize = 1024;
/// Bytes of all lanes.
pub(crate) const SET_DIGEST_BYTES: usize = LANES * 2;
/// The highest bit of each of four lanes.
const TOP_BITS: u64 = 0x8000_8000_8000_8000;
/// Key derivation context that separates these hashes from all others.
const CONTEXT: &str = "p2pfs catalogue set digest 1";

/// Sum over a set of facts: its lanes in the form that is hashed and stored, little-endian.
#[derive(Clone, PartialEq, Eq)]
pub struct SetDigest(Box<[u8; SET_DIGEST_BYTES]>);

impl Default for SetDigest {
    fn default() -> Self {
        Self(Box::new([0; SET_DIGEST_BYTES]))
    }
}

impl SetDigest {
    /// Adds a fact to the set.
    pub fn add(&mut self, fact: &Fact) {
        self.change(fact, lanes_plus);
    }

    /// Removes a fact that is in the set.
    pub fn remove(&mut self, fact: &Fact) {
        self.change(fact, lanes_minus);
    }

    fn change(&mut self, fact: &Fact, changed: impl Fn(u64, u64) -> u64) {
        let lanes = expand(fact);
        let sums = self.0.as_chunks_mut::<8>().0;
        for (sum, lanes) in sums.iter_mut().zip(lanes.as_chunks::<8>().0) {
            *sum = changed(u64::from_le_bytes(*sum), u64::from_le_bytes(*lanes)).to_le_bytes();
        }
    }

    /// Returns the digest of the set, as a head states it.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.0[..]).as_bytes()
    }

    /// Returns all lanes, so that the sum can be restored after a restart.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Restores a sum from the bytes of [`to_bytes`](Self::to_bytes). Returns `None` if the length
    /// is not `SET_DIGEST_BYTES`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let lanes: [u8; SET_DIGEST_BYTES] = bytes.try_into().ok()?;
        Some(Self(Box::new(lanes)))
    }
}

impl std::fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SetDigest({})",
            &p2pfs_types::id::to_hex(&self.digest())[..8]
        )
    }
}

/// Adds two numbers of four lanes each, lane by lane. No lane carries into the next.
fn lanes_plus(one: u64, other: u64) -> u64 {
    ((one & !TOP_BITS) + (other & !TOP_BITS)) ^ ((one ^ other) & TOP_BITS)
}

/// Returns the differences of four lanes each. No lane borrows from the next.
fn lanes_minus(one: u64, other: u64) -> u64 {
    ((one | TOP_BITS) - (other & !TOP_BITS)) ^ ((one ^ !other) & TOP_BITS)
}

fn expand(fact: &Fact) -> [u8; SET_DIGEST_BYTES] {
    let bytes = postcard::to_stdvec(fact).expect("a fact always encodes");
    let mut lanes = [0; SET_DIGEST_BYTES];
    blake3::Hasher::new_derive_key(CONTEXT)
        .update(&bytes)
        .finalize_xof()
        .fill(&mut lanes);
    lanes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use p2pfs_types::digest::ContentHash;

    fn have(n: u8) -> Fact {
        Fact::Have {
            hash: ContentHash::of(&[n]),
            size_bytes: u64::from(n),
        }
    }

    fn sum(facts: &[u8]) -> SetDigest {
        let mut sum = SetDigest::default();
        facts.iter().for_each(|n| sum.add(&have(*n)));
        sum
    }

    #[test]
    fn different_sets_have_different_digests() {
        assert_ne!(sum(&[1]).digest(), sum(&[2]).digest());
        assert_ne!(sum(&[1, 2]).digest(), sum(&[1]).digest());
        assert_ne!(sum(&[]).digest(), sum(&[1]).digest());
    }

    #[test]
    fn lanes_of_another_length_are_refused() {
        assert_eq!(SetDigest::from_bytes(&[0; SET_DIGEST_BYTES - 1]), None);
        assert_eq!(SetDigest::from_bytes(&[0; SET_DIGEST_BYTES + 2]), None);
        let kept = sum(&[3, 4]);
        assert_eq!(SetDigest::from_bytes(&kept.to_bytes()), Some(kept));
    }

    proptest! {
        #[test]
        fn each_lane_is_independent(one: [u16; 4], other: [u16; 4]) {
            let word = |lanes: [u16; 4]| lanes.iter().rev().fold(0, |w, l| w << 16 | u64::from(*l));
            let each = |reckon: fn(u16, u16) -> u16| {
                word(std::array::from_fn(|i| reckon(one[i], other[i])))
            };
            prop_assert_eq!(lanes_plus(word(one), word(other)), each(u16::wrapping_add));
            prop_assert_eq!(lanes_minus(word(one), word(other)), each(u16::wrapping_sub));
        }

        #[test]
        fn order_and_detours_do_not_change_the_digest(
            facts in Just((0u8..24).collect::<Vec<_>>()).prop_shuffle(),
            detour in proptest::collection::vec(100u8..200, 0..8),
        ) {
            let mut wandering = sum(&facts);
            detour.iter().for_each(|n| wandering.add(&have(*n)));
            detour.iter().rev().for_each(|n| wandering.remove(&have(*n)));
            prop_assert_eq!(wandering.digest(), sum(&(0..24).collect::<Vec<_>>()).digest());
        }
    }
}
