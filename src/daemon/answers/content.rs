//! The answer that moves content to a caller: a whole file, through a descriptor.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::names::shared_path;
use super::{Service, failed};
use crate::daemon::control::{
    Failure, FailureKind, GetDone, GetStarted, Named, ReplySink, SourceShare,
};
use crate::extent::ByteRange;
use crate::fs::{Content, ContentHandle, FileVersion, FsError, ReadNow, ReadTicket};
use crate::id::NodeId;
use crate::node::NodeContent;
use crate::wire::native::record::Kind;

/// What one step of a copy asks for: the largest request between nodes.
const STEP_BYTES: u64 = 1 << 20;
/// Steps that are asked for at one time, so that the next is on its way while one is written: as
/// far as the kernel reads ahead on a mount.
const STEPS_AT_ONCE: usize = 4;
/// The room of the pipe to a caller; the limit of an ordinary user (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;
impl Service {
    /// Gives the caller a descriptor to read a whole file from: a pipe that verified bytes are
    /// written to as they come; root and a local file's owner get the complete file itself, which
    /// opens nothing to them that they could not open.
    pub(super) async fn get(self: &Arc<Self>, named: Named, caller_uid: u32, reply: ReplySink) {
        match self.clone().copy_to(&named, caller_uid, &reply).await {
            Ok(done) => reply.done(&done),
            Err(failure) => reply.fail(failure),
        }
    }

    async fn copy_to(
        self: Arc<Self>,
        named: &Named,
        caller_uid: u32,
        reply: &ReplySink,
    ) -> Result<GetDone, Failure> {
        let file = match self.file_version(named) {
            Ok(file) => file,
            Err(absent) => {
                let copied = self.copy_from_older_peers(named, caller_uid, absent, reply);
                return copied.await;
            }
        };
        let started = GetStarted {
            hash: file.hash.to_string(),
            size_bytes: file.size_bytes,
            cached_bytes: self.cached_bytes(&file.hash, file.size_bytes),
            executable: file.executable,
        };
        if let Some(local) = self.local_descriptor(&file, caller_uid) {
            return match reply.more_with(&started, local).await {
                Ok(()) => Ok(GetDone::default()),
                Err(_) => Err(caller_gone()),
            };
        }
        let (sender, receiver) = pipe_to_caller()?;
        let before = self.received_by_peer();
        if reply.more_with(&started, receiver).await.is_err() {
            return Err(caller_gone());
        }
        let copied = self.copy_all(file, sender, reply).await;
        copied.map_err(|error| fs_failure(error, named))?;
        Ok(GetDone {
            sources: self.sources_since(&before),
        })
    }

    async fn copy_all(
        &self,
        file: FileVersion,
        mut to: pipe::Sender,
        reply: &ReplySink,
    ) -> Result<(), FsError> {
        let whole = ByteRange::new(0, file.size_bytes);
        let mut steps = (0..file.size_bytes.div_ceil(STEP_BYTES))
            .map(|step| ByteRange::at(step * STEP_BYTES, STEP_BYTES).intersection(&whole));
        let open = OpenContent::open(self.node.content(), file).await?;
        let mut asked = VecDeque::new();
        loop {
            while asked.len() < STEPS_AT_ONCE
                && let Some(range) = steps.next()
            {
                asked.push_back(open.ask(range).await?);
            }
            let Some(mut next) = asked.pop_front() else {
                return Ok(());
            };
            let bytes = tokio::select! {
                bytes = &mut next.answer => bytes.map_err(|_| FsError::Fault)??,
                () = reply.closed() => return Err(FsError::Interrupted),
            };
            let written = to.write_all(&bytes).await;
            written.map_err(|_| FsError::Interrupted)?;
        }
    }

    fn file_version(&self, named: &Named) -> Result<FileVersion, Failure> {
        let path = shared_path(named)?;
        let found = self
            .node
            .view()
            .lookup(&path)
            .ok_or_else(|| self.not_listed(&path))?;
        match found.kind {
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => Ok(FileVersion {
                path,
                hash,
                size_bytes,
                mtime: found.mtime,
                executable,
                own: found.own,
            }),
            Kind::Directory | Kind::Symlink { .. } => {
                let what = if matches!(found.kind, Kind::Directory) {
                    "directory"
                } else {
                    "link"
                };
                let message = format!("{} is a {what}, not a file", path.as_bytes().escape_ascii());
                Err(Failure::new(FailureKind::Invalid, message)
                    .with_remedy("name a file; p2pfs prefetch takes directories"))
            }
        }
    }

    fn local_descriptor(&self, file: &FileVersion, caller_uid: u32) -> Option<OwnedFd> {
        let local = match &file.own {
            Some((share, path)) => self.node.shares().own(*share, path).ok()?,
            None => {
                let cached = self.node.cache().existing(&file.hash)?;
                cached.backing()?.try_clone().ok()?
            }
        };
        may_have(caller_uid, &local).then(|| OwnedFd::from(local))
    }

    fn received_by_peer(&self) -> BTreeMap<NodeId, u64> {
        let rates = self.node.fetcher().peers();
        rates
            .iter()
            .map(|rate| (rate.node, rate.delivered_bytes))
            .collect()
    }

