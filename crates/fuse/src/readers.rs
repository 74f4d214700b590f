//! Which programs read in the mount: what each is given, how far it may reach, and how fast.
//!
//! A program is known by its process's name and its control group. Neither takes a lock that the
//! program may hold while it waits for us, as looking at its executable or its arguments would.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::abi::Header;
use super::budget::{Budget, ReaderBudget};
use super::reading::{KnownAs, Process, ReaderReport, Reading, Waits};
use p2pfs_fs::Reach;

/// What the kernel keeps of a process's name (`TASK_COMM_LEN` without its NUL).
const NAME_KEPT_BYTES: usize = 15;
/// For how long a thread is believed to be of the program that it was.
const KNOWN_LIFETIME: Duration = Duration::from_secs(1);
/// How many threads are remembered; then all are looked at anew.
const KNOWN_MAX: usize = 1024;
/// How many processes are told of. Beyond it the one that read longest ago is forgotten; one that
/// has nothing open at least.
const PROCESSES_MAX: usize = 512;
/// For how long a process is told of that has nothing open and reads nothing.
const TOLD_LIFETIME: Duration = Duration::from_secs(60);

/// Who reads, and by which rules.
pub(super) struct Readers {
    begun: Instant,
    rules: RwLock<Rules>,
    known: RwLock<HashMap<u32, Known>>,
    processes: Mutex<HashMap<u32, Arc<Process>>>,
    /// What is open, by the number of its handle.
    open: RwLock<HashMap<u64, Opened>>,
}

/// A file that is open, with who opened it.
#[derive(Clone)]
struct Opened {
    reading: Arc<Reading>,
    /// Whether the process before us opened it, and it is not known for whom.
    is_inherited: bool,
}

#[derive(Default)]
struct Rules {
    cached_only: Vec<String>,
    budgets: Vec<Arc<Budget>>,
}

/// A thread.
#[derive(Clone)]
struct Known {
    until: Instant,
    /// Its `/proc/PID/cgroup` at the last open.
    groups: Arc<str>,
    is_cached_only: bool,
    budget: Option<Arc<Budget>>,
    process: Arc<Process>,
}

/// Who opens a file.
pub(super) struct Opener(Known);

/// Who asks for bytes of an open file.
pub(super) struct Reader {
    pub reading: Arc<Reading>,
    pub budget: Option<Arc<Budget>>,
    /// How far it may reach, but no further than who opened the file.
    pub reach: Reach,
}

/// How far a program may reach. One with a budget is not to be served ahead of what it asks for.
fn reach(is_cached_only: bool, budget: Option<&Arc<Budget>>) -> Reach {
    match (is_cached_only, budget) {
        (true, _) => Reach::Cached,
        (false, Some(_)) => Reach::Asked,
        (false, None) => Reach::Everything,
    }
}

impl Opener {
    /// How far it may reach.
    pub(crate) fn reach(&self) -> Reach {
        reach(self.0.is_cached_only, self.0.budget.as_ref())
    }

    /// Its process, by number.
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
    /// From now on these are given cached bytes only: names of processes, and of units of a
    /// service manager (`tracker-miner-fs-3.service`).
    pub(crate) fn set_cached_only(&self, list: Vec<String>) {
        self.rules.write().cached_only = list;
        self.known.write().clear();
    }

    /// From now on these have so much fetched a second, and others as much as they like. One that
    /// is as it was keeps what it has spent.
    pub(crate) fn set_budgets(&self, list: Vec<ReaderBudget>) {
        let mut rules = self.rules.write();
        let kept = std::mem::take(&mut rules.budgets);
        let at_work = |rule: ReaderBudget| {
            let same = kept.iter().find(|budget| budget.rule == rule);
            same.cloned().unwrap_or_else(|| Arc::new(Budget::new(rule)))
        };
        rules.budgets = list.into_iter().map(at_work).collect();
        drop(rules);
        self.known.write().clear();
    }

    /// Who asks to open a file.
    pub(crate) fn opener(&self, thread: u32, uid: u32) -> Opener {
        let now = Instant::now();
        let known = self.known.read().get(&thread).cloned();
        match known {
            Some(known) if known.until > now => Opener(known),
            _ => Opener(self.look(thread, uid, now)),
        }
    }

    /// A file was opened, under that handle; its bytes come from the kernel itself or from us.
    pub(crate) fn opened(
        &self,
        opener: &Opener,
        handle: u64,
        ino: u64,
        path: &[u8],
        by_kernel: bool,
    ) {
        let reading = opener.0.process.reading(ino, path);
        reading.note_open(by_kernel, self.now_ms(Instant::now()));
        let is_inherited = false;
        let opened = Opened {
            reading,
            is_inherited,
        };
        self.open.write().insert(handle, opened);
    }

    /// A file that the process before us opened is read for the first time: from now on it counts
    /// as opened by who reads it, and each of its readers is held to the rules by itself.
    pub(crate) fn inherited(&self, opener: &Opener, handle: u64, ino: u64, path: &[u8]) {
        let reading = opener.0.process.reading(ino, path);
        if let Entry::Vacant(place) = self.open.write().entry(handle) {
            reading.note_open(false, self.now_ms(Instant::now()));
            place.insert(Opened {
                reading,
                is_inherited: true,
            });
        }
    }

