//! The interfaces that the filesystem needs from other crates, as six traits.
//!
//! The node implements [`Content`], and gives access to the [`ForeignFiles`] and to
//! [`Writing`], if there are any.
//! `content` implements [`OpenContent`]. `fuse` implements [`Invalidator`] and
//! [`BackingFiles`].

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;

use super::error::FsError;
use p2pfs_catalogue::{Found, View};
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::SharedPath;
pub use p2pfs_types::read::ReadWait;
use p2pfs_upper::{UpperFolder, WriteRoom};

/// Names and bytes, from memory and from the network.
///
/// All methods answer from memory, except [`Content::open`], [`Content::live`],
/// [`Content::live_in`], [`OpenContent::read_now`] and [`OpenContent::read_here`]. These may wait
/// for a disk. No method may block on the network: [`OpenContent::read`] returns at once and calls
/// its reply later, from any thread. The filesystem holds no lock while it calls any of them.
pub trait Content: Send + Sync + 'static {
    /// Returns the present namespace.
    fn view(&self) -> Arc<View>;

    /// Opens a version of a file for reading. A fetch may begin. The version stays readable through
    /// the result for as long as its bytes exist anywhere. Dropping the result closes it.
    ///
    /// # Errors
    /// [`FsError::Gone`] if no node has the bytes. [`FsError::Denied`] by policy. [`FsError::Disk`]
    /// if the cache cannot store it.
    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError>;

    /// Requests small files that will be opened soon, the next one first. The implementation
    /// decides how many it requests. It never waits.
    fn ask_ahead(&self, _files: &[WholeFile]) {}

    /// Returns the bytes of the version in the local cache. For a version in an own share these are
    /// all its bytes.
    fn cached_bytes(&self, file: &FileVersion) -> u64;

    /// Returns the name of the node or peer that pushed the file into the inbox of a sharing node,
    /// as that node states it. Returns `None` if the file was not pushed.
    fn sender(&self, _file: &FileVersion) -> Option<String> {
        None
    }

    /// Returns the present attributes of the own file at `file.own`. Returns `None` if `file.own`
    /// is `None` or the file no longer exists. It makes at most one local `stat`.
    fn live(&self, file: &FileVersion) -> Option<LiveAttributes>;

    /// Returns a function that reads the attributes of the own files in one directory, for a
    /// listing of it. The directory is opened once, in its present state. Returns `None` if it no
    /// longer exists.
    fn live_in(&self, _share: ShareIndex, _directory: &SharedPath) -> Option<LiveLook> {
        None
    }

    /// Returns the local cache's budget, for `statfs`.
    fn space(&self) -> Space;

    /// Returns the daemon's status as JSON, for `.p2pfs/status.json`.
    fn status_json(&self) -> Vec<u8>;

    /// Sets the function to call for damaged local bytes. These are bytes that [`OpenContent`] may
    /// have given to reads and that turned out not to fit their hash, or to be unreadable. It must
    /// give them to no further read before the call.
    fn watch_damage(&self, _drop_pages: PageDropper) {}

    /// Returns the files from elsewhere, if there may be any.
    fn foreign(&self) -> Option<&dyn ForeignFiles> {
        None
    }

    /// Returns the access to the writable shares, if this node may have any.
    fn writing(&self) -> Option<&dyn Writing> {
        None
    }
}

/// Room in bytes below which a writable share counts as full.
pub const FULL_BYTES: u64 = 1 << 20;

/// The writable shares of this node, and the deletions in its log.
pub trait Writing: Send + Sync {
    /// Returns the folders of the present writable shares, those with the deepest places first.
    /// Answers from memory.
    fn folders(&self) -> Arc<[Arc<WritableFolder>]>;

    /// Returns the room for what programs write.
    fn room(&self) -> &WriteRoom;

    /// Returns the total size of the files in the writable shares. Reads their disks.
    fn written_bytes(&self) -> u64 {
        let folders = self.folders();
        folders.iter().map(|folder| folder.upper.size_bytes()).sum()
    }

    /// Returns the writable shares with less than [`FULL_BYTES`] of room. Reads their disks.
    fn full_shares(&self) -> Vec<ShareIndex> {
        let folders = self.folders();
        let is_full = |folder: &&Arc<WritableFolder>| {
            let disk = folder.upper.space();
            let room = disk.map(|disk| self.room().shown(disk, || self.written_bytes()));
            room.is_ok_and(|room| room.available_bytes < FULL_BYTES)
        };
        let full = folders.iter().filter(is_full);
        full.map(|folder| folder.share).collect()
    }

    /// Deletes these contents at a path for all nodes, in this node's log. Returns once the newest
    /// view has the deletion.
    ///
    /// # Errors
    /// [`FsError::TooManyDeletions`], or [`FsError::Stopping`].
    fn delete(&self, path: &SharedPath, contents: Vec<ContentHash>) -> Result<(), FsError>;

