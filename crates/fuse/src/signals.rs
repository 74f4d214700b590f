//! Detects whether a pending signal will end a thread. The kernel reports that a signal arrived,
//! but not which one.
//!
//! Reading `/proc/PID/status` takes no lock that the thread may hold while it waits for the mount.

use std::fs;

/// Signals that do not end a process by default (signal(7)).
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// Returns whether a signal is about to end a thread. A thread that is not visible counts as
/// ending.
pub(super) fn is_ending(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status"));
    status.map_or(true, |status| ends_by_signal(&status))
}

fn ends_by_signal(status: &str) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| {
            u64::from_str_radix(line.trim().trim_start_matches(':').trim(), 16).ok()
        })
        .unwrap_or(0)
    };
    let pending = set("SigPnd") | set("ShdPnd");
    let harmless = HARMLESS
        .iter()
        .fold(0, |all, signal| all | 1 << (signal - 1));
    // The kernel marks a fatal signal as SIGKILL of every thread, which cannot be blocked.
    pending & !(set("SigBlk") | set("SigIgn") | set("SigCgt") | harmless) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tcat\nThreads:\t1\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    const fn bit(signal: i32) -> u64 {
        1 << (signal - 1)
    }

    #[test]
    fn a_signal_that_is_caught_blocked_ignored_or_harmless_ends_no_thread() {
        let (alarm, child) = (bit(libc::SIGALRM), bit(libc::SIGCHLD));
        assert!(!ends_by_signal(&status(0, 0, 0, 0, 0)));
        assert!(!ends_by_signal(&status(alarm, 0, 0, 0, alarm)));
        assert!(!ends_by_signal(&status(0, alarm, alarm, 0, 0)));
        assert!(!ends_by_signal(&status(0, alarm, 0, alarm, 0)));
        assert!(!ends_by_signal(&status(0, child, 0, 0, 0)));
    }

    #[test]
    fn an_uncaught_signal_ends_its_thread() {
        let (alarm, kill) = (bit(libc::SIGALRM), bit(libc::SIGKILL));
        assert!(ends_by_signal(&status(kill, alarm, 0, 0, alarm)));
        assert!(ends_by_signal(&status(0, bit(libc::SIGQUIT), 0, 0, alarm)));
    }

    #[test]
    fn a_live_thread_is_not_ending_and_a_gone_one_is() {
        assert!(!is_ending(std::process::id()));
        assert!(is_ending(0x7fff_fff0));
    }
}
