//! Handling of interrupts. The kernel sends one, once, for each request whose thread receives a
//! signal.

use std::time::{Duration, Instant};

use super::abi;
use super::budget::DueWork;
use super::device::Device;
use super::signals::is_ending;
use super::table::{SIGNAL_GRACE, SignalPatience};
use p2pfs_fs::FsError;

/// Interval between checks of a thread that received a signal and continues to wait.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Delay until a request that was not found is searched for again. It doubles with each attempt.
const SEEK_AGAIN: Duration = Duration::from_millis(1);

impl Device {
    /// Handles an interrupt of the kernel for the request that it names.
    pub(super) fn take_interrupt(&self, message: &[u8]) {
        if let Some(named) = abi::interrupted_unique(message) {
            self.interrupt(named, Instant::now());
        }
    }

    /// Handles an interrupt of a request whose thread received a signal at `since`. A request that
    /// waits as for a disk ends only if its thread is ending or its patience is over. The kernel
    /// reports only one signal, so the thread is checked again.
    ///
    /// A request that is not found is still with the thread that took it from the kernel, was
    /// already answered, or was taken by a previous process that never answers. If its interrupt
    /// were refused, the kernel would send it again at once. The request is therefore searched for
    /// a while and then ended. An answer that the kernel does not wait for does no harm.
    pub(super) fn interrupt(&self, unique: u64, since: Instant) {
        let now = Instant::now();
        if self.table.patience_of(unique).is_none() {
            self.inline_reads.move_to_table(&self.table, unique);
        }
        let again = match self.table.patience_of(unique) {
            Some(None) => None,
            Some(Some(SignalPatience { thread, until })) => {
                let is_over = until.is_some_and(|until| until <= now);
                let again = now + LOOK_AGAIN;
                let again = until.map_or(again, |until| until.min(again));
                (!is_over && !is_ending(thread)).then_some(again)
            }
            None => {
                let sought = now.saturating_duration_since(since);
                (sought < SIGNAL_GRACE).then(|| now + sought.max(SEEK_AGAIN))
            }
        };
        match again {
            Some(again) => self
                .delayed
                .push(again, DueWork::Interrupted { unique, since }),
            None if self.end_early(unique, FsError::Interrupted) => {}
            None => self.answer_error(unique, FsError::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::{Arc, mpsc};
    use std::thread;

    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

    use super::super::abi::{RequestHeader, answered, opcode, request};
    use super::super::device::Deadlines;
    use super::super::table::PendingRequest;
    use super::*;
    use p2pfs_fs::standin::Names;
    use p2pfs_fs::{Filesystem, Options};

    /// Returns a device and the kernel's end of its socket.
    fn device() -> (Arc<Device>, OwnedFd) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (kernel, ours) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let options = Options {
            uid: 0,
            gid: 0,
            file_mask: 0,
            directory_mask: 0,
        };
        let fs = Arc::new(Filesystem::new(Arc::new(Names::none()), options));
        let deadlines = Deadlines {
            read: Duration::from_secs(60),
            metadata: Duration::from_secs(60),
        };
        let (device, _) = Device::new(ours, fs, deadlines, mpsc::channel().0, None).unwrap();
        let serving = device.clone();
        thread::spawn(move || serving.serve_budgets());
        (device, kernel)
    }

    /// Returns the next message to the kernel and the time it took.
    fn heard(kernel: &OwnedFd, since: Instant) -> (Option<(u64, i32)>, Duration) {
        let mut message = [0; 64];
        let (_, length) = rustix::net::recv(kernel, &mut message[..], RecvFlags::empty()).unwrap();
        (answered(&message[..length]), since.elapsed())
    }

    fn interrupt_of(unique: u64) -> Vec<u8> {
        let head = request(opcode::INTERRUPT, unique | 1, 0);
        [&head[..], &unique.to_ne_bytes()].concat()
    }

    #[test]
    fn an_interrupt_for_an_unknown_request_is_retried_for_a_while_and_then_dropped() {
        let (device, kernel) = device();
        let begun = Instant::now();
        device.take_interrupt(&interrupt_of(6));
        let (ended, after) = heard(&kernel, begun);
        assert_eq!(ended, Some((6, libc::EINTR)), "nothing before that");
        assert!(after >= SIGNAL_GRACE);
        device.close();
    }

    #[test]
    fn a_request_that_appears_after_its_interrupt_ends_within_its_threads_patience() {
        let (device, kernel) = device();
        let begun = Instant::now();
        let far = begun + Duration::from_secs(3600);
        device.take_interrupt(&interrupt_of(6));
        let waiting = PendingRequest::new(opcode::READ, begun, far);
        assert!(device.table.insert(6, waiting));
        assert_eq!(heard(&kernel, begun).0, Some((6, libc::EINTR)));
        assert_eq!(device.table.count(), 0);

        // The thread of this test, which is alive.
        let message = request(opcode::READ, 8, 2);
        let header = RequestHeader {
            pid: std::process::id(),
            ..RequestHeader::parse(&message).unwrap()
        };
        let inline_read = device.inline_reads.add_thread();
        let since = Instant::now();
        inline_read.begin(8, PendingRequest::of_names(&header, since, far));
        device.take_interrupt(&interrupt_of(8));
        let (ended, after) = heard(&kernel, since);
        assert_eq!(ended, Some((8, libc::EINTR)));
        assert!(after >= SIGNAL_GRACE);
        assert!(!inline_read.finish(8, &device.table));
        device.close();
    }
}
