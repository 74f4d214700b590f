//! Read counters for each process and file. Updating them never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum number of reported files of one process. Beyond it, the closed file that was read
/// longest ago is dropped. If all are open, further files count only for the process.
pub const FILES_MAX: usize = 64;

/// A reading process, identified by the number of its first thread.
pub(super) struct ReadingProcess {
    pub pid: u32,
    pub uid: u32,
    known_as: Mutex<KnownAs>,
    opens: AtomicU64,
    given: GivenCounters,
    files: Mutex<HashMap<u64, Arc<FileReads>>>,
    speed: Mutex<ReadRate>,
}

/// Name and rules of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownAs {
    /// Name kept by the kernel, at most 15 bytes.
    pub name: String,
    /// Unit of the service manager.
    pub unit: Option<String>,
    /// Whether the process gets only cached bytes.
    pub cached_only: bool,
    /// Fetch limit in bytes per second.
    pub budget_bytes_s: Option<u64>,
}

/// Reads of one file by one process.
pub(super) struct FileReads {
    pub process: Arc<ReadingProcess>,
    pub ino: u64,
    pub path: Box<[u8]>,
    open: AtomicU32,
    by_kernel: AtomicBool,
    given: GivenCounters,
}

#[derive(Default)]
struct GivenCounters {
    reads: AtomicU64,
    cache_bytes: AtomicU64,
    peer_bytes: AtomicU64,
    /// Time of the last open or read, in milliseconds since the mount began.
    last_ms: AtomicU64,
}

struct ReadRate {
    /// Time of the last update, or of the start.
    looked: Instant,
    /// Total bytes at that time.
    bytes: u64,
    /// Average rate over the last updates; `None` before the first one.
    bytes_s: Option<f64>,
}

impl ReadRate {
    fn from(begun: Instant) -> Self {
        Self {
            looked: begun,
            bytes: 0,
            bytes_s: None,
        }
    }

    /// Returns the bytes per second since the last update, unless no time has passed.
    fn since(&self, now: Instant, bytes: u64) -> Option<f64> {
        let seconds = now.saturating_duration_since(self.looked).as_secs_f64();
        (seconds > 0.0).then(|| bytes.saturating_sub(self.bytes) as f64 / seconds)
    }
}

/// A process and its reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderReport {
    /// Process number; 0 for all processes in namespaces that are not visible.
    pub pid: u32,
    /// User of the process.
    pub uid: u32,
    /// Process name, at most 15 bytes.
    pub name: String,
    /// Unit of the service manager.
    pub unit: Option<String>,
    /// Whether the process gets only cached bytes.
    pub cached_only: bool,
    /// Limit of bytes per second from other nodes, if any.
    pub budget_bytes_s: Option<u64>,
    /// Number of files opened.
    pub opens: u64,
    /// Bytes and reads answered.
    pub given: GivenReport,
    /// Average bytes per second over the last seconds.
    pub bytes_s: u64,
    /// Reads that are waiting.
    pub waiting: Option<WaitReport>,
    /// Files of the process, at most [`FILES_MAX`], most recently read first.
    pub files: Vec<FileReport>,
}

/// A file that a process reads or read recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Path from the root of the mount.
    pub path: Box<[u8]>,
    /// Number of open handles.
    pub open: u32,
    /// Whether the kernel reads the file by passthrough, so that bytes are not counted.
    pub by_kernel: bool,
    /// Bytes and reads of this file that were answered.
    pub given: GivenReport,
    /// Reads of this file that are waiting.
    pub waiting: Option<WaitReport>,
}

/// Answers of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenReport {
    /// Number of reads.
    pub reads: u64,
    /// Bytes that were on this node when the file was opened.
    pub cache_bytes: u64,
    /// Bytes that arrived from other nodes since then.
    pub peer_bytes: u64,
}

/// Waiting reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitReport {
    /// Number of reads.
    pub reads: u64,
    /// Longest wait so far.
    pub longest: Duration,
    /// Whether all of them wait only for the budget of their program, not for other nodes.
    pub for_budget: bool,
}

impl ReadingProcess {
    pub(crate) fn new(pid: u32, uid: u32, known_as: KnownAs, begun: Instant) -> Self {
        Self {
            pid,
            uid,
            known_as: Mutex::new(known_as),
            opens: AtomicU64::new(0),
            given: GivenCounters::default(),
            files: Mutex::default(),
            speed: Mutex::new(ReadRate::from(begun)),
        }
    }

