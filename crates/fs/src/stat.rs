//! The attributes of a node, as `stat` shows them.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Attributes, FileKind, blocks};
use super::filesystem::{DEFAULT_MASK, Options};
use super::inode::{Name, Node};
use super::merged::mtime_of;
use super::modes::Modes;
use super::names::{self, ResolvedName};
use super::namespace::MountNamespace;
use super::traits::{FileVersion, ForeignFile, LiveAttributes};
use p2pfs_upper::Found;

/// Displayed size of a directory. The value has no meaning.
const DIRECTORY_SIZE_BYTES: u64 = 4096;
/// Mask in place of [`DEFAULT_MASK`] if programs may write: the group can write too.
const WRITABLE_MASK: u16 = 0o002;

/// Computes the attributes of nodes.
pub(super) struct AttributeReader {
    pub namespace: Arc<MountNamespace>,
    /// The open inodes. The attributes of an open own file are those of the open file.
    pub modes: Arc<Modes>,
    pub options: Options,
}

impl AttributeReader {
    /// Returns the attributes of a node, without the inode number.
    pub(crate) fn attributes(&self, name: &Name, listed: &ResolvedName) -> Attributes {
        self.attributes_by(name, listed, |file| self.namespace.content.live(file))
    }

    /// Returns the attributes of a node. `live` reads the attributes of an own file.
    pub(crate) fn attributes_by(
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
            Node::Written(file) => return self.written_attributes(&file.disk),
            Node::Symlink(target) => (target.len() as u64, 0o777),
            Node::Status => (
                self.namespace.content.status_json().len() as u64,
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
                Node::Directory => self.directory_links(name, listed.subdirectories),
                _ => 1,
            },
            uid: self.options.uid,
            gid: self.options.gid,
            lifetime: names::lifetime(name),
        }
    }

    /// Returns the link count of a directory. If programs can write into it, its subdirectories on
    /// the disk are not counted, and 1 means that the count is not known.
    fn directory_links(&self, name: &Name, subdirectories: u32) -> u32 {
        let path = name.path();
        if path.is_some_and(|path| self.namespace.place_for(path).is_some()) {
            return 1;
        }
        subdirectories.saturating_add(2)
    }

    /// If an own file is open as this inode, takes size, time, mode and lifetime from it, even if
    /// another file has its name by now. The attributes then match the bytes.
    pub(crate) fn follow_open_file(&self, attributes: &mut Attributes) {
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

    /// Returns the attributes of a foreign file.
    pub(crate) fn foreign_attributes(&self, ino: u64, file: &ForeignFile) -> Attributes {
        Attributes {
            ino,
            kind: FileKind::Regular,
            size_bytes: file.size_bytes,
            blocks: blocks(file.size_bytes, file.cached_bytes),
            mtime: file.mtime,
            mode: self.file_mode(false),
            links: 1,
            uid: self.options.uid,
            gid: self.options.gid,
            lifetime: Duration::ZERO,
        }
    }

    /// Returns the attributes of a foreign file by its name. A file that is not known is shown as
    /// empty.
    fn foreign_attributes_of(&self, name: &Name) -> Attributes {
        let known = self.namespace.foreign_file_of(name);
        let file = known.unwrap_or(ForeignFile {
            size_bytes: 0,
            mtime: self.namespace.started,
            cached_bytes: 0,
            holder: String::new(),
        });
        self.foreign_attributes(0, &file)
    }

    /// Returns the attributes of a file in a writable share, without the inode number. Its owner is
    /// that on the disk, because only the owner of a file may change its mode and times.
    pub(crate) fn written_attributes(&self, disk: &Found) -> Attributes {
        Attributes {
            ino: 0,
            kind: FileKind::Regular,
            size_bytes: disk.size_bytes,
            blocks: blocks(disk.size_bytes, disk.size_bytes),
            mtime: mtime_of(disk),
            mode: self.file_mode(disk.executable),
            links: 1,
            uid: disk.owner,
            gid: self.options.gid,
            lifetime: Duration::ZERO,
        }
    }

    /// Returns the mode of a file: the usual mode of a new file without the bits of the mask. If
    /// nothing is writable, the owner's write bit has no effect here, but copies of the file
    /// inherit it.
    fn file_mode(&self, executable: bool) -> u16 {
        let wanted = if executable { 0o777 } else { 0o666 };
        wanted & !self.mask(self.options.file_mask)
    }

    fn directory_mode(&self) -> u16 {
        0o777 & !self.mask(self.options.directory_mask)
    }

    /// Returns the mask of permissions. If programs may write, the group has the default mask's
    /// permission to do so.
    fn mask(&self, mask: u16) -> u16 {
        let is_open = mask == DEFAULT_MASK && self.namespace.folders().is_some();
        if is_open { WRITABLE_MASK } else { mask }
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
            self.namespace.content.cached_bytes(file)
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
