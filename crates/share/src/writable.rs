//! The folders of shares that the mount writes into.
//!
//! The mount writes through the descriptor of a folder, so a folder that is writable stays open.
//! The list of these folders ([`WritableFolder`]) is a snapshot that needs no disk access. A share
//! is missing from it while its folder is gone, is read-only, or is not read by this node.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, openat, unlinkat};
use rustix::io::Errno;

use super::exclude::Exclude;
use super::offered::OfferedShare;
use super::place::SharePlace;
use super::shares::OfferedShares;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::files::written::{self, WrittenMark};
use p2pfs_types::files::{is_full, is_want, read_only_remedy};
use p2pfs_types::path::SharedPath;

/// Mode of a file of a trial. A share does not list it, because others may not read it.
const TRIAL_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A folder that the mount writes into.
#[derive(Clone, Debug)]
pub struct WritableFolder {
    /// Number of the share.
    pub share: ShareIndex,
    /// Path in the listing below which the files of the folder appear.
    pub place: SharePlace,
    /// Path of the folder without links.
    pub dir: PathBuf,
    /// The folder, opened for reading. The descriptor stays valid when the path leads elsewhere.
    pub folder: Arc<File>,
    /// Whether only some nodes may read the share.
    pub has_readers: bool,
    exclude: Arc<Exclude>,
}

impl WritableFolder {
    fn of(index: u16, share: &OfferedShare) -> Option<Self> {
        let problems = &share.problems;
        let is_listed = !problems.vanished && !problems.private;
        let WriteAccess::Open(folder) = &share.access else {
            return None;
        };
        is_listed.then(|| Self {
            share: ShareIndex(index),
            place: share.spec.place.clone(),
            dir: share.dir.to_path_buf(),
            folder: folder.clone(),
            has_readers: share.spec.readers.is_some(),
            exclude: share.exclude.clone(),
        })
    }

    /// Returns the name in the folder of a listed path. Returns `None` if the path is not at or
    /// below the place of the share.
    pub fn local(&self, listed: &SharedPath) -> Option<SharedPath> {
        self.place.local(listed)
    }

    /// Returns whether the share leaves out a name in the folder because of its patterns, or
    /// because of a directory above it that they match. Other nodes then never see the name.
    pub fn leaves_out(&self, local: &SharedPath, is_directory: bool) -> bool {
        let mut above = local.parent();
        while let Some(directory) = above.filter(|it| !it.is_root()) {
            if self.exclude.keeps_back(&directory, true) {
                return true;
            }
            above = directory.parent();
        }
        self.exclude.keeps_back(local, is_directory)
    }

    /// Returns whether both stand for one state of one folder.
    fn is_same(&self, other: &Self) -> bool {
        let settings = |it: &Self| (it.share, it.place.clone(), it.dir.clone(), it.has_readers);
        settings(self) == settings(other)
            && Arc::ptr_eq(&self.folder, &other.folder)
            && Arc::ptr_eq(&self.exclude, &other.exclude)
    }
}

/// The folders that the mount writes into, deepest place first.
#[derive(Debug)]
pub(super) struct WritableFolders(tokio::sync::watch::Sender<Arc<[WritableFolder]>>);

impl Default for WritableFolders {
    fn default() -> Self {
        Self(tokio::sync::watch::Sender::new(Arc::default()))
    }
}

impl WritableFolders {
    /// Returns the present folders.
    pub(super) fn present(&self) -> Arc<[WritableFolder]> {
        self.0.borrow().clone()
    }

    /// Returns a receiver of the present folders and of each change.
    pub(super) fn watch(&self) -> tokio::sync::watch::Receiver<Arc<[WritableFolder]>> {
        self.0.subscribe()
    }

    /// Takes over a change of the shares.
    pub(super) fn update(&self, shares: &OfferedShares) {
        let all = shares.by_index.iter();
        let mut now: Vec<_> = all
            .filter_map(|(index, share)| WritableFolder::of(*index, share))
            .collect();
        now.sort_by_key(|folder| std::cmp::Reverse(folder.place.path().components().count()));
        self.0.send_if_modified(|before| {
            let mut pairs = before.iter().zip(&now);
            if before.len() == now.len() && pairs.all(|(before, now)| before.is_same(now)) {
                return false;
            }
            *before = now.into();
            true
        });
    }
}

