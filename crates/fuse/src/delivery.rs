//! Gives the answers of the device threads to the kernel, and releases what an answer refers to if
//! the kernel does not take it.

use std::io::IoSlice;

use super::abi::{self, OUT_HEADER_BYTES, RequestHeader};
use super::body::AnswerBody;
use super::device::MountContext;
use super::readers::OpeningThread;
use p2pfs_fs::{Caching, FsError, OpenReply};

/// A request to answer.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub unique: u64,
    pub opcode: u32,
}

impl Call {
    /// Returns the call of a request.
    pub(crate) fn of(header: &RequestHeader) -> Self {
        Self {
            unique: header.unique,
            opcode: header.opcode,
        }
    }
}

impl MountContext {
    /// Answers a request, which is in the table, with the body that `put` writes, or with its
    /// error. `answer` is the buffer. Returns the answer if it is no error and the kernel did not
    /// take it: the request was answered early, or the mount is gone.
    pub(crate) fn answer_with<'a>(
        &self,
        call: Call,
        answer: &'a mut [u8],
        put: impl FnOnce(&mut AnswerBody<'_>) -> Result<(), FsError>,
    ) -> Option<&'a [u8]> {
        let (head, room) = answer.split_at_mut(OUT_HEADER_BYTES);
        let mut body = AnswerBody::new(room);
        let errno = put(&mut body).err().map_or(0, FsError::errno);
        let length = if errno == 0 { body.length() } else { 0 };
        head.copy_from_slice(&abi::out_header(call.unique, errno, length));
        let answer = &answer[..OUT_HEADER_BYTES + length];
        let is_delivered = self.deliver(call.unique, answer, errno != 0);
        (!is_delivered && errno == 0).then_some(answer)
    }

    /// Gives an answer to the kernel. Returns whether the kernel took it.
    fn deliver(&self, unique: u64, answer: &[u8], is_error: bool) -> bool {
        let Some(waiting) = self.requests.table.take(unique) else {
            // The request was answered early, by an interrupt or the deadline.
            return false;
        };
        self.requests
            .counters
            .record(waiting.opcode, waiting.since.elapsed(), is_error);
        self.kernel.write(&[IoSlice::new(answer)]).is_ok()
    }

    /// Releases the references that the filesystem counted for an answer that the kernel did not
    /// take. May wait for a disk.
    pub(crate) fn undo(&self, operation: u32, answer: &[u8]) {
        let undo = abi::undo(operation, answer);
        if let Some(handle) = undo.handle {
            self.readers.closed(handle);
            self.fs.files.release(handle);
        }
        for ino in undo.lookups {
            self.fs.inodes.forget(ino, 1);
        }
    }

    /// Records an open file for the reports about programs.
    pub(crate) fn record_opened(&self, opener: &OpeningThread, ino: u64, opened: OpenReply) {
        let by_kernel = matches!(opened.caching, Caching::Backed(_));
        let path = self.fs.inodes.path_of(ino).unwrap_or_default();
        self.readers
            .opened(opener, opened.handle, ino, &path, by_kernel);
    }
}