    /// Withdraws the deletion of a content at a path in this node's log. Returns once the newest
    /// view has no such deletion.
    ///
    /// # Errors
    /// [`FsError::TooManyDeletions`], or [`FsError::Stopping`].
    fn withdraw_deletion(&self, path: &SharedPath, content: ContentHash) -> Result<(), FsError>;
}

/// The folder of a writable share.
#[derive(Debug)]
pub struct WritableFolder {
    /// Number of the share.
    pub share: ShareIndex,
    /// Path in the namespace below which the files of the share appear.
    pub place: SharedPath,
    /// The folder on the disk.
    pub upper: UpperFolder,
}

impl WritableFolder {
    /// Returns the path in the folder of a path in the namespace. Returns `None` if that path is
    /// not at or below the place.
    pub(crate) fn local(&self, path: &SharedPath) -> Option<SharedPath> {
        if self.place.is_root() {
            return Some(path.clone());
        }
        if *path == self.place {
            return Some(SharedPath::root());
        }
        if !path.is_beneath(&self.place) {
            return None;
        }
        SharedPath::new(&path.as_bytes()[self.place.as_bytes().len() + 1..]).ok()
    }

    /// Returns whether the place is at or below a path.
    pub(crate) fn is_at_or_below(&self, path: &SharedPath) -> bool {
        path.is_root() || self.place == *path || self.place.is_beneath(path)
    }
}

/// Files in the root that no node of the cluster shares, from peers that speak another protocol.
///
/// They have no hash, so nothing verifies their bytes. No method may block: those with a reply call
/// it later, from any thread. A file with a name that a node of the cluster shares is not shown.
pub trait ForeignFiles: Send + Sync {
    /// Returns whether foreign peers should be queried for this name now.
    fn may_have(&self, name: &[u8]) -> bool;

    /// Returns the properties of a file, if they are known.
    fn known(&self, name: &[u8]) -> Option<ForeignFile>;

    /// Returns the names of the known files.
    fn names(&self) -> Vec<Box<[u8]>>;

    /// Queries the foreign peers for a file that a user looks up. It calls `reply` exactly once, by
    /// its own deadline: with [`FsError::NotFound`] if no peer had the file, and with
    /// [`FsError::Busy`] if too many queries of this user are in progress. The queries of one user
    /// must leave room for those of others.
    fn find(&self, name: &[u8], uid: u32, reply: LaterReply<ForeignFile>);

    /// Opens a file for a user and returns its size as well. It queries the foreign peers first if
    /// the file is not known. It calls `reply` exactly once, by its own deadline.
    fn open(&self, name: &[u8], uid: u32, reply: LaterReply<(Arc<dyn OpenContent>, u64)>);
}

/// One open version. A read uses it directly, without a lookup in a table. Dropping it closes it,
/// which may wait for a disk.
pub trait OpenContent: Send + Sync {
    /// Fills the whole buffer from `offset` if the bytes are local (verified bytes in the cache, or
    /// an own file). The buffer never reaches past the end of the file, except for a live file.
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow;

    /// Fills the buffer as [`OpenContent::read_now`] does, but for a reader that gets local bytes
    /// only. It causes no fetch.
    fn read_here(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        self.read_now(offset, buffer)
    }

    /// Fetches all bytes of `range`, and calls `reply` exactly once: with the data, or with an
    /// error by its own deadline. It may call the reply before it returns. If a reply is dropped
    /// without a call, the device ends the read at its own deadline. `ahead` is whether to fetch
    /// ahead of the reader.
    ///
    /// A caller checks [`ReadWait::until`] before it gives up on the read, and then cancels it.
    /// After that, the reply may still be called, or be dropped.
    fn read(&self, range: ByteRange, ahead: bool, reply: ReadReply) -> ReadWait;

    /// Records that a read of this open failed by the deadline of the mount, before the bytes
    /// arrived and before this content ended the read.
    fn record_timeout(&self) {}

    /// Returns the bytes of the range that are not local and would have to be fetched.
    fn missing_bytes(&self, range: ByteRange) -> u64 {
        range.len()
    }

    /// Returns the bytes of the range that were not local at the open.
    fn arrived_bytes(&self, _range: ByteRange) -> u64 {
        0
    }

    /// Returns the local file behind it, if the kernel may read it directly. That is a complete
    /// file that does not change, or the own file of a live version.
    fn backing(&self) -> Option<Arc<File>>;
}

/// Drops the kernel's caches. It never blocks, so it can be called from anywhere.
pub trait Invalidator: Send + Sync + 'static {
    /// Requests an invalidation, which happens soon on a thread of its own. Equal requests that
    /// wait may be merged. If too many wait, pages of files may stay.
    fn invalidate(&self, stale: Stale);

    /// Requests these invalidations, and calls `change` after they have happened. `change` returns
    /// the objects to invalidate once more, because the kernel received old answers for them in the
    /// meantime. Either all of them are pages of files, or none.
    fn invalidate_around(&self, stale: Vec<Stale>, change: Around);
}

