//! Parts of a log that wait for further parts.
//!
//! A record must not be missing from the listing while later records of its author are listed. A
//! single part does not guarantee that, because it is not a snapshot of the log: a name that was
//! recorded again moves behind records that followed its first one. All parts of a pull are
//! therefore kept until the last has arrived, and then applied as one (`intake`). At most
//! [`STAGED_MAX_PARTS`] parts of all logs wait. A further part does not wait: it is queued to be
//! applied with the waiting parts of its log, as one stretch. A log of several stretches is listed
//! while it arrives, and is consistent once it is complete.

use super::{LogPart, Pull};
use p2pfs_proto::wire::native::record::{Head, Record};

/// Maximum parts that wait, of all logs together: about 64 MiB of records.
/// [`IntakeQueue::is_behind`](super::IntakeQueue::is_behind) has the same limit for parts that wait
/// to be applied.
pub(super) const STAGED_MAX_PARTS: usize = 64;

/// The parts of one pull that arrived so far.
pub(super) struct StagedParts {
    pub fresh: bool,
    pub epoch: u64,
    /// The sequence in the head of the first part.
    pub base: u64,
    pub records: Vec<Record>,
    pub parts: usize,
}

impl StagedParts {
    pub(crate) fn last_sequence(&self) -> u64 {
        self.records.last().map_or(0, |record| record.sequence)
    }

    /// Returns whether a part continues where the staged parts end.
    pub(crate) fn is_continued_by(&self, part: &LogPart) -> bool {
        let first = part.records.first().map(|record| record.sequence);
        !part.fresh
            && part.head.head.epoch == self.epoch
            && first.is_none_or(|first| first > self.last_sequence())
    }
}

/// How far a log is pulled from other nodes.
#[derive(Default)]
pub(super) struct LogPull {
    /// Whether a running pull may still confirm the old rows.
    pub staging: bool,
    /// The newest received head, unless the log matches it already.
    pub wanted: Option<Head>,
    /// The sequence in the head of the first part, while a whole log is being pulled. Otherwise 0.
    pub base: u64,
    /// Whether the rows match the verified head.
    pub complete: bool,
    /// Pulls that did not match their head since a newer head arrived, or since the log last
    /// matched the newest head.
    pub failures: u32,
    /// Whether the log was dropped because all logs exceeded their budget and its author was not
    /// live. Its heads are ignored until its author is live.
    pub yielded_to_live: bool,
    /// Parts of a running pull.
    pub staged: Option<StagedParts>,
}

/// Result of staging a part.
pub(super) enum StageResult {
    /// The part waits for the next one.
    Waits(Pull),
    /// The caller applies the parts together: the last one arrived, or no more parts may wait.
    Ready {
        part: LogPart,
        /// The base for a log that restarts with them.
        base: u64,
        /// Number of parts.
        parts: usize,
    },
}

impl LogPull {
    /// Stages a checked part. `waiting` is the number of parts of all logs that are staged already.
    /// If the part is the last one, or no more parts may wait, returns all staged parts joined into
    /// one.
    pub(super) fn stage(&mut self, part: LogPart, waiting: usize) -> StageResult {
        let LogPart {
            head,
            fresh,
            records,
            last,
        } = part;
        let Head {
            author,
            epoch,
            sequence,
            ..
        } = head.head;
        let mut staged = self.staged.take().unwrap_or(StagedParts {
            fresh,
            epoch,
            base: if fresh { sequence } else { self.base },
            records: Vec::new(),
            parts: 0,
        });
        staged.records.extend(records);
        staged.parts += 1;
        if !last && waiting < STAGED_MAX_PARTS {
            let after = staged.last_sequence();
            self.staged = Some(staged);
            return StageResult::Waits(Pull {
                author,
                epoch,
                after,
            });
        }
        let part = LogPart {
            head,
            fresh: staged.fresh,
            records: staged.records,
            last,
        };
        StageResult::Ready {
            part,
            base: staged.base,
            parts: staged.parts,
        }
    }

    /// Drops the staged parts if a part does not continue them.
    pub(crate) fn drop_staged_unless_continued(&mut self, part: &LogPart) {
        if self
            .staged
            .as_ref()
            .is_some_and(|staged| !staged.is_continued_by(part))
        {
            self.staged = None;
        }
    }

    /// Returns the number of staged parts.
    pub(crate) fn staged_parts(&self) -> usize {
        self.staged.as_ref().map_or(0, |staged| staged.parts)
    }
}
