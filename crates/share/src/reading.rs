//! Reading one file for its hash: [`open_job`] opens it unless it is still being written,
//! [`Stoppable`] reads it until the end or a stop, and [`conclude`] decides whether the hash is
//! valid.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{fdatasync, fstat};

use super::at_work::HasherProgress;
use super::beneath::{Beneath, Writers, is_absence, is_want, writers_of};
use super::extension::KnownStart;
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::outboards::SMALL_FILE_MAX_BYTES;
use super::outcome::{FinishedRead, HashOutcome, HashTrust};
use super::proof::{KnownFile, is_fresh};
use super::queue::DequeuedFile;
use super::shared::SharedState;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::written::{self, WrittenMark};
use p2pfs_types::files::{self, is_full};
use p2pfs_types::path::SharedPath;

/// A file to read.
pub(super) struct Job {
    pub(super) taken: DequeuedFile,
    pub(super) share: u16,
    /// Whether its disk does not answer.
    pub(super) stands_still: bool,
    pub(super) dir: Arc<Path>,
    pub(super) include_private: bool,
    pub(super) path: SharedPath,
    /// Listed version from which the hash may be made.
    pub(super) listed: Option<KnownFile>,
    /// Bytes that the file has if no process has it open for writing.
    pub(super) witnessed: Option<KnownFile>,
    /// Whether the kernel reports every write to the file through its name.
    pub(super) sees_writes: bool,
}

impl Job {
    /// Returns the listed version from whose outboard the hash can be made.
    pub(super) fn known_start(
        &self,
        shared: &SharedState,
        opened: &OpenedFile,
    ) -> Option<KnownStart> {
        let listed = self.listed.as_ref()?;
        KnownStart::find(&shared.outboards, &opened.file, opened.identity(), listed)
    }
}

/// An open file, with its state before the read.
pub(super) struct OpenedFile {
    pub(super) file: File,
    seen: NameStat,
    /// Whether it was written to lately.
    recent: bool,
    /// Whether no process had it open for writing, or the last write is old.
    unwritten: bool,
}

impl OpenedFile {
    pub(super) fn identity(&self) -> &FileIdentity {
        &self.seen.identity
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.seen.identity.size_bytes
    }
}

/// Opens a file to be read. Returns a finished read instead if a process may still be writing it,
/// or if its bytes are known. A file with a mark is on its disk then, so that the version that
/// other nodes get survives a power cut.
pub(super) fn open_job(shared: &SharedState, job: &Job) -> Result<OpenedFile, Box<FinishedRead>> {
    let unread = |outcome| Box::new(FinishedRead::of(job.taken.held, outcome));
    let (file, seen) = open(&shared.beneath, job).map_err(unread)?;
    let now = FileTimestamp::now();
    let age = age_of(&seen.identity, now);
    let recent = is_fresh(&seen.identity, now, shared.intervals.quiet);
    let found = (recent || job.witnessed.is_some()).then(|| writers_of(&file));
    let writers = found.filter(|_| recent).unwrap_or(Writers::None);
    let is_done = match writers {
        Writers::None => true,
        Writers::Some if job.taken.held.busy => true,
        // if a close was reported, another writer has the file open; the file counts as complete
        // once that writer is idle, or once the close has waited long enough
        Writers::Some => {
            job.taken.held.sure && (age >= shared.intervals.quiet / 2 || is_overdue(shared, job))
        }
        Writers::Unknown => job.taken.held.sure,
    };
    if !is_done {
        return Err(unread(HashOutcome::BeingWritten(age)));
    }
    let mark = mark_of(&file);
    if mark.is_some() && fdatasync(&file).is_err() {
        return Err(unread(HashOutcome::Want));
    }
    if let Some(known) = job.witnessed.filter(|_| found == Some(Writers::None))
        && seen.identity.is_inode_of(&known.identity)
        && seen.identity.size_bytes == known.identity.size_bytes
    {
        // Nothing was written since the hash was made. The close of a process that stored through a
        // mapping was reported by now, and then the result does not count.
        let outcome = HashOutcome::Hashed {
            seen,
            hash: known.hash,
            trust: HashTrust::Racy { is_open: false },
            unwritten: false,
        };
        return Err(Box::new(FinishedRead {
            mark,
            ..FinishedRead::of(job.taken.held, outcome)
        }));
    }
    Ok(OpenedFile {
        file,
        seen,
        recent,
        unwritten: writers == Writers::None,
    })
}

/// Returns the mark of a file that was written through the mount. If it is read after the attributes
/// of the file, a later change of the mark shows in the ctime.
pub(super) fn mark_of(file: &File) -> Option<Arc<WrittenMark>> {
    let mark = written::read(file).ok().flatten();
    mark.map(Arc::new)
}

/// Returns the time since a file seems to have changed last.
fn age_of(identity: &FileIdentity, now: FileTimestamp) -> Duration {
    identity
        .mtime
        .distance(now)
        .min(identity.ctime.distance(now))
}