    pub(crate) fn known_as(&self) -> KnownAs {
        self.known_as.lock().clone()
    }

    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.known_as.lock().name == name
    }

    pub(crate) fn rename(&self, known_as: KnownAs) {
        *self.known_as.lock() = known_as;
    }

    /// Returns the counters of a file, whether the process opened it or inherited it.
    pub(crate) fn reading(self: &Arc<Self>, ino: u64, path: &[u8]) -> Arc<FileReads> {
        let mut files = self.files.lock();
        if let Some(reading) = files.get(&ino) {
            return reading.clone();
        }
        let reading = Arc::new(FileReads {
            process: self.clone(),
            ino,
            path: path.into(),
            open: AtomicU32::new(0),
            by_kernel: AtomicBool::new(false),
            given: GivenCounters::default(),
        });
        if files.len() >= FILES_MAX {
            let closed = files.values().filter(|file| !file.is_open());
            let oldest = closed.min_by_key(|file| file.given.last_ms.load(Ordering::Relaxed));
            match oldest.map(|file| file.ino) {
                Some(oldest) => files.remove(&oldest),
                None => return reading,
            };
        }
        files.insert(ino, reading.clone());
        reading
    }

    /// Returns the files that are open or were read recently, as paths from the root of the mount.
    pub(crate) fn files(&self) -> Vec<Box<[u8]>> {
        let files = self.files.lock();
        files.values().map(|file| file.path.clone()).collect()
    }

    /// Returns whether the process has a reported file open.
    pub(crate) fn has_open(&self) -> bool {
        self.files.lock().values().any(|file| file.is_open())
    }

    /// Returns the time of the last open or read, in milliseconds since the mount began.
    pub(crate) fn last_ms(&self) -> u64 {
        self.given.last_ms.load(Ordering::Relaxed)
    }

    /// Returns the process ID, the user ID and the read bytes.
    pub(crate) fn read_bytes(&self) -> (u32, u32, u64) {
        (self.pid, self.uid, self.given.bytes())
    }

    /// Updates the average rate.
    pub(crate) fn update_rate(&self, now: Instant) {
        let bytes = self.given.bytes();
        let mut speed = self.speed.lock();
        if let Some(moved) = speed.since(now, bytes) {
            // Moving average: the last interval counts half, the one before a quarter, and so on.
            let before = speed.bytes_s.unwrap_or(moved);
            speed.bytes_s = Some(f64::midpoint(before, moved));
            (speed.looked, speed.bytes) = (now, bytes);
        }
    }

    /// Returns the reads and the rate of the process. Before the first update, the rate is the
    /// average since the start.
    pub(crate) fn report(&self, waits: &WaitingReads, now: Instant) -> ReaderReport {
        let KnownAs {
            name,
            unit,
            cached_only,
            budget_bytes_s,
        } = self.known_as();
        let mut files: Vec<Arc<FileReads>> = self.files.lock().values().cloned().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.given.last_ms.load(Ordering::Relaxed)));
        let speed = self.speed.lock();
        let begun = || speed.since(now, self.given.bytes());
        ReaderReport {
            pid: self.pid,
            uid: self.uid,
            name,
            unit,
            cached_only,
            budget_bytes_s,
            opens: self.opens.load(Ordering::Relaxed),
            given: self.given.report(),
            bytes_s: speed.bytes_s.or_else(begun).unwrap_or(0.0) as u64,
            waiting: waits.of_process(self.pid),
            files: files.iter().map(|file| file.report(waits)).collect(),
        }
    }
}

