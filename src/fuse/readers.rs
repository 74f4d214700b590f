//! Which programs are given cached bytes only: those that read whatever they find, so that one
//! pass of theirs would fetch all that a cluster shares.
//!
//! A program is known by its process's name and its control group. Neither takes a lock that the
//! program may hold while it waits for us, as looking at its executable or its arguments would.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What the kernel keeps of a process's name (`TASK_COMM_LEN` without its NUL).
const NAME_KEPT_BYTES: usize = 15;
/// For how long a process is believed to be the program that it was.
const KNOWN_LIFETIME: Duration = Duration::from_secs(1);
/// How many processes are remembered; then all are looked at anew.
const KNOWN_MAX: usize = 1024;

/// The list, and who is on it.
#[derive(Default)]
pub(super) struct Readers {
    list: RwLock<Vec<String>>,
    known: Mutex<HashMap<u32, (Instant, bool)>>,
}

impl Readers {
    /// From now on these are given cached bytes only: names of processes, and of units of a
    /// service manager (`tracker-miner-fs-3.service`).
    pub fn set(&self, list: Vec<String>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        self.known().clear();
    }

    /// Whether the process, or thread, of this number is on the list. A number of 0 is one that
    /// we cannot see, in another namespace; it is not.
    pub fn is_cached_only(&self, pid: u32) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() || pid == 0 {
            return false;
        }
        let now = Instant::now();
        if let Some((until, is_listed)) = self.known().get(&pid)
            && *until > now
        {
            return *is_listed;
        }
        let is_listed = is_listed(&list, pid);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(pid, (now + KNOWN_LIFETIME, is_listed));
        is_listed
    }

    // A panic elsewhere cannot leave the map torn: each step under the lock is complete.
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u32, (Instant, bool)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_listed(list: &[String], pid: u32) -> bool {
    let named = |name: &str| list.iter().any(|listed| is_name(listed, name));
    name_of(pid).is_some_and(|name| named(&name))
        || leader_of(pid)
            .and_then(name_of)
            .is_some_and(|name| named(&name))
        || fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| list.iter().any(|listed| is_in_group(listed, &groups)))
}

fn is_name(listed: &str, name: &str) -> bool {
    let kept = listed.as_bytes().get(..NAME_KEPT_BYTES);
    kept.unwrap_or(listed.as_bytes()) == name.as_bytes()
}

/// Whether a process whose `/proc/PID/cgroup` this is lives in the unit.
fn is_in_group(listed: &str, groups: &str) -> bool {
    let is_unit = listed.ends_with(".service") || listed.ends_with(".scope");
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    is_unit
        && paths
            .flat_map(|path| path.split('/'))
            .any(|part| part == listed)
}

fn name_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The process that a thread belongs to: the kernel lists it first of its threads.
fn leader_of(thread: u32) -> Option<u32> {
    let mut threads = fs::read_dir(format!("/proc/{thread}/task")).ok()?;
    let leader = threads.next()?.ok()?.file_name().to_str()?.parse().ok()?;
    (leader != thread).then_some(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_as_far_as_the_kernel_keeps_it() {
        assert!(is_name("tumblerd", "tumblerd"));
        assert!(is_name("evince-thumbnailer", "evince-thumbnai"));
        assert!(!is_name("evince", "evince-thumbnai"));
        assert!(!is_name("evince-thumbnailer", "evince"));
    }

    #[test]
    fn a_unit_is_found_in_the_path_of_its_control_group() {
        let groups = "0::/user.slice/user-1000.slice/session.slice/localsearch-3.service\n";
        assert!(is_in_group("localsearch-3.service", groups));
        assert!(!is_in_group("search-3.service", groups));
        assert!(!is_in_group("user.slice", groups), "a slice is no program");
        assert!(is_in_group("a.service", "4:memory:/a.service\n0::/\n"));
        assert!(!is_in_group("a.service", ""));
    }

    #[test]
    fn a_process_is_known_by_its_own_name_from_all_its_threads() {
        let readers = Readers::default();
        let me = std::process::id();
        assert!(!readers.is_cached_only(me), "nobody is listed");
        let name = name_of(me).unwrap();
        readers.set(vec!["somebody".to_owned(), name]);
        assert!(readers.is_cached_only(me));
        assert!(readers.is_cached_only(me), "and remembered");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                // SAFETY: the call takes nothing and gives this thread's number.
                let thread = unsafe { libc::gettid() };
                assert_eq!(leader_of(thread as u32), Some(me));
                readers.is_cached_only(thread as u32)
            });
            assert!(other.join().unwrap());
        });
        readers.set(vec!["somebody".to_owned()]);
        assert!(!readers.is_cached_only(me), "a new list holds at once");
        assert!(!readers.is_cached_only(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let readers = Readers::default();
        readers.set(vec!["somebody".to_owned()]);
        for pid in 0..3 * KNOWN_MAX as u32 {
            readers.is_cached_only(0x7000_0000 + pid);
        }
        assert!(readers.known().len() <= KNOWN_MAX);
    }
}
