//! Budgets for the records of each author, and the eviction of logs that exceed them.
//!
//! A record of some hundred bytes can imply hundreds of directories. The budget therefore counts
//! retained objects and not received bytes: each row, and each directory that holds a row of the
//! author at any depth. The cost of a log depends on that log alone, and on which of its sealed
//! entries this node can open. A log over budget is dropped whole, because half of it would show a
//! namespace that no node has. This node's own log is checked against the same limits before a
//! record is added.

use std::collections::VecDeque;

use super::facts::estimated_bytes;
use super::intake::IntakeQueue;
use super::logs::NodeLogs;
use super::row::{NodeIndex, Row};
use p2pfs_proto::trust::SEAL_BYTES;
use p2pfs_proto::wire::native::record::{Fact, Kind};
use p2pfs_types::id::NodeId;

/// Maximum estimated memory for the names of one author, in bytes. It allows about four million
/// names, as many as a log may have ([`RECORDS_PER_AUTHOR_MAX`](super::RECORDS_PER_AUTHOR_MAX)).
pub const AUTHOR_MAX_BYTES: u64 = 768 << 20;
/// Maximum directories of one author. A home directory with all its installed software has fewer.
pub const AUTHOR_MAX_DIRECTORIES: u64 = 500_000;
/// Maximum contents that the records of one author replace and delete. A record counts each content
/// that it names. The deletion of a file that one node lists counts once.
pub const AUTHOR_MAX_REPLACED: u64 = 1 << 20;
/// Maximum estimated memory for the names of all other nodes together, in bytes.
pub const TOTAL_MAX_BYTES: u64 = 2 << 30;
/// Maximum directories of all other nodes together. A directory that several nodes have counts once
/// for each.
pub const TOTAL_MAX_DIRECTORIES: u64 = 1_500_000;
/// Maximum contents that the records of all other nodes together replace and delete.
pub const TOTAL_MAX_REPLACED: u64 = 4 << 20;
/// Maximum dropped logs that wait to be reported. If there are more, the oldest is never reported.
const DROPPED_MAX: usize = super::NODES_MAX;
/// Bytes of a row, without its name and the data behind the name: its facts, its reference count,
/// and its entries in the log and in the ordered sets.
const ROW_BYTES: u64 = 192;
/// Bytes of a directory without its name, measured with a million nested directories.
const DIRECTORY_BYTES: u64 = 704;
/// Number of records that are applied between two checks of the total.
pub(super) const LOOK_RECORDS: usize = 1024;

/// Resources that a row, a log or all logs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Estimated memory in bytes.
    pub bytes: u64,
    /// Number of directories with rows of the author at any depth.
    pub directories: u64,
    /// Number of contents that records of the author replace or delete.
    pub replaced: u64,
}

impl Cost {
    pub(super) fn is_over(self, limit: Self) -> bool {
        self.bytes > limit.bytes
            || self.directories > limit.directories
            || self.replaced > limit.replaced
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            directories: self.directories + other.directories,
            replaced: self.replaced + other.replaced,
        }
    }
}

/// The limits of a catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Limit of each author.
    pub author: Cost,
    /// Limit of all authors together, without this node.
    pub total: Cost,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            author: Cost {
                bytes: AUTHOR_MAX_BYTES,
                directories: AUTHOR_MAX_DIRECTORIES,
                replaced: AUTHOR_MAX_REPLACED,
            },
            total: Cost {
                bytes: TOTAL_MAX_BYTES,
                directories: TOTAL_MAX_DIRECTORIES,
                replaced: TOTAL_MAX_REPLACED,
            },
        }
    }
}

/// A log that was dropped to keep a budget. After [`DropCause::Gone`], heads of the log are ignored
/// until its author is live. After the other causes, the next received head starts a pull again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The author of the dropped log.
    pub author: NodeId,
    /// The exceeded budget, or the reason why this log was chosen.
    pub why: DropCause,
}

