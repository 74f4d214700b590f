//! Device: reads the requests of the kernel from /dev/fuse, and passes each to its handler.
//!
//! The device threads themselves answer requests that may wait: READ ([`super::reads`]), LOOKUP,
//! GETATTR, OPEN and listings ([`super::answers`]), changes ([`super::changes`]), and RELEASE. They
//! also handle interrupts and forgets, and give fixed answers. A thread may wait for a disk. Only a
//! limited number of them, for changes, waits for the network. Any other request that waits for it
//! is begun, and answered later from another thread. All other requests are answered from memory. They pass through a socket pair to the session
//! ([`super::session_link`]), and the answers return the same way. A request that reaches its
//! deadline is answered with an error ([`super::requests`]). A thread that panics in a request
//! answers it with EIO and continues.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use rustix::io::Errno;

use super::abi::{self, IN_HEADER_BYTES, OUT_HEADER_BYTES, RequestHeader, opcode};
use super::answers::NameAnswers;
use super::changes::ChangeServer;
use super::inline_reads::InlineRead;
use super::interrupts::Interrupt;
use super::kernel_link::KernelLink;
use super::pulse::{Liveness, PULSE_UNIQUE};
use super::readers::Readers;
use super::reads::ReadServer;
use super::requests::{Deadlines, Requests};
use super::saved_init::SavedInit;
use super::session_link::SessionLink;
use super::threads::Threads;
use p2pfs_fs::{Filesystem, FsError};

/// Maximum bytes of one read or write of the kernel: 256 pages.
pub const TRANSFER_MAX_BYTES: usize = 1 << 20;
/// Size of the request buffer: the largest write and its headers, as `fuse_dev_do_read` requires.
const REQUEST_BUFFER_BYTES: usize = TRANSFER_MAX_BYTES + 4096;
/// Maximum size of one message on the socket pair, far more than any answer of the session.
const PAIR_MESSAGE_MAX_BYTES: usize = 128 * 1024;

/// Parts of one mount that its device and the answers to its requests share. Clones share their
/// state.
#[derive(Clone)]
pub(super) struct MountContext {
    pub kernel: Arc<KernelLink>,
    pub requests: Arc<Requests>,
    pub fs: Arc<Filesystem>,
    pub readers: Arc<Readers>,
    pub threads: Arc<Threads>,
    /// Liveness of the threads that serve the mount.
    pub liveness: Arc<Liveness>,
}

/// Device of one mount.
pub(super) struct Device {
    pub mount: MountContext,
    pub reads: Arc<ReadServer>,
    pub session: SessionLink,
    names: Arc<NameAnswers>,
    changes: ChangeServer,
}

