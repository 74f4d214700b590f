//! The secret of an epoch and the keys derived from it.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::random_bytes;
use p2pfs_types::id::EpochId;

/// Labels that separate the derived keys (RFC 5869, section 3.2: one `info` for each use).
const ID_LABEL: &[u8] = b"p2pfs 1 epoch id";
const UDP_LABEL: &[u8] = b"p2pfs 1 udp key";
const AUTH_LABEL: &[u8] = b"p2pfs 1 auth key";

/// The 32 random bytes that the members share in an epoch. Wiped from memory when dropped, and
/// never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochSecret([u8; 32]);

impl EpochSecret {
    /// Wraps the bytes of an existing secret.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a fresh secret. It is never derived from another one, so that an expelled node cannot
    /// compute it.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// Returns the bytes of the secret.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the id of the epoch. It reveals nothing about the secret and may travel in clear.
    pub fn id(&self) -> EpochId {
        EpochId(self.derive(&[], ID_LABEL))
    }

    /// Derives the AES-256 key of datagrams sealed under a sender's salt.
    pub fn udp_key(&self, salt: &[u8; 16]) -> [u8; 32] {
        self.derive(salt, UDP_LABEL)
    }

    /// Derives the HMAC key of membership proofs.
    pub fn auth_key(&self) -> [u8; 32] {
        self.derive(&[], AUTH_LABEL)
    }

    fn derive<const N: usize>(&self, salt: &[u8], label: &[u8]) -> [u8; N] {
        let mut key = [0; N];
        let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        pseudorandom
            .expand(&[label], OutputLength(N))
            .and_then(|output| output.fill(&mut key))
            .expect("the length is far below 255 hashes");
        key
    }
}

struct OutputLength(usize);

impl KeyType for OutputLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl Drop for EpochSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for EpochSecret {}

impl fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochSecret({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::id::to_hex;

    #[test]
    fn derived_keys_differ_by_use_and_by_salt() {
        let secret = EpochSecret::new([7; 32]);
        let keys = [
            secret.auth_key(),
            secret.udp_key(&[0; 16]),
            secret.udp_key(&[1; 16]),
            [7; 32],
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(keys[index + 1..].iter().all(|other| other != key));
        }
        assert_eq!(secret.auth_key(), EpochSecret::new([7; 32]).auth_key());
        assert_ne!(secret.id(), EpochSecret::new([8; 32]).id());
    }

    #[test]
    fn a_secret_never_appears_in_debug_output() {
        let secret = EpochSecret::random();
        let shown = format!("{secret:?}");
        assert!(!shown.contains(&to_hex(&secret.as_bytes()[..4])));
        assert!(shown.contains(&secret.id().to_string()));
    }

    #[test]
    fn two_fresh_secrets_differ() {
        assert!(EpochSecret::random() != EpochSecret::random());
    }
}
