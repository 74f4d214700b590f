//! Applies log parts of other nodes.
//!
//! Each record replaces the author's previous record about the same name or content. A log that
//! arrived whole (see `staged`) is applied only if it matches its head (see `checked`). Otherwise
//! the previous state stays. A log too long for that is listed while it arrives, and is discarded
//! whole if it does not match its head after its last part.

use super::budget::LOOK_RECORDS;
use super::facts::check_fact;
use super::log::Log;
use super::merged::NodeState;
use super::row::{Class, NodeIndex, Row, Stamp};
use super::rows::Rows;
use super::staged::StageResult;
use super::{
    Applied, Catalogue, CatalogueError, FRESH_PULLS_MAX, LogPart, NODES_MAX, PART_MAX_RECORDS,
    Pull, RECORDS_PER_AUTHOR_MAX,
};
use p2pfs_proto::wire::native::record::{Fact, Head, Record, SignedHead};
use p2pfs_types::id::NodeId;

impl Catalogue {
    /// Applies a part of a log that was pulled. The caller has checked the signature of its head.
    ///
    /// # Errors
    /// [`CatalogueError`]. Nothing was applied, and the pull may be retried with another node.
    pub fn apply(&mut self, author: NodeId, part: LogPart) -> Result<Applied, CatalogueError> {
        if let Some(applied) = self.begin_apply(author, part)? {
            return Ok(applied);
        }
        // Discards the outcome of an earlier call.
        self.remove_outcome(&author);
        loop {
            self.take_turn();
            if let Some(applied) = self.remove_outcome(&author) {
                return Ok(applied);
            }
        }
    }

    /// Queues a part of a log for [`Catalogue::take_turn`].
    ///
    /// Returns `None` if the part was queued. [`Catalogue::poll_taken`] then returns its outcome.
    /// Until then, further parts of that author are ignored.
    ///
    /// # Errors
    /// The errors of [`Self::apply`].
    pub fn begin_apply(
        &mut self,
        author: NodeId,
        part: LogPart,
    ) -> Result<Option<Applied>, CatalogueError> {
        let head = &part.head.head;
        if head.author != author || self.index_of(&author) == Some(self.me) {
            return Err(CatalogueError::WrongAuthor);
        }
        check_records(&part)?;
        if self.is_forgotten(head) {
            return Err(CatalogueError::Stale);
        }
        let index = self.admit(author)?;
        if self.intakes.has(index) {
            return Ok(None);
        }
        let log = self.logs.entry(index).or_default();
        log.drop_staged_unless_continued(&part);
        if let Some(pull) = check_place(log, &part)? {
            log.pull.staged = None;
            return Ok(Some(Applied::Compacted(pull)));
        }
        match self.stage(index, part) {
            StageResult::Waits(pull) => Ok(Some(Applied::More(pull))),
            StageResult::Ready { part, base, parts } => {
                self.intakes.push(index, part, base, parts);
                Ok(None)
            }
        }
    }

    /// Applies stored records while they fit the budgets. Returns whether all fitted.
    pub(super) fn apply_records(
        &mut self,
        index: NodeIndex,
        records: impl IntoIterator<Item = Record>,
    ) -> bool {
        for (taken, record) in records.into_iter().enumerate() {
            self.apply_record(index, record.sequence, &record.fact);
            let is_look_due = (taken + 1).is_multiple_of(LOOK_RECORDS);
            if self.enforce_author_budget(index)
                || (is_look_due && self.enforce_total_budget(index))
            {
                return false;
            }
        }
        !self.enforce_total_budget(index)
    }

    /// Restarts a log. Its previous rows stay listed until the new log is complete.
    pub(super) fn begin(&mut self, index: NodeIndex, head: &Head, base: u64) {
        let log = self.log_mut(index);
        let outdated = log.begin(head.epoch);
        log.pull.staging = true;
        log.pull.base = base;
        self.drop_rows(outdated);
    }

    /// Compares a log with its head after the last part.
    pub(super) fn conclude(&mut self, index: NodeIndex, signed: SignedHead) -> Applied {
        let head = signed.head.clone();
        let log = self.log_mut(index);
        if !log.fits(&head) {
            return self.discard(index, &head);
        }
        // The author was live again, or another node knew a newer head.
        self.forgetting.forgotten_to.remove(&head.author);
        let log = self.log_mut(index);
        log.sequence = head.sequence;
        log.head = Some(signed);
        log.pull.complete = true;
        log.pull.staging = false;
        log.pull.base = 0;
        log.pending.state = true;
        let newer = log
            .pull
            .wanted
            .take()
            .filter(|wanted| wanted.rank() > head.rank());
        log.pull.wanted = newer.clone();
        if newer.is_none() {
            log.pull.failures = 0;
        }
        let is_hopeless = log.pull.failures > FRESH_PULLS_MAX;
        self.raise_floor(index, head.floor);
        self.advance(self.merge.settling.step_records);
        match newer.filter(|_| !is_hopeless) {
            Some(wanted) => Applied::More(self.log_mut(index).pull_to(head.author, &wanted)),
            None => Applied::Complete,
        }
    }

    /// Discards a log that does not match its head.
    fn discard(&mut self, index: NodeIndex, head: &Head) -> Applied {
        let log = self.log_mut(index);
        let outdated = log.begin(0);
        log.head = None;
        self.drop_rows(outdated);
        // `advance` drops the newest rows first, so the rows that were just applied go first.
        self.advance(self.merge.settling.step_records);
        self.refuse(index, head)
    }

