//! The threads that read files and hash them. A thread that is blocked on a disk is replaced.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use super::at_work::HasherProgress;
use super::outboards::SMALL_FILE_MAX_BYTES;
use super::outcome::{FinishedRead, HashOutcome};
use super::queue::{DequeuedFile, PROMISED_MAX_BYTES};
use super::reading::{Job, OpenedFile, Stoppable, called_off, conclude, mark_of, open_job};
use super::round_robin::RoundRobin;
use super::shared::SharedState;
use super::state::ListingState;
use super::underway::Underway;
use p2pfs_types::digest::ContentHash;

/// Maximum small files taken at once, so that locking and waking threads cost little.
const BATCH_MAX_FILES: usize = 64;
/// Number of finished reads and events in the outbox above which no more files are taken.
const OUTBOX_MAX_EVENTS: usize = 8192;

/// Starts a thread that hashes until the set is dropped or the thread is abandoned. With
/// `prompt_only` it takes no large files.
pub(super) fn spawn(shared: &Arc<SharedState>, prompt_only: bool) -> io::Result<JoinHandle<()>> {
    let at_work = Arc::new(HasherProgress::new(prompt_only));
    let (of_thread, shared_of_thread) = (at_work.clone(), shared.clone());
    let builder = Builder::new().name("share-hash".to_owned());
    let thread = builder.spawn(move || run(&shared_of_thread, &of_thread))?;
    shared.hashers.add(at_work);
    Ok(thread)
}

/// Abandons the threads that are blocked on a disk, and starts others in their place.
pub(super) fn replace_standing(shared: &Arc<SharedState>) {
    for standing in shared.hashers.take_standing(Instant::now()) {
        let mut state = shared.lock();
        state.listing.shares.stands_still(standing.share);
        let left = standing.files.into_iter();
        state
            .read
            .extend(left.map(|file| FinishedRead::of(file, HashOutcome::Want)));
        drop(state);
        // if no thread can be started, the remaining ones do the work
        let _detached = spawn(shared, standing.prompt_only);
    }
}

fn run(shared: &SharedState, at_work: &HasherProgress) {
    let (mut buffer, mut large) = (Vec::new(), RoundRobin::default());
    while let Some(jobs) = next_jobs(shared, at_work, &large) {
        let mut read = Vec::new();
        for job in jobs {
            let share = job.share;
            at_work.begin(share);
            if job.stands_still {
                read.push(FinishedRead::of(job.taken.held, HashOutcome::Want));
            } else if job.taken.size_bytes > PROMISED_MAX_BYTES {
                read.extend(large.begin(shared, job));
            } else {
                read.push(hash_at_once(shared, at_work, job, &mut buffer));
            }
            if is_left(shared, at_work) {
                return;
            }
        }
        if let Some(share) = large.next_share() {
            at_work.begin(share);
            read.extend(large.step(shared, at_work));
            if is_left(shared, at_work) {
                return;
            }
        }
        if !read.is_empty() {
            let numbers: Vec<u64> = read.iter().map(|read| read.held.number).collect();
            at_work.give_back(&numbers);
            shared.lock().read.extend(read);
            shared.wake();
        }
    }
}

/// Records that the thread's work on a file is done or paused. Returns whether the thread was
/// abandoned meanwhile. In that case, other threads read its files.
fn is_left(shared: &SharedState, at_work: &HasherProgress) -> bool {
    let left = at_work.end();
    if let Some(share) = left {
        shared.lock().listing.shares.answers_again(share);
        shared.wake();
    }
    left.is_some()
}

/// Opens, reads and hashes a file of up to [`PROMISED_MAX_BYTES`].
fn hash_at_once(
    shared: &SharedState,
    at_work: &HasherProgress,
    job: Job,
    buffer: &mut Vec<u8>,
) -> FinishedRead {
    match open_job(shared, &job) {
        Err(read) => *read,
        Ok(opened) if opened.size_bytes() > PROMISED_MAX_BYTES => {
            // it grew since it was checked
            FinishedRead::of(job.taken.held, HashOutcome::Elsewhere)
        }
        Ok(opened) if opened.size_bytes() > SMALL_FILE_MAX_BYTES => {
            hash_with_outboard(shared, at_work, job, opened, buffer)
        }
        Ok(opened) => hash_small(shared, at_work, &job, &opened, buffer),
    }
}