/// Reason why a log was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// The log alone exceeds the budget of one author.
    OverAuthor,
    /// All logs together exceed the total, and every remaining log has a live author. This log was
    /// the largest.
    OverTotal,
    /// All logs together exceed the total, and the author of this log is not live.
    Gone,
}

/// Current cost of the rows of each author.
#[derive(Default)]
pub(super) struct Costs(Vec<Cost>);

impl Costs {
    pub(crate) fn of(&self, author: NodeIndex) -> Cost {
        let cost = self.0.get(usize::from(author.0));
        cost.copied().unwrap_or_default()
    }

    fn of_mut(&mut self, author: NodeIndex) -> &mut Cost {
        let at = usize::from(author.0);
        if self.0.len() <= at {
            self.0.resize(at + 1, Cost::default());
        }
        &mut self.0[at]
    }

    /// Adds the cost of a row.
    pub(crate) fn add_row(&mut self, row: &Row) {
        let cost = self.of_mut(row.author);
        cost.bytes += row_bytes(row);
        cost.replaced += row.replaces().len() as u64;
    }

    /// Subtracts the cost of a row.
    pub(crate) fn drop_row(&mut self, row: &Row) {
        let cost = self.of_mut(row.author);
        cost.bytes -= row_bytes(row);
        cost.replaced -= row.replaces().len() as u64;
    }

    /// Adds the cost of a directory to an author if `is_held`. Otherwise subtracts it.
    pub(crate) fn count_directory(&mut self, author: NodeIndex, name_bytes: usize, is_held: bool) {
        let cost = self.of_mut(author);
        let bytes = DIRECTORY_BYTES + name_bytes as u64;
        if is_held {
            cost.bytes += bytes;
            cost.directories += 1;
        } else {
            cost.bytes -= bytes;
            cost.directories -= 1;
        }
    }
}

fn row_bytes(row: &Row) -> u64 {
    ROW_BYTES + row.text_bytes() as u64
}

/// Returns the estimated cost of a fact that this node adds to its own log. Returns `None` for a
/// removal, which is always allowed.
pub(super) fn cost_of_own(fact: &Fact) -> Option<Cost> {
    // The estimate assumes that none of its directories exists yet.
    Some(match fact {
        Fact::Removed { .. }
        | Fact::HaveNot { .. }
        | Fact::SealedRemoved { .. }
        | Fact::Terms { open: false, .. } => {
            return None;
        }
        Fact::Keeps(offer) if offer.paths.is_empty() => return None,
        // An entry was checked before it was sealed.
        Fact::Readers { .. } | Fact::Sealed { .. } | Fact::Keeps(_) => Cost {
            bytes: ROW_BYTES + estimated_bytes(fact) as u64,
            ..Cost::default()
        },
        Fact::Have { .. } | Fact::Terms { .. } => Cost {
            bytes: ROW_BYTES,
            ..Cost::default()
        },
        Fact::Gone { path, replaces, .. } => {
            let directories = path.components().count() as u64 - 1;
            Cost {
                bytes: ROW_BYTES + estimated_bytes(fact) as u64 + directories * DIRECTORY_BYTES,
                directories,
                replaced: replaces.len() as u64,
            }
        }
        Fact::Entry { share, path, entry } => {
            let is_below = u64::from(entry.kind != Kind::Directory);
            let directories = path.components().count() as u64 - is_below;
            let sealed_bytes = if share.is_sealed() {
                estimated_bytes(fact) + 3 * SEAL_BYTES
            } else {
                0
            };
            let replaces_bytes = size_of_val(&entry.replaces[..]);
            let text_bytes = (path.as_bytes().len() + sealed_bytes + replaces_bytes) as u64;
            Cost {
                bytes: ROW_BYTES + text_bytes + directories * DIRECTORY_BYTES,
                directories,
                replaced: entry.replaces.len() as u64,
            }
        }
    })
}

