//! Writes messages to the kernel: answers to requests, and notifications.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::abi;
use super::mounter::Notifiers;
use p2pfs_fs::{FsError, Stale};

/// Descriptor of /dev/fuse of one mount.
pub(super) struct KernelLink {
    fuse: OwnedFd,
    /// The threads of the mount broker that notify the kernel, if it mounted.
    notifiers: Option<Arc<Notifiers>>,
    /// Whether answers are withheld, because the next process will give them.
    handed_over: AtomicBool,
}

impl KernelLink {
    /// Creates the link from the descriptor of /dev/fuse.
    pub(crate) fn new(fuse: OwnedFd, notifiers: Option<Arc<Notifiers>>) -> Self {
        Self {
            fuse,
            notifiers,
            handed_over: AtomicBool::new(false),
        }
    }

    /// Returns the descriptor of /dev/fuse.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fuse.as_fd()
    }

    /// Waits for a request of the kernel and returns its length in bytes.
    pub(crate) fn read(&self, request: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.fuse, request)
    }

    /// Writes a message to the kernel, which takes it completely or not at all.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        if self.is_handed_over() {
            return Err(Errno::SHUTDOWN);
        }
        rustix::io::writev(&self.fuse, parts).map(drop)
    }

    /// Answers a request with an error.
    pub(crate) fn answer_error(&self, unique: u64, error: FsError) {
        // A failure means that the request is no longer waiting.
        let _ = self.write(&[IoSlice::new(&abi::out_header(unique, error.errno(), 0))]);
    }

    /// Notifies the kernel that cached data is stale. Blocks while the kernel holds the locks of
    /// that data. With a mount broker, the end of this process ends the wait.
    pub(crate) fn notify(&self, stale: &Stale) -> Result<(), Errno> {
        let message = abi::notification(stale);
        let notifier = self.notifiers.as_deref().map(|all| match stale {
            Stale::Pages { .. } | Stale::PagesWithin { .. } => &all.pages,
            _ => &all.names,
        });
        let sent = notifier.filter(|_| !self.is_handed_over());
        let sent = sent.and_then(|notifier| notifier.send(&message));
        sent.unwrap_or_else(|| self.write(&[IoSlice::new(&message)]))
    }

    /// Makes the kernel resend the unanswered requests of the previous process. Before Linux 6.9
    /// the kernel cannot do this, and the write fails. Such a request then waits until a signal or
    /// the end of the mount.
    pub(crate) fn resend_requests(&self) -> io::Result<()> {
        Ok(self.write(&[IoSlice::new(&abi::resend())])?)
    }

    /// Returns whether the next process answers the requests.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Stops answering: the next process answers the requests in flight.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }
}
