//! Open files: opening, reading and closing.
//!
//! # Cached or direct
//!
//! A file that is not complete is read through the kernel's page cache ([`Caching::Keep`]), unless
//! a budget limits the reader ([`Caching::PastPages`]). A program can leave a direct read by a
//! signal that it catches, but not the wait for a page. However, most programs read in small pieces
//! or repeatedly, and a direct read then costs a call of the daemon each time. The table has the
//! processor time of the reader and both daemons, as medians of three alternating rounds on two
//! busy processors. *Direct* is O_DIRECT, which takes the same path as FOPEN_DIRECT_IO. The trial
//! `direct` of `benches/versus` repeats the measurement in bytes and reads a second.
//!
//! | reads of a file that is not local | cached | direct |
//! |---|---|---|
//! | in order, 4 KiB each | 3.1 ms a MiB | 7.0 ms a MiB |
//! | in order, 128 KiB each | 5.8 ms a MiB | 4.1 ms a MiB |
//! | in order, 1 MiB each | 3.4 ms a MiB | 2.7 ms a MiB |
//! | 4 KiB at random, the first time | 240 µs | 206 µs |
//! | 4 KiB at random, repeated | 2 µs | 42 µs |

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::FsError;
use super::handles::{FileState, Handle, Handles, OpenFile, Reach};
use super::inherited::{Inherited, OpenRecord, OpenedFile, OpenedVersion};
use super::inode::{Node, NumberOnDisk, WrittenFile};
use super::modes::{Mode, Modes};
use super::namespace::MountNamespace;
use super::replaced;
use super::resolver::InodeResolver;
use super::staleness::KernelCaches;
use super::traits::{
    BackingFile, BackingFiles, FileVersion, OpenContent, Opened, ReadNow, ReadReply, ReadWait,
    Stale,
};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::{path_of, read_full_at};
use p2pfs_upper::Found;

/// Reply to an open request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReply {
    /// The number of the handle.
    pub handle: u64,
    /// How the kernel gets the bytes.
    pub caching: Caching,
}

/// How the kernel gets an open file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// The kernel asks the daemon and caches the pages, including those of earlier opens of this
    /// version.
    Keep,
    /// The kernel asks the daemon at each read and caches no pages, because the bytes may change.
    Direct,
    /// The kernel asks the daemon at each read and bypasses the pages that it caches for other
    /// opens. The reads of this open may be slow.
    PastPages,
    /// The kernel reads the file itself.
    Backed(BackingFile),
}

/// The open files of the mount.
pub struct OpenFiles {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) inodes: Arc<InodeResolver>,
    pub(super) caches: Arc<KernelCaches>,
    pub(super) handles: Arc<Handles>,
    pub(super) modes: Arc<Modes>,
    pub(super) inherited: Arc<OnceLock<Inherited>>,
    pub(super) backing: OnceLock<Arc<dyn BackingFiles>>,
}

impl OpenFiles {
    /// Sets the interface that passes complete files to the kernel. Only the first call counts.
    pub fn set_backing_files(&self, backing: Arc<dyn BackingFiles>) {
        let _ = self.backing.set(backing);
    }

    /// Opens a file for reading. A fetch may begin, but the open does not wait for it.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for any access other than reading, [`FsError::IsADirectory`],
    /// [`FsError::TooManyHandles`], and the errors of [`Content::open`]. [`FsError::Gone`] also if
    /// the bytes that other opens of the inode read are not right for this one. Bytes beyond the
    /// reach cause [`FsError::Denied`] when they are read.
    ///
    /// [`Content::open`]: super::traits::Content::open
    pub fn open(&self, ino: u64, flags: i32, reach: Reach) -> Result<OpenReply, FsError> {
        let inode = self.inodes.inode(ino)?;
        check_reading(flags)?;
        match self.inodes.current(&self.namespace.view(), ino, &inode) {
            Node::File(file) => self.open_file(ino, &file, flags, reach),
            Node::Written(file) => {
                let file = self.open_on_disk(ino, &file, false)?;
                self.open_written(ino, file)
            }
            Node::Status => {
                let status = Handle::Status(self.namespace.content.status_json());
                let handle = self.handles.insert(status)?;
                Ok(OpenReply {
                    handle,
                    caching: Caching::Direct,
                })
            }
            Node::Directory => Err(FsError::IsADirectory),
            Node::Symlink(_) => Err(FsError::Unsupported),
            // `ForeignInodes::open` opens these, because it can wait.
            Node::Foreign => Err(FsError::Fault),
        }
    }

