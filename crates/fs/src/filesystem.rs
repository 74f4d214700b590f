//! The filesystem. Each call of the kernel is one method.
//!
//! Only the methods that read bytes wait for other nodes. The methods for lookup, listing, open,
//! close and attributes may wait for a local disk. No method holds a lock while it calls
//! [`Content`].

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use super::ahead::OpenPredictor;
use super::attributes::{Attributes, Entry};
use super::directory::Listings;
use super::error::FsError;
use super::handles::Handles;
use super::inherited::{Inherited, OpenedVersion};
use super::inode::{Inode, Name, Node, ROOT_INO};
use super::inodes::Inodes;
use super::modes::Modes;
use super::names::{self, LIFETIME, ResolvedName};
use super::places::PathsByNumber;
use super::shown::ShownView;
use super::traits::{BackingFiles, Content, Invalidator, Stale, WholeFile};
use p2pfs_catalogue::View;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::path::{NAME_MAX_BYTES, SharedPath};

/// Default mask of permissions: only the owner could write, as with the usual umask(2).
pub const DEFAULT_MASK: u16 = 0o022;

/// Owner, group and permission masks of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// User ID of all files and directories.
    pub uid: u32,
    /// Group ID of all files and directories.
    pub gid: u32,
    /// Permission bits that files do not have.
    pub file_mask: u16,
    /// Permission bits that directories do not have.
    pub directory_mask: u16,
}

/// Interval of the checks in [`Filesystem::await_entries`].
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The filesystem of one mount.
pub struct Filesystem {
    pub(super) content: Arc<dyn Content>,
    pub(super) options: Options,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) listings: Listings,
    pub(super) modes: Modes,
    pub(super) places: PathsByNumber,
    pub(super) ahead: Mutex<OpenPredictor<SharedPath, WholeFile>>,
    pub(super) shown: ShownView,
    pub(super) inherited: OnceLock<Inherited>,
    pub(super) invalidator: OnceLock<Arc<dyn Invalidator>>,
    pub(super) backing: OnceLock<Arc<dyn BackingFiles>>,
    pub(super) started: Timestamp,
}

impl Filesystem {
    /// Creates a filesystem with an empty inode table.
    pub fn new(content: Arc<dyn Content>, options: Options) -> Self {
        Self {
            content,
            options,
            inodes: Inodes::new(),
            handles: Handles::default(),
            listings: Listings::default(),
            modes: Modes::default(),
            places: PathsByNumber::default(),
            ahead: Mutex::new(OpenPredictor::new()),
            shown: ShownView::default(),
            inherited: OnceLock::new(),
            invalidator: OnceLock::new(),
            backing: OnceLock::new(),
            started: Timestamp::from(SystemTime::now()),
        }
    }

