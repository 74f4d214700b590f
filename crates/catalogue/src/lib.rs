//! Merges the logs of all nodes into the one namespace that the mount shows.
//!
//! The crate owns the logs of all nodes and their set digests. Each node is the only writer of its
//! own log. The crate also owns the rules that rank the versions of a path (`rules` lists them in
//! order), and the immutable [`View`] that the filesystem's threads read. It is pure: it uses no
//! socket and no file, and reads no clock. Its owner (the thread that calls it, not the owner of a
//! path) feeds it facts, signed heads and parts of logs, and tells it which nodes are live. That
//! thread takes views, changes and pending writes from it.
//!
//! The catalogue never checks a signature, because its owner has checked each head before. It
//! returns the pulls that are needed, and its owner decides when to send them.
//!
//! Once [`Catalogue::advance`] returns `false`, the listed versions are a function of the logs held
//! here, the live nodes, the owners of paths, the clock and the marks of unserved contents. The
//! order in which facts arrived does not matter. `tests::model` compares the merge with a merge
//! from scratch.
//!
//! A call that returns an error has added no record, unless the method says otherwise.
//!
//! | what | files |
//! |---|---|
//! | the interface | `catalogue` |
//! | one node's log | `log`, `rows`, `row`, `facts`, `digest`; this node's own: `own`, `own_readers` |
//! | all logs and their rows in the merge | `logs`, `row_facts`, `forgotten` |
//! | transfer and storage of logs | `intake`, `staged`, `checked`, `writes` |
//! | the merge | `merge`, `merged`, `content_index`, `tracked`, `settle` |
//! | which version has a name, and why | `rules`, `versions`, `owners`, `early`, `unserved`, `withheld` |
//! | names of the other versions | `aliases`, `conflicts`, `labels` |
//! | shares with readers | `sealed`, `audience`, `private` |
//! | limits of memory | `budget` |
//! | queries | `view`, `dir`, `contents`, `peers`, `change`; for writing: `writing` |
//! | containers of rows and names | `orders`, `sorted`, `held` |

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod aliases;
mod audience;
mod budget;
mod catalogue;
mod change;
mod checked;
mod conflicts;
mod content_index;
mod contents;
mod digest;
mod dir;
mod early;
mod facts;
mod forgotten;
mod held;
mod intake;
mod labels;
mod limits;
mod log;
mod logs;
mod merge;
mod merged;
mod orders;
mod own;
mod own_readers;
mod owners;
mod peers;
mod private;
mod row;
mod row_facts;
mod rows;
mod rules;
#[cfg(any(test, feature = "test-support"))]
pub mod sample;
mod sealed;
mod settle;
mod sorted;
mod staged;
mod tracked;
mod unserved;
mod versions;
mod view;
mod withheld;
mod writes;
mod writing;

#[cfg(test)]
mod tests;

pub use limits::LIMITS;

use p2pfs_proto::wire::native::record::{READERS_MAX, Record, SignedHead};
use p2pfs_types::id::NodeId;

pub use audience::{MARKS_MAX, MARKS_MAX_PER_AUTHOR, Mark};
pub use budget::{
    AUTHOR_MAX_BYTES, AUTHOR_MAX_DIRECTORIES, AUTHOR_MAX_REPLACED, Budgets, Cost, DropCause,
    Dropped, TOTAL_MAX_BYTES, TOTAL_MAX_DIRECTORIES, TOTAL_MAX_REPLACED,
};
pub use catalogue::Catalogue;
pub use change::Change;
pub use contents::{Claim, ContentQueries, FileNames};
pub use digest::SetDigest;
pub use forgotten::{FORGOTTEN_MAX, Rank};
pub use held::{NameHandle, RecordHandle};
pub use intake::{IntakeQueue, LogIntake};
pub use logs::NodeLogs;
pub use merged::{ContentOfHash, Owners, Totals};
pub use own::{OwnLog, OwnRecords};
pub use own_readers::ReaderLists;
pub use owners::{PathOwners, hidden_by_owner};
pub use peers::PeerFiles;
pub use rules::{Rule, conflict_name};
pub use unserved::{UNSERVED_MAX, UNSERVED_PER_AUTHOR, UnservedContents};
pub use versions::{NameAuthors, Supersession, Version};
pub use view::{Child, Found, Keeper, View};
pub use withheld::{
    Portion, WITHHELD_NAMES_MAX, WITHHELD_NAMES_PER_AUTHOR, WithheldVersion, Withholding,
};
pub use writes::{CatalogueStorage, LogState, LogWrite};
pub use writing::{ConflictName, ContentsAt, OwnFile, Standing};

