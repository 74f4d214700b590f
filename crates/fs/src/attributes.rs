//! What `stat` and `df` show, as types.

use std::time::Duration;

use super::inode::Node;
use p2pfs_proto::wire::native::record::Timestamp;

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// What kind of thing an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Has names in it.
    Directory,
    /// Has bytes in it.
    Regular,
    /// Points elsewhere.
    Symlink,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode's number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    pub size_bytes: u64,
    /// What is cached of it, in units of 512 bytes; never 0 for a file with bytes, since `tar`
    /// would take it for a hole.
    pub blocks: u64,
    /// Modified when.
    pub mtime: Timestamp,
    /// Permissions.
    pub mode: u16,
    /// For a directory 2 and one for each directory in it, which `find` counts on; for the rest 1.
    /// 0 once the name stands for something else.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How long they hold if nothing is said.
    pub lifetime: Duration,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How long the name stands for this inode if nothing is said.
    pub lifetime: Duration,
    /// The inode's attributes.
    pub attributes: Attributes,
}

/// What `df` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Unique bytes shared in the cluster.
    pub used_bytes: u64,
    /// What of the cache budget is free.
    pub available_bytes: u64,
    /// How many names there are.
    pub entries: u64,
    /// How many more there may be.
    pub free_entries: u64,
}

impl Node {
    /// What kind of thing this is.
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Self::Directory => FileKind::Directory,
            Self::File(_) | Self::Status | Self::Legacy => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
        }
    }
}

pub(super) fn blocks(size_bytes: u64, cached_bytes: u64) -> u64 {
    cached_bytes
        .div_ceil(BLOCK_BYTES)
        .max(u64::from(size_bytes > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_what_is_cached_and_are_never_none_for_a_file_with_bytes() {
        assert_eq!(blocks(0, 0), 0);
        assert_eq!(blocks(1, 0), 1);
        assert_eq!(blocks(1 << 20, 0), 1);
        assert_eq!(blocks(1 << 20, 4096), 8);
        assert_eq!(blocks(1000, 1000), 2);
    }
}
