//! Answers to the requests that change the filesystem, and to OPEN with flags for writing.
//!
//! The device threads carry changes out. Most wait for the local disk alone, like other requests. A
//! change that copies a file of another node first may take minutes, and many syncs at once keep a
//! disk busy for seconds. So at most [`NETWORK_MAX`] and [`SYNCS_MAX`] threads work on these, and
//! further ones queue. All others are left to reads.
//!
//! The table of requests has a change until its answer. If its program is killed meanwhile, or the
//! deadline passes, the change is still made, as on NFS, unless it waits in a queue. The lookups
//! and the handle of its late answer are released, and the kernel drops what it cached of the names
//! in between.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use parking_lot::Mutex;

use super::abi::{ChangeRequest, RequestHeader};
use super::body::AnswerBody;
use super::delivery::Call;
use super::device::MountContext;
use p2pfs_fs::{Caller, Change, FsError, SharedPath};

/// Maximum number of threads that work on changes which may wait for other nodes: half of all
/// threads of a mount.
const NETWORK_MAX: usize = 32;
/// Maximum number of threads that sync files: more than one disk serves at once.
const SYNCS_MAX: usize = 16;

/// Carries out the changes of one mount.
pub(super) struct ChangeServer {
    mount: MountContext,
    network: TurnQueue,
    syncs: TurnQueue,
}

impl ChangeServer {
    /// Creates the server of a mount without changes.
    pub(crate) fn new(mount: MountContext) -> Self {
        Self {
            mount,
            network: TurnQueue::new(NETWORK_MAX),
            syncs: TurnQueue::new(SYNCS_MAX),
        }
    }

    /// Carries a change out and answers it, using `answer` as the buffer, or queues it. Then
    /// carries out queued changes that may begin now.
    pub(crate) fn take(
        &self,
        header: &RequestHeader,
        message: &[u8],
        answer: &mut [u8],
        begun: Instant,
    ) {
        let request = match ChangeRequest::parse(header, message) {
            Ok(request) => request,
            Err(error) => {
                let counters = &self.mount.requests.counters;
                counters.record(header.opcode, begun.elapsed(), true);
                return self.mount.kernel.answer_error(header.unique, error);
            }
        };
        let is_repeatable = request.is_repeatable();
        if !(self.mount.requests).expect_change(header, is_repeatable, begun) {
            let kernel = &self.mount.kernel;
            return kernel.answer_error(header.unique, FsError::Stopping);
        }
        self.mount
            .threads
            .ensure_one_reads(self.mount.liveness.waiting());
        let Some(turns) = self.turns_of(&request) else {
            return self.answer(header, &request, answer);
        };
        if !turns.begin(message) {
            return;
        }
        self.answer_safely(message, answer);
        while let Some(message) = turns.next() {
            self.answer_safely(&message, answer);
        }
    }

    fn turns_of(&self, request: &ChangeRequest<'_>) -> Option<&TurnQueue> {
        match request {
            ChangeRequest::SetAttributes(_)
            | ChangeRequest::Unlink { .. }
            | ChangeRequest::RemoveDirectory { .. }
            | ChangeRequest::Rename { .. }
            | ChangeRequest::Open { .. } => Some(&self.network),
            ChangeRequest::Sync { .. } | ChangeRequest::SyncDirectory => Some(&self.syncs),
            ChangeRequest::Symlink { .. }
            | ChangeRequest::MakeNode { .. }
            | ChangeRequest::MakeDirectory { .. }
            | ChangeRequest::Create { .. }
            | ChangeRequest::Write { .. }
            | ChangeRequest::Allocate { .. } => None,
        }
    }

    /// Carries out a change that has its turn. A panic becomes EIO, and the turn ends as usual.
    fn answer_safely(&self, message: &[u8], answer: &mut [u8]) {
        let Some(header) = RequestHeader::parse(message) else {
            return;
        };
        let requests = &self.mount.requests;
        if requests.table.patience_of(header.unique).is_none() {
            // The request was answered early, before it had its turn.
            return;
        }
        let answered = catch_unwind(AssertUnwindSafe(|| {
            if let Ok(request) = ChangeRequest::parse(&header, message) {
                self.answer(&header, &request, answer);
            }
        }));
        if answered.is_err() && requests.table.take(header.unique).is_some() {
            let kernel = &self.mount.kernel;
            kernel.answer_error(header.unique, FsError::Fault);
        }
    }

    fn answer(&self, header: &RequestHeader, request: &ChangeRequest<'_>, answer: &mut [u8]) {
        let late = self.mount.answer_with(Call::of(header), answer, |body| {
            if header.is_resent() {
                self.carry_out_again(header, request, body)
            } else {
                self.carry_out(header, request, body)
            }
        });
        if let Some(late) = late {
            self.mount.undo(header.opcode, late);
            self.drop_cached(&request.names(header.nodeid));
        }
    }

    /// Makes the kernel look these names up again. It does so by itself only for an answer that it
    /// takes.
    fn drop_cached(&self, names: &[(u64, &[u8])]) {
        let fs = &self.mount.fs;
        let mut changes = Vec::new();
        for (parent, name) in names {
            let directory = fs.inodes.path_of(*parent).map(SharedPath::new);
            if let Some(Ok(directory)) = directory
                && let Ok(path) = directory.join(name)
            {
                changes.extend([Change::Entry(path), Change::Listing(directory)]);
            }
        }
        if !changes.is_empty() {
            fs.caches.namespace_changed(None, changes);
        }
    }

