//! Signed statements of a cluster's members about its membership.
//!
//! A statement is one link of its issuer's own chain and names the link before it. An expulsion can
//! therefore name the last statement of the expelled node that still counts.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{NodeKey, verify};
use p2pfs_types::id::{EpochId, NodeId, NodeName, to_hex};

/// Maximum length of an encoded statement in bytes. The longest one gives a node the longest
/// possible path, and has 314 bytes.
pub const STATEMENT_MAX_BYTES: usize = 320;
/// Maximum length in bytes of a path that can have an owner. A statement with a longer one could
/// exceed [`STATEMENT_MAX_BYTES`].
pub const OWNED_PATH_MAX_BYTES: usize = 120;
const LABEL: &[u8] = b"p2pfs membership 1\0";

/// The first half of the SHA-256 of a statement, signature included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatementId(pub [u8; 16]);

impl fmt::Display for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// The content of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The issuer founds a cluster, as its first member, with the right to admit.
    Found {
        /// Name of the founder.
        name: NodeName,
    },
    /// A node is a member. The statement is its certificate.
    Admit {
        /// Public key of the node.
        node: NodeId,
        /// Name of the node when it joined.
        name: NodeName,
        /// Whether the node may admit and expel.
        admin: bool,
        /// End of the certificate in seconds since 1970, or none if it never ends.
        until_s: Option<u64>,
        /// Number of this membership of the key, from 1. An expelled node needs a higher number to
        /// return.
        term: u32,
    },
    /// A node's membership has ended. Every node may state this about itself.
    Expel {
        /// Public key of the node.
        node: NodeId,
        /// Number of the last membership that ends. All earlier ones end too.
        term: u32,
        /// The node's last statement that still counts. With a statement of another node here, no
        /// statement of these memberships counts. None voids them all, even those that another
        /// expulsion of the node lets stand.
        stands: Option<StatementId>,
    },
    /// The secret of this epoch is the cluster's from now on.
    Rotate {
        /// The new epoch.
        epoch: EpochId,
        /// Number of the rotation: 1 more than the number of rotations that the issuer counts; 0 if
        /// it names the first epoch.
        number: u64,
    },
    /// Only the owner's files are listed at and below a path of the shared folder.
    Own {
        /// The path, at most [`OWNED_PATH_MAX_BYTES`] bytes.
        path: Vec<u8>,
        /// The owner, or none if the path no longer has an owner.
        node: Option<NodeId>,
        /// Number of the owner's membership to which the path is given; 0 without an owner. The
        /// ownership ends with that membership.
        term: u32,
        /// Number of the claim: 1 more than the number of claims on the path that the issuer
        /// counts.
        number: u64,
    },
}

/// A claim with its issuer and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Id of the cluster's founding statement; zeros in the founding statement itself.
    pub cluster: StatementId,
    /// The issuer.
    pub by: NodeId,
    /// Number of the issuer's membership to which the statement belongs.
    pub by_term: u32,
    /// Time in seconds since 1970 by the issuer's clock.
    pub at_s: u64,
    /// The issuer's previous statement, or none if this is its first.
    pub before: Option<StatementId>,
    /// The content.
    pub claim: Claim,
}

/// A statement and its issuer's Ed25519 signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// The signed statement.
    pub statement: Statement,
    /// The two halves of the signature (RFC 8032).
    pub signature: [[u8; 32]; 2],
}

impl Statement {
    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = LABEL.to_vec();
        bytes.extend(postcard::to_stdvec(self).expect("a statement always encodes"));
        bytes
    }

    /// Returns the last membership of the issuer that the statement ends, if it is a farewell: the
    /// issuer states that it leaves.
    pub(in crate::trust) fn farewell_term(&self) -> Option<u32> {
        match &self.claim {
            Claim::Expel { node, term, .. } if *node == self.by => Some(*term),
            _ => None,
        }
    }

    /// Signs the statement. The key must be that of [`Statement::by`].
    pub fn sign(self, key: &NodeKey) -> SignedStatement {
        let signature = key.sign(&self.signed_bytes());
        SignedStatement {
            statement: self,
            signature,
        }
    }
}