/// Maximum records in one part of a log.
pub const PART_MAX_RECORDS: usize = 4096;
/// Maximum estimated bytes in one part that this node sends. A single record may exceed it.
pub const PART_MAX_BYTES: usize = 1 << 20;
/// Maximum nodes with a log or a known liveness. A further node that is live displaces one that is
/// not. Any other is refused until one is forgotten.
pub const NODES_MAX: usize = 4096;
/// Maximum nodes that were never live here and have a log only because other members told of them.
/// Further ones are refused until they are live.
pub const TOLD_NODES_MAX: usize = 1024;
/// Maximum of these nodes that one member told of.
pub const TOLD_NODES_PER_TELLER_MAX: usize = 256;
/// Maximum records of one author, including tombstones. A head that states more is refused, and so
/// is a part with which the log would have more.
pub const RECORDS_PER_AUTHOR_MAX: usize = 4_000_000;
/// Maximum consecutive retries of the pull of one author's log after the log did not match its
/// head. Each retry pulls the whole log. After the last one only a newer head starts another pull.
pub const FRESH_PULLS_MAX: u32 = 3;
/// Maximum times that this node moves to a higher epoch in one run. If a newer head of this node
/// arrives after that, another node seems to have a copy of the key. [`OwnLog::forget_recoveries`]
/// resets the count.
pub const OWN_RECOVERIES_MAX: u32 = 3;
/// Maximum changes that wait for [`Catalogue::poll_change`]. Above it they become one
/// [`Change::Everything`].
pub const CHANGES_MAX: usize = 4096;
/// Tombstones that a log of any size may keep before its author compacts it.
pub const TOMBSTONES_MIN: u64 = 1024;
/// Number of other records for each tombstone that a log may keep. If a log has more tombstones
/// than that and more than [`TOMBSTONES_MIN`], its author drops about the older half of them.
pub const TOMBSTONE_RATIO: u64 = 4;
/// About how many records a call such as [`Catalogue::set_owners`] processes at once. The rest
/// waits for [`Catalogue::advance`].
pub const SWEEP_STEP_RECORDS: usize = PART_MAX_RECORDS;
/// Seconds that a version time may be ahead of this node's clock. A version further ahead is not
/// listed until the clock has come that near.
pub const EARLY_TOLERANCE_SECONDS: i64 = 60;
/// Increase of the own sequence at a restart. It exceeds the number of records that can be added
/// between two writes, so a sequence that was announced but not stored is never used again.
pub const RESTART_GAP: u64 = 1 << 32;

/// A stretch of one author's log in its wire form. The frame compresses the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPart {
    /// The author's signed head, as the answering node knows it.
    pub head: SignedHead,
    /// Whether the receiver must restart this log. The records then begin with the first one of the
    /// log.
    pub fresh: bool,
    /// Records in ascending sequence, at most [`PART_MAX_RECORDS`].
    pub records: Vec<Record>,
    /// Whether these are the last records up to the head.
    pub last: bool,
}

/// A request for the next part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The author of the log.
    pub author: NodeId,
    /// The epoch of the log in which `after` counts.
    pub epoch: u64,
    /// The last sequence that the requesting node has. 0 requests the whole log.
    pub after: u64,
}

/// Result of a received head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOutcome {
    /// No pull is needed: the head is not newer than the log here, or the log is not wanted now.
    Known,
    /// The log here is older than the head. Any node with the newer log can answer this pull.
    Pull(Pull),
    /// The key of the author was copied: the author signed two different logs with one epoch and
    /// sequence. For this node's own key, also if another own head arrived after
    /// [`OWN_RECOVERIES_MAX`] recoveries.
    CopiedKey {
        /// The author with the copied key.
        author: NodeId,
    },
    /// The head is this node's own, of a log that it no longer has. Call [`OwnLog::recover`] with
    /// this epoch.
    OwnStateLost {
        /// The epoch of the received head.
        epoch: u64,
    },
    /// The head exceeds [`NODES_MAX`], [`TOLD_NODES_MAX`], [`TOLD_NODES_PER_TELLER_MAX`] or
    /// [`RECORDS_PER_AUTHOR_MAX`]. Nothing was stored.
    Refused(CatalogueError),
}

/// Result of a received part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The part was applied, or waits for further parts. The log needs this pull next.
    More(Pull),
    /// The log matches its head.
    Complete,
    /// The log did not match its head, and none of the received records stays.
    Mismatch {
        /// The pull to retry, preferably with another node. `None` after [`FRESH_PULLS_MAX`]
        /// retries.
        retry: Option<Pull>,
    },
    /// The part is not the beginning of the log, and cannot continue the log here. For example, the
    /// author has compacted the log or begun another epoch. Nothing was applied. The pull requests
    /// the whole log.
    Compacted(Pull),
    /// The log was dropped by a budget (see [`Catalogue::poll_dropped`]) or forgotten.
    OverBudget,
}

/// Reason why a part or a head was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The part belongs to another author than the requested one, or to this node. The sender is at
    /// fault.
    #[error("a part of another node's log than the one asked for")]
    WrongAuthor,
    /// Sequences are not ascending, or outside the range that the head covers, or a part before the
    /// last is empty. The sender is at fault.
    #[error("the records of a log part are out of order")]
    BadOrder,
    /// The part exceeds [`PART_MAX_RECORDS`]. The sender is at fault.
    #[error("a log part of {count} records is over the limit of {PART_MAX_RECORDS}")]
    PartTooLong {
        /// Number of received records.
        count: usize,
    },
    /// A record has a fact that a log may not hold. If the record was received, the sender is at
    /// fault.
    #[error("a record has a name, a time, a size or a link that cannot be")]
    BadFact,
    /// The part has nothing newer than the log here, or its author was forgotten. The sender is not
    /// at fault.
    #[error("the log part is older than what is known already")]
    Stale,
    /// The author's log exceeds [`RECORDS_PER_AUTHOR_MAX`]. A retry does not help.
    #[error("a log of {count} records is over the limit of {RECORDS_PER_AUTHOR_MAX}")]
    TooManyRecords {
        /// Number of records in the log.
        count: u64,
    },
    /// With this record, the own log may need more memory than [`AUTHOR_MAX_BYTES`] at other nodes,
    /// or have more directories than [`AUTHOR_MAX_DIRECTORIES`]. Other nodes would then drop the
    /// whole log.
    #[error("the names of this node are over the limit that others hold it to")]
    OverBudget,
    /// The list, including this node, exceeds [`READERS_MAX`], or all numbers for lists of readers
    /// are in use.
    #[error("a share has at most {READERS_MAX} readers")]
    TooManyReaders,
    /// More than [`NODES_MAX`] nodes, or more than [`TOLD_NODES_MAX`] that were never live. It works
    /// again once a node was forgotten, or the node is live.
    #[error("too many nodes are known")]
    TooManyNodes,
}
