//! Answers to READ: at once if the bytes are present, otherwise when they arrive. For a program
//! with a budget, no sooner than the budget allows.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;

use super::abi::{self, OUT_HEADER_BYTES, ReadIn, RequestHeader, opcode};
use super::budget::{Budget, DelayedRead, DueWork};
use super::device::MountContext;
use super::device::TRANSFER_MAX_BYTES;
use super::inline_reads::{CHECK_AFTER, InlineRead};
use super::readers::ReadingThread;
use super::table::{PendingRequest, SignalPatience};
use p2pfs_fs::handles::Handle;
use p2pfs_fs::{FsError, Reach, ReadStep};
use p2pfs_types::extent::ByteRange;

/// A read that must wait.
struct BlockedRead {
    unique: u64,
    thread: u32,
    /// Whether the program requested direct reads, which every signal ends.
    is_direct: bool,
    begun: Instant,
}

/// Answers the READ requests of one mount.
pub(super) struct ReadServer {
    pub mount: MountContext,
}

impl ReadServer {
    /// Answers a read at once if its bytes are present, or lets it wait for them.
    pub(crate) fn take_read(
        self: &Arc<Self>,
        header: &RequestHeader,
        message: &[u8],
        answer: &mut [u8],
        inline_read: &InlineRead,
    ) {
        let begun = Instant::now();
        let Some(read) = ReadIn::parse(message) else {
            return self
                .mount
                .kernel
                .answer_error(header.unique, FsError::Fault);
        };
        let size_bytes = (read.size_bytes as usize).min(TRANSFER_MAX_BYTES);
        let (head, room) = answer.split_at_mut(OUT_HEADER_BYTES);
        let room = &mut room[..size_bytes];
        let deadline = begun + self.mount.requests.deadlines.read;
        let in_hand = PendingRequest::of_disk(header, &read, begun, deadline);
        inline_read.begin(header.unique, in_hand);
        if self.mount.requests.inline_reads.needs_check() {
            self.mount
                .requests
                .delayed
                .push(begun + CHECK_AFTER, DueWork::CheckInlineReads);
        }
        self.mount
            .threads
            .ensure_one_reads(self.mount.liveness.waiting());
        let handle = self.mount.fs.files.handle_of(read.handle, header.nodeid);
        let step = handle.and_then(|handle| {
            let reader = self.reader(read.handle, header, begun);
            let reach = reach_of(reader.as_ref());
            let step = handle.read_now(read.offset, room, reach)?;
            Ok((handle, reader, step))
        });
        if !inline_read.finish(header.unique, &self.mount.requests.table) {
            // The request was answered early, by an interrupt or the deadline.
            return;
        }
        match step {
            Ok((handle, reader, ReadStep::Done(length))) => {
                head.copy_from_slice(&abi::out_header(header.unique, 0, length));
                self.mount
                    .requests
                    .counters
                    .record(opcode::READ, begun.elapsed(), false);
                self.mount.requests.counters.record_bytes(length);
                let range = ByteRange::at(read.offset, length as u64);
                self.mount.fs.files.record_read(&handle, range);
                // Recorded before the program has the bytes, so that a report after its end
                // includes all of its reads.
                if let Some(ReadingThread { reading, .. }) = reader {
                    let arrived_bytes = handle.arrived_bytes(range);
                    self.mount
                        .readers
                        .record_read(&reading, range.len(), arrived_bytes, begun);
                }
                let _ = self
                    .mount
                    .kernel
                    .write(&[IoSlice::new(&answer[..OUT_HEADER_BYTES + length])]);
            }
            Ok((handle, reader, ReadStep::Wait(range))) => {
                let asked = BlockedRead {
                    unique: header.unique,
                    thread: header.pid,
                    is_direct: read.is_direct(),
                    begun,
                };
                self.wait_read(&asked, &handle, range, reader);
            }
            Err(error) => {
                self.mount
                    .requests
                    .counters
                    .record(opcode::READ, begun.elapsed(), true);
                self.mount.kernel.answer_error(header.unique, error);
            }
        }
    }

    /// Returns the reader of an open file. If a previous process opened the file, its handle is
    /// first registered as opened by the thread that reads now. Returns `None` if the handle was
    /// closed meanwhile.
    fn reader(&self, handle: u64, header: &RequestHeader, now: Instant) -> Option<ReadingThread> {
        let known = self.mount.readers.reader(handle, header, now);
        known.or_else(|| {
            let opener = self.mount.readers.opener(header.pid, header.uid);
            let path = self
                .mount
                .fs
                .inodes
                .path_of(header.nodeid)
                .unwrap_or_default();
            let readers = &self.mount.readers;
            readers.inherited(&opener, handle, header.nodeid, &path);
            readers.reader(handle, header, now)
        })
    }

