//! Waits for another process to end, and so to release its socket, locks and ports.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A running process.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Opens the process with this ID; `None` if it has ended.
    pub fn of(number: u32) -> Option<Self> {
        Self::of_pid(Pid::from_raw(i32::try_from(number).ok()?)?)
    }

    pub(super) fn of_pid(pid: Pid) -> Option<Self> {
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Waits until the process has ended; returns whether it ended in time.
    pub fn ends(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut asked = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut asked, Timespec::try_from(left).ok().as_ref()) {
                Err(Errno::INTR) => {}
                said => return said.is_ok_and(|ready| ready > 0),
            }
        }
    }
}