    fn sources_since(&self, before: &BTreeMap<NodeId, u64>) -> Vec<SourceShare> {
        let gained = |(node, bytes): (NodeId, u64)| {
            let received_bytes = bytes - before.get(&node).copied().unwrap_or(0).min(bytes);
            (received_bytes > 0).then(|| SourceShare {
                name: self.name_of(&node),
                received_bytes,
            })
        };
        self.received_by_peer()
            .into_iter()
            .filter_map(gained)
            .collect()
    }
}

/// Whether a caller may be handed the file itself: whoever holds a descriptor can open the file
/// anew through it, for writing where its mode allows, whatever directory keeps it from others.
pub(super) fn may_have(caller_uid: u32, file: &File) -> bool {
    let owner = rustix::fs::fstat(file).map(|found| found.st_uid);
    caller_uid == 0 || owner.is_ok_and(|owner| owner == caller_uid)
}

/// Writes a whole local file into a pipe; an error is the caller's going.
pub(super) async fn pour(file: File, size_bytes: u64, mut to: pipe::Sender) -> io::Result<()> {
    let file = Arc::new(file);
    for step in 0..size_bytes.div_ceil(STEP_BYTES) {
        let (from, offset) = (file.clone(), step * STEP_BYTES);
        let length = STEP_BYTES.min(size_bytes - offset) as usize;
        let read = spawn_blocking(move || {
            let mut bytes = vec![0; length];
            from.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        to.write_all(&read.await.map_err(io::Error::other)??)
            .await?;
    }
    Ok(())
}

/// Both ends of a pipe, the second for the caller.
pub(super) fn pipe_to_caller() -> Result<(pipe::Sender, OwnedFd), Failure> {
    let made = pipe::pipe().and_then(|(sender, receiver)| {
        // a smaller pipe only makes the copy slower
        let _as_it_is = rustix::pipe::fcntl_setpipe_size(&sender, PIPE_BYTES);
        Ok((sender, receiver.into_blocking_fd()?))
    });
    made.map_err(|error| failed(error.to_string()))
}

/// A version that is open for a copy; closed when this goes.
struct OpenContent {
    content: Arc<NodeContent>,
    handle: ContentHandle,
}

impl OpenContent {
    async fn open(content: Arc<NodeContent>, file: FileVersion) -> Result<Self, FsError> {
        let opener = content.clone();
        let opened = spawn_blocking(move || opener.open(&file)).await;
        let handle = opened.map_err(|_| FsError::Fault)??.handle;
        Ok(Self { content, handle })
    }

    /// Asks for all of a range: what is here at once, the rest from other nodes.
    async fn ask(&self, range: ByteRange) -> Result<Asked, FsError> {
        let (tell, answer) = oneshot::channel();
        let (content, handle) = (self.content.clone(), self.handle);
        let asking = spawn_blocking(move || {
            let ticket = read_or_ask(&content, handle, range, tell);
            TakeBack { content, ticket }
        });
        let taken_back = asking.await.map_err(|_| FsError::Fault)?;
        Ok(Asked {
            answer,
            _taken_back: taken_back,
        })
    }
}

impl Drop for OpenContent {
    fn drop(&mut self) {
        let (content, handle) = (self.content.clone(), self.handle);
        // letting go of a cached file touches the disk
        spawn_blocking(move || content.close(handle));
    }
}

/// One step of a copy that is on its way; dropping it takes the question back.
struct Asked {
    answer: oneshot::Receiver<Result<Bytes, FsError>>,
    _taken_back: TakeBack,
}

struct TakeBack {
    content: Arc<NodeContent>,
    ticket: Option<ReadTicket>,
}

impl Drop for TakeBack {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.content.cancel(ticket);
        }
    }
}

fn read_or_ask(
    content: &NodeContent,
    handle: ContentHandle,
    range: ByteRange,
    answer: oneshot::Sender<Result<Bytes, FsError>>,
) -> Option<ReadTicket> {
    let mut buffer = vec![0; range.len() as usize];
    let told = match content.read_now(handle, range.start, &mut buffer) {
        ReadNow::Done(length) if length == buffer.len() => Ok(Bytes::from(buffer)),
        // an own file that became shorter meanwhile is another version
        ReadNow::Done(_) => Err(FsError::Gone),
        ReadNow::Failed(error) => Err(error),
        ReadNow::Wait => {
            let reply = Box::new(move |result| {
                let _gone = answer.send(result);
            });
            return Some(content.read(handle, range, reply));
        }
    };
    let _gone = answer.send(told);
    None
}

pub(super) fn caller_gone() -> Failure {
    failed("the caller is gone")
}

fn fs_failure(error: FsError, named: &Named) -> Failure {
    let message = format!("{}: {error}", named.as_bytes().escape_ascii());
    match error {
        FsError::Unreachable | FsError::DeadlinePassed => failed(message)
            .with_remedy("p2pfs why says who has it, p2pfs peers whether they answer; try again"),
        _ => failed(message),
    }
}
