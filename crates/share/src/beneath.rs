//! Opening what lies beneath a share, and nothing else: the only place of this part that opens a
//! shared name (`openat2(2)`: beneath the share, through no symbolic link, into no mount of p2pfs).

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::identity::Seen;
use super::mounts::MountTable;
use p2pfs_types::path::SharedPath;

/// openat2 says EAGAIN when a rename raced with it; after this many in a row we say so too.
const RACES_MAX: usize = 16;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// NONBLOCK: a fifo or device that took the place of a file must not hold us.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// The way to shared names; holds what must never be entered.
pub(super) struct Beneath {
    refused: Vec<PathBuf>,
    inboxes: Vec<PathBuf>,
    mounts: Mutex<MountTable>,
}

impl Beneath {
    pub(super) fn new(refused: Vec<PathBuf>) -> Self {
        Self {
            refused,
            inboxes: Vec::new(),
            mounts: Mutex::new(MountTable::new()),
        }
    }

    /// The same, with the directories that files of others come into.
    pub(super) fn with_inboxes(self, inboxes: Vec<PathBuf>) -> Self {
        Self { inboxes, ..self }
    }

    /// What p2pfs's own `path` lies in, if anything.
    pub(super) fn refusal(&self, path: &Path) -> Option<PathBuf> {
        let mut mounts = self.mounts.lock();
        let mut all = self.refused.iter().chain(mounts.points());
        all.find(|refused| path.starts_with(refused)).cloned()
    }

    /// Whether the disk of a share, or of a part of it, may wait for a server.
    pub(super) fn is_far(&self, dir: &Path) -> bool {
        self.mounts.lock().is_far(dir)
    }

    /// The devices whose files have made-up numbers.
    pub(super) fn making_up(&self) -> Vec<u64> {
        self.mounts.lock().making_up().to_vec()
    }

    /// Whether files of others come into the directory `dir`.
    pub(super) fn is_inbox(&self, dir: &Path) -> bool {
        self.inboxes.iter().any(|inbox| inbox == dir)
    }

    /// The names right in the directory `dir` that must not be touched.
    pub(super) fn refused_in(&self, dir: &Path) -> Vec<Vec<u8>> {
        let mut mounts = self.mounts.lock();
        let all = self.refused.iter().chain(mounts.points());
        let within = all.filter(|path| path.parent() == Some(dir));
        within
            .filter_map(|path| Some(path.file_name()?.as_bytes().to_vec()))
            .collect()
    }

    /// Opens a share's own directory, a canonical path. It is opened anew for each use, so that
    /// a share never keeps a disk from being unmounted.
    pub(super) fn open_share(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        if self.refusal(dir).is_some() {
            return Err(Errno::XDEV);
        }
        open_patiently(CWD, dir, DIRECTORY, NO_LINKS)
    }

    /// Opens a directory of the share; the root's path is the share's own.
    pub(super) fn open_directory(
        &self,
        dir: &Path,
        share: BorrowedFd<'_>,
        path: &SharedPath,
    ) -> Result<OwnedFd, Errno> {
        self.open(dir, share, path, DIRECTORY)
    }

    /// Opens a regular file of the share at `dir` for reading; anything else is [`Errno::ISDIR`] or
    /// [`Errno::OPNOTSUPP`], and was not waited for.
    pub(super) fn open_file(&self, dir: &Path, path: &SharedPath) -> Result<(File, Seen), Errno> {
        let share = self.open_share(dir)?;
        let file = File::from(self.open(dir, share.as_fd(), path, FILE)?);
        let seen = Seen::of(&fstat(&file)?);
        match seen.file_type() {
            FileType::RegularFile => Ok((file, seen)),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// First without crossing any mount; where one is in the way, it is looked up by name before
    /// it is entered.
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
        let resolve = ResolveFlags::BENEATH | NO_LINKS;
        match open_patiently(share, local, flags, resolve | ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) if self.refusal(&dir.join(path.as_local())).is_none() => {
                open_patiently(share, local, flags, resolve)
            }
            other => other,
        }
    }
}

fn open_patiently(
    at: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..RACES_MAX {
        match openat2(at.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// What an error says about who must do what: whether the name is gone or changed its kind, so
/// that a look at it tells more.
pub(super) fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ISDIR | Errno::OPNOTSUPP
    )
}

/// As [`p2pfs_types::files::is_want`].
pub(super) fn is_want(error: Errno) -> bool {
    p2pfs_types::files::is_want(&error.into())
}

/// The libc crate has all of `fcntl(2)` but this (asm-generic/fcntl.h).
const F_SETSIG: libc::c_int = 10;

/// Whether somebody has the file open for writing, or mapped so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nobody.
    None,
    /// Somebody.
    Some,
    /// It is another user's file, or its filesystem has no leases.
    Unknown,
}

/// A read lease is only given where nobody writes (`fcntl(2)`, F_SETLEASE).
pub(super) fn writers_of(file: &File) -> Writers {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    // SAFETY: the calls take a descriptor that `file` keeps open, and no memory. SIGURG, which is
    // ignored by default, takes the place of SIGIO, which would end the process, should a writer
    // come in the moment that the lease is held.
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
    use super::*;

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn no_symbolic_link_is_followed_out_or_in() {
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
    fn what_is_refused_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        let beneath = Beneath::new(vec![mount.clone()]);
        assert_eq!(beneath.refusal(&mount.join("deep")), Some(mount.clone()));
        assert_eq!(beneath.refusal(dir.path()), None);
        assert!(beneath.open_share(&mount).is_err());
    }

    #[test]
    fn an_open_writer_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        let writer = File::create(&name).unwrap();
        let reader = File::open(&name).unwrap();
        assert_eq!(writers_of(&reader), Writers::Some);
        drop(writer);
        assert_eq!(writers_of(&reader), Writers::None);
    }
}
