//! What others push to this node: kept in a folder that is shared like any other.
//!
//! Owns the folder, its budget and how a file gets its name there: only when it is whole and
//! proven, never over another, and never outside. Until then it has no name, so that whatever ends
//! a transfer, or this process, leaves nothing behind.

mod receive;
mod store;

pub(super) use receive::PushParts;
pub use receive::{Accept, COMING_MAX, COMING_OF_NODE_MAX, COMING_PATIENCE, Pushes};
pub use store::{
    Arriving, FILES_MAX, Inbox, InboxError, InboxSettings, SENDER_ATTRIBUTE, sender_of,
};
