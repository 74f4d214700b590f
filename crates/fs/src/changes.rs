//! Changes that programs make: new files and directories, writes, renames and removals.
//!
//! A change goes into the writable share with the deepest place that contains the path. Files of
//! other nodes are copied there before they change, and deleted in this node's log. The kernel
//! holds the locks of the directories whose names change, except during a copy for an open, so the
//! copies of one path wait for each other here.
//!
//! No method holds a lock while it waits for the network, except that of the path it copies.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex};

use super::attributes::{Attributes, Entry};
use super::error::FsError;
use super::files::{OpenFiles, OpenReply};
use super::handles::{Handle, Reach};
use super::inode::{Inode, Name, Node, WrittenFile};
use super::inodes::Inodes;
use super::merged::{UpperPlace, mtime_of};
use super::names::{self, ResolvedName};
use super::namespace::MountNamespace;
use super::resolver::InodeResolver;
use super::traits::{FileVersion, OpenContent, ReadNow};
use p2pfs_catalogue::View;
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::{ARRIVING, KEPT, NAME_MAX_BYTES, SharedPath};
use p2pfs_upper::{Found, FoundKind, FoundName, MarkTime, Owner, Source, WrittenMark};

/// Bits of a new file's mode that make it executable.
const EXECUTABLE_BIT: u32 = 0o100;

/// The program that requests a change.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User ID of the program. It owns what the program creates, if the daemon may set owners.
    pub uid: u32,
    /// Group ID of the program.
    pub gid: u32,
}

/// New attributes. `None` keeps the present value.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewAttributes {
    /// New size in bytes.
    pub size_bytes: Option<u64>,
    /// New modification time.
    pub mtime: Option<NewTime>,
    /// New mode, of which only the owner's executable bit has an effect.
    pub mode: Option<u32>,
    /// New owner. Only the shown one is accepted.
    pub uid: Option<u32>,
    /// New group. Only the shown one is accepted.
    pub gid: Option<u32>,
    /// Number of the open handle through which the program requests the change, if there is one.
    pub handle: Option<u64>,
}

/// A new modification time.
#[derive(Clone, Copy, Debug)]
pub enum NewTime {
    /// The present time.
    Now,
    /// A given time.
    At(Timestamp),
}

/// The changes of one mount.
pub struct Changes {
    namespace: Arc<MountNamespace>,
    inodes: Arc<InodeResolver>,
    known: Arc<Inodes>,
    files: Arc<OpenFiles>,
    copies: Copies,
}

/// The paths that are being copied.
#[derive(Default)]
struct Copies {
    paths: Mutex<HashSet<SharedPath>>,
    ended: Condvar,
}

/// A copy in progress. Dropping it lets the next one of the path begin.
struct CopyInProgress<'a> {
    copies: &'a Copies,
    path: SharedPath,
}

impl Copies {
    /// Waits until no other copy of the path is in progress.
    fn begin(&self, path: &SharedPath) -> CopyInProgress<'_> {
        let mut paths = self.paths.lock();
        while !paths.insert(path.clone()) {
            self.ended.wait(&mut paths);
        }
        CopyInProgress {
            copies: self,
            path: path.clone(),
        }
    }
}

impl Drop for CopyInProgress<'_> {
    fn drop(&mut self) {
        self.copies.paths.lock().remove(&self.path);
        self.copies.ended.notify_all();
    }
}

/// A file in a writable share, opened for reading and writing.
struct OpenedUpper {
    node: Node,
    file: File,
}

impl OpenedUpper {
    fn new(at: &UpperPlace, file: File) -> Result<Self, FsError> {
        let disk = Found::of_file(&file).map_err(of_disk)?;
        let node = at.written(disk);
        Ok(Self { node, file })
    }
}

/// A name in a directory, and the object that it stands for.
struct ChangedName {
    path: SharedPath,
    view: Arc<View>,
    node: Option<Node>,
}

impl Changes {
    /// Creates the changes of a mount.
    pub(super) fn new(
        namespace: &Arc<MountNamespace>,
        inodes: &Arc<InodeResolver>,
        known: &Arc<Inodes>,
        files: &Arc<OpenFiles>,
    ) -> Self {
        Self {
            namespace: namespace.clone(),
            inodes: inodes.clone(),
            known: known.clone(),
            files: files.clone(),
            copies: Copies::default(),
        }
    }

