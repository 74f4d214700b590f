//! Heads and parts of logs: pulls of missing records, and answers to other nodes.
//!
//! A part consists of the records above a sequence, in order, whether the requesting node has none,
//! some or most of the log. A suffix and a snapshot are therefore one mechanism. A log may change
//! between two parts. A record that was superseded in the meantime arrives again with a higher
//! sequence, and so does the tombstone of a removed record. The tombstone is missing only if the
//! log was compacted beyond it, and the floor in the part's head shows that.

use super::log::Log;
use super::row::NodeIndex;
use super::{
    Catalogue, CatalogueError, FRESH_PULLS_MAX, HeadOutcome, LogPart, PART_MAX_BYTES,
    PART_MAX_RECORDS, RECORDS_PER_AUTHOR_MAX,
};
use p2pfs_proto::wire::native::record::{
    EntitledReader, Fact, Head, Kind, Record, Sender, SignedHead,
};
use p2pfs_types::id::NodeId;

/// Estimated bytes of a record without its path, hash and target. The estimate is generous.
const RECORD_BASE_BYTES: usize = 40;

/// Returns the estimated bytes of a fact in a part.
pub(super) fn estimated_bytes(fact: &Fact) -> usize {
    RECORD_BASE_BYTES
        + match fact {
            Fact::Entry { path, entry, .. } => {
                path.as_bytes().len()
                    + match &entry.kind {
                        Kind::File { .. } => 40,
                        Kind::Directory => 0,
                        Kind::Symlink { target } => target.len(),
                    }
                    + match &entry.sent_by {
                        Some(Sender::Node(_)) => 40,
                        Some(Sender::Peer(name)) => name.len(),
                        None => 0,
                    }
            }
            Fact::Removed { path, .. } => path.as_bytes().len(),
            Fact::Have { .. } | Fact::HaveNot { .. } => 32,
            Fact::Readers { readers, .. } => readers.len() * size_of::<EntitledReader>(),
            Fact::Sealed { path, entry, .. } => path.len() + entry.len(),
            Fact::SealedRemoved { path, .. } => path.len(),
        }
}

impl Catalogue {
    /// Processes a head. The caller has checked its signature.
    pub fn handle_head(&mut self, signed: &SignedHead) -> HeadOutcome {
        let head = &signed.head;
        if head.count > RECORDS_PER_AUTHOR_MAX as u64 {
            return HeadOutcome::Refused(CatalogueError::TooManyRecords { count: head.count });
        }
        if self.is_forgotten(head) {
            return HeadOutcome::Known;
        }
        let index = match self.admit(head.author) {
            Ok(index) => index,
            Err(error) => return HeadOutcome::Refused(error),
        };
        if index == self.me {
            return self.handle_own_head(head);
        }
        let log = self.logs.entry(index).or_default();
        if log.pull.yielded_to_live {
            return HeadOutcome::Known;
        }
        let verified = log.head.as_ref().map(|signed| &signed.head);
        for known in verified.into_iter().chain(&log.pull.wanted) {
            if known.rank() == head.rank() && known.digest != head.digest {
                return HeadOutcome::CopiedKey {
                    author: head.author,
                };
            }
        }
        let verified = verified.map(Head::rank).unwrap_or_default();
        let wanted = log.pull.wanted.as_ref().map(Head::rank).unwrap_or_default();
        if head.rank() < wanted || head.rank() <= verified {
            return HeadOutcome::Known;
        }
        if head.rank() > wanted {
            log.pull.wanted = Some(head.clone());
            log.pull.failures = 0;
        }
        if log.pull.failures > FRESH_PULLS_MAX {
            return HeadOutcome::Known;
        }
        HeadOutcome::Pull(log.pull_to(head.author, head))
    }

    fn handle_own_head(&mut self, head: &Head) -> HeadOutcome {
        let own = self.own_head();
        if head.rank() < own.rank() || *head == own {
            return HeadOutcome::Known;
        }
        let copied = head.rank() == own.rank() && head.digest != own.digest;
        if copied || !self.can_recover() {
            return HeadOutcome::CopiedKey {
                author: head.author,
            };
        }
        if head.rank() == own.rank() {
            return HeadOutcome::Known;
        }
        HeadOutcome::OwnStateLost { epoch: head.epoch }
    }

    /// Answers a pull for any author with a complete log here. Returns `None` if the log held here
    /// ends before `after`. Also returns `None` for the own log while its head is unsigned: see
    /// [`Catalogue::sign_own`].
    pub fn log_part(&self, author: &NodeId, epoch: u64, after: u64) -> Option<LogPart> {
        self.log_part_within(author, epoch, after, PART_MAX_RECORDS)
    }

    pub(super) fn log_part_within(
        &self,
        author: &NodeId,
        epoch: u64,
        after: u64,
        limit: usize,
    ) -> Option<LogPart> {
        let log = self.logs.get(&self.index_of(author)?)?;
        let head = log.head.as_ref().filter(|_| log.pull.complete)?;
        let current = head.head.rank() == (log.epoch, log.sequence);
        let fresh = epoch != log.epoch || after == 0;
        if !current || (!fresh && after > log.sequence) {
            return None;
        }
        let (records, last) = self.records_after(log, if fresh { 0 } else { after }, limit);
        Some(LogPart {
            head: head.clone(),
            fresh,
            records,
            last,
        })
    }

    fn records_after(&self, log: &Log, after: u64, limit: usize) -> (Vec<Record>, bool) {
        let mut rows = log.rows.after(after).peekable();
        let (mut records, mut part_bytes) = (Vec::new(), 0);
        while let Some(row) = rows.peek() {
            let fact = self.fact_of(row);
            let fact_bytes = estimated_bytes(&fact);
            let full = records.len() == limit
                || (part_bytes + fact_bytes > PART_MAX_BYTES && !records.is_empty());
            if full {
                return (records, false);
            }
            part_bytes += fact_bytes;
            records.push(Record {
                sequence: row.sequence,
                fact,
            });
            rows.next();
        }
        (records, true)
    }

    /// Returns the signed heads of all logs that are complete here, for an exchange with another
    /// node.
    pub fn heads(&self) -> Vec<SignedHead> {
        let complete = self.logs.values().filter(|log| log.pull.complete);
        complete.filter_map(|log| log.head.clone()).collect()
    }

    /// Returns the other nodes with any part of a log here, including staged parts.
    pub fn authors(&self) -> Vec<NodeId> {
        let others = self.logs.iter();
        let others = others.filter(|(index, log)| **index != self.me && !log.forgotten);
        let id = |(index, _): (&NodeIndex, &Log)| self.merge.state.node(*index).id;
        others.map(id).collect()
    }

    /// Returns the signed head of one log that is complete here.
    pub fn head_of(&self, author: &NodeId) -> Option<&SignedHead> {
        let log = self.logs.get(&self.index_of(author)?)?;
        log.head.as_ref().filter(|_| log.pull.complete)
    }

    /// Returns the index of a known node.
    pub(super) fn index_of(&self, node: &NodeId) -> Option<NodeIndex> {
        self.indexes.get(node).copied()
    }
}
