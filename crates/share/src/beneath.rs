//! Opens the folders of shares and the names beneath them (`openat2(2)`). No symbolic link is
//! followed, and no protected path ([`Beneath::refusal`]) is entered. No other module of the crate
//! opens a shared name.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, OFlags, ResolveFlags, fstat, statat};
use rustix::io::Errno;

use super::filesystems::Filesystems;
use super::identity::NameStat;
use super::mounts::MountTable;
use p2pfs_types::files::trusted_way::{open_beneath, open_plain_dir};
use p2pfs_types::path::SharedPath;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// NONBLOCK: a fifo or device that replaced a file must not block the open.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Access to shared names, with the paths that must never be entered.
pub(super) struct Beneath {
    refused: Vec<PathBuf>,
    /// Folders within the refused paths that may be shared.
    allowed: Vec<PathBuf>,
    inboxes: Vec<PathBuf>,
    mounts: Mutex<MountTable>,
    filesystems: Arc<Filesystems>,
}

impl Beneath {
    pub(super) fn new(refused: Vec<PathBuf>) -> Self {
        Self {
            refused,
            allowed: Vec::new(),
            inboxes: Vec::new(),
            mounts: Mutex::new(MountTable::new(Arc::default())),
            filesystems: Arc::default(),
        }
    }

    /// Sets where the identities of filesystems are recorded.
    pub(super) fn with_filesystems(self, filesystems: &Arc<Filesystems>) -> Self {
        Self {
            mounts: Mutex::new(MountTable::new(filesystems.clone())),
            filesystems: filesystems.clone(),
            ..self
        }
    }

    /// Sets the directories that receive files from other nodes.
    pub(super) fn with_inboxes(self, inboxes: Vec<PathBuf>) -> Self {
        Self { inboxes, ..self }
    }

    /// Sets the folders within the refused paths that may be shared.
    pub(super) fn with_allowed(self, allowed: Vec<PathBuf>) -> Self {
        Self { allowed, ..self }
    }

    /// Returns the protected path at or below which `path` lies, if any. A path in an allowed folder
    /// is protected only by a path within that folder.
    pub(super) fn refusal(&self, path: &Path) -> Option<PathBuf> {
        let mut mounts = self.mounts.lock();
        let mut all = self.refused.iter().chain(mounts.points());
        let allowed = self.allowed.iter().find(|it| path.starts_with(it));
        let is_allowed = |refused: &Path| allowed.is_some_and(|it| it.starts_with(refused));
        all.find(|refused| path.starts_with(refused) && !is_allowed(refused))
            .cloned()
    }

    /// Returns whether a filesystem at, above or below `dir` may wait for a server.
    pub(super) fn is_far(&self, dir: &Path) -> bool {
        self.mounts.lock().is_far(dir)
    }

    /// Returns the devices of filesystems that invent inode numbers.
    pub(super) fn making_up(&self) -> Vec<u64> {
        self.mounts.lock().making_up().to_vec()
    }

    /// Returns whether the directory `dir` receives files from other nodes.
    pub(super) fn is_inbox(&self, dir: &Path) -> bool {
        self.inboxes.iter().any(|inbox| inbox == dir)
    }

    /// Returns the names in the directory `dir` that must not be accessed.
    pub(super) fn refused_in(&self, dir: &Path) -> Vec<Vec<u8>> {
        let mut mounts = self.mounts.lock();
        let all = self.refused.iter().chain(mounts.points());
        let within = all.filter(|path| path.parent() == Some(dir));
        within
            .filter_map(|path| Some(path.file_name()?.as_bytes().to_vec()))
            .collect()
    }

    /// Opens a share's own directory by its canonical path. It is opened again for each use, so
    /// that an idle share does not prevent its disk from being unmounted.
    pub(super) fn open_share(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        if self.refusal(dir).is_some() {
            return Err(Errno::XDEV);
        }
        open_plain_dir(dir, DIRECTORY)
    }

    /// Returns the topmost directory above `dir` that this process may not pass, if there is one.
    pub(super) fn closed_above(&self, dir: &Path) -> Option<PathBuf> {
        let mut above: Vec<&Path> = dir.ancestors().collect();
        above.reverse();
        let closed = above.windows(2).find(|pair| {
            let seen = statat(CWD, pair[1], AtFlags::SYMLINK_NOFOLLOW);
            seen.err() == Some(Errno::ACCESS)
        });
        closed.map(|pair| pair[0].to_owned())
    }

