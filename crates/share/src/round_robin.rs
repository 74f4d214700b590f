//! Hashes large files in turn: a part of each, then a part of the next. So no file, however large,
//! makes the others wait for its end.
//!
//! Each thread has at most [`UNDER_WAY_MAX`] files open at a time, and the outboards of all threads
//! on disk fit a budget. When either is exhausted, the largest file of the thread makes room for a
//! smaller one and restarts later. An error of one file ends only that file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::sync::Arc;

use super::at_work::HasherProgress;
use super::extension::KnownStart;
use super::left_out::FILE_MAX_BYTES;
use super::outboards::Outboards;
use super::outcome::{FinishedRead, HashOutcome};
use super::part::{BuildError, OutboardBuilder};
use super::reading::{Job, OpenedFile, Stoppable, called_off, conclude, open_job};
use super::shared::SharedState;
use p2pfs_types::digest::ContentHash;

/// Maximum files in progress on one thread.
pub(super) const UNDER_WAY_MAX: usize = 16;
/// Bytes read of a file in one round: some tenths of a second of a disk.
pub(super) const ROUND_BYTES: u64 = 64 << 20;

/// A file in progress.
struct Underway {
    job: Job,
    opened: OpenedFile,
    part: OutboardBuilder,
    /// Listed version from whose outboard the hash is made.
    extends: Option<ContentHash>,
    read_bytes: u64,
}

/// Files of one thread, the next one first.
#[derive(Default)]
pub(super) struct RoundRobin {
    files: VecDeque<Underway>,
    buffer: Vec<u8>,
}

impl RoundRobin {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the maximum size of a file for which there is room now. The budget of the outboards
    /// may be too small for it nevertheless.
    pub(super) fn room_for_bytes(&self) -> u64 {
        if self.files.len() < UNDER_WAY_MAX {
            u64::MAX
        } else {
            self.largest_bytes().saturating_sub(1)
        }
    }

    fn largest_bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|file| file.opened.size_bytes());
        sizes.max().unwrap_or(0)
    }

    /// Accepts a file, which is read next. Returns the files of which reading ended because of it,
    /// which may include the file itself.
    pub(super) fn begin(&mut self, shared: &SharedState, job: Job) -> Vec<FinishedRead> {
        let mut ended = Vec::new();
        let opened = match open_job(shared, &job) {
            Ok(opened) => opened,
            Err(outcome) => return vec![FinishedRead::of(job.taken.held, outcome)],
        };
        let size_bytes = opened.size_bytes();
        if size_bytes > FILE_MAX_BYTES {
            // it grew since it was checked
            return vec![FinishedRead::of(job.taken.held, HashOutcome::Elsewhere)];
        }
        let start = job.listed.and_then(|listed| {
            KnownStart::find(&shared.outboards, &opened.file, opened.identity(), &listed)
        });
        if start.is_none() && job.taken.held.busy && !job.taken.has_grown {
            // it is written in place, and would have changed again at the end of the read
            return vec![FinishedRead::of(job.taken.held, HashOutcome::Changed)];
        }
        if self.files.len() >= UNDER_WAY_MAX {
            ended.extend(self.put_back_one_over(size_bytes));
        }
        let part = self.part(&shared.outboards, size_bytes, &mut ended);
        let part = part.and_then(|part| start_from(part, start, &opened));
        match part {
            Ok((part, extends)) => self.files.push_front(Underway {
                job,
                opened,
                part,
                extends,
                read_bytes: 0,
            }),
            Err(_) => ended.push(FinishedRead::of(job.taken.held, HashOutcome::Want)),
        }
        ended
    }

    /// Starts an outboard. Outboards of larger files make room for it.
    fn part(
        &mut self,
        outboards: &Arc<Outboards>,
        size_bytes: u64,
        ended: &mut Vec<FinishedRead>,
    ) -> io::Result<OutboardBuilder> {
        loop {
            match outboards.begin(size_bytes) {
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                    match self.put_back_one_over(size_bytes) {
                        Some(read) => ended.push(read),
                        None => return Err(error),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Abandons the largest file if it is larger than `size_bytes`. It is read again later.
    fn put_back_one_over(&mut self, size_bytes: u64) -> Option<FinishedRead> {
        let largest = self.largest_bytes();
        if largest <= size_bytes {
            return None;
        }
        let is_largest = |file: &Underway| file.opened.size_bytes() == largest;
        let place = self.files.iter().position(is_largest)?;
        let given_up = self.files.remove(place)?;
        Some(given_up.end(HashOutcome::Changed))
    }

    /// Returns the share of the next file.
    pub(super) fn next_share(&self) -> Option<u16> {
        self.files.front().map(|file| file.job.share)
    }

    /// Reads a part of the next file. Returns the file if that was its end.
    pub(super) fn step(
        &mut self,
        shared: &SharedState,
        at_work: &HasherProgress,
    ) -> Option<FinishedRead> {
        let mut file = self.files.pop_front()?;
        let outcome = match file.read_on(shared, at_work, &mut self.buffer) {
            Ok(()) if file.part.left_bytes() > 0 => {
                self.files.push_back(file);
                return None;
            }
            Ok(()) => return Some(file.finish(shared)),
            Err(outcome) => outcome,
        };
        Some(file.end(outcome))
    }
}

/// Continues the outboard from the known start of a file, if there is one that can be used. Returns
/// the outboard and the hash of the version that it extends.
fn start_from(
    mut part: OutboardBuilder,
    start: Option<KnownStart>,
    opened: &OpenedFile,
) -> io::Result<(OutboardBuilder, Option<ContentHash>)> {
    let mut extends = None;
    if let Some(start) = start
        && let Some(done_bytes) = part.start_from(&start)?
    {
        (&opened.file).seek(SeekFrom::Start(done_bytes))?;
        extends = Some(start.version.hash);
    }
    Ok((part, extends))
}

impl Underway {
    fn end(self, outcome: HashOutcome) -> FinishedRead {
        FinishedRead {
            read_bytes: self.read_bytes,
            ..FinishedRead::of(self.job.taken.held, outcome)
        }
    }

    fn finish(self, shared: &SharedState) -> FinishedRead {
        let Self {
            job,
            opened,
            part,
            extends,
            read_bytes,
        } = self;
        let size_bytes = opened.size_bytes();
        let hash = part.finish().and_then(|(hash, made)| {
            let start = KnownStart::new(hash, size_bytes, made.pairs());
            // a database that grew during the read may have changed bytes that were read before
            let is_sound = !job.taken.held.busy || start.is_intact(&opened.file);
            is_sound.then(|| shared.outboards.store(hash, size_bytes, &made));
            is_sound.then_some(hash)
        });
        let outcome = hash.map_or(HashOutcome::Changed, |hash| {
            conclude(&job, &opened, hash, extends.is_some())
        });
        FinishedRead {
            extends,
            read_bytes,
            ..FinishedRead::of(job.taken.held, outcome)
        }
    }

    fn read_on(
        &mut self,
        shared: &SharedState,
        at_work: &HasherProgress,
        buffer: &mut Vec<u8>,
    ) -> Result<(), HashOutcome> {
        let file: &File = &self.opened.file;
        let cancel = &self.job.taken.cancel;
        let mut reader = Stoppable {
            file,
            shared,
            cancel,
            at_work,
            read_bytes: &mut self.read_bytes,
        };
        let read = self.part.read_on(&mut reader, ROUND_BYTES, buffer);
        read.map_err(|trouble| match trouble {
            BuildError::Reading(error) => called_off(&error, &self.opened),
            BuildError::Writing => HashOutcome::Want,
        })
    }
}