    /// Creates a regular file and opens it.
    ///
    /// # Errors
    /// Those of open(2) with `O_CREAT`. [`FsError::ReadOnly`] if no writable share contains the
    /// path, [`FsError::OthersPath`] if another node owns it.
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
        caller: Caller,
        reach: Reach,
    ) -> Result<(Entry, OpenReply), FsError> {
        let changed = self.changed(parent, name)?;
        if changed.node.is_some() {
            if flags & libc::O_EXCL != 0 {
                return Err(FsError::Exists);
            }
            let entry = self.inodes.lookup(parent, name, caller.uid)?;
            let opened = self.open(entry.attributes.ino, flags, caller, reach);
            return self.or_forget(entry, opened);
        }
        let made = self.make_file(&changed, mode, flags, caller)?;
        let entry = self.enter(parent, &changed.path, made.node);
        let opened = self.files.open_written(entry.attributes.ino, made.file);
        self.or_forget(entry, opened)
    }

    /// Creates a regular file.
    ///
    /// # Errors
    /// Those of mknod(2). [`FsError::NotPermitted`] for any other kind of object.
    pub fn mknod(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        caller: Caller,
    ) -> Result<Entry, FsError> {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return Err(FsError::NotPermitted);
        }
        let changed = self.changed(parent, name)?.new_name()?;
        let made = self.make_file(&changed, mode, libc::O_EXCL, caller)?;
        Ok(self.enter(parent, &changed.path, made.node))
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn mkdir(
        &self,
        parent: u64,
        name: &[u8],
        _mode: u32,
        caller: Caller,
    ) -> Result<Entry, FsError> {
        let changed = self.changed(parent, name)?.new_name()?;
        let at = self.new_place(&changed)?;
        let there = at.find().map(|there| there.kind);
        if there.is_some_and(|kind| kind != FoundKind::Directory) {
            remove_superseded(&changed, &at)?;
        }
        let (upper, owner) = (&at.folder.upper, owner_of(caller));
        let made = make(&at, owner, || upper.make_directory(&at.local, owner));
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.show_directory(&changed, &at, owner)?;
            }
            made => made.map_err(of_disk)?,
        }
        self.date(&changed.path, &at)?;
        if changed.has_own_directory() {
            // It is listed as it was before, until its new time is.
            let after = mark_for(&self.newest(), &changed.path).after;
            let mark = WrittenMark {
                after,
                ..WrittenMark::default()
            };
            upper.set_mark(&at.local, &mark).map_err(of_disk)?;
        }
        Ok(self.enter(parent, &changed.path, Node::Directory))
    }

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// Those of symlink(2). [`FsError::NotPermitted`] for a target outside of the mount.
    pub fn symlink(
        &self,
        parent: u64,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Result<Entry, FsError> {
        let changed = self.changed(parent, name)?.new_name()?;
        if !link_stays_inside(&changed.path, target) {
            return Err(FsError::NotPermitted);
        }
        let at = self.new_place(&changed)?;
        if at.find().is_some() {
            at.folder.upper.remove(&at.local).map_err(of_disk)?;
        }
        let owner = owner_of(caller);
        let made = make(&at, owner, || {
            at.folder.upper.make_link(&at.local, target, owner)
        });
        made.map_err(of_disk)?;
        self.date(&changed.path, &at)?;
        let node = Node::Symlink(bytes::Bytes::copy_from_slice(target));
        Ok(self.enter(parent, &changed.path, node))
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// Those of unlink(2). [`FsError::NotPermitted`] if another node does not let others remove it.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        let changed = self.changed(parent, name)?;
        let Some(at) = self.unlist(&changed)? else {
            return Ok(());
        };
        at.folder.upper.remove(&at.local).map_err(of_disk)?;
        self.namespace.record_shrunk();
        Ok(())
    }

    /// Returns the newest view, which has all deletions of this node. The kernel may not show it yet.
    fn newest(&self) -> Arc<View> {
        self.namespace.content.view()
    }

    /// Dates a new link or directory after everything that was at its path. The clock of a disk may
    /// be some milliseconds behind that of deletions, which would hide it.
    fn date(&self, path: &SharedPath, at: &UpperPlace) -> Result<(), FsError> {
        let known = self.newest().contents_at(path);
        if known.hashes.is_empty() {
            return Ok(());
        }
        let after = mark_time(known.newest.next());
        at.folder.upper.date(&at.local, after).map_err(of_disk)
    }

    /// Makes a directory that is on the disk and not shown a new one. Another node deleted it, or it
    /// has no mark and is not listed.
    fn show_directory(
        &self,
        changed: &ChangedName,
        at: &UpperPlace,
        owner: Owner,
    ) -> Result<(), FsError> {
        let upper = &at.folder.upper;
        if changed.has_own_directory() {
            self.clear(&changed.view, &changed.path, at)?;
            if upper.remove_directory(&at.local).is_ok() {
                return upper.make_directory(&at.local, owner).map_err(of_disk);
            }
        }
        upper
            .set_mark(&at.local, &WrittenMark::default())
            .map_err(of_disk)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of rmdir(2). [`FsError::InUse`] for the place of a writable share,
    /// [`FsError::NotPermitted`] if another node does not let others remove it.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        let changed = self.changed(parent, name)?;
        if changed.node.as_ref().ok_or(FsError::NotFound)? != &Node::Directory {
            return Err(FsError::NotADirectory);
        }
        let path = &changed.path;
        let at = self.namespace.place_for(path).ok_or(FsError::ReadOnly)?;
        if self.is_place(path) {
            return Err(FsError::InUse);
        }
        if !self.is_empty(&changed) {
            return Err(FsError::NotEmpty);
        }
        if changed.view.standing(path).others {
            self.delete_others(&changed)?;
        }
        if at.find().is_some() {
            self.clear(&changed.view, path, &at)?;
            let removed = at.folder.upper.remove_directory(&at.local);
            removed.map_err(of_disk)?;
        }
        let name = Name::Union(changed.path);
        self.known.remove(&Inode::directory(name));
        Ok(())
    }

    /// Renames an object.
    ///
    /// # Errors
    /// Those of renameat2(2). [`FsError::OtherShare`] if the new name belongs to another share, or
    /// for a directory with files of other nodes; a program then copies.
    pub fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), FsError> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(FsError::Invalid);
        }
        let from = self.changed(parent, name)?;
        let to = self.changed(new_parent, new_name)?;
        let node = from.node.clone().ok_or(FsError::NotFound)?;
        if to.node.is_some() && flags & libc::RENAME_NOREPLACE != 0 {
            return Err(FsError::Exists);
        }
        if from.path == to.path {
            return Ok(());
        }
        check_kinds(&node, to.node.as_ref())?;
        let target = self
            .namespace
            .place_for(&to.path)
            .ok_or(FsError::ReadOnly)?;
        self.check_others(&to.view, &to.path)?;
        if let Some(Node::Directory) = to.node
            && (self.is_place(&to.path) || !self.is_empty(&to))
        {
            return Err(FsError::NotEmpty);
        }
        match &node {
            Node::Written(file) => {
                let at = self.place_of(file).ok_or(FsError::ReadOnly)?;
                self.rename_written(&from, &at, &to, &target)?;
            }
            Node::Directory => self.rename_directory(&from, &to, &target)?,
            Node::Symlink(_) => {
                let at = self.own_link(&from).ok_or(FsError::OtherShare)?;
                let target = same_share(&at, &target)?;
                // A link has no mark that names what it replaces.
                if to.node.is_some() {
                    self.unlist(&to)?;
                }
                self.unlist(&from)?;
                let upper = &at.folder.upper;
                upper.rename(&at.local, &target.local).map_err(of_disk)?;
                self.date(&to.path, target)?;
            }
            Node::File(file) => {
                let copy = self.rename_others(&from, file, &to, &target)?;
                self.move_inode(from.path, node, new_parent, to.path, Some(copy));
                return Ok(());
            }
            Node::Status | Node::Foreign => return Err(FsError::NotPermitted),
        }
        if to.node == Some(Node::Directory) {
            let replaced = Inode::directory(Name::Union(to.path.clone()));
            self.known.remove(&replaced);
        }
        self.namespace.record_shrunk();
        self.move_inode(from.path, node, new_parent, to.path, None);
        Ok(())
    }

    /// Gives an inode its new name, as the kernel does after a rename. `copy` is the file that the
    /// inode stands for from now on, if it was a file of another node. Opens of that file read the
    /// former version, so with one the inode stays what it was, and the kernel looks the name up
    /// again before a change.
    fn move_inode(
        &self,
        from: SharedPath,
        node: Node,
        new_parent: u64,
        to: SharedPath,
        copy: Option<Node>,
    ) {
        let name = Name::Union(from);
        let moved = self
            .known
            .rename(&Inode { name, node }, new_parent, &Name::Union(to));
        if let (Some(number), Some(copy)) = (moved, copy)
            && !self.files.modes.is_open(number)
        {
            self.known.become_written(number, copy);
        }
    }

    /// Changes attributes. A file of another node is copied first, unless its size becomes 0.
    ///
    /// # Errors
    /// Those of truncate(2), chmod(2), chown(2) and utimensat(2). [`FsError::NotPermitted`] for
    /// another owner or group than the shown one. [`FsError::Gone`] for a new size if the inode is
    /// open as the file of another node: its name stands for the copy now.
    pub fn set_attributes(
        &self,
        ino: u64,
        new: NewAttributes,
        caller: Caller,
    ) -> Result<Attributes, FsError> {
        let shown = self.inodes.getattr(ino)?;
        let is_other = |wanted: Option<u32>, shown| wanted.is_some_and(|it| it != shown);
        if is_other(new.uid, shown.uid) || is_other(new.gid, shown.gid) {
            return Err(FsError::NotPermitted);
        }
        let inode = self.inodes.inode(ino)?;
        let node = self.inodes.current(&self.namespace.view(), ino, &inode);
        let changes = new.size_bytes.is_some() || new.mtime.is_some() || new.mode.is_some();
        let is_file = matches!(node, Node::Written(_) | Node::File(_));
        if changes && is_file {
            let open = new
                .handle
                .and_then(|handle| self.written_file(handle, ino).ok());
            match open {
                Some(file) => self.apply(&file, new)?,
                None => {
                    let is_emptied = new.size_bytes == Some(0);
                    let opened = self.upper_of(ino, &inode, node, is_emptied, caller)?;
                    let stands = self.stand_for(ino, &inode, &opened);
                    // The bytes of the inode stay right for its other opens.
                    if new.size_bytes.is_some() {
                        stands?;
                    }
                    self.apply(&opened.file, new)?;
                }
            }
        } else if changes && self.namespace.folders().is_none() {
            return Err(FsError::ReadOnly);
        }
        self.inodes.getattr(ino)
    }

    /// Opens a file for writing. A file of another node is copied first, unless `O_TRUNC` is set.
    /// This may wait for the network, until the read deadline without progress.
    ///
    /// # Errors
    /// Those of open(2), and those of a read of the copied file. [`FsError::TooLarge`] above
    /// [`WriteLimits::copy_max_bytes`]. [`FsError::Gone`] if the inode is open as the file of another
    /// node.
    ///
    /// [`WriteLimits::copy_max_bytes`]: p2pfs_upper::WriteLimits::copy_max_bytes
    pub fn open(
        &self,
        ino: u64,
        flags: i32,
        caller: Caller,
        reach: Reach,
    ) -> Result<OpenReply, FsError> {
        let inode = self.inodes.inode(ino)?;
        let node = self.inodes.current(&self.namespace.view(), ino, &inode);
        match node {
            Node::Directory => return Err(FsError::IsADirectory),
            Node::Symlink(_) => return Err(FsError::Unsupported),
            Node::Status | Node::Foreign => return Err(FsError::ReadOnly),
            Node::File(_) if reach == Reach::Cached => return Err(FsError::Denied),
            Node::File(_) | Node::Written(_) => {}
        }
        let is_emptied = flags & libc::O_TRUNC != 0;
        let opened = self.upper_of(ino, &inode, node, is_emptied, caller)?;
        self.stand_for(ino, &inode, &opened)?;
        if is_emptied {
            if let Node::Written(file) = &opened.node
                && let Some(at) = self.place_of(file)
            {
                at.folder.upper.keep_emptied(&at.local, &opened.file);
            }
            opened.file.set_len(0).map_err(of_disk)?;
            self.namespace.record_shrunk();
        }
        self.files.open_written(ino, opened.file)
    }

    /// Writes into an open file. Returns the number of bytes written.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn write(
        &self,
        handle: u64,
        ino: u64,
        offset: u64,
        bytes: &[u8],
        flags: i32,
    ) -> Result<usize, FsError> {
        let file = self.written_file(handle, ino)?;
        let (is_append, length) = (flags & libc::O_APPEND != 0, bytes.len() as u64);
        self.take_room(&file, |size| {
            let start = if is_append { size } else { offset };
            start.saturating_add(length)
        })?;
        if is_append {
            let parts = [io::IoSlice::new(bytes)];
            let append = rustix::io::ReadWriteFlags::APPEND;
            let written = rustix::io::pwritev2(&*file, &parts, offset, append);
            return written.map_err(|error| of_disk(error.into()));
        }
        file.write_at(bytes, offset).map_err(of_disk)
    }

    /// Allocates room in an open file, as fallocate(2) does.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn allocate(
        &self,
        handle: u64,
        ino: u64,
        range: ByteRange,
        mode: i32,
    ) -> Result<(), FsError> {
        let file = self.written_file(handle, ino)?;
        self.take_room(&file, |_| range.end)?;
        let flags = rustix::fs::FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let done = rustix::fs::fallocate(&*file, flags, range.start, range.len());
        done.map_err(|error| of_disk(error.into()))
    }

    /// Writes an open file to the disk. Nothing is to be done for a file that is only read.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync(&self, handle: u64, ino: u64, only_data: bool) -> Result<(), FsError> {
        let Ok(file) = self.written_file(handle, ino) else {
            return Ok(());
        };
        let synced = if only_data {
            file.sync_data()
        } else {
            file.sync_all()
        };
        synced.map_err(of_disk)
    }

    /// Writes the names of a directory to the disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn sync_directory(&self, ino: u64) -> Result<(), FsError> {
        let inode = self.inodes.directory(ino)?;
        let Name::Union(path) = &inode.name else {
            return Ok(());
        };
        match self.namespace.place_for(path) {
            Some(at) if at.find().is_some() => {
                at.folder.upper.sync_directory(&at.local).map_err(of_disk)
            }
            _ => Ok(()),
        }
    }

    /// Returns a name in a directory for a change.
    fn changed(&self, parent: u64, name: &[u8]) -> Result<ChangedName, FsError> {
        let directory = self.inodes.directory(parent)?;
        if self.namespace.folders().is_none() {
            return Err(FsError::ReadOnly);
        }
        if name.len() > NAME_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let child = names::child(&directory.name, name).ok_or(FsError::Invalid)?;
        let Name::Union(path) = child else {
            return Err(FsError::ReadOnly);
        };
        if name == ARRIVING.as_bytes() || name == KEPT.as_bytes() {
            return Err(FsError::NotPermitted);
        }
        let view = self.namespace.view();
        let found = self.namespace.resolve(&view, &Name::Union(path.clone()));
        Ok(ChangedName {
            path,
            view,
            node: found.map(|found| found.node),
        })
    }

    /// Returns the place of a new object.
    fn new_place(&self, changed: &ChangedName) -> Result<UpperPlace, FsError> {
        let at = self.namespace.place_for(&changed.path);
        let at = at.ok_or(FsError::ReadOnly)?;
        self.check_others(&changed.view, &changed.path)?;
        Ok(at)
    }

    /// Checks that other nodes let this one write at a path.
    fn check_others(&self, view: &View, path: &SharedPath) -> Result<(), FsError> {
        let standing = view.standing(path);
        if standing.owned_elsewhere || standing.for_readers {
            return Err(FsError::OthersPath);
        }
        Ok(())
    }

    /// Creates a file in place of contents that are not shown.
    fn make_file(
        &self,
        changed: &ChangedName,
        mode: u32,
        flags: i32,
        caller: Caller,
    ) -> Result<OpenedUpper, FsError> {
        let at = self.new_place(changed)?;
        let (upper, owner) = (&at.folder.upper, owner_of(caller));
        // An empty file takes some room too.
        self.namespace.take_room(upper, 1)?;
        let executable = mode & EXECUTABLE_BIT != 0;
        let mark = mark_for(&self.newest(), &changed.path);
        if mark.replaces.is_empty() {
            match make(&at, owner, || upper.create(&at.local, executable, owner)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !is_superseded(changed) {
                        return self.adopt_unlisted(&at, flags);
                    }
                }
                file => return OpenedUpper::new(&at, file.map_err(of_disk)?),
            }
        }
        let above = upper.make_directories_above(&at.local, owner);
        above.map_err(of_disk)?;
        let file = upper.replace(&at.local, &mark, executable, owner, |_| Ok(()));
        OpenedUpper::new(&at, file.map_err(of_disk)?)
    }

    /// Opens a file that a program of this machine created directly in the folder of the share, and
    /// that is not listed yet. It is shown from now on.
    fn adopt_unlisted(&self, at: &UpperPlace, flags: i32) -> Result<OpenedUpper, FsError> {
        if flags & libc::O_EXCL != 0 {
            return Err(FsError::Exists);
        }
        let upper = &at.folder.upper;
        let file = upper.open(&at.local, true).map_err(of_disk)?;
        let marked = upper.set_mark(&at.local, &WrittenMark::default());
        marked.map_err(of_disk)?;
        if flags & libc::O_TRUNC != 0 {
            file.set_len(0).map_err(of_disk)?;
        }
        OpenedUpper::new(at, file)
    }

    /// Opens the file of an inode for writing. A file of another node is copied.
    fn upper_of(
        &self,
        ino: u64,
        inode: &Inode,
        node: Node,
        is_emptied: bool,
        caller: Caller,
    ) -> Result<OpenedUpper, FsError> {
        match node {
            Node::Written(written) => {
                let file = self.files.open_on_disk(ino, &written, true)?;
                let node = Node::Written(written);
                Ok(OpenedUpper { node, file })
            }
            Node::File(version) => {
                let Name::Union(path) = &inode.name else {
                    return Err(FsError::ReadOnly);
                };
                self.copy(path, &version, is_emptied, caller)
            }
            _ => Err(FsError::ReadOnly),
        }
    }

    /// Makes an inode stand for the copy of its file from now on.
    ///
    /// # Errors
    /// [`FsError::Gone`] if other opens of the inode read the former version. The name stands for
    /// another inode then.
    fn stand_for(&self, ino: u64, inode: &Inode, opened: &OpenedUpper) -> Result<(), FsError> {
        if inode.is_version(&opened.node) {
            return Ok(());
        }
        if self.files.modes.is_open(ino) {
            self.inodes.caches.invalidate_name(&inode.name);
            return Err(FsError::Gone);
        }
        self.known.become_written(ino, opened.node.clone());
        Ok(())
    }

    /// Makes a file of another node, or of a share that is not writable, a file of the writable
    /// share at the same path.
    fn copy(
        &self,
        path: &SharedPath,
        version: &FileVersion,
        is_emptied: bool,
        caller: Caller,
    ) -> Result<OpenedUpper, FsError> {
        let _alone = self.copies.begin(path);
        let view = self.namespace.view();
        let now = self.namespace.native(&view, &Name::Union(path.clone()));
        let changed = ChangedName {
            path: path.clone(),
            view,
            node: now.map(|now| now.node),
        };
        match &changed.node {
            // Another program was faster.
            Some(Node::Written(written)) => {
                let at = self.place_of(written).ok_or(FsError::ReadOnly)?;
                let file = at.folder.upper.open(&at.local, true).map_err(of_disk)?;
                return OpenedUpper::new(&at, file);
            }
            Some(Node::File(now)) if now.hash == version.hash => {}
            _ => return Err(FsError::Gone),
        }
        let at = self.new_place(&changed)?;
        let opened = self.copy_to(&changed, version, is_emptied, &at, caller)?;
        if let Some(behind) = changed.view.behind_conflict_name(path) {
            self.delete(path, &behind.path, vec![behind.hash])?;
        }
        Ok(opened)
    }

    /// Copies a file to a place. `to` is the name at this place.
    fn copy_to(
        &self,
        to: &ChangedName,
        version: &FileVersion,
        is_emptied: bool,
        at: &UpperPlace,
        caller: Caller,
    ) -> Result<OpenedUpper, FsError> {
        let writing = self.namespace.content.writing().ok_or(FsError::ReadOnly)?;
        let copied_bytes = if is_emptied { 0 } else { version.size_bytes };
        if copied_bytes > writing.room().limits().copy_max_bytes {
            return Err(FsError::TooLarge);
        }
        let upper = &at.folder.upper;
        self.namespace.take_room(upper, copied_bytes)?;
        let mark = mark_for(&self.newest(), &to.path);
        let mut failure = None;
        let fill = |file: &File| {
            if is_emptied {
                return Ok(());
            }
            let copied = copy_bytes(&self.namespace, version, file);
            copied.map_err(|error| {
                failure = Some(error);
                io::Error::other("the bytes cannot be copied")
            })
        };
        let owner = owner_of(caller);
        let above = upper.make_directories_above(&at.local, owner);
        above.map_err(of_disk)?;
        let file = upper.replace(&at.local, &mark, version.executable, owner, fill);
        let file = file.map_err(|error| failure.unwrap_or_else(|| of_disk(error)))?;
        OpenedUpper::new(at, file)
    }

    /// Deletes the versions for all nodes that an own file replaced, before it loses its name.
    /// `is_removed` is whether the own content is deleted as well.
    fn delete_replaced(
        &self,
        changed: &ChangedName,
        at: &UpperPlace,
        is_removed: bool,
    ) -> Result<(), FsError> {
        let ChangedName { path, view, .. } = changed;
        let behind = view.behind_conflict_name(path).filter(|it| it.is_own);
        let named = behind.map_or_else(|| path.clone(), |behind| behind.path);
        let mark = at.folder.upper.mark(&at.local).ok().flatten();
        let mut contents = mark.map_or_else(Vec::new, |mark| mark.replaces);
        let own = view.own_file(&named);
        if let Some(own) = &own {
            contents.extend(own.replaces.iter().copied());
        }
        let has_others = view.standing(&named).others;
        if contents.is_empty() && !(is_removed && has_others) {
            return Ok(());
        }
        contents.extend(own.filter(|_| is_removed).map(|own| own.hash));
        self.delete(path, &named, contents)
    }

    /// Deletes contents of a path for all nodes. `shown` is the path that shows one of them: the
    /// same, or a conflict name of it.
    fn delete(
        &self,
        shown: &SharedPath,
        path: &SharedPath,
        mut contents: Vec<ContentHash>,
    ) -> Result<(), FsError> {
        let mut known = HashSet::new();
        contents.retain(|hash| known.insert(*hash));
        if contents.is_empty() {
            return Ok(());
        }
        let writing = self.namespace.content.writing().ok_or(FsError::ReadOnly)?;
        writing.delete(path, contents)?;
        let since = self.namespace.content.view().number();
        self.namespace.removed.record(shown.clone(), since);
        Ok(())
    }

    /// Deletes for all nodes what keeps a name listed after its file or link left the disk. Returns
    /// the place of that object on the disk, if it is there.
    fn unlist(&self, changed: &ChangedName) -> Result<Option<UpperPlace>, FsError> {
        match changed.node.as_ref().ok_or(FsError::NotFound)? {
            Node::Directory => Err(FsError::IsADirectory),
            Node::Written(file) => {
                let at = self.place_of(file).ok_or(FsError::ReadOnly)?;
                self.delete_replaced(changed, &at, true)?;
                Ok(Some(at))
            }
            Node::Symlink(_) => {
                let Some(at) = self.own_link(changed) else {
                    return self.delete_others(changed).map(|()| None);
                };
                // Another node may list the same link.
                let ChangedName { path, view, .. } = changed;
                if view.standing(path).others {
                    self.delete(path, path, mark_for(view, path).replaces)?;
                }
                Ok(Some(at))
            }
            Node::File(file) if file.own.is_some() => Err(FsError::NotPermitted),
            Node::File(_) => self.delete_others(changed).map(|()| None),
            Node::Status | Node::Foreign => Err(FsError::NotPermitted),
        }
    }

    /// Deletes an object of other nodes for all nodes.
    fn delete_others(&self, changed: &ChangedName) -> Result<(), FsError> {
        let (named, contents) = self.deletion_of(changed)?;
        self.delete(&changed.path, &named, contents)
    }

    /// Returns what a deletion of an object of other nodes names: the path, which differs for a
    /// conflict name, and the contents.
    fn deletion_of(
        &self,
        changed: &ChangedName,
    ) -> Result<(SharedPath, Vec<ContentHash>), FsError> {
        let ChangedName { path, view, .. } = changed;
        self.namespace.place_for(path).ok_or(FsError::ReadOnly)?;
        let behind = view.behind_conflict_name(path);
        let is_own = behind.as_ref().is_some_and(|behind| behind.is_own);
        let (named, contents) = match behind {
            Some(behind) => (behind.path, vec![behind.hash]),
            None => (path.clone(), mark_for(view, path).replaces),
        };
        let standing = view.standing(&named);
        if is_own || standing.closed || standing.owned_elsewhere {
            return Err(FsError::NotPermitted);
        }
        Ok((named, contents))
    }

    fn rename_written(
        &self,
        from: &ChangedName,
        at: &UpperPlace,
        to: &ChangedName,
        target: &UpperPlace,
    ) -> Result<(), FsError> {
        let target = same_share(at, target)?;
        let upper = &at.folder.upper;
        let above = upper.make_directories_above(&target.local, None);
        above.map_err(of_disk)?;
        self.delete_replaced(from, at, false)?;
        self.mark_renamed(at, &to.view, &to.path)?;
        upper.rename(&at.local, &target.local).map_err(of_disk)?;
        self.date(&to.path, target)
    }

    /// Marks a file before it gets a path, as the replacement of the contents there.
    fn mark_renamed(&self, at: &UpperPlace, view: &View, path: &SharedPath) -> Result<(), FsError> {
        let upper = &at.folder.upper;
        let mark = mark_for(view, path);
        let former = upper.mark(&at.local).map_err(of_disk)?;
        if former.is_none_or(|former| former.replaces != mark.replaces) {
            upper.set_mark(&at.local, &mark).map_err(of_disk)?;
        }
        Ok(())
    }

    fn rename_directory(
        &self,
        from: &ChangedName,
        to: &ChangedName,
        target: &UpperPlace,
    ) -> Result<(), FsError> {
        if to.path.is_beneath(&from.path) {
            return Err(FsError::Invalid);
        }
        if self.is_place(&from.path) {
            return Err(FsError::InUse);
        }
        let at = self.namespace.place_for(&from.path);
        let at = at.ok_or(FsError::ReadOnly)?;
        let target = same_share(&at, target)?;
        let is_listed = from.view.lookup(&from.path).is_some();
        if at.find().is_none() || (is_listed && !from.view.is_only_of(&from.path, at.folder.share))
        {
            return Err(FsError::OtherShare);
        }
        let upper = &at.folder.upper;
        let above = upper.make_directories_above(&target.local, None);
        above.map_err(of_disk)?;
        self.prepare_below(&at, from, &to.path)?;
        if target.find().is_some() {
            self.clear(&to.view, &to.path, target)?;
        }
        upper.rename(&at.local, &target.local).map_err(of_disk)
    }

    /// Prepares each file of a directory for a new path.
    fn prepare_below(
        &self,
        at: &UpperPlace,
        from: &ChangedName,
        to: &SharedPath,
    ) -> Result<(), FsError> {
        let names = at.folder.upper.names(&at.local).map_err(of_disk)?;
        for FoundName { name, kind, .. } in names {
            let join = |path: &SharedPath| path.join(&name).map_err(|_| FsError::NameTooLong);
            let (path, new) = (join(&from.path)?, join(to)?);
            let here = UpperPlace {
                folder: at.folder.clone(),
                local: join(&at.local)?,
            };
            let view = from.view.clone();
            let name = ChangedName {
                path,
                view,
                node: None,
            };
            match kind {
                FoundKind::Directory => self.prepare_below(&here, &name, &new)?,
                FoundKind::File => {
                    self.delete_replaced(&name, &here, false)?;
                    if !mark_for(&name.view, &new).replaces.is_empty() {
                        self.mark_renamed(&here, &name.view, &new)?;
                    }
                }
                FoundKind::Symlink | FoundKind::Other => {}
            }
        }
        Ok(())
    }

    /// Gives a file of another node a new name: copies it there, and deletes the former one. Returns
    /// the copy.
    fn rename_others(
        &self,
        from: &ChangedName,
        file: &FileVersion,
        to: &ChangedName,
        target: &UpperPlace,
    ) -> Result<Node, FsError> {
        let (named, contents) = self.deletion_of(from)?;
        if file.own.is_some() {
            return Err(FsError::NotPermitted);
        }
        let _alone = self.copies.begin(&to.path);
        // The kernel does not pass the program. The copy gets the owner of the daemon.
        let caller = Caller { uid: 0, gid: 0 };
        let copied = self.copy_to(to, file, false, target, caller)?;
        // If the names are the same, the copy is the version behind the conflict name, and a deletion
        // would hide it.
        if named != to.path {
            self.delete(&from.path, &named, contents)?;
        }
        Ok(copied.node)
    }

    /// Returns the place of a link in a writable share.
    fn own_link(&self, changed: &ChangedName) -> Option<UpperPlace> {
        let at = self.namespace.place_for(&changed.path)?;
        let is_there = at.find().is_some_and(|it| it.kind == FoundKind::Symlink);
        is_there.then_some(at)
    }

    /// Returns the place of a written file.
    fn place_of(&self, file: &WrittenFile) -> Option<UpperPlace> {
        self.namespace.place_of(file)
    }

    /// Returns whether the place of a writable share is at or below a path.
    fn is_place(&self, path: &SharedPath) -> bool {
        let folders = self.namespace.folders();
        folders.is_some_and(|folders| folders.iter().any(|it| it.is_at_or_below(path)))
    }

    /// Returns whether a directory shows no names.
    fn is_empty(&self, changed: &ChangedName) -> bool {
        let directory = Name::Union(changed.path.clone());
        let names = self.namespace.names_in(&changed.view, &directory);
        let shows = |name: &[u8]| {
            let child = names::child(&directory, name);
            child.is_some_and(|child| self.namespace.native(&changed.view, &child).is_some())
        };
        !names.iter().any(|name| shows(name.as_bytes()))
    }

    /// Removes what other nodes deleted from the disk, in a directory that shows no names. Objects
    /// that this node never listed stay.
    fn clear(&self, view: &View, path: &SharedPath, at: &UpperPlace) -> Result<(), FsError> {
        let upper = &at.folder.upper;
        for FoundName { name, kind, .. } in upper.names(&at.local).map_err(of_disk)? {
            let join = |path: &SharedPath| path.join(&name).map_err(|_| FsError::NameTooLong);
            let (path, local) = (join(path)?, join(&at.local)?);
            if !view.has_own(&path) {
                continue;
            }
            if kind == FoundKind::Directory {
                let folder = at.folder.clone();
                let below = UpperPlace { folder, local };
                self.clear(view, &path, &below)?;
                upper.remove_directory(&below.local).map_err(of_disk)?;
            } else {
                upper.remove(&local).map_err(of_disk)?;
            }
        }
        Ok(())
    }

    /// Counts the lookup of a new object and returns its entry.
    fn enter(&self, parent: u64, path: &SharedPath, node: Node) -> Entry {
        let mtime = match &node {
            Node::Written(file) => mtime_of(&file.disk),
            _ => Timestamp::from(SystemTime::now()),
        };
        let name = Name::Union(path.clone());
        self.inodes
            .enter(Some(parent), name, ResolvedName::new(node, mtime))
    }

    fn or_forget(
        &self,
        entry: Entry,
        opened: Result<OpenReply, FsError>,
    ) -> Result<(Entry, OpenReply), FsError> {
        if opened.is_err() {
            self.inodes.forget(entry.attributes.ino, 1);
        }
        Ok((entry, opened?))
    }

    /// Takes the room for a file that grows to an end, which may depend on its size.
    fn take_room(&self, file: &File, end: impl FnOnce(u64) -> u64) -> Result<(), FsError> {
        let size_bytes = Found::of_file(file).map_err(of_disk)?.size_bytes;
        let growth_bytes = end(size_bytes).saturating_sub(size_bytes);
        self.namespace.take_room(file, growth_bytes)
    }

    /// Sets attributes of a file on the disk.
    fn apply(&self, file: &File, new: NewAttributes) -> Result<(), FsError> {
        if let Some(size_bytes) = new.size_bytes {
            self.take_room(file, |_| size_bytes)?;
            file.set_len(size_bytes).map_err(of_disk)?;
            self.namespace.record_shrunk();
        }
        if let Some(mode) = new.mode {
            let bits = if mode & EXECUTABLE_BIT == 0 {
                0o644
            } else {
                0o755
            };
            let mode = rustix::fs::Mode::from_raw_mode(bits);
            rustix::fs::fchmod(file, mode).map_err(|error| of_disk(error.into()))?;
        }
        new.mtime.map_or(Ok(()), |time| set_mtime(file, time))
    }

    /// Returns the file of a handle that was opened for writing.
    fn written_file(&self, handle: u64, ino: u64) -> Result<Arc<File>, FsError> {
        match &*self.files.handle_of(handle, ino)? {
            Handle::File(file) => file.content.backing().ok_or(FsError::BadHandle),
            Handle::Status(_) => Err(FsError::BadHandle),
        }
    }
}

