//! Reads of other nodes' files that failed: their reasons, and how many there were of each.
//!
//! Every failed read is counted. Not every one is an event, because a program that reads a file
//! without a holder has dozens of reads in flight, and the kernel repeats each of them page by page.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use p2pfs_fs::FsError;
use p2pfs_types::digest::ContentHash;

/// How long further failed reads of the same content for the same reason are no events.
const TOLD_AGAIN: Duration = Duration::from_secs(3);
/// Maximum contents and reasons that are remembered for [`TOLD_AGAIN`]. While there are so many,
/// further failures are only counted. The log of events is not longer than this.
const TOLD_MAX: usize = super::events::EVENTS_KEPT;

/// Declares the reasons, one row each.
macro_rules! failures {
    ($($variant:ident $name:literal $sentence:literal;)*) => {
        /// Why a read of another node's file failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReadFailure {
            $(#[doc = $sentence] $variant,)*
        }

        impl ReadFailure {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name in the metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

failures! {
    NoHolder "no-holder" "No holder of the bytes is reachable.";
    Deadline "deadline" "The bytes did not arrive before the deadline.";
    WrongBytes "wrong-bytes" "Every node that answered sent wrong bytes.";
    Gone "gone" "No node has the version any longer.";
    Disk "disk" "A disk of this node failed.";
    Limit "limit" "A limit of open files or waiting reads of this node was reached.";
}

impl ReadFailure {
    /// Returns the reason of a failed read. Returns `None` if the reader or the end of the node
    /// ended the read, or if a policy refused it.
    pub(super) fn of(error: FsError) -> Option<Self> {
        match error {
            FsError::Unreachable => Some(Self::NoHolder),
            FsError::DeadlinePassed => Some(Self::Deadline),
            FsError::Unverified => Some(Self::WrongBytes),
            FsError::Gone => Some(Self::Gone),
            FsError::Disk => Some(Self::Disk),
            FsError::TooManyHandles => Some(Self::Limit),
            _ => None,
        }
    }

    /// Returns the errno that the reader got.
    pub fn errno(self) -> i32 {
        let error = match self {
            Self::NoHolder => FsError::Unreachable,
            Self::Deadline => FsError::DeadlinePassed,
            Self::WrongBytes => FsError::Unverified,
            Self::Gone => FsError::Gone,
            Self::Disk => FsError::Disk,
            Self::Limit => FsError::TooManyHandles,
        };
        error.errno()
    }
}

/// The failed reads since the start.
#[derive(Debug, Default)]
pub(super) struct FailedReads {
    counts: BTreeMap<ReadFailure, u64>,
    told: ToldFailures,
}

/// The contents and reasons of the failures that were events within [`TOLD_AGAIN`]; at most
/// [`TOLD_MAX`].
#[derive(Debug, Default)]
struct ToldFailures {
    known: HashSet<(ContentHash, ReadFailure)>,
    /// The members of `known` in the order of their times.
    queue: VecDeque<(Instant, (ContentHash, ReadFailure))>,
}

impl ToldFailures {
    /// Remembers a failure, unless it is known or there is no room. Returns whether it did.
    fn insert(&mut self, failure: (ContentHash, ReadFailure), now: Instant) -> bool {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= TOLD_AGAIN;
        while let Some((_, old)) = self.queue.pop_front_if(|(at, _)| is_old(*at)) {
            self.known.remove(&old);
        }
        let is_told = self.known.len() < TOLD_MAX && self.known.insert(failure);
        if is_told {
            self.queue.push_back((now, failure));
        }
        is_told
    }
}

impl FailedReads {
    /// Counts a failed read. Returns whether it is an event.
    pub(super) fn record(&mut self, hash: ContentHash, why: ReadFailure, now: Instant) -> bool {
        *self.counts.entry(why).or_default() += 1;
        self.told.insert((hash, why), now)
    }

    /// Returns the number of failed reads by reason, for all reasons.
    pub(super) fn counts(&self) -> Vec<(ReadFailure, u64)> {
        let count = |why: &ReadFailure| self.counts.get(why).copied().unwrap_or(0);
        let all = ReadFailure::ALL.iter();
        all.map(|why| (*why, count(why))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_are_counted_and_are_one_event() {
        let (mut failed, now) = (FailedReads::default(), Instant::now());
        let hash = ContentHash::of(b"file");
        let mut record = |why, later_s| {
            let at = now + Duration::from_secs(later_s);
            failed.record(hash, why, at)
        };
        assert!(record(ReadFailure::NoHolder, 0));
        assert!(!record(ReadFailure::NoHolder, 1));
        assert!(record(ReadFailure::Gone, 1), "for another reason");
        assert!(record(ReadFailure::NoHolder, 3));
        let counts: Vec<u64> = failed
            .counts()
            .into_iter()
            .map(|(_, count)| count)
            .collect();
        assert_eq!(counts, [3, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn failures_of_many_files_are_counted_and_remembered_up_to_a_limit() {
        let (mut failed, now) = (FailedReads::default(), Instant::now());
        let mut record = |number: usize, at| {
            let hash = ContentHash::of(&number.to_ne_bytes());
            failed.record(hash, ReadFailure::Deadline, at)
        };
        let events = (0..2 * TOLD_MAX).filter(|number| record(*number, now));
        assert_eq!(events.count(), TOLD_MAX);
        assert!(record(2 * TOLD_MAX, now + TOLD_AGAIN), "soon there is room");
        assert_eq!((failed.told.known.len(), failed.told.queue.len()), (1, 1));
        let counted = failed.counts[&ReadFailure::Deadline];
        assert_eq!(counted, 2 * TOLD_MAX as u64 + 1);
    }

    #[test]
    fn reasons_of_readers_and_policies_are_no_failures() {
        for error in [FsError::Interrupted, FsError::Stopping, FsError::Denied] {
            assert_eq!(ReadFailure::of(error), None);
        }
        let limit = ReadFailure::of(FsError::TooManyHandles);
        assert_eq!(limit, Some(ReadFailure::Limit));
        let errno = |why: &ReadFailure| why.errno();
        let errnos: Vec<i32> = ReadFailure::ALL.iter().map(errno).collect();
        let [eio, estale, enfile] =
            [FsError::Fault, FsError::Gone, FsError::TooManyHandles].map(FsError::errno);
        assert_eq!(errnos, [eio, eio, eio, estale, eio, enfile]);
    }
}
