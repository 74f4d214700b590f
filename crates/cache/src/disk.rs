//! Every change that the cache makes on disk goes through here, one call a change, so that a test
//! can cut the power at any of them.
//!
//! Reading does not: it changes nothing. Short writes are continued, interrupted ones repeated.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, XattrFlags, fsetxattr, getxattr};
use rustix::io::Errno;

use super::map::SMALL_BYTES;
use p2pfs_types::files::{make_private_dir, open_private};

/// What is written to try a disk: about what one store brings.
const TRIAL_BYTES: usize = 128 << 10;

/// How far a file that is put in place of another must have come when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Into the kernel's memory: a kill cannot undo it, a power cut can.
    Memory,
    /// Its bytes are on the disk, so that its name never stands for less.
    Bytes,
    /// Its name too: not even a power cut brings the old file back.
    Name,
}

/// The disk; in tests one that can fail and forget.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(any(test, feature = "test-support"))]
    pub(super) faults: Option<std::sync::Arc<super::faults::Faults>>,
}

impl Disk {
    /// Makes a directory that only its owner may enter; one that exists is left as it is.
    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.allow_change()?;
        make_private_dir(path)
    }

    /// Opens a file for reading and writing, made where it does not exist.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.allow_change()?;
        open_private(path)
    }

    pub(super) fn set_len(&self, file: &File, length_bytes: u64) -> io::Result<()> {
        self.allow_change()?;
        file.set_len(length_bytes)
    }

    /// Writes all of the slices, with one system call where the kernel takes them all.
    pub(super) fn write_at(
        &self,
        file: &File,
        slices: &mut [IoSlice<'_>],
        offset: u64,
    ) -> io::Result<()> {
        self.allow_write(file, slices, offset)?;
        write_all(file, slices, offset)
    }

    /// The same for bytes of `file`, by another descriptor of it that goes past the kernel's pages.
    pub(super) fn write_by(
        &self,
        descriptor: &File,
        file: &File,
        bytes: &[u8],
        offset: u64,
    ) -> io::Result<()> {
        let mut slices = [IoSlice::new(bytes)];
        self.allow_direct()?;
        self.allow_write(file, &slices, offset)?;
        write_all(descriptor, &mut slices, offset)
    }

    /// Adds bytes to the end of a file, made where it does not exist.
    pub(super) fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = if path.exists() {
            open_writable(path)?
        } else {
            self.create(path)?
        };
        let end = file.metadata()?.len();
        self.write_at(&file, &mut [IoSlice::new(bytes)], end)
    }

    /// Puts a file with these bytes in the place of `path`, so that at any time either the old or
    /// the new one is there.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8], reach: Reach) -> io::Result<()> {
        let new = replacement(path);
        self.remove(&new)?;
        let file = self.create(&new)?;
        self.write_at(&file, &mut [IoSlice::new(bytes)], 0)?;
        if reach != Reach::Memory {
            self.sync(&file)?;
        }
        self.allow_change()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(dir) if reach == Reach::Name => self.sync(&File::open(dir)?),
            _ => Ok(()),
        }
    }

    /// Writes something and removes it: fails where changes are refused now.
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

    /// Removes a file; one that is not there is no error.
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

    /// Sets a file's mtime.
    pub(super) fn touch(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        self.allow_change()?;
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        File::open(path)?.set_times(times)
    }

    /// Sets the attribute that is a small file's map, as a whole.
    pub(super) fn set_map_attribute(&self, file: &File, map: &[u8]) -> io::Result<()> {
        self.allow_attribute()?;
        Ok(fsetxattr(file, MAP_ATTRIBUTE, map, XattrFlags::empty())?)
    }

    /// Takes disk space for a range within the file, which reads as zeros where nothing was
    /// written.
    pub(super) fn allocate(&self, file: &File, offset: u64, length_bytes: u64) -> io::Result<()> {
        self.allow_allocation()?;
        let mode = FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, mode, offset, length_bytes).map_err(as_of_disk)
    }

    /// Gives the disk space of a range back.
    pub(super) fn punch(&self, file: &File, offset: u64, length_bytes: u64) -> io::Result<()> {
        self.allow_change()?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, mode, offset, length_bytes).map_err(as_of_disk)
    }

    /// How many bytes the file system of `dir` still has for us.
    pub(super) fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        #[cfg(any(test, feature = "test-support"))]
        if let Some(free_bytes) = self.faults.as_ref().and_then(|faults| faults.free_bytes()) {
            return Ok(free_bytes);
        }
        let stat = rustix::fs::statvfs(dir)?;
        if stat.f_blocks == 0 {
            // one that counts nothing, as ramfs
            return Ok(u64::MAX);
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// What tests come between: with them a step may fail, or happen in part (`faults`).
#[cfg(not(any(test, feature = "test-support")))]
impl Disk {
    fn allow_write(&self, _: &File, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Ok(())
    }

    /// Whether to ask the real disk.
    fn allow_sync(&self, _: &File) -> io::Result<bool> {
        Ok(true)
    }

    fn allow_change(&self) -> io::Result<()> {
        Ok(())
    }

    fn allow_attribute(&self) -> io::Result<()> {
        Ok(())
    }

    fn allow_direct(&self) -> io::Result<()> {
        Ok(())
    }

    fn allow_allocation(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The name of the attribute that is a small file's map.
const MAP_ATTRIBUTE: &str = "user.p2pfs.map";

/// The attribute that is a small file's map; nothing where there is none, or no such file.
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

/// The most slices that one `pwritev` takes (`UIO_MAXIOV`, linux/uio.h).
const SLICES_MAX: usize = 1024;

/// Writes all of the slices, with one system call where the kernel takes them all.
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

/// The name under which a file is written that will take the place of `path`.
pub(super) fn replacement(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// What a change of a file says that could be opened for reading only: the kernel blames the
/// descriptor (EBADF of pwrite(2) and fallocate(2)), but it is the disk that refuses.
fn as_of_disk(errno: Errno) -> io::Error {
    match errno {
        Errno::BADF => Errno::ROFS.into(),
        errno => errno.into(),
    }
}

/// Whether a file could not be opened for writing though it may be readable: its disk was turned
/// read-only, as by the kernel after an error of it, or the file was protected.
pub(super) fn may_be_readable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

/// Opens an existing file for reading and writing.
pub(super) fn open_writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
