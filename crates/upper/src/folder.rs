//! One upper folder, and the names in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, StatVfs, Uid, fchmod,
    fchown, fstat, fstatvfs, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use super::kept::{KEPT_TIME, Keeping, KeptFile, KeptFiles};
use p2pfs_types::files::path_of;
use p2pfs_types::files::trusted_way::open_beneath;
use p2pfs_types::files::written::{self, MarkTime, WrittenMark};
use p2pfs_types::path::{ARRIVING, KEPT, SharedPath};

/// Permission bits of a new directory. Others may read it, because only such files are shared.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Permission bits of a new file.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// Permission bits of a new executable file.
const EXECUTABLE_MODE: Mode = Mode::from_raw_mode(0o755);
/// Flags of an open directory in which names are changed.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// The owner of a new name. `None` keeps that of the process, which may not change owners.
pub type Owner = Option<(u32, u32)>;

/// An object on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The kind of the object.
    pub kind: FoundKind,
    /// Device of its filesystem.
    pub device: u64,
    /// Inode number on this device.
    pub number: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Whether the owner may execute it.
    pub executable: bool,
    /// User ID of the owner.
    pub owner: u32,
}

/// A name in a directory on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundName {
    /// The name.
    pub name: Box<[u8]>,
    /// The kind of its object.
    pub kind: FoundKind,
    /// Inode number of its object.
    pub number: u64,
}

/// The kind of an object on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A fifo, socket or device, which is never shared.
    Other,
}

/// Room on the disk of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the filesystem in bytes.
    pub total_bytes: u64,
    /// Bytes that are free for all users.
    pub available_bytes: u64,
}

impl Space {
    pub(super) fn of(disk: &StatVfs) -> Self {
        Self {
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            available_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        }
    }
}

/// A folder into which the mount writes.
#[derive(Debug)]
pub struct UpperFolder {
    folder: Arc<File>,
    /// Held while a new file has its temporary name, of which a directory has one.
    placing: Mutex<()>,
    kept: KeptFiles,
}

impl AsFd for UpperFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// A name in an open directory.
pub(super) struct Place<'a> {
    pub directory: OwnedFd,
    pub name: &'a OsStr,
}

impl UpperFolder {
    /// Creates the access to a folder from its descriptor.
    pub fn new(folder: Arc<File>) -> Self {
        Self::keeping(folder, KEPT_TIME)
    }

    /// Creates the access to a folder in which removed and replaced files are kept for this time.
    pub fn keeping(folder: Arc<File>, kept_time: Duration) -> Self {
        Self {
            folder,
            placing: Mutex::default(),
            kept: KeptFiles::new(kept_time),
        }
    }

