//! The filesystem: which names there are, which inode stands for which, who has what open, and
//! which errno a program sees.
//!
//! Owns inodes and their lookup counts, handles, directory cookies, attributes, extended
//! attributes, the hidden `.p2pfs` folder, and the one table of errnos ([`error`]). It speaks to
//! what lies around it through four traits ([`traits`]): [`Content`] gives names, [`OpenContent`]
//! bytes, [`Invalidator`] drops what the kernel has cached, [`BackingFiles`] hands complete files
//! to the kernel. It never names FUSE, a socket or a peer, and no metadata call of it waits but
//! GETATTR and OPEN of a name that only a legacy peer may have. Which small files a program will
//! open next is guessed in [`ahead`].
//!
//! An error leaves everything as it was: a failed lookup counts nothing, a failed open holds
//! nothing.

pub mod ahead;
mod attributes;
pub mod directory;
pub mod error;
pub mod files;
mod filesystem;
mod follow;
pub mod handles;
mod inherited;
mod inode;
mod inodes;
mod kept;
mod legacy;
pub mod listing;
mod modes;
mod names;
mod order;
mod own_attributes;
mod places;
mod recall;
mod replaced;
mod shown;
mod staleness;
#[cfg(any(test, feature = "test-support"))]
pub mod standin;
mod stat;
pub mod traits;
mod xattr;

pub use attributes::{Attributes, Entry, FileKind, StatFs};
pub use error::FsError;
pub use files::{Caching, OpenReply, PendingRead, ReadStep};
pub use filesystem::{DEFAULT_MASK, Filesystem, Options};
pub use handles::Reach;
pub use inode::ROOT_INO;
pub use listing::{DirectoryEntry, LISTED_LIVE_LIFETIME};
pub use names::{Hidden, LIFETIME, hidden, hidden_children};
pub use traits::{
    Around, BackingFile, BackingFiles, Content, FileVersion, Invalidator, LaterReply, LegacyFile,
    LiveAttributes, LiveLook, OpenContent, Opened, ReadNow, ReadReply, ReadTicket, Space, Stale,
    WholeFile,
};
pub use xattr::absence as attribute_absence;

// What of others is part of this interface.
pub use p2pfs_catalogue::{Change, View};
pub use p2pfs_proto::wire::native::record::Timestamp;
pub use p2pfs_types::digest::ContentHash;
pub use p2pfs_types::path::{NAME_MAX_BYTES, SharedPath};
