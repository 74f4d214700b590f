//! Checks a received log against its head before any of it is applied.
//!
//! A sender of a wrong log then cannot remove names that were verified before, and cannot charge an
//! author for records that the author never wrote. Only a log that arrived whole can be checked in
//! advance. A log that arrived in several stretches (see `staged`) is compared with its head after
//! it was applied.

use std::collections::{BTreeSet, HashMap};

use super::digest::SetDigest;
use super::facts::check_fact;
use super::log::Log;
use super::logs::NodeLogs;
use super::row::{NO_SHARE, NodeIndex};
use super::row_facts::fact_of;
use super::{CatalogueError, LogPart, PART_MAX_RECORDS, Pull, RECORDS_PER_AUTHOR_MAX};
use p2pfs_proto::wire::native::record::{Fact, Head, Record};
use p2pfs_types::path::SharedPath;

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

    /// Adds the next records to the sum of a log, for about `left` steps. Returns whether the sum
    /// matches the head, or `None` if records are left to add.
    pub(crate) fn add_next(
        &mut self,
        logs: &NodeLogs,
        (index, is_anew): (NodeIndex, bool),
        (records, head): (&[Record], &Head),
        left: &mut usize,
    ) -> Option<bool> {
        while *left > 0 {
            let Some(Record { fact, .. }) = records.get(self.looked_at) else {
                return Some(self.fits(head));
            };
            let earlier = self.last_of.insert(subject_of(fact), self.looked_at);
            if let Some(earlier) = earlier {
                self.superseded.insert(earlier);
                self.remove(&records[earlier].fact);
            } else if !is_anew && let Some(said) = said_before(logs, index, fact) {
                self.remove(&said);
            }
            self.add(fact);
            self.looked_at += 1;
            *left = left.saturating_sub(if is_anew { 1 } else { steps_of(fact) });
        }
        None
    }

    /// Returns whether a later record replaces the record with this index.
    pub(crate) fn is_superseded(&self, record: usize) -> bool {
        self.superseded.contains(&record)
    }
}

/// Returns the number of steps that a record can cost.
pub(super) fn steps_of(fact: &Fact) -> usize {
    match fact {
        Fact::Entry { path, .. } | Fact::Removed { path, .. } | Fact::Gone { path, .. } => {
            path.components().count()
        }
        _ => 1,
    }
}

fn is_tombstone(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Removed { .. }
            | Fact::HaveNot { .. }
            | Fact::SealedRemoved { .. }
            | Fact::Terms { open: false, .. }
    ) || matches!(fact, Fact::Keeps(offer) if offer.paths.is_empty())
}

fn subject_of(fact: &Fact) -> Subject {
    let (kind, number, text): (u8, u16, &[u8]) = match fact {
        Fact::Entry { share, path, .. } | Fact::Removed { share, path } => {
            (0, share.0, path.as_bytes())
        }
        Fact::Gone { path, .. } => (0, NO_SHARE.0, path.as_bytes()),
        Fact::Terms { share, .. } => (3, share.0, &[]),
        Fact::Keeps(_) => (3, NO_SHARE.0, &[]),
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

/// Returns the fact that a log has now about the name or content of another fact.
fn said_before(logs: &NodeLogs, index: NodeIndex, fact: &Fact) -> Option<Fact> {
    let merge = &logs.merge;
    let row_at = |path: &SharedPath, share| {
        let dir = merge.state().find_dir(&path.parent()?)?;
        let dir = merge.state().dir(dir);
        dir.row_of(path.file_name(), index, share).cloned()
    };
    let row = match fact {
        Fact::Entry { share, path, .. } | Fact::Removed { share, path } => row_at(path, *share),
        Fact::Gone { path, .. } => row_at(path, NO_SHARE),
        Fact::Terms { share, .. } => merge.state().terms.get(&(index, *share)).cloned(),
        Fact::Keeps(_) => merge.state().terms.get(&(index, NO_SHARE)).cloned(),
        Fact::Have { hash, .. } | Fact::HaveNot { hash } => {
            merge.state().contents.cached_row(*hash, index)
        }
        Fact::Readers { number, .. } => merge.sealed.row_sealed_as(index, *number, &[]),
        Fact::Sealed { number, path, .. } | Fact::SealedRemoved { number, path } => {
            merge.sealed.row_sealed_as(index, *number, path)
        }
    }?;
    let own = logs.logs.get(&index)?.rows.get(row.sequence)?;
    own.is(&row).then(|| fact_of(merge.state(), &row))
}

/// Checks that a part is well-formed: its length, its sequences and each fact.
pub(super) fn check_records(part: &LogPart) -> Result<(), CatalogueError> {
    let (head, records) = (&part.head.head, &part.records);
    if records.len() > PART_MAX_RECORDS {
        return Err(CatalogueError::PartTooLong {
            count: records.len(),
        });
    }
    let ascending = records.is_sorted_by(|a, b| a.sequence < b.sequence);
    let within = records
        .last()
        .is_none_or(|record| record.sequence <= head.sequence);
    let some = part.last || !records.is_empty();
    if !ascending || !within || !some || records.first().is_some_and(|r| r.sequence == 0) {
        return Err(CatalogueError::BadOrder);
    }
    records
        .iter()
        .try_for_each(|Record { fact, .. }| check_fact(fact))
}

/// Checks that a part continues the log here, or begins it anew. If the part continues the log, but
/// [`Log::pull_to`] finds that only the whole log is safe, returns the pull of the whole log.
pub(super) fn check_place(log: &Log, part: &LogPart) -> Result<Option<Pull>, CatalogueError> {
    let (head, reach) = (&part.head.head, log.reach());
    let verified = log
        .head
        .as_ref()
        .map(|signed| signed.head.rank())
        .unwrap_or_default();
    let is_known = log.head.as_ref().is_some_and(|known| known.head == *head);
    // The same head was verified already.
    let is_no_news = part.fresh && log.pull.complete && is_known;
    if is_no_news || head.rank() < verified.max((reach.epoch, reach.base)) {
        return Err(CatalogueError::Stale);
    }
    let held = if part.fresh { 0 } else { reach.records };
    if held + part.records.len() > RECORDS_PER_AUTHOR_MAX {
        return Err(CatalogueError::TooManyRecords {
            count: (held + part.records.len()) as u64,
        });
    }
    if part.fresh {
        return Ok(None);
    }
    if log.pull_to(head.author, head).after == 0 {
        return Ok(Some(Pull {
            author: head.author,
            epoch: head.epoch,
            after: 0,
        }));
    }
    if part
        .records
        .first()
        .is_some_and(|record| record.sequence <= reach.sequence)
    {
        // The answer is late: another node sent the same records in the meantime.
        return Err(CatalogueError::Stale);
    }
    Ok(None)
}
