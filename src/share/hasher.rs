//! The threads that read files and hash them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::fstat;

use super::beneath::{Beneath, has_no_writer, is_absence, is_want};
use super::hashed::{Outcome, Read};
use super::identity::{Identity, Seen, Stamp, is_recent};
use super::outboards::{Outboards, SMALL_FILE_MAX_BYTES};
use super::queue::Taken;
use super::shared::Shared;
use super::state::State;
use crate::digest::{ContentHash, Outboard};
use crate::path::SharedPath;

/// Small files that are taken at once, so that the lock and the threads' waking cost little.
const BATCH_MAX_FILES: usize = 64;
/// Files read and events that wait to be sent; when there are more, no more files are taken.
const OUTBOX_MAX_EVENTS: usize = 8192;

/// A file to read.
struct Job {
    taken: Taken,
    dir: Arc<Path>,
    include_private: bool,
    path: SharedPath,
}

/// Hashes until the set is dropped. `prompt_only` keeps this thread free of large files.
pub(super) fn run(shared: &Shared, prompt_only: bool) {
    let mut buffer = Vec::new();
    while let Some(jobs) = next_jobs(shared, prompt_only) {
        let hash = |job: Job| {
            let outcome = hash(shared, &job, &mut buffer);
            let small = job.taken.just_written && job.taken.size_bytes <= SMALL_FILE_MAX_BYTES;
            let bytes = match &outcome {
                Outcome::Hashed { seen, .. } if small => {
                    let is_all = seen.identity.size_bytes == buffer.len() as u64;
                    is_all.then(|| buffer[..].into())
                }
                _ => None,
            };
            Read {
                bytes,
                slot: job.taken.slot,
                number: job.taken.number,
                outcome,
                overtaken: false,
            }
        };
        let read: Vec<Read> = jobs.into_iter().map(hash).collect();
        shared.lock().read.extend(read);
        shared.wake();
    }
}

/// Waits for something to do; none when it is time to stop.
fn next_jobs(shared: &Shared, prompt_only: bool) -> Option<Vec<Job>> {
    let mut state = shared.lock();
    loop {
        if shared.is_stopping() {
            return None;
        }
        if state.outbox.len() + state.read.len() <= OUTBOX_MAX_EVENTS {
            let jobs = take_jobs(&mut state, prompt_only);
            if !jobs.is_empty() {
                return Some(jobs);
            }
        }
        shared.hashing.wait(&mut state);
    }
}

/// One file, or several where they are small.
fn take_jobs(state: &mut State, prompt_only: bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut left_bytes = u64::MAX;
    while jobs.len() < BATCH_MAX_FILES {
        let Some(taken) = state.queue.take(prompt_only, left_bytes) else {
            break;
        };
        let size_bytes = taken.size_bytes;
        jobs.extend(job(state, taken));
        left_bytes = left_bytes
            .min(SMALL_FILE_MAX_BYTES)
            .saturating_sub(size_bytes);
        if left_bytes == 0 {
            break;
        }
    }
    jobs
}

fn job(state: &mut State, taken: Taken) -> Option<Job> {
    let node = state.tree.get(taken.slot)?;
    let share = state.shares.get(&node.share)?;
    let (dir, include_private) = (share.dir.clone(), share.include_private);
    let path = state.tree.path(taken.slot)?;
    Some(Job {
        taken,
        dir,
        include_private,
        path,
    })
}

fn hash(shared: &Shared, job: &Job, buffer: &mut Vec<u8>) -> Outcome {
    let (file, seen) = match open(&shared.beneath, job) {
        Ok(opened) => opened,
        Err(outcome) => return outcome,
    };
    let started = Stamp::now();
    let recent = is_recent(seen.identity.mtime, started, shared.quiet);
    if recent && !job.taken.sure && !has_no_writer(&file) {
        return Outcome::BeingWritten;
    }
    let reader = Stoppable {
        file: &file,
        shared,
        cancel: &job.taken.cancel,
    };
    let hash = match read(reader, seen.identity.size_bytes, buffer, &shared.outboards) {
        Ok(hash) => hash,
        Err(error) if was_called_off(&error) => return Outcome::Changed,
        Err(_) => return Outcome::Unreadable(seen.identity),
    };
    match fstat(&file).map(|stat| Seen::of(&stat)) {
        Ok(after) if after.identity == seen.identity => Outcome::Hashed {
            seen,
            hash,
            racy: is_racy(seen.identity, started, shared.quiet),
        },
        _ => Outcome::Changed,
    }
}

/// Git's rule for racily clean files: modified so shortly before we read that another write could
/// have come after, within the same tick of the file's clock.
fn is_racy(identity: Identity, started: Stamp, window: Duration) -> bool {
    is_recent(identity.mtime, started, window)
}

fn open(beneath: &Beneath, job: &Job) -> Result<(File, Seen), Outcome> {
    let opened = beneath
        .open_share(&job.dir)
        .and_then(|share| beneath.open_file(&job.dir, share.as_fd(), &job.path));
    match opened {
        Ok((_, seen)) if !job.include_private && !seen.others_may_read() => Err(Outcome::Elsewhere),
        Ok(opened) => Ok(opened),
        Err(error) if is_absence(error) => Err(Outcome::Elsewhere),
        Err(error) if is_want(error) => Err(Outcome::Want),
        Err(_) => Err(Outcome::Unreadable(Identity::default())),
    }
}

/// A small file is read whole and hashed at once; a large one goes through its hash tree, which is
/// kept.
fn read(
    mut reader: Stoppable<'_>,
    size_bytes: u64,
    buffer: &mut Vec<u8>,
    outboards: &Outboards,
) -> io::Result<ContentHash> {
    if size_bytes <= SMALL_FILE_MAX_BYTES {
        buffer.resize(size_bytes as usize, 0);
        reader.read_exact(buffer)?;
        return Ok(ContentHash::of(buffer));
    }
    let outboard = Outboard::compute(reader, size_bytes)?;
    outboards.keep(&outboard);
    Ok(outboard.hash)
}

/// Whether the file was cut short, or its reading given up.
fn was_called_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted
    )
}

/// Reads until it is told to stop.
struct Stoppable<'a> {
    file: &'a File,
    shared: &'a Shared,
    cancel: &'a AtomicBool,
}

impl io::Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) || self.shared.is_stopping() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut file = self.file;
        let length = file.read(buffer)?;
        let read_bytes = &self.shared.read_bytes;
        read_bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