    /// Opens a file in a writable share, which is read and written as it is.
    ///
    /// # Errors
    /// [`FsError::TooManyHandles`]. [`FsError::Gone`] if other opens of the inode read another file.
    pub(super) fn open_written(&self, ino: u64, file: File) -> Result<OpenReply, FsError> {
        let on_disk = Found::of_file(&file).map_err(|error| FsError::of_disk(&error))?;
        let disk = Arc::new(file);
        let content = Arc::new(FileOnDisk(disk.clone()));
        let opened = Opened {
            content,
            live: true,
        };
        let writing = self.namespace.content.writing();
        let room = writing.map(|writing| writing.room());
        let is_seen = room.is_some_and(|room| room.sees_each_write(&disk));
        let mode = if is_seen {
            self.mode_without_backing(ino, &opened)
        } else {
            self.mode(ino, &opened)
        };
        let caching = match mode {
            Mode::Backed(backing) => Caching::Backed(backing),
            Mode::Asked => Caching::Direct,
        };
        if !self.is_of_this_version(ino, &opened, mode) {
            self.leave(ino);
            return Err(FsError::Gone);
        }
        let open = OpenFile::new(ino, opened.content, FileState::Live);
        let file = OpenedFile::Written(NumberOnDisk::of(&on_disk));
        self.admit(open, mode, file, caching)
    }

    /// Opens the file of an inode that is in a writable share. If it has no name any longer, opens
    /// the file that is open as this inode.
    ///
    /// # Errors
    /// [`FsError::Gone`], or the error of the disk.
    pub(super) fn open_on_disk(
        &self,
        ino: u64,
        file: &WrittenFile,
        writes: bool,
    ) -> Result<File, FsError> {
        let at = self.namespace.place_of(file).ok_or(FsError::ReadOnly)?;
        let is_it = |opened: &File| {
            let found = Found::of_file(opened);
            found.is_ok_and(|it| NumberOnDisk::of(&it) == NumberOnDisk::of(&file.disk))
        };
        let named = at.folder.upper.open(&at.local, writes);
        let named = match named {
            Ok(named) if is_it(&named) => return Ok(named),
            named => named,
        };
        let open = self.modes.live(ino).filter(|open| is_it(open));
        match (open, named) {
            (Some(open), _) => reopened(&open, writes).map_err(|it| FsError::of_disk(&it)),
            (None, Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                Err(FsError::of_disk(&error))
            }
            (None, _) => Err(FsError::Gone),
        }
    }

    fn open_file(
        &self,
        ino: u64,
        file: &FileVersion,
        flags: i32,
        reach: Reach,
    ) -> Result<OpenReply, FsError> {
        let opened = self.namespace.content.clone().open(file)?;
        let size_bytes = file.size_bytes;
        let mode = self.mode(ino, &opened);
        let (state, caching) = match mode {
            Mode::Backed(backing) if opened.live => (FileState::Live, Caching::Backed(backing)),
            Mode::Backed(backing) => (FileState::Version { size_bytes }, Caching::Backed(backing)),
            Mode::Asked if opened.live => (FileState::Live, Caching::Direct),
            // No pages are cached if another open reads the own file while it changes.
            Mode::Asked if file.own.is_some() => {
                (FileState::Version { size_bytes }, Caching::Direct)
            }
            // A budget can keep this reader waiting, and it must not hold the locks of pages that
            // other programs read meanwhile.
            Mode::Asked if reach == Reach::Asked => {
                (FileState::Version { size_bytes }, Caching::PastPages)
            }
            Mode::Asked => (FileState::Version { size_bytes }, Caching::Keep),
        };
        if !self.is_of_this_version(ino, &opened, mode) {
            self.leave(ino);
            return Err(FsError::Gone);
        }
        let mut open = OpenFile::new(ino, opened.content, state);
        open.reach = reach;
        open.fills_pages = caching == Caching::Keep
            && flags & libc::O_DIRECT == 0
            && open.content.backing().is_none();
        let opened = if opened.live {
            OpenedFile::Own
        } else {
            OpenedFile::Version(OpenedVersion::of(file))
        };
        self.admit(open, mode, opened, caching)
    }

    /// Gives an open file its handle, and records it for the next process.
    fn admit(
        &self,
        open: OpenFile,
        mode: Mode,
        file: OpenedFile,
        caching: Caching,
    ) -> Result<OpenReply, FsError> {
        let ino = open.ino;
        match self.handles.insert(Handle::File(open)) {
            Ok(handle) => {
                if let Some(inherited) = self.inherited.get() {
                    inherited.record(OpenRecord {
                        handle,
                        ino,
                        mode,
                        file,
                    });
                }
                Ok(OpenReply { handle, caching })
            }
            Err(error) => {
                self.leave(ino);
                Err(error)
            }
        }
    }

