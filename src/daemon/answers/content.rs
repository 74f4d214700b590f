//! Answers that move content: a whole file to a caller, files into the cache, pins.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_blocking};

use super::legacy::not_kept;
use super::names::{not_found, shared_path};
use super::{Service, failed};
use crate::catalogue::{Found, View};
use crate::daemon::control::{
    Failure, FailureKind, GetDone, GetStarted, Named, Problem, Progress, ReplySink, SourceShare,
    Touched,
};
use crate::digest::ContentHash;
use crate::extent::ByteRange;
use crate::fs::{Content, ContentHandle, FileVersion, FsError, ReadNow, ReadTicket};
use crate::id::NodeId;
use crate::node::NodeContent;
use crate::path::SharedPath;
use crate::wire::native::record::Kind;

/// What one step of a copy asks for: the largest request between nodes.
const STEP_BYTES: u64 = 1 << 20;
/// Steps that are asked for at one time, so that the next is on its way while one is written: as
/// far as the kernel reads ahead on a mount.
const STEPS_AT_ONCE: usize = 4;
/// The room of the pipe to a caller; the limit of an ordinary user (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;
/// Whole files fetched at a time for one call.
const FILLS_AT_ONCE: usize = 4;
/// Files that one call may touch, directories taken apart; beyond it the call is refused.
const FILES_MAX: usize = 1_000_000;
/// Names read from a directory at a time.
const CHILDREN_BATCH: usize = 1000;

/// The different contents beneath some names, with one name each.
type Contents = BTreeMap<ContentHash, (u64, SharedPath)>;

impl Service {
    /// Gives the caller a descriptor to read a whole file from: of the complete local file where
    /// there is one, else of a pipe that verified bytes are written to as they come.
    pub(super) async fn get(self: &Arc<Self>, named: Named, reply: ReplySink) {
        match self.clone().copy_to(&named, &reply).await {
            Ok(done) => reply.done(&done),
            Err(failure) => reply.fail(failure),
        }
    }