impl ChangedName {
    /// Returns whether this node's log has a directory with this name, whether or not it is listed.
    fn has_own_directory(&self) -> bool {
        let since = Timestamp::default();
        self.view.has_own_directory_after(&self.path, since)
    }

    /// Returns the name if it stands for nothing.
    ///
    /// # Errors
    /// [`FsError::Exists`].
    fn new_name(self) -> Result<Self, FsError> {
        if self.node.is_some() {
            return Err(FsError::Exists);
        }
        Ok(self)
    }
}

/// Returns the mark of a new file at a path: it replaces all contents there, except those that are
/// shown beside the name under conflict names.
pub(super) fn mark_for(view: &View, path: &SharedPath) -> WrittenMark {
    let known = view.contents_at(path);
    let mut replaces = known.hashes;
    if !replaces.is_empty() {
        let beside = view.contents_beside(path);
        replaces.retain(|hash| !beside.contains(hash));
    }
    WrittenMark {
        replaces,
        after: mark_time(known.newest),
    }
}

fn mark_time(time: Timestamp) -> MarkTime {
    MarkTime {
        seconds: time.seconds,
        nanoseconds: time.nanoseconds,
    }
}

/// Returns whether a file on the disk that is not shown is listed, so that the version of another
/// node or a deletion superseded it. Otherwise a program of this machine is writing it.
fn is_superseded(changed: &ChangedName) -> bool {
    changed.view.own_file(&changed.path).is_some()
}