    /// A handle is closed.
    pub(crate) fn closed(&self, handle: u64) {
        let closed = self.open.write().remove(&handle);
        if let Some(opened) = closed {
            opened.reading.note_close();
        }
    }

    /// Who asks for bytes: mostly who opened the file, but handles are inherited and handed on.
    pub(crate) fn reader(&self, handle: u64, header: &Header, now: Instant) -> Option<Reader> {
        let opened = self.open.read().get(&handle)?.clone();
        let (opened, is_inherited) = (opened.reading, opened.is_inherited);
        let known = {
            let all = self.known.read();
            let known = all.get(&header.pid);
            // what all threads count on is touched as little as can be: this is for each read
            if let Some(Known {
                until,
                budget,
                process,
                is_cached_only,
                ..
            }) = known
                && *until > now
                && Arc::ptr_eq(process, &opened.process)
            {
                return Some(Reader {
                    reading: opened,
                    budget: budget.clone(),
                    reach: reach(is_inherited && *is_cached_only, budget.as_ref()),
                });
            }
            known.cloned()
        };
        let known = match known {
            Some(known) if known.until > now => known,
            Some(known) => self.look_at_name(header.pid, known, now),
            None => self.look(header.pid, header.uid, now),
        };
        let reading = if Arc::ptr_eq(&known.process, &opened.process) {
            opened
        } else {
            known.process.reading(opened.ino, &opened.path)
        };
        Some(Reader {
            reading,
            reach: reach(is_inherited && known.is_cached_only, known.budget.as_ref()),
            budget: known.budget,
        })
    }

    /// A read was answered, with so many bytes, of which some came from other nodes.
    pub(crate) fn note_read(&self, reading: &Reading, bytes: u64, peer_bytes: u64, now: Instant) {
        reading.note_read(bytes, peer_bytes, self.now_ms(now));
    }

    /// Takes everybody's speed, and forgets who has gone. To be called about once a second.
    pub(crate) fn look_around(&self) {
        let now = Instant::now();
        let forgotten = u64::try_from(TOLD_LIFETIME.as_millis()).unwrap_or(u64::MAX);
        let old_ms = self.now_ms(now).saturating_sub(forgotten);
        self.processes.lock().retain(|_, process| {
            process.look(now);
            process.last_ms() >= old_ms || process.has_open()
        });
        self.known
            .write()
            .retain(|_, known| known.until + TOLD_LIFETIME > now);
    }

    /// Returns the files that a user's processes have open or read lately.
    pub(crate) fn files_of(&self, uid: u32) -> Vec<Box<[u8]>> {
        let processes = self.processes.lock();
        let own = processes.values().filter(|process| process.uid == uid);
        own.flat_map(|process| process.files()).collect()
    }

    /// Who reads what: first those that wait, then the fastest, then those that read most.
    pub(crate) fn report(&self, waits: &Waits) -> Vec<ReaderReport> {
        let processes: Vec<_> = self.processes.lock().values().cloned().collect();
        for process in processes.iter().filter(|process| process.has_open()) {
            // a shell that opened a file may have become another program since
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

    /// Looks at a thread that is not known, or opens a file.
    fn look(&self, thread: u32, uid: u32, now: Instant) -> Known {
        let pid = leader_of(thread).unwrap_or(thread);
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let process = self.process(pid, uid, name_of(pid).unwrap_or_default());
        let known = Known {
            until: now,
            groups: groups.into(),
            is_cached_only: false,
            budget: None,
            process,
        };
        self.look_at_name(thread, known, now)
    }

    /// Looks at a thread again whose control group is known: that takes no lock of the kernel
    /// which anybody holds for long.
    fn look_at_name(&self, thread: u32, mut known: Known, now: Instant) -> Known {
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

    /// The process of that number. One of another name that has nothing open may be another
    /// process of the same number, and begins anew.
    fn process(&self, pid: u32, uid: u32, name: String) -> Arc<Process> {
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
        let process = Arc::new(Process::new(pid, uid, known_as, Instant::now()));
        processes.remove(&pid);
        if processes.len() >= PROCESSES_MAX {
            let idle = processes.values().filter(|process| !process.has_open());
            let oldest = idle.min_by_key(|process| process.last_ms());
            match oldest.map(|process| process.pid) {
                Some(oldest) => processes.remove(&oldest),
                // it is served as all others, and not told of
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

/// The parts of the control groups' paths in a `/proc/PID/cgroup`.
fn parts_of(groups: &str) -> impl DoubleEndedIterator<Item = &str> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/'))
}

/// Whether a process whose `/proc/PID/cgroup` this is lives in the unit.
fn is_in_group(listed: &str, groups: &str) -> bool {
    is_unit(listed) && parts_of(groups).any(|part| part == listed)
}

/// The innermost unit that it lives in.
fn unit_of(groups: &str) -> Option<String> {
    parts_of(groups)
        .rfind(|part| is_unit(part))
        .map(str::to_owned)
}

/// What a thread is called; nothing for one that is gone or that we cannot see.
fn name_of(thread: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{thread}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The process that a thread belongs to: the kernel lists it first of its threads.
fn leader_of(thread: u32) -> Option<u32> {
    let mut threads = fs::read_dir(format!("/proc/{thread}/task")).ok()?;
    threads.next()?.ok()?.file_name().to_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
