//! Finds the inode of a name or of a number, counts its lookups, and returns its attributes.
//!
//! The table of inodes ([`super::inodes`]) has the inodes that the kernel looked up with this
//! process. [`super::recall`] looks for others by their numbers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::attributes::{Attributes, Entry};
use super::error::FsError;
use super::inherited::{Inherited, OpenedVersion};
use super::inode::{Inode, Name, Node, ROOT_INO};
use super::inodes::Inodes;
use super::modes::Modes;
use super::names::{self, LIFETIME, ResolvedName};
use super::namespace::MountNamespace;
use super::possible::PossibleNames;
use super::recall::recall;
use super::replaced::OpenOwnFiles;
use super::staleness::KernelCaches;
use super::stat::AttributeReader;
use super::xattr;
use p2pfs_catalogue::View;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_types::path::NAME_MAX_BYTES;

/// Finds the inodes of the mount.
pub struct InodeResolver {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) known: Arc<Inodes>,
    pub(super) modes: Arc<Modes>,
    pub(super) attributes: Arc<AttributeReader>,
    pub(super) caches: Arc<KernelCaches>,
    pub(super) possible: Arc<PossibleNames>,
    pub(super) inherited: Arc<OnceLock<Inherited>>,
}

impl InodeResolver {
    /// Looks up a name in a directory for the user `uid`, and counts the lookup on its inode. `.`
    /// and `..` are looked up for callers that have only an inode number.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if there is no such name. The kernel may cache that for
    /// [`InodeResolver::absence_lifetime`]. [`FsError::Gone`] if the number no longer stands for an
    /// inode, [`FsError::NotADirectory`], [`FsError::NameTooLong`]. [`FsError::Busy`] if the user
    /// lately looked up too many names that only foreign peers may have.
    pub fn lookup(&self, parent: u64, name: &[u8], uid: u32) -> Result<Entry, FsError> {
        match name {
            b"." => return self.lookup_itself(parent),
            b".." => return self.lookup_above(parent),
            _ => {}
        }
        let directory = self.directory(parent)?;
        if name.len() > NAME_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let view = self.namespace.view();
        let child = names::child(&directory.name, name).ok_or(FsError::NotFound)?;
        let listed = match self.namespace.native(&view, &child) {
            Some(listed) => listed,
            None => self.possible.look_up(&child, uid)?,
        };
        Ok(self.enter(Some(parent), child, listed))
    }

    /// Returns how long the kernel may cache that a directory does not have a name.
    pub fn absence_lifetime(&self, parent: u64) -> Duration {
        // A foreign peer may provide the absent name a moment later.
        if parent == ROOT_INO && self.namespace.content.foreign().is_some() {
            return Duration::ZERO;
        }
        match self.known.get(parent).map(|inode| inode.name) {
            Some(Name::Union(_)) => LIFETIME,
            _ => Duration::ZERO,
        }
    }

