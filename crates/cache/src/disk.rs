//! Gateway for every change that the cache makes on disk, one call per change. Tests can cut the
//! power at any of these calls.
//!
//! Reads bypass this module because they change nothing. Short writes are continued, and
//! interrupted writes are repeated.

use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, XattrFlags, fsetxattr, getxattr};
use rustix::io::Errno;

#[cfg(any(test, feature = "test-support"))]
use super::faults::Faults;
use super::map::SMALL_BYTES;
use p2pfs_types::files::{
    create_private, make_private_dir, open_own, open_own_writable, open_private,
};

/// Size of a trial write: about the size of one store.
const TRIAL_BYTES: usize = 128 << 10;

/// Durability that a file replacement must have reached when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplaceDurability {
    /// In kernel memory: survives a kill but not a power cut.
    Memory,
    /// The bytes are on the disk, so the name never refers to an incomplete file.
    Bytes,
    /// The name is on the disk too: even a power cut does not restore the old file.
    Name,
}

/// The disk. Test builds can inject faults and loss of unsynced data.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(any(test, feature = "test-support"))]
    pub(super) faults: Option<std::sync::Arc<Faults>>,
}

impl Disk {
    /// Creates a directory that only its owner may enter. An existing directory is left unchanged.
    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.allow_change()?;
        make_private_dir(path)
    }

    /// Opens a file for reading and writing, and creates it if it does not exist.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.allow_change()?;
        open_private(path)
    }

    /// Creates an empty file for reading and writing, in a directory that is created if it does not
    /// exist. A file with this name is removed first. If there is neither, this is one system call.
    pub(super) fn create_empty(&self, path: &Path) -> io::Result<File> {
        let create = || {
            self.allow_change()?;
            create_private(path)
        };
        match create() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.remove(path)?;
                create()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), |dir| self.make_dir(dir))?;
                create()
            }
            created => created,
        }
    }

    pub(super) fn set_len(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        self.allow_change()?;
        file.set_len(length_bytes)
    }

    /// Writes all slices, with one system call if the kernel takes them all.
    pub(super) fn write_at(
        &self,
        file: &File,
        slices: &mut [IoSlice<'_>],
        offset: u64,
    ) -> io::Result<()> {
        self.allow_write(file, slices, offset)?;
        write_all(file, slices, offset)
    }

    /// Appends bytes to a file, and creates it if it does not exist.
    pub(super) fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = if path.exists() {
            open_own_writable(path)?
        } else {
            self.create(path)?
        };
        let end = file.metadata()?.len();
        self.write_at(&file, &mut [IoSlice::new(bytes)], end)
    }

    /// Replaces the file at `path` atomically by one with these bytes.
    pub(super) fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        reach: ReplaceDurability,
    ) -> io::Result<()> {
        let new = replacement(path);
        self.remove(&new)?;
        let file = self.create(&new)?;
        self.write_at(&file, &mut [IoSlice::new(bytes)], 0)?;
        if reach != ReplaceDurability::Memory {
            self.sync(&file)?;
        }
        self.allow_change()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(dir) if reach == ReplaceDurability::Name => self.sync(&File::open(dir)?),
            _ => Ok(()),
        }
    }

    /// Writes a trial file and removes it. Fails if the disk refuses changes.
    pub(super) fn try_out(&self, path: &Path) -> io::Result<()> {
        let file = self.create(path)?;
        let written = self.write_at(&file, &mut [IoSlice::new(&[0; TRIAL_BYTES])], 0);
        self.remove(path).and(written)
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        if self.allow_sync(file)? {
            file.sync_data()
        } else {
            Ok(())
        }
    }

    /// Removes a file. A missing file is not an error.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = fs::symlink_metadata(path).and_then(|_| {
            self.allow_change()?;
            fs::remove_file(path)
        });
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets the access and modification times of a file.
    pub(super) fn touch(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        self.allow_change()?;
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        open_own(path)?.set_times(times)
    }

    /// Sets the attribute with the map of a small file, atomically.
    pub(super) fn set_map_attribute(&self, file: &File, map: &[u8]) -> io::Result<()> {
        self.allow_attribute()?;
        Ok(fsetxattr(file, MAP_ATTRIBUTE, map, XattrFlags::empty())?)
    }

    /// Allocates the blocks of a range that is written next. A failure is ignored: the write then
    /// allocates them itself, and reports a full disk.
    pub(super) fn allocate(&self, file: &File, offset: u64, length_bytes: u64) {
        let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, length_bytes);
    }

    /// Frees the disk space of a range.
    pub(super) fn punch(&self, file: &File, offset: u64, length_bytes: u64) -> io::Result<()> {
        self.allow_change()?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, mode, offset, length_bytes).map_err(as_of_disk)
    }

    /// Returns the bytes available to this process on the file system of `dir`.
    pub(super) fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        #[cfg(any(test, feature = "test-support"))]
        if let Some(free_bytes) = self.faults.as_ref().and_then(|faults| faults.free_bytes()) {
            return Ok(free_bytes);
        }
        let stat = rustix::fs::statvfs(dir)?;
        if stat.f_blocks == 0 {
            // File systems such as ramfs report no block counts.
            return Ok(u64::MAX);
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Checks that every change passes before it happens. The simulated disk of a test can fail or
/// truncate it.
#[cfg(any(test, feature = "test-support"))]
impl Disk {
    fn allow_write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.ask(|faults| faults.allow_write(file, slices, offset))
    }

    /// Returns whether to sync the real disk.
    fn allow_sync(&self, file: &File) -> io::Result<bool> {
        self.ask(|faults| faults.allow_sync(file))?;
        Ok(self.faults.is_none())
    }

    fn allow_change(&self) -> io::Result<()> {
        self.ask(Faults::allow_change)
    }

    fn allow_attribute(&self) -> io::Result<()> {
        self.ask(Faults::allow_attribute)
    }

    fn ask(&self, faults: impl FnOnce(&Faults) -> io::Result<()>) -> io::Result<()> {
        self.faults.as_deref().map_or(Ok(()), faults)
    }
}

