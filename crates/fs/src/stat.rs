//! GETATTR and STATFS: what is shown of an inode, and of the whole.

use std::time::Duration;

use super::attributes::{Attributes, FileKind, StatFs, blocks};
use super::error::FsError;
use super::filesystem::Filesystem;
use super::inode::{Name, Node};
use super::names::{self, Listed};
use super::traits::{FileVersion, LiveAttributes};

/// What a directory's size is shown as, which means nothing.
const DIRECTORY_SIZE_BYTES: u64 = 4096;
/// How many more names `df -i` shows room for: there is no count that could run out, and programs
/// that look before they work take 0 for a full disk.
const FREE_ENTRIES: u64 = 1 << 30;

impl Filesystem {
    /// An inode's attributes now.
    ///
    /// # Errors
    /// [`FsError::Gone`] for a number that stands for nothing.
    pub fn getattr(&self, ino: u64) -> Result<Attributes, FsError> {
        let inode = self.inode(ino)?;
        let now = self.now(&self.view(), ino, &inode);
        // an own file that was written to is still the file that the kernel asks about, and shows
        // its size and time of this moment before the kernel has heard of the new version
        let current = now.filter(|now| inode.is_version(&now.node) || inode.is_own_as(&now.node));
        let is_replaced = (current.as_ref()).is_some_and(|now| self.is_replaced(ino, &now.node));
        if is_replaced {
            // who asks by the name is to look that up
            self.invalidate_name(&inode.name);
        }
        let is_gone = current.is_none() || is_replaced;
        let listed = current.unwrap_or_else(|| Listed::last_known(&inode.node, self.started));
        let mut attributes = self.attributes(&inode.name, &listed);
        attributes.ino = ino;
        self.follow_open_file(&mut attributes);
        if is_gone {
            attributes.links = 0;
        }
        Ok(attributes)
    }

    /// What `df` shows: used is what the cluster shares, available what the cache may still take.
    pub fn statfs(&self) -> StatFs {
        let totals = self.view().totals();
        let space = self.content.space();
        StatFs {
            used_bytes: totals.unique_bytes,
            available_bytes: space.budget_bytes.saturating_sub(space.used_bytes),
            entries: totals.entries,
            free_entries: FREE_ENTRIES,
        }
    }

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
            Node::Legacy => return self.legacy_attributes_of(name),
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

    /// While an own file is open, the inode is that file, also where another has taken its name:
    /// what `stat` says goes with the bytes.
    pub(super) fn follow_open_file(&self, attributes: &mut Attributes) {
        let is_file = attributes.kind == FileKind::Regular;
        let open = is_file.then(|| self.modes.live(attributes.ino));
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
