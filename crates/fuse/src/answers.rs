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

use std::sync::Arc;
use std::time::Instant;

use super::abi::{self, OUT_HEADER_BYTES, ReadIn, RequestHeader, opcode};
use super::body::{ATTR_OUT_BYTES, AnswerBody};
use super::delivery::Call;
use super::device::MountContext;
use super::readers::OpeningThread;
use p2pfs_fs::{Attributes, FsError, OpenReply, Reach};

/// Answers LOOKUP, GETATTR, OPEN and listings.
pub(super) struct NameAnswers {
    pub mount: MountContext,
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
        let late = self
            .mount
            .answer_with(Call::of(header), answer, |body| match header.opcode {
                opcode::LOOKUP => self.look_up(header, message, body),
                opcode::GETATTR => self.get_attributes(header, body),
                opcode::OPEN => self.open_file(header, message, body),
                _ => self.list(header, message, body),
            });
        if let Some(late) = late {
            self.mount.undo(header.opcode, late);
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
        self.mount.record_opened(&opener, header.nodeid, opened);
        if opener.reach() == Reach::Everything {
            self.mount
                .fs
                .follower
                .follow_open(opener.program(), header.nodeid);
        }
        body.put_open(opened);
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
        let (answers, call) = (Arc::downgrade(self), Call::of(header));
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
        let (answers, call) = (Arc::downgrade(self), Call::of(header));
        let reply = Box::new(move |opened: Result<OpenReply, FsError>| {
            if let Some(answers) = answers.upgrade() {
                if let Ok(opened) = opened {
                    answers.mount.record_opened(&opener, ino, opened);
                }
                answers.answer_later(call, opened, |body, opened| body.put_open(opened));
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
        call: Call,
        result: Result<T, FsError>,
        put: impl FnOnce(&mut AnswerBody<'_>, T),
    ) {
        let mut answer = [0; OUT_HEADER_BYTES + ATTR_OUT_BYTES];
        let late = self.mount.answer_with(call, &mut answer, |body| {
            put(body, result?);
            Ok(())
        });
        if let Some(late) = late {
            self.undo_elsewhere(call.opcode, late);
        }
    }

    /// Releases the references of an answer on a thread of its own. Closing a file may wait for the
    /// disk, and the thread that calls a reply may have other work.
    fn undo_elsewhere(self: &Arc<Self>, operation: u32, answer: &[u8]) {
        if abi::undo(operation, answer).is_empty() {
            return;
        }
        let (mount, late) = (self.mount.clone(), answer.to_vec());
        let started = super::spawn("fuse-undo", move || mount.undo(operation, &late));
        if started.is_err() {
            self.mount.undo(operation, answer);
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
}
