//! Daemon side of the mount broker: requests the mount, and operations on it that only the broker
//! may do.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{AcquiredMount, MountMeans, MountPlace};
use crate::broker::protocol::{Reply, Request, receive, send};
use crate::mounting::{MountLocation, MountingError};

/// How long the broker may take to answer. It probes a stale mount for up to five seconds.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Connection to the mount broker. The mount belongs to this daemon while the connection exists.
#[derive(Debug)]
pub(crate) struct Broker {
    line: Mutex<BrokerSocket>,
    path: PathBuf,
    /// Whether the broker ended without unmounting, as when it is killed.
    left_mount_behind: AtomicBool,
}

/// State that the broker keeps for a mount from one daemon to the next.
#[derive(Debug)]
pub(crate) struct KeptMountState {
    /// Broker, for further requests.
    pub broker: Arc<Broker>,
    /// Handshake between the previous daemon and the kernel; `None` for a new mount.
    pub greeting: Option<Vec<u8>>,
    /// Table of open files, in a memory file.
    pub table: File,
    /// The threads of the broker that notify the kernel, if it has some for this daemon.
    pub notifiers: Option<Arc<Notifiers>>,
}

/// The threads of the broker that send notifications to the kernel.
#[derive(Debug)]
pub(crate) struct Notifiers {
    /// Sends those about names and attributes.
    pub names: Notifier,
    /// Sends those about pages.
    pub pages: Notifier,
}

/// A thread of the broker that sends notifications to the kernel.
#[derive(Debug)]
pub(crate) struct Notifier(Mutex<OwnedFd>);

