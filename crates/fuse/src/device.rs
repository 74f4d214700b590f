//! Device: owns /dev/fuse, reads the requests of the kernel, and ensures that each request is
//! answered once and in time.
//!
//! The device threads themselves answer requests that may wait for a disk: READ and RELEASE,
//! LOOKUP, GETATTR, OPEN and listings. They also handle interrupts and forgets. All other requests
//! pass through a socket pair to the session, and the answers return the same way. The device
//! answers every request that reaches its deadline with an error. A thread that panics in a request
//! answers it with EIO and continues.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use super::abi::{self, IN_HEADER_BYTES, OUT_HEADER_BYTES, RequestHeader, Undo, opcode};
use super::budget::DelayQueue;
use super::counters::Counters;
use super::inline_reads::{InlineRead, InlineReads};
use super::pulse::{Liveness, PULSE_UNIQUE};
use super::readers::Readers;
use super::saved_init::{InitAnswer, InitState, SavedInit};
use super::table::{PendingRequest, RequestTable};
use super::threads::Threads;
use p2pfs_fs::{Filesystem, FsError, Stale};

/// Maximum bytes of one read or write of the kernel: 256 pages.
pub const TRANSFER_MAX_BYTES: usize = 1 << 20;
/// Size of the request buffer: the largest write and its headers. `fuse_dev_do_read` requires this
/// size even though writes never arrive.
const REQUEST_BUFFER_BYTES: usize = TRANSFER_MAX_BYTES + 4096;
/// Maximum size of one message on the socket pair, far more than any answer of the session.
const PAIR_MESSAGE_MAX_BYTES: usize = 128 * 1024;
/// Buffer size of the socket pair, so that a burst of small requests does not block the device
/// threads.
const PAIR_BUFFER_BYTES: usize = 1 << 20;

/// Additional time that a content has after its own deadline to end a read, before the device ends
/// it.
const CONTENT_GRACE: Duration = Duration::from_secs(2);

/// Deadlines after which the device answers a request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Deadline of file reads. The content has its own, shorter deadline, which moves with
    /// progress. A read for which the content reports progress gets more time.
    pub read: Duration,
    /// Deadline of all other requests, which never wait except because of a bug.
    pub metadata: Duration,
}

/// Device of one mount.
pub(super) struct Device {
    kernel: OwnedFd,
    session: OwnedFd,
    pub fs: Arc<Filesystem>,
    pub table: RequestTable,
    /// Reads in progress that are not in the table yet.
    pub(super) inline_reads: InlineReads,
    pub counters: Counters,
    pub readers: Arc<Readers>,
    pub(super) threads: Threads,
    /// Reads that wait for the budget of their program.
    pub(super) delayed: DelayQueue,
    pub(super) deadlines: Deadlines,
    init_done: Sender<io::Result<Option<SavedInit>>>,
    init_state: InitState,
    /// Whether answers are withheld, because the next process will give them.
    handed_over: AtomicBool,
    /// Liveness of the threads that serve the mount.
    pub(super) liveness: Liveness,
}