/// Makes the kernel drop its pages of a damaged range of a content, and calls or drops the last
/// argument once that has happened. It never waits. It returns false if the mount has ended, and is
/// then not called again.
pub type PageDropper =
    Box<dyn Fn(&ContentHash, ByteRange, Box<dyn FnOnce() + Send>) -> bool + Send + Sync>;

/// A change that runs after the invalidations that it requires. It runs on another thread, and must
/// not wait.
pub type Around = Box<dyn FnOnce() -> Vec<Stale> + Send>;

/// Passes local files to the kernel, which then reads them itself (FUSE passthrough).
pub trait BackingFiles: Send + Sync + 'static {
    /// Registers the file with the kernel.
    ///
    /// # Errors
    /// The privilege (CAP_SYS_ADMIN) or the kernel's support is missing. This is not an error for
    /// the user, because the daemon then reads the file itself.
    fn register(&self, file: &File) -> io::Result<BackingFile>;

    /// Releases the file. The kernel forgets it once the last handle that uses it is closed.
    fn release(&self, file: BackingFile);
}

/// One version of one file, as the namespace lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileVersion {
    /// The path under which it is opened.
    pub path: SharedPath,
    /// The hash of its content, which identifies the version.
    pub hash: ContentHash,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Whether it is executable.
    pub executable: bool,
    /// Share and path of the file on this node, if the name stands for this node's own file.
    pub own: Option<(ShareIndex, SharedPath)>,
}

impl FileVersion {
    /// Returns the version at a path, if the catalogue result is a file.
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

/// A content to request whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeFile {
    /// The hash of the content.
    pub hash: ContentHash,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// The known properties of a foreign file. Its bytes cannot be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFile {
    /// Size in bytes, as its peer states it.
    pub size_bytes: u64,
    /// Time at which it was first seen here. The foreign protocol has no times.
    pub mtime: Timestamp,
    /// Number of its bytes that are local.
    pub cached_bytes: u64,
    /// The peer that has it.
    pub holder: String,
}

/// Result of an open.
#[derive(Clone)]
pub struct Opened {
    /// The content that provides the bytes.
    pub content: Arc<dyn OpenContent>,
    /// Whether it is an own file that is read in its present state. Its length may change, and the
    /// kernel caches bytes of it only if it reads the file itself (passthrough).
    pub live: bool,
}

/// Receives a result that was waited for, once, from any thread.
pub type LaterReply<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// Receives exactly the requested bytes, once. Fewer bytes are allowed only at the end of a live
/// file.
pub type ReadReply = Box<dyn FnOnce(Result<Bytes, FsError>) + Send>;

/// Result of [`OpenContent::read_now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadNow {
    /// Number of bytes in the buffer: all of it, or up to the end of a live file.
    Done(usize),
    /// Bytes are missing. Fetch them with [`OpenContent::read`].
    Wait,
    /// The bytes cannot be read at all.
    Failed(FsError),
}

/// The present attributes of an own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveAttributes {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Whether it is executable.
    pub executable: bool,
}

impl LiveAttributes {
    /// Reads the attributes of an open file.
    ///
    /// # Errors
    /// The error of fstat(2).
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

/// Returns the present attributes of a name in a directory, as [`Content::live`] does.
pub type LiveLook = Box<dyn Fn(&[u8]) -> Option<LiveAttributes>>;

/// The local cache's budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Maximum bytes in the cache.
    pub budget_bytes: u64,
    /// Bytes in the cache.
    pub used_bytes: u64,
}

/// An object that the kernel should forget. Inode numbers are those of the filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stale {
    /// An inode's attributes. Its pages stay.
    Attributes {
        /// The inode number.
        ino: u64,
    },
    /// All pages of an inode. Telling the kernel can block until reads of these pages end.
    Pages {
        /// The inode number.
        ino: u64,
    },
    /// The pages of a range of an inode. Telling the kernel can block until reads of these pages
    /// end.
    PagesWithin {
        /// The inode number.
        ino: u64,
        /// The bytes in these pages.
        range: ByteRange,
    },
    /// A directory's listing and attributes.
    Listing {
        /// The inode number of the directory.
        ino: u64,
    },
    /// The object of a name in a directory, or the absence of the name.
    Name {
        /// The inode number of the directory.
        parent: u64,
        /// The last part of the name.
        name: Box<[u8]>,
    },
    /// A name that stands for a directory now. If it stood for the same directory before, programs
    /// that work in it are not affected. If the name were forgotten instead, getcwd(2) would fail.
    Directory {
        /// The inode number of the directory above.
        parent: u64,
        /// The last part of the name.
        name: Box<[u8]>,
    },
    /// A name of the root that only foreign peers might have. The kernel forgets its inode. This is
    /// not sent if the name stands for something by then.
    PossibleName {
        /// The name.
        name: Box<[u8]>,
    },
    /// All names and directories.
    Everything,
}

/// A file that the kernel reads itself, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackingFile(pub u32);
