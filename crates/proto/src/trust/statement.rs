//! What a cluster's members have signed about who belongs to it.
//!
//! A statement is one step of its issuer's own chain: it names the one before it, so that an
//! expulsion can say up to which step the word of an expelled node still counts.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{NodeKey, verify};
use p2pfs_types::id::{EpochId, NodeId, NodeName, to_hex};

/// The longest encoded statement: one with the longest name has some 280 bytes.
pub const STATEMENT_MAX_BYTES: usize = 320;
/// The longest path that a node can be made the owner of: a statement has room for it.
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

/// What is stated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The issuer begins a cluster, as its first member, with the right to admit.
    Found {
        /// What the founder calls itself.
        name: NodeName,
    },
    /// A node is a member: its certificate.
    Admit {
        /// Its key.
        node: NodeId,
        /// What it called itself when it joined.
        name: NodeName,
        /// Whether it may admit and expel.
        admin: bool,
        /// When it ends, in seconds since 1970; none: never.
        until_s: Option<u64>,
        /// Which membership of this key it is, from 1; one that was expelled needs a higher one.
        term: u32,
    },
    /// A node is no member any more; of itself any node may say that.
    Expel {
        /// Its key.
        node: NodeId,
        /// Its memberships up to this one are over.
        term: u32,
        /// Its last statement that still counts; one that is not its own: it was not known to have
        /// said anything. None: nothing that it ever said counts, so whom it admitted is out too.
        stands: Option<StatementId>,
    },
    /// From now on this epoch's secret is the cluster's.
    Rotate {
        epoch: EpochId,
        /// Higher than that of the epoch before; 0 of the first one's.
        number: u64,
    },
    /// At and below a path of the shared folder, this node's files alone are listed.
    Own {
        /// At most [`OWNED_PATH_MAX_BYTES`].
        path: Vec<u8>,
        /// Whose it is; none: nobody's in particular.
        node: Option<NodeId>,
        /// Which membership of that key it is given to; it ends with that. 0 where it is nobody's.
        term: u32,
        /// Higher than that of what was said of the path before.
        number: u64,
    },
}

/// A claim, by whom, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The founding statement of the cluster; zeros in that one itself.
    pub cluster: StatementId,
    /// Who says so.
    pub by: NodeId,
    /// Which membership of the issuer it belongs to.
    pub by_term: u32,
    /// When, in seconds since 1970 by the issuer's clock.
    pub at_s: u64,
    /// The issuer's statement before this one.
    pub before: Option<StatementId>,
    pub claim: Claim,
}

/// A statement and its issuer's Ed25519 signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    /// What is stated.
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

    /// Signs it; the key must be that of [`Statement::by`].
    pub fn sign(self, key: &NodeKey) -> SignedStatement {
        let signature = key.sign(&self.signed_bytes());
        SignedStatement {
            statement: self,
            signature,
        }
    }
}

impl SignedStatement {
    /// The node that it admits, expels or makes an owner.
    pub fn subject(&self) -> Option<NodeId> {
        match &self.statement.claim {
            Claim::Found { .. } => Some(self.statement.by),
            Claim::Admit { node, .. } | Claim::Expel { node, .. } => Some(*node),
            Claim::Own { node, .. } => *node,
            Claim::Rotate { .. } => None,
        }
    }

    pub fn id(&self) -> StatementId {
        let hash = digest(&SHA256, &self.encode());
        let first = hash.as_ref().first_chunk().expect("SHA-256 gives 32 bytes");
        StatementId(*first)
    }

    /// Whether its issuer signed it.
    pub fn is_genuine(&self) -> bool {
        let bytes = self.statement.signed_bytes();
        verify(&self.statement.by, &bytes, &self.signature)
    }

    /// Its bytes: at most [`STATEMENT_MAX_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a statement always encodes")
    }

    /// Reads one; its signature is not checked yet.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((statement, [])) if bytes.len() <= STATEMENT_MAX_BYTES => Some(statement),
            _ => None,
        }
    }

    /// Many, one after the other.
    pub fn encode_all<'a>(all: impl IntoIterator<Item = &'a Self>) -> Vec<u8> {
        all.into_iter().flat_map(Self::encode).collect()
    }

    /// Reads many; at most `most` are looked at.
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
    fn the_longest_statement_is_within_its_limit_and_reads_back() {
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
