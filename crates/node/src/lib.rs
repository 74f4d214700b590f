//! A p2pfs node for programs that embed one.
//!
//! A node joins a cluster, lists what the other nodes share, reads and keeps their files, shares
//! folders of its own, and sends files and text. [`Node::builder`] starts one:
//!
//! ```no_run
//! use p2pfs_node::Node;
//! use p2pfs_types::path::SharedPath;
//! use tokio::io::AsyncReadExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder("reader".parse()?, "/var/lib/reader")
//!     .secret_file("/etc/p2pfs/secret")
//!     .seed("192.0.2.7:1378".parse()?)
//!     .share("/srv/photos")
//!     .start()
//!     .await?;
//! let path = SharedPath::new(&b"docs/resume.pdf"[..])?;
//! node.names().wait_for(&path).await;
//! let mut text = Vec::new();
//! node.files().open(&path).await?.read_to_end(&mut text).await?;
//! # Ok(()) }
//! ```
//!
//! The node keeps its key, cache and other state below the given directory. By default it listens
//! on any free port and finds other nodes on the LAN. Without a secret file it joins a cluster with
//! a token: [`NodeMembership::join`] takes a `p2pfs_proto::trust::InviteToken`. [`Node::stop`]
//! announces to the other nodes that this one ends. If the program exits without that call, they
//! find out when their probes are not answered.
//!
//! | to do | call |
//! |---|---|
//! | list and find names | [`NameLookup::list`], [`NameLookup::find`], [`NameLookup::wait_for`] |
//! | read while bytes arrive | [`FileAccess::open`], which returns a [`Reader`] (`AsyncRead`) |
//! | fetch and copy | [`FileAccess::prefetch`], [`FileAccess::get`] |
//! | keep, drop | [`NodePins::pin`], [`NodePins::unpin`] |
//! | share a folder | [`NodeBuilder::share`], [`NodeShares::share`] |
//! | send files, bytes and text | [`Messenger::send_file`], [`Messenger::send_bytes`], [`Messenger::broadcast`]; received bytes: [`Messenger::messages`] |
//! | follow events | [`EventLog::follow`] |
//! | see peers, rates and status | [`NodePeers::reports`], [`NodeTraffic::rates`], [`Node::status`] |
//!
//! [`api`] documents the whole interface. A program also depends on `p2pfs-types` (paths, ids,
//! hashes) and, for tokens, on `p2pfs-proto`. `examples/` of the repository has three complete
//! programs. The crate needs no FUSE library: only the program `p2pfs` mounts.
//!
//! # Inside
//!
//! The crate contains the start of a node, its event loop, and the source of the bytes that a
//! filesystem reads ([`NodeNamespace`]). [`Machine`] is the part without sockets and clock: the
//! membership, the catalogue and the pulls of logs. The crate does not depend on FUSE, the control
//! socket or the configuration file. A [`NodeError`] ends the start and leaves nothing running. Any
//! other problem becomes a [`Condition`] or a warning in the [`EventLog`], and the node continues.
//!
//! | subject | files |
//! |---|---|
//! | the start | `start`, `sockets`, `state_dir`, `generation`, `recovery`, `checks`, `error` |
//! | the event loop, its state and its publications | `run`, `commands`, `own_thread`, `receivers`, `cache_news`, `wake`, `machine`, `pulls`; `persist`, `store`, `vacated`; `published`, `views`, `names` |
//! | requests of other nodes answered outside of the loop | `prompt`, `claims`, `offers` |
//! | the address of this node | `address`, `reach` |
//! | the filesystem's names and reads | `namespace`, `read_watch`, `failed_reads`, `remote_bytes` |
//! | files and bytes pushed to and by other nodes | `giving`, `file_sender`, `parcel`, `mailbox`, `inbox` |
//! | peers of other protocols | `foreign`, `traffic` |
//! | misbehaviour, and two machines with one key | `offence`, `offenders`, `floods`, `copied` |
//! | the interface for programs and the daemon | `api`, `handle`, `events`, `conditions` |

mod address;
pub mod api;
mod cache_news;
mod checks;
mod claims;
mod commands;
mod conditions;
mod config;
mod copied;
mod deletions;
mod error;
mod events;
mod failed_reads;
mod file_sender;
mod floods;
mod foreign;
mod generation;
mod giving;
mod handle;
pub mod inbox;
mod keepers;
mod limits;
pub mod machine;
mod mailbox;
mod names;
mod namespace;
mod not_forgotten;
mod offence;
mod offenders;
mod offers;
mod own_thread;
mod parcel;
mod persist;
mod prompt;
mod published;
mod pulls;
mod reach;
mod read_watch;
mod receivers;
mod recovery;
mod refused_joins;
mod remote_bytes;
mod run;
mod sockets;
mod start;
mod state_dir;
pub mod store;
mod traffic;
mod vacated;
mod views;
mod wake;
mod writable;

pub use limits::LIMITS;

pub use api::{
    Delivered, Delivery, FileAccess, FileError, Messages, Messenger, NameLookup, NodeBuilder,
    NodeCache, NodeHealth, NodeMembership, NodePeers, NodePins, NodeShares, NodeTraffic, Reached,
    Reader,
};
pub use conditions::{CLOCK_CAUSE, Condition, ConditionText, Finding, Severity, StandingCondition};
pub use config::{NetworkConfig, NodeConfig};
pub use copied::hostname;
pub use deletions::{DeletionError, Deletions};
pub use error::NodeError;
pub use events::{
    Audience, EventLog, EventStream, Fetched, Given, News, Noted, Push, PushStage, Who,
};
pub use failed_reads::ReadFailure;
pub use file_sender::{FileSender, Recipient, SendError};
pub use foreign::{
    ForeignHost, ForeignPeer, ForeignPeers, ForeignPushes, ForeignReads, ForeignTraffic, Later,
    OfferSources, foreign_id,
};
pub use giving::GivingSettings;
pub use handle::{Node, StopProblem};
pub use machine::{Machine, MachineConfig};
pub use mailbox::{Mailbox, Message};
pub use namespace::NodeNamespace;
pub use not_forgotten::NotForgotten;
pub use offence::Offence;
pub use offenders::Offenders;
pub use p2pfs_catalogue::Change;
pub use p2pfs_fs::WriteLimits;
pub use p2pfs_membership::{GENERATION_AHEAD_MAX_S, Leave};
pub use p2pfs_transfer::net::peer::Probed;
pub use p2pfs_transfer::net::{NetError, resolve_host};
pub use parcel::{Parcel, PushError, Sha256};
pub use published::MemberReport;
pub use published::Outdated;
pub use read_watch::{ReadEnd, WatchedVersion};
pub use sockets::Sockets;
pub use state_dir::state_is_in_use;
pub use traffic::{ForeignThrottle, PeerBytes};
