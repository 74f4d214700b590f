//! A FUSE connection, by its number in the kernel.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use rustix::mount::MountFlags;

/// Directory of the kernel's control files, if `fusectl` is mounted there
/// (Documentation/filesystems/fuse.rst).
const CONTROL_DIR: &str = "/sys/fs/fuse/connections";

/// A FUSE connection: the minor device number of its mount; the major number is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FuseConnection(pub u32);

impl FuseConnection {
    /// Opens the control file that aborts this connection. It must be opened while the mount
    /// exists: afterwards the number may belong to another connection, while the open file never
    /// does. Returns `None` if the control files are not accessible, as for an ordinary user
    /// without `fusectl`.
    pub(super) fn abort_switch(self) -> Option<AbortSwitch> {
        mount_control_files();
        let file = File::options()
            .write(true)
            .open(format!("{CONTROL_DIR}/{}/abort", self.0));
        file.ok().map(|file| AbortSwitch {
            file: Arc::new(file),
        })
    }

    /// Sets the read-ahead of the kernel in bytes.
    ///
    /// # Errors
    /// If this process lacks the permission.
    pub(super) fn set_read_ahead(self, bytes: u64) -> io::Result<()> {
        let file = format!("/sys/class/bdi/0:{}/read_ahead_kb", self.0);
        fs::write(file, (bytes / 1024).to_string())
    }
}

/// Aborts one connection; has no effect once that is gone.
#[derive(Clone, Debug)]
pub(super) struct AbortSwitch {
    file: Arc<File>,
}

impl AbortSwitch {
    /// Ends all requests of the connection, and the connection itself. Readers get ECONNABORTED or
    /// ENOTCONN at once.
    pub(super) fn pull(&self) {
        // A failure means that the connection is gone with its last user.
        let _ = (&*self.file).write_all(b"1");
    }
}

/// Mounts `fusectl` if it is not mounted (systemd does so). A failure shows when it is used.
fn mount_control_files() {
    let is_empty = fs::read_dir(CONTROL_DIR).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty && Path::new(CONTROL_DIR).is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = rustix::mount::mount("none", CONTROL_DIR, "fusectl", flags, None);
    }
}
