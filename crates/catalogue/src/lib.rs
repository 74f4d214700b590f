//! What every node says it has, merged into the one namespace that the mount shows.
//!
//! Owns the logs (each node is the only writer of its own), their set digests, the rule by which
//! versions of one path win or stand aside (`rules`, which says all of them in order), and the
//! immutable [`View`] that the filesystem's threads read. Pure: it knows no socket or file, and
//! reads no clock.
//! The owner feeds it facts, signed heads and parts of logs, tells it who is alive, and asks it for
//! views, changes and what to persist.
//!
//! It never checks a signature (the owner has, before it hands a head in), never decides when to
//! pull, and never lists a name whose content no live node can give.
//!
//! The merge is a function of the logs held, of who is live, of the owners of paths, of the time
//! that it was told and of the budgets: not of the order in which facts came. `tests::model` holds
//! it to that against a merge from scratch.
//!
//! After an error the catalogue is as it was before the call, unless the variant says otherwise.
//!
//! | what | files |
//! |---|---|
//! | one node's log | `log`, `rows`, `row`, `facts`, `digest`; this node's own: `own` |
//! | how logs come, go and are kept | `pull`, `intake`, `staged`, `checked`, `apply`, `writes` |
//! | the merge | `merge`, `merged`, `settle`; nodes that come and go: `sweep`, `forgotten` |
//! | who has a name, and why | `rules`, `versions`, `aliases`, `conflicts`, `labels`, `owners`; `clock` and `early` for what is dated ahead |
//! | shares with readers | `sealed`, `audience`, `private` |
//! | how much is kept | `budget` |
//! | what is looked at | `view`, `dir`, `peers`, `change`, `found_again` |
//! | what rows and names are kept in | `orders`, `sorted`, `held` |

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod aliases;
mod apply;
mod audience;
mod budget;
mod change;
mod checked;
mod clock;
mod conflicts;
mod digest;
mod dir;
mod early;
mod facts;
mod forgotten;
mod found_again;
mod held;
mod intake;
mod labels;
mod limits;
mod log;
mod merge;
mod merged;
mod orders;
mod own;
mod owners;
mod peers;
mod private;
mod pull;
mod row;
mod rows;
mod rules;
mod sealed;
mod settle;
mod sorted;
mod staged;
mod sweep;
mod versions;
mod view;
mod writes;

#[cfg(test)]
mod tests;

pub use limits::LIMITS;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use p2pfs_proto::wire::native::record::{READERS_MAX, Record, ShareIndex, SignedHead};
use p2pfs_types::id::NodeId;

pub use audience::{MARKS_MAX, MARKS_MAX_PER_AUTHOR, Mark};
pub use budget::{
    AUTHOR_MAX_BYTES, AUTHOR_MAX_DIRECTORIES, Budgets, Cost, DropCause, Dropped, TOTAL_MAX_BYTES,
    TOTAL_MAX_DIRECTORIES,
};
pub use change::Change;
pub use digest::SetDigest;
pub use forgotten::{FORGOTTEN_MAX, Rank};
pub use found_again::FileNames;
pub use held::{Held, HeldName};
pub use merged::{Content, Owners, Totals};
pub use rules::conflict_name;
pub use versions::{Rule, Version};
pub use view::{Child, Claim, Found, View};
pub use writes::{LogState, LogWrite};

use log::Log;
use merge::Merge;
use row::NodeIndex;

/// The most records in one part of a log.
pub const PART_MAX_RECORDS: usize = 4096;
/// The most bytes in one part, as estimated; one record may go over it.
pub const PART_MAX_BYTES: usize = 1 << 20;
/// The most nodes whose logs or liveness are kept; a further one is refused until one is forgotten.
pub const NODES_MAX: usize = 4096;
/// The most records of one author, tombstones included; a log that claims more is refused whole.
pub const RECORDS_PER_AUTHOR_MAX: usize = 4_000_000;
/// How often in a row one author's log is pulled anew because its digest did not fit, before only
/// a newer head starts it again.
pub const FRESH_PULLS_MAX: u32 = 3;
/// How often in one life this node goes on from a higher epoch; more often means that another
/// node has our key and does the same. Counted anew once that one is gone.
pub const OWN_RECOVERIES_MAX: u32 = 3;
/// Changes kept for [`Catalogue::poll_change`]; more become one [`Change::Everything`].
pub const CHANGES_MAX: usize = 4096;
/// Tombstones that a log may keep whatever its size, before its author compacts it.
pub const TOMBSTONES_MIN: u64 = 1024;
/// Above [`TOMBSTONES_MIN`], one tombstone for so many live records; the older half then ends.
pub const TOMBSTONE_RATIO: u64 = 4;
/// Records whose liveness or removal is worked off by [`Catalogue::set_live`] and its like at
/// once; the rest waits for [`Catalogue::advance`].
pub const SWEEP_STEP_RECORDS: usize = PART_MAX_RECORDS;
/// How far a version's time may be ahead of this node's clock before the version waits until its
/// time comes.
pub const EARLY_TOLERANCE_SECONDS: i64 = 60;
/// How far the own sequence jumps at a restart, so that a step that was announced but not
/// persisted is never numbered again: far more steps than can be made between two writes.
pub const RESTART_GAP: u64 = 1 << 32;

