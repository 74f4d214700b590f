//! Programs that read in the mount: their bytes, limits and rates.
//!
//! A program is identified by its process name and its control group. Reading these takes no lock
//! that the program may hold while it waits for the mount. Reading its executable or arguments
//! would.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::abi::RequestHeader;
use super::budget::{Budget, ReaderBudget};
use super::reading::{FileReads, KnownAs, ReaderReport, ReadingProcess, WaitingReads};
use p2pfs_fs::Reach;

/// Bytes of a process name that the kernel keeps (`TASK_COMM_LEN` without its NUL).
const NAME_KEPT_BYTES: usize = 15;
/// How long the program of a thread is cached.
const KNOWN_LIFETIME: Duration = Duration::from_secs(1);
/// Maximum number of cached threads, about 2 MiB. Beyond it, all entries are dropped. It exceeds the
/// number of threads of most programs that read at once.
const KNOWN_MAX: usize = 8192;
/// Maximum number of reported processes. Beyond it, the process that read longest ago is dropped,
/// except processes with open files.
const PROCESSES_MAX: usize = 512;
/// How long a process without open files is reported after its last open or read.
const TOLD_LIFETIME: Duration = Duration::from_secs(60);

/// The programs that read in a mount, and the rules for them.
pub struct Readers {
    begun: Instant,
    rules: RwLock<Rules>,
    known: RwLock<HashMap<u32, KnownThread>>,
    processes: Mutex<HashMap<u32, Arc<ReadingProcess>>>,
    /// Open files, by handle.
    open: RwLock<HashMap<u64, OpenedFile>>,
}

/// An open file and its opener.
#[derive(Clone)]
struct OpenedFile {
    reading: Arc<FileReads>,
    /// Whether a previous process opened the file, for an unknown program.
    is_inherited: bool,
}

#[derive(Default)]
struct Rules {
    cached_only: Vec<String>,
    budgets: Vec<Arc<Budget>>,
}

/// Cached properties of a thread.
#[derive(Clone)]
struct KnownThread {
    until: Instant,
    /// Content of `/proc/PID/cgroup` at the last open.
    groups: Arc<str>,
    is_cached_only: bool,
    budget: Option<Arc<Budget>>,
    process: Arc<ReadingProcess>,
}

/// Thread that opens a file.
pub(super) struct OpeningThread(KnownThread);

/// Thread that reads an open file.
pub(super) struct ReadingThread {
    pub reading: Arc<FileReads>,
    pub budget: Option<Arc<Budget>>,
    /// Allowed sources of the bytes by the rules for this thread. The reach of the open file limits
    /// them further.
    pub reach: Reach,
}

/// Returns the allowed sources of a program. A program with a budget gets no read-ahead.
fn reach(is_cached_only: bool, budget: Option<&Arc<Budget>>) -> Reach {
    match (is_cached_only, budget) {
        (true, _) => Reach::Cached,
        (false, Some(_)) => Reach::Asked,
        (false, None) => Reach::Everything,
    }
}

impl OpeningThread {
    /// Returns the allowed sources of the program.
    pub(crate) fn reach(&self) -> Reach {
        reach(self.0.is_cached_only, self.0.budget.as_ref())
    }

    /// Returns the number of the process.
    pub(crate) fn program(&self) -> u32 {
        self.0.process.pid
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            rules: RwLock::default(),
            known: RwLock::default(),
            processes: Mutex::default(),
            open: RwLock::default(),
        }
    }
}

impl Readers {
    /// Sets the programs that get only cached bytes, and EACCES for all others: names of processes,
    /// and of units of a service manager (`tracker-miner-fs-3.service`).
    pub fn set_cached_only(&self, list: Vec<String>) {
        self.rules.write().cached_only = list;
        self.known.write().clear();
    }

    /// Sets the fetch limits of programs, named by process or by unit of a service manager; all
    /// others are unlimited. Cached bytes are never delayed. An unchanged budget keeps its spent
    /// bytes.
    pub fn set_budgets(&self, list: Vec<ReaderBudget>) {
        let mut rules = self.rules.write();
        let kept = std::mem::take(&mut rules.budgets);
        let now = Instant::now();
        let at_work = |rule: ReaderBudget| {
            let same = kept.iter().find(|budget| budget.rule == rule);
            same.cloned()
                .unwrap_or_else(|| Arc::new(Budget::new(rule, now)))
        };
        rules.budgets = list.into_iter().map(at_work).collect();
        drop(rules);
        self.known.write().clear();
    }

    /// Returns the thread that opens a file, from the cache or from /proc.
    pub(crate) fn opener(&self, thread: u32, uid: u32) -> OpeningThread {
        let now = Instant::now();
        let known = self.known.read().get(&thread).cloned();
        match known {
            Some(known) if known.until > now => OpeningThread(known),
            _ => OpeningThread(self.inspect_thread(thread, uid, now)),
        }
    }