/// Returns whether a close has waited long enough for other writers of the file.
fn is_overdue(shared: &SharedState, job: &Job) -> bool {
    let closed_at = job.taken.closed_at;
    closed_at.is_some_and(|at| at.elapsed() >= shared.intervals.quiet / 2)
}

/// Returns the outcome of a read that gave this hash. If the file changed during the read, the hash
/// usually does not count. The exception is a file over [`SMALL_FILE_MAX_BYTES`] that seems to have
/// only grown: it is listed with the hash of its bytes up to the former end. The exception holds in
/// two cases: the file is busy, or the hash extends the listed version and no process had the file
/// open for writing before the read.
pub(super) fn conclude(
    job: &Job,
    opened: &OpenedFile,
    hash: ContentHash,
    is_extended: bool,
) -> HashOutcome {
    let mut seen = opened.seen;
    let is_complete = job.taken.held.busy || is_extended && opened.unwritten;
    let may_grow = is_complete && opened.size_bytes() > SMALL_FILE_MAX_BYTES;
    let after = fstat(&opened.file).map(|stat| NameStat::of(&stat));
    // the reports tell a rename or a new mode during the read from a write
    let is_renamed = |after: &NameStat| {
        let is_same = after.identity.same_but_ctime(&seen.identity);
        is_same && after.identity != seen.identity && after.links == 1 && job.sees_writes
    };
    let is_renamed = after.as_ref().is_ok_and(is_renamed);
    if let Ok(after) = after.as_ref()
        && is_renamed
    {
        seen = *after;
    }
    match after.map(|after| after.identity) {
        Ok(after)
            if after == seen.identity || may_grow && after.has_grown_since(&seen.identity) =>
        {
            let writers = writers_of(&opened.file);
            // a writer that opened the file since then may have written to it without a change of
            // the mtime, within the same clock tick
            let is_open_again = opened.unwritten && writers == Writers::Some;
            if opened.recent && is_open_again && !is_extended {
                return HashOutcome::BeingWritten(age_of(&seen.identity, FileTimestamp::now()));
            }
            let trust = if is_extended || after != seen.identity {
                HashTrust::Extended
            } else {
                trust_in(job, opened.recent || is_renamed, writers)
            };
            HashOutcome::Hashed {
                seen,
                hash,
                trust,
                unwritten: opened.unwritten
                    && !is_renamed
                    && (is_extended || writers == Writers::None),
            }
        }
        _ => HashOutcome::Changed,
    }
}

/// Returns how long the hash is valid. By git's rule for racily clean files, a file modified
/// shortly before the read may have been written again within the same clock tick. A process that
/// still has the file open may write through a mapping.
fn trust_in(job: &Job, is_fresh: bool, writers: Writers) -> HashTrust {
    let is_open = match writers {
        Writers::None => false,
        Writers::Some => true,
        Writers::Unknown => job.taken.unclosed,
    };
    match (is_fresh, is_open) {
        (true, is_open) => HashTrust::Racy { is_open },
        (false, false) => HashTrust::Sure,
        (false, true) => HashTrust::UntilClosed,
    }
}

fn open(beneath: &Beneath, job: &Job) -> Result<(File, NameStat), HashOutcome> {
    match beneath.open_file(&job.dir, &job.path) {
        Ok((_, seen)) if !job.include_private && !seen.others_may_read() => {
            Err(HashOutcome::Elsewhere)
        }
        Ok(opened) => Ok(opened),
        Err(error) if is_absence(error) => Err(HashOutcome::Elsewhere),
        Err(error) if is_want(error) => Err(HashOutcome::Want),
        Err(_) => Err(HashOutcome::Unreadable(FileIdentity::default())),
    }
}

/// Returns why a file was not read to its end: it was truncated, the read was cancelled, resources
/// are short, or the file cannot be read.
pub(super) fn called_off(error: &io::Error, opened: &OpenedFile) -> HashOutcome {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => HashOutcome::Changed,
        _ if is_full(error) || files::is_want(error) => HashOutcome::Want,
        _ => HashOutcome::Unreadable(opened.seen.identity),
    }
}

/// Maximum bytes of one read call, so that a slow read is distinguished from a blocked one.
pub(super) const READ_MAX_BYTES: usize = 128 << 10;

/// A reader that can be stopped.
pub(super) struct Stoppable<'a> {
    pub(super) file: &'a File,
    pub(super) shared: &'a SharedState,
    pub(super) cancel: &'a AtomicBool,
    pub(super) at_work: &'a HasherProgress,
    /// Bytes read so far.
    pub(super) read_bytes: &'a mut u64,
}

impl io::Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) || self.shared.is_stopping() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let most = buffer.len().min(READ_MAX_BYTES);
        let mut file = self.file;
        let length = file.read(&mut buffer[..most])?;
        self.at_work.step();
        *self.read_bytes += length as u64;
        let read_bytes = &self.shared.read_bytes;
        read_bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
