//! The filesystem: names, inodes, open handles, and the errno that a program gets for each error.
//!
//! The crate owns inodes and their lookup counts, handles, directory cookies, attributes, extended
//! attributes, the hidden `.p2pfs` folder, and the one table of errnos ([`error`]). Start
//! reading at [`Filesystem`], which lists its parts. Five traits ([`traits`]) connect the crate to
//! the other crates. [`Content`] provides names, [`OpenContent`] provides bytes, [`ForeignFiles`]
//! provides the files of foreign peers, [`Invalidator`] drops the kernel's caches, and
//! [`BackingFiles`] passes complete files to the kernel. The crate never names FUSE, a socket or a
//! peer. No metadata call waits for the network, except GETATTR and OPEN of a name that only a
//! foreign peer may have. [`ahead`] predicts the small files that a program will open next.
//!
//! A failed lookup of a name does not count a lookup, and a failed open leaves no handle.

pub mod ahead;
mod attributes;
pub mod changes;
pub mod directory;
pub mod error;
pub mod files;
mod filesystem;
mod follow;
mod foreign;
pub mod handles;
mod inherited;
mod inode;
mod inodes;
pub mod listing;
mod lost;
mod merged;
mod modes;
mod names;
mod namespace;
mod order;
mod own_attributes;
mod pages_behind;
mod places;
mod possible;
mod queries;
mod recall;
mod replaced;
mod resolver;
mod shown;
mod staleness;
#[cfg(any(test, feature = "test-support"))]
pub mod standin;
mod stat;
pub mod traits;
mod xattr;

pub use attributes::{Attributes, Entry, FileKind, StatFs};
pub use changes::{Caller, Changes, NewAttributes, NewTime};
pub use error::FsError;
pub use files::{Caching, OpenFiles, OpenReply};
pub use filesystem::{DEFAULT_MASK, Filesystem, Options};
pub use follow::OpenFollower;
pub use foreign::ForeignInodes;
pub use handles::{PendingRead, Reach, ReadStep};
pub use inode::ROOT_INO;
pub use listing::{Directories, DirectoryEntry, LISTED_LIVE_LIFETIME};
pub use lost::{AdoptableFile, AdoptableFiles, LostFiles, LostVersion};
pub use names::{Hidden, LIFETIME, hidden, hidden_children};
pub use namespace::{ForeignNames, MountNamespace};
pub use pages_behind::READ_AHEAD_BYTES;
pub use resolver::InodeResolver;
pub use staleness::KernelCaches;
pub use traits::{
    Around, BackingFile, BackingFiles, Content, FULL_BYTES, FileVersion, ForeignFile, ForeignFiles,
    Invalidator, LaterReply, LiveAttributes, LiveLook, OpenContent, Opened, PageDropper, ReadNow,
    ReadReply, ReadWait, Space, Stale, WholeFile, WritableFolder, Writing,
};
pub use xattr::absence as attribute_absence;

// Types of other crates in this interface.
pub use p2pfs_catalogue::{Change, View};
pub use p2pfs_proto::wire::native::record::Timestamp;
pub use p2pfs_types::digest::ContentHash;
pub use p2pfs_types::path::{NAME_MAX_BYTES, SharedPath};
pub use p2pfs_upper::{
    COPY_MAX_BYTES, FLOOR_BYTES, KEPT_TIME, UpperFolder, WriteLimits, WriteRoom,
};