    fn carry_out(
        &self,
        header: &RequestHeader,
        request: &ChangeRequest<'_>,
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let (changes, ino) = (&self.mount.fs.changes, header.nodeid);
        let caller = Caller {
            uid: header.uid,
            gid: header.gid,
        };
        match *request {
            ChangeRequest::SetAttributes(new) => {
                body.put_attributes(&changes.set_attributes(ino, new, caller)?);
            }
            ChangeRequest::Symlink { name, target } => {
                let entry = changes.symlink(ino, name, target, caller)?;
                body.put_entry(&entry.attributes, entry.lifetime);
            }
            ChangeRequest::MakeNode { name, mode } => {
                let entry = changes.mknod(ino, name, mode, caller)?;
                body.put_entry(&entry.attributes, entry.lifetime);
            }
            ChangeRequest::MakeDirectory { name, mode } => {
                let entry = changes.mkdir(ino, name, mode, caller)?;
                body.put_entry(&entry.attributes, entry.lifetime);
            }
            ChangeRequest::Unlink { name } => changes.unlink(ino, name)?,
            ChangeRequest::RemoveDirectory { name } => changes.rmdir(ino, name)?,
            ChangeRequest::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => {
                if flags & !libc::RENAME_NOREPLACE != 0 {
                    return Err(FsError::Invalid);
                }
                changes.rename(ino, name, new_parent, new_name, flags)?;
            }
            ChangeRequest::Open { .. } | ChangeRequest::Create { .. } => {
                self.open(header, caller, request, body)?;
            }
            ChangeRequest::Write {
                handle,
                offset,
                bytes,
                flags,
            } => body.put_written(changes.write(handle, ino, offset, bytes, flags)?),
            ChangeRequest::Allocate {
                handle,
                range,
                mode,
            } => changes.allocate(handle, ino, range, mode)?,
            ChangeRequest::Sync { handle, only_data } => {
                synced(changes.sync(handle, ino, only_data))?;
            }
            ChangeRequest::SyncDirectory => synced(changes.sync_directory(ino))?,
        }
        Ok(())
    }

    fn open(
        &self,
        header: &RequestHeader,
        caller: Caller,
        request: &ChangeRequest<'_>,
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let changes = &self.mount.fs.changes;
        let opener = self.mount.readers.opener(header.pid, header.uid);
        let (ino, opened) = match *request {
            ChangeRequest::Create { name, mode, flags } => {
                let parent = header.nodeid;
                let (entry, opened) =
                    changes.create(parent, name, mode, flags, caller, opener.reach())?;
                body.put_entry(&entry.attributes, entry.lifetime);
                (entry.attributes.ino, opened)
            }
            ChangeRequest::Open { flags } => {
                let ino = header.nodeid;
                (ino, changes.open(ino, flags, caller, opener.reach())?)
            }
            _ => return Err(FsError::Fault),
        };
        self.mount.record_opened(&opener, ino, opened);
        body.put_open(opened);
        Ok(())
    }

    /// Carries out a change that a previous process of this mount may have made without answering
    /// it. An error that says that it is made already counts as success.
    fn carry_out_again(
        &self,
        header: &RequestHeader,
        request: &ChangeRequest<'_>,
        body: &mut AnswerBody<'_>,
    ) -> Result<(), FsError> {
        let inodes = &self.mount.fs.inodes;
        let done = self.carry_out(header, &request.as_repeated(), body);
        match (done, *request) {
            (
                Err(FsError::NotFound),
                ChangeRequest::Unlink { .. } | ChangeRequest::RemoveDirectory { .. },
            ) => Ok(()),
            (
                Err(FsError::NotFound),
                ChangeRequest::Rename {
                    new_parent,
                    new_name,
                    ..
                },
            ) => {
                let moved = inodes.lookup(new_parent, new_name, header.uid)?;
                inodes.forget(moved.attributes.ino, 1);
                Ok(())
            }
            (
                Err(FsError::Exists),
                ChangeRequest::Symlink { name, .. }
                | ChangeRequest::MakeNode { name, .. }
                | ChangeRequest::MakeDirectory { name, .. },
            ) => {
                let entry = inodes.lookup(header.nodeid, name, header.uid)?;
                body.put_entry(&entry.attributes, entry.lifetime);
                Ok(())
            }
            (done, _) => done,
        }
    }
}

/// Returns the result of a sync. Where nothing can be written, nothing has to become durable.
fn synced(result: Result<(), FsError>) -> Result<(), FsError> {
    match result {
        Err(FsError::ReadOnly) => Ok(()),
        other => other,
    }
}

/// Changes that may take long. A limited number of them is worked on, and others wait in order. The
/// kernel bounds the queue: each entry has a waiting thread.
struct TurnQueue {
    working_max: usize,
    state: Mutex<TurnState>,
}

#[derive(Default)]
struct TurnState {
    /// Number of threads that work.
    working: usize,
    /// Messages of the waiting requests.
    waiting: VecDeque<Box<[u8]>>,
}

impl TurnQueue {
    fn new(working_max: usize) -> Self {
        Self {
            working_max,
            state: Mutex::default(),
        }
    }

    /// Returns whether the change may begin, and queues it otherwise. The thread of a change that
    /// began must call [`TurnQueue::next`] after it.
    fn begin(&self, message: &[u8]) -> bool {
        let mut state = self.state.lock();
        let may_begin = state.working < self.working_max;
        if may_begin {
            state.working += 1;
        } else {
            state.waiting.push_back(message.into());
        }
        may_begin
    }

    /// Returns the next change for a thread that ended one. With `None` the thread works no longer.
    fn next(&self) -> Option<Box<[u8]>> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.working -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests;
