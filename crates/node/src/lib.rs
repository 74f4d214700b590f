//! A node: its state machines put together, and the loop that feeds them.
//!
//! Owns the event loop ([`Node::start`] begins it), the order in which everything is opened, and
//! what the filesystem reads ([`NodeContent`]). [`Machine`] is its pure part for native members:
//! membership, catalogue and pulls. Knows nothing of FUSE, of the control socket or of how it is
//! configured; it never mounts.
//!
//! Errors end a start and leave nothing running; afterwards what goes wrong is a warning in the
//! [`EventLog`] and the node goes on.
//!
//! | what | files |
//! |---|---|
//! | the start | `start`, `sockets`, `state_dir`, `generation`, `recovery`, `checks`, `error` |
//! | the event loop, what it keeps and what it publishes | `run`, `own_thread`, `receivers`, `cache_news`, `wake`, `machine`, `pulls`; `persist`, `store`; `published`, `views`, `names` |
//! | what is answered beside the loop | `prompt`, `claims`, `offers`, `traffic` |
//! | where this node can be reached | `address`, `reach` |
//! | what the filesystem reads | `content`, `fixed`, `ahead` |
//! | what is given and taken unasked | `giving`, `courier`, `mailbox`, `inbox`, `mesh` |
//! | legacy peers | `legacy` |
//! | what others do wrong, and two machines with one key | `offence`, `offenders`, `floods`, `copied` |
//! | what a program and the daemon hold | `door`, `handle`, `events` |

mod address;
mod ahead;
mod cache_news;
mod checks;
mod claims;
mod content;
mod copied;
mod courier;
pub mod door;
mod error;
mod events;
mod fixed;
mod floods;
mod generation;
mod giving;
mod handle;
pub mod inbox;
pub mod legacy;
pub mod machine;
mod mailbox;
pub mod mesh;
mod names;
mod offence;
mod offenders;
mod offers;
mod own_thread;
mod persist;
mod prompt;
mod published;
mod pulls;
mod reach;
mod receivers;
mod recovery;
mod run;
mod sockets;
mod start;
mod state_dir;
pub mod store;
mod traffic;
mod views;
mod wake;

pub use self::mesh::{Parcel, PushError};
pub use content::NodeContent;
pub use courier::{Courier, Recipient, SendError};
pub use door::{Delivered, Delivery, EventStream, FileError, Messages, NodeBuilder, Reader};
pub use error::NodeError;
pub use events::{Audience, EventLog, Fetched, Given, News, Noted, Push, PushStage, Who};
pub use giving::GivingSettings;
pub use handle::{Node, Reached};
pub use machine::{Machine, MachineConfig};
pub use mailbox::Message;
pub use offence::Offence;
pub use offenders::Offenders;
pub use p2pfs_catalogue::Change;
pub use p2pfs_membership::{GENERATION_AHEAD_MAX_S, Leave};
pub use p2pfs_transfer::net::NetError;
pub use p2pfs_transfer::net::peer::Probed;
pub use published::MemberReport;
pub use published::Outdated;
pub use sockets::Sockets;
pub use start::NodeConfig;
pub use traffic::PeerBytes;
