//! A mount that cannot outlive its test, and the means to wait without hanging.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs::fuse::{Mount, MountOptions};

use super::memory::Memory;

/// How long a test waits for what must come at once. A bound, not a measure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A mount in a folder of its own, gone at the end of the test whatever happens.
pub struct Mounted {
    pub content: Arc<Memory>,
    pub mount: Mount,
    scratch: tempfile::TempDir,
}

impl Mounted {
    pub fn start(content: &Arc<Memory>, adjust: impl FnOnce(&mut MountOptions)) -> Self {
        content.publish(None);
        let scratch = tempfile::tempdir().unwrap();
        let mut options = MountOptions::for_this_user();
        adjust(&mut options);
        let dir = scratch.path().join("mount");
        let mount = Mount::start(&dir, content.clone(), &options).unwrap();
        Self {
            content: content.clone(),
            mount,
            scratch,
        }
    }

    pub fn of(content: &Arc<Memory>) -> Self {
        Self::start(content, |_| {})
    }

    pub fn dir(&self) -> &Path {
        self.mount.dir()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.mount.dir().join(name)
    }

    pub fn publish(&self) {
        self.content.publish(Some(&self.mount));
    }

    /// A folder beside the mount.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// The names in a directory.
pub fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The errno of a failure.
pub fn errno<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> i32 {
    outcome.unwrap_err().raw_os_error().unwrap()
}

/// Waits until something is so, looking again and again.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        // Asking is the only way to learn of it: the kernel tells nobody what it has dropped.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits for a child to end; kills it and fails if it does not.
pub fn wait_child(child: &mut Child, patience: Duration) -> std::process::ExitStatus {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let limit = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    if poll(&mut ended, Some(&limit)).unwrap() == 0 {
        let _ = child.kill();
        panic!("the child is still there after {patience:?}");
    }
    child.wait().unwrap()
}

/// Runs a program that uses the mount, as a process of its own: one that opens files beneath its
/// own mount and starts another can stand still.
pub fn run(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> std::process::Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", program]);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command.output().unwrap()
}