/// Removes a file from the disk that another node deleted or replaced.
fn remove_superseded(changed: &ChangedName, at: &UpperPlace) -> Result<(), FsError> {
    if !is_superseded(changed) {
        return Err(FsError::Exists);
    }
    at.folder.upper.remove(&at.local).map_err(of_disk)
}

/// Makes a new object. The directories above it are created if only other nodes have them.
fn make<T>(at: &UpperPlace, owner: Owner, new: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match new() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            at.folder.upper.make_directories_above(&at.local, owner)?;
            new()
        }
        made => made,
    }
}

/// Checks that an object of one kind may get the name of another, as rename(2) requires.
fn check_kinds(from: &Node, to: Option<&Node>) -> Result<(), FsError> {
    match (from, to) {
        (_, None) | (Node::Directory, Some(Node::Directory)) => Ok(()),
        (Node::Directory, Some(_)) => Err(FsError::NotADirectory),
        (_, Some(Node::Directory)) => Err(FsError::IsADirectory),
        _ => Ok(()),
    }
}

fn same_share<'a>(from: &UpperPlace, to: &'a UpperPlace) -> Result<&'a UpperPlace, FsError> {
    let is_same = from.folder.share == to.folder.share;
    is_same.then_some(to).ok_or(FsError::OtherShare)
}