    /// Returns the mode of the inode. If it is open already, that mode applies. Otherwise it is
    /// backed if that is possible.
    fn mode(&self, ino: u64, opened: &Opened) -> Mode {
        if let Some(mode) = self.modes.join(ino) {
            return mode;
        }
        let file = opened.content.backing();
        let live = file.clone().filter(|_| opened.live);
        let Some(backing) = self.backing.get() else {
            return self.modes.enter(ino, Mode::Asked, live);
        };
        let registered = file.as_ref().and_then(|file| backing.register(file).ok());
        let wanted = registered.map_or(Mode::Asked, Mode::Backed);
        let mode = self.modes.enter(ino, wanted, live);
        // Another open of the inode was faster. The mode of that open applies, and this
        // registration is not needed.
        if let (Some(ours), true) = (registered, mode != wanted) {
            backing.release(ours);
        }
        mode
    }

    /// Returns the mode of the inode. If it is open already, that mode applies. Otherwise the kernel
    /// requests the bytes.
    fn mode_without_backing(&self, ino: u64, opened: &Opened) -> Mode {
        let live = opened.content.backing().filter(|_| opened.live);
        self.modes.enter(ino, Mode::Asked, live)
    }

    /// Returns whether the bytes that the present opens of the inode read are right for one more
    /// open. They are wrong if an own file was replaced. They are also wrong if the kernel itself
    /// reads a file that turned out to be damaged, or an own file that this node no longer gives.
    /// The kernel cannot read another file for this open, so the open fails until the others have
    /// closed. If the name leads to another inode by now, the kernel looks it up again.
    fn is_of_this_version(&self, ino: u64, opened: &Opened, mode: Mode) -> bool {
        let ours = opened.content.backing();
        match self.modes.live(ino) {
            Some(open) if opened.live => ours.is_none_or(|ours| replaced::is_same(&open, &ours)),
            open => mode == Mode::Asked || (ours.is_some() && open.is_none()),
        }
    }

    /// Returns the handle of a number.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] if no handle has this number.
    pub fn handle(&self, number: u64) -> Result<Arc<Handle>, FsError> {
        self.handles.get(number)
    }

    /// Returns the handle of a number. If the previous process opened it as this inode, its version
    /// is opened again.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] if no handle has this number. [`FsError::Gone`] if no node has that
    /// version any longer.
    pub fn handle_of(&self, number: u64, ino: u64) -> Result<Arc<Handle>, FsError> {
        match (self.handles.get(number), self.inherited.get()) {
            (Err(FsError::BadHandle), Some(inherited)) => self.reopen(number, ino, inherited),
            (found, _) => found,
        }
    }

    fn reopen(&self, number: u64, ino: u64, inherited: &Inherited) -> Result<Arc<Handle>, FsError> {
        let inode = self.inodes.inode(ino).map_err(|_| FsError::Gone)?;
        let handle = match self.inodes.current(&self.namespace.view(), ino, &inode) {
            Node::File(file) => {
                let opened = self.namespace.content.clone().open(&file)?;
                let size_bytes = file.size_bytes;
                let state = if opened.live {
                    FileState::Live
                } else {
                    FileState::Version { size_bytes }
                };
                // The program that opened it is not known. The caller applies the rules for its
                // readers.
                Handle::File(OpenFile::new(ino, opened.content, state))
            }
            Node::Written(file) => {
                // It is not known whether the program opened it for writing.
                let opened = self.open_on_disk(ino, &file, true);
                let opened = opened.or_else(|_| self.open_on_disk(ino, &file, false))?;
                let opened = Arc::new(opened);
                self.modes.set_live(ino, &opened);
                let content = Arc::new(FileOnDisk(opened));
                Handle::File(OpenFile::new(ino, content, FileState::Live))
            }
            Node::Status => Handle::Status(self.namespace.content.status_json()),
            _ => return Err(FsError::Gone),
        };
        let (there, is_ours) = self.handles.insert_as(number, handle);
        let is_file = matches!(*there, Handle::File(_));
        // If the handle is not ours, another read was faster.
        if is_ours && is_file && inherited.take_before(number).is_none() {
            self.modes.enter(ino, Mode::Asked, None);
        }
        Ok(there)
    }

    /// Records that a read was answered. Pages that a reader in order has left behind are dropped
    /// if the next open can read the data file of the cache instead.
    pub fn record_read(&self, handle: &Handle, range: ByteRange) {
        let Handle::File(file) = handle else { return };
        if !file.fills_pages || self.backing.get().is_none() {
            return;
        }
        let behind = file.run.lock().record(range);
        if let Some(range) = behind
            // Bytes that the cache did not accept are only in these pages, so the pages stay.
            && file.content.missing_bytes(range) == 0
        {
            let ino = file.ino;
            self.caches.invalidate(Stale::PagesWithin { ino, range });
        }
    }

