//! Pure state machines that choose which bytes of a file to request from which peer.
//!
//! [`plan`] chooses ranges and peers. [`session`] adds the readers, the fills and the handling of
//! answers. A node and the simulation both drive a session.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod limits;
pub mod plan;
pub mod session;

pub use limits::LIMITS;

pub use plan::{FetchReport, Offer, PEER_RECORDS_MAX, PeerRate, PeerRecord, SourceReport};
pub use session::{FetchEvent, FillProgress, Holder, Session};

use plan::PlanError;

/// Reason why a read or a fill ended without data. The reader received no wrong bytes. Bytes that
/// were verified before the error remain usable for later reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The plan ended the wait. The inner error says why: for example, no data arrived by the
    /// deadline, or too many reads wait already.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The caller cancelled the request.
    #[error("the read was cancelled")]
    Cancelled,
    /// A fill failed because the cache cannot store the whole file. The remedy is free disk space
    /// or a larger cache budget. Reads of the file still work, without the cache.
    #[error("the cache has no room for the file")]
    CacheFull,
    /// Bytes of the read arrived, but the local cache repeatedly failed to return them. The fault
    /// is on this node.
    #[error("the cache failed: {why}")]
    Cache {
        /// Error message of the cache.
        why: String,
    },
    /// The range is not within the file. The fault is the caller's.
    #[error("the range {start}..{end} is not within a file of {size_bytes} bytes")]
    OutOfRange {
        /// First requested byte.
        start: u64,
        /// End of the range, exclusive.
        end: u64,
        /// Size of the file.
        size_bytes: u64,
    },
    /// The fetcher is shutting down.
    #[error("the fetcher has stopped")]
    Stopped,
}
