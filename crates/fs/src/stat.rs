//! GETATTR and STATFS: the attributes of an inode, and the totals of the filesystem.

use std::time::Duration;

use super::attributes::{Attributes, FileKind, StatFs, blocks};
use super::error::FsError;
use super::filesystem::Filesystem;
use super::inode::{Name, Node};
use super::names::{self, ResolvedName};
use super::traits::{FileVersion, LiveAttributes};

/// Displayed size of a directory. The value has no meaning.
const DIRECTORY_SIZE_BYTES: u64 = 4096;
/// Further names for which `df -i` shows room. No such limit exists, and programs that check before
/// they work take 0 for a full disk.
const FREE_ENTRIES: u64 = 1 << 30;

impl Filesystem {
    /// Returns the present attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::Gone`] for a number that stands for no inode.
    pub fn getattr(&self, ino: u64) -> Result<Attributes, FsError> {
        let inode = self.inode(ino)?;
        let now = self.now(&self.view(), ino, &inode);
        // An own file that was written to is still the file of the kernel's request. It shows its
        // present size and time, before the kernel has heard of the new version.
        let current = now.filter(|now| inode.is_version(&now.node) || inode.is_own_as(&now.node));
        let is_replaced = (current.as_ref()).is_some_and(|now| self.is_replaced(ino, &now.node));
        if is_replaced {
            // A program that asks by the name must look it up again.
            self.invalidate_name(&inode.name);
        }
        let is_gone = current.is_none() || is_replaced;
        let listed = current.unwrap_or_else(|| ResolvedName::last_known(&inode.node, self.started));
        let mut attributes = self.attributes(&inode.name, &listed);
        attributes.ino = ino;
        self.follow_open_file(&mut attributes);
        if is_gone {
            attributes.links = 0;
        }
        Ok(attributes)
    }

    /// Returns the figures for `df`. Used bytes are those that the cluster shares. Available bytes
    /// are those that the cache may still store.
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

    /// Returns the attributes of a node, without the inode number.
    pub(super) fn attributes(&self, name: &Name, listed: &ResolvedName) -> Attributes {
        self.attributes_by(name, listed, |file| self.content.live(file))
    }

    /// Returns the attributes of a node. `live` reads the attributes of an own file.
    pub(super) fn attributes_by(
        &self,
        name: &Name,
        listed: &ResolvedName,
        live: impl FnOnce(&FileVersion) -> Option<LiveAttributes>,
    ) -> Attributes {
        let (size_bytes, mode) = match &listed.node {
            Node::Directory => (DIRECTORY_SIZE_BYTES, self.directory_mode()),
            Node::File(file) => {
                let live = file.own.as_ref().and_then(|_| live(file));
                return self.file_attributes(name, file, live);
            }
            Node::Foreign => return self.foreign_attributes_of(name),
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

    /// Replaces the attributes by those of the own file that is open as this inode, even if another
    /// file has its name by now. The attributes then match the bytes.
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

    /// Returns the mode of a file: the usual mode of a new file without the bits of the mask. The
    /// owner's write bit has no effect here, but copies of the file inherit it.
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
