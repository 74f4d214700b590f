//! What the filesystem needs from the rest, as four traits.
//!
//! The node implements [`Content`] and [`OpenContent`]; `fuse` implements [`Invalidator`] and
//! [`BackingFiles`].

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::error::FsError;
use p2pfs_catalogue::{Found, View};
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::SharedPath;

/// Names and bytes, from memory and from the network.
///
/// Every method but [`Content::open`], [`Content::live`], [`Content::live_in`] and
/// [`OpenContent::read_now`], which may wait for a disk, answers from memory. None may block on the
/// network: [`OpenContent::read`] returns at once and calls its reply later, from any thread. The
/// filesystem holds no lock while it calls any of these.
pub trait Content: Send + Sync + 'static {
    /// The namespace as it is now.
    fn view(&self) -> Arc<View>;

    /// Opens a version of a file for reading; fetching may begin. The version stays readable
    /// through what this gives for as long as its bytes exist anywhere; dropping that closes it.
    ///
    /// # Errors
    /// [`FsError::Gone`] where neither the bytes nor a holder exist, [`FsError::Denied`] by
    /// policy, [`FsError::Disk`] where the cache cannot hold it.
    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError>;

    /// Small files that will be opened soon, the next one first: asks for them whole, as far as it
    /// sees fit. Never waits.
    fn ask_ahead(&self, _files: &[WholeFile]) {}

    /// Until when a read that [`OpenContent::read`] began waits if nothing more comes; nothing
    /// where it waits no more, or is not told. Who gives up on reads asks before it does.
    fn waits_until(&self, ticket: ReadTicket) -> Option<Instant> {
        let _ = ticket;
        None
    }

    /// Nobody waits for this read any more. The reply may still be called, or be dropped.
    fn cancel(&self, ticket: ReadTicket);

    /// How many bytes of the version are in the local cache (all of them for one that an own share
    /// has).
    fn cached_bytes(&self, file: &FileVersion) -> u64;

    /// Who pushed an own file to this node; nothing where nobody did. A local look at most.
    fn sender(&self, _file: &FileVersion) -> Option<String> {
        None
    }

    /// What an own file that wins its name looks like now; nothing where `file.own` is nothing or
    /// the file is no longer there. A local `stat` at most.
    fn live(&self, file: &FileVersion) -> Option<LiveAttributes>;

    /// The same for the own files of one directory, for who lists it: the directory is found once,
    /// and so as it is now. Nothing where it is no longer there.
    fn live_in(&self, _share: ShareIndex, _directory: &SharedPath) -> Option<LiveLook> {
        None
    }

    /// The local cache's budget, for `statfs`.
    fn space(&self) -> Space;

    /// The daemon's status as JSON, for `.p2pfs/status.json`.
    fn status_json(&self) -> Vec<u8>;

    /// Whether legacy peers are asked for names of the root that no native node shares.
    fn asks_legacy(&self) -> bool {
        false
    }

    /// Whether such a name is worth asking for now.
    fn legacy_may_have(&self, _name: &[u8]) -> bool {
        false
    }

    /// What is known of a legacy peer's file.
    fn legacy_file(&self, _name: &[u8]) -> Option<LegacyFile> {
        None
    }

    /// The names that legacy peers are known to have.
    fn legacy_names(&self) -> Vec<Box<[u8]>> {
        Vec::new()
    }

    /// Asks the legacy peers; calls `reply` exactly once, by its own deadline, with
    /// [`FsError::NotFound`] where nobody had it.
    fn find_legacy(&self, _name: &[u8], reply: LaterReply<LegacyFile>) {
        reply(Err(FsError::NotFound));
    }

    /// Opens a legacy peer's file, asking for it first where it is not known; gives its size as
    /// well. Calls `reply` exactly once, by its own deadline.
    fn open_legacy(self: Arc<Self>, _name: &[u8], reply: LaterReply<(Arc<dyn OpenContent>, u64)>) {
        reply(Err(FsError::NotFound));
    }
}

/// One open version: a read asks it and no table. Dropping it closes it, which may wait for a disk.
pub trait OpenContent: Send + Sync {
    /// Fills the whole buffer from `offset` if that takes no waiting (verified bytes in the cache,
    /// an own file). The buffer never reaches past the file's end, but for a live one.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow;

    /// The same for a reader that is given what is here and no more: it leads to no fetch.
    fn read_here(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        self.read_now(offset, buffer)
    }

    /// Gets the bytes of `range`, all of them or an error, and calls `reply` exactly once: with
    /// data, or by its own deadline with an error. May call it before it returns. A reply that is
    /// dropped without a call counts as [`FsError::Fault`] at the device's own deadline.
    fn read(&self, range: ByteRange, reply: ReadReply) -> ReadTicket;

    /// The same for a reader that is not to be served faster than it asks: nothing is fetched
    /// ahead of it.
    fn read_just(&self, range: ByteRange, reply: ReadReply) -> ReadTicket {
        self.read(range, reply)
    }

    /// How many bytes of the range are not here, and would have to be fetched.
    fn missing_bytes(&self, range: ByteRange) -> u64 {
        range.len()
    }

    /// How many bytes of the range were not here when it was opened.
    fn arrived_bytes(&self, _range: ByteRange) -> u64 {
        0
    }

