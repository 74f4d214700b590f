//! Answers to LOOKUP, GETATTR, OPEN and listings, which the device threads give themselves.
//!
//! Programs that walk a tree or copy small files send almost only these. To pass them to the
//! session would cost two thread switches per call. During the work, the call is in the table of
//! unanswered requests like any other. If a disk under a share or the cache stalls, an interrupt or
//! the deadline therefore still ends the wait. If the call then finishes later, the lookups or the
//! handle of its answer are released. If all threads are busy, another one is started.
//!
//! GETATTR and OPEN of a file that foreign peers may have can wait for the network. The thread only
//! begins these, and the answer follows from any thread. However many wait, they occupy no thread.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use super::abi::{self, OUT_HEADER_BYTES, ReadIn, RequestHeader, Undo, opcode};
use super::body::{ATTR_OUT_BYTES, AnswerBody};
use super::device::MountContext;
use super::readers::OpeningThread;
use p2pfs_fs::{Attributes, Caching, FsError, OpenReply, Reach};

/// Flags of an answer to OPEN (`FOPEN_…`, include/uapi/linux/fuse.h).
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const PASSTHROUGH: u32 = 1 << 7;

/// Answers LOOKUP, GETATTR, OPEN and listings.
pub(super) struct NameAnswers {
    pub mount: MountContext,
}

/// A request that is answered later.
#[derive(Clone, Copy)]
struct LaterCall {
    unique: u64,
    opcode: u32,
}

impl LaterCall {
    fn of(header: &RequestHeader) -> Self {
        Self {
            unique: header.unique,
            opcode: header.opcode,
        }
    }
}

impl NameAnswers {
    /// Answers a request, using `answer` as the buffer. If the answer depends on foreign peers, it
    /// may follow later.
    pub(crate) fn answer(
        self: &Arc<Self>,
        header: &RequestHeader,
        message: &[u8],
        answer: &mut [u8],
        begun: Instant,
    ) {
        if !self.mount.requests.expect(header, begun) {
            return self
                .mount
                .kernel
                .answer_error(header.unique, FsError::Stopping);
        }
        self.mount
            .threads
            .ensure_one_reads(self.mount.liveness.waiting());
        let may_wait = matches!(header.opcode, opcode::GETATTR | opcode::OPEN);
        if may_wait && self.mount.fs.foreign.is_foreign(header.nodeid) {
            return self.begin_foreign(header, message);
        }
        let (head, room) = answer.split_at_mut(OUT_HEADER_BYTES);
        let mut body = AnswerBody::new(room);
        let worked = match header.opcode {
            opcode::LOOKUP => self.look_up(header, message, &mut body),
            opcode::GETATTR => self.get_attributes(header, &mut body),
            opcode::OPEN => self.open_file(header, message, &mut body),
            _ => self.list(header, message, &mut body),
        };
        let errno = worked.err().map_or(0, FsError::errno);
        let length = if errno == 0 { body.length() } else { 0 };
        head.copy_from_slice(&abi::out_header(header.unique, errno, length));
        let answer = &answer[..OUT_HEADER_BYTES + length];
        if !self.deliver(header.unique, answer, errno != 0) && errno == 0 {
            self.undo(header.opcode, answer);
        }
    }

    /// Gives an answer to the kernel. Returns whether the kernel took it.
    fn deliver(&self, unique: u64, answer: &[u8], is_error: bool) -> bool {
        let Some(waiting) = self.mount.requests.table.take(unique) else {
            // The request was answered early, by an interrupt or the deadline.
            return false;
        };
        self.mount
            .requests
            .counters
            .record(waiting.opcode, waiting.since.elapsed(), is_error);
        self.mount.kernel.write(&[IoSlice::new(answer)]).is_ok()
    }

    /// Releases the references that the filesystem counted for an answer that the kernel did not
    /// take. May wait for a disk.
    fn undo(&self, operation: u32, answer: &[u8]) {
        match abi::undo(operation, answer) {
            Undo::Nothing => {}
            Undo::Lookups(inodes) => inodes
                .iter()
                .for_each(|ino| self.mount.fs.inodes.forget(*ino, 1)),
            Undo::Handle(handle) => {
                self.mount.readers.closed(handle);
                self.mount.fs.files.release(handle);
            }
        }
    }