    async fn copy_to(
        self: Arc<Self>,
        named: &Named,
        reply: &ReplySink,
    ) -> Result<GetDone, Failure> {
        let file = match self.file_version(named) {
            Ok(file) => file,
            Err(absent) => return self.copy_from_older_peers(named, absent, reply).await,
        };
        let started = GetStarted {
            hash: file.hash.to_string(),
            size_bytes: file.size_bytes,
            cached_bytes: self.cached_bytes(&file.hash, file.size_bytes),
            executable: file.executable,
        };
        if let Some(local) = self.local_descriptor(&file) {
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
            .ok_or_else(|| not_found(&path))?;
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

    fn local_descriptor(&self, file: &FileVersion) -> Option<OwnedFd> {
        if let Some((share, path)) = &file.own {
            return self.node.shares().own(*share, path).ok().map(OwnedFd::from);
        }
        let cached = self.node.cache().existing(&file.hash)?;
        cached.backing()?.try_clone().ok().map(OwnedFd::from)
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

    /// Keeps the contents that the names stand for now, or keeps them no more.
    pub(super) async fn pin(
        self: &Arc<Self>,
        paths: &[Named],
        pinned: bool,
    ) -> Result<Touched, Failure> {
        let (contents, mut touched) = self.contents_of(paths)?;
        let work = self.blocking(move |service| {
            let (mut kept, mut failed_ones) = (Contents::new(), Vec::new());
            let mut room_bytes = service.node.cache().usage().budget_bytes;
            for (hash, (size_bytes, path)) in contents {
                let outcome = if pinned && size_bytes > room_bytes {
                    Err(
                        "there is no room for it beside the rest: see p2pfs cache resize"
                            .to_owned(),
                    )
                } else {
                    let done = service.node.cache().pin(hash, pinned);
                    done.map_err(|error| error.to_string())
                };
                match outcome {
                    Ok(()) => {
                        room_bytes = room_bytes.saturating_sub(size_bytes);
                        kept.insert(hash, (size_bytes, path));
                    }
                    Err(why) => failed_ones.push((problem(&path, why), size_bytes)),
                }
            }
            Ok((kept, failed_ones))
        });
        let (contents, failed_ones) = work.await?;
        touched.without(failed_ones);
        if pinned {
            let service = self.clone();
            tokio::spawn(async move { service.fill_all(contents, None).await });
        }
        Ok(touched)
    }

    /// Brings the contents that the names stand for into the cache.
    pub(super) async fn prefetch(self: &Arc<Self>, paths: &[Named], reply: ReplySink) {
        let (contents, mut touched) = match self.contents_of(paths) {
            Ok(found) => found,
            Err(failure) => return reply.fail(failure),
        };
        touched.without(self.fill_all(contents, Some(&reply)).await);
        reply.done(&touched);
    }

    /// Fetches each content whole, a few at a time; says what failed, and its size.
    async fn fill_all(&self, contents: Contents, reply: Option<&ReplySink>) -> Vec<(Problem, u64)> {
        let mut progress = Progress {
            total_files: contents.len() as u64,
            total_bytes: contents.values().map(|(size, _)| size).sum(),
            ..Progress::default()
        };
        let mut waiting = contents.into_iter();
        let mut running = JoinSet::new();
        let mut failed_ones = Vec::new();
        loop {
            while running.len() < FILLS_AT_ONCE {
                let Some((hash, (size, path))) = waiting.next() else {
                    break;
                };
                if self.cached_bytes(&hash, size) == size {
                    progress.done_files += 1;
                    progress.done_bytes += size;
                    continue;
                }
                let fill = self.node.fetcher().fill(hash, size);
                running.spawn(async move { (path, size, fill.done().await) });
            }
            let Some(ended) = running.join_next().await else {
                break;
            };
            let Ok((path, size, outcome)) = ended else {
                continue;
            };
            progress.done_files += 1;
            match outcome {
                Ok(()) => progress.done_bytes += size,
                Err(error) => failed_ones.push((problem(&path, error.to_string()), size)),
            }
            if let Some(reply) = reply
                && reply.more(&progress).await.is_err()
            {
                break;
            }
        }
        failed_ones
    }

    fn contents_of(&self, paths: &[Named]) -> Result<(Contents, Touched), Failure> {
        let view = self.node.view();
        let mut contents = Contents::new();
        let mut touched = Touched::default();
        for named in paths {
            let path = shared_path(named)?;
            match view.lookup(&path) {
                Some(found) => collect(&view, path, &found, &mut contents)?,
                None => {
                    let why = match self.older_file(&path) {
                        Some(older) => not_kept(&older),
                        None => "no node shares it".to_owned(),
                    };
                    touched.failed.push(problem(&path, why));
                }
            }
        }
        touched.files = contents.len() as u64;
        touched.bytes = contents.values().map(|(size, _)| size).sum();
        Ok((contents, touched))
    }
}

impl Touched {
    /// Of what the names stood for, this could not be done; each with its size.
    fn without(&mut self, failed_ones: Vec<(Problem, u64)>) {
        for (problem, size_bytes) in failed_ones {
            self.files -= 1;
            self.bytes -= size_bytes;
            self.failed.push(problem);
        }
    }
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

fn collect(
    view: &View,
    path: SharedPath,
    found: &Found,
    contents: &mut Contents,
) -> Result<(), Failure> {
    match &found.kind {
        Kind::File {
            hash, size_bytes, ..
        } => {
            contents.insert(*hash, (*size_bytes, path));
        }
        Kind::Symlink { .. } => {}
        Kind::Directory => {
            let mut after: Option<Box<[u8]>> = None;
            loop {
                let batch = view.children(&path, after.as_deref(), CHILDREN_BATCH);
                let Some(last) = batch.last() else { break };
                after = Some(last.name.clone());
                for child in &batch {
                    if let Ok(below) = path.join(&child.name) {
                        collect(view, below, &child.found, contents)?;
                    }
                }
            }
        }
    }
    if contents.len() > FILES_MAX {
        let message = format!("more than {FILES_MAX} files in one call");
        return Err(Failure::new(FailureKind::Invalid, message)
            .with_remedy("name fewer directories at a time"));
    }
    Ok(())
}

fn problem(path: &SharedPath, why: String) -> Problem {
    Problem {
        path: Named::new(path.as_bytes()),
        why,
    }
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
