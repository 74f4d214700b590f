//! What the device's own threads answer beside reads: LOOKUP, GETATTR and OPEN.
//!
//! Each program that walks a tree or copies small files asks little else, and a way through the
//! session would cost two hand-overs between threads a call. While a call is worked on it is in the
//! table as any other, so an interrupt or the deadline ends its wait also where a disk stands still
//! under a share or the cache; what its late answer then holds is given back. Where all threads are
//! busy so, another is started.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use super::abi::{self, Header, opcode};
use super::body::Body;
use super::device::Device;
use super::readers::Opener;
use super::table::Waiting;
use crate::fs::{Caching, FsError, OpenReply, Reach};

/// The flags of an answer to OPEN (`FOPEN_…`, include/uapi/linux/fuse.h).
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const PASSTHROUGH: u32 = 1 << 7;

impl Device {
    /// Answers one of these three; false where that may take asking legacy peers, which is the
    /// session's.
    pub(super) fn answer_itself(
        self: &Arc<Self>,
        header: &Header,
        message: &[u8],
        begun: Instant,
    ) -> bool {
        if header.opcode != opcode::LOOKUP && self.fs.is_legacy(header.nodeid) {
            return false;
        }
        let deadline = begun + self.deadlines.metadata;
        let waiting = Waiting::of_names(header, begun, deadline);
        if !self.table.insert(header.unique, waiting) {
            self.answer_error(header.unique, FsError::Stopping);
            return true;
        }
        self.threads.keep_one_reading(self.pulse.waiting());
        let mut body = Body::default();
        let worked = match header.opcode {
            opcode::LOOKUP => self.look_up(header, message, &mut body),
            opcode::GETATTR => self.get_attributes(header, &mut body),
            _ => self.open_file(header, message, &mut body),
        };
        let errno = worked.err().map_or(0, FsError::errno);
        let body = if errno == 0 { body.bytes() } else { &[] };
        let head = abi::out_header(header.unique, errno, body.len());
        let Some(waiting) = self.table.take(header.unique) else {
            // answered early, by an interrupt or the deadline
            self.table.take_late(header.unique);
            if errno == 0 {
                self.undo(header.opcode, &[&head, body].concat());
            }
            return true;
        };
        self.counters
            .note(header.opcode, waiting.since.elapsed(), errno != 0);
        let written = self.write(&[IoSlice::new(&head), IoSlice::new(body)]);
        if written.is_err() && errno == 0 {
            self.undo(header.opcode, &[&head, body].concat());
        }
        true
    }

    fn look_up(&self, header: &Header, message: &[u8], body: &mut Body) -> Result<(), FsError> {
        let name = abi::looked_up(message).ok_or(FsError::Fault)?;
        match self.fs.lookup(header.nodeid, name) {
            Ok(entry) => body.put_entry(&entry.attributes, entry.lifetime),
            Err(FsError::NotFound) => {
                body.put_absence(self.fs.absence_lifetime(header.nodeid));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn get_attributes(&self, header: &Header, body: &mut Body) -> Result<(), FsError> {
        body.put_attributes(&self.fs.getattr(header.nodeid)?);
        Ok(())
    }

    fn open_file(&self, header: &Header, message: &[u8], body: &mut Body) -> Result<(), FsError> {
        let flags = abi::open_flags(message).ok_or(FsError::Fault)?;
        let opener = self.readers.opener(header.pid, header.uid);
        let opened = self.fs.open(header.nodeid, flags, opener.reach())?;
        self.note_opened(&opener, header.nodeid, opened);
        if opener.reach() == Reach::Everything {
            self.fs.follow_open(opener.program(), header.nodeid);
        }
        let (flags, backing) = match opened.caching {
            // without KEEP_CACHE an open waits, unkillable, for the reads that are under way
            Caching::Keep => (KEEP_CACHE, 0),
            Caching::Direct => (DIRECT_IO, 0),
            Caching::Backed(file) => (PASSTHROUGH, file.0),
        };
        body.put_open(opened.handle, flags, backing);
        Ok(())
    }

    fn note_opened(&self, opener: &Opener, ino: u64, opened: OpenReply) {
        let by_kernel = matches!(opened.caching, Caching::Backed(_));
        let path = self.fs.path_of(ino).unwrap_or_default();
        self.readers
            .opened(opener, opened.handle, ino, &path, by_kernel);
    }
}