/// Returns the owner of what a program creates. Only root can create files of other users.
fn owner_of(caller: Caller) -> Owner {
    rustix::process::geteuid()
        .is_root()
        .then_some((caller.uid, caller.gid))
}

pub(super) fn of_disk(error: io::Error) -> FsError {
    FsError::of_disk(&error)
}

fn set_mtime(file: &File, time: NewTime) -> Result<(), FsError> {
    let nanoseconds = match time {
        NewTime::Now => rustix::fs::UTIME_NOW,
        NewTime::At(time) => time.nanoseconds.into(),
    };
    let seconds = match time {
        NewTime::Now => 0,
        NewTime::At(time) => time.seconds,
    };
    let kept = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    let times = rustix::fs::Timestamps {
        last_access: kept,
        last_modification: rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
    };
    rustix::fs::futimens(file, &times).map_err(|error| of_disk(error.into()))
}

/// Writes the bytes and the modification time of a version into a file.
pub(super) fn copy_bytes(
    namespace: &MountNamespace,
    version: &FileVersion,
    to: &File,
) -> Result<(), FsError> {
    let opened = namespace.content.clone().open(version)?;
    let failure = Mutex::new(None);
    let read = |offset, piece: &mut [u8]| {
        read_waiting(&*opened.content, offset, piece).map_err(|error| {
            *failure.lock() = Some(error);
            io::Error::other("the bytes cannot be read")
        })
    };
    let whole = opened.content.backing().filter(|_| !opened.live);
    let source = whole.map_or(Source::Reads(&read), Source::File);
    let copied = source.copy_to(to, version.size_bytes);
    copied.map_err(|error| failure.lock().take().unwrap_or_else(|| of_disk(error)))?;
    set_mtime(to, NewTime::At(version.mtime))
}

/// Fills a buffer with the bytes of a version, and waits for those that are not here.
fn read_waiting(content: &dyn OpenContent, offset: u64, piece: &mut [u8]) -> Result<(), FsError> {
    match content.read_now(offset, piece) {
        ReadNow::Done(length) if length == piece.len() => return Ok(()),
        ReadNow::Done(_) => return Err(FsError::Gone),
        ReadNow::Failed(error) => return Err(error),
        ReadNow::Wait => {}
    }
    let (sender, receiver) = channel();
    let range = ByteRange::at(offset, piece.len() as u64);
    let reply = Box::new(move |result| drop(sender.send(result)));
    let _wait = content.read(range, true, reply);
    // A reply that is dropped means that the content is closing.
    let bytes = receiver.recv().map_err(|_| FsError::Stopping)??;
    if bytes.len() != piece.len() {
        return Err(FsError::Gone);
    }
    piece.copy_from_slice(&bytes);
    Ok(())
}
