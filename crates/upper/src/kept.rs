//! Files that programs removed or replaced, kept for a while in a folder of the share.
//!
//! The folder [`KEPT`] is at the top of the upper folder. No share lists it and no mount shows it.
//! A removed file is renamed into it, and a replaced one gets a second name there, so neither costs
//! more than one change of a name. The name of a kept file is the time, and an extended attribute
//! has the path. The oldest files are removed first.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, XattrFlags, fgetxattr, fremovexattr,
    fsetxattr, fstat, fstatvfs, ioctl_ficlone, linkat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::copy::Source;
use super::folder::Place;
use p2pfs_types::files::trusted_way::open_beneath;
use p2pfs_types::path::{KEPT, PATH_MAX_BYTES, SharedPath};

/// How long a removed or replaced file is kept.
pub const KEPT_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Maximum total size in bytes of the kept files of one folder.
pub const KEPT_MAX_BYTES: u64 = 10 << 30;
/// Maximum number of kept files of one folder. Each takes a name and an inode.
pub const KEPT_MAX_FILES: usize = 100_000;
/// Minimum bytes that are free on the disk while files are kept there.
pub const KEPT_FLOOR_BYTES: u64 = 2 << 30;
/// Maximum size in bytes of a file that is copied before a program empties it, on a filesystem
/// that cannot share blocks. The copy takes less than a millisecond.
pub const KEPT_COPY_MAX_BYTES: u64 = 1 << 20;

/// Name of the extended attribute with the path of a kept file.
const PATH_NAME: &str = "user.p2pfs.kept";
/// Digits of the name of a kept file: the nanoseconds since 1970. In this form the names are in the
/// order of their times.
const NAME_DIGITS: usize = 20;

/// A removed or replaced file that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Its path in the folder.
    pub path: SharedPath,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// When it was removed or replaced: nanoseconds since 1970.
    pub time_ns: u64,
}

/// Limits of the kept files of one folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeptLimits {
    pub time: Duration,
    pub bytes: u64,
    pub files: usize,
    pub floor_bytes: u64,
}

impl Default for KeptLimits {
    fn default() -> Self {
        Self {
            time: KEPT_TIME,
            bytes: KEPT_MAX_BYTES,
            files: KEPT_MAX_FILES,
            floor_bytes: KEPT_FLOOR_BYTES,
        }
    }
}

/// How a file is kept.
#[derive(Clone, Copy)]
pub(super) enum Keeping<'a> {
    /// It loses its name.
    Move,
    /// Another file gets its name next.
    Link,
    /// A program empties it next.
    Copy(&'a File),
}

/// The time under which a file is kept.
pub(super) struct KeptTime(u64);

/// The kept files of one folder.
#[derive(Debug, Default)]
pub(super) struct KeptFiles {
    pub limits: KeptLimits,
    /// Times and sizes, the oldest first. They are read from the disk at first use.
    known: Mutex<Option<VecDeque<(u64, u64)>>>,
}

impl KeptFiles {
    /// Creates the access to the kept files, which are kept for this time.
    pub(super) fn new(time: Duration) -> Self {
        let limits = KeptLimits {
            time,
            ..KeptLimits::default()
        };
        Self {
            limits,
            known: Mutex::default(),
        }
    }

