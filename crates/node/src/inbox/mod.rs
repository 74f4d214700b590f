//! Files that others push to this node, kept in a folder that is shared like any other.
//!
//! Owns the folder, its budget, and how a file gets its name there. A file gets its name in the
//! folder only when it is complete and verified. It never replaces another file and never lies
//! outside of the folder. Before that, a small file is an unnamed file (`O_TMPFILE`). A large file
//! of a node, which may continue after a restart, is in a subfolder that no share lists.
//!
//! [`Pushes`] answers the requests of senders, [`Inbox`] is the folder.

mod attributes;
mod coming;
mod opening;
mod origin;
mod parts;
pub mod receive;
mod room;
mod senders;
pub mod store;

pub use attributes::{SENDER_ATTRIBUTE, sender_of};
pub use opening::InboxHandle;
pub use origin::ChargedSender;
pub(super) use receive::PushParts;
pub use receive::{Accept, COMING_MAX, COMING_OF_NODE_MAX, COMING_PATIENCE, Pushes};
pub(super) use senders::SenderLookup;
pub use store::{FILES_MAX, Inbox, InboxError, InboxFile, InboxSettings};
