//! Bodies that consist of fixed parts.

use bytes::Bytes;

use crate::wire::WireError;

/// Splits a body into its first 32 bytes and the rest.
pub(super) fn split(body: &[u8], what: &'static str) -> Result<([u8; 32], Bytes), WireError> {
    let (first, rest) = body
        .split_first_chunk::<32>()
        .ok_or(WireError::Malformed { what })?;
    Ok((*first, Bytes::copy_from_slice(rest)))
}

pub(super) fn fixed<const N: usize>(body: &[u8], what: &'static str) -> Result<[u8; N], WireError> {
    body.try_into().map_err(|_| WireError::Malformed { what })
}