    fn wait_read(
        self: &Arc<Self>,
        asked: &BlockedRead,
        handle: &Arc<Handle>,
        range: ByteRange,
        reader: Option<ReadingThread>,
    ) {
        let &BlockedRead { unique, begun, .. } = asked;
        let reach = reach_of(reader.as_ref());
        let is_patient = reach == Reach::Asked && !asked.is_direct;
        let (reading, budget) = reader.map_or((None, None), |it| (Some(it.reading), it.budget));
        let cost = budget.and_then(|budget| self.spend(budget, handle, range, begun));
        let begin = cost.as_ref().map_or(begun, |(_, _, begin)| *begin);
        let waiting = PendingRequest {
            reading,
            is_delayed: begin > begun,
            patient: is_patient.then_some(SignalPatience {
                thread: asked.thread,
                until: None,
            }),
            ..PendingRequest::new(
                opcode::READ,
                begun,
                begin + self.mount.requests.deadlines.read,
            )
        };
        if !self.mount.requests.table.insert(unique, waiting) {
            return self.mount.kernel.answer_error(unique, FsError::Stopping);
        }
        match cost {
            Some((budget, bytes, begin)) if begin > begun => {
                let handle = handle.clone();
                let delayed = DelayedRead {
                    unique,
                    handle,
                    range,
                    bytes,
                    budget,
                };
                self.mount
                    .requests
                    .delayed
                    .push(begin, DueWork::Begin(delayed));
            }
            _ => self.begin_read(unique, handle, range, reach),
        }
    }

    /// Deducts the missing bytes of a range from a budget. Returns when they may be fetched.
    fn spend(
        &self,
        budget: Arc<Budget>,
        handle: &Handle,
        range: ByteRange,
        now: Instant,
    ) -> Option<(Arc<Budget>, u64, Instant)> {
        let bytes = handle.missing_bytes(range);
        let begin = (bytes > 0).then(|| budget.spend(bytes, now))?;
        Some((budget, bytes, begin))
    }

    fn begin_read(
        self: &Arc<Self>,
        unique: u64,
        handle: &Arc<Handle>,
        range: ByteRange,
        reach: Reach,
    ) {
        // Weak references: a reply that never arrives keeps neither the file open nor the mount
        // alive.
        let server: Weak<Self> = Arc::downgrade(self);
        let read = Arc::downgrade(handle);
        let reply = Box::new(move |result: Result<Bytes, FsError>| {
            if let Some(server) = server.upgrade() {
                server.answer_read(unique, read.upgrade().as_deref(), range, result);
            }
        });
        let read = handle.read(range, reach, reply);
        if let Some(unwanted) = self.mount.requests.table.attach(unique, read) {
            unwanted.abandon(FsError::Interrupted);
        }
    }

    fn answer_read(
        &self,
        unique: u64,
        handle: Option<&Handle>,
        range: ByteRange,
        result: Result<Bytes, FsError>,
    ) {
        let Some(waiting) = self.mount.requests.table.take(unique) else {
            return;
        };
        self.mount
            .requests
            .counters
            .record(opcode::READ, waiting.since.elapsed(), result.is_err());
        match result {
            Ok(bytes) => {
                self.mount.requests.counters.record_bytes(bytes.len());
                if let (Some(reading), Some(handle)) = (&waiting.reading, handle) {
                    let arrived_bytes = handle.arrived_bytes(range);
                    let given_bytes = bytes.len() as u64;
                    self.mount.readers.record_read(
                        reading,
                        given_bytes,
                        arrived_bytes,
                        Instant::now(),
                    );
                }
                if let Some(handle) = handle {
                    self.mount.fs.files.record_read(handle, range);
                }
                let head = abi::out_header(unique, 0, bytes.len());
                let _ = self
                    .mount
                    .kernel
                    .write(&[IoSlice::new(&head), IoSlice::new(&bytes)]);
            }
            Err(error) => self.mount.kernel.answer_error(unique, error),
        }
    }

    /// Runs due work, mainly reads delayed by a budget, until the mount is gone.
    pub(crate) fn serve_budgets(self: &Arc<Self>) {
        while let Some(due) = self.mount.requests.delayed.wait_due() {
            match due {
                DueWork::Begin(delayed) => self.begin_delayed(&delayed),
                DueWork::Interrupted(interrupt) => interrupt.handle(&self.mount.requests),
                DueWork::CheckInlineReads => self
                    .mount
                    .requests
                    .inline_reads
                    .move_all_to_table(&self.mount.requests.table),
            }
        }
    }

    fn begin_delayed(self: &Arc<Self>, delayed: &DelayedRead) {
        let unique = delayed.unique;
        if !self.mount.requests.table.begin(unique) {
            // The read was interrupted meanwhile.
            return delayed.budget.give_back(delayed.bytes);
        }
        let begun = catch_unwind(AssertUnwindSafe(|| {
            self.begin_read(unique, &delayed.handle, delayed.range, Reach::Asked);
        }));
        if begun.is_err() && self.mount.requests.table.take(unique).is_some() {
            self.mount.kernel.answer_error(unique, FsError::Fault);
        }
    }
}

fn reach_of(reader: Option<&ReadingThread>) -> Reach {
    reader.map_or(Reach::Everything, |reader| reader.reach)
}
