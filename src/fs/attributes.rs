//! What `stat` and `df` show.

use std::time::Duration;

use super::filesystem::{Filesystem, LIFETIME};
use super::inode::{Name, Node};
use super::names::{self, Listed};
use super::traits::{FileVersion, LiveAttributes};
use crate::wire::native::record::Timestamp;

/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// What a directory's size is shown as, which means nothing.
const DIRECTORY_SIZE_BYTES: u64 = 4096;

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
    pub fn kind(&self) -> FileKind {
        match self {
            Self::Directory => FileKind::Directory,
            Self::File(_) | Self::Status | Self::Older => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
        }
    }
}

impl Filesystem {
    /// The attributes of what was found, but for the inode's number.
    pub(super) fn attributes(&self, name: &Name, listed: &Listed) -> Attributes {
        self.attributes_by(name, listed, |file| self.content.live(file))
    }

    /// The same, for who looks at own files in another way.
    pub(super) fn attributes_by(
        &self,
        name: &Name,
        listed: &Listed,
        live: impl FnOnce(&FileVersion) -> Option<LiveAttributes>,
    ) -> Attributes {
        let (size_bytes, mode) = match &listed.node {
            Node::Directory => (DIRECTORY_SIZE_BYTES, self.directory_mode()),
            Node::File(file) => {
                let live = file.own.as_ref().and_then(|_| live(file));
                return self.file_attributes(name, file, live);
            }
            Node::Older => return self.older_attributes_of(name),
            Node::Symlink(target) => (target.len() as u64, 0o777),
            Node::Status => (
                self.content.status_json().len() as u64,
                self.file_mode(false),
            ),
        };
        Attributes {
            ino: 0,
            kind: listed.node.kind(),
            size_bytes,
            blocks: match listed.node {
                Node::Status => blocks(size_bytes, size_bytes),
                _ => 0,
            },
            mtime: listed.mtime,
            mode,
            links: match listed.node {
                Node::Directory => listed.subdirectories.saturating_add(2),
                _ => 1,
            },
            uid: self.options.uid,
            gid: self.options.gid,
            lifetime: names::lifetime(name),
        }
    }

    /// While the kernel reads an own file by itself, the inode is that file, also where another
    /// has taken its name and is not hashed yet: what `stat` says goes with the bytes.
    pub(super) fn follow_open_file(&self, attributes: &mut Attributes) {
        let is_file = attributes.kind == FileKind::Regular;
        let open = is_file.then(|| self.modes.backed_live(attributes.ino));
        let Some(Ok(now)) = open.flatten().map(|file| LiveAttributes::of(&file)) else {
            return;
        };
        attributes.size_bytes = now.size_bytes;
        attributes.blocks = blocks(now.size_bytes, now.size_bytes);
        attributes.mtime = now.mtime;
        attributes.mode = self.file_mode(now.executable);
        attributes.lifetime = Duration::ZERO;
    }

    /// As a program that makes files or directories asks, less the mask. The owner's right to write
    /// is of no use here, but copies have it.
    pub(super) fn file_mode(&self, executable: bool) -> u16 {
        let wanted = if executable { 0o777 } else { 0o666 };
        wanted & !self.options.file_mask
    }

    fn directory_mode(&self) -> u16 {
        0o777 & !self.options.directory_mask
    }

    fn file_attributes(
        &self,
        name: &Name,
        file: &FileVersion,
        live: Option<LiveAttributes>,
    ) -> Attributes {
        let (size_bytes, mtime, executable) = match live {
            Some(live) => (live.size_bytes, live.mtime, live.executable),
            None => (file.size_bytes, file.mtime, file.executable),
        };
        let cached_bytes = if live.is_some() {
            size_bytes
        } else {
            self.content.cached_bytes(file)
        };
        Attributes {
            ino: 0,
            kind: FileKind::Regular,
            size_bytes,
            blocks: blocks(size_bytes, cached_bytes),
            mtime,
            mode: self.file_mode(executable),
            links: 1,
            uid: self.options.uid,
            gid: self.options.gid,
            lifetime: if file.own.is_some() {
                Duration::ZERO
            } else {
                names::lifetime(name)
            },
        }
    }
}

pub(super) fn blocks(size_bytes: u64, cached_bytes: u64) -> u64 {
    cached_bytes
        .div_ceil(BLOCK_BYTES)
        .max(u64::from(size_bytes > 0))
}

const _: () = assert!(
    LIFETIME.as_secs() > 0,
    "a lifetime of nothing would ask us for each stat"
);

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
