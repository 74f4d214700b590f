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

/// Reason why a read or a fill ended without data. The reader received no wrong bytes, and bytes
/// verified before the error stay in the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No data arrived by the deadline. The inner error says why.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The caller cancelled the request.
    #[error("the read was cancelled")]
    Cancelled,
    /// A whole file was to be cached, and the cache has no room for it. Freeing space or a larger
    /// budget helps. Reads continue without the cache.
    #[error("the cache has no room for the file")]
    CacheFull,
    /// The local cache failed. The fault is on this node's disk.
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