    /// Records that a read through a handle failed by its deadline before it was known whether its
    /// bytes are local.
    pub fn record_timeout(&self, number: u64) {
        if let Ok(Handle::File(file)) = self.handles.get(number).as_deref() {
            file.content.record_timeout();
        }
    }

    /// Closes a handle. It may wait for the disk of the cache.
    pub fn release(&self, number: u64) {
        let inherited = self.inherited.get();
        match self.handles.remove(number) {
            Some(handle) => self.close(handle),
            None => {
                let before = inherited.and_then(|inherited| inherited.take_before(number));
                before.into_iter().for_each(|open| self.leave(open.ino));
            }
        }
        inherited.into_iter().for_each(|it| it.forget(number));
    }

    /// Closes all handles, at the end of the mount.
    pub fn release_all(&self) {
        self.handles
            .drain()
            .into_iter()
            .for_each(|handle| self.close(handle));
    }

    fn close(&self, handle: Arc<Handle>) {
        let Handle::File(file) = &*handle else { return };
        let ino = file.ino;
        // The kernel's reference to the file is released before this one, because the cache may
        // evict a file that has no reference here.
        self.leave(ino);
        // The next open is passthrough, and would wait for the kernel to drop these pages.
        let is_backed_next = self.backing.get().is_some() && file.content.backing().is_some();
        if file.fills_pages && is_backed_next && !self.modes.is_open(ino) {
            self.caches.invalidate(Stale::Pages { ino });
        }
    }

    fn leave(&self, ino: u64) {
        let Some(unused) = self.modes.leave(ino) else {
            return;
        };
        if let Some(backing) = self.backing.get() {
            backing.release(unused);
        }
        drop(self.inherited.get().map(|it| it.release(ino)));
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

    /// Opens the files that the kernel still reads itself for programs that opened them with the
    /// previous process. They count as open: the cache keeps them, and other programs can open them
    /// too. Own files are left out, because another file may be at the path by now.
    ///
    /// Also opens the files in writable shares again, before they can lose their names.
    ///
    /// Call this before the first request, once the namespace is available. It may wait for a disk.
    pub fn hold_inherited(&self) {
        let Some(inherited) = self.inherited.get() else {
            return;
        };
        for open in inherited.before() {
            if let OpenedFile::Written(_) = open.file {
                // A file that is gone cannot be written. Its next request fails.
                let _gone = self.handle_of(open.handle, open.ino);
            }
        }
        let before = inherited.before().into_iter();
        let backed = before.filter(|open| open.mode != Mode::Asked);
        let inodes: BTreeSet<u64> = backed.map(|open| open.ino).collect();
        for ino in inodes {
            if let Ok(Node::File(file)) = self.inodes.inode(ino).map(|inode| inode.node)
                && file.own.is_none()
                && let Ok(opened) = self.namespace.content.clone().open(&file)
                && opened.content.backing().is_some()
            {
                inherited.keep_open(ino, opened.content);
            }
        }
    }
}

/// The content of a file in a writable share: its present bytes.
struct FileOnDisk(Arc<File>);

impl OpenContent for FileOnDisk {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        match read_full_at(&self.0, buffer, offset) {
            Ok(length) => ReadNow::Done(length),
            Err(_) => ReadNow::Failed(FsError::Disk),
        }
    }

    fn read(&self, range: ByteRange, _: bool, reply: ReadReply) -> ReadWait {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        reply(match self.read_now(range.start, &mut bytes) {
            ReadNow::Done(length) => Ok(bytes[..length].to_vec().into()),
            _ => Err(FsError::Disk),
        });
        ReadWait::ended()
    }

    fn missing_bytes(&self, _: ByteRange) -> u64 {
        0
    }

    fn backing(&self) -> Option<Arc<File>> {
        Some(self.0.clone())
    }
}

/// Opens an open file once more. It may have no name any longer.
fn reopened(file: &File, writes: bool) -> io::Result<File> {
    let path = path_of(file);
    File::options().read(true).write(writes).open(path)
}

/// Checks that an open only reads. Flags for the way of writing (`O_APPEND`, `O_SYNC`) have no
/// effect alone, and programs set them out of habit.
pub(super) fn check_reading(flags: i32) -> Result<(), FsError> {
    if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
        return Err(FsError::ReadOnly);
    }
    Ok(())
}
