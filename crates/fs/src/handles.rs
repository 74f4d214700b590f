//! Open handles: of a file, or of the status.
//!
//! A handle stays with the file that was opened, whatever the name stands for later: with one
//! version of its bytes or, for an own file, with the file itself as it changes. At most
//! [`OPEN_HANDLES_MAX`] handles are opened. The kernel's own limit of open files may be lower.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::error::FsError;
use super::pages_behind::ReadRun;
use super::traits::{OpenContent, ReadNow, ReadReply, ReadWait};
use p2pfs_types::extent::ByteRange;

/// Maximum open handles. A further open gets ENFILE. The limit is far above the number of files
/// that one machine opens, and bounds the cost of a leak.
pub const OPEN_HANDLES_MAX: usize = 1 << 18;
/// How long a failed read is remembered for one handle. The kernel repeats a failed read-ahead page
/// by page, at once. A user that tries again later gets a new attempt. The plan of
/// `p2pfs_fetch` remembers a failure for all readers of a file, but only for 1 s.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(3);
/// Maximum failed reads that one handle remembers: the number of read-aheads that one reader has in
/// flight. The oldest is forgotten first.
pub const FAILURES_MAX: usize = 16;

/// An open file or status.
pub enum Handle {
    /// A version of a file, read through its content.
    File(OpenFile),
    /// The daemon's status at the time of the open.
    Status(Vec<u8>),
}

/// An open file.
pub struct OpenFile {
    /// The inode number.
    pub ino: u64,
    /// The content that provides the bytes.
    pub content: Arc<dyn OpenContent>,
    /// The kind of its bytes: a fixed version or a live file.
    pub state: FileState,
    /// The reach of its reader.
    pub reach: Reach,
    /// Whether the kernel caches pages of this open, and the file was not complete here at the
    /// open.
    pub fills_pages: bool,
    pub(super) run: Mutex<ReadRun>,
    failures: Mutex<Vec<FailedRead>>,
}

/// The kind of an open file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Verified bytes of a fixed version. The kernel may read them itself.
    Version {
        /// Length of the version in bytes.
        size_bytes: u64,
    },
    /// An own file, read in its present state at each read.
    Live,
}

/// The sources from which a reader may get bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Local bytes only. Reads cause no fetch.
    Cached,
    /// Other nodes for the requested bytes, without read-ahead.
    Asked,
    /// Other nodes, with read-ahead.
    #[default]
    Everything,
}

#[derive(Clone, Copy)]
struct FailedRead {
    range: ByteRange,
    error: FsError,
    until: Instant,
}

/// Result of a read that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// Number of bytes at the start of the buffer that were read.
    Done(usize),
    /// The bytes that the read must wait for.
    Wait(ByteRange),
}

/// A read of a handle that waits for bytes.
#[derive(Clone)]
pub struct PendingRead {
    handle: Weak<Handle>,
    range: ByteRange,
    wait: ReadWait,
}

impl PendingRead {
    /// Returns the deadline of the read if no further bytes arrive. Returns `None` if it is not
    /// known, or if the read no longer waits.
    pub fn waits_until(&self) -> Option<Instant> {
        self.wait.until()
    }

    /// Cancels the read, which no reader waits for, and remembers the failure `why`.
    pub fn abandon(&self, why: FsError) {
        if let Some(Handle::File(file)) = self.handle.upgrade().as_deref() {
            file.remember_failure(self.range, why, Instant::now());
            if why == FsError::DeadlinePassed {
                file.content.record_timeout();
            }
        }
        self.wait.cancel();
    }
}

impl Handle {
    /// Reads bytes that are local. The reader's reach is limited by `reach` and by the reach at the
    /// open.
    ///
    /// # Errors
    /// The errors of the content, or a remembered failure of the same bytes. [`FsError::Denied`] if
    /// bytes are missing and the reach is [`Reach::Cached`].
    pub fn read_now(
        &self,
        offset: u64,
        buffer: &mut [u8],
        reach: Reach,
    ) -> Result<ReadStep, FsError> {
        let file = match self {
            Self::File(file) => file,
            Self::Status(status) => return Ok(ReadStep::Done(copy_from(status, offset, buffer))),
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
            ReadNow::Done(length) if file.is_whole(range, length) => Ok(ReadStep::Done(length)),
            ReadNow::Done(_) => Err(FsError::Fault),
            ReadNow::Failed(error) => Err(error),
            ReadNow::Wait if reach == Reach::Cached => Err(FsError::Denied),
            ReadNow::Wait => match file.recent_failure(range, Instant::now()) {
                Some(error) => Err(error),
                None => Ok(ReadStep::Wait(range)),
            },
        }
    }