impl SignedStatement {
    /// Returns the node that the statement is about: the founder, or the node that is admitted,
    /// expelled or made an owner. Returns none for a rotation, or if a path loses its owner.
    pub fn subject(&self) -> Option<NodeId> {
        match &self.statement.claim {
            Claim::Found { .. } => Some(self.statement.by),
            Claim::Admit { node, .. } | Claim::Expel { node, .. } => Some(*node),
            Claim::Own { node, .. } => *node,
            Claim::Rotate { .. } => None,
        }
    }

    /// Returns the id: the first half of the SHA-256 of [`Self::encode`].
    pub fn id(&self) -> StatementId {
        let hash = digest(&SHA256, &self.encode());
        let first = hash.as_ref().first_chunk().expect("SHA-256 gives 32 bytes");
        StatementId(*first)
    }

    /// Verifies the issuer's signature.
    pub fn is_genuine(&self) -> bool {
        let bytes = self.statement.signed_bytes();
        verify(&self.statement.by, &bytes, &self.signature)
    }

    /// Encodes the statement, into at most [`STATEMENT_MAX_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a statement always encodes")
    }

    /// Decodes one statement, or returns none. Does not check its signature.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((statement, [])) if bytes.len() <= STATEMENT_MAX_BYTES => Some(statement),
            _ => None,
        }
    }

    /// Encodes several statements one after the other.
    pub fn encode_all<'a>(all: impl IntoIterator<Item = &'a Self>) -> Vec<u8> {
        all.into_iter().flat_map(Self::encode).collect()
    }

    /// Decodes statements that stand one after the other. Returns none if there are more than
    /// `most`, or if one is malformed or too long.
    pub fn decode_all(mut bytes: &[u8], most: usize) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            if all.len() >= most {
                return None;
            }
            let (statement, rest) = postcard::take_from_bytes(bytes).ok()?;
            if bytes.len() - rest.len() > STATEMENT_MAX_BYTES {
                return None;
            }
            all.push(statement);
            bytes = rest;
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn longest(key: &NodeKey) -> SignedStatement {
        let statement = Statement {
            cluster: StatementId([255; 16]),
            by: key.node_id(),
            by_term: u32::MAX,
            at_s: u64::MAX,
            before: Some(StatementId([255; 16])),
            claim: Claim::Admit {
                node: NodeId::new([255; 32]),
                name: NodeName::new("n".repeat(63)).unwrap(),
                admin: true,
                until_s: Some(u64::MAX),
                term: u32::MAX,
            },
        };
        statement.sign(key)
    }

    #[test]
    fn the_longest_statement_is_within_its_limit_and_round_trips() {
        let key = NodeKey::random();
        let signed = longest(&key);
        let bytes = signed.encode();
        assert!(bytes.len() <= STATEMENT_MAX_BYTES, "{}", bytes.len());
        assert_eq!(SignedStatement::decode(&bytes), Some(signed.clone()));
        let many = [signed.clone(), signed.clone(), signed];
        let bytes = SignedStatement::encode_all(&many);
        assert_eq!(SignedStatement::decode_all(&bytes, 3).unwrap(), many);
        assert_eq!(SignedStatement::decode_all(&bytes, 2), None);
    }

    #[test]
    fn every_changed_byte_breaks_the_signature_or_the_format() {
        let key = NodeKey::random();
        let bytes = longest(&key).encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let genuine = SignedStatement::decode(&changed).is_some_and(|s| s.is_genuine());
            assert!(!genuine, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_statements_or_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let _ = SignedStatement::decode(&bytes);
            let _ = SignedStatement::decode_all(&bytes, 10);
        }
    }
}