impl Device {
    /// Creates the device from the descriptor of /dev/fuse. Also returns the session's end of the
    /// socket pair. `init_done` receives the handshake to keep for the next process, once the
    /// kernel has taken the answer to its FUSE_INIT. `kept` is the handshake of the previous
    /// process.
    pub(crate) fn new(
        kernel: OwnedFd,
        fs: Arc<Filesystem>,
        deadlines: Deadlines,
        init_done: Sender<io::Result<Option<SavedInit>>>,
        kept: Option<SavedInit>,
    ) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (session, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&session, &theirs] {
            // The kernel cuts the size to the limit of this user, which is enough for single
            // messages.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, PAIR_BUFFER_BYTES);
        }
        Ok((
            Arc::new(Self {
                kernel,
                session,
                fs,
                table: RequestTable::default(),
                inline_reads: InlineReads::default(),
                counters: Counters::default(),
                readers: Arc::default(),
                threads: Threads::default(),
                delayed: DelayQueue::default(),
                deadlines,
                init_done,
                init_state: InitState::new(kept),
                handed_over: AtomicBool::new(false),
                liveness: Liveness::default(),
            }),
            theirs,
        ))
    }

    /// Returns the descriptor of /dev/fuse.
    pub(crate) fn kernel(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    /// Reads and answers requests until the mount is gone or enough other threads do so. Several
    /// threads run this. Returns `true` for the last thread that ends with the mount.
    pub(crate) fn serve(self: &Arc<Self>) -> bool {
        let mut request = vec![0; REQUEST_BUFFER_BYTES];
        let mut answer = vec![0; OUT_HEADER_BYTES + TRANSFER_MAX_BYTES];
        let inline_read = self.inline_reads.add_thread();
        let is_last = loop {
            self.liveness.begin_wait();
            let read = rustix::io::read(&self.kernel, &mut request[..]);
            self.liveness.end_wait();
            match read {
                Ok(length) => self.take(&request[..length], &mut answer, &inline_read),
                // NOENT: the kernel cancelled the request during the read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_) => break self.threads.end(),
            }
            if self.threads.may_end(self.liveness.waiting()) {
                break false;
            }
        };
        self.inline_reads.remove_thread(&inline_read);
        is_last
    }

    fn take(self: &Arc<Self>, message: &[u8], answer: &mut [u8], inline_read: &InlineRead) {
        let Some(header) = RequestHeader::parse(message) else {
            return;
        };
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| match header.opcode {
            opcode::READ => self.take_read(&header, message, answer, inline_read),
            opcode::RELEASE => self.take_release(&header, message, begun),
            opcode::INTERRUPT => self.take_interrupt(message),
            opcode::FORGET | opcode::BATCH_FORGET => {
                for (ino, lookups) in abi::forgotten(&header, message) {
                    self.fs.inodes.forget(ino, lookups);
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
            // The VFS is read-only, so these should not arrive. If one does, it gets EROFS.
            changing if opcode::CHANGING.contains(&changing) => {
                self.answer_error(header.unique, FsError::ReadOnly);
            }
            _ => self.forward(&header, message),
        }));
        if taken.is_err() {
            inline_read.finish(header.unique, &self.table);
            self.answer_error(header.unique, FsError::Fault);
        }
    }

    /// Answers a RELEASE before it closes the file. The close may wait for the disk, and other
    /// requests should be read meanwhile.
    fn take_release(&self, header: &RequestHeader, message: &[u8], begun: Instant) {
        let Some(handle) = abi::released(message) else {
            return self.answer_error(header.unique, FsError::Fault);
        };
        let _ = self.write(&[IoSlice::new(&abi::out_header(header.unique, 0, 0))]);
        self.counters
            .record(opcode::RELEASE, begun.elapsed(), false);
        self.readers.closed(handle);
        self.threads.ensure_one_reads(self.liveness.waiting());
        self.fs.files.release(handle);
    }

    /// Answers a LISTXATTR with an empty list. If the kernel requests the needed size, the answer
    /// is a number.
    fn answer_no_attributes(&self, header: &RequestHeader, message: &[u8], begun: Instant) {
        let body: &[u8] = match abi::attribute_room(message) {
            Some(0) => &[0; 8],
            _ => &[],
        };
        let head = abi::out_header(header.unique, 0, body.len());
        let _ = self.write(&[IoSlice::new(&head), IoSlice::new(body)]);
        self.counters.record(header.opcode, begun.elapsed(), false);
    }

    /// Answers a request with an error before its handler does. Returns `false` if it no longer
    /// waits.
    pub(super) fn end_early(&self, unique: u64, why: FsError) -> bool {
        let Some(waiting) = self.table.take_early(unique) else {
            return false;
        };
        if why == FsError::DeadlinePassed {
            self.counters.record_expired();
        }
        self.counters
            .record(waiting.opcode, waiting.since.elapsed(), true);
        self.fail(unique, waiting, why);
        true
    }

    fn fail(&self, unique: u64, waiting: PendingRequest, why: FsError) {
        self.answer_error(unique, why);
        if let Some(read) = waiting.read {
            self.fs.files.abandon(&read, why);
        }
    }

    /// Sends a message to the session as if from the kernel. Returns `false` if the session is
    /// gone.
    pub(super) fn ask_session(&self, message: &[u8]) -> bool {
        rustix::net::send(&self.session, message, SendFlags::NOSIGNAL).is_ok()
    }

    /// Adds a request for the session to the table. Returns `false` at the end of the mount.
    pub(super) fn expect(&self, header: &RequestHeader) -> bool {
        let begun = Instant::now();
        let deadline = begun + self.deadlines.metadata;
        let waiting = PendingRequest::of_names(header, begun, deadline);
        self.table.insert(header.unique, waiting)
    }

    fn forward(&self, header: &RequestHeader, message: &[u8]) {
        if header.opcode == opcode::INIT {
            self.init_state.record_request(message);
        }
        if !self.expect(header) {
            return self.answer_error(header.unique, FsError::Stopping);
        }
        let sent = rustix::net::send(&self.session, message, SendFlags::NOSIGNAL);
        if sent.is_err() && self.table.take(header.unique).is_some() {
            self.answer_error(header.unique, FsError::Fault);
        }
    }

    /// Forwards the answers of the session to the kernel until the session is gone.
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
            return self.liveness.answered();
        }
        let Some(waiting) = self.table.take(unique) else {
            // The request was answered early, by an interrupt or the deadline.
            if let (Some(opcode), 0) = (self.table.take_late(unique), errno) {
                self.undo_elsewhere(opcode, message);
            }
            return;
        };
        self.counters
            .record(waiting.opcode, waiting.since.elapsed(), errno != 0);
        if waiting.opcode == opcode::INIT {
            return self.return_greeting(message);
        }
        let written = self.write(&[IoSlice::new(message)]);
        if written.is_err() && errno == 0 {
            self.undo_elsewhere(waiting.opcode, message);
        }
    }

    /// Releases the references of a late session answer in a separate thread. Closing a file may
    /// wait for the disk, and this thread forwards all answers.
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
        let init_done = match self.init_state.answer(answer) {
            InitAnswer::New(greeting) => match self.write(&[IoSlice::new(answer)]) {
                Ok(()) => Ok(Some(greeting)),
                Err(error) => Err(error.into()),
            },
            InitAnswer::Again => Ok(None),
            InitAnswer::Otherwise => Err(io::Error::other("it was agreed on otherwise before")),
        };
        let _ = self.init_done.send(init_done);
    }

    /// Stops answering: the next process answers the requests in flight.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Releases the references that the filesystem counted for an answer that the kernel did not
    /// take. May wait for a disk.
    pub(super) fn undo(&self, operation: u32, answer: &[u8]) {
        match abi::undo(operation, answer) {
            Undo::Nothing => {}
            Undo::Lookups(inodes) => inodes.iter().for_each(|ino| self.fs.inodes.forget(*ino, 1)),
            Undo::Handle(handle) => {
                self.readers.closed(handle);
                self.fs.files.release(handle);
            }
        }
    }

    /// Answers requests past their deadline until the table is closed. A read whose bytes are
    /// arriving gets more time, which its content determines.
    pub(crate) fn enforce_deadlines(&self) {
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

    fn more_time(&self, waiting: &PendingRequest) -> Option<Instant> {
        let until = self.fs.files.waits_until(waiting.read.as_ref()?)?;
        // Past its own deadline, the content should have answered, or should do so soon.
        Some(until + CONTENT_GRACE).filter(|later| *later > Instant::now())
    }

    /// Notifies the kernel that cached data is stale. Blocks while the kernel holds the locks of
    /// that data.
    pub(crate) fn notify(&self, stale: &Stale) -> Result<(), Errno> {
        self.write(&[IoSlice::new(&abi::notification(stale))])
    }

    /// Ends the session and answers all waiting requests, after the mount is gone.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.session, Shutdown::Both);
        self.delayed.close();
        for (unique, waiting) in self.table.close() {
            self.fail(unique, waiting, FsError::Stopping);
        }
    }

    pub(super) fn answer_error(&self, unique: u64, error: FsError) {
        // A failure means that the request is no longer waiting.
        let _ = self.write(&[IoSlice::new(&abi::out_header(unique, error.errno(), 0))]);
    }

    /// Writes a message to the kernel, which takes it completely or not at all.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        if self.handed_over.load(Ordering::Acquire) {
            return Err(Errno::SHUTDOWN);
        }
        rustix::io::writev(&self.kernel, parts).map(drop)
    }
}

/// Returns why no file has the requested attribute. The kernel requests such attributes for every
/// file in `ls -l`.
fn absent_attribute(message: &[u8]) -> Option<FsError> {
    debug_assert!(message.len() >= IN_HEADER_BYTES);
    abi::attribute_name(message).and_then(p2pfs_fs::attribute_absence)
}