    /// Requests bytes for which [`Handle::read_now`] returned [`ReadStep::Wait`]. The reply is
    /// called once, from any thread, possibly before this returns.
    pub fn read(self: &Arc<Self>, range: ByteRange, reach: Reach, reply: ReadReply) -> PendingRead {
        let (content, reach) = match &**self {
            Self::File(file) => (&file.content, file.reach.min(reach)),
            _ => unreachable!("only files have bytes to wait for"),
        };
        // A pending read does not keep the handle open.
        let asked = Arc::downgrade(self);
        let checked: ReadReply = Box::new(move |result| {
            let asked = asked.upgrade();
            let Some(Self::File(file)) = asked.as_deref() else {
                return reply(Err(FsError::BadHandle));
            };
            reply(match result {
                Ok(bytes) if !file.is_whole(range, bytes.len()) => Err(FsError::Fault),
                Ok(bytes) => Ok(bytes),
                Err(error) => {
                    file.remember_failure(range, error, Instant::now());
                    Err(error)
                }
            });
        });
        PendingRead {
            handle: Arc::downgrade(self),
            range,
            wait: content.read(range, reach == Reach::Everything, checked),
        }
    }

    /// Returns the number of bytes of a range that must be fetched.
    pub fn missing_bytes(&self, range: ByteRange) -> u64 {
        match self {
            Self::File(file) => file.content.missing_bytes(range),
            Self::Status(_) => 0,
        }
    }

    /// Returns the number of bytes of a range that arrived from other nodes since the file was
    /// opened.
    pub fn arrived_bytes(&self, range: ByteRange) -> u64 {
        match self {
            Self::File(file) => file.content.arrived_bytes(range),
            Self::Status(_) => 0,
        }
    }
}

impl OpenFile {
    /// Creates the state of a file that was just opened.
    pub fn new(ino: u64, content: Arc<dyn OpenContent>, state: FileState) -> Self {
        let failures = Mutex::default();
        Self {
            ino,
            content,
            state,
            reach: Reach::default(),
            fills_pages: false,
            run: Mutex::default(),
            failures,
        }
    }

    /// Returns the part of a read that lies within the file. The end of a live file is not known.
    pub fn cut(&self, offset: u64, size_bytes: u32) -> ByteRange {
        let asked = ByteRange::at(offset, u64::from(size_bytes));
        match self.state {
            FileState::Live => asked,
            FileState::Version { size_bytes } => asked.intersection(&ByteRange::new(0, size_bytes)),
        }
    }

    /// Returns whether an answer of this length is complete. A short answer without an error is
    /// allowed only at the end of a live file.
    pub fn is_whole(&self, range: ByteRange, length_bytes: usize) -> bool {
        let length_bytes = length_bytes as u64;
        length_bytes == range.len() || (self.state == FileState::Live && length_bytes < range.len())
    }

    /// Remembers that a range could not be read.
    pub fn remember_failure(&self, range: ByteRange, error: FsError, now: Instant) {
        if !error.is_worth_remembering() {
            return;
        }
        let mut failures = self.failures.lock();
        failures.retain(|failure| failure.until > now);
        if failures.len() == FAILURES_MAX {
            failures.remove(0);
        }
        failures.push(FailedRead {
            range,
            error,
            until: now + FAILURE_MEMORY,
        });
    }

    /// Returns the remembered failure of a range, if it lies within a read that failed recently.
    pub fn recent_failure(&self, range: ByteRange, now: Instant) -> Option<FsError> {
        let failures = self.failures.lock();
        let within = |failure: &&FailedRead| failure.until > now && failure.range.contains(&range);
        failures.iter().find(within).map(|failure| failure.error)
    }
}

/// All open handles, by the number that the kernel uses for them.
#[derive(Default)]
pub struct Handles {
    open: RwLock<HashMap<u64, Arc<Handle>>>,
    last_number: AtomicU64,
}

impl Handles {
    /// Adds a handle and returns its number. A number is never used twice.
    ///
    /// # Errors
    /// [`FsError::TooManyHandles`] at [`OPEN_HANDLES_MAX`].
    pub fn insert(&self, handle: Handle) -> Result<u64, FsError> {
        let mut open = self.open.write();
        if open.len() >= OPEN_HANDLES_MAX {
            return Err(FsError::TooManyHandles);
        }
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        open.insert(number, Arc::new(handle));
        Ok(number)
    }

    /// Sets the number after which new handles are numbered.
    pub fn number_after(&self, number: u64) {
        self.last_number.store(number, Ordering::Relaxed);
    }

    /// Adds a handle under a number that the kernel has already. Returns the handle under that
    /// number, and whether it is the given one.
    pub fn insert_as(&self, number: u64, handle: Handle) -> (Arc<Handle>, bool) {
        let mut open = self.open.write();
        if let Some(there) = open.get(&number) {
            return (there.clone(), false);
        }
        let handle = Arc::new(handle);
        open.insert(number, handle.clone());
        (handle, true)
    }