    /// Opens a directory of the share. The root path means the share's own directory.
    pub(super) fn open_directory(
        &self,
        dir: &Path,
        share: BorrowedFd<'_>,
        path: &SharedPath,
    ) -> Result<OwnedFd, Errno> {
        let directory = self.open(dir, share, path, DIRECTORY)?;
        self.filesystems.learn(directory.as_fd());
        Ok(directory)
    }

    /// Opens a regular file of the share at `dir` for reading. Fails for a name of any other kind,
    /// without waiting for the other end of a fifo.
    pub(super) fn open_file(
        &self,
        dir: &Path,
        path: &SharedPath,
    ) -> Result<(File, NameStat), Errno> {
        let share = self.open_share(dir)?;
        let file = File::from(self.open(dir, share.as_fd(), path, FILE)?);
        let seen = NameStat::of(&fstat(&file)?);
        match seen.file_type() {
            FileType::RegularFile => Ok((file, seen)),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// Opens a path, at first without crossing any mount. If a mount is in the way, `path` is
    /// opened across it unless it lies at or below a protected path.
    fn open(
        &self,
        dir: &Path,
        share: BorrowedFd<'_>,
        path: &SharedPath,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let local = if path.is_root() {
            Path::new(".")
        } else {
            path.as_local()
        };
        match open_beneath(share, local, flags, ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) if self.refusal(&dir.join(path.as_local())).is_none() => {
                open_beneath(share, local, flags, ResolveFlags::empty())
            }
            other => other,
        }
    }
}

/// Returns whether an error means that the name is gone, is of another kind than expected, or is at
/// or below a protected path.
pub(super) fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ISDIR | Errno::OPNOTSUPP
    )
}

/// Returns whether an error is a shortage of resources, as [`p2pfs_types::files::is_want`] does.
pub(super) fn is_want(error: Errno) -> bool {
    p2pfs_types::files::is_want(&error.into())
}

/// Command of `fcntl(2)` that the libc crate lacks (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

/// Whether a process has the file open or mapped for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// No process has.
    None,
    /// A process has.
    Some,
    /// Unknown, for example because the file belongs to another user or its filesystem has no
    /// leases.
    Unknown,
}

/// Returns whether the file has writers. The kernel grants a read lease only if there are none
/// (`fcntl(2)`, F_SETLEASE).
pub(super) fn writers_of(file: &File) -> Writers {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    // SAFETY: the calls take a descriptor that `file` keeps open, and no memory. If a writer opens
    // the file while the lease is held, the kernel sends SIGURG, which is ignored by default.
    // Without F_SETSIG it would send SIGIO, which would end the process.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return Writers::None;
        }
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::AGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;

    use super::*;

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn no_symbolic_link_is_followed_out_of_or_into_a_share() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share");
        std::fs::create_dir_all(share.join("d")).unwrap();
        std::fs::write(dir.path().join("secret"), b"s").unwrap();
        std::fs::write(share.join("d/f"), b"f").unwrap();
        std::os::unix::fs::symlink("../secret", share.join("out")).unwrap();
        std::os::unix::fs::symlink("d", share.join("in")).unwrap();
        let beneath = Beneath::new(vec![]);
        assert!(beneath.open_file(&share, &path("d/f")).is_ok());
        for name in ["out", "in/f"] {
            let opened = beneath.open_file(&share, &path(name));
            assert_eq!(opened.err(), Some(Errno::LOOP), "{name}");
        }
    }

    #[test]
    fn a_fifo_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            CWD,
            dir.path().join("p"),
            FileType::Fifo,
            Mode::from(0o644),
            0,
        )
        .unwrap();
        let beneath = Beneath::new(vec![]);
        let opened = beneath.open_file(dir.path(), &path("p"));
        assert_eq!(opened.err(), Some(Errno::OPNOTSUPP));
    }

    #[test]
    fn a_refused_file_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        let beneath = Beneath::new(vec![mount.clone()]);
        assert_eq!(beneath.refusal(&mount.join("deep")), Some(mount.clone()));
        assert_eq!(beneath.refusal(dir.path()), None);
        assert!(beneath.open_share(&mount).is_err());
    }

    #[test]
    fn an_open_writer_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        let writer = File::create(&name).unwrap();
        let reader = File::open(&name).unwrap();
        assert_eq!(writers_of(&reader), Writers::Some);
        drop(writer);
        assert_eq!(writers_of(&reader), Writers::None);
    }
}