    /// The local file behind it, if the kernel may read it directly: one that is complete and
    /// stays as it is, or the own file of a live version.
    fn backing(&self) -> Option<Arc<File>>;

    /// Whether bytes of that file went to the disk past the kernel's pages of it.
    fn is_past_pages(&self) -> bool {
        false
    }

    /// Has them brought into those pages, by another thread: the file is used again.
    fn warm(&self) {}
}

/// Drops what the kernel has cached. Never blocks, so it can be called from anywhere.
pub trait Invalidator: Send + Sync + 'static {
    /// Asks for it; it happens soon, on a thread of its own. What is asked for twice in a row may
    /// happen once.
    fn invalidate(&self, stale: Stale);

    /// Asks for all of these, and has `change` called once they have happened; it says what the
    /// kernel must forget once more, since it was answered meanwhile as things were before.
    fn invalidate_around(&self, stale: Vec<Stale>, change: Around);
}

/// What is done once the kernel has forgotten what it changes; on another thread, and it may not
/// wait.
pub type Around = Box<dyn FnOnce() -> Vec<Stale> + Send>;

/// Hands local files to the kernel, which then reads them itself (FUSE passthrough).
pub trait BackingFiles: Send + Sync + 'static {
    /// Makes the file known to the kernel.
    ///
    /// # Errors
    /// Where the right (CAP_SYS_ADMIN) or the kernel's support is missing: not an error for the
    /// user, since the daemon then reads for them.
    fn register(&self, file: &File) -> io::Result<BackingFile>;

    /// The kernel forgets it once the last file opened with it is closed.
    fn release(&self, file: BackingFile);
}

/// One version of one file, as the namespace lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileVersion {
    /// Under which name it is opened.
    pub path: SharedPath,
    /// Its identity.
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// Its modification time.
    pub mtime: Timestamp,
    /// Whether it may be executed.
    pub executable: bool,
    /// Where it lies in this node's own shares, if it is this node's own and wins its name.
    pub own: Option<(ShareIndex, SharedPath)>,
}

impl FileVersion {
    /// What a path was found to stand for, where that is a file.
    pub fn found(path: &SharedPath, found: &Found) -> Option<Self> {
        let Kind::File {
            hash,
            size_bytes,
            executable,
        } = found.kind
        else {
            return None;
        };
        Some(Self {
            path: path.clone(),
            hash,
            size_bytes,
            mtime: found.mtime,
            executable,
            own: found.own.clone(),
        })
    }
}

/// A content that is wanted whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeFile {
    pub hash: ContentHash,
    pub size_bytes: u64,
}

/// A file of a legacy peer, whose bytes nothing can verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyFile {
    /// Its size, as its peer says.
    pub size_bytes: u64,
    /// When it was first seen here: that protocol has no times.
    pub mtime: Timestamp,
    /// How many of its bytes are here.
    pub cached_bytes: u64,
    /// Who has it.
    pub holder: String,
}

/// What opening gave.
#[derive(Clone)]
pub struct Opened {
    /// To read by.
    pub content: Arc<dyn OpenContent>,
    /// An own file, read as it is now: its length may change, and the kernel caches nothing of it
    /// but what it reads by itself.
    pub live: bool,
}

/// A wait for bytes, as [`Content`] numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadTicket(pub u64);

/// Takes what was waited for, once, from any thread.
pub type LaterReply<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// Called once with exactly the bytes asked for (fewer only at the end of a live file).
pub type ReadReply = Box<dyn FnOnce(Result<Bytes, FsError>) + Send>;

/// What [`OpenContent::read_now`] could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadNow {
    /// The buffer holds this many bytes: all of it, or up to the end of a live file.
    Done(usize),
    /// Bytes are missing: ask with [`OpenContent::read`].
    Wait,
    /// It cannot be read at all.
    Failed(FsError),
}

/// An own file's attributes at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveAttributes {
    pub size_bytes: u64,
    /// Its modification time.
    pub mtime: Timestamp,
    /// Whether it may be executed.
    pub executable: bool,
}

impl LiveAttributes {
    /// Those of an open file.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let mtime = Timestamp {
            seconds: found.mtime(),
            nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or(0),
        };
        Ok(Self {
            size_bytes: found.len(),
            mtime,
            executable: found.mode() & 0o100 != 0,
        })
    }
}

/// How the file of a name in a directory looks now, as [`Content::live`] says it.
pub type LiveLook = Box<dyn Fn(&[u8]) -> Option<LiveAttributes>>;

/// The local cache's budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What the cache may hold.
    pub budget_bytes: u64,
    /// What it holds.
    pub used_bytes: u64,
}

/// What the kernel should forget. Inode numbers are those that the filesystem gave out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stale {
    /// An inode's attributes (its pages stay).
    Attributes { ino: u64 },
    /// A directory's listing and attributes.
    Listing {
        /// Of which directory.
        ino: u64,
    },
    /// What a name in a directory stands for, or that there is none.
    Name {
        /// The directory.
        parent: u64,
        name: Box<[u8]>,
    },
    /// The same of a name that stands for a directory now. If that is what it stood for before, who
    /// works in it stays there: getcwd(2) of a name that is forgotten fails.
    Directory {
        /// The directory above.
        parent: u64,
        name: Box<[u8]>,
    },
    /// Everything that it has been told of names and directories.
    Everything,
}

/// A file that the kernel reads by itself, as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackingFile(pub u32);
