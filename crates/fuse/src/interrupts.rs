//! Interrupts of requests. The kernel sends one interrupt when the thread of a request receives a
//! signal, and none for further signals.

use std::time::{Duration, Instant};

use super::abi;
use super::budget::DueWork;
use super::requests::Requests;
use super::signals::is_ending;
use super::table::{SIGNAL_GRACE, SignalPatience};
use p2pfs_fs::FsError;

/// Interval between checks of a thread that received a signal and continues to wait.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Delay until a request that was not found is searched for again. It doubles with each attempt.
const SEEK_AGAIN: Duration = Duration::from_millis(1);

/// An interrupt of a request.
#[derive(Clone, Copy)]
pub(super) struct Interrupt {
    /// Number of the interrupted request.
    unique: u64,
    /// Time at which its thread received the signal.
    since: Instant,
}

impl Interrupt {
    /// Returns the interrupt that a message of the kernel contains, with the present time.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let unique = abi::interrupted_unique(message)?;
        Some(Self {
            unique,
            since: Instant::now(),
        })
    }

    /// Ends the request if it can be ended. A request that waits as for a disk ends only if its
    /// thread is ending or its patience is over. The kernel reports only one signal, so the thread
    /// is checked again.
    ///
    /// A request that is not found is still with the thread that took it from the kernel, was
    /// already answered, or was taken by a previous process that never answers. If its interrupt
    /// were refused, the kernel would send it again at once. The request is therefore searched for
    /// a while and then ended. An answer that the kernel does not wait for does no harm.
    pub(crate) fn handle(self, requests: &Requests) {
        let Self { unique, since } = self;
        let now = Instant::now();
        if requests.table.patience_of(unique).is_none() {
            requests.inline_reads.move_to_table(&requests.table, unique);
        }
        let again = match requests.table.patience_of(unique) {
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
            Some(again) => requests.delayed.push(again, DueWork::Interrupted(self)),
            None if requests.end_early(unique, FsError::Interrupted) => {}
            None => requests.kernel.answer_error(unique, FsError::Interrupted),
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
    use super::super::device::Device;
    use super::super::kernel_link::KernelLink;
    use super::super::requests::Deadlines;
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
        let (device, _) = Device::new(
            KernelLink::new(ours, None),
            fs,
            deadlines,
            mpsc::channel().0,
            None,
        )
        .unwrap();
        let serving = device.clone();
        thread::spawn(move || serving.reads.serve_budgets());
        (device, kernel)
    }

    /// Returns the next message to the kernel and the time it took.
    fn heard(kernel: &OwnedFd, since: Instant) -> (Option<(u64, i32)>, Duration) {
        let mut message = [0; 64];
        let (_, length) = rustix::net::recv(kernel, &mut message[..], RecvFlags::empty()).unwrap();
        (answered(&message[..length]), since.elapsed())
    }

    fn take_interrupt(device: &Device, unique: u64) {
        let head = request(opcode::INTERRUPT, unique | 1, 0);
        let message = [&head[..], &unique.to_ne_bytes()].concat();
        Interrupt::parse(&message)
            .unwrap()
            .handle(&device.mount.requests);
    }

    #[test]
    fn an_interrupt_for_an_unknown_request_is_retried_for_a_while_and_then_dropped() {
        let (device, kernel) = device();
        let begun = Instant::now();
        take_interrupt(&device, 6);
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
        take_interrupt(&device, 6);
        let waiting = PendingRequest::new(opcode::READ, begun, far);
        assert!(device.mount.requests.table.insert(6, waiting));
        assert_eq!(heard(&kernel, begun).0, Some((6, libc::EINTR)));
        assert_eq!(device.mount.requests.table.count(), 0);

        // The thread of this test, which is alive.
        let message = request(opcode::READ, 8, 2);
        let header = RequestHeader {
            pid: std::process::id(),
            ..RequestHeader::parse(&message).unwrap()
        };
        let inline_read = device.mount.requests.inline_reads.add_thread();
        let since = Instant::now();
        inline_read.begin(8, PendingRequest::of_names(&header, since, far));
        take_interrupt(&device, 8);
        let (ended, after) = heard(&kernel, since);
        assert_eq!(ended, Some((8, libc::EINTR)));
        assert!(after >= SIGNAL_GRACE);
        assert!(!inline_read.finish(8, &device.mount.requests.table));
        device.close();
    }
}
