//! Keys shared by exactly two processes. A datagram under such a key authenticates its sender.
//!
//! The key agreement is X25519 (RFC 7748) between keys that are as old as the processes, each
//! signed by its node. It is made for each greeting and each proof; any other datagram costs one
//! HMAC. A signature on each datagram instead would take 64 bytes of it, and a public-key operation
//! to verify.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac;
use zeroize::Zeroize;

use p2pfs_proto::wire::native::udp::{HEADER_BYTES, MAC_BYTES, Mac};
use p2pfs_types::id::NodeId;

const LABEL: &[u8] = b"p2pfs 1 pair key";

/// This process's half of every pair.
pub(super) struct KeyExchange {
    private: PrivateKey,
    public: [u8; 32],
}

/// Key of one pair of processes.
pub(super) struct PairKey(hmac::Key);

impl KeyExchange {
    /// Creates the key pair of this process. `seed` is random and secret.
    pub(super) fn new(mut seed: [u8; 32]) -> Self {
        let private = PrivateKey::from_private_key(&X25519, &seed);
        let private = private.expect("any 32 bytes are a private key");
        seed.zeroize();
        let public = private
            .compute_public_key()
            .expect("every private key has a public one");
        let public = public
            .as_ref()
            .try_into()
            .expect("a public key has 32 bytes");
        Self { private, public }
    }

    pub(super) fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Returns the key between this process, of node `me`, and the process of `them` with this
    /// public key. Returns none for a public key that gives every process the same result.
    pub(super) fn with(&self, public: &[u8; 32], me: &NodeId, them: &NodeId) -> Option<PairKey> {
        let (low, high) = if me < them { (me, them) } else { (them, me) };
        agree(
            &self.private,
            UnparsedPublicKey::new(&X25519, public),
            (),
            |shared| {
                let mut context =
                    hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, LABEL));
                context.update(shared);
                context.update(low.as_bytes());
                context.update(high.as_bytes());
                let key = context.sign();
                Ok(PairKey(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())))
            },
        )
        .ok()
    }
}

impl PairKey {
    /// Returns the code that a sender appends to a body. The header names the sender's process.
    pub(super) fn mac(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> Mac {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(header);
        context.update(body);
        let mut mac = Mac::default();
        mac.copy_from_slice(&context.sign().as_ref()[..MAC_BYTES]);
        mac
    }

    /// Verifies in constant time that the other process of the pair sent this.
    pub(super) fn holds(&self, header: &[u8; HEADER_BYTES], body: &[u8], mac: &Mac) -> bool {
        let right = self.mac(header, body);
        aws_lc_rs::constant_time::verify_slices_are_equal(&right, mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::new([1; 32]);
    const B: NodeId = NodeId::new([2; 32]);

    #[test]
    fn both_ends_derive_the_same_key_and_a_third_party_another() {
        let [a, b, c] = [1, 2, 3].map(|n| KeyExchange::new([n; 32]));
        let header = [7; HEADER_BYTES];
        let mac = a.with(b.public(), &A, &B).unwrap().mac(&header, b"body");
        let at_b = b.with(a.public(), &B, &A).unwrap();
        assert!(at_b.holds(&header, b"body", &mac));
        assert!(
            !at_b.holds(&header, b"bodi", &mac) && !at_b.holds(&[8; HEADER_BYTES], b"body", &mac)
        );
        let third = c.with(b.public(), &A, &B).unwrap();
        assert_ne!(third.mac(&header, b"body"), mac);
        let other_names = b.with(a.public(), &B, &B).unwrap();
        assert!(!other_names.holds(&header, b"body", &mac));
    }

    #[test]
    fn a_low_order_public_key_yields_no_key() {
        assert!(KeyExchange::new([1; 32]).with(&[0; 32], &A, &B).is_none());
    }
}
