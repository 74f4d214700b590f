//! Reasons why bytes cannot be proven.

use p2pfs_cache::CacheError;
use p2pfs_share::ShareError;

/// Reason why a range cannot be proven to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The content is not here any longer. Another holder may have it.
    #[error("the content is not here any longer")]
    Gone,
    /// This part of the content is not here.
    #[error("this part of the content is not here")]
    NotHere,
    /// The content may be here, but a descriptor or memory is lacking, or its file was renamed just
    /// now. A retry may succeed.
    #[error("the content cannot be opened at the moment")]
    Busy,
}

impl From<CacheError> for ProofError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Damaged { .. } => Self::Gone,
            error if error.is_want() => Self::Busy,
            _ => Self::NotHere,
        }
    }
}

impl From<ShareError> for ProofError {
    fn from(error: ShareError) -> Self {
        match error {
            ShareError::Gone => Self::Gone,
            error if error.is_want() => Self::Busy,
            _ => Self::NotHere,
        }
    }
}
