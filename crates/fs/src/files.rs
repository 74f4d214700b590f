//! Open files: opening, reading, closing.
//!
//! # Cached or direct
//!
//! What is not complete is read through the kernel's pages ([`Caching::Keep`]) and not past them.
//! A direct read could be ended by a signal that its program catches, which the wait for a page
//! cannot; but most programs read a little at a time, or again, and there it costs a call of the
//! daemon each time. Processor time of reader and both daemons, medians of three rounds by turns on
//! two busy processors; direct is O_DIRECT, which goes the way of FOPEN_DIRECT_IO. The trial
//! `direct` of `benches/versus` repeats it in bytes and reads a second.
//!
//! | reads of a file that is not here | cached | direct |
//! |---|---|---|
//! | in order, 4 KiB each | 3.1 ms a MiB | 7.0 ms a MiB |
//! | in order, 128 KiB each | 5.8 ms a MiB | 4.1 ms a MiB |
//! | in order, 1 MiB each | 3.4 ms a MiB | 2.7 ms a MiB |
//! | 4 KiB at random, the first time | 240 µs | 206 µs |
//! | the same again | 2 µs | 42 µs |

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::error::FsError;
use super::filesystem::Filesystem;
use super::handles::{FileState, Handle, OpenFile, Reach};
use super::inherited::{Inherited, Open, Version};
use super::inode::Node;
use super::modes::Mode;
use super::replaced;
use super::traits::{BackingFile, FileVersion, Opened, ReadNow, ReadReply, ReadTicket, Stale};
use p2pfs_types::extent::ByteRange;

/// What an open tells the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReply {
    /// The handle's number.
    pub handle: u64,
    /// How the kernel gets the bytes.
    pub caching: Caching,
}

/// How the kernel gets an open file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// It asks, and keeps the pages, also those of earlier opens: they are of this version.
    Keep,
    /// It asks each time, and has no pages: the bytes may change.
    Direct,
    /// It asks each time, past the pages that it keeps for others: bytes may come slowly here.
    PastPages,
    /// It reads the file itself.
    Backed(BackingFile),
}

/// What reading at once came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// The buffer begins with this many bytes.
    Done(usize),
    /// These bytes must be waited for.
    Wait(ByteRange),
}

/// A read that is waited for.
#[derive(Clone)]
pub struct PendingRead {
    handle: Weak<Handle>,
    range: ByteRange,
    ticket: ReadTicket,
}

impl Filesystem {
    /// Opens for reading. A fetch may begin; the open does not wait for it.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for anything but reading; what [`Content::open`] says. What lies
    /// beyond the reach is [`FsError::Denied`] when it is read.
    ///
    /// [`Content::open`]: super::traits::Content::open
    pub fn open(&self, ino: u64, flags: i32, reach: Reach) -> Result<OpenReply, FsError> {
        let inode = self.inode(ino)?;
        check_reading(flags)?;
        match self.current(&self.view(), ino, &inode) {
            Node::File(file) => self.open_file(ino, &file, flags, reach),
            Node::Status => {
                let status = Handle::Status(self.content.status_json());
                let handle = self.handles.insert(status)?;
                Ok(OpenReply {
                    handle,
                    caching: Caching::Direct,
                })
            }
            Node::Directory => Err(FsError::IsADirectory),
            Node::Symlink(_) => Err(FsError::Unsupported),
            // opened by `open_legacy`, which can wait
            Node::Legacy => Err(FsError::Fault),
        }
    }