/// Whether the mount may write into the folder of a share.
#[derive(Clone, Debug, Default)]
pub(super) enum WriteAccess {
    /// The share is not writable, or its folder is gone.
    #[default]
    Off,
    /// The folder can be written.
    Open(Arc<File>),
    /// The folder cannot be written at present.
    Refused {
        /// Cause, and the remedy after a semicolon.
        why: String,
        /// Whether its file system is read-only. The scanner notices the end of that.
        is_read_only: bool,
    },
}

impl WriteAccess {
    /// Tries to write into an open folder. Blocks on the disk.
    pub(super) fn to(folder: OwnedFd) -> Self {
        let is_read_only = is_read_only(&folder);
        if is_read_only {
            let why = format!("its filesystem is read-only; {}", read_only_remedy());
            return Self::Refused { why, is_read_only };
        }
        match attempt(&folder) {
            Ok(()) => Self::Open(Arc::new(folder.into())),
            Err(why) => Self::Refused { why, is_read_only },
        }
    }

    /// Checks an open folder again, and keeps the descriptor of the same folder. Blocks on the disk.
    pub(super) fn again(self, folder: OwnedFd) -> Self {
        match &self {
            Self::Open(before) if is_same_folder(before, &folder) && !is_read_only(&folder) => self,
            _ => Self::to(folder),
        }
    }

    /// Returns whether the scanner must check a folder again, because its file system became
    /// read-only or writable.
    pub(super) fn differs(&self, folder: &OwnedFd) -> bool {
        match self {
            Self::Off => false,
            Self::Open(_) => is_read_only(folder),
            Self::Refused { is_read_only, .. } => *is_read_only && !self::is_read_only(folder),
        }
    }

    /// Returns why the folder cannot be written, with the remedy.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { why, .. } => Some(why),
            Self::Off | Self::Open(_) => None,
        }
    }
}

fn is_same_folder(one: impl AsFd, other: impl AsFd) -> bool {
    let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let both = fstat(one).and_then(|one| Ok((inode(one), inode(fstat(other)?))));
    both.is_ok_and(|(one, other)| one == other)
}

/// Returns whether the file system or the mount of an open folder is read-only.
fn is_read_only(folder: &OwnedFd) -> bool {
    let found = fstatvfs(folder);
    found.is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Creates a marked file in the folder and removes it. A lack of disk space is not a failure,
/// because a program that writes gets the same error and the folder is writable after it.
///
/// # Errors
/// The cause, and the remedy after a semicolon.
fn attempt(folder: &OwnedFd) -> Result<(), String> {
    let file = match create(folder) {
        Err(error) if is_passing(error) => return Ok(()),
        Err(Errno::ACCESS | Errno::PERM) => {
            let why = "the daemon's user may not write it; give it that right (chown, setfacl)";
            return Err(why.to_owned());
        }
        Err(error) => return Err(format!("{error}; choose another folder")),
        Ok(file) => file,
    };
    match written::write(&file, &WrittenMark::default()) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(
            "its filesystem has no extended attributes of users; choose a folder on another, such \
             as ext4, xfs or btrfs"
                .to_owned(),
        ),
        Err(error) if Errno::from_io_error(&error).is_none_or(|it| !is_passing(it)) => Err(
            format!("its files get no extended attribute: {error}; choose another folder"),
        ),
        _ => Ok(()),
    }
}

/// Creates a file without a name. A file system without such files gets one with a name, which is
/// removed at once.
fn create(folder: &OwnedFd) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(folder, ".", flags | OFlags::TMPFILE, TRIAL_MODE) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            let name = Path::new(".p2pfs-write-trial");
            let file = openat(
                folder,
                name,
                flags | OFlags::CREATE | OFlags::NOFOLLOW,
                TRIAL_MODE,
            );
            let file = file?;
            unlinkat(folder, name, AtFlags::empty())?;
            Ok(file.into())
        }
        file => Ok(file?.into()),
    }
}

fn is_passing(error: Errno) -> bool {
    let error = io::Error::from(error);
    is_full(&error) || is_want(&error)
}
