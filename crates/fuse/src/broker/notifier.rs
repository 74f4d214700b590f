//! Sends the cache invalidations of a daemon to the kernel.
//!
//! An invalidation waits for locks that the kernel holds during a request, and not even SIGKILL ends
//! the wait. A daemon that is stopped or killed meanwhile could not end before the request is
//! answered, and the next daemon, which answers it, starts only after that end. So a thread of the
//! broker sends the invalidations, and the daemon waits for the result.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::protocol::{receive, send};

/// Maximum number of threads: four daemons, of which only one serves a mount and the others are
/// ending.
const THREADS_MAX: usize = 8;
/// Position and length of the request number in a message to the kernel (`struct fuse_out_header`).
/// It is 0 in a notification.
const NUMBER: std::ops::Range<usize> = 8..16;

/// The threads of a broker that send invalidations.
#[derive(Default)]
pub(super) struct Notifiers {
    threads: Arc<AtomicUsize>,
}

impl Notifiers {
    /// Starts a thread for a device. Returns the socket for its daemon, whose end ends the thread.
    ///
    /// # Errors
    /// If there are too many threads, or the system refuses one.
    pub(super) fn start(&self, device: &OwnedFd) -> io::Result<OwnedFd> {
        let device = device.try_clone()?;
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        let counted = CountedThread::new(&self.threads)?;
        thread::Builder::new().spawn(move || {
            let _counted = counted;
            while let Ok(Some((message, _))) = receive::<Vec<u8>>(ours.as_fd()) {
                let errno = notify(&device, &message)
                    .err()
                    .map_or(0, Errno::raw_os_error);
                if send(ours.as_fd(), &errno, &[]).is_err() {
                    return;
                }
            }
        })?;
        Ok(theirs)
    }
}

/// A place among the threads until it is dropped.
struct CountedThread(Arc<AtomicUsize>);

impl CountedThread {
    fn new(threads: &Arc<AtomicUsize>) -> io::Result<Self> {
        let counted = Self(threads.clone());
        if threads.fetch_add(1, Ordering::Relaxed) >= THREADS_MAX {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(counted)
    }
}

impl Drop for CountedThread {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a notification. Answers to requests are refused, because the daemon gives those itself.
fn notify(device: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    if message.get(NUMBER).is_none_or(|number| number != [0; 8]) {
        return Err(Errno::INVAL);
    }
    rustix::io::writev(device, &[IoSlice::new(message)]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(socket: &OwnedFd, message: &[u8]) -> i32 {
        send(socket.as_fd(), &message, &[]).unwrap();
        receive(socket.as_fd()).unwrap().unwrap().0
    }

    #[test]
    fn notifications_are_passed_and_answers_are_refused() {
        let (notifiers, file) = (Notifiers::default(), tempfile::tempfile().unwrap());
        let device = OwnedFd::from(file.try_clone().unwrap());
        let socket = notifiers.start(&device).unwrap();
        let mut message = [7; 24];
        assert_eq!(ask(&socket, &message), libc::EINVAL);
        assert_eq!(ask(&socket, &message[..12]), libc::EINVAL);
        assert_eq!(file.metadata().unwrap().len(), 0);
        message[NUMBER].fill(0);
        assert_eq!(ask(&socket, &message), 0);
        assert_eq!(file.metadata().unwrap().len(), 24);
    }

    #[test]
    fn threads_are_bounded_and_end_with_their_daemon() {
        let notifiers = Notifiers::default();
        let device = OwnedFd::from(tempfile::tempfile().unwrap());
        let start = || notifiers.start(&device);
        let all: Vec<_> = (0..THREADS_MAX).map(|_| start().unwrap()).collect();
        assert_eq!(start().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(all);
        while start().is_err() {
            thread::yield_now();
        }
    }
}
