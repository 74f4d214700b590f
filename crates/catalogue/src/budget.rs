//! How much each author's records make this node keep, and what gives way where it is too much.
//!
//! A record of some hundred bytes can ask for hundreds of directories, so what counts is what is
//! kept, not what came: each row, and each directory that holds a row of the author at any depth.
//! What a log costs depends on that log alone, so every node refuses the same ones. It is dropped
//! whole, since half of it would show a namespace that nobody has. This node's own log is held to
//! the same limits before it says something.

use std::collections::VecDeque;

use super::row::{NodeIndex, Row};
use super::{Catalogue, CatalogueError};
use p2pfs_proto::trust::SEAL_BYTES;
use p2pfs_proto::wire::native::record::{Fact, Kind};
use p2pfs_types::id::NodeId;

/// What the names of one author may take in memory, as estimated: about four million of them, as
/// many as a log may have ([`RECORDS_PER_AUTHOR_MAX`](super::RECORDS_PER_AUTHOR_MAX)).
pub const AUTHOR_MAX_BYTES: u64 = 768 << 20;
/// The directories of one author: a home with everything that was ever installed has fewer.
pub const AUTHOR_MAX_DIRECTORIES: u64 = 500_000;
/// What the names of all other nodes may take in memory together, as estimated.
pub const TOTAL_MAX_BYTES: u64 = 2 << 30;
/// The directories of all other nodes together, those that several of them have counted for each.
pub const TOTAL_MAX_DIRECTORIES: u64 = 1_500_000;
/// Logs dropped that wait to be told; older ones are not told.
const DROPPED_MAX: usize = super::NODES_MAX;
/// A row besides its name and what is behind it: its facts, its counter, and its places in the log
/// and in the ordered sets.
const ROW_BYTES: u64 = 192;
/// A directory besides its name: measured with a million of them, one in the other.
const DIRECTORY_BYTES: u64 = 704;
/// Records that are taken in between two looks at the total.
pub(super) const LOOK_RECORDS: usize = 1024;

/// What something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// In memory, as estimated.
    pub bytes: u64,
    /// Directories with something of the author at any depth.
    pub directories: u64,
}

impl Cost {
    fn is_over(self, limit: Self) -> bool {
        self.bytes > limit.bytes || self.directories > limit.directories
    }

    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            directories: self.directories + other.directories,
        }
    }
}

/// The limits that a catalogue goes by.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Of each author.
    pub author: Cost,
    /// Of all authors but this node.
    pub total: Cost,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            author: Cost {
                bytes: AUTHOR_MAX_BYTES,
                directories: AUTHOR_MAX_DIRECTORIES,
            },
            total: Cost {
                bytes: TOTAL_MAX_BYTES,
                directories: TOTAL_MAX_DIRECTORIES,
            },
        }
    }
}

/// A log that gave way. That of one who is gone is pulled again when its author is back, any other
/// with the next head that is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub author: NodeId,
    /// What for.
    pub why: DropCause,
}

/// Why a log gave way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// It alone is over the budget of one author.
    OverAuthor,
    /// All are over the total, and nobody that is gone is left to give way: it is the largest.
    OverTotal,
    /// All are over the total, and its author is gone.
    Gone,
}

/// What each author's rows cost at present.
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

    /// A row came.
    pub(crate) fn add_row(&mut self, row: &Row) {
        self.of_mut(row.author).bytes += row_bytes(row);
    }

    /// A row went.
    pub(crate) fn drop_row(&mut self, row: &Row) {
        self.of_mut(row.author).bytes -= row_bytes(row);
    }

    /// A directory of that name holds something of an author from now on, or no more.
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

/// Logs that gave way, to be told.
#[derive(Default)]
pub(super) struct GivenWay {
    waiting: VecDeque<Dropped>,
    /// How many nodes went so far: tells who went first.
    pub departures: u64,
}