impl Device {
    /// Creates the device of a mount. Also returns the session's end of the
    /// socket pair. [`SessionLink::new`] explains `init_done` and `kept`.
    pub(crate) fn new(
        kernel: KernelLink,
        fs: Arc<Filesystem>,
        deadlines: Deadlines,
        init_done: Sender<io::Result<Option<SavedInit>>>,
        kept: Option<SavedInit>,
    ) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (session, theirs) = SessionLink::new(init_done, kept)?;
        let kernel = Arc::new(kernel);
        let mount = MountContext {
            requests: Arc::new(Requests::new(kernel.clone(), fs.clone(), deadlines)),
            kernel,
            fs,
            readers: Arc::default(),
            threads: Arc::default(),
            liveness: Arc::default(),
        };
        let device = Self {
            reads: Arc::new(ReadServer {
                mount: mount.clone(),
            }),
            names: Arc::new(NameAnswers {
                mount: mount.clone(),
            }),
            changes: ChangeServer::new(mount.clone()),
            mount,
            session,
        };
        Ok((Arc::new(device), theirs))
    }

    /// Reads and answers requests until the mount is gone or enough other threads do so. Several
    /// threads run this. Returns `true` for the last thread that ends with the mount.
    pub(crate) fn serve(self: &Arc<Self>) -> bool {
        let mut request = vec![0; REQUEST_BUFFER_BYTES];
        let mut answer = vec![0; OUT_HEADER_BYTES + TRANSFER_MAX_BYTES];
        let inline_read = self.mount.requests.inline_reads.add_thread();
        let is_last = loop {
            self.mount.liveness.begin_wait();
            let read = self.mount.kernel.read(&mut request);
            self.mount.liveness.end_wait();
            match read {
                Ok(length) => self.take(&request[..length], &mut answer, &inline_read),
                // NOENT: the kernel cancelled the request during the read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_) => break self.mount.threads.end(),
            }
            if self.mount.threads.may_end(self.mount.liveness.waiting()) {
                break false;
            }
        };
        self.mount.requests.inline_reads.remove_thread(&inline_read);
        is_last
    }

    fn take(self: &Arc<Self>, message: &[u8], answer: &mut [u8], inline_read: &InlineRead) {
        let Some(header) = RequestHeader::parse(message) else {
            return;
        };
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| match header.opcode {
            opcode::READ => self.reads.take_read(&header, message, answer, inline_read),
            opcode::RELEASE => self.take_release(&header, message, begun),
            opcode::INTERRUPT => {
                if let Some(interrupt) = Interrupt::parse(message) {
                    interrupt.handle(&self.mount.requests);
                }
            }
            opcode::FORGET | opcode::BATCH_FORGET => {
                for (ino, lookups) in abi::forgotten(&header, message) {
                    self.mount.fs.inodes.forget(ino, lookups);
                }
            }
            opcode::GETXATTR => match absent_attribute(message) {
                Some(error) => self.mount.kernel.answer_error(header.unique, error),
                None => self.forward(&header, message),
            },
            opcode::LISTXATTR => self.answer_no_attributes(&header, message, begun),
            opcode::OPEN if self.is_change(&header, message) => {
                self.changes.take(&header, message, answer, begun);
            }
            opcode::LOOKUP
            | opcode::GETATTR
            | opcode::OPEN
            | opcode::READDIR
            | opcode::READDIRPLUS => self.names.answer(&header, message, answer, begun),
            changing if opcode::CHANGING.contains(&changing) => {
                self.changes.take(&header, message, answer, begun);
            }
            _ => self.forward(&header, message),
        }));
        if taken.is_err() {
            inline_read.finish(header.unique, &self.mount.requests.table);
            self.mount.requests.table.take(header.unique);
            self.mount
                .kernel
                .answer_error(header.unique, FsError::Fault);
        }
    }

    /// Returns whether an OPEN is for writing. A file that only foreign peers may have cannot be
    /// written.
    fn is_change(&self, header: &RequestHeader, message: &[u8]) -> bool {
        abi::opens_for_writing(message) && !self.mount.fs.foreign.is_foreign(header.nodeid)
    }

    /// Answers a RELEASE before it closes the file. The close may wait for the disk, and other
    /// requests should be read meanwhile.
    fn take_release(&self, header: &RequestHeader, message: &[u8], begun: Instant) {
        let Some(handle) = abi::released(message) else {
            return self
                .mount
                .kernel
                .answer_error(header.unique, FsError::Fault);
        };
        let _ = self
            .mount
            .kernel
            .write(&[IoSlice::new(&abi::out_header(header.unique, 0, 0))]);
        self.mount
            .requests
            .counters
            .record(opcode::RELEASE, begun.elapsed(), false);
        self.mount.readers.closed(handle);
        self.mount
            .threads
            .ensure_one_reads(self.mount.liveness.waiting());
        self.mount.fs.files.release(handle);
    }

    /// Answers a LISTXATTR with an empty list. If the kernel requests the needed size, the answer
    /// is a number.
    fn answer_no_attributes(&self, header: &RequestHeader, message: &[u8], begun: Instant) {
        let body: &[u8] = match abi::attribute_room(message) {
            Some(0) => &[0; 8],
            _ => &[],
        };
        let head = abi::out_header(header.unique, 0, body.len());
        let _ = self
            .mount
            .kernel
            .write(&[IoSlice::new(&head), IoSlice::new(body)]);
        self.mount
            .requests
            .counters
            .record(header.opcode, begun.elapsed(), false);
    }

    fn forward(&self, header: &RequestHeader, message: &[u8]) {
        if header.opcode == opcode::INIT {
            self.session.record_init(message);
        }
        if !self.mount.requests.expect(header, Instant::now()) {
            return self
                .mount
                .kernel
                .answer_error(header.unique, FsError::Stopping);
        }
        if !self.session.send(message) && self.mount.requests.table.take(header.unique).is_some() {
            self.mount
                .kernel
                .answer_error(header.unique, FsError::Fault);
        }
    }

    /// Forwards the answers of the session to the kernel until the session is gone.
    pub(crate) fn return_answers(&self) {
        let mut message = vec![0; PAIR_MESSAGE_MAX_BYTES];
        loop {
            match self.session.receive(&mut message) {
                Ok(0) => return,
                Ok(length) => self.return_answer(&message[..length]),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn return_answer(&self, message: &[u8]) {
        let Some((unique, errno)) = abi::answered(message) else {
            return;
        };
        if unique == PULSE_UNIQUE {
            return self.mount.liveness.answered();
        }
        let Some(waiting) = self.mount.requests.table.take(unique) else {
            // The request was answered early, by an interrupt or the deadline.
            return;
        };
        self.mount
            .requests
            .counters
            .record(waiting.opcode, waiting.since.elapsed(), errno != 0);
        if waiting.opcode == opcode::INIT {
            return self.session.finish_init(&self.mount.kernel, message);
        }
        // No answer of the session refers to an inode or a handle, so a lost one leaves nothing.
        let _ = self.mount.kernel.write(&[IoSlice::new(message)]);
    }

    /// Sends the kept handshake request of the previous process to the session.
    pub(super) fn repeat_init(&self, kept: &SavedInit) -> io::Result<()> {
        let header = RequestHeader::parse(&kept.request).filter(|it| it.opcode == opcode::INIT);
        let header = header.ok_or(io::ErrorKind::InvalidData)?;
        if self.mount.requests.expect(&header, Instant::now()) && self.session.send(&kept.request) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Ends the session and answers all waiting requests, after the mount is gone.
    pub(crate) fn close(&self) {
        self.session.close();
        self.mount.requests.close();
    }
}

/// Returns why no file has the requested attribute. The kernel requests such attributes for every
/// file in `ls -l`.
fn absent_attribute(message: &[u8]) -> Option<FsError> {
    debug_assert!(message.len() >= IN_HEADER_BYTES);
    abi::attribute_name(message).and_then(p2pfs_fs::attribute_absence)
}
