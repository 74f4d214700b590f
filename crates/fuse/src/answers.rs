//! Answers to LOOKUP, GETATTR, OPEN and listings, which the device threads give themselves.
//!
//! Programs that walk a tree or copy small files send almost only these. To pass them to the
//! session would cost two thread switches per call. During the work, the call is in the table of
//! unanswered requests like any other. If a disk under a share or the cache stalls, an interrupt or
//! the deadline therefore still ends the wait. If the call then finishes later, the lookups or the
//! handle of its answer are released. If all threads are busy, another one is started.

use std::io::IoSlice;
use std::time::Instant;

use super::abi::{self, OUT_HEADER_BYTES, ReadIn, RequestHeader, Undo, opcode};
use super::body::AnswerBody;
use super::device::MountContext;
use super::readers::OpeningThread;
use p2pfs_fs::{Caching, FsError, OpenReply, Reach};

/// Flags of an answer to OPEN (`FOPEN_…`, include/uapi/linux/fuse.h).
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const PASSTHROUGH: u32 = 1 << 7;

/// Answers LOOKUP, GETATTR, OPEN and listings.
pub(super) struct NameAnswers {
    pub mount: MountContext,
}

impl NameAnswers {
    /// Answers a request, using `answer` as the buffer. Returns `false` without an answer if the
    /// request may have to wait for foreign peers. The session must then answer it.
    pub(crate) fn answer(
        &self,
        header: &RequestHeader,
        message: &[u8],
        answer: &mut [u8],
        begun: Instant,
    ) -> bool {
        let may_wait = matches!(header.opcode, opcode::GETATTR | opcode::OPEN);
        if may_wait && self.mount.fs.foreign.is_foreign(header.nodeid) {
            return false;
        }
        if !self.mount.requests.expect(header, begun) {
            self.mount
                .kernel
                .answer_error(header.unique, FsError::Stopping);
            return true;
        }
        self.mount
            .threads
            .ensure_one_reads(self.mount.liveness.waiting());
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
        let Some(waiting) = self.mount.requests.table.take(header.unique) else {
            // The request was answered early, by an interrupt or the deadline.
            self.mount.requests.table.take_late(header.unique);
            if errno == 0 {
                self.undo(header.opcode, answer);
            }
            return true;
        };
        self.mount
            .requests
            .counters
            .record(header.opcode, waiting.since.elapsed(), errno != 0);
        let written = self.mount.kernel.write(&[IoSlice::new(answer)]);
        if written.is_err() && errno == 0 {
            self.undo(header.opcode, answer);
        }
        true
    }

    /// Releases the references that the filesystem counted for an answer that the kernel did not
    /// take. May wait for a disk.
    pub(crate) fn undo(&self, operation: u32, answer: &[u8]) {
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
        match self.mount.fs.inodes.lookup(header.nodeid, name) {
            Ok(entry) => body.put_entry(&entry.attributes, entry.lifetime),
            Err(FsError::NotFound) => {
                body.put_absence(self.mount.fs.inodes.absence_lifetime(header.nodeid));
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
