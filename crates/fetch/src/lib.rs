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

pub use plan::{
    FetchReport, Offer, PEER_RECORDS_MAX, PeerRate, PeerRecord, SourceReport, Supplier, Supply,
};
pub use session::{FetchEvent, FillProgress, Holder, Session};

use plan::PlanError;

/// Reason why a read, a fill or the start of a fetch failed. The reader received no wrong bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Error of the plan, for example no data by the deadline, or too many waiting reads.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The caller cancelled the request.
    #[error("the read was cancelled")]
    Cancelled,
    /// A fill failed because the cache did not store the whole file. Remedies are free disk space
    /// and a larger cache budget. Reads of the file still work.
    #[error("the cache has no room for the file")]
    CacheFull,
    /// The bytes of the read were on this node, but could not be read from there, even after
    /// several retries.
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
