//! The choice of which bytes of a file are requested from which peer, as pure state machines.
//!
//! [`plan`] chooses ranges and peers; [`session`] adds the readers, the fills and the answers to it,
//! and is what a node and the simulation drive.

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

/// Why a read or a fill did not end in data. Nothing wrong was given out, and what was verified
/// before stays in the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No data by the deadline; see the inner error for whose fault it is.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The caller took the request back.
    #[error("the read was cancelled")]
    Cancelled,
    /// A whole file was to be kept, and the cache has no room for it. Making room, or a larger
    /// budget, helps; reads go on without the cache.
    #[error("the cache has no room for the file")]
    CacheFull,
    /// The local cache failed; our disk is at fault.
    #[error("the cache failed: {why}")]
    Cache {
        /// What it said.
        why: String,
    },
    /// The range is not within the file: the caller is at fault.
    #[error("the range {start}..{end} is not within a file of {size_bytes} bytes")]
    OutOfRange {
        /// First byte asked.
        start: u64,
        /// One past the last.
        end: u64,
        size_bytes: u64,
    },
    /// The fetcher is shutting down.
    #[error("the fetcher has stopped")]
    Stopped,
}
