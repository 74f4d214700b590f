//! Parts of a log that are not taken in yet, since more are to come.
//!
//! What a node said first must not be missing where what it said later is listed, and a part holds
//! no moment of its author's log: a name that was said again meanwhile stands behind what was said
//! after it the first time. So the parts of one pull are kept until the last has come, and then
//! taken in as one (`intake`). Of a log that is longer than [`STAGED_MAX_PARTS`] that many are
//! taken in at a time: it is listed as it comes, and is in order when it is complete.

use super::row::NodeIndex;
use super::{Catalogue, LogPart, Pull};
use p2pfs_proto::wire::native::record::{Head, Record};

/// The most parts that wait, of all logs together: 64 MiB of records at the most, as estimated.
/// Where as many wait to be taken in, no more is asked for ([`Catalogue::is_behind`]).
pub(super) const STAGED_MAX_PARTS: usize = 64;

/// The parts of one pull so far.
pub(super) struct Staged {
    pub fresh: bool,
    pub epoch: u64,
    /// The sequence that the head of the first part had.
    pub base: u64,
    pub records: Vec<Record>,
    pub parts: usize,
}

impl Staged {
    pub(crate) fn last_sequence(&self) -> u64 {
        self.records.last().map_or(0, |record| record.sequence)
    }

    /// Whether a part goes on where these end.
    pub(crate) fn is_continued_by(&self, part: &LogPart) -> bool {
        let first = part.records.first().map(|record| record.sequence);
        !part.fresh
            && part.head.head.epoch == self.epoch
            && first.is_none_or(|first| first > self.last_sequence())
    }
}

/// What became of a part.
pub(super) enum Staging {
    /// It waits for the next.
    Waits(Pull),
    /// It and those before it are to be taken in; the base of a log that begins anew with them.
    Ready {
        part: LogPart,
        base: u64,
        /// How many they are.
        parts: usize,
    },
}

impl Catalogue {
    /// Keeps a part that was checked, or gives it with all that waited for it.
    pub(super) fn stage(&mut self, index: NodeIndex, part: LogPart) -> Staging {
        let waiting: usize = self.logs.values().map(|log| log.staged_parts()).sum();
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
        let log = self.log_mut(index);
        let mut staged = log.staged.take().unwrap_or(Staged {
            fresh,
            epoch,
            base: if fresh { sequence } else { log.base },
            records: Vec::new(),
            parts: 0,
        });
        staged.records.extend(records);
        staged.parts += 1;
        if !last && waiting < STAGED_MAX_PARTS {
            let after = staged.last_sequence();
            log.staged = Some(staged);
            return Staging::Waits(Pull {
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
        Staging::Ready {
            part,
            base: staged.base,
            parts: staged.parts,
        }
    }
}
