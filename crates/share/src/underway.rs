//! A file whose outboard is being made while it is read.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use super::at_work::HasherProgress;
use super::extension::KnownStart;
use super::outcome::{FinishedRead, HashOutcome};
use super::part::{BuildError, OutboardBuilder};
use super::reading::{Job, OpenedFile, Stoppable, called_off, conclude, mark_of};
use super::shared::SharedState;
use p2pfs_types::digest::ContentHash;

/// A file in progress.
pub(super) struct Underway {
    pub(super) job: Job,
    pub(super) opened: OpenedFile,
    part: OutboardBuilder,
    /// Listed version from whose outboard the hash is made.
    extends: Option<ContentHash>,
    read_bytes: u64,
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
    /// Starts to read a file, from the end of its known start if there is one that can be used.
    pub(super) fn begin(
        job: Job,
        opened: OpenedFile,
        part: OutboardBuilder,
        start: Option<KnownStart>,
    ) -> io::Result<Self> {
        let (part, extends) = start_from(part, start, &opened)?;
        Ok(Self {
            job,
            opened,
            part,
            extends,
            read_bytes: 0,
        })
    }

    /// Returns whether bytes are left to be read.
    pub(super) fn has_more(&self) -> bool {
        self.part.left_bytes() > 0
    }

    /// Ends the read without a hash.
    pub(super) fn end(self, outcome: HashOutcome) -> FinishedRead {
        FinishedRead {
            extends: self.extends,
            read_bytes: self.read_bytes,
            ..FinishedRead::of(self.job.taken.held, outcome)
        }
    }

    /// Ends the read after the last byte.
    pub(super) fn finish(self, shared: &SharedState) -> FinishedRead {
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
            mark: mark_of(&opened.file),
            read_bytes,
            ..FinishedRead::of(job.taken.held, outcome)
        }
    }

    /// Reads `limit_bytes` more of the file, or all that is left.
    pub(super) fn read_on(
        &mut self,
        shared: &SharedState,
        at_work: &HasherProgress,
        limit_bytes: u64,
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
        let read = self.part.read_on(&mut reader, limit_bytes, buffer);
        read.map_err(|trouble| match trouble {
            BuildError::Reading(error) => called_off(&error, &self.opened),
            BuildError::Writing => HashOutcome::Want,
        })
    }
}