impl Notifier {
    fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    /// Sends a notification and waits for the answer of the kernel. The end of this process ends the
    /// wait. Returns `None` if the broker is gone.
    pub(crate) fn send(&self, message: &[u8]) -> Option<Result<(), Errno>> {
        let socket = self.0.lock();
        while let Err(error) = send(socket.as_fd(), &message, &[]) {
            if error.kind() != io::ErrorKind::Interrupted {
                return None;
            }
        }
        loop {
            match receive::<i32>(socket.as_fd()) {
                Ok(Some((0, _))) => return Some(Ok(())),
                Ok(Some((errno, _))) => return Some(Err(Errno::from_raw_os_error(errno))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Broker {
    /// Connects to the broker of this machine, if it has one that serves this user.
    ///
    /// # Errors
    /// [`MountingError::NoBroker`] if its socket exists but no process answers.
    pub(crate) fn reach(path: &Path) -> Result<Option<Arc<Self>>, MountingError> {
        let failed = |why: Errno| MountingError::NoBroker {
            socket: path.to_owned(),
            why: why.into(),
        };
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            // Either this machine has no broker, or it serves another user.
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(why) => return Err(failed(why)),
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIME)).map_err(failed)?;
        Ok(Some(Arc::new(Self::at(path, socket))))
    }

    fn at(path: &Path, socket: OwnedFd) -> Self {
        Self {
            line: Mutex::new(BrokerSocket {
                socket,
                outstanding: 0,
            }),
            path: path.to_owned(),
            left_mount_behind: AtomicBool::new(false),
        }
    }

    /// Connects to the broker that replaced this one, which has ended.
    ///
    /// # Errors
    /// [`MountingError::NoBroker`] if there is none yet.
    pub(crate) fn reach_next(&self) -> Result<Arc<Self>, MountingError> {
        let next = Self::reach(&self.path)?;
        next.ok_or_else(|| MountingError::NoBroker {
            socket: self.path.clone(),
            why: Errno::NOENT.into(),
        })
    }

    /// Requests the mount at `dir`: the existing one with the state of the previous daemon, or a
    /// new one.
    ///
    /// # Errors
    /// [`MountingError::Refused`] with the message of the broker.
    pub(crate) fn mount(self: &Arc<Self>, dir: &Path) -> Result<AcquiredMount, MountingError> {
        let dir = dir.as_os_str().as_bytes().to_vec();
        self.mounted(&Request::Mount { dir })
    }

    /// Requests a new mount in place of the current one. Readers of the old mount get errors.
    ///
    /// # Errors
    /// [`MountingError::Refused`] with the message of the broker.
    pub(crate) fn mount_anew(self: &Arc<Self>) -> Result<AcquiredMount, MountingError> {
        self.mounted(&Request::Anew)
    }

    /// Stores the handshake at the broker for the next daemon.
    ///
    /// # Errors
    /// If the broker is gone.
    pub(crate) fn store_handshake(&self, greeting: Vec<u8>) -> io::Result<()> {
        self.call(&Request::Keep { greeting }, &[]).map(drop)
    }

    /// Registers a file for passthrough and returns its number.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn register(&self, file: BorrowedFd<'_>) -> io::Result<u32> {
        match self.call(&Request::Register, &[file])? {
            (Reply::Registered { number }, _) => Ok(number),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Releases a passthrough file.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn release(&self, number: u32) -> io::Result<()> {
        self.call(&Request::Release { number }, &[]).map(drop)
    }

    /// Sets the read-ahead of the kernel in bytes.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn set_read_ahead(&self, bytes: u64) -> io::Result<()> {
        self.call(&Request::ReadAhead { bytes }, &[]).map(drop)
    }

    /// Makes the mount writable or read-only.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn set_writable(&self, is_writable: bool) -> io::Result<()> {
        self.call(&Request::Writable { is_writable }, &[]).map(drop)
    }

    /// Records whether the broker is gone while its mount exists. A broker that ends normally
    /// unmounts before it hangs up. A mount that exists after the hangup is therefore not ended by
    /// the broker. Never waits.
    pub(crate) fn record_hangup(&self, is_mounted: impl Fn() -> bool) {
        if self.has_hung_up() && is_mounted() {
            self.left_mount_behind.store(true, Relaxed);
        }
    }

    /// Returns whether the broker is gone.
    pub(crate) fn has_hung_up(&self) -> bool {
        // If another thread waits for an answer, the next check sees the hangup.
        let line = self.line.try_lock();
        line.is_some_and(|line| {
            line.poll_events(PollFlags::empty())
                .contains(PollFlags::HUP)
        })
    }

    /// Returns whether the broker ended and unmounted. Waits for its answer: a broker that is
    /// ending has unmounted but not yet hung up, and no longer answers.
    pub(crate) fn ended_with_mount(&self) -> bool {
        !self.left_mount_behind.load(Relaxed) && !self.is_running()
    }

    fn is_running(&self) -> bool {
        // File 0 does not exist; the broker reports that and does nothing.
        let nothing = Request::Release { number: 0 };
        match self.line.lock().ask(&nothing, &[]) {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ),
        }
    }

    fn mounted(self: &Arc<Self>, request: &Request) -> Result<AcquiredMount, MountingError> {
        let refused = |why: io::Error| MountingError::Refused { why };
        let (reply, descriptors) = self.call(request, &[]).map_err(refused)?;
        let Reply::Mounted {
            dir,
            connection,
            greeting,
        } = reply
        else {
            return Err(refused(io::ErrorKind::InvalidData.into()));
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(device), Some(table)) = (descriptors.next(), descriptors.next()) else {
            return Err(refused(io::ErrorKind::InvalidData.into()));
        };
        let notifiers = descriptors.next().zip(descriptors.next());
        let notifiers = notifiers.map(|(names, pages)| Notifiers {
            names: Notifier::new(names),
            pages: Notifier::new(pages),
        });
        let dir = PathBuf::from(std::ffi::OsString::from_vec(dir));
        let place = MountPlace {
            standing: MountLocation::of_another(dir, connection),
            means: MountMeans::Broker(self.clone()),
        };
        let held = KeptMountState {
            broker: self.clone(),
            greeting,
            table: File::from(table),
            notifiers: notifiers.map(Arc::new),
        };
        Ok(AcquiredMount {
            device,
            place,
            held: Some(held),
        })
    }

    fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Reply, Vec<OwnedFd>)> {
        // A panic elsewhere leaves no partial message: each is sent and received as a whole.
        let answer = self.line.lock().ask(request, descriptors);
        match answer.map_err(in_words)? {
            (Reply::Refused { errno: 0, why }, _) => Err(io::Error::other(why)),
            (Reply::Refused { errno, .. }, _) => Err(io::Error::from_raw_os_error(errno)),
            answer => Ok(answer),
        }
    }
}

type Answer = (Reply, Vec<OwnedFd>);

/// Socket to the broker. Answers have no number, so an answer belongs to its request only while no
/// earlier answer is outstanding. Otherwise a late answer with a file number could make the kernel
/// read the wrong file.
#[derive(Debug)]
struct BrokerSocket {
    socket: OwnedFd,
    /// Number of requests that were sent and have no answer yet.
    outstanding: usize,
}