    /// Removes rows from the merge that are no longer in any log.
    pub(super) fn drop_rows(&mut self, rows: Rows) {
        rows.after(0)
            .for_each(|row| self.merge.change(Some(row), None));
    }

    /// Drops tombstones up to a floor. For this node's own log all are dropped at once. For another
    /// log only one step is done at once, because its author can announce very many.
    pub(super) fn raise_floor(&mut self, index: NodeIndex, floor: u64) {
        let is_own = index == self.me;
        let log = self.log_mut(index);
        if floor <= log.cleanup.floor {
            return;
        }
        log.cleanup.floor = floor;
        let at_once = self.merge.settling.step_records;
        self.clear_tombstones(index, if is_own { usize::MAX } else { at_once });
    }

    /// Drops tombstones up to the floor among the next `limit` rows. Returns the number of rows
    /// examined.
    pub(super) fn clear_tombstones(&mut self, index: NodeIndex, limit: usize) -> usize {
        let (tombstones, looked_at) = self.log_mut(index).tombstones_to_clear(limit);
        for row in tombstones {
            let fact = self.fact_of(&row);
            self.log_mut(index).take(&row, &fact);
            self.merge.change(Some(&row), None);
        }
        looked_at
    }

    /// Adds a fact to a log and the merge. It replaces the author's previous fact about the same
    /// name or content.
    pub(super) fn apply_record(&mut self, index: NodeIndex, sequence: u64, fact: &Fact) {
        let stamp = Stamp {
            author: index,
            sequence,
        };
        let row = self.row_of(stamp, fact);
        let known = match row.class {
            _ if row.is_opaque() => self.merge.row_of_seal(&row),
            Class::Have | Class::HaveNot => self.merge.cached_row(row.hash(), index),
            _ => self.merge.named_row(row.dir, row.name(), index, row.share),
        };
        let said = known.as_ref().map(|known| self.fact_of(known));
        let log = self.log_mut(index);
        if let (Some(known), Some(said)) = (&known, &said) {
            log.take(known, said);
        }
        log.push(row.clone(), fact);
        log.sequence = sequence;
        self.merge.change(known.as_ref(), Some(&row));
    }

    fn row_of(&mut self, stamp: Stamp, fact: &Fact) -> Row {
        match fact {
            Fact::Entry { share, path, entry } => {
                let dir = self.merge.dir_of(&path.parent().unwrap_or_default());
                Row::entry(stamp, *share, dir, path.file_name(), entry)
            }
            Fact::Removed { share, path } => {
                let dir = self.merge.dir_of(&path.parent().unwrap_or_default());
                Row::removed(stamp, *share, dir, path.file_name())
            }
            Fact::Have { hash, size_bytes } => Row::have(stamp, hash, *size_bytes),
            Fact::HaveNot { hash } => Row::have_not(stamp, hash),
            Fact::Readers {
                number,
                share,
                salt,
                readers,
            } => Self::readers_row(stamp, *number, (*share, *salt, readers.clone())),
            Fact::Sealed {
                number,
                path,
                entry,
            } => self.sealed_row(stamp, *number, path, Some(entry)),
            Fact::SealedRemoved { number, path } => self.sealed_row(stamp, *number, path, None),
        }
    }

    /// Returns the fact of a row in its wire form.
    pub(super) fn fact_of(&self, row: &Row) -> Fact {
        if let Some(sealed) = Self::sealed_fact_of(row) {
            return sealed;
        }
        let path = || self.merge.state.path_of(row.dir, row.name());
        match (row.class, row.to_entry()) {
            (Class::Have, _) => Fact::Have {
                hash: row.hash(),
                size_bytes: row.size_bytes(),
            },
            (Class::HaveNot, _) => Fact::HaveNot { hash: row.hash() },
            (_, Some(entry)) => Fact::Entry {
                share: row.share,
                path: path(),
                entry,
            },
            (_, None) => Fact::Removed {
                share: row.share,
                path: path(),
            },
        }
    }

    /// Returns the index of a node, and assigns one if it has none.
    pub(super) fn admit(&mut self, id: NodeId) -> Result<NodeIndex, CatalogueError> {
        if let Some(known) = self.index_of(&id) {
            if self.logs.get(&known).is_some_and(|log| log.forgotten) {
                while self.advance(self.merge.settling.step_records) {}
                return self.admit(id);
            }
            return Ok(known);
        }
        if self.indexes.len() >= NODES_MAX {
            return Err(CatalogueError::TooManyNodes);
        }
        let nodes = std::sync::Arc::make_mut(&mut self.merge.state.nodes);
        let free = nodes
            .iter()
            .position(Option::is_none)
            .unwrap_or(nodes.len());
        nodes.resize(nodes.len().max(free + 1), None);
        nodes[free] = Some(NodeState {
            id,
            name: None,
            label: "".into(),
            live: false,
            sweep: None,
        });
        let index = NodeIndex(free as u16);
        self.indexes.insert(id, index);
        Ok(index)
    }

    pub(super) fn log_mut(&mut self, index: NodeIndex) -> &mut Log {
        self.logs.entry(index).or_default()
    }
}

/// Checks that a part is well-formed: its length, its sequences and each fact.
fn check_records(part: &LogPart) -> Result<(), CatalogueError> {
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

/// Checks that a part continues the log. Returns a pull of the whole log if the part is a suffix
/// and [`Log::pull_to`] finds no suffix safe.
fn check_place(log: &Log, part: &LogPart) -> Result<Option<Pull>, CatalogueError> {
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
