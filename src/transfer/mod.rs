//! Moving verified ranges between nodes.
//!
//! [`plan`] decides which range to ask of which peer next and is pure; [`client`] runs a plan over
//! the network, verifies what comes and keeps it in the cache; [`server`] answers the ranges that
//! others ask of us. Nothing here knows a path, a mount or a catalogue: content has a hash and a
//! size, and who holds it is told from outside.
//!
//! No byte leaves this room for a reader or for the cache that was not proven against its hash.

pub mod client;
mod pace;
pub mod plan;
pub mod server;
#[cfg(test)]
mod tests;

pub use client::{
    FetchConfig, FetchEvent, FetchTicket, Fetcher, Fill, FillProgress, Holder, HoldersOf, ReadReply,
};
pub use pace::Pace;
pub use plan::{FetchReport, Offer, PeerRate};
pub use server::{OfferData, OnSent, Server, ServerLimits};

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
        /// The file's size.
        size_bytes: u64,
    },
    /// The content is being fetched with another size, so one of the two is a lie: the source of
    /// the caller's size is suspect.
    #[error("the content has {have_bytes} bytes, and {asked_bytes} were said")]
    SizeConflict {
        /// The size that the fetch goes by.
        have_bytes: u64,
        /// The size asked with.
        asked_bytes: u64,
    },
    /// The fetcher is shutting down.
    #[error("the fetcher has stopped")]
    Stopped,
}