    /// Returns the handle of a number.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] if there is none.
    pub fn get(&self, number: u64) -> Result<Arc<Handle>, FsError> {
        let open = self.open.read();
        open.get(&number).cloned().ok_or(FsError::BadHandle)
    }

    /// Removes and returns a handle.
    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.write().remove(&number)
    }

    /// Removes and returns all handles.
    pub fn drain(&self) -> Vec<Arc<Handle>> {
        let mut open = self.open.write();
        open.drain().map(|(_, handle)| handle).collect()
    }

    /// Returns the inode numbers of the open files, each once.
    pub fn inodes(&self) -> BTreeSet<u64> {
        let open = self.open.read();
        let ino = |handle: &Arc<Handle>| match &**handle {
            Handle::File(file) => Some(file.ino),
            Handle::Status(_) => None,
        };
        open.values().filter_map(ino).collect()
    }

    /// Returns the number of open handles.
    pub fn count(&self) -> usize {
        self.open.read().len()
    }
}

fn copy_from(bytes: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let length = buffer.len().min(bytes.len() - start);
    buffer[..length].copy_from_slice(&bytes[start..start + length]);
    length
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    struct Unread;

    impl OpenContent for Unread {
        fn read_now(&self, _: u64, _: &mut [u8]) -> ReadNow {
            ReadNow::Wait
        }

        fn read(&self, _: ByteRange, _: bool, _: ReadReply) -> ReadWait {
            ReadWait::ended()
        }

        fn backing(&self) -> Option<Arc<File>> {
            None
        }
    }

    fn open(state: FileState) -> OpenFile {
        OpenFile::new(2, Arc::new(Unread), state)
    }

    fn version(size_bytes: u64) -> OpenFile {
        open(FileState::Version { size_bytes })
    }

    #[test]
    fn a_read_past_the_end_is_shortened_and_a_live_file_has_no_end() {
        assert_eq!(version(100).cut(90, 4096), ByteRange::new(90, 100));
        assert!(version(100).cut(100, 4096).is_empty());
        assert!(version(100).cut(u64::MAX, 4096).is_empty());
        let live = open(FileState::Live);
        assert_eq!(live.cut(90, 10), ByteRange::new(90, 100));
    }

    #[test]
    fn an_answer_of_the_wrong_length_is_not_whole() {
        let range = ByteRange::new(0, 10);
        assert!(version(10).is_whole(range, 10));
        assert!(!version(10).is_whole(range, 9) && !version(10).is_whole(range, 11));
        let live = open(FileState::Live);
        assert!(live.is_whole(range, 3) && !live.is_whole(range, 11));
    }

    #[test]
    fn repeats_of_a_failed_read_fail_at_once_for_a_moment() {
        let (file, now) = (version(1 << 20), Instant::now());
        file.remember_failure(ByteRange::new(0, 131072), FsError::DeadlinePassed, now);
        let page = ByteRange::new(4096, 8192);
        assert_eq!(
            file.recent_failure(page, now),
            Some(FsError::DeadlinePassed)
        );
        assert_eq!(
            file.recent_failure(ByteRange::new(131072, 135168), now),
            None
        );
        assert_eq!(file.recent_failure(page, now + FAILURE_MEMORY), None);
    }

    #[test]
    fn an_interrupted_read_is_not_remembered_and_failures_are_bounded() {
        let (file, now) = (version(1 << 20), Instant::now());
        file.remember_failure(ByteRange::new(0, 10), FsError::Interrupted, now);
        assert_eq!(file.recent_failure(ByteRange::new(0, 10), now), None);
        for start in 0..=FAILURES_MAX as u64 {
            let range = ByteRange::new(start, start + 1);
            file.remember_failure(range, FsError::Unreachable, now);
        }
        assert_eq!(
            file.recent_failure(ByteRange::new(0, 1), now),
            None,
            "the oldest went"
        );
        let newest = ByteRange::at(FAILURES_MAX as u64, 1);
        assert_eq!(file.recent_failure(newest, now), Some(FsError::Unreachable));
    }

    #[test]
    fn an_open_over_the_limit_is_refused_until_a_close() {
        let handles = Handles::default();
        let insert = || handles.insert(Handle::Status(Vec::new()));
        let open: Vec<u64> = (0..OPEN_HANDLES_MAX).map(|_| insert().unwrap()).collect();
        assert_eq!(insert(), Err(FsError::TooManyHandles));
        assert_eq!(FsError::TooManyHandles.errno(), libc::ENFILE);
        handles.remove(open[7]);
        assert!(insert().is_ok());
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let handles = Handles::default();
        let insert = || handles.insert(Handle::Status(Vec::new())).unwrap();
        let first = insert();
        assert!(handles.remove(first).is_some());
        assert_ne!(insert(), first);
        assert_eq!(handles.get(first).err(), Some(FsError::BadHandle));
        assert_eq!(
            (handles.count(), handles.drain().len(), handles.count()),
            (1, 1, 0)
        );
    }
}