    /// Records an open file and its handle. `by_kernel` is whether the kernel reads it by
    /// passthrough.
    pub(crate) fn opened(
        &self,
        opener: &OpeningThread,
        handle: u64,
        ino: u64,
        path: &[u8],
        by_kernel: bool,
    ) {
        let reading = opener.0.process.reading(ino, path);
        reading.record_open(by_kernel, self.now_ms(Instant::now()));
        let is_inherited = false;
        let opened = OpenedFile {
            reading,
            is_inherited,
        };
        self.open.write().insert(handle, opened);
    }

    /// Records the first read of a file that a previous process opened. The file then counts as
    /// opened by this reader, and the rules apply to each of its readers individually.
    pub(crate) fn inherited(&self, opener: &OpeningThread, handle: u64, ino: u64, path: &[u8]) {
        let reading = opener.0.process.reading(ino, path);
        if let Entry::Vacant(place) = self.open.write().entry(handle) {
            reading.record_open(false, self.now_ms(Instant::now()));
            place.insert(OpenedFile {
                reading,
                is_inherited: true,
            });
        }
    }

    /// Records that a handle was closed.
    pub(crate) fn closed(&self, handle: u64) {
        let closed = self.open.write().remove(&handle);
        if let Some(opened) = closed {
            opened.reading.record_close();
        }
    }

    /// Returns the reader of an open file. It is usually the opener, but handles can be inherited
    /// or passed on.
    pub(crate) fn reader(
        &self,
        handle: u64,
        header: &RequestHeader,
        now: Instant,
    ) -> Option<ReadingThread> {
        let opened = self.open.read().get(&handle)?.clone();
        let (opened, is_inherited) = (opened.reading, opened.is_inherited);
        let known = {
            let all = self.known.read();
            let known = all.get(&header.pid);
            // Shared counters are touched as little as possible, because this runs for each read.
            if let Some(KnownThread {
                until,
                budget,
                process,
                is_cached_only,
                ..
            }) = known
                && *until > now
                && Arc::ptr_eq(process, &opened.process)
            {
                return Some(ReadingThread {
                    reading: opened,
                    budget: budget.clone(),
                    reach: reach(is_inherited && *is_cached_only, budget.as_ref()),
                });
            }
            known.cloned()
        };
        let known = match known {
            Some(known) if known.until > now => known,
            Some(known) => self.refresh_thread(header.pid, known, now),
            None => self.inspect_thread(header.pid, header.uid, now),
        };
        let reading = if Arc::ptr_eq(&known.process, &opened.process) {
            opened
        } else {
            known.process.reading(opened.ino, &opened.path)
        };
        Some(ReadingThread {
            reading,
            reach: reach(is_inherited && known.is_cached_only, known.budget.as_ref()),
            budget: known.budget,
        })
    }

    /// Records an answered read of `bytes` bytes, of which `peer_bytes` came from other nodes.
    pub(crate) fn record_read(
        &self,
        reading: &FileReads,
        bytes: u64,
        peer_bytes: u64,
        now: Instant,
    ) {
        reading.record_read(bytes, peer_bytes, self.now_ms(now));
    }