/// Reads and hashes a file, and makes its outboard.
fn hash_with_outboard(
    shared: &SharedState,
    at_work: &HasherProgress,
    job: Job,
    opened: OpenedFile,
    buffer: &mut Vec<u8>,
) -> FinishedRead {
    let held = job.taken.held;
    let start = job.known_start(shared, &opened);
    let part = shared.outboards.begin(opened.size_bytes());
    let Ok(mut file) = part.and_then(|part| Underway::begin(job, opened, part, start)) else {
        return FinishedRead::of(held, HashOutcome::Want);
    };
    match file.read_on(shared, at_work, u64::MAX, buffer) {
        Ok(()) => file.finish(shared),
        Err(outcome) => file.end(outcome),
    }
}

/// Reads a file of up to [`SMALL_FILE_MAX_BYTES`] into `buffer` and hashes it at once.
fn hash_small(
    shared: &SharedState,
    at_work: &HasherProgress,
    job: &Job,
    opened: &OpenedFile,
    buffer: &mut Vec<u8>,
) -> FinishedRead {
    let mut read_bytes = 0;
    buffer.resize(opened.size_bytes() as usize, 0);
    let mut reader = Stoppable {
        file: &opened.file,
        shared,
        cancel: &job.taken.cancel,
        at_work,
        read_bytes: &mut read_bytes,
    };
    let outcome = match reader.read_exact(buffer) {
        Ok(()) => conclude(job, opened, ContentHash::of(buffer), false),
        Err(error) => called_off(&error, opened),
    };
    // The bytes of a busy file may be partly from before and partly from after a write, so they are
    // not kept. Listing their hash does no harm, because each byte is verified before it is served.
    let is_kept = matches!(outcome, HashOutcome::Hashed { .. })
        && job.taken.just_written
        && !job.taken.held.busy;
    FinishedRead {
        read_bytes,
        bytes: is_kept.then(|| buffer[..].into()),
        mark: mark_of(&opened.file),
        ..FinishedRead::of(job.taken.held, outcome)
    }
}

/// Waits for files to hash. Returns an empty list if there are none and the thread has large files
/// in progress. Returns `None` when it is time to stop.
fn next_jobs(
    shared: &SharedState,
    at_work: &HasherProgress,
    large: &RoundRobin,
) -> Option<Vec<Job>> {
    let mut state = shared.lock();
    loop {
        if shared.is_stopping() {
            return None;
        }
        if state.listing.shares.outbox.len() + state.read.len() <= OUTBOX_MAX_EVENTS {
            let jobs = take_jobs(&mut state, at_work.prompt_only, large.room_for_bytes());
            if !jobs.is_empty() {
                at_work.take(jobs.iter().map(|job| job.taken.held));
                return Some(jobs);
            }
        }
        if !large.is_empty() {
            return Some(Vec::new());
        }
        shared.hashing.wait(&mut state);
    }
}

/// Takes one file, or several small ones.
fn take_jobs(state: &mut ListingState, prompt_only: bool, room_for_bytes: u64) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut left_bytes = room_for_bytes.max(PROMISED_MAX_BYTES);
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

fn job(state: &mut ListingState, taken: DequeuedFile) -> Option<Job> {
    let node = state.listing.tree.get(taken.held.slot)?;
    let share = state.listing.shares.by_index.get(&node.share)?;
    let (dir, include_private) = (share.dir.clone(), share.spec.include_private);
    let path = state.listing.tree.path(taken.held.slot)?;
    let listed = state.extendable(&taken, Instant::now());
    let witnessed = state.witnessed(&taken);
    Some(Job {
        witnessed,
        sees_writes: state.listing.sees_writes(taken.held.slot),
        share: node.share,
        stands_still: share.problems.stands_still,
        taken,
        dir,
        include_private,
        path,
        listed,
    })
}
