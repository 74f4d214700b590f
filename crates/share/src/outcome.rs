//! What reading a file for its hash came to.

use std::sync::Arc;
use std::time::Duration;

use super::at_work::Held;
use super::identity::{Identity, Seen};
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;

/// How the reading of a file ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// It was at rest while it was read.
    Hashed {
        seen: Seen,
        hash: ContentHash,
        trust: Trust,
        /// Nobody had it open for writing, neither when it began to be read nor at the end.
        unwritten: bool,
    },
    /// It changed while it was read, or reading it was called off.
    Changed,
    /// Someone has it open for writing; it was written to so long ago.
    BeingWritten(Duration),
    /// It is not there, not a file or not ours to share any more: a look will tell.
    Elsewhere,
    /// It cannot be read.
    Unreadable(Identity),
    /// It could not be read for want of memory or descriptors.
    Want,
}

/// How long a hash holds while the file's times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// For good.
    Sure,
    /// Until the file is closed: its writer has it open still, and what is written through a
    /// mapping to a page that is yet to be written to the disk dates nothing (`mmap(2)`).
    UntilClosed,
    /// For a moment: the file was written so shortly before it was read that another write may
    /// have the same date.
    Racy,
}

/// A file that was read.
pub(super) struct Read {
    pub(super) held: Held,
    pub(super) outcome: Outcome,
    /// All of it, where it is small and was just written.
    pub(super) bytes: Option<Arc<[u8]>>,
    /// Something was reported of its name since it was asked for, which was not looked at yet.
    pub(super) overtaken: bool,
}

impl Read {
    /// What the reading of a file came to.
    pub(super) fn of(held: Held, outcome: Outcome) -> Self {
        Self {
            held,
            outcome,
            bytes: None,
            overtaken: false,
        }
    }

    /// What it came to, where `again` is what was noticed of the file meanwhile. Where it was
    /// written to, or may have been, what was read may be in the middle of it, so that it only
    /// counts if nobody had it open for writing.
    pub(super) fn settled(&self, again: Option<Cause>) -> Outcome {
        let is_written = self.overtaken || again.is_some_and(Cause::is_of_writer);
        match self.outcome {
            Outcome::Hashed { unwritten, .. } if is_written && !unwritten => Outcome::Changed,
            outcome => outcome,
        }
    }
}
