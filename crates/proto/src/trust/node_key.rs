//! The Ed25519 key that identifies a node.

use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::{TrustError, file};
use p2pfs_types::id::NodeId;

/// Name of the key's file within the state directory.
const FILE_NAME: &str = "node.key";
/// Header of an Ed25519 private key in PKCS #8, before its 32 bytes (RFC 8410, section 7).
const PKCS8_PREFIX: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A node's own key pair. Never printed.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    node_id: NodeId,
}

impl NodeKey {
    /// Loads the key from `directory` (file `node.key`, PKCS #8 as in RFC 5958, mode 0600). Makes a
    /// new key if the file is missing.
    ///
    /// # Errors
    /// [`TrustError::Exposed`] if the group or others have any right to it, [`TrustError::BadFile`]
    /// if it is not a key, [`TrustError::File`].
    pub fn load_or_create(directory: &Path) -> Result<Self, TrustError> {
        let path = directory.join(FILE_NAME);
        if file::read(&path)?.is_none() {
            // If another process creates the key first, that key stays and is loaded below.
            file::create(&path, &Self::random().pkcs8)?;
        }
        let bad_file = || TrustError::BadFile {
            path: path.clone(),
            expected: "an Ed25519 key",
            or: ", or move it aside, and join the cluster again as a new node",
        };
        let content = file::read(&path)?.ok_or_else(bad_file)?;
        Self::from_pkcs8(content).ok_or_else(bad_file)
    }

    /// Makes a fresh key that is not stored.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    pub fn random() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.expect("the system gives random bytes");
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Self::from_pkcs8(pkcs8).expect("a key just made is a key")
    }

    /// Makes the key with these 32 bytes as its private half (RFC 8032, section 5.1.5). For keys
    /// that are stored elsewhere, and for simulations that replay from one number.
    ///
    /// # Panics
    /// Never panics: any 32 bytes are a private key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let mut document = Zeroizing::new(PKCS8_PREFIX.to_vec());
        document.extend_from_slice(seed);
        Self::from_pkcs8(document).expect("any 32 bytes are a private key")
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let node_id = NodeId::new(pair.public_key().as_ref().try_into().ok()?);
        Some(Self {
            pair,
            pkcs8,
            node_id,
        })
    }

    /// Returns the public half of the key.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Signs a message (RFC 8032). Returns the signature in two halves, as log heads carry it.
    pub fn sign(&self, message: &[u8]) -> [[u8; 32]; 2] {
        let signature = self.pair.sign(message);
        let (first, second) = signature.as_ref().split_at(32);
        [first, second].map(|half| half.try_into().expect("a signature has 64 bytes"))
    }

    /// Returns the private half (RFC 8032, section 5.1.5).
    pub(super) fn seed(&self) -> &[u8] {
        &self.pkcs8[PKCS8_PREFIX.len()..PKCS8_PREFIX.len() + 32]
    }

    /// Returns the private key in PKCS #8, for TLS.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.node_id)
    }
}

/// Returns whether `node` signed `message`.
pub fn verify(node: &NodeId, message: &[u8], signature: &[[u8; 32]; 2]) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, node.as_bytes());
    key.verify(message, signature.as_flattened()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_the_same_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = NodeKey::load_or_create(directory.path()).unwrap();
        let again = NodeKey::load_or_create(directory.path()).unwrap();
        assert_eq!(first.node_id(), again.node_id());
        assert_eq!(first.sign(b"m"), again.sign(b"m"));
        let mode = fs::metadata(directory.path().join(FILE_NAME))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_key_readable_by_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(FILE_NAME);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = NodeKey::load_or_create(directory.path());
        assert!(matches!(refused, Err(TrustError::Exposed { .. })));
    }

    #[test]
    fn a_damaged_key_is_an_error_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        file::create(&path, b"garbage").unwrap();
        let refused = NodeKey::load_or_create(directory.path());
        let said = refused.unwrap_err().to_string();
        assert!(
            said.ends_with(
                "node.key does not hold an Ed25519 key: put back a copy of it that does, or move \
                 it aside, and join the cluster again as a new node"
            ),
            "{said}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"garbage");
    }

    #[test]
    fn a_signature_is_valid_only_for_its_signer_and_message() {
        let [key, other] = [NodeKey::random(), NodeKey::random()];
        let signature = key.sign(b"message");
        assert!(verify(&key.node_id(), b"message", &signature));
        assert!(!verify(&key.node_id(), b"massage", &signature));
        assert!(!verify(&other.node_id(), b"message", &signature));
        let [first, second] = signature;
        assert!(!verify(&key.node_id(), b"message", &[second, first]));
        assert!(!verify(&NodeId::new([255; 32]), b"message", &signature));
    }

    #[test]
    fn a_seed_yields_the_key_of_the_first_test_vector_of_rfc_8032() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = NodeKey::from_seed(&p2pfs_types::id::from_hex(seed).unwrap());
        assert_eq!(key.node_id().to_string(), public);
    }

    #[test]
    fn the_private_half_never_appears_in_debug_output() {
        let key = NodeKey::random();
        assert_eq!(format!("{key:?}"), format!("NodeKey({:?})", key.node_id()));
    }
}
