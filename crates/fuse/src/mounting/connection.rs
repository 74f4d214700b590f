//! One FUSE connection, as the kernel numbers it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use rustix::mount::MountFlags;

/// Where the kernel's control files are, once `fusectl` is mounted there
/// (Documentation/filesystems/fuse.rst).
const CONTROL_DIR: &str = "/sys/fs/fuse/connections";

/// A FUSE connection: the minor number of its mount's device, the major being 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection(pub u32);

impl Connection {
    /// The means to end this connection, to be taken while its mount stands: the number may be
    /// another's as soon as it does not, the means never are. None where the control files cannot
    /// be reached (an ordinary user without `fusectl`).
    pub(super) fn abort_switch(self) -> Option<AbortSwitch> {
        mount_control_files();
        let file = File::options()
            .write(true)
            .open(format!("{CONTROL_DIR}/{}/abort", self.0));
        file.ok().map(|file| AbortSwitch {
            file: Arc::new(file),
        })
    }

    /// Lets the kernel read this far ahead.
    ///
    /// # Errors
    /// Where this process may not.
    pub(super) fn set_read_ahead(self, bytes: u64) -> io::Result<()> {
        let file = format!("/sys/class/bdi/0:{}/read_ahead_kb", self.0);
        fs::write(file, (bytes / 1024).to_string())
    }
}

/// Ends one connection; does nothing once that is gone.
#[derive(Clone, Debug)]
pub(super) struct AbortSwitch {
    file: Arc<File>,
}

impl AbortSwitch {
    /// Ends every request of the connection, and the connection: readers get ECONNABORTED or
    /// ENOTCONN at once.
    pub(super) fn pull(&self) {
        // Failure means that the connection is gone with its last user.
        let _ = (&*self.file).write_all(b"1");
    }
}

/// Mounts `fusectl` in its place if nobody has (systemd does). Failure shows when it is used.
fn mount_control_files() {
    let is_empty = fs::read_dir(CONTROL_DIR).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty && Path::new(CONTROL_DIR).is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = rustix::mount::mount("none", CONTROL_DIR, "fusectl", flags, None);
    }
}
