//! Answers that bring content into the cache and keep it there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::legacy::not_kept;
use super::names::shared_path;
use super::{Service, failed};
use crate::daemon::config::units::write_size;
use crate::daemon::control::{Failure, FailureKind, Named, Problem, Progress, ReplySink, Touched};
use crate::digest::ContentHash;
use crate::node::FileError;
use crate::node::door::{Contents, FILES_MAX};
use crate::path::SharedPath;
use crate::transfer::{Fill, FillProgress, TransferError};

/// Whole files fetched at a time for one call.
const FILLS_AT_ONCE: usize = 4;
/// How often a caller is told how far it is: as often as a person sees a difference.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// How the fetch of one content ended.
type Filled = (usize, SharedPath, u64, Result<(), TransferError>);

/// Contents on their way into the cache. Dropping it cancels those that are not there yet.
struct Filling {
    running: JoinSet<Filled>,
    /// How far those that run are, by number.
    on_their_way: BTreeMap<usize, watch::Receiver<FillProgress>>,
    begun: usize,
    /// What has ended, the bytes of what runs left out.
    ended: Progress,
    failed: Vec<(Problem, u64)>,
}

impl Filling {
    fn of(contents: &Contents) -> Self {
        Self {
            running: JoinSet::new(),
            on_their_way: BTreeMap::new(),
            begun: 0,
            ended: Progress {
                total_files: contents.len() as u64,
                total_bytes: contents.values().map(|(size, _)| size).sum(),
                ..Progress::default()
            },
            failed: Vec::new(),
        }
    }

    fn begin(&mut self, fill: Fill, size_bytes: u64, path: SharedPath) {
        let number = self.begun;
        self.begun += 1;
        self.on_their_way.insert(number, fill.progress());
        self.running
            .spawn(async move { (number, path, size_bytes, fill.done().await) });
    }

    fn end(&mut self, ended: Result<Filled, JoinError>) {
        let Ok((number, path, size_bytes, outcome)) = ended else {
            return;
        };
        self.on_their_way.remove(&number);
        match outcome {
            Ok(()) => self.count(size_bytes),
            Err(error) => {
                self.ended.done_files += 1;
                let failed = (problem(&path, error.to_string()), size_bytes);
                self.failed.push(failed);
            }
        }
    }

    fn count(&mut self, size_bytes: u64) {
        self.ended.done_files += 1;
        self.ended.done_bytes += size_bytes;
    }

    fn progress(&self) -> Progress {
        let ready = self.on_their_way.values().map(|it| it.borrow().ready_bytes);
        Progress {
            done_bytes: self.ended.done_bytes + ready.sum::<u64>(),
            ..self.ended
        }
    }
}

/// Returns when the caller is gone; never where there is none.
async fn gone(reply: Option<&ReplySink>) {
    match reply {
        Some(reply) => reply.closed().await,
        None => std::future::pending().await,
    }
}

impl Service {
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

    /// Brings the contents that the names stand for into the cache. What cannot fit is refused
    /// before anything is fetched; when the caller goes, so do the fetches.
    pub(super) async fn prefetch(self: &Arc<Self>, paths: &[Named], reply: ReplySink) {
        let (contents, mut touched) = match self.contents_of(paths) {
            Ok(found) => found,
            Err(failure) => return reply.fail(failure),
        };
        let checked = self.blocking(move |service| match service.check_room(&contents) {
            Ok(()) => Ok(contents),
            Err(failure) => Err(failure),
        });
        let contents = match checked.await {
            Ok(contents) => contents,
            Err(failure) => return reply.fail(failure),
        };
        touched.without(self.fill_all(contents, Some(&reply)).await);
        reply.done(&touched);
    }

    /// Whether the cache can hold all of it at once, beside what is pinned or open.
    fn check_room(&self, contents: &Contents) -> Result<(), Failure> {
        let cache = self.node.cache();
        let needed = |(hash, (size_bytes, _)): (&ContentHash, &(u64, SharedPath))| {
            if self.node.shares().holds(hash) {
                return 0;
            }
            match cache.is_pinned(hash) {
                true => size_bytes - cache.cached_bytes(hash).min(*size_bytes),
                false => *size_bytes,
            }
        };
        let needed_bytes: u64 = contents.iter().map(needed).sum();
        if needed_bytes == 0 || cache.could_hold(needed_bytes) {
            return Ok(());
        }
        let usage = cache.usage();
        let message = format!(
            "{} do not fit the cache: its budget is {}, of which {} are pinned, or its disk is too \
             full",
            write_size(needed_bytes),
            write_size(usage.budget_bytes),
            write_size(usage.pinned_bytes)
        );
        Err(failed(message).with_remedy("name less, or give it room: p2pfs cache resize SIZE"))
    }

    /// Fetches each content whole, a few at a time; says what failed, and its size.
    pub(super) async fn fill_all(
        &self,
        contents: Contents,
        reply: Option<&ReplySink>,
    ) -> Vec<(Problem, u64)> {
        let mut all = Filling::of(&contents);
        let mut waiting = contents.into_iter();
        let mut look = tokio::time::interval(PROGRESS_PERIOD);
        loop {
            while all.running.len() < FILLS_AT_ONCE {
                let Some((hash, (size, path))) = waiting.next() else {
                    break;
                };
                if self.cached_bytes(&hash, size) == size {
                    all.count(size);
                    continue;
                }
                all.begin(self.node.fetcher().fill(hash, size), size, path);
            }
            if all.running.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = all.running.join_next() => all.end(ended),
                _ = look.tick() => {}
                () = gone(reply) => break,
            }
            if let Some(reply) = reply
                && reply.more(&all.progress()).await.is_err()
            {
                break;
            }
        }
        all.failed
    }

    fn contents_of(&self, paths: &[Named]) -> Result<(Contents, Touched), Failure> {
        let mut contents = Contents::new();
        let mut touched = Touched::default();
        for named in paths {
            let path = shared_path(named)?;
            match self.node.contents_of(&path) {
                Ok(found) => contents.extend(found),
                Err(FileError::TooMany) => return Err(too_many()),
                Err(_) => {
                    let why = match self.older_file(&path) {
                        Some(older) => not_kept(&older),
                        None => "no node shares it".to_owned(),
                    };
                    touched.failed.push(problem(&path, why));
                }
            }
        }
        if contents.len() > FILES_MAX {
            return Err(too_many());
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

fn problem(path: &SharedPath, why: String) -> Problem {
    Problem {
        path: Named::new(path.as_bytes()),
        why,
    }
}

fn too_many() -> Failure {
    Failure::new(FailureKind::Invalid, FileError::TooMany.to_string())
        .with_remedy("name fewer directories at a time")
}
