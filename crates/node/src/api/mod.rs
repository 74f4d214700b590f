//! The interface for programs that embed a node: start a node, look up names, read, fetch and pin
//! files, share folders, send files, bytes and talk, and follow events.
//!
//! All calls except the builder and its [`defaults`] are methods of a running
//! [`Node`](super::Node). They may be called from any task of its runtime. The only state here is
//! in the objects that callers hold ([`Reader`], [`Prefetch`], [`Delivery`], [`EventStream`],
//! [`Messages`]). Dropping such an object cancels its request.

mod builder;
mod cache;
pub mod defaults;
mod error;
mod events;
mod giving;
mod health;
mod keeping;
mod links;
mod names;
mod peers;
mod reader;
mod sharing;
mod status;

pub use crate::read_counters::CacheOpens;
pub use builder::NodeBuilder;
pub use cache::{NotPinned, WhyNotPinned};
pub use error::FileError;
pub use events::EventStream;
pub use giving::{Delivered, Delivery, MESSAGE_MAX_BYTES, Messages};
pub use health::DiskRoom;
pub use keeping::{Contents, FILES_MAX, Fetched, Prefetch};
pub use names::{Listed, NextRead, Page, Why};
pub use peers::{PeerReport, RateLimits};
pub use reader::Reader;
pub use sharing::GivenName;
pub use status::{DropTotals, FolderTotals, NodeStatus, OpenReads};

pub use super::names::in_history;

// Types of other modules that this interface mentions.
pub use p2pfs_cache::{
    CacheConfig, CacheError, CacheUsage, CachedFile, Cleared, Lack, VerifyProgress,
};
pub use p2pfs_catalogue::{Rule, Version};
pub use p2pfs_fetch::{FetchReport, PeerRate, SourceReport, TransferError};
pub use p2pfs_fs::{FileVersion, ForeignFile, FsError, Hidden};
pub use p2pfs_membership::{DownReason, MemberState, MemberStatus};
pub use p2pfs_proto::wire::native::record::{Kind, Timestamp};
pub use p2pfs_share::{
    LeftOut, LeftOutWhy, MissingShare, PlaceError, ShareError, SharePlace, ShareProgress,
    ShareSpec, ShareStatus, check_patterns,
};
