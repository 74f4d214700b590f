//! The requests that the kernel waits for. Ensures that each is answered once and in time.
//!
//! A request that reaches its deadline is answered with an error, and so is a request whose program
//! ends. Its handler may answer later. That answer is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abi::RequestHeader;
use super::budget::DelayQueue;
use super::counters::Counters;
use super::inline_reads::InlineReads;
use super::kernel_link::KernelLink;
use super::table::{PendingRequest, RequestTable};
use p2pfs_fs::{Filesystem, FsError};

/// Additional time that a content has after its own deadline to end a read, before the device ends
/// it.
const CONTENT_GRACE: Duration = Duration::from_secs(2);
/// Deadline of changes. A change may first copy a file from another node, whose reads have their own
/// deadlines: 256 MiB, the default maximum of such a copy, at 450 kB/s.
const CHANGE_DEADLINE: Duration = Duration::from_secs(600);

/// Deadlines after which the device answers a request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Deadline of file reads. The content has its own, shorter deadline, which moves with
    /// progress. A read for which the content reports progress gets more time.
    pub read: Duration,
    /// Deadline of all other requests, except changes. They may wait for a local disk or for foreign peers.
    pub metadata: Duration,
}

/// The unanswered requests of one mount.
pub(super) struct Requests {
    pub kernel: Arc<KernelLink>,
    pub fs: Arc<Filesystem>,
    pub table: RequestTable,
    /// Reads in progress that are not in the table yet.
    pub inline_reads: InlineReads,
    /// Reads that wait for the budget of their program.
    pub delayed: DelayQueue,
    pub counters: Counters,
    pub deadlines: Deadlines,
}

impl Requests {
    /// Creates the state of a mount without requests.
    pub(crate) fn new(kernel: Arc<KernelLink>, fs: Arc<Filesystem>, deadlines: Deadlines) -> Self {
        Self {
            kernel,
            fs,
            table: RequestTable::default(),
            inline_reads: InlineReads::default(),
            delayed: DelayQueue::default(),
            counters: Counters::default(),
            deadlines,
        }
    }

    /// Adds a request that does not read a file to the table. Returns `false` at the end of the
    /// mount.
    pub(crate) fn expect(&self, header: &RequestHeader, begun: Instant) -> bool {
        let deadline = begun + self.deadlines.metadata;
        let waiting = PendingRequest::of_names(header, begun, deadline);
        self.table.insert(header.unique, waiting)
    }

    /// Adds a change to the table. Only a signal that ends its program ends the wait, unless the
    /// program can repeat the call. Returns `false` at the end of the mount.
    pub(crate) fn expect_change(
        &self,
        header: &RequestHeader,
        is_repeatable: bool,
        begun: Instant,
    ) -> bool {
        let deadline = begun + CHANGE_DEADLINE;
        let mut waiting = PendingRequest::of_names(header, begun, deadline);
        if let (Some(patience), false) = (&mut waiting.patient, is_repeatable) {
            patience.until = None;
        }
        self.table.insert(header.unique, waiting)
    }

    /// Answers a request with an error before its handler does. Returns `false`, and does nothing,
    /// if the request was already answered.
    pub(crate) fn end_early(&self, unique: u64, why: FsError) -> bool {
        let Some(waiting) = self.table.take(unique) else {
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
        let until = waiting.read.as_ref()?.waits_until()?;
        // Past its own deadline, the content should have answered, or should do so soon.
        Some(until + CONTENT_GRACE).filter(|later| *later > Instant::now())
    }

    /// Stops the delayed work and answers all waiting requests, after the mount is gone.
    pub(crate) fn close(&self) {
        self.delayed.close();
        for (unique, waiting) in self.table.close() {
            self.fail(unique, waiting, FsError::Stopping);
        }
    }

    fn fail(&self, unique: u64, waiting: PendingRequest, why: FsError) {
        self.kernel.answer_error(unique, why);
        match (waiting.read, waiting.handle) {
            (Some(read), _) => read.abandon(why),
            (None, Some(handle)) if why == FsError::DeadlinePassed => {
                self.fs.files.record_timeout(handle);
            }
            _ => {}
        }
    }
}
