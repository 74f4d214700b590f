//! The device: owns /dev/fuse, reads what the kernel asks, and sees to it that each request is
//! answered once and in time.
//!
//! Its threads answer themselves what may wait for a disk: READ and RELEASE, LOOKUP, GETATTR, OPEN
//! and listings. They take interrupts and forgets, and send the rest through a pair of sockets to
//! the session, whose answers come back the same way. What nobody answered by its deadline, the
//! device answers with an error. A thread that panics in a request answers that one with EIO and
//! goes on.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use super::abi::{self, Header, IN_HEADER_BYTES, OUT_HEADER_BYTES, Undo, opcode};
use super::budget::DelayQueue;
use super::counters::Counters;
use super::greeting::{Answered, Greeting, Greetings};
use super::hands::{Hand, Hands};
use super::pulse::{PULSE_UNIQUE, Pulse};
use super::readers::Readers;
use super::table::{Table, Waiting};
use super::threads::Threads;
use p2pfs_fs::{Filesystem, FsError, Stale};

/// The most bytes of one read or write that the kernel may ask: 256 pages.
pub const TRANSFER_MAX_BYTES: usize = 1 << 20;
/// What one request can be: the largest write and its heads (`fuse_dev_do_read` wants room for
/// them even where no write ever comes).
const REQUEST_BUFFER_BYTES: usize = TRANSFER_MAX_BYTES + 4096;
/// What one message of the pair may be: far more than the session has to answer.
const PAIR_MESSAGE_MAX_BYTES: usize = 128 * 1024;
/// What the pair may hold, so that a burst of small requests does not stop the reading threads.
const PAIR_BUFFER_BYTES: usize = 1 << 20;

/// How long after its own deadline a content may take to end a read, before the device does.
const CONTENT_GRACE: Duration = Duration::from_secs(2);

/// By when the device answers what nobody else has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For bytes of a file. The content has its own, shorter deadline, which moves on with
    /// progress: a read of which it says that it goes on has more time.
    pub read: Duration,
    /// For everything else, which never waits but for a fault of ours.
    pub metadata: Duration,
}

/// The device of one mount.
pub(super) struct Device {
    kernel: OwnedFd,
    session: OwnedFd,
    pub fs: Arc<Filesystem>,
    pub table: Table,
    /// The reads that are not in the table yet.
    pub(super) hands: Hands,
    pub counters: Counters,
    pub readers: Arc<Readers>,
    pub(super) threads: Threads,
    /// Reads that wait for their program's budget.
    pub(super) delayed: DelayQueue,
    pub(super) deadlines: Deadlines,
    greeted: Sender<io::Result<Option<Greeting>>>,
    greetings: Greetings,
    /// Nothing is answered any more: the process that comes next will.
    handed_over: AtomicBool,
    /// Whether all that serves it goes on.
    pub(super) pulse: Pulse,
}