impl BrokerSocket {
    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        self.receive_outstanding()?;
        self.send(request, descriptors)?;
        self.answer()
    }

    /// Receives the outstanding answers. Does not wait for the first one, because the original
    /// request already did.
    fn receive_outstanding(&mut self) -> io::Result<()> {
        let mut answers = false;
        while self.outstanding > 0 {
            if !answers && self.poll_events(PollFlags::IN).is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            answers = true;
            if let (Reply::Registered { number }, _) = self.answer()? {
                // The original request continued without this registration.
                self.send(&Request::Release { number }, &[])?;
            }
        }
        Ok(())
    }

    fn send(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match send(self.socket.as_fd(), request, descriptors) {
                // Nothing was sent. SIGSTOP and SIGCONT interrupt a call on a socket with a
                // timeout, even without a signal handler (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => {
                    self.outstanding += usize::from(sent.is_ok());
                    return sent;
                }
            }
        }
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let begun = Instant::now();
        loop {
            let received = receive(self.socket.as_fd());
            let kind = received.as_ref().err().map(io::Error::kind);
            match kind {
                Some(io::ErrorKind::Interrupted) if begun.elapsed() < ANSWER_TIME => continue,
                // An invalid answer is an answer too.
                None | Some(io::ErrorKind::InvalidData) => self.outstanding -= 1,
                Some(_) => {}
            }
            return received?.ok_or_else(|| io::ErrorKind::ConnectionReset.into());
        }
    }

    /// Returns which of the wanted events, or a hangup, are present.
    fn poll_events(&self, wanted: PollFlags) -> PollFlags {
        let mut polled = [PollFd::new(&self.socket, wanted)];
        let now = Timespec::default();
        match poll(&mut polled, Some(&now)) {
            Ok(_) => polled[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }
}

fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::other("the mount broker does not answer: systemctl restart p2pfs-broker")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> (Broker, OwnedFd) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        let (ours, theirs) = pair.unwrap();
        (Broker::at(Path::new("/nowhere"), ours), theirs)
    }

    #[test]
    fn a_broker_that_hangs_up_has_ended_unless_its_mount_was_seen_to_stand() {
        let (broker, theirs) = connected();
        broker.record_hangup(|| true);
        drop(theirs);
        assert!(broker.ended_with_mount());
        broker.record_hangup(|| false);
        assert!(broker.ended_with_mount());
        broker.record_hangup(|| true);
        assert!(!broker.ended_with_mount());
    }

    #[test]
    fn a_late_answer_is_not_mistaken_for_that_of_another_request() {
        let (broker, theirs) = connected();
        let short = Some(Duration::from_millis(50));
        set_socket_timeout(&broker.line.lock().socket, Timeout::Recv, short).unwrap();
        let file = File::open("/dev/null").unwrap();
        let register = || broker.register(file.as_fd());
        let answer = |number| send(theirs.as_fd(), &Reply::Registered { number }, &[]).unwrap();
        let heard = || receive::<Request>(theirs.as_fd()).unwrap().unwrap().0;
        assert!(register().is_err(), "nobody answers");
        assert!(matches!(heard(), Request::Register));
        assert!(register().is_err(), "it is still owed, and not waited for");
        answer(1);
        std::thread::scope(|scope| {
            let second = scope.spawn(register);
            // The answer to the first request is discarded.
            assert!(matches!(heard(), Request::Release { number: 1 }));
            send(theirs.as_fd(), &Reply::Done, &[]).unwrap();
            assert!(matches!(heard(), Request::Register));
            answer(2);
            assert_eq!(second.join().unwrap().unwrap(), 2);
        });
    }

    #[test]
    fn a_broker_that_answers_has_not_ended() {
        let (broker, theirs) = connected();
        let answering = std::thread::spawn(move || {
            let heard = receive::<Request>(theirs.as_fd()).unwrap();
            assert!(matches!(heard, Some((Request::Release { number: 0 }, _))));
            let why = "no such file".to_owned();
            send(theirs.as_fd(), &Reply::Refused { errno: 22, why }, &[]).unwrap();
            theirs
        });
        assert!(!broker.ended_with_mount());
        drop(answering.join().unwrap());
    }

    #[test]
    fn a_broker_that_ends_during_a_request_has_ended() {
        let (broker, theirs) = connected();
        let ending = std::thread::spawn(move || drop(receive::<Request>(theirs.as_fd())));
        assert!(broker.ended_with_mount());
        ending.join().unwrap();
    }
}
