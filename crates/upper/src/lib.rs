//! The folders on the local disk into which programs write through the mount.
//!
//! A writable share of this node is an ordinary folder, the *upper folder* ([`UpperFolder`]). The
//! mount creates, changes, renames and removes files there, and the scanner of the share lists
//! them. A file that was created through the mount has a *mark* ([`WrittenMark`]), an extended
//! attribute that names the contents which it replaces. If it replaces any, the mark is complete
//! before the file has its name, so a crash leaves no file that lists without it.
//!
//! A file that is removed or replaced through the mount is kept for a while ([`KeptFile`]).
//! [`WriteRoom`] limits what programs write.
//!
//! Paths are those in the folder. No link is followed, and no path leads out of the folder. The
//! crate knows no namespace, no FUSE and no network. Each method may wait for the disk, and a
//! method that fails leaves nothing half made under a final name.

mod copy;
mod folder;
mod kept;
mod room;

pub use copy::Source;
pub use folder::{Found, FoundKind, FoundName, Owner, Space, UpperFolder};
pub use kept::{
    KEPT_COPY_MAX_BYTES, KEPT_FLOOR_BYTES, KEPT_MAX_BYTES, KEPT_MAX_FILES, KEPT_TIME, KeptFile,
};
pub use p2pfs_types::files::written::{MarkTime, WrittenMark};
pub use room::{COPY_MAX_BYTES, FLOOR_BYTES, FLOOR_PART, SEEN_ROOM_BYTES, WriteLimits, WriteRoom};
