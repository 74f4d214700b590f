//! The result of reading a file for its hash.

use std::sync::Arc;
use std::time::Duration;

use super::at_work::HashTicket;
use super::identity::{FileIdentity, NameStat};
use super::proof::HashProof;
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::written::WrittenMark;

/// Result of reading one file.
#[derive(Clone, Copy, Debug)]
pub(super) enum HashOutcome {
    /// The file has this hash. `trust` says for how long.
    Hashed {
        seen: NameStat,
        hash: ContentHash,
        trust: HashTrust,
        /// Whether no process was found to have it open for writing before the read and, unless the
        /// hash was made from the outboard of the listed version, after the read. If the file was
        /// not written lately, no process is looked for before the read.
        unwritten: bool,
    },
    /// There is no hash: the file changed while it was read, or it is written in place too often to
    /// be read whole, or the read was cancelled or gave way to that of a smaller file.
    Changed,
    /// A process has or may have it open for writing. The duration is the time since its last
    /// write.
    BeingWritten(Duration),
    /// The name no longer stands for a file that can be read in this way: it is gone, is not a
    /// file, may not be shared any longer, or grew too large. A new check decides which.
    Elsewhere,
    /// The file cannot be read.
    Unreadable(FileIdentity),
    /// The file could not be read now: memory, descriptors or disk space are short, or the disk
    /// does not answer.
    Want,
}

/// How long a hash is valid while the file's times stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashTrust {
    /// Permanently.
    Sure,
    /// Until the file is closed. A process has or may have it open for writing, and a write through
    /// a mapping changes no time stamp until the page is written to the disk (`mmap(2)`).
    UntilClosed,
    /// Until the reports of the kernel prove it (`proof`), or the file is read again after a rest. It
    /// was changed so shortly before it was read that another write may get the same times.
    Racy {
        /// Whether a process has or may have it open for writing.
        is_open: bool,
    },
    /// Until the file has been read whole. Its first bytes were not read, or it grew while it was
    /// read.
    Extended,
}

/// A file that was read.
pub(super) struct FinishedRead {
    pub(super) held: HashTicket,
    pub(super) outcome: HashOutcome,
    /// Full content, if the file is small and was just written.
    pub(super) bytes: Option<Arc<[u8]>>,
    /// Mark of a file that was written through the mount.
    pub(super) mark: Option<Arc<WrittenMark>>,
    /// Listed version of the file from whose outboard the hash was made.
    pub(super) extends: Option<ContentHash>,
    /// Bytes of the file that were read.
    pub(super) read_bytes: u64,
    /// Whether the name was reported again since the file was queued and was not checked since.
    pub(super) overtaken: bool,
}

impl HashTrust {
    /// Returns the proof of the hash.
    pub(super) fn proof(self) -> HashProof {
        if self == Self::Sure {
            HashProof::Times
        } else {
            HashProof::Missing
        }
    }

    /// Returns whether the hash is that of all bytes and no process may have had the file open for
    /// writing, so that the reports of the kernel say whether the file is written after the read.
    pub(super) fn begins_witness(self) -> bool {
        matches!(self, Self::Sure | Self::Racy { is_open: false })
    }
}

impl FinishedRead {
    /// Creates a result without content.
    pub(super) fn of(held: HashTicket, outcome: HashOutcome) -> Self {
        Self {
            held,
            outcome,
            bytes: None,
            mark: None,
            extends: None,
            read_bytes: 0,
            overtaken: false,
        }
    }

    /// Returns the final outcome; `again` is the cause of a change that was noticed during the
    /// read. If the file was written to, or may have been, the read may have returned a partial
    /// write. The hash then counts only if the file is busy or no process had the file open for
    /// writing.
    pub(super) fn settled(&self, again: Option<Cause>) -> HashOutcome {
        let is_written = self.overtaken || again.is_some_and(Cause::is_of_writer);
        match self.outcome {
            HashOutcome::Hashed { unwritten, .. }
                if is_written && !unwritten && !self.held.busy =>
            {
                HashOutcome::Changed
            }
            outcome => outcome,
        }
    }
}
