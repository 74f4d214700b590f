//! The interface for programs that embed a node: start a node, look up names, read, fetch and pin
//! files, share folders, send files, bytes and talk, and follow events.
//!
//! A running [`Node`](super::Node) returns one handle for each subject: names ([`NameLookup`]), the
//! bytes of files ([`FileAccess`]), the cache ([`NodeCache`]) and its pins ([`NodePins`]), shared
//! folders ([`NodeShares`]), other nodes ([`NodePeers`]) and the traffic with them
//! ([`NodeTraffic`]), the membership ([`NodeMembership`]), files and bytes sent unasked
//! ([`Messenger`]), the node's health ([`NodeHealth`]) and its events
//! ([`EventLog`](super::EventLog)). Their methods may be called from any task of its runtime. The
//! only state here is in the objects that callers hold ([`Reader`], [`Prefetch`], [`Delivery`],
//! [`EventStream`], [`Messages`]). Dropping such an object cancels its request.

mod builder;
mod cache;
mod contents;
pub mod defaults;
mod error;
mod files;
mod health;
mod links;
mod membership;
mod messenger;
mod names;
mod peers;
mod pins;
mod prefetch;
mod reader;
mod shares;
mod status;
mod traffic;

pub use super::events::EventStream;
pub use super::read_counters::CacheOpens;
pub use builder::NodeBuilder;
pub use cache::NodeCache;
pub(crate) use contents::LocalContents;
pub use contents::{Contents, FILES_MAX};
pub use error::FileError;
pub use files::FileAccess;
pub use health::{DiskRoom, NodeHealth};
pub use membership::NodeMembership;
pub use messenger::{Delivered, Delivery, MESSAGE_MAX_BYTES, Messages, Messenger};
pub use names::{Listed, NameLookup, NextRead, Page, Why};
pub use peers::{NodePeers, PeerReport, Reached};
pub use pins::{NodePins, NotPinned, WhyNotPinned};
pub use prefetch::{Fetched, Prefetch};
pub use reader::Reader;
pub use shares::{GivenName, NodeShares};
pub use status::{DropTotals, FolderTotals, NodeStatus, OpenReads};
pub use traffic::{NodeTraffic, RateLimits};

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
