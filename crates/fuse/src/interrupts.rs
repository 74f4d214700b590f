//! What an interrupt does: the kernel sends one for each request whose thread got a signal, once.

use std::time::{Duration, Instant};

use super::abi;
use super::budget::Due;
use super::device::Device;
use super::signals::is_ending;
use super::table::{Patience, SIGNAL_GRACE};
use p2pfs_fs::FsError;

/// How soon a thread is looked at again that got a signal and goes on waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How soon a request is looked for again that nobody is found to work on; then after twice as
/// long each time.
const SEEK_AGAIN: Duration = Duration::from_millis(1);

impl Device {
    /// The request that is named ends, as far as its thread has no patience.
    pub(super) fn take_interrupt(&self, message: &[u8]) {
        if let Some(named) = abi::interrupted_unique(message) {
            self.interrupt(named, Instant::now());
        }
    }

    /// The thread of a request got a signal, at that time. One that waits as for a disk is
    /// interrupted only to end, or when its patience is over; the kernel tells of one signal alone,
    /// so it is looked at again.
    ///
    /// A request that nobody has is still with the thread that took it from the kernel, or answered
    /// already, or was taken by a process that served the mount before and never answers. To refuse
    /// its interrupt would have the kernel send that again at once, so it is looked for a while and
    /// then ended: an answer that the kernel does not wait for does no harm.
    pub(super) fn interrupt(&self, unique: u64, since: Instant) {
        let now = Instant::now();
        if self.table.patience_of(unique).is_none() {
            self.hands.put_in(&self.table, unique);
        }
        let again = match self.table.patience_of(unique) {
            Some(None) => None,
            Some(Some(Patience { thread, until })) => {
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
            Some(again) => self.delayed.push(again, Due::Interrupted { unique, since }),
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

    use super::super::abi::{Header, answered, opcode, request};
    use super::super::device::Deadlines;
    use super::super::table::Waiting;
    use super::*;
    use p2pfs_fs::standin::Names;
    use p2pfs_fs::{Filesystem, Options};

    /// A device, and what the kernel would hear of it.
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

    /// The next that the kernel hears, and when.
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
    fn a_request_that_nobody_has_is_sought_for_a_while_and_then_ended_and_never_asked_for_again() {
        let (device, kernel) = device();
        let begun = Instant::now();
        device.take_interrupt(&interrupt_of(6));
        let (ended, after) = heard(&kernel, begun);
        assert_eq!(ended, Some((6, libc::EINTR)), "nothing before that");
        assert!(after >= SIGNAL_GRACE);
        device.close();
    }

    #[test]
    fn what_comes_to_wait_or_is_in_hand_while_it_is_sought_ends_by_its_thread_s_patience() {
        let (device, kernel) = device();
        let begun = Instant::now();
        let far = begun + Duration::from_secs(3600);
        device.take_interrupt(&interrupt_of(6));
        let waiting = Waiting::new(opcode::READ, begun, far);
        assert!(device.table.insert(6, waiting));
        assert_eq!(heard(&kernel, begun).0, Some((6, libc::EINTR)));
        assert_eq!(device.table.count(), 0);

        // our own thread, which lives
        let message = request(opcode::READ, 8, 2);
        let header = Header {
            pid: std::process::id(),
            ..Header::parse(&message).unwrap()
        };
        let hand = device.hands.join();
        let since = Instant::now();
        hand.take_up(8, Waiting::of_names(&header, since, far));
        device.take_interrupt(&interrupt_of(8));
        let (ended, after) = heard(&kernel, since);
        assert_eq!(ended, Some((8, libc::EINTR)));
        assert!(after >= SIGNAL_GRACE);
        assert!(!hand.put_down(8, &device.table));
        device.close();
    }
}