/// The limits, and the dropped logs that wait to be reported.
#[derive(Default)]
pub(super) struct LogBudget {
    pub limits: Budgets,
    dropped: VecDeque<Dropped>,
}

impl LogBudget {
    /// Removes and returns the next dropped log that was not reported yet.
    pub(crate) fn poll_dropped(&mut self) -> Option<Dropped> {
        self.dropped.pop_front()
    }

    fn report(&mut self, dropped: Dropped) {
        if self.dropped.len() == DROPPED_MAX {
            self.dropped.pop_front();
        }
        self.dropped.push_back(dropped);
    }
}

/// Drops the logs of other nodes that exceed a budget.
pub(super) struct LogEviction<'a> {
    pub logs: &'a mut NodeLogs,
    pub queue: &'a mut IntakeQueue,
    pub budget: &'a mut LogBudget,
}

impl LogEviction<'_> {
    /// Drops a log that exceeds its author's budget. Returns whether it was dropped.
    pub(crate) fn enforce_author(&mut self, index: NodeIndex) -> bool {
        let limit = self.budget.limits.author;
        let is_over = |logs: &NodeLogs| logs.merge.costs.of(index).is_over(limit);
        if index == self.logs.me || !is_over(self.logs) {
            return false;
        }
        // Rows of an earlier life are only listed until the new life is complete, so they go first.
        while self.logs.remove_old_row(index) > 0 {
            if !is_over(self.logs) {
                return false;
            }
        }
        self.drop_log(index, DropCause::OverAuthor);
        true
    }

    /// Drops logs while all together exceed the total. The logs of nodes that are not live go
    /// first, in order of departure, then the largest. Returns whether `index` was among them.
    pub(crate) fn enforce_total(&mut self, index: NodeIndex) -> bool {
        let mut was_dropped = false;
        while let Some((victim, why)) = self.next_log_to_drop() {
            self.drop_log(victim, why);
            was_dropped |= victim == index;
        }
        was_dropped
    }

    fn next_log_to_drop(&self) -> Option<(NodeIndex, DropCause)> {
        // The rows of a forgotten or dropped log are removed in steps. They do not count here, so
        // they cause no further drop. A log without rows counts only during a pull.
        let kept = self.logs.logs.iter().filter(|(index, log)| {
            let is_dropped = log.forgotten || (log.rows.is_empty() && !log.pull.staging);
            **index != self.logs.me && !is_dropped
        });
        let kept: Vec<(NodeIndex, u64)> = kept.map(|(index, log)| (*index, log.left)).collect();
        let cost = |index: NodeIndex| self.logs.merge.costs.of(index);
        let total = kept
            .iter()
            .fold(Cost::default(), |sum, (index, _)| sum.plus(cost(*index)));
        if !total.is_over(self.budget.limits.total) {
            return None;
        }
        let size = |index: NodeIndex| (cost(index).bytes, self.logs.merge.state().node(index).id);
        let gone = kept
            .iter()
            .filter(|(index, _)| !self.logs.merge.state().node(*index).live);
        let first = gone.min_by_key(|(index, left)| (*left, std::cmp::Reverse(size(*index))));
        if let Some((index, _)) = first {
            return Some((*index, DropCause::Gone));
        }
        let largest = kept.iter().max_by_key(|(index, _)| size(*index));
        largest.map(|(index, _)| (*index, DropCause::OverTotal))
    }

    /// Drops a log. It is unlisted and removed in steps, the last row first.
    fn drop_log(&mut self, index: NodeIndex, why: DropCause) {
        let log = self.logs.discard(index);
        log.pull.wanted = None;
        log.pull.yielded_to_live = why == DropCause::Gone;
        self.queue.cancel(index);
        let author = self.logs.merge.state().node(index).id;
        self.budget.report(Dropped { author, why });
        self.logs.advance_step();
    }
}
