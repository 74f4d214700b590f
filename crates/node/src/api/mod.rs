//! The interface for programs that embed a node: start a node, look up names, read, fetch and pin
//! files, share folders, send files, bytes and lines of chat, and follow events.
//!
//! A running [`Node`](super::Node) returns one handle for each subject:
//!
//! | subject | handle |
//! |---|---|
//! | names | [`NameLookup`] |
//! | the bytes of files | [`FileAccess`] |
//! | the cache and its pins | [`NodeCache`], [`NodePins`] |
//! | kept copies of the files of others | [`NodeKeeper`] |
//! | shared folders | [`NodeShares`] |
//! | other nodes, and the traffic with them | [`NodePeers`], [`NodeTraffic`] |
//! | the membership in the cluster | [`NodeMembership`] |
//! | pushed files and bytes, and lines of chat | [`Messenger`] |
//! | the node's health and its events | [`NodeHealth`], [`EventLog`](super::EventLog) |
//!
//! The methods of the handles may be called from any task of the runtime in which the node was
//! started. A long request or a subscription is an object that the caller holds ([`Reader`],
//! [`Prefetch`], [`Delivery`], [`EventStream`], [`Messages`]). Dropping the object cancels it.

mod builder;
mod cache;
mod contents;
mod error;
mod files;
mod health;
mod keeping;
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

pub use super::config::defaults;
pub use super::events::EventStream;
pub use builder::NodeBuilder;
pub use cache::NodeCache;
pub use contents::{Contents, FILES_MAX};
pub use error::FileError;
pub use files::FileAccess;
pub(crate) use health::OwnDirectory;
pub use health::{DiskRoom, NodeHealth};
pub use keeping::{FileSum, KeepReport, KeepSettings, NodeKeeper};
pub use membership::{NodeMembership, Resignation};
pub use messenger::{Delivered, Delivery, MESSAGE_MAX_BYTES, Messages, Messenger};
pub use names::{Listed, NameEntry, NameLookup, NextRead, Page, Why, WhyUnlisted};
pub use peers::{MUTE_MIN, NodePeers, PeerReport, Reached};
pub use pins::{NodePins, NotPinned, WhyNotPinned};
pub use prefetch::{Prefetch, PrefetchedFile};
pub use reader::Reader;
pub use shares::{GivenName, NodeShares};
pub use status::{DropTotals, FolderTotals, NodeStatus, OpenReads};
pub use traffic::{NodeTraffic, RateLimits};

pub use super::names::in_history;

// Types of other modules that this interface mentions.
pub use p2pfs_catalogue::{Rule, Version};
pub use p2pfs_content::CacheOpens;
pub use p2pfs_content::cache::{
    CacheConfig, CacheError, CacheUsage, CachedFile, Cleared, Lack, VerifyProgress,
};
pub use p2pfs_content::shares::{
    DefaultOfferRule, LeftOut, LeftOutWhy, MissingShare, PlaceError, ShareError, SharePlace,
    ShareProgress, ShareSpec, ShareStatus, ShareTotals, check_patterns,
};
pub use p2pfs_fetch::{FetchReport, PeerRate, SourceReport, TransferError};
pub use p2pfs_fs::{
    AdoptableFile, AdoptableFiles, FileVersion, ForeignFile, FsError, Hidden, LostFiles,
    LostVersion,
};
pub use p2pfs_membership::{DownReason, MemberState, MemberStatus};
pub use p2pfs_proto::wire::native::record::{Kind, Timestamp};