    fn open_file(
        &self,
        ino: u64,
        file: &FileVersion,
        flags: i32,
        reach: Reach,
    ) -> Result<OpenReply, FsError> {
        let opened = self.content.clone().open(file)?;
        let size_bytes = file.size_bytes;
        let mode = self.mode(ino, &opened, size_bytes);
        let (state, caching) = match mode {
            Mode::Backed(backing) if opened.live => (FileState::Live, Caching::Backed(backing)),
            Mode::Backed(backing) => (FileState::Version { size_bytes }, Caching::Backed(backing)),
            Mode::Asked if opened.live => (FileState::Live, Caching::Direct),
            // no pages are kept where another open reads the own file as it changes
            Mode::Asked if file.own.is_some() => {
                (FileState::Version { size_bytes }, Caching::Direct)
            }
            // who is kept waiting must not hold the locks of pages that others read
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
        match self.handles.insert(Handle::File(open)) {
            Ok(handle) => {
                if let Some(inherited) = self.inherited.get() {
                    let version = (!opened.live).then(|| Version::of(file));
                    inherited.note(Open {
                        handle,
                        ino,
                        mode,
                        version,
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

    /// How the inode's bytes come: as for the opens that there are, else backed where possible and
    /// not in the kernel's pages already.
    fn mode(&self, ino: u64, opened: &Opened, size_bytes: u64) -> Mode {
        if let Some(mode) = self.modes.join(ino) {
            return mode;
        }
        let file = opened.content.backing();
        let live = file.clone().filter(|_| opened.live);
        let Some(backing) = self
            .backing
            .get()
            .filter(|_| opened.live || !self.is_kept(ino, opened, size_bytes))
        else {
            return self.modes.enter(ino, Mode::Asked, live);
        };
        let registered = file.as_ref().and_then(|file| backing.register(file).ok());
        let wanted = registered.map_or(Mode::Asked, Mode::Backed);
        let mode = self.modes.enter(ino, wanted, live);
        // Another open was faster: its mode holds, and ours is not needed.
        if let (Some(ours), true) = (registered, mode != wanted) {
            backing.release(ours);
        }
        mode
    }

    /// Whether the kernel has the file in the inode's pages and in no others, at its second use:
    /// for the third it is brought into those that the kernel itself reads.
    fn is_kept(&self, ino: u64, opened: &Opened, size_bytes: u64) -> bool {
        let is_kept = self.kept.take_most(ino, size_bytes);
        if is_kept {
            opened.content.warm();
        }
        is_kept
    }

    /// Whether what those read who have the inode open already is right for one more. Not an own
    /// file that was replaced; nor, where the kernel reads it, what has turned out to be damaged,
    /// or was an own file that is not ours to give any more: it cannot read something else for this
    /// one. So the open fails until the others have closed, unless the name leads to another inode
    /// by now: the kernel looks it up anew.
    fn is_of_this_version(&self, ino: u64, opened: &Opened, mode: Mode) -> bool {
        let ours = opened.content.backing();
        match self.modes.live(ino) {
            Some(open) if opened.live => ours.is_none_or(|ours| replaced::is_same(&open, &ours)),
            open => mode == Mode::Asked || (ours.is_some() && open.is_none()),
        }
    }

    /// What is open under a number.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] where nothing is.
    pub fn handle(&self, number: u64) -> Result<Arc<Handle>, FsError> {
        self.handles.get(number)
    }

    /// The same, also where the process before us opened it as this inode: its version is opened
    /// again.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] where nothing is open there, [`FsError::Gone`] where nobody has that
    /// version any more.
    pub fn handle_of(&self, number: u64, ino: u64) -> Result<Arc<Handle>, FsError> {
        match (self.handles.get(number), self.inherited.get()) {
            (Err(FsError::BadHandle), Some(inherited)) => self.reopen(number, ino, inherited),
            (found, _) => found,
        }
    }

    fn reopen(&self, number: u64, ino: u64, inherited: &Inherited) -> Result<Arc<Handle>, FsError> {
        let inode = self.inode(ino).map_err(|_| FsError::Gone)?;
        let handle = match self.current(&self.view(), ino, &inode) {
            Node::File(file) => {
                let opened = self.content.clone().open(&file)?;
                let size_bytes = file.size_bytes;
                let state = if opened.live {
                    FileState::Live
                } else {
                    FileState::Version { size_bytes }
                };
                // for whom it was opened is not known: what serves its readers holds them to rules
                Handle::File(OpenFile::new(ino, opened.content, state))
            }
            Node::Status => Handle::Status(self.content.status_json()),
            _ => return Err(FsError::Gone),
        };
        let (there, is_ours) = self.handles.insert_as(number, handle);
        let is_file = matches!(*there, Handle::File(_));
        // where it is not ours, another read was faster
        if is_ours && is_file && inherited.take_before(number).is_none() {
            self.modes.enter(ino, Mode::Asked, None);
        }
        Ok(there)
    }

    /// Reads what takes no waiting, for a reader that may reach so far (but no further than when
    /// it opened the file).
    ///
    /// # Errors
    /// As the content says, or as it said a moment ago for the same bytes.
    pub fn read_now(
        &self,
        handle: &Handle,
        offset: u64,
        buffer: &mut [u8],
        reach: Reach,
    ) -> Result<ReadStep, FsError> {
        let file = match handle {
            Handle::File(file) => file,
            Handle::Status(status) => return Ok(ReadStep::Done(copy_from(status, offset, buffer))),
        };
        let range = file.cut(offset, u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        if range.is_empty() {
            return Ok(ReadStep::Done(0));
        }
        let wanted = &mut buffer[..range.len() as usize];
        let reach = file.reach.min(reach);
        let read = match reach {
            Reach::Everything => file.content.read_now(range.start, wanted),
            Reach::Asked | Reach::Cached => file.content.read_here(range.start, wanted),
        };
        match read {
            ReadNow::Done(length) if file.is_whole(range, length) => {
                file.note_given(length);
                Ok(ReadStep::Done(length))
            }
            ReadNow::Done(_) => Err(FsError::Fault),
            ReadNow::Failed(error) => Err(error),
            ReadNow::Wait if reach == Reach::Cached => Err(FsError::Denied),
            ReadNow::Wait => match file.recent_failure(range, Instant::now()) {
                Some(error) => Err(error),
                None => Ok(ReadStep::Wait(range)),
            },
        }
    }

    /// Asks for bytes that [`Filesystem::read_now`] said must be waited for. The reply is called
    /// once, from any thread, maybe before this returns.
    pub fn read(
        &self,
        handle: &Arc<Handle>,
        range: ByteRange,
        reach: Reach,
        reply: ReadReply,
    ) -> PendingRead {
        let (content, reach) = match &**handle {
            Handle::File(file) => (&file.content, file.reach.min(reach)),
            _ => unreachable!("only files have bytes to wait for"),
        };
        // a read that is under way holds nothing open
        let asked = Arc::downgrade(handle);
        let checked: ReadReply = Box::new(move |result| {
            let asked = asked.upgrade();
            let Some(Handle::File(file)) = asked.as_deref() else {
                return reply(Err(FsError::BadHandle));
            };
            reply(match result {
                Ok(bytes) if !file.is_whole(range, bytes.len()) => Err(FsError::Fault),
                Ok(bytes) => {
                    file.note_fetched();
                    file.note_given(bytes.len());
                    Ok(bytes)
                }
                Err(error) => {
                    file.remember_failure(range, error, Instant::now());
                    Err(error)
                }
            });
        });
        let ticket = match reach {
            Reach::Everything => content.read(range, checked),
            Reach::Asked | Reach::Cached => content.read_just(range, checked),
        };
        PendingRead {
            handle: Arc::downgrade(handle),
            range,
            ticket,
        }
    }

    /// How many bytes of a range must be fetched.
    pub fn missing_bytes(&self, handle: &Handle, range: ByteRange) -> u64 {
        match handle {
            Handle::File(file) => file.content.missing_bytes(range),
            Handle::Status(_) => 0,
        }
    }

    /// How many bytes of a range that was read came from other nodes since the file was opened.
    pub fn arrived_bytes(&self, handle: &Handle, range: ByteRange) -> u64 {
        match handle {
            Handle::File(file) => file.content.arrived_bytes(range),
            Handle::Status(_) => 0,
        }
    }

    /// Until when a read waits if nothing more comes; nothing where that is not known.
    pub fn waits_until(&self, read: &PendingRead) -> Option<Instant> {
        self.content.waits_until(read.ticket)
    }

    /// Nobody waits for a read any more, and why.
    pub fn abandon(&self, read: &PendingRead, why: FsError) {
        if let Some(Handle::File(file)) = read.handle.upgrade().as_deref() {
            file.remember_failure(read.range, why, Instant::now());
        }
        self.content.cancel(read.ticket);
    }

    /// Closes a file, which may wait for the disk of the cache.
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

    /// Closes everything, at the end of the mount.
    pub fn release_all(&self) {
        self.handles
            .drain()
            .into_iter()
            .for_each(|handle| self.close(handle));
    }

    fn close(&self, handle: Arc<Handle>) {
        let Handle::File(file) = &*handle else { return };
        let (ino, was_fetched) = (file.ino, file.take_fetched());
        self.kept.note(ino, file.kept_bytes());
        // First the kernel's hold, then ours: what nobody holds any more may be evicted.
        self.leave(ino);
        drop(handle);
        // What was fetched shows in st_blocks.
        if was_fetched {
            self.invalidate(Stale::Attributes { ino });
        }
    }
}

impl Filesystem {
    fn leave(&self, ino: u64) {
        let Some(unused) = self.modes.leave(ino) else {
            return;
        };
        if let Some(backing) = self.backing.get() {
            backing.release(unused);
        }
        drop(self.inherited.get().map(|it| it.let_go(ino)));
    }

    /// Opens what the kernel goes on reading by itself for who opened it with the process before,
    /// so that it counts as open: the cache keeps it, and others can open it, too. An own file
    /// stays where it is, and may be another by now.
    ///
    /// To be called before the first request, once the namespace is there. May wait for a disk.
    pub fn hold_inherited(&self) {
        let Some(inherited) = self.inherited.get() else {
            return;
        };
        let before = inherited.before().into_iter();
        let backed = before.filter(|open| open.mode != Mode::Asked);
        let inodes: BTreeSet<u64> = backed.map(|open| open.ino).collect();
        for ino in inodes {
            if let Ok(Node::File(file)) = self.inode(ino).map(|inode| inode.node)
                && file.own.is_none()
                && let Ok(opened) = self.content.clone().open(&file)
                && opened.content.backing().is_some()
            {
                inherited.hold(ino, opened.content);
            }
        }
    }
}

/// Only reading is possible. Flags that say how to write (`O_APPEND`, `O_SYNC`) change nothing by
/// themselves, and programs set them out of habit.
pub(super) fn check_reading(flags: i32) -> Result<(), FsError> {
    if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
        return Err(FsError::ReadOnly);
    }
    Ok(())
}

fn copy_from(bytes: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let length = buffer.len().min(bytes.len() - start);
    buffer[..length].copy_from_slice(&bytes[start..start + length]);
    length
}
