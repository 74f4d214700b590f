//! What two members say to each other so that both know the same of who is in.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::ledger::STATEMENTS_MAX;
use super::statement::STATEMENT_MAX_BYTES;
use p2pfs_types::id::EpochId;

/// The longest question or answer.
pub const EXCHANGE_MAX_BYTES: usize = STATEMENTS_MAX * STATEMENT_MAX_BYTES + 256;

/// What a member knows, and perhaps all of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) digest: [u8; 32],
    pub(super) epoch: EpochId,
    pub(super) statements: Vec<u8>,
}

/// What another member knows that the first may not.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) digest: [u8; 32],
    /// Wiped in the end.
    pub(super) secret: Option<[u8; 32]>,
    pub(super) statements: Vec<u8>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Question {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        parse(bytes)
    }
}

impl Answer {
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
    fn a_question_is_read_up_to_its_limit() {
        let question = |length: usize| Question {
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
            assert_eq!(Question::decode(&bytes).is_some(), fits, "{length}");
        }
    }
}