    fn look_up(
        &self,
        header: &RequestHeader,
        message: &[u8],
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let name = abi::looked_up(message).ok_or(FsError::Fault)?;
        let inodes = &self.mount.fs.inodes;
        match inodes.lookup(header.nodeid, name, header.uid) {
            Ok(entry) => body.put_entry(&entry.attributes, entry.lifetime),
            Err(FsError::NotFound) => {
                body.put_absence(inodes.absence_lifetime(header.nodeid));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn get_attributes(
        &self,
        header: &RequestHeader,
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        body.put_attributes(&self.mount.fs.inodes.getattr(header.nodeid)?);
        Ok(())
    }

    fn open_file(
        &self,
        header: &RequestHeader,
        message: &[u8],
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let flags = abi::open_flags(message).ok_or(FsError::Fault)?;
        let opener = self.mount.readers.opener(header.pid, header.uid);
        let opened = self
            .mount
            .fs
            .files
            .open(header.nodeid, flags, opener.reach())?;
        self.record_opened(&opener, header.nodeid, opened);
        if opener.reach() == Reach::Everything {
            self.mount
                .fs
                .follower
                .follow_open(opener.program(), header.nodeid);
        }
        let (flags, backing) = match opened.caching {
            // Without KEEP_CACHE an open waits, unkillable, for the reads in flight.
            Caching::Keep => (KEEP_CACHE, 0),
            Caching::PastPages => (DIRECT_IO | KEEP_CACHE, 0),
            Caching::Direct => (DIRECT_IO, 0),
            Caching::Backed(file) => (PASSTHROUGH, file.0),
        };
        body.put_open(opened.handle, flags, backing);
        Ok(())
    }

    /// Begins a GETATTR or OPEN of a file that foreign peers may have. Its reply may be called from
    /// any thread, before or after this returns. If it is dropped, the deadline ends the request.
    fn begin_foreign(self: &Arc<Self>, header: &RequestHeader, message: &[u8]) {
        let opener = self.mount.readers.opener(header.pid, header.uid);
        if header.opcode == opcode::OPEN {
            return self.open_foreign(header, message, opener);
        }
        let handle = abi::attributes_of_handle(message);
        let asker = (opener.reach() != Reach::Cached).then_some(header.uid);
        let (answers, call) = (Arc::downgrade(self), LaterCall::of(header));
        let reply = move |found: Result<Attributes, FsError>| {
            // Weak: a reply that is never called does not keep the mount alive.
            if let Some(answers) = answers.upgrade() {
                answers.answer_later(call, found, |body, found| body.put_attributes(&found));
            }
        };
        let foreign = &self.mount.fs.foreign;
        foreign.getattr(header.nodeid, handle, asker, Box::new(reply));
    }

    fn open_foreign(
        self: &Arc<Self>,
        header: &RequestHeader,
        message: &[u8],
        opener: OpeningThread,
    ) {
        let reach = opener.reach();
        let (ino, uid) = (header.nodeid, header.uid);
        let (answers, call) = (Arc::downgrade(self), LaterCall::of(header));
        let reply = Box::new(move |opened: Result<OpenReply, FsError>| {
            if let Some(answers) = answers.upgrade() {
                if let Ok(opened) = opened {
                    answers.record_opened(&opener, ino, opened);
                }
                answers.answer_later(call, opened, |body, opened| {
                    body.put_open(opened.handle, DIRECT_IO, 0);
                });
            }
        });
        match abi::open_flags(message) {
            // Opening the file means a transfer.
            _ if reach == Reach::Cached => reply(Err(FsError::Denied)),
            Some(flags) => self.mount.fs.foreign.open(ino, flags, uid, reply),
            None => reply(Err(FsError::Fault)),
        }
    }

    /// Gives the answer to a request that waited for foreign peers.
    fn answer_later<T>(
        self: &Arc<Self>,
        call: LaterCall,
        result: Result<T, FsError>,
        put: impl FnOnce(&mut AnswerBody<'_>, T),
    ) {
        let mut answer = [0; OUT_HEADER_BYTES + ATTR_OUT_BYTES];
        let (head, room) = answer.split_at_mut(OUT_HEADER_BYTES);
        let mut body = AnswerBody::new(room);
        let errno = match result {
            Ok(found) => {
                put(&mut body, found);
                0
            }
            Err(error) => error.errno(),
        };
        let length = body.length();
        head.copy_from_slice(&abi::out_header(call.unique, errno, length));
        let answer = &answer[..OUT_HEADER_BYTES + length];
        if !self.deliver(call.unique, answer, errno != 0) && errno == 0 {
            self.undo_elsewhere(call.opcode, answer);
        }
    }

    /// Releases the references of an answer on a thread of its own. Closing a file may wait for the
    /// disk, and the thread that calls a reply may have other work.
    fn undo_elsewhere(self: &Arc<Self>, operation: u32, answer: &[u8]) {
        if abi::undo(operation, answer) == Undo::Nothing {
            return;
        }
        let (answers, late) = (self.clone(), answer.to_vec());
        let started = super::spawn("fuse-undo", move || answers.undo(operation, &late));
        if started.is_err() {
            self.undo(operation, answer);
        }
    }

    /// Lists a directory from a cookie on, as far as the buffer of the kernel allows.
    fn list(
        &self,
        header: &RequestHeader,
        message: &[u8],
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let asked = ReadIn::parse(message).ok_or(FsError::Fault)?;
        let (ino, cookie) = (header.nodeid, asked.offset);
        if cookie == 0 {
            self.follow_listing(header);
        }
        body.bound(asked.size_bytes as usize);
        match header.opcode {
            opcode::READDIR => (self.mount.fs)
                .directories
                .readdir(ino, cookie, &mut |entry| !body.put_name(&entry)),
            _ => (self.mount.fs)
                .directories
                .readdir_plus(ino, cookie, &mut |entry, attributes| {
                    !body.put_name_with(&entry, attributes)
                }),
        }
    }

    /// Prepares for opens of files in the directory, which often follow a listing.
    fn follow_listing(&self, header: &RequestHeader) {
        let lister = self.mount.readers.opener(header.pid, header.uid);
        if lister.reach() == Reach::Everything {
            self.mount
                .fs
                .follower
                .follow_listing(lister.program(), header.nodeid);
        }
    }

    fn record_opened(&self, opener: &OpeningThread, ino: u64, opened: OpenReply) {
        let by_kernel = matches!(opened.caching, Caching::Backed(_));
        let path = self.mount.fs.inodes.path_of(ino).unwrap_or_default();
        self.mount
            .readers
            .opened(opener, opened.handle, ino, &path, by_kernel);
    }
}