impl Device {
    /// Takes the descriptor of /dev/fuse; the second value is the session's end of the pair.
    /// `greeted` is told once the kernel has taken the answer to its FUSE_INIT, and of what to keep
    /// for the next process; `kept` is that of the process before.
    pub(crate) fn new(
        kernel: OwnedFd,
        fs: Arc<Filesystem>,
        deadlines: Deadlines,
        greeted: Sender<io::Result<Option<Greeting>>>,
        kept: Option<Greeting>,
    ) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (session, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&session, &theirs] {
            // The kernel cuts it to what this user may have, which is enough for single messages.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, PAIR_BUFFER_BYTES);
        }
        Ok((
            Arc::new(Self {
                kernel,
                session,
                fs,
                table: Table::default(),
                hands: Hands::default(),
                counters: Counters::default(),
                readers: Arc::default(),
                threads: Threads::default(),
                delayed: DelayQueue::default(),
                deadlines,
                greeted,
                greetings: Greetings::new(kept),
                handed_over: AtomicBool::new(false),
                pulse: Pulse::default(),
            }),
            theirs,
        ))
    }

    /// The descriptor of /dev/fuse.
    pub(crate) fn kernel(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    /// Reads and answers requests until the mount is gone, or enough others do. Run by several
    /// threads; true for the last that ends with the mount.
    pub(crate) fn serve(self: &Arc<Self>) -> bool {
        let mut request = vec![0; REQUEST_BUFFER_BYTES];
        let mut answer = vec![0; OUT_HEADER_BYTES + TRANSFER_MAX_BYTES];
        let hand = self.hands.join();
        let is_last = loop {
            self.pulse.waits();
            let read = rustix::io::read(&self.kernel, &mut request[..]);
            self.pulse.works();
            match read {
                Ok(length) => self.take(&request[..length], &mut answer, &hand),
                // NOENT: the request was taken back while we read it.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_) => break self.threads.end(),
            }
            if self.threads.may_end(self.pulse.waiting()) {
                break false;
            }
        };
        self.hands.leave(&hand);
        is_last
    }

    fn take(self: &Arc<Self>, message: &[u8], answer: &mut [u8], hand: &Hand) {
        let Some(header) = Header::parse(message) else {
            return;
        };
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| match header.opcode {
            opcode::READ => self.take_read(&header, message, answer, hand),
            opcode::RELEASE => self.take_release(&header, message, begun),
            opcode::INTERRUPT => self.take_interrupt(message),
            opcode::FORGET | opcode::BATCH_FORGET => {
                for (ino, lookups) in abi::forgotten(&header, message) {
                    self.fs.forget(ino, lookups);
                }
            }
            opcode::GETXATTR => match absent_attribute(message) {
                Some(error) => self.answer_error(header.unique, error),
                None => self.forward(&header, message),
            },
            opcode::LISTXATTR => self.answer_no_attributes(&header, message, begun),
            opcode::LOOKUP
            | opcode::GETATTR
            | opcode::OPEN
            | opcode::READDIR
            | opcode::READDIRPLUS => {
                if !self.answer_itself(&header, message, answer, begun) {
                    self.forward(&header, message);
                }
            }
            // read-only in the VFS, they do not come; should one come all the same, it gets EROFS
            changing if opcode::CHANGING.contains(&changing) => {
                self.answer_error(header.unique, FsError::ReadOnly);
            }
            _ => self.forward(&header, message),
        }));
        if taken.is_err() {
            hand.put_down(header.unique, &self.table);
            self.answer_error(header.unique, FsError::Fault);
        }
    }

    /// Answered first, since to close may wait for the disk, and others are to be read meanwhile.
    fn take_release(&self, header: &Header, message: &[u8], begun: Instant) {
        let Some(handle) = abi::released(message) else {
            return self.answer_error(header.unique, FsError::Fault);
        };
        let _ = self.write(&[IoSlice::new(&abi::out_header(header.unique, 0, 0))]);
        self.counters.note(opcode::RELEASE, begun.elapsed(), false);
        self.readers.closed(handle);
        self.threads.keep_one_reading(self.pulse.waiting());
        self.fs.release(handle);
    }

    /// None is listed: where it is asked how much room the names need, that is a number.
    fn answer_no_attributes(&self, header: &Header, message: &[u8], begun: Instant) {
        let body: &[u8] = match abi::attribute_room(message) {
            Some(0) => &[0; 8],
            _ => &[],
        };
        let head = abi::out_header(header.unique, 0, body.len());
        let _ = self.write(&[IoSlice::new(&head), IoSlice::new(body)]);
        self.counters.note(header.opcode, begun.elapsed(), false);
    }

    /// Answers a request with an error before its handler does; false where it does not wait.
    pub(super) fn end_early(&self, unique: u64, why: FsError) -> bool {
        let Some(waiting) = self.table.take_early(unique) else {
            return false;
        };
        if why == FsError::DeadlinePassed {
            self.counters.note_expired();
        }
        self.counters
            .note(waiting.opcode, waiting.since.elapsed(), true);
        self.fail(unique, waiting, why);
        true
    }

    fn fail(&self, unique: u64, waiting: Waiting, why: FsError) {
        self.answer_error(unique, why);
        if let Some(read) = waiting.read {
            self.fs.abandon(&read, why);
        }
    }

    /// Sends a message to the session as if the kernel had asked; false where it is gone.
    pub(super) fn ask_session(&self, message: &[u8]) -> bool {
        rustix::net::send(&self.session, message, SendFlags::NOSIGNAL).is_ok()
    }

    /// Notes a request that the session is to answer; false at the end of the mount.
    pub(super) fn expect(&self, header: &Header) -> bool {
        let begun = Instant::now();
        let deadline = begun + self.deadlines.metadata;
        let waiting = Waiting::of_names(header, begun, deadline);
        self.table.insert(header.unique, waiting)
    }

    fn forward(&self, header: &Header, message: &[u8]) {
        if header.opcode == opcode::INIT {
            self.greetings.hear(message);
        }
        if !self.expect(header) {
            return self.answer_error(header.unique, FsError::Stopping);
        }
        let sent = rustix::net::send(&self.session, message, SendFlags::NOSIGNAL);
        if sent.is_err() && self.table.take(header.unique).is_some() {
            self.answer_error(header.unique, FsError::Fault);
        }
    }

    /// Brings the session's answers to the kernel until the session is gone.
    pub(crate) fn return_answers(self: &Arc<Self>) {
        let mut message = vec![0; PAIR_MESSAGE_MAX_BYTES];
        loop {
            match rustix::net::recv(&self.session, &mut message[..], RecvFlags::empty()) {
                Ok((_, 0)) => return,
                Ok((_, length)) => self.return_answer(&message[..length.min(message.len())]),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn return_answer(self: &Arc<Self>, message: &[u8]) {
        let Some((unique, errno)) = abi::answered(message) else {
            return;
        };
        if unique == PULSE_UNIQUE {
            return self.pulse.answered();
        }
        let Some(waiting) = self.table.take(unique) else {
            // Answered early, by an interrupt or the deadline.
            if let (Some(opcode), 0) = (self.table.take_late(unique), errno) {
                self.undo_elsewhere(opcode, message);
            }
            return;
        };
        self.counters
            .note(waiting.opcode, waiting.since.elapsed(), errno != 0);
        if waiting.opcode == opcode::INIT {
            return self.return_greeting(message);
        }
        let written = self.write(&[IoSlice::new(message)]);
        if written.is_err() && errno == 0 {
            self.undo_elsewhere(waiting.opcode, message);
        }
    }

    /// Takes an answer of the session back on a thread of its own: to close what that opened may
    /// wait for the disk, and this thread brings all answers.
    fn undo_elsewhere(self: &Arc<Self>, operation: u32, answer: &[u8]) {
        if abi::undo(operation, answer) == Undo::Nothing {
            return;
        }
        let (device, late) = (self.clone(), answer.to_vec());
        let started = super::spawn("fuse-undo", move || device.undo(operation, &late));
        if started.is_err() {
            self.undo(operation, answer);
        }
    }

    fn return_greeting(&self, answer: &[u8]) {
        let greeted = match self.greetings.answer(answer) {
            Answered::New(greeting) => match self.write(&[IoSlice::new(answer)]) {
                Ok(()) => Ok(Some(greeting)),
                Err(error) => Err(error.into()),
            },
            Answered::Again => Ok(None),
            Answered::Otherwise => Err(io::Error::other("it was agreed on otherwise before")),
        };
        let _ = self.greeted.send(greeted);
    }

    /// Answers nothing from now on: what is under way is the next process's to answer.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Takes back what the filesystem counted for an answer that the kernel did not take. May wait
    /// for a disk.
    pub(super) fn undo(&self, operation: u32, answer: &[u8]) {
        match abi::undo(operation, answer) {
            Undo::Nothing => {}
            Undo::Lookups(inodes) => inodes.iter().for_each(|ino| self.fs.forget(*ino, 1)),
            Undo::Handle(handle) => {
                self.readers.closed(handle);
                self.fs.release(handle);
            }
        }
    }

    /// Answers what is past its deadline, until the table is closed. A read whose bytes are on
    /// their way has more time: its content knows how much.
    pub(crate) fn keep_deadlines(&self) {
        while let Some(expired) = self.table.wait_expired() {
            for (unique, waiting) in expired {
                match self.more_time(&waiting) {
                    Some(deadline) => self.table.postpone(unique, deadline),
                    None => {
                        self.end_early(unique, FsError::DeadlinePassed);
                    }
                }
            }
        }
    }

    fn more_time(&self, waiting: &Waiting) -> Option<Instant> {
        let until = self.fs.waits_until(waiting.read.as_ref()?)?;
        // past its own deadline, the content is to have answered, and soon
        Some(until + CONTENT_GRACE).filter(|later| *later > Instant::now())
    }

    /// Tells the kernel to forget something. Blocks while the kernel holds the locks of it.
    pub(crate) fn notify(&self, stale: &Stale) -> Result<(), Errno> {
        self.write(&[IoSlice::new(&abi::notification(stale))])
    }

    /// The mount is gone: ends the session and answers whatever still waits.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.session, Shutdown::Both);
        self.delayed.close();
        for (unique, waiting) in self.table.close() {
            self.fail(unique, waiting, FsError::Stopping);
        }
    }

    pub(super) fn answer_error(&self, unique: u64, error: FsError) {
        // Failure means that nobody waits for it any more.
        let _ = self.write(&[IoSlice::new(&abi::out_header(unique, error.errno(), 0))]);
    }

    /// A message to the kernel is taken whole or not at all.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        if self.handed_over.load(Ordering::Acquire) {
            return Err(Errno::SHUTDOWN);
        }
        rustix::io::writev(&self.kernel, parts).map(drop)
    }
}

/// Why no file has the attribute that is asked for: the kernel asks so of every file in `ls -l`.
fn absent_attribute(message: &[u8]) -> Option<FsError> {
    debug_assert!(message.len() >= IN_HEADER_BYTES);
    abi::attribute_name(message).and_then(p2pfs_fs::attribute_absence)
}
