//! The filesystem itself: each call of the kernel is one method here.
//!
//! No method but those that read bytes waits for anything but a disk of this machine: those that
//! look up, list, open, close or show attributes may wait for one. None holds a lock while it calls
//! [`Content`].

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use super::ahead::Ahead;
use super::attributes::{Attributes, Entry};
use super::directory::Listings;
use super::error::FsError;
use super::handles::Handles;
use super::inherited::{Inherited, Version};
use super::inode::{Inode, Name, Node, ROOT_INO};
use super::inodes::Inodes;
use super::kept::KeptPages;
use super::modes::Modes;
use super::names::{self, LIFETIME, Listed};
use super::places::Places;
use super::shown::Shown;
use super::traits::{BackingFiles, Content, Invalidator, Stale, WholeFile};
use p2pfs_catalogue::View;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::path::{NAME_MAX_BYTES, SharedPath};

/// The mask where nothing is said: only the owner could write, as most people's umask(2) has it.
pub const DEFAULT_MASK: u16 = 0o022;

/// Who the files belong to, and what nobody may do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The owner of everything.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Which permissions files do not have.
    pub file_mask: u16,
    /// Which permissions directories do not have.
    pub directory_mask: u16,
}

/// How often the namespace is looked at while its return is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The filesystem of one mount.
pub struct Filesystem {
    pub(super) content: Arc<dyn Content>,
    pub(super) options: Options,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) listings: Listings,
    pub(super) modes: Modes,
    pub(super) kept: KeptPages,
    pub(super) places: Places,
    pub(super) ahead: Mutex<Ahead<SharedPath, WholeFile>>,
    pub(super) shown: Shown,
    pub(super) inherited: OnceLock<Inherited>,
    pub(super) invalidator: OnceLock<Arc<dyn Invalidator>>,
    pub(super) backing: OnceLock<Arc<dyn BackingFiles>>,
    pub(super) started: Timestamp,
}

impl Filesystem {
    /// A filesystem of which the kernel knows nothing yet.
    pub fn new(content: Arc<dyn Content>, options: Options) -> Self {
        Self {
            content,
            options,
            inodes: Inodes::new(),
            handles: Handles::default(),
            listings: Listings::default(),
            modes: Modes::default(),
            kept: KeptPages::default(),
            places: Places::default(),
            ahead: Mutex::new(Ahead::new()),
            shown: Shown::default(),
            inherited: OnceLock::new(),
            invalidator: OnceLock::new(),
            backing: OnceLock::new(),
            started: Timestamp::from(SystemTime::now()),
        }
    }

    /// From now on the kernel's caches can be told to forget. Only the first call counts.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        let _ = self.invalidator.set(invalidator);
    }

    /// From now on complete files are given to the kernel. Only the first call counts.
    pub fn set_backing_files(&self, backing: Arc<dyn BackingFiles>) {
        let _ = self.backing.set(backing);
    }

    /// Looks a name up in a directory, and counts that on its inode. `.` and `..` are looked up for
    /// who has nothing but an inode's number.
    ///
    /// # Errors
    /// [`FsError::NotFound`] where there is no such name: at once, and worth caching for
    /// [`Filesystem::absence_lifetime`]. [`FsError::Gone`] where the number stands for nothing now.
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
            None => self.lookup_legacy(child),
        }
    }

    /// For how long the kernel may believe that a directory does not have a name.
    pub fn absence_lifetime(&self, parent: u64) -> Duration {
        // what is absent now may come from a legacy peer a moment later
        if parent == ROOT_INO && self.content.asks_legacy() {
            return Duration::ZERO;
        }
        match self.inodes.get(parent).map(|inode| inode.name) {
            Some(Name::Union(_)) => LIFETIME,
            _ => Duration::ZERO,
        }
    }

    /// The kernel has forgotten that many lookups of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let is_gone = self.inodes.forget(ino, lookups);
        // what it forgets it has no pages of
        if is_gone {
            self.kept.forget(ino);
        }
    }

    /// Where a symbolic link points. The kernel follows what it is given, also out of the mount, so
    /// the target is checked here once more.
    ///
    /// # Errors
    /// [`FsError::NotALink`] for anything else; [`FsError::Fault`] for a target that no log may
    /// hold.
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

    /// Whether the kernel is given this name now, if it asks.
    pub fn shows(&self, path: &SharedPath) -> bool {
        let name = Name::Union(path.clone());
        self.resolve(&self.view(), &name).is_some()
    }

    /// Whether what is shown is the newest that there is.
    pub fn is_up_to_date(&self) -> bool {
        let newest = self.content.view();
        let shown = self.shown.of(newest.clone(), Instant::now());
        !newest.is_newer_than(&shown)
    }

    /// The namespace that is shown.
    pub(super) fn view(&self) -> Arc<View> {
        self.shown.of(self.content.view(), Instant::now())
    }

    /// What an inode is called, from the root of the mount; nothing for one that the kernel should
    /// not know.
    pub fn path_of(&self, ino: u64) -> Option<Vec<u8>> {
        let inode = self.inodes.get(ino)?;
        Some(names::full_path(&inode.name))
    }

    /// How many inodes the kernel knows, and how many handles are open.
    pub fn held(&self) -> (usize, usize) {
        (self.inodes.count(), self.handles.count())
    }

    /// Counts a lookup of what was found and gives its attributes; `above` is the number of its
    /// directory, where that is known.
    pub(super) fn enter(&self, above: Option<u64>, name: Name, listed: Listed) -> Entry {
        let attributes = self.attributes(&name, &listed);
        self.enter_with(above, name, listed, attributes)
    }

    /// The same with attributes that are known already, but for the number.
    pub(super) fn enter_with(
        &self,
        above: Option<u64>,
        name: Name,
        listed: Listed,
        mut attributes: Attributes,
    ) -> Entry {
        let lifetime = match listed.node {
            Node::Legacy => Duration::ZERO,
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
                // whoever opened it with the process before has it open whatever its name is by now
                let before = self.inherited.get();
                let version = before.and_then(|inherited| inherited.version(ino));
                version.map(Version::inode).ok_or(error)
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

    /// What an inode's name stands for now.
    pub(super) fn now(&self, view: &View, ino: u64, inode: &Inode) -> Option<Listed> {
        let known = self.inodes.looked_up_in(view, ino, &inode.name);
        known.or_else(|| names::resolve(view, &inode.name))
    }

    /// The same, if that is still the version of this inode.
    pub(super) fn current(&self, view: &View, ino: u64, inode: &Inode) -> Node {
        let now = self.now(view, ino, inode).map(|listed| listed.node);
        now.filter(|now| inode.is_version(now))
            .unwrap_or_else(|| inode.node.clone())
    }

    /// Takes over what the process before had open, as this file says, and keeps the file for the
    /// next. Only once, before the first request.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn inherit(&self, table: File) -> io::Result<()> {
        let inherited = Inherited::read(table)?;
        // numbers that no process before has given
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

    /// Waits until as many entries are listed as when the process before noted it, or until this
    /// time is over; at once where there was none.
    pub fn await_entries(&self, timeout: Duration) {
        let wanted = self.inherited.get().map_or(0, Inherited::entries);
        let until = Instant::now() + timeout;
        while self.content.view().totals().entries < wanted && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Notes how many entries are listed now, for the process that comes next.
    pub fn note_listed(&self) {
        if let Some(inherited) = self.inherited.get() {
            inherited.note_entries(self.content.view().totals().entries);
        }
    }

    pub(super) fn invalidate(&self, stale: Stale) {
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.invalidate(stale);
        }
    }
}