    /// Returns the object at a path.
    ///
    /// # Errors
    /// The error of the system, except that a missing object is `None`.
    pub fn find(&self, path: &SharedPath) -> io::Result<Option<Found>> {
        let found = if path.is_root() {
            statat(&self.folder, c"", AtFlags::EMPTY_PATH)
        } else if path.parent().is_some_and(|above| above.is_root()) {
            // one system call for a name directly in the folder
            let name = OsStr::from_bytes(path.as_bytes());
            statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
        } else {
            self.place(path)
                .and_then(|at| statat(&at.directory, at.name, AtFlags::SYMLINK_NOFOLLOW))
        };
        match found {
            Ok(stat) => Ok(Some(Found::of(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the mark of the file or directory at a path.
    ///
    /// # Errors
    /// The error of the system.
    pub fn mark(&self, path: &SharedPath) -> io::Result<Option<WrittenMark>> {
        written::read(self.open_with(path, OFlags::RDONLY)?)
    }

    /// Writes the mark of the file at a path.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_mark(&self, path: &SharedPath, mark: &WrittenMark) -> io::Result<()> {
        written::write(self.open_with(path, OFlags::RDONLY)?, mark)
    }

    /// Gives a link or directory a modification time, unless it has a later one.
    ///
    /// # Errors
    /// The error of the system.
    pub fn date(&self, path: &SharedPath, time: MarkTime) -> io::Result<()> {
        let at = self.place(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = statat(&at.directory, at.name, flags)?;
        let nanoseconds = u32::try_from(found.st_mtime_nsec).unwrap_or_default();
        if (found.st_mtime, nanoseconds) >= (time.seconds, time.nanoseconds) {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: time.seconds,
                tv_nsec: time.nanoseconds.into(),
            },
        };
        Ok(utimensat(&at.directory, at.name, &times, flags)?)
    }

    /// Returns the target of the link at a path.
    ///
    /// # Errors
    /// The error of the system.
    pub fn link_target(&self, path: &SharedPath) -> io::Result<Vec<u8>> {
        let at = self.place(path)?;
        let target = rustix::fs::readlinkat(&at.directory, at.name, Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Returns the names in a directory, in no particular order. A missing directory has none.
    ///
    /// # Errors
    /// The error of the system.
    pub fn names(&self, path: &SharedPath) -> io::Result<Vec<FoundName>> {
        let directory = match self.open_directory(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !is_reserved(name) {
                names.push(FoundName {
                    name: name.into(),
                    kind: FoundKind::of(entry.file_type()),
                    number: entry.ino(),
                });
            }
        }
        Ok(names)
    }

    /// Opens the file at a path, without creating it.
    ///
    /// # Errors
    /// The error of the system.
    pub fn open(&self, path: &SharedPath, writes: bool) -> io::Result<File> {
        let access = if writes { OFlags::RDWR } else { OFlags::RDONLY };
        self.open_with(path, access)
    }

    fn open_with(&self, path: &SharedPath, flags: OFlags) -> io::Result<File> {
        // NONBLOCK: a fifo must not block the open
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = open_beneath(&self.folder, as_local(path), flags, ResolveFlags::empty())?;
        Ok(opened.into())
    }

    /// Creates an empty file with a mark that names no replaced content. Returns it opened for
    /// reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or the error of the system.
    pub fn create(&self, path: &SharedPath, executable: bool, owner: Owner) -> io::Result<File> {
        let at = self.place(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = openat(
            &at.directory,
            at.name,
            flags | OFlags::CLOEXEC,
            mode_of(executable),
        )?;
        let made = make_readable(&file, mode_of(executable), owner)
            .and_then(|()| written::write(&file, &WrittenMark::default()));
        if let Err(error) = made {
            let _ = unlinkat(&at.directory, at.name, AtFlags::empty());
            return Err(error);
        }
        Ok(file.into())
    }

    /// Creates a file with a mark and gives it to `fill`. The file gets its name after that, in
    /// place of another file or link there, which is kept. Returns the file, opened for reading and writing.
    ///
    /// # Errors
    /// The error of `fill` or of the system. The name is then as before.
    pub fn replace(
        &self,
        path: &SharedPath,
        mark: &WrittenMark,
        executable: bool,
        owner: Owner,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let at = self.place(path)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let unnamed = openat(&at.directory, c".", flags, mode_of(executable));
        let (file, named) = match unnamed {
            Ok(file) => (File::from(file), None),
            // The filesystem has no files without a name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let placing = self.placing.lock();
                (at.create_arriving(executable)?, Some(placing))
            }
            Err(error) => return Err(error.into()),
        };
        let filled = written::write(&file, mark)
            .and_then(|()| fill(&file))
            .and_then(|()| make_readable(&file, mode_of(executable), owner));
        let is_named = named.is_some();
        let _placing = named.unwrap_or_else(|| self.placing.lock());
        let placed =
            filled.and_then(|()| self.replacing(&at, path, || at.place_arriving(&file, is_named)));
        if let Err(error) = placed {
            at.remove_arriving();
            return Err(error);
        }
        // The kernel reports writes through the first descriptor under a name that never existed.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&at.directory, at.name, flags, Mode::empty())?.into())
    }

    /// Creates a directory with a mark.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or the error of the system.
    pub fn make_directory(&self, path: &SharedPath, owner: Owner) -> io::Result<()> {
        let at = self.place(path)?;
        mkdirat(&at.directory, at.name, DIRECTORY_MODE)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&at.directory, at.name, flags, Mode::empty())?;
        make_readable(&made, DIRECTORY_MODE, owner)?;
        written::write(&made, &WrittenMark::default())
    }

    /// Creates the directories above a path that are missing.
    ///
    /// # Errors
    /// The error of the system.
    pub fn make_directories_above(&self, path: &SharedPath, owner: Owner) -> io::Result<()> {
        let Some(above) = path.parent().filter(|above| !above.is_root()) else {
            return Ok(());
        };
        let found = self.find(&above)?;
        if found.is_some_and(|found| found.kind == FoundKind::Directory) {
            return Ok(());
        }
        self.make_directories_above(&above, owner)?;
        match self.make_directory(&above, owner) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or the error of the system.
    pub fn make_link(&self, path: &SharedPath, target: &[u8], owner: Owner) -> io::Result<()> {
        let at = self.place(path)?;
        symlinkat(OsStr::from_bytes(target), &at.directory, at.name)?;
        if let Some((user, group)) = owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&at.directory, at.name, Some(user), Some(group), flags)?;
        }
        Ok(())
    }

    /// Removes a link, or a file, which is kept.
    ///
    /// # Errors
    /// The error of the system.
    pub fn remove(&self, path: &SharedPath) -> io::Result<()> {
        let at = self.place(path)?;
        let kept = self.kept.keep(&self.folder, &at, path, Keeping::Move);
        if kept.is_some() {
            return Ok(());
        }
        Ok(unlinkat(&at.directory, at.name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The error of the system.
    pub fn remove_directory(&self, path: &SharedPath) -> io::Result<()> {
        let at = self.place(path)?;
        Ok(unlinkat(&at.directory, at.name, AtFlags::REMOVEDIR)?)
    }

    /// Keeps the bytes of a file that a program empties next, if the filesystem can share its blocks
    /// or the file is small.
    pub fn keep_emptied(&self, path: &SharedPath, file: &File) {
        if let Ok(at) = self.place(path) {
            self.kept.keep(&self.folder, &at, path, Keeping::Copy(file));
        }
    }

    /// Returns the removed and replaced files that are kept, the oldest first.
    ///
    /// # Errors
    /// The error of the system.
    pub fn kept(&self) -> io::Result<Vec<KeptFile>> {
        self.kept.list(&self.folder)
    }

    /// Removes kept files that are older or larger than the limits.
    pub fn sweep_kept(&self) {
        self.kept.sweep(&self.folder);
    }

    /// Gives a kept file its path again, with a mark. A file that has the path is kept instead.
    ///
    /// # Errors
    /// The error of the system.
    pub fn restore(&self, file: &KeptFile, mark: &WrittenMark) -> io::Result<()> {
        self.make_directories_above(&file.path, None)?;
        let at = self.place(&file.path)?;
        let prepare = |file: &OwnedFd| written::write(file, mark);
        self.replacing(&at, &file.path, || {
            self.kept.restore(&self.folder, file, &at, prepare)
        })
    }

    /// Renames an object, in place of one that may have the new name. A replaced file is kept.
    ///
    /// # Errors
    /// The error of the system.
    pub fn rename(&self, from: &SharedPath, to: &SharedPath) -> io::Result<()> {
        let (from, to_path, to) = (self.place(from)?, to, self.place(to)?);
        self.replacing(&to, to_path, || {
            Ok(renameat(
                &from.directory,
                from.name,
                &to.directory,
                to.name,
            )?)
        })
    }

    /// Keeps the file at a place while `replace` gives its name to another.
    fn replacing(
        &self,
        at: &Place<'_>,
        path: &SharedPath,
        replace: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = self.kept.keep(&self.folder, at, path, Keeping::Link);
        let replaced = replace();
        if replaced.is_err() {
            self.kept.forget(&self.folder, kept);
        }
        replaced
    }

    /// Writes the names of a directory to the disk.
    ///
    /// # Errors
    /// The error of the system.
    pub fn sync_directory(&self, path: &SharedPath) -> io::Result<()> {
        let directory = self.open_directory(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fsync(directory)?)
    }

    /// Returns the room on the disk.
    ///
    /// # Errors
    /// The error of the system.
    pub fn space(&self) -> io::Result<Space> {
        Ok(Space::of(&fstatvfs(&self.folder)?))
    }

    /// Returns the total size in bytes of the files, without the kept ones. Directories that cannot
    /// be read count nothing.
    pub fn size_bytes(&self) -> u64 {
        let mut total_bytes = 0;
        let mut waiting = vec![SharedPath::root()];
        while let Some(directory) = waiting.pop() {
            let Ok(opened) = self.open_directory(&directory, DIRECTORY) else {
                continue;
            };
            for FoundName { name, kind, .. } in self.names(&directory).unwrap_or_default() {
                let below = directory.join(&name);
                match kind {
                    FoundKind::Directory => waiting.extend(below),
                    FoundKind::File => {
                        let name = OsStr::from_bytes(&name);
                        let found = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW);
                        total_bytes += found.map_or(0, |stat| Found::of(&stat).size_bytes);
                    }
                    FoundKind::Symlink | FoundKind::Other => {}
                }
            }
        }
        total_bytes
    }

    /// Opens the directory of a path.
    fn place<'a>(&self, path: &'a SharedPath) -> rustix::io::Result<Place<'a>> {
        let above = path.parent().ok_or(Errno::BUSY)?;
        Ok(Place {
            directory: self.open_directory(&above, DIRECTORY)?,
            name: OsStr::from_bytes(path.file_name()),
        })
    }

    fn open_directory(&self, path: &SharedPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_beneath(&self.folder, as_local(path), flags, ResolveFlags::empty())
    }
}

impl Place<'_> {
    /// Creates a file under the temporary name.
    fn create_arriving(&self, executable: bool) -> io::Result<File> {
        self.remove_arriving();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        Ok(openat(&self.directory, ARRIVING, flags, mode_of(executable))?.into())
    }

    /// Gives a new file its name. `is_named` is whether it has the temporary name.
    fn place_arriving(&self, file: &File, is_named: bool) -> io::Result<()> {
        if !is_named {
            self.remove_arriving();
            let follow = AtFlags::SYMLINK_FOLLOW;
            linkat(CWD, path_of(file), &self.directory, ARRIVING, follow)?;
        }
        Ok(renameat(
            &self.directory,
            ARRIVING,
            &self.directory,
            self.name,
        )?)
    }

    /// Removes a file with the temporary name, which a crash may have left.
    fn remove_arriving(&self) {
        let _ = unlinkat(&self.directory, ARRIVING, AtFlags::empty());
    }
}

impl Found {
    /// Returns the attributes of an open file.
    ///
    /// # Errors
    /// The error of the system.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }

    fn of(stat: &Stat) -> Self {
        Self {
            kind: FoundKind::of(FileType::from_raw_mode(stat.st_mode)),
            device: stat.st_dev,
            number: stat.st_ino,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            executable: stat.st_mode & 0o100 != 0,
            owner: stat.st_uid,
        }
    }
}

impl FoundKind {
    fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// Returns the path for a system call. The root of the folder is `.`.
fn as_local(path: &SharedPath) -> &Path {
    if path.is_root() {
        Path::new(".")
    } else {
        path.as_local()
    }
}

/// Returns whether no file of a share has this name.
fn is_reserved(name: &[u8]) -> bool {
    name == ARRIVING.as_bytes() || name == KEPT.as_bytes()
}

fn mode_of(executable: bool) -> Mode {
    if executable {
        EXECUTABLE_MODE
    } else {
        FILE_MODE
    }
}

/// Sets the owner, and the mode if the umask of the process took bits from it.
fn make_readable(made: impl AsFd, mode: Mode, owner: Owner) -> io::Result<()> {
    let found = fstat(&made)?;
    if let Some((user, group)) = owner
        && (found.st_uid, found.st_gid) != (user, group)
    {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        fchown(&made, Some(user), Some(group))?;
    }
    if Mode::from_raw_mode(found.st_mode & 0o777) != mode {
        fchmod(&made, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::Source;
    use p2pfs_types::digest::ContentHash;

    fn folder() -> (tempfile::TempDir, UpperFolder) {
        let dir = tempfile::tempdir_in(".").unwrap();
        let opened = File::open(dir.path()).unwrap();
        (dir, UpperFolder::new(Arc::new(opened)))
    }

    fn path(text: &str) -> SharedPath {
        SharedPath::new(text.as_bytes()).unwrap()
    }

    fn mark() -> WrittenMark {
        WrittenMark {
            replaces: vec![ContentHash::of(b"old")],
            ..WrittenMark::default()
        }
    }

    #[test]
    fn new_file_has_a_mark_and_is_readable_for_others() {
        let (dir, upper) = folder();
        let mut file = upper.create(&path("a"), false, None).unwrap();
        file.write_all(b"new").unwrap();
        upper.create(&path("b"), true, None).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("a"), mode("b")), (0o644, 0o755));
        assert_eq!(
            upper.mark(&path("a")).unwrap(),
            Some(WrittenMark::default())
        );
        let again = upper.create(&path("a"), false, None).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn replaced_file_has_its_bytes_and_mark_before_its_name() {
        let (dir, upper) = folder();
        fs::write(dir.path().join("a"), b"old").unwrap();
        // a crash left the temporary name
        fs::write(dir.path().join(ARRIVING), b"left").unwrap();
        let fill = |file: &File| {
            assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
            file.write_all_at(b"nnn", 0)
        };
        let file = upper
            .replace(&path("a"), &mark(), false, None, fill)
            .unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"nnn");
        assert_eq!(upper.mark(&path("a")).unwrap(), Some(mark()));
        let found = upper.find(&path("a")).unwrap().unwrap();
        assert_eq!(Found::of_file(&file).unwrap(), found);
        assert_eq!(upper.names(&SharedPath::root()).unwrap().len(), 1);
        assert!(!dir.path().join(ARRIVING).exists());
    }

    #[test]
    fn failed_fill_leaves_the_name_as_it_was() {
        let (dir, upper) = folder();
        fs::write(dir.path().join("a"), b"old").unwrap();
        let fill = |_: &File| Err(io::ErrorKind::TimedOut.into());
        let failed = upper.replace(&path("a"), &mark(), false, None, fill);
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_on_the_way_are_not_followed() {
        let (dir, upper) = folder();
        let other = tempfile::tempdir_in(".").unwrap();
        fs::write(other.path().join("secret"), b"s").unwrap();
        symlink(other.path(), dir.path().join("way")).unwrap();
        symlink(other.path().join("secret"), dir.path().join("link")).unwrap();
        assert_eq!(upper.find(&path("way/secret")).unwrap(), None);
        assert!(upper.open(&path("link"), true).is_err());
        assert!(upper.create(&path("way/new"), false, None).is_err());
        assert!(upper.remove(&path("way/secret")).is_err());
        assert!(upper.rename(&path("link"), &path("way/moved")).is_err());
        assert_eq!(upper.names(&path("way")).unwrap(), []);
        let link = upper.find(&path("link")).unwrap().unwrap();
        assert_eq!(link.kind, FoundKind::Symlink);
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_directories_above_are_made_with_marks() {
        let (dir, upper) = folder();
        upper.make_directories_above(&path("a/b/c"), None).unwrap();
        upper.make_directories_above(&path("a/b/c"), None).unwrap();
        upper.create(&path("a/b/c"), false, None).unwrap();
        let mode = fs::metadata(dir.path().join("a/b")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        assert!(upper.mark(&path("a")).unwrap().is_some());
        upper.rename(&path("a/b/c"), &path("d")).unwrap();
        upper.remove_directory(&path("a/b")).unwrap();
        let names = upper.names(&SharedPath::root()).unwrap();
        let mut names: Vec<_> = names.into_iter().map(|it| (it.name, it.kind)).collect();
        names.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [("a", FoundKind::Directory), ("d", FoundKind::File)];
        assert_eq!(
            names,
            expected.map(|(name, kind)| (name.as_bytes().into(), kind))
        );
    }

    #[test]
    fn local_file_is_copied_whole_from_its_start() {
        let (_dir, upper) = folder();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|it| it as u8).collect();
        let mut source = upper.create(&path("source"), false, None).unwrap();
        source.write_all(&bytes).unwrap();
        let source = Source::File(Arc::new(source));
        let fill = |file: &File| source.copy_to(file, bytes.len() as u64);
        upper
            .replace(&path("copy"), &mark(), true, None, fill)
            .unwrap();
        let fill = |file: &File| source.copy_to(file, bytes.len() as u64 + 1);
        let short = upper.replace(&path("short"), &mark(), true, None, fill);
        assert!(short.is_err() && upper.find(&path("short")).unwrap().is_none());
        let mut copied = Vec::new();
        let copy = upper.open(&path("copy"), false).unwrap();
        io::Read::read_to_end(&mut io::BufReader::new(copy), &mut copied).unwrap();
        assert_eq!(copied, bytes);
    }

    fn kept_names(upper: &UpperFolder) -> Vec<(String, u64)> {
        let kept = upper.kept().unwrap().into_iter();
        let named = |file: KeptFile| {
            let path = String::from_utf8(file.path.as_bytes().to_vec()).unwrap();
            (path, file.size_bytes)
        };
        kept.map(named).collect()
    }

    fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
    }

    #[test]
    fn removed_replaced_and_emptied_files_are_kept_and_restored_with_a_mark() {
        let (dir, upper) = folder();
        let names = ["a/removed", "replaced", "written", "emptied"];
        for (at, name) in names.iter().enumerate() {
            write(&dir, name, &vec![b'x'; at + 1]);
        }
        upper.remove(&path("a/removed")).unwrap();
        write(&dir, "new", b"new");
        upper.rename(&path("new"), &path("replaced")).unwrap();
        upper
            .replace(&path("written"), &mark(), false, None, |_| Ok(()))
            .unwrap();
        let emptied = upper.open(&path("emptied"), true).unwrap();
        upper.keep_emptied(&path("emptied"), &emptied);
        emptied.set_len(0).unwrap();
        let expected = names.iter().enumerate();
        let expected = expected.map(|(at, name)| ((*name).to_owned(), at as u64 + 1));
        assert_eq!(kept_names(&upper), expected.collect::<Vec<_>>());
        // a directory above may be gone
        fs::remove_dir(dir.path().join("a")).unwrap();
        for file in upper.kept().unwrap() {
            upper.restore(&file, &mark()).unwrap();
            let there = fs::read(dir.path().join(file.path.as_local())).unwrap();
            assert_eq!(there.len() as u64, file.size_bytes);
            assert_eq!(upper.mark(&file.path).unwrap(), Some(mark()));
        }
        // the replacement of one that was restored is kept in turn
        assert_eq!(kept_names(&upper), [("replaced".to_owned(), 3)]);
    }

    #[test]
    fn kept_files_are_in_no_listing_and_survive_a_restart() {
        let (dir, upper) = folder();
        write(&dir, "a", b"old");
        write(&dir, "empty", b"");
        symlink("a", dir.path().join("link")).unwrap();
        for name in ["a", "empty", "link"] {
            upper.remove(&path(name)).unwrap();
        }
        assert_eq!(upper.names(&SharedPath::root()).unwrap(), []);
        let mode = fs::metadata(dir.path().join(KEPT)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        let opened = UpperFolder::new(Arc::new(File::open(dir.path()).unwrap()));
        assert_eq!(kept_names(&opened), [("a".to_owned(), 3)]);
    }

    #[test]
    fn oldest_kept_files_go_when_a_limit_is_reached() {
        let (dir, mut upper) = folder();
        upper.kept.limits.bytes = 10;
        upper.kept.limits.files = 3;
        let remove = |upper: &UpperFolder, name: &str, length: usize| {
            write(&dir, name, &vec![b'x'; length]);
            upper.remove(&path(name)).unwrap();
        };
        for (name, length) in [("a", 4), ("b", 4), ("c", 4), ("large", 11)] {
            remove(&upper, name, length);
        }
        let names = |upper: &UpperFolder| -> Vec<String> {
            kept_names(upper).into_iter().map(|it| it.0).collect()
        };
        assert_eq!(names(&upper), ["b", "c"]);
        for name in ["d", "e"] {
            remove(&upper, name, 1);
        }
        assert_eq!(names(&upper), ["c", "d", "e"]);
        upper.kept.limits.floor_bytes = u64::MAX;
        remove(&upper, "f", 1);
        assert_eq!(names(&upper), ["c", "d", "e"]);
        upper.sweep_kept();
        assert_eq!(names(&upper), [""; 0]);
        upper.kept.limits.floor_bytes = 0;
        remove(&upper, "g", 1);
        upper.kept.limits.time = std::time::Duration::ZERO;
        upper.sweep_kept();
        assert_eq!(names(&upper), [""; 0]);
        assert!(upper.find(&path("f")).unwrap().is_none());
    }
}
