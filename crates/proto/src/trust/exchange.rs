//! Messages by which two members exchange their statements and the cluster's secret.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::ledger::STATEMENTS_MAX;
use super::statement::STATEMENT_MAX_BYTES;
use p2pfs_types::id::EpochId;

/// Maximum size in bytes of a question or an answer.
pub const EXCHANGE_MAX_BYTES: usize = STATEMENTS_MAX * STATEMENT_MAX_BYTES + 256;

/// Question of one member to another: the digest of its statements, the epoch of its newest secret,
/// and all its statements or none.
#[derive(Serialize, Deserialize)]
pub(super) struct TrustQuestion {
    pub(super) digest: [u8; 32],
    pub(super) epoch: EpochId,
    pub(super) statements: Vec<u8>,
}

/// Answer to a [`TrustQuestion`]: the digest of the answering member's statements, and the secret
/// and the statements that the asking member may lack.
#[derive(Serialize, Deserialize)]
pub(super) struct TrustAnswer {
    pub(super) digest: [u8; 32],
    /// The newest secret of the answering member, if the question names another epoch and the
    /// member's ledger names this one or none. Wiped from memory when dropped.
    pub(super) secret: Option<[u8; 32]>,
    pub(super) statements: Vec<u8>,
}

impl Drop for TrustAnswer {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl TrustQuestion {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        parse(bytes)
    }
}

impl TrustAnswer {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        parse(bytes)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) if bytes.len() <= EXCHANGE_MAX_BYTES => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_up_to_its_limit() {
        let question = |length: usize| TrustQuestion {
            digest: [1; 32],
            epoch: EpochId([2; 8]),
            statements: vec![3; length],
        };
        let around = question(1 << 20).encode().len() - (1 << 20);
        for (length, fits) in [
            (EXCHANGE_MAX_BYTES - 1, true),
            (EXCHANGE_MAX_BYTES, true),
            (EXCHANGE_MAX_BYTES + 1, false),
        ] {
            let bytes = question(length - around).encode();
            assert_eq!(bytes.len(), length);
            assert_eq!(TrustQuestion::decode(&bytes).is_some(), fits, "{length}");
        }
    }
}