    /// Sets the invalidator of the kernel's caches. Only the first call counts.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        let _ = self.invalidator.set(invalidator);
    }

    /// Sets the interface that passes complete files to the kernel. Only the first call counts.
    pub fn set_backing_files(&self, backing: Arc<dyn BackingFiles>) {
        let _ = self.backing.set(backing);
    }

    /// Looks up a name in a directory, and counts the lookup on its inode. `.` and `..` are looked
    /// up for callers that have only an inode number.
    ///
    /// # Errors
    /// [`FsError::NotFound`] at once if there is no such name. The kernel may cache that for
    /// [`Filesystem::absence_lifetime`]. [`FsError::Gone`] if the number no longer stands for an
    /// inode.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, FsError> {
        match name {
            b"." => return self.lookup_itself(parent),
            b".." => return self.lookup_above(parent),
            _ => {}
        }
        let directory = self.directory(parent)?;
        if name.len() > NAME_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let view = self.view();
        let child = names::child(&directory.name, name).ok_or(FsError::NotFound)?;
        match names::resolve(&view, &child) {
            Some(listed) => Ok(self.enter(Some(parent), child, listed)),
            None => self.lookup_foreign(child),
        }
    }

    /// Returns how long the kernel may cache that a directory does not have a name.
    pub fn absence_lifetime(&self, parent: u64) -> Duration {
        // A foreign peer may provide the absent name a moment later.
        if parent == ROOT_INO && self.content.foreign().is_some() {
            return Duration::ZERO;
        }
        match self.inodes.get(parent).map(|inode| inode.name) {
            Some(Name::Union(_)) => LIFETIME,
            _ => Duration::ZERO,
        }
    }

    /// Subtracts lookups of an inode that the kernel has forgotten.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// Returns the target of a symbolic link. The kernel follows any target, also out of the mount,
    /// so the target is checked here once more.
    ///
    /// # Errors
    /// [`FsError::NotALink`] for another type of inode. [`FsError::Fault`] for a target that no log
    /// may hold.
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

    /// Returns whether a lookup of this path would succeed now.
    pub fn shows(&self, path: &SharedPath) -> bool {
        let name = Name::Union(path.clone());
        self.resolve(&self.view(), &name).is_some()
    }

    /// Returns whether the shown namespace is the newest.
    pub fn is_up_to_date(&self) -> bool {
        let newest = self.content.view();
        let shown = self.shown.of(newest.clone(), Instant::now());
        !newest.is_newer_than(&shown)
    }

    /// Returns the namespace that is shown.
    pub(super) fn view(&self) -> Arc<View> {
        self.shown.of(self.content.view(), Instant::now())
    }

    /// Returns the path of an inode from the root of the mount. Returns `None` for a number that
    /// the kernel does not know.
    pub fn path_of(&self, ino: u64) -> Option<Vec<u8>> {
        let inode = self.inodes.get(ino)?;
        Some(names::full_path(&inode.name))
    }

    /// Returns the number of inodes that the kernel knows, and the number of open handles.
    pub fn open_counts(&self) -> (usize, usize) {
        (self.inodes.count(), self.handles.count())
    }

    /// Counts a lookup of an inode and returns its entry. `above` is the number of its directory,
    /// if known.
    pub(super) fn enter(&self, above: Option<u64>, name: Name, listed: ResolvedName) -> Entry {
        let attributes = self.attributes(&name, &listed);
        self.enter_with(above, name, listed, attributes)
    }

    /// Counts a lookup of an inode and returns its entry with the given attributes. Only their
    /// inode number is set.
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
        attributes.ino = self.inodes.look_up(above, &inode, listed.said);
        if is_own {
            attributes.ino = self.look_up_file(above, &inode, said, attributes.ino);
        }
        self.follow_open_file(&mut attributes);
        Entry {
            lifetime,
            attributes,
        }
    }

    pub(super) fn inode(&self, ino: u64) -> Result<Inode, FsError> {
        match self.inodes.get(ino) {
            Some(inode) => Ok(inode),
            None => self.adopt(ino).or_else(|error| {
                // A program that opened it with the previous process still has it open, whatever
                // its name stands for by now.
                let before = self.inherited.get();
                let version = before.and_then(|inherited| inherited.version(ino));
                version.map(OpenedVersion::inode).ok_or(error)
            }),
        }
    }

    pub(super) fn directory(&self, ino: u64) -> Result<Inode, FsError> {
        let inode = self.inode(ino)?;
        match inode.node {
            Node::Directory => Ok(inode),
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Returns what an inode's name stands for now.
    pub(super) fn now(&self, view: &View, ino: u64, inode: &Inode) -> Option<ResolvedName> {
        let known = self.inodes.looked_up_in(view, ino, &inode.name);
        known.or_else(|| names::resolve(view, &inode.name))
    }

    /// Returns the present node of an inode's name, if it is still the version of the inode.
    /// Otherwise returns the inode's own node.
    pub(super) fn current(&self, view: &View, ino: u64, inode: &Inode) -> Node {
        let now = self.now(view, ino, inode).map(|listed| listed.node);
        now.filter(|now| inode.is_version(now))
            .unwrap_or_else(|| inode.node.clone())
    }

    /// Takes over the open files of the previous process from this file, and keeps the file for the
    /// next process. Call it once, before the first request.
    ///
    /// # Errors
    /// The file cannot be read, or records of an earlier format cannot be rewritten.
    pub fn inherit(&self, table: File) -> io::Result<()> {
        let inherited = Inherited::read(table)?;
        // New handles get numbers that no previous process has used.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanoseconds = since_1970.unwrap_or_default().as_nanos();
        self.handles
            .number_after(u64::try_from(nanoseconds).unwrap_or(u64::MAX / 2));
        for open in inherited.before() {
            self.modes.enter(open.ino, open.mode, None);
        }
        let _ = self.inherited.set(inherited);
        Ok(())
    }

    /// Waits until the namespace has as many entries as the previous process recorded, or until the
    /// timeout. Returns at once if there was no previous process.
    pub fn await_entries(&self, timeout: Duration) {
        let wanted = self.inherited.get().map_or(0, Inherited::entries);
        let until = Instant::now() + timeout;
        while self.content.view().totals().entries < wanted && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Records the present number of entries for the next process.
    pub fn record_listed(&self) {
        if let Some(inherited) = self.inherited.get() {
            inherited.record_entries(self.content.view().totals().entries);
        }
    }

    pub(super) fn invalidate(&self, stale: Stale) {
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.invalidate(stale);
        }
    }
}
