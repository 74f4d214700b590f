//! What others push to this node: kept in a folder that is shared like any other.
//!
//! Owns the folder, its budget and how a file gets its name there: only when it is whole and
//! proven, never over another, and never outside. Until then it has no name, or, where a node
//! sends it that may go on after a restart, one in a folder that no share lists.

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
pub(super) use opening::Opening;
pub use origin::Origin;
pub(super) use receive::PushParts;
pub use receive::{Accept, COMING_MAX, COMING_OF_NODE_MAX, COMING_PATIENCE, Pushes};
pub(super) use senders::Senders;
pub use store::{Arriving, FILES_MAX, Inbox, InboxError, InboxSettings};
