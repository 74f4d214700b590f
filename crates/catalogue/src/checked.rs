//! Checks a received log against its head before any of it is applied.
//!
//! A node that sends a wrong log therefore cannot remove names that were verified before, and
//! cannot charge an author for records that the author never wrote. Only a log that arrived whole
//! can be checked in advance. A log that arrived in several stretches (see `staged`) is compared
//! with its head after it was applied.

use std::collections::{BTreeSet, HashMap};

use super::digest::SetDigest;
use super::log::Log;
use super::row::NodeIndex;
use super::{Applied, Catalogue, FRESH_PULLS_MAX, Pull};
use p2pfs_proto::wire::native::record::{Fact, Head, Record};

/// Hash of a name or a content.
type Subject = [u8; 16];

/// The count and digest of a log with the received records, as far as these were processed.
#[derive(Default)]
pub(super) struct LogSum {
    pub digest: SetDigest,
    count: u64,
    /// Index of the last record about each name and content.
    last_of: HashMap<Subject, usize>,
    /// Indexes of the records that a later record replaces.
    superseded: BTreeSet<usize>,
    looked_at: usize,
}

impl LogSum {
    /// Returns the sum of a log that is being continued.
    pub(crate) fn of(log: &Log) -> Self {
        Self {
            digest: log.totals.digest.clone(),
            count: log.totals.count,
            ..Self::default()
        }
    }

    fn add(&mut self, fact: &Fact) {
        if !is_tombstone(fact) {
            self.digest.add(fact);
            self.count += 1;
        }
    }

    fn remove(&mut self, fact: &Fact) {
        if !is_tombstone(fact) {
            self.digest.remove(fact);
            self.count = self.count.saturating_sub(1);
        }
    }

    fn fits(&self, head: &Head) -> bool {
        self.count == head.count && self.digest.digest() == head.digest
    }

    /// Returns whether a later record replaces the record with this index.
    pub(crate) fn is_superseded(&self, record: usize) -> bool {
        self.superseded.contains(&record)
    }
}

/// Returns the number of steps that a record can cost.
pub(super) fn steps_of(fact: &Fact) -> usize {
    match fact {
        Fact::Entry { path, .. } | Fact::Removed { path, .. } => path.components().count(),
        _ => 1,
    }
}

fn is_tombstone(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Removed { .. } | Fact::HaveNot { .. } | Fact::SealedRemoved { .. }
    )
}

fn subject_of(fact: &Fact) -> Subject {
    let (kind, number, text): (u8, u16, &[u8]) = match fact {
        Fact::Entry { share, path, .. } | Fact::Removed { share, path } => {
            (0, share.0, path.as_bytes())
        }
        Fact::Have { hash, .. } | Fact::HaveNot { hash } => (1, 0, hash.as_bytes()),
        Fact::Readers { number, .. } => (2, number.0, &[]),
        Fact::Sealed { number, path, .. } | Fact::SealedRemoved { number, path } => {
            (2, number.0, path)
        }
    };
    let subject = [&[kind][..], &number.to_le_bytes(), text].concat();
    let hash = blake3::hash(&subject);
    *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
}

impl Catalogue {
    /// Adds the next records to the sum of a log, for about `left` steps. Returns whether the sum
    /// matches the head, once all records were added.
    pub(super) fn sum_up(
        &self,
        (index, is_anew): (NodeIndex, bool),
        (records, head): (&[Record], &Head),
        sum: &mut LogSum,
        left: &mut usize,
    ) -> Option<bool> {
        while *left > 0 {
            let Some(Record { fact, .. }) = records.get(sum.looked_at) else {
                return Some(sum.fits(head));
            };
            let earlier = sum.last_of.insert(subject_of(fact), sum.looked_at);
            if let Some(earlier) = earlier {
                sum.superseded.insert(earlier);
                sum.remove(&records[earlier].fact);
            } else if !is_anew && let Some(said) = self.said_before(index, fact) {
                sum.remove(&said);
            }
            sum.add(fact);
            sum.looked_at += 1;
            *left = left.saturating_sub(if is_anew { 1 } else { steps_of(fact) });
        }
        None
    }

    /// Returns the fact that the log has now about the same name or content.
    fn said_before(&self, index: NodeIndex, fact: &Fact) -> Option<Fact> {
        let row = match fact {
            Fact::Entry { share, path, .. } | Fact::Removed { share, path } => {
                let dir = self.merge.state.find_dir(&path.parent()?)?;
                self.merge.named_row(dir, path.file_name(), index, *share)
            }
            Fact::Have { hash, .. } | Fact::HaveNot { hash } => self.merge.cached_row(*hash, index),
            Fact::Readers { number, .. } => self.merge.row_sealed_as(index, *number, &[]),
            Fact::Sealed { number, path, .. } | Fact::SealedRemoved { number, path } => {
                self.merge.row_sealed_as(index, *number, path)
            }
        }?;
        let own = self.logs.get(&index)?.rows.get(row.sequence)?;
        own.is(&row).then(|| self.fact_of(&row))
    }

    /// Counts a mismatch between a log and its head. A new pull of the log is requested up to
    /// [`FRESH_PULLS_MAX`] times.
    pub(super) fn refuse(&mut self, index: NodeIndex, head: &Head) -> Applied {
        let log = self.log_mut(index);
        log.pull.failures += 1;
        let again = log.pull.failures <= FRESH_PULLS_MAX;
        let pull = Pull {
            author: head.author,
            epoch: log.pull.wanted.get_or_insert_with(|| head.clone()).epoch,
            after: 0,
        };
        Applied::Mismatch {
            retry: again.then_some(pull),
        }
    }
}