/// A stretch of one author's log, as it travels (the frame compresses the records).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPart {
    /// What the author vouches for, as known to whoever answers.
    pub head: SignedHead,
    /// The receiver must start this log anew: the records begin at the first.
    pub fresh: bool,
    /// In ascending sequence; at most [`PART_MAX_RECORDS`].
    pub records: Vec<Record>,
    /// Whether these are the last up to the head.
    pub last: bool,
}

/// Which part of whose log to ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Whose log.
    pub author: NodeId,
    /// Which life of it `after` counts in.
    pub epoch: u64,
    /// The last sequence that we have; 0 asks for the whole log.
    pub after: u64,
}

/// What a head told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOutcome {
    /// Nothing new.
    Known,
    /// There is more: ask any node that has it.
    Pull(Pull),
    /// The same author vouched for two different logs under one number: its key was copied.
    CopiedKey {
        /// Whose key.
        author: NodeId,
    },
    /// The head is our own, of a log that we do not remember: call
    /// [`Catalogue::recover_own`] with this epoch.
    OwnStateLost {
        /// The epoch of the head that was heard.
        epoch: u64,
    },
    /// Over [`NODES_MAX`] or [`RECORDS_PER_AUTHOR_MAX`]; nothing was kept.
    Refused(CatalogueError),
}

/// What became of a part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Taken; the log is not complete yet.
    More(Pull),
    /// The log is as its head says.
    Complete,
    /// What came did not fit its head, and nothing of it stays. Ask again, from another node if
    /// there is one; none where [`FRESH_PULLS_MAX`] were in vain.
    Mismatch {
        /// What to ask for.
        retry: Option<Pull>,
    },
    /// The log was compacted beyond what we had; nothing was taken. Ask for the whole.
    Compacted(Pull),
    /// It is over a budget and was dropped: see [`Catalogue::poll_dropped`].
    OverBudget,
}

/// Why a part or head was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The sender is at fault: a part speaks for another author than was asked.
    #[error("a part of another node's log than the one asked for")]
    WrongAuthor,
    /// The sender is at fault: sequences are not ascending, or outside what the head covers.
    #[error("the records of a log part are out of order")]
    BadOrder,
    /// The sender is at fault: over [`PART_MAX_RECORDS`].
    #[error("a log part of {count} records is over the limit of {PART_MAX_RECORDS}")]
    PartTooLong {
        /// How many came.
        count: usize,
    },
    /// The sender is at fault: a record's fact is one that a log cannot hold.
    #[error("a record has a name, a time, a size or a link that cannot be")]
    BadFact,
    /// Nobody is at fault: the sender knows less than an earlier one; ask another.
    #[error("the log part is older than what is known already")]
    Stale,
    /// The author's log is over [`RECORDS_PER_AUTHOR_MAX`]; retrying is of no use.
    #[error("a log of {count} records is over the limit of {RECORDS_PER_AUTHOR_MAX}")]
    TooManyRecords {
        /// How many it has.
        count: u64,
    },
    /// This node's own names are at [`AUTHOR_MAX_BYTES`] or [`AUTHOR_MAX_DIRECTORIES`]: others
    /// would drop them all.
    #[error("the names of this node are over the limit that others hold it to")]
    OverBudget,
    /// Over [`READERS_MAX`], or all numbers for lists of readers are in use.
    #[error("a share has at most {READERS_MAX} readers")]
    TooManyReaders,
    /// Over [`NODES_MAX`]; works again once a node was forgotten.
    #[error("more than {NODES_MAX} nodes are known")]
    TooManyNodes,
}

/// The logs of all nodes and their merge. One thread owns it; views are for everyone.
pub struct Catalogue {
    me: NodeIndex,
    indexes: HashMap<NodeId, NodeIndex>,
    /// In a fixed order, so that what is told to others is the same in each run from one seed.
    logs: BTreeMap<NodeIndex, Log>,
    merge: Merge,
    recoveries: u32,
    published: Arc<View>,
    /// Nodes of which nothing is to be stored any more.
    forgotten: Vec<NodeId>,
    /// Up to which rank of its heads a node's log is not taken again; no log is here of these.
    forgotten_to: BTreeMap<NodeId, Rank>,
    budgets: Budgets,
    given_way: budget::GivenWay,
    /// Under which number this node speaks of those of its shares that have readers, or had.
    numbers: BTreeMap<ShareIndex, ShareIndex>,
    /// How far the own log is said again under other numbers.
    restating: Option<u64>,
    intakes: intake::Intakes,
}
