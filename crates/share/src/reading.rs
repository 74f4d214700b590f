//! A file that is read to be hashed: opened where it is at rest, read until it is told to stop, and
//! judged at its end.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::fstat;

use super::at_work::AtWork;
use super::beneath::{Beneath, Writers, is_absence, is_want, writers_of};
use super::identity::{Identity, Seen, Stamp};
use super::outcome::{Outcome, Trust};
use super::queue::Taken;
use super::shared::Shared;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{self, is_full};
use p2pfs_types::path::SharedPath;

/// A file to read.
pub(super) struct Job {
    pub(super) taken: Taken,
    pub(super) share: u16,
    /// Its disk does not answer.
    pub(super) stands_still: bool,
    pub(super) dir: Arc<Path>,
    pub(super) include_private: bool,
    pub(super) path: SharedPath,
}

/// A file that is read, as it was when that began.
pub(super) struct Opened {
    pub(super) file: File,
    seen: Seen,
    /// It was written to lately.
    recent: bool,
    /// Nobody had it open for writing, or has written lately.
    unwritten: bool,
}

impl Opened {
    pub(super) fn size_bytes(&self) -> u64 {
        self.seen.identity.size_bytes
    }
}

/// Opens a file to be read, where it is at rest.
pub(super) fn open_job(shared: &Shared, job: &Job) -> Result<Opened, Outcome> {
    let (file, seen) = open(&shared.beneath, job)?;
    let age = seen.identity.mtime.distance(Stamp::now());
    let recent = age < shared.quiet;
    let writers = if recent {
        writers_of(&file)
    } else {
        Writers::None
    };
    let is_done = match writers {
        Writers::None => true,
        // another than the one who closed it, who is idle, or must not keep it waiting any longer
        Writers::Some => {
            job.taken.held.sure && (age >= shared.quiet / 2 || is_overdue(shared, job))
        }
        Writers::Unknown => job.taken.held.sure,
    };
    if !is_done {
        return Err(Outcome::BeingWritten(age));
    }
    Ok(Opened {
        file,
        seen,
        recent,
        unwritten: writers == Writers::None,
    })
}

/// Whether a close has waited long enough for others who write to the file.
fn is_overdue(shared: &Shared, job: &Job) -> bool {
    let closed_at = job.taken.closed_at;
    closed_at.is_some_and(|at| at.elapsed() >= shared.quiet / 2)
}

/// What it means that a file has this hash: nothing, where it changed while it was read.
pub(super) fn conclude(job: &Job, opened: &Opened, hash: ContentHash) -> Outcome {
    let seen = opened.seen;
    match fstat(&opened.file).map(|stat| Seen::of(&stat)) {
        Ok(after) if after.identity == seen.identity => {
            let writers = writers_of(&opened.file);
            // who came since may have written within the tick of the clock that dated it
            if opened.recent && opened.unwritten && writers == Writers::Some {
                return Outcome::BeingWritten(seen.identity.mtime.distance(Stamp::now()));
            }
            Outcome::Hashed {
                seen,
                hash,
                trust: trust_in(job, opened, writers),
                unwritten: opened.unwritten && writers == Writers::None,
            }
        }
        _ => Outcome::Changed,
    }
}

/// Git's rule for racily clean files: modified so shortly before we read that another write could
/// have come after, within the same tick of the file's clock. And who still has the file open may
/// write through a mapping.
fn trust_in(job: &Job, opened: &Opened, writers: Writers) -> Trust {
    if opened.recent {
        return Trust::Racy;
    }
    match writers {
        Writers::None => Trust::Sure,
        Writers::Unknown if !job.taken.unclosed => Trust::Sure,
        Writers::Some | Writers::Unknown => Trust::UntilClosed,
    }
}

fn open(beneath: &Beneath, job: &Job) -> Result<(File, Seen), Outcome> {
    match beneath.open_file(&job.dir, &job.path) {
        Ok((_, seen)) if !job.include_private && !seen.others_may_read() => Err(Outcome::Elsewhere),
        Ok(opened) => Ok(opened),
        Err(error) if is_absence(error) => Err(Outcome::Elsewhere),
        Err(error) if is_want(error) => Err(Outcome::Want),
        Err(_) => Err(Outcome::Unreadable(Identity::default())),
    }
}

/// Why a file was not read to its end: it was cut short, its reading was given up, or it cannot be
/// read.
pub(super) fn called_off(error: &io::Error, opened: &Opened) -> Outcome {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted => Outcome::Changed,
        _ if is_full(error) || files::is_want(error) => Outcome::Want,
        _ => Outcome::Unreadable(opened.seen.identity),
    }
}

/// What is read with one call, so that one that goes on is told from one that stands still.
pub(super) const READ_MAX_BYTES: usize = 128 << 10;

/// Reads until it is told to stop.
pub(super) struct Stoppable<'a> {
    pub(super) file: &'a File,
    pub(super) shared: &'a Shared,
    pub(super) cancel: &'a AtomicBool,
    pub(super) at_work: &'a AtWork,
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
        let read_bytes = &self.shared.read_bytes;
        read_bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