    /// Subtracts lookups of an inode that the kernel has forgotten.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.known.forget(ino, lookups);
    }

    /// Returns the present attributes of an inode. If its name is gone or stands for another
    /// version, returns the last known attributes with a link count of 0. New bytes in the same own
    /// file are not another version. The link count is also 0 if an own file that is open as this
    /// inode was replaced.
    ///
    /// # Errors
    /// [`FsError::Gone`] for a number that stands for no inode.
    pub fn getattr(&self, ino: u64) -> Result<Attributes, FsError> {
        let inode = self.inode(ino)?;
        let now = self.now(&self.namespace.view(), ino, &inode);
        // An own file that was written to is still the file of the kernel's request. It shows its
        // present size and time even before the kernel is notified of the new version.
        let current = now.filter(|now| inode.is_version(&now.node) || inode.is_own_as(&now.node));
        let is_replaced =
            (current.as_ref()).is_some_and(|now| self.own_files().is_replaced(ino, &now.node));
        if is_replaced {
            // A program that asks by the name must look it up again.
            self.caches.invalidate_name(&inode.name);
        }
        let is_gone = current.is_none() || is_replaced || self.known.is_removed(ino);
        let listed = current
            .unwrap_or_else(|| ResolvedName::last_known(&inode.node, self.namespace.started));
        let mut attributes = self.attributes.attributes(&inode.name, &listed);
        attributes.ino = ino;
        self.attributes.follow_open_file(&mut attributes);
        if is_gone {
            attributes.links = 0;
        }
        Ok(attributes)
    }

    /// Returns the target of a symbolic link. The kernel would follow any target, also one outside
    /// the mount, so the target is checked here again.
    ///
    /// # Errors
    /// [`FsError::NotALink`] for another type of inode. [`FsError::Fault`] for a target that leads
    /// out of the mount, which no log may contain.
    pub fn readlink(&self, ino: u64) -> Result<Bytes, FsError> {
        let inode = self.inode(ino)?;
        let Node::Symlink(target) = &inode.node else {
            return Err(FsError::NotALink);
        };
        match inode.name.path() {
            Some(path) if link_stays_inside(path, target) => Ok(target.clone()),
            _ => Err(FsError::Fault),
        }
    }

    /// Returns the value of an attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] if the inode is not a file or does not have the attribute. For
    /// unsupported names, the error of [`attribute_absence`](crate::attribute_absence).
    /// [`FsError::Gone`] if the number no longer stands for an inode.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(error) = xattr::absence(name) {
            return Err(error);
        }
        let view = self.namespace.view();
        let inode = self.inode(ino)?;
        match self.current(&view, ino, &inode) {
            Node::File(file) => xattr::of_file(&*self.namespace.content, &view, &file, name),
            Node::Written(_) => match names::resolve(&view, &inode.name).map(|it| it.node) {
                Some(Node::File(file)) if file.own.is_some() => {
                    xattr::of_file(&*self.namespace.content, &view, &file, name)
                }
                _ => Err(FsError::NoAttribute),
            },
            Node::Foreign => xattr::of_foreign(self.namespace.foreign_file_of(&inode.name), name),
            _ => Err(FsError::NoAttribute),
        }
    }

    /// Returns the number of an inode. One that was renamed or copied has kept its number.
    pub(super) fn number(&self, inode: &Inode) -> u64 {
        let may_be_kept = matches!(inode.node, Node::Directory | Node::Written(_));
        let known = may_be_kept.then(|| self.known.kept_number(inode));
        known.flatten().unwrap_or_else(|| inode.number())
    }

    /// Returns the path of an inode from the root of the mount. Returns `None` for a number that
    /// the kernel does not know.
    pub fn path_of(&self, ino: u64) -> Option<Vec<u8>> {
        let inode = self.known.get(ino)?;
        Some(names::full_path(&inode.name))
    }

    /// Counts a lookup of an inode and returns its entry. `above` is the number of its directory,
    /// if known.
    pub(super) fn enter(&self, above: Option<u64>, name: Name, listed: ResolvedName) -> Entry {
        let attributes = self.attributes.attributes(&name, &listed);
        self.enter_with(above, name, listed, attributes)
    }

    /// Counts a lookup of an inode and returns its entry. `attributes` are those of the name,
    /// without the inode number. If an own file is open as the inode, the entry has the attributes
    /// of that file instead.
    pub(super) fn enter_with(
        &self,
        above: Option<u64>,
        name: Name,
        listed: ResolvedName,
        mut attributes: Attributes,
    ) -> Entry {
        let lifetime = match listed.node {
            Node::Foreign => Duration::ZERO,
            _ => names::lifetime(&name),
        };
        let node = listed.node;
        let is_own = matches!(&node, Node::File(file) if file.own.is_some());
        let inode = Inode { name, node };
        let said = listed.said.as_ref().filter(|_| is_own).cloned();
        attributes.ino = self.known.look_up(above, &inode, listed.said);
        if is_own {
            attributes.ino = self
                .own_files()
                .look_up_file(above, &inode, said, attributes.ino);
        }
        self.attributes.follow_open_file(&mut attributes);
        Entry {
            lifetime,
            attributes,
        }
    }

    /// Returns the inode of a number.
    ///
    /// # Errors
    /// [`FsError::Gone`] if the number no longer stands for an inode.
    pub(super) fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        match self.known.get(ino) {
            Some(inode) => Ok(inode),
            None => self.adopt(ino).or_else(|error| {
                // A program may have opened this inode with the previous process. It can still read
                // that version, whatever the name stands for now.
                let before = self.inherited.get();
                let version = before.and_then(|inherited| inherited.version(ino));
                version.map(OpenedVersion::inode).ok_or(error)
            }),
        }
    }

    /// Returns the inode of a number if it is a directory.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] for another type of inode.
    pub(super) fn directory(&self, ino: u64) -> Result<Inode, FsError> {
        let inode = self.inode(ino)?;
        match inode.node {
            Node::Directory => Ok(inode),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Returns the node that an inode's name has in this view. Returns `None` if the view does not
    /// have the name, as for foreign files.
    fn now(&self, view: &View, ino: u64, inode: &Inode) -> Option<ResolvedName> {
        let known = self.known.looked_up_in(view, ino, &inode.name);
        known.or_else(|| self.namespace.native(view, &inode.name))
    }

    /// Returns the present node of an inode's name, if it is still the version of the inode.
    /// Otherwise returns the inode's own node.
    pub(super) fn current(&self, view: &View, ino: u64, inode: &Inode) -> Node {
        let now = self.now(view, ino, inode).map(|listed| listed.node);
        now.filter(|now| inode.is_version(now))
            .unwrap_or_else(|| inode.node.clone())
    }

    /// Looks up `.` of an inode: the inode itself, in its present state.
    fn lookup_itself(&self, ino: u64) -> Result<Entry, FsError> {
        let (name, listed) = match self.known.get(ino) {
            None => recall(&self.namespace, ino).ok_or(FsError::Gone)?,
            Some(inode) => {
                let now = self.namespace.resolve(&self.namespace.view(), &inode.name);
                let now = now.filter(|now| inode.is_version(&now.node));
                (inode.name, now.ok_or(FsError::Gone)?)
            }
        };
        self.enter_as(ino, name, listed)
    }

    /// Looks up `..` of a directory.
    fn lookup_above(&self, ino: u64) -> Result<Entry, FsError> {
        let name = names::parent(&self.inode(ino)?.name);
        let listed = self.namespace.resolve(&self.namespace.view(), &name);
        Ok(self.enter(None, name, listed.ok_or(FsError::Gone)?))
    }

    /// Adds an inode that the kernel uses and that is not in the table, because the kernel looked
    /// it up with a previous process. It counts as looked up once.
    fn adopt(&self, ino: u64) -> Result<Inode, FsError> {
        let before = self.inherited.get().and_then(|it| it.written(ino));
        if let Some(written) = before.and_then(|it| self.namespace.inode_on_disk(it)) {
            self.known.adopt_written(ino, &written);
            return Ok(written);
        }
        let (name, listed) = recall(&self.namespace, ino).ok_or(FsError::Gone)?;
        let node = listed.node.clone();
        self.enter_as(ino, name.clone(), listed)?;
        Ok(Inode { name, node })
    }

    fn enter_as(&self, ino: u64, name: Name, listed: ResolvedName) -> Result<Entry, FsError> {
        let entry = self.enter(None, name, listed);
        if entry.attributes.ino == ino {
            return Ok(entry);
        }
        self.forget(entry.attributes.ino, 1);
        Err(FsError::Gone)
    }

    fn own_files(&self) -> OpenOwnFiles<'_> {
        OpenOwnFiles {
            content: &self.namespace.content,
            modes: &self.modes,
            inodes: &self.known,
        }
    }
}
