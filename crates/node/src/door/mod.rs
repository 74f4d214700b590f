//! What a program that embeds a node does with it: begin one, look at names, read, fetch, keep,
//! share, give files, bytes and talk to others, and hear of what happens.
//!
//! All but the builder and its [`defaults`] is asked of a running [`Node`](super::Node) and may be
//! called from any task of its runtime. It owns no state but what its callers hold ([`Reader`],
//! [`Prefetch`], [`Delivery`], [`EventStream`], [`Messages`]); dropping one of those takes back
//! what it asked for.

mod builder;
mod cache;
pub mod defaults;
mod error;
mod events;
mod giving;
mod keeping;
mod links;
mod names;
mod peers;
mod reader;
mod sharing;
mod status;

pub use builder::NodeBuilder;
pub use cache::{NotPinned, WhyNotPinned};
pub use error::FileError;
pub use events::EventStream;
pub use giving::{Delivered, Delivery, MESSAGE_MAX_BYTES, Messages};
pub use keeping::{Contents, FILES_MAX, Fetched, Prefetch};
pub use names::{Listed, NextRead, Page, Why};
pub use peers::{PeerReport, RateLimits};
pub use reader::Reader;
pub use sharing::GivenName;
pub use status::NodeStatus;

pub use super::names::in_history;

// what is said above in terms of other modules
pub use p2pfs_cache::{
    CacheConfig, CacheError, CacheUsage, CachedFile, Cleared, Lack, VerifyProgress,
};
pub use p2pfs_catalogue::{Rule, Version};
pub use p2pfs_fetch::{FetchReport, PeerRate, SourceReport, TransferError};
pub use p2pfs_fs::{FileVersion, FsError, Hidden};
pub use p2pfs_membership::{DownReason, MemberState, MemberStatus};
pub use p2pfs_proto::wire::native::record::{Kind, Timestamp};
pub use p2pfs_share::{
    LeftOut, LeftOutWhy, MissingShare, ShareError, ShareProgress, ShareSpec, ShareStatus,
    check_patterns,
};
