//! Transfer of verified ranges between nodes.
//!
//! [`plan`](p2pfs_fetch::plan) chooses which range to request from which peer next.
//! [`session`](p2pfs_fetch::session) is the fetch machine around it, with the reads, fills, files
//! and holders. Both are pure. [`client`] is the I/O around a session: it sends requests, verifies
//! answers and stores them in the cache. [`batches`] requests many small files at once, before they
//! are read. [`server`] answers the requests of other nodes. This crate knows no paths, mounts or
//! catalogues: a content has a hash and a size, and its holders are passed in from outside.
//!
//! All bytes from other nodes are proven against their hash before this crate gives them to a
//! reader or to the cache.
//!
//! The section *The path of a cold read* of `docs/architecture.md` follows one read through this
//! crate.

pub mod batches;
pub mod client;
mod limits;
pub mod net;
mod pace;
pub mod server;
#[cfg(test)]
mod tests;

pub use limits::LIMITS;

/// Target of all trace events about reads, fills and requests, for a filter such as
/// `RUST_LOG=p2pfs::read=trace`.
pub const TRACE_TARGET: &str = "p2pfs::read";

pub use client::{FetchConfig, Fetcher, Fill, HoldersOf, ReadReply};
pub use p2pfs_fetch::session::Read;
pub use pace::{Pace, PassedBytes};
pub use server::{OnSent, Server, ServerLimits};