/// The same checks outside of tests: every change may happen.
#[cfg(not(any(test, feature = "test-support")))]
impl Disk {
    fn allow_write(&self, _: &File, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Ok(())
    }

    /// Returns whether to sync the real disk.
    fn allow_sync(&self, _: &File) -> io::Result<bool> {
        Ok(true)
    }

    fn allow_change(&self) -> io::Result<()> {
        Ok(())
    }

    fn allow_attribute(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Name of the attribute with the map of a small file.
const MAP_ATTRIBUTE: &str = "user.p2pfs.map";

/// Reads the attribute with the map of a small file. Returns `None` if the file or the attribute
/// does not exist, if the file system has no attributes, or if the value is too long.
pub(super) fn map_attribute(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut map = vec![0; 2 * SMALL_BYTES];
    match getxattr(path, MAP_ATTRIBUTE, &mut map[..]) {
        Ok(length) => {
            map.truncate(length);
            Ok(Some(map))
        }
        Err(Errno::NODATA | Errno::NOENT | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Maximum number of slices of one `pwritev` call (`UIO_MAXIOV`, linux/uio.h).
const SLICES_MAX: usize = 1024;

/// Writes all slices, with one system call if the kernel takes them all.
fn write_all(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    let mut left: usize = slices.iter().map(|slice| slice.len()).sum();
    while left > 0 {
        let batch = slices.len().min(SLICES_MAX);
        let written = match rustix::io::pwritev(file, &slices[..batch], offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(as_of_disk(errno)),
        };
        left -= written;
        offset += written as u64;
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// Returns the temporary name of the file that will replace `path`.
pub(super) fn replacement(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Converts the error of a change through a read-only descriptor. The kernel blames the descriptor
/// (EBADF of pwrite(2) and fallocate(2)), but the cause is that the disk refuses writes.
fn as_of_disk(errno: Errno) -> io::Error {
    match errno {
        Errno::BADF => Errno::ROFS.into(),
        errno => errno.into(),
    }
}

/// Returns whether a file that cannot be opened for writing may still be readable: its disk became
/// read-only, for example by the kernel after a disk error, or the file is protected.
pub(super) fn may_be_readable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}