    /// Keeps the file at a place, if it is a regular file with bytes and the limits allow it.
    /// Returns its time. A failure of the disk means that it is not kept.
    pub(super) fn keep(
        &self,
        folder: &File,
        at: &Place<'_>,
        path: &SharedPath,
        how: Keeping<'_>,
    ) -> Option<KeptTime> {
        let found = statat(&at.directory, at.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let size_bytes = u64::try_from(found.st_size).unwrap_or(0);
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        let is_kept = is_file && (1..=self.limits.bytes).contains(&size_bytes);
        if !is_kept || free_bytes(folder) < self.limits.floor_bytes {
            return None;
        }
        let kept = open_or_make(folder).ok()?;
        let mut known = self.known.lock();
        let known = known.get_or_insert_with(|| read_sizes(&kept));
        let latest = known.back().map_or(0, |(time_ns, _)| *time_ns);
        let time_ns = now_ns().max(latest + 1);
        let name = name_of(time_ns);
        let named = match how {
            Keeping::Move => renameat(&at.directory, at.name, &kept, &name),
            Keeping::Link => linkat(&at.directory, at.name, &kept, &name, AtFlags::empty()),
            Keeping::Copy(file) => copy(file, size_bytes, &kept, &name),
        };
        named.ok()?;
        if set_path(&kept, &name, path).is_ok() {
            known.push_back((time_ns, size_bytes));
        } else {
            // Without the path it could not be restored.
            let _ = unlinkat(&kept, &name, AtFlags::empty());
        }
        self.trim(folder, &kept, known);
        Some(KeptTime(time_ns))
    }

    /// Forgets a file that was kept with [`Keeping::Link`] and that did not lose its name.
    pub(super) fn forget(&self, folder: &File, kept: Option<KeptTime>) {
        let (Some(KeptTime(time_ns)), Ok(kept)) = (kept, open(folder)) else {
            return;
        };
        let mut known = self.known.lock();
        let _ = unlinkat(&kept, name_of(time_ns), AtFlags::empty());
        if let Some(known) = known.as_mut() {
            known.retain(|(time, _)| *time != time_ns);
        }
    }

    /// Removes what is older or larger than the limits.
    pub(super) fn sweep(&self, folder: &File) {
        let Ok(kept) = open(folder) else { return };
        let mut known = self.known.lock();
        let known = known.get_or_insert_with(|| read_sizes(&kept));
        self.trim(folder, &kept, known);
    }

    fn trim(&self, folder: &File, kept: &OwnedFd, known: &mut VecDeque<(u64, u64)>) {
        let mut total: u64 = known.iter().map(|(_, size)| size).sum();
        let time_ns = u64::try_from(self.limits.time.as_nanos()).unwrap_or(u64::MAX);
        let oldest_ns = now_ns().saturating_sub(time_ns);
        while let Some((time, size_bytes)) = known.front().copied() {
            let is_over = total > self.limits.bytes || known.len() > self.limits.files;
            if !is_over && time >= oldest_ns && free_bytes(folder) >= self.limits.floor_bytes {
                return;
            }
            known.pop_front();
            total -= size_bytes;
            let _ = unlinkat(kept, name_of(time), AtFlags::empty());
        }
    }

    /// Returns the kept files, the oldest first.
    pub(super) fn list(&self, folder: &File) -> io::Result<Vec<KeptFile>> {
        let kept = match open(folder) {
            Ok(kept) => kept,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut files = Vec::new();
        for time_ns in times(&kept)? {
            // Another thread may have removed it.
            if let Ok(file) = kept_file(&kept, time_ns) {
                files.extend(file);
            }
        }
        Ok(files)
    }

    /// Gives a kept file to `prepare`, and then a name.
    pub(super) fn restore(
        &self,
        folder: &File,
        file: &KeptFile,
        to: &Place<'_>,
        prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = open(folder)?;
        let mut known = self.known.lock();
        let name = name_of(file.time_ns);
        let opened = open_file(&kept, &name)?;
        prepare(&opened)?;
        renameat(&kept, &name, &to.directory, to.name)?;
        if let Some(known) = known.as_mut() {
            known.retain(|(time_ns, _)| *time_ns != file.time_ns);
        }
        // A leftover attribute has no effect.
        let _ = fremovexattr(&opened, PATH_NAME);
        Ok(())
    }
}

fn name_of(time_ns: u64) -> String {
    format!("{time_ns:0NAME_DIGITS$}")
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns the free bytes of the disk. A disk that fails has none.
fn free_bytes(folder: &File) -> u64 {
    fstatvfs(folder).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize))
}

fn open(folder: &File) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(folder, Path::new(KEPT), flags, ResolveFlags::empty())
}

fn open_or_make(folder: &File) -> rustix::io::Result<OwnedFd> {
    match open(folder) {
        Err(Errno::NOENT) => {
            mkdirat(folder, KEPT, Mode::RWXU)?;
            open(folder)
        }
        opened => opened,
    }
}

fn open_file(kept: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(kept, name, flags, Mode::empty())
}

fn set_path(kept: &OwnedFd, name: &str, path: &SharedPath) -> rustix::io::Result<()> {
    let file = open_file(kept, name)?;
    fsetxattr(&file, PATH_NAME, path.as_bytes(), XattrFlags::empty())
}

/// Copies a file under a new name, by shared blocks or if it is small.
fn copy(file: &File, size_bytes: u64, kept: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(fstat(file)?.st_mode & 0o777);
    let copied = File::from(openat(kept, name, flags, mode)?);
    let cloned = ioctl_ficlone(&copied, file);
    if cloned.is_ok() {
        return Ok(());
    }
    if size_bytes <= KEPT_COPY_MAX_BYTES {
        let whole = file.try_clone().map(|file| Source::File(file.into()));
        if whole.is_ok_and(|whole| whole.copy_to(&copied, size_bytes).is_ok()) {
            return Ok(());
        }
    }
    let _ = unlinkat(kept, name, AtFlags::empty());
    Err(Errno::OPNOTSUPP)
}

/// Returns the times of the kept files in ascending order.
fn times(kept: &OwnedFd) -> rustix::io::Result<Vec<u64>> {
    // The descriptor has a position, which another thread may move.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = openat(kept, c".", flags, Mode::empty())?;
    let mut times = Vec::new();
    let mut buffer = Vec::with_capacity(64 * 1024);
    let mut entries = RawDir::new(&listed, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        let name = name.filter(|name| name.len() == NAME_DIGITS);
        times.extend(name.and_then(|name| name.parse::<u64>().ok()));
    }
    times.sort_unstable();
    Ok(times)
}

fn read_sizes(kept: &OwnedFd) -> VecDeque<(u64, u64)> {
    let times = times(kept).unwrap_or_default().into_iter();
    let size = |time_ns: u64| {
        let found = statat(kept, name_of(time_ns), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((time_ns, u64::try_from(found.st_size).unwrap_or(0)))
    };
    times.filter_map(size).collect()
}

/// Returns a kept file. Returns `None` if its path cannot be read.
fn kept_file(kept: &OwnedFd, time_ns: u64) -> rustix::io::Result<Option<KeptFile>> {
    let file = open_file(kept, &name_of(time_ns))?;
    let found = fstat(&file)?;
    let mut path = [0; PATH_MAX_BYTES];
    let length = fgetxattr(&file, PATH_NAME, path.as_mut_slice())?;
    let path = SharedPath::new(&path[..length]).ok();
    Ok(path.map(|path| KeptFile {
        path,
        size_bytes: u64::try_from(found.st_size).unwrap_or(0),
        mtime: (
            found.st_mtime,
            u32::try_from(found.st_mtime_nsec).unwrap_or(0),
        ),
        time_ns,
    }))
}
