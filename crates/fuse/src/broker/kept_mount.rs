//! A mount that the broker keeps after its daemon has ended. The next daemon receives it together
//! with the table of open files and the kernel's greeting. If no daemon takes the mount over in
//! time, the broker aborts it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;

use super::protocol::Reply;
use crate::mounting::{self, MountLocation, MountRequest};

/// How long readers wait for a next daemon. Only an answer ends a request that a daemon has read,
/// so the broker ends such requests after this time.
pub const ALONE_MAX: Duration = Duration::from_secs(15);

/// A mount that is kept from one daemon to the next.
pub(super) struct KeptMount {
    pub(super) dir: PathBuf,
    pub(super) standing: MountLocation,
    pub(super) device: OwnedFd,
    /// Table of open files for the next daemon.
    pub(super) table: OwnedFd,
    pub(super) greeting: Option<Vec<u8>>,
    pub(super) alone_since: Option<Instant>,
    pub(super) aborted: bool,
}

impl KeptMount {
    pub(super) fn mount(dir: &Path) -> io::Result<Self> {
        // The mount of the broker belongs to root and is accessible to all users.
        let request = MountRequest {
            dir: dir.to_owned(),
            uid: 0,
            gid: 0,
            allow_other: true,
        };
        let mounted = mounting::mount(&request, mounting::unmount);
        let (device, standing) = mounted.map_err(io::Error::other)?;
        let table = rustix::fs::memfd_create("p2pfs-opens", MemfdFlags::CLOEXEC)?;
        Ok(Self {
            dir: dir.to_owned(),
            standing,
            device,
            table,
            greeting: None,
            alone_since: None,
            aborted: false,
        })
    }

    pub(super) fn can_be_taken_up(&self) -> bool {
        !self.aborted && self.greeting.is_some() && self.standing.is_mounted()
    }

    pub(super) fn reply(&self) -> Reply {
        Reply::Mounted {
            dir: self.standing.dir().as_os_str().as_bytes().to_vec(),
            connection: self.standing.connection(),
            greeting: self.greeting.clone(),
        }
    }

    pub(super) fn leave_alone(&mut self) {
        self.alone_since = Some(Instant::now());
    }

    /// Aborts the mount if no daemon came in time. The dead mount stays in place, because an empty
    /// directory would look as if all files were deleted.
    pub(super) fn end_if_alone(&mut self) {
        let is_over = |since: Instant| since.elapsed() >= ALONE_MAX;
        if self.alone_since.is_some_and(is_over) && !self.aborted {
            self.standing.abort();
            self.aborted = true;
            let line = format!("no daemon came back for {}\n", self.dir.display());
            let stderr = io::stderr();
            // The one thread that serves all mounts must not wait for a reader, nor end without one.
            let mut room = [PollFd::new(&stderr, PollFlags::OUT)];
            if poll(&mut room, Some(&Timespec::default())) == Ok(1) {
                let _unread = rustix::io::write(&stderr, line.as_bytes());
            }
        }
    }
}
