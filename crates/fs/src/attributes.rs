//! Types for the attributes that `stat` and `df` show.

use std::time::Duration;

use p2pfs_proto::wire::native::record::Timestamp;

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
}

/// Attributes that `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number.
    pub ino: u64,
    /// The type of the inode.
    pub kind: FileKind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Cached bytes in units of 512. It is never 0 for a file with bytes, because `tar` would take
    /// it for a hole.
    pub blocks: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u16,
    /// Number of links. For a directory it is 2 plus one for each subdirectory, which `find` relies
    /// on, or 1 if that number is not known. For other types it is 1. It is 0 once the name is gone
    /// or stands for another version.
    pub links: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// How long the kernel may cache the attributes without an invalidation.
    pub lifetime: Duration,
}

/// Result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How long the kernel may cache the name without an invalidation.
    pub lifetime: Duration,
    /// The inode's attributes.
    pub attributes: Attributes,
}

/// Figures that `df` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of the distinct contents shared in the cluster.
    pub used_bytes: u64,
    /// Free bytes of the cache budget.
    pub available_bytes: u64,
    /// Number of names.
    pub entries: u64,
    /// Number of further names that are possible.
    pub free_entries: u64,
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
    fn blocks_count_cached_bytes_and_are_never_zero_for_a_nonempty_file() {
        assert_eq!(blocks(0, 0), 0);
        assert_eq!(blocks(1, 0), 1);
        assert_eq!(blocks(1 << 20, 0), 1);
        assert_eq!(blocks(1 << 20, 4096), 8);
        assert_eq!(blocks(1000, 1000), 2);
    }
}