    /// Updates the rates of all processes and drops those without open files and without recent
    /// reads. To be called about once a second.
    pub fn update_rates(&self) {
        let now = Instant::now();
        let forgotten = u64::try_from(TOLD_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        let old_ms = self.now_ms(now).saturating_sub(forgotten);
        self.processes.lock().retain(|_, process| {
            process.update_rate(now);
            process.last_ms() >= old_ms || process.has_open()
        });
        self.known
            .write()
            .retain(|_, known| known.until + TOLD_LIFETIME > now);
    }

    /// Returns the files that processes of a user have open or read recently, as paths from the
    /// root.
    pub fn files_of(&self, uid: u32) -> Vec<Box<[u8]>> {
        let processes = self.processes.lock();
        let own = processes.values().filter(|process| process.uid == uid);
        own.flat_map(|process| process.files()).collect()
    }

    /// Returns the process ID, the user ID and the read bytes of each process.
    pub fn read_bytes(&self) -> Vec<(u32, u32, u64)> {
        let processes = self.processes.lock();
        let read = processes.values().map(|it| it.read_bytes());
        read.collect()
    }

    /// Returns the readers and their files: waiting ones first, then by rate, then by bytes read.
    pub(crate) fn report(&self, waits: &WaitingReads) -> Vec<ReaderReport> {
        let processes: Vec<_> = self.processes.lock().values().cloned().collect();
        for process in processes.iter().filter(|process| process.has_open()) {
            // A shell that opened a file may have become another program since.
            if let Some(name) = name_of(process.pid) {
                let known_as = process.known_as();
                process.rename(KnownAs { name, ..known_as });
            }
        }
        let now = Instant::now();
        let reports = processes.iter().map(|process| process.report(waits, now));
        let mut reports: Vec<_> = reports.collect();
        reports.sort_by_key(|report| {
            let given = report.given.cache_bytes + report.given.peer_bytes;
            let most = (report.waiting.is_some(), report.bytes_s, given);
            (std::cmp::Reverse(most), report.pid)
        });
        reports
    }

    /// Reads the properties of a thread that is not cached.
    fn inspect_thread(&self, thread: u32, uid: u32, now: Instant) -> KnownThread {
        let pid = leader_of(thread).unwrap_or(thread);
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let process = self.process(pid, uid, name_of(pid).unwrap_or_default());
        let known = KnownThread {
            until: now,
            groups: groups.into(),
            is_cached_only: false,
            budget: None,
            process,
        };
        self.refresh_thread(thread, known, now)
    }

    /// Refreshes the properties of a thread whose control group is known. Takes no lock of the
    /// kernel that is held for long.
    fn refresh_thread(&self, thread: u32, mut known: KnownThread, now: Instant) -> KnownThread {
        let (own, leader) = (name_of(thread), name_of(known.process.pid));
        let rules = self.rules.read();
        let is_it = |listed: &str| {
            let names = [&own, &leader].into_iter().flatten();
            names.clone().any(|name| is_name(listed, name)) || is_in_group(listed, &known.groups)
        };
        let is_cached_only = rules.cached_only.iter().any(|listed| is_it(listed));
        let budgets = rules.budgets.iter();
        let budget = budgets.clone().find(|budget| is_it(&budget.rule.program));
        let budget = budget.cloned();
        drop(rules);
        known.process.rename(KnownAs {
            name: leader
                .or(own)
                .unwrap_or_else(|| known.process.known_as().name),
            unit: unit_of(&known.groups),
            cached_only: is_cached_only,
            budget_bytes_s: budget.as_ref().map(|budget| budget.rule.bytes_s),
        });
        known.until = now + KNOWN_LIFETIME;
        (known.is_cached_only, known.budget) = (is_cached_only, budget);
        let mut all = self.known.write();
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(thread, known.clone());
        known
    }

    /// Returns the process of this number. A process with another name and no open files may be a
    /// new process with the same number, so it starts with new counters.
    fn process(&self, pid: u32, uid: u32, name: String) -> Arc<ReadingProcess> {
        let mut processes = self.processes.lock();
        if let Some(process) = processes.get(&pid)
            && (process.is_called(&name) || process.has_open())
        {
            return process.clone();
        }
        let known_as = KnownAs {
            name,
            ..KnownAs::default()
        };
        let process = Arc::new(ReadingProcess::new(pid, uid, known_as, Instant::now()));
        processes.remove(&pid);
        if processes.len() >= PROCESSES_MAX {
            let idle = processes.values().filter(|process| !process.has_open());
            let oldest = idle.min_by_key(|process| process.last_ms());
            match oldest.map(|process| process.pid) {
                Some(oldest) => processes.remove(&oldest),
                // The process is served like all others, but not reported.
                None => return process,
            };
        }
        processes.insert(pid, process.clone());
        process
    }

    fn now_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.begun);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

fn is_name(listed: &str, name: &str) -> bool {
    let kept = listed.as_bytes().get(..NAME_KEPT_BYTES);
    kept.unwrap_or(listed.as_bytes()) == name.as_bytes()
}

fn is_unit(name: &str) -> bool {
    name.ends_with(".service") || name.ends_with(".scope")
}

/// Returns the components of the paths in a `/proc/PID/cgroup`.
fn parts_of(groups: &str) -> impl DoubleEndedIterator<Item = &str> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/'))
}

/// Returns whether a process with this `/proc/PID/cgroup` belongs to the unit.
fn is_in_group(listed: &str, groups: &str) -> bool {
    is_unit(listed) && parts_of(groups).any(|part| part == listed)
}

/// Returns the innermost unit of the process.
fn unit_of(groups: &str) -> Option<String> {
    parts_of(groups)
        .rfind(|part| is_unit(part))
        .map(str::to_owned)
}

/// Returns the name of a thread, or `None` if it is gone or not visible.
fn name_of(thread: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{thread}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Returns the process ID of the process of a thread. The list `/proc/TID/task` would have it too,
/// but the kernel fills a whole buffer of it: 2 ms for a process of a thousand threads.
fn leader_of(thread: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{thread}/status")).ok()?;
    let mut lines = status.split(|byte| *byte == b'\n');
    let leader = lines.find_map(|line| line.strip_prefix(b"Tgid:"))?;
    str::from_utf8(leader).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