impl FileReads {
    pub(crate) fn record_open(&self, by_kernel: bool, now_ms: u64) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.by_kernel.store(by_kernel, Ordering::Relaxed);
        self.process.opens.fetch_add(1, Ordering::Relaxed);
        for given in [&self.given, &self.process.given] {
            given.last_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(crate) fn record_close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records an answered read of `bytes` bytes, of which `peer_bytes` came from other nodes.
    pub(crate) fn record_read(&self, bytes: u64, peer_bytes: u64, now_ms: u64) {
        for given in [&self.given, &self.process.given] {
            given.add(bytes.saturating_sub(peer_bytes), peer_bytes, now_ms);
        }
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn report(&self, waits: &WaitingReads) -> FileReport {
        FileReport {
            path: self.path.clone(),
            open: self.open.load(Ordering::Relaxed),
            by_kernel: self.by_kernel.load(Ordering::Relaxed),
            given: self.given.report(),
            waiting: waits.of_file(self),
        }
    }
}

impl GivenCounters {
    fn add(&self, cache_bytes: u64, peer_bytes: u64, now_ms: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.cache_bytes.fetch_add(cache_bytes, Ordering::Relaxed);
        if peer_bytes > 0 {
            self.peer_bytes.fetch_add(peer_bytes, Ordering::Relaxed);
        }
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.cache_bytes.load(Ordering::Relaxed) + self.peer_bytes.load(Ordering::Relaxed)
    }

    fn report(&self) -> GivenReport {
        GivenReport {
            reads: self.reads.load(Ordering::Relaxed),
            cache_bytes: self.cache_bytes.load(Ordering::Relaxed),
            peer_bytes: self.peer_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Waiting reads by process and file.
#[derive(Default)]
pub(super) struct WaitingReads(HashMap<(u32, u64), WaitReport>);

impl WaitingReads {
    pub(crate) fn add(&mut self, reading: &FileReads, waited: Duration, for_budget: bool) {
        let one = WaitReport {
            reads: 1,
            longest: waited,
            for_budget,
        };
        let there = self.0.entry((reading.process.pid, reading.ino));
        there.and_modify(|all| *all = all.and(&one)).or_insert(one);
    }

    fn of_file(&self, reading: &FileReads) -> Option<WaitReport> {
        self.0.get(&(reading.process.pid, reading.ino)).copied()
    }

    fn of_process(&self, pid: u32) -> Option<WaitReport> {
        let own = self.0.iter().filter(|((of, _), _)| *of == pid);
        own.map(|(_, wait)| *wait).reduce(|all, one| all.and(&one))
    }
}

impl WaitReport {
    fn and(&self, other: &Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            longest: self.longest.max(other.longest),
            for_budget: self.for_budget && other.for_budget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> Arc<ReadingProcess> {
        let known_as = KnownAs {
            name: name.to_owned(),
            ..KnownAs::default()
        };
        Arc::new(ReadingProcess::new(7, 0, known_as, Instant::now()))
    }

    #[test]
    fn bytes_read_of_a_file_count_for_its_reader_too() {
        let cat = process("cat");
        let reading = cat.reading(5, b"docs/a");
        reading.record_open(false, 1);
        reading.record_read(100, 30, 2);
        cat.reading(6, b"docs/b").record_read(1, 0, 3);
        let report = cat.report(&WaitingReads::default(), Instant::now());
        let given = GivenReport {
            reads: 2,
            cache_bytes: 71,
            peer_bytes: 30,
        };
        assert_eq!((report.given, report.opens), (given, 1));
        let paths: Vec<&[u8]> = report.files.iter().map(|file| &*file.path).collect();
        assert_eq!(paths, [&b"docs/b"[..], b"docs/a"], "the last one first");
        assert_eq!(
            (report.files[1].open, report.files[1].by_kernel),
            (1, false)
        );
    }

    #[test]
    fn of_many_files_the_open_or_most_recently_read_are_reported() {
        let cp = process("cp");
        let first = cp.reading(1, b"first");
        first.record_open(false, 0);
        for ino in 2..1000 {
            let file = cp.reading(ino, b"file");
            file.record_open(false, ino);
            file.record_read(1, 0, ino);
            file.record_close();
        }
        let report = cp.report(&WaitingReads::default(), Instant::now());
        assert_eq!(report.files.len(), FILES_MAX);
        assert_eq!((report.opens, report.given.reads), (999, 998));
        assert_eq!(
            report.files.last().map(|file| &*file.path),
            Some(&b"first"[..])
        );
        assert!(cp.has_open());
        first.record_close();
        assert!(!cp.has_open());
    }

    #[test]
    fn files_beyond_the_limit_count_only_for_the_process() {
        let cp = process("cp");
        for ino in 0..FILES_MAX as u64 + 10 {
            let file = cp.reading(ino, b"file");
            file.record_open(false, ino);
            file.record_read(1, 1, ino);
        }
        let report = cp.report(&WaitingReads::default(), Instant::now());
        assert_eq!(report.files.len(), FILES_MAX);
        assert_eq!(report.given.peer_bytes, FILES_MAX as u64 + 10);
    }

    #[test]
    fn a_wait_is_reported_with_its_file_and_reader() {
        let cat = process("cat");
        let (a, b) = (cat.reading(5, b"a"), cat.reading(6, b"b"));
        let mut waits = WaitingReads::default();
        waits.add(&a, Duration::from_secs(3), true);
        waits.add(&a, Duration::from_secs(1), true);
        waits.add(&b, Duration::from_secs(2), false);
        let report = cat.report(&waits, Instant::now());
        let whole = report.waiting.unwrap();
        assert_eq!((whole.reads, whole.longest), (3, Duration::from_secs(3)));
        assert!(!whole.for_budget, "one of them waits for other nodes");
        let of_a = report.files.iter().find(|file| &*file.path == b"a");
        assert!(of_a.unwrap().waiting.unwrap().for_budget);
    }

    #[test]
    fn a_speed_covers_the_most_recent_samples() {
        let (cat, begun) = (process("cat"), Instant::now());
        let reading = cat.reading(5, b"a");
        cat.update_rate(begun);
        for second in 1..=20 {
            reading.record_read(1000, 0, second);
            cat.update_rate(begun + Duration::from_secs(second));
        }
        let fast = cat.report(&WaitingReads::default(), Instant::now()).bytes_s;
        assert!((990..=1000).contains(&fast), "{fast}");
        for second in 21..=40 {
            cat.update_rate(begun + Duration::from_secs(second));
        }
        assert_eq!(
            cat.report(&WaitingReads::default(), Instant::now()).bytes_s,
            0
        );
    }

    #[test]
    fn a_reader_that_has_just_begun_has_a_speed() {
        let begun = Instant::now();
        let cat = Arc::new(ReadingProcess::new(7, 0, KnownAs::default(), begun));
        let speed = |now| cat.report(&WaitingReads::default(), now).bytes_s;
        cat.reading(5, b"a").record_read(1000, 0, 1);
        assert_eq!(speed(begun), 0);
        assert_eq!(speed(begun + Duration::from_millis(500)), 2000);
        cat.update_rate(begun + Duration::from_secs(1));
        assert_eq!(speed(begun + Duration::from_secs(2)), 1000);
    }
}