impl Catalogue {
    /// Sets other limits than [`Budgets::default`].
    #[cfg(any(test, feature = "test-support"))]
    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.budgets = budgets;
    }

    /// What a node's log takes at present, what is being worked off included.
    pub fn cost_of(&self, node: &NodeId) -> Cost {
        let index = self.index_of(node);
        index.map_or_else(Cost::default, |index| self.merge.costs.of(index))
    }

    /// A log that gave way since this was asked last: its owner tells who it was, and waits a
    /// while before it pulls it again.
    pub fn poll_dropped(&mut self) -> Option<Dropped> {
        self.given_way.waiting.pop_front()
    }

    /// Whether this node may say one more thing; it may always take something back.
    pub(super) fn check_own_budget(&self, fact: &Fact) -> Result<(), CatalogueError> {
        // as if none of its directories were there yet
        let more = match fact {
            Fact::Removed { .. } | Fact::HaveNot { .. } | Fact::SealedRemoved { .. } => {
                return Ok(());
            }
            // an entry is looked at before it is sealed
            Fact::Readers { .. } | Fact::Sealed { .. } => Cost {
                bytes: ROW_BYTES + super::pull::estimated_bytes(fact) as u64,
                directories: 0,
            },
            Fact::Have { .. } => Cost {
                bytes: ROW_BYTES,
                directories: 0,
            },
            Fact::Entry { share, path, entry } => {
                let is_below = u64::from(entry.kind != Kind::Directory);
                let directories = path.components().count() as u64 - is_below;
                let sealed_bytes = if share.is_sealed() {
                    super::pull::estimated_bytes(fact) + 3 * SEAL_BYTES
                } else {
                    0
                };
                let text_bytes = (path.as_bytes().len() + sealed_bytes) as u64;
                Cost {
                    bytes: ROW_BYTES + text_bytes + directories * DIRECTORY_BYTES,
                    directories,
                }
            }
        };
        let cost = self.merge.costs.of(self.me).plus(more);
        if cost.is_over(self.budgets.author) {
            Err(CatalogueError::OverBudget)
        } else {
            Ok(())
        }
    }

    /// Drops a log that is over its author's budget; whether it was.
    pub(super) fn hold_author(&mut self, index: NodeIndex) -> bool {
        let is_over = |catalogue: &Self| {
            let cost = catalogue.merge.costs.of(index);
            cost.is_over(catalogue.budgets.author)
        };
        if index == self.me || !is_over(self) {
            return false;
        }
        // an earlier life is only listed until the new one is there
        while self.let_go_of_one(index) > 0 {
            if !is_over(self) {
                return false;
            }
        }
        self.give_way(index, DropCause::OverAuthor);
        true
    }

    /// Drops logs while all are over the total: of those who are gone the one that went first,
    /// then the largest. Whether that of `index` was among them.
    pub(super) fn hold_total(&mut self, index: NodeIndex) -> bool {
        let mut was_dropped = false;
        while let Some((victim, why)) = self.next_to_give_way() {
            self.give_way(victim, why);
            was_dropped |= victim == index;
        }
        was_dropped
    }

    fn next_to_give_way(&self) -> Option<(NodeIndex, DropCause)> {
        // what is dropped already is worked off in steps, and is not counted
        let kept = self.logs.iter().filter(|(index, log)| {
            let is_dropped = log.forgotten || (log.rows.is_empty() && !log.staging);
            **index != self.me && !is_dropped
        });
        let kept: Vec<(NodeIndex, u64)> = kept.map(|(index, log)| (*index, log.left)).collect();
        let cost = |index: NodeIndex| self.merge.costs.of(index);
        let total = kept
            .iter()
            .fold(Cost::default(), |sum, (index, _)| sum.plus(cost(*index)));
        if !total.is_over(self.budgets.total) {
            return None;
        }
        let size = |index: NodeIndex| (cost(index).bytes, self.merge.state.node(index).id);
        let gone = kept
            .iter()
            .filter(|(index, _)| !self.merge.state.node(*index).live);
        let first = gone.min_by_key(|(index, left)| (*left, std::cmp::Reverse(size(*index))));
        if let Some((index, _)) = first {
            return Some((*index, DropCause::Gone));
        }
        let largest = kept.iter().max_by_key(|(index, _)| size(*index));
        largest.map(|(index, _)| (*index, DropCause::OverTotal))
    }

    /// Drops a log; it is unlisted and worked off in steps, the last row first.
    fn give_way(&mut self, index: NodeIndex, why: DropCause) {
        let log = self.log_mut(index);
        let outdated = log.begin(0);
        log.head = None;
        log.wanted = None;
        log.gave_way = why == DropCause::Gone;
        self.intakes.cancel(index);
        self.drop_rows(outdated);
        let author = self.merge.state.node(index).id;
        if self.given_way.waiting.len() == DROPPED_MAX {
            self.given_way.waiting.pop_front();
        }
        self.given_way.waiting.push_back(Dropped { author, why });
        self.advance(self.merge.step_records);
    }
}
