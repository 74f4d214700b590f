//! Translation between the requests and answers of the plan and those of the wire.

use std::sync::Arc;

use bytes::Bytes;

use crate::plan::{Failure, Lane, RangeRequest};
use p2pfs_proto::wire::native::tcp::{self, Request, Response};
use p2pfs_types::digest::{self, ContentKey, DigestError, Verified};

/// Returns the wire message of a range request.
pub fn question(request: &RangeRequest) -> Request {
    Request::Range {
        hash: request.content.hash,
        size_bytes: request.content.size_bytes,
        range: request.range,
    }
}

/// Returns the connection of the wire protocol for a lane of the plan.
pub fn lane_of(lane: Lane) -> tcp::Lane {
    match lane {
        Lane::Urgent => tcp::Lane::Urgent,
        Lane::Bulk => tcp::Lane::Bulk,
    }
}

/// Returns the received bytes of an answer, with their proof.
///
/// # Errors
/// The reason why the answer contains no data.
pub fn proof_of(answer: Result<Response, Failure>) -> Result<Bytes, Failure> {
    match answer? {
        Response::Data { proof } => Ok(proof),
        Response::Gone | Response::NotHere => Err(Failure::Gone),
        Response::Busy => Err(Failure::Busy),
        Response::Refused { .. } => Err(Failure::Refused),
        _ => Err(Failure::Unreachable),
    }
}

/// Verifies the bytes of an answer by hashing them.
///
/// # Errors
/// [`Failure::Lied`] if the peer sent wrong bytes, [`Failure::Ours`] if the fault is on this node.
pub fn verify(request: &RangeRequest, proof: Bytes) -> Result<Arc<Verified>, Failure> {
    let ContentKey { hash, size_bytes } = request.content;
    match digest::decode(hash, size_bytes, request.range, proof) {
        Ok(verified) => Ok(Arc::new(verified)),
        Err(DigestError::ProofFailed) => Err(Failure::Lied),
        Err(_) => Err(Failure::Ours),
    }
}
