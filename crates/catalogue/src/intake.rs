//! Applies received log parts of other nodes in bounded turns.
//!
//! Each record replaces the author's previous record about the same name or content. A log that
//! arrived whole (see `staged`) is applied only if it matches its head (see `checked`). Otherwise
//! the previous state stays. A log that arrives in several stretches is listed while it arrives. It
//! is discarded whole if it does not match its head after its last part.
//!
//! A record of some hundred bytes can imply hundreds of directories. One name can have thousands of
//! versions, and each new version is compared with all others. A log that waited for its last part
//! can have hundreds of thousands of records. Applying all that at once would keep the owner of the
//! catalogue from its gossip for seconds. A turn therefore ends after [`TURN_STEPS`].
//!
//! Stretches are applied one after the other, in their order of arrival. Between two turns of one
//! stretch no view should be taken ([`IntakeQueue::is_taking_in`]), and nothing of its log is
//! stored.

use std::collections::VecDeque;

use super::budget::{LOOK_RECORDS, LogBudget, LogEviction};
use super::checked::{LogSum, check_place, check_records, steps_of};
use super::logs::NodeLogs;
use super::row::NodeIndex;
use super::staged::{STAGED_MAX_PARTS, StageResult};
use super::{Applied, CatalogueError, FRESH_PULLS_MAX, LogPart, Pull};
use p2pfs_proto::wire::native::record::{Record, SignedHead};
use p2pfs_types::id::NodeId;

/// Maximum steps of one turn, about 20 ms of work. A step is a record, a directory above it, or a
/// few compared versions. The steps of the last record may exceed it.
pub(super) const TURN_STEPS: usize = 8192;

/// A stretch of a log (one or more parts, joined) that is being applied or waits for that.
struct Intake {
    index: NodeIndex,
    author: NodeId,
    head: SignedHead,
    last: bool,
    /// If the log begins anew with this stretch, the sequence in the head of its first part. `None`
    /// if the stretch continues the log.
    anew: Option<u64>,
    progress: IntakeState,
    records: std::vec::IntoIter<Record>,
    taken: usize,
    /// The sum of the log with these records, if they are checked before they are applied.
    sum: Option<LogSum>,
    /// Number of parts in this stretch.
    parts: usize,
}

/// State of an intake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IntakeState {
    Waits,
    /// The records are being compared with the head.
    Checks,
    /// Rows from before an earlier restart of the log are being removed.
    Clears,
    Takes,
}

impl Intake {
    /// Returns whether the log is between its previous head and the new one.
    fn is_amid(&self) -> bool {
        matches!(self.progress, IntakeState::Clears | IntakeState::Takes)
    }
}

/// Queue of stretches in their order of arrival, at most one of each author.
pub struct IntakeQueue {
    waiting: VecDeque<Intake>,
    /// Outcomes that were not polled yet.
    done: VecDeque<(NodeId, Applied)>,
    /// A log that did not match its head, and the number of its older rows. Set until the rows of
    /// the wrong log are unlisted, which are those that were applied last.
    wrong: Option<(NodeIndex, usize)>,
    /// Steps of one turn: [`TURN_STEPS`], or another value in tests.
    pub(super) steps: usize,
}

impl Default for IntakeQueue {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            wrong: None,
            steps: TURN_STEPS,
        }
    }
}

impl IntakeQueue {
    /// Returns whether so many parts wait to be applied that the owner should send no further pull.
    pub fn is_behind(&self) -> bool {
        self.parts() >= STAGED_MAX_PARTS
    }

    /// Returns whether a view taken now would show a partly applied stretch, or rows of a log that
    /// did not match its head.
    pub fn is_taking_in(&self) -> bool {
        let first = self.waiting.front();
        first.is_some_and(Intake::is_amid) || self.wrong.is_some()
    }

    pub(crate) fn has(&self, index: NodeIndex) -> bool {
        self.waiting.iter().any(|it| it.index == index)
    }

    /// Returns whether a log is between its previous head and the new one.
    pub(crate) fn is_amid(&self, index: NodeIndex) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|it| it.index == index && it.is_amid())
    }

    /// Returns the number of parts that wait.
    pub(crate) fn parts(&self) -> usize {
        self.waiting.iter().map(|it| it.parts).sum()
    }

    /// Queues a stretch of a log that arrived in `parts` parts. `base` is used if the log restarts
    /// with it.
    pub(crate) fn push(&mut self, index: NodeIndex, part: LogPart, base: u64, parts: usize) {
        self.waiting.push_back(Intake {
            index,
            author: part.head.head.author,
            head: part.head,
            last: part.last,
            anew: part.fresh.then_some(base),
            progress: IntakeState::Waits,
            records: part.records.into_iter(),
            taken: 0,
            sum: None,
            parts,
        });
    }

    /// Removes and returns the outcome of one author's log, if it is known.
    fn remove_outcome(&mut self, author: &NodeId) -> Option<Applied> {
        let at = self.done.iter().position(|(of, _)| of == author)?;
        self.done.remove(at).map(|(_, applied)| applied)
    }

    /// Cancels the queued stretch of a log that was dropped or forgotten. Its outcome is
    /// [`Applied::OverBudget`].
    pub(crate) fn cancel(&mut self, index: NodeIndex) {
        self.wrong.take_if(|(wrong, _)| *wrong == index);
        let position = self.waiting.iter().position(|it| it.index == index);
        if let Some(gone) = position.and_then(|at| self.waiting.remove(at)) {
            self.done.push_back((gone.author, Applied::OverBudget));
        }
    }
}

/// Applies received parts of logs. [`Catalogue::intake`](super::Catalogue::intake) returns it.
pub struct LogIntake<'a> {
    pub(super) logs: &'a mut NodeLogs,
    pub(super) queue: &'a mut IntakeQueue,
    pub(super) budget: &'a mut LogBudget,
}

impl LogIntake<'_> {
    /// Applies a part of a log that was pulled. The caller has checked the signature of its head.
    ///
    /// # Errors
    /// [`CatalogueError`]. Nothing was applied.
    pub fn apply(&mut self, author: NodeId, part: LogPart) -> Result<Applied, CatalogueError> {
        if let Some(applied) = self.begin(author, part)? {
            return Ok(applied);
        }
        // Discards the outcome of an earlier call.
        self.queue.remove_outcome(&author);
        loop {
            self.take_turn();
            if let Some(applied) = self.queue.remove_outcome(&author) {
                return Ok(applied);
            }
        }
    }

    /// Queues a part of a log for [`Self::take_turn`].
    ///
    /// Returns `None` if the part was queued. [`Self::poll_applied`] returns the outcome later.
    /// Until then, returns `None` for each further part of that author, and ignores it. Returns the
    /// outcome of a part that is not queued: it waits for further parts, or cannot continue the
    /// log.
    ///
    /// # Errors
    /// The errors of [`Self::apply`].
    pub fn begin(
        &mut self,
        author: NodeId,
        part: LogPart,
    ) -> Result<Option<Applied>, CatalogueError> {
        let head = &part.head.head;
        if head.author != author || self.logs.index_of(&author) == Some(self.logs.me) {
            return Err(CatalogueError::WrongAuthor);
        }
        check_records(&part)?;
        if self.logs.forgotten.refuses(head) {
            return Err(CatalogueError::Stale);
        }
        let index = self.logs.admit(author)?;
        if self.queue.has(index) {
            return Ok(None);
        }
        let log = self.logs.log_mut(index);
        log.pull.drop_staged_unless_continued(&part);
        if let Some(pull) = check_place(log, &part)? {
            log.pull.staged = None;
            return Ok(Some(Applied::Compacted(pull)));
        }
        let logs = self.logs.logs.values();
        let waiting = logs.map(|log| log.pull.staged_parts()).sum();
        match self.logs.log_mut(index).pull.stage(part, waiting) {
            StageResult::Waits(pull) => Ok(Some(Applied::More(pull))),
            StageResult::Ready { part, base, parts } => {
                self.queue.push(index, part, base, parts);
                Ok(None)
            }
        }
    }

    /// Runs the next turn of the parts queued by [`Self::begin`]. Returns whether there was work.
    /// Call it between other work until it returns `false`. [`Self::poll_applied`] returns the
    /// outcomes.
    pub fn take_turn(&mut self) -> bool {
        let mut left = self.queue.steps;
        left -= self.logs.merge.refresh_if_many(left).min(left);
        if let Some((index, older)) = self.queue.wrong {
            if self.remove_old_rows_down_to(index, older, &mut left) {
                self.queue.wrong = None;
            }
            return true;
        }
        let Some(mut intake) = self.queue.waiting.pop_front() else {
            return false;
        };
        match self.apply_some(&mut intake, &mut left) {
            Some(applied) => self.queue.done.push_back((intake.author, applied)),
            None => self.queue.waiting.push_front(intake),
        }
        true
    }

    /// Returns the next outcome of an applied log. Call it until it returns `None`.
    pub fn poll_applied(&mut self) -> Option<(NodeId, Applied)> {
        self.queue.done.pop_front()
    }

    fn eviction(&mut self) -> LogEviction<'_> {
        LogEviction {
            logs: self.logs,
            queue: self.queue,
            budget: self.budget,
        }
    }

    /// Continues an intake. Returns the outcome once it ends.
    fn apply_some(&mut self, intake: &mut Intake, left: &mut usize) -> Option<Applied> {
        let index = intake.index;
        if !intake.is_amid() && !self.check_some(intake, left)? {
            return Some(self.logs.log_mut(index).count_mismatch(&intake.head.head));
        }
        if intake.progress != IntakeState::Takes && !self.begin_intake(intake, left) {
            return None;
        }
        while *left > 0 {
            let Some(record) = intake.records.next() else {
                self.close_sum(intake);
                let is_wrong = intake.last && !self.logs.log_mut(index).fits(&intake.head.head);
                // No row of a wrong log stays. Rows of an earlier life are removed first.
                if is_wrong && !self.remove_old_rows_down_to(index, 0, left) {
                    return None;
                }
                return Some(self.end_intake(intake));
            };
            let is_superseded = |sum: &LogSum| sum.is_superseded(intake.taken);
            if intake.sum.as_ref().is_some_and(is_superseded) {
                intake.taken += 1;
                *left -= 1;
                continue;
            }
            let looks = self.logs.merge.settling.looks;
            self.logs.apply_record(index, record.sequence, &record.fact);
            let steps = steps_of(&record.fact) + self.logs.merge.settling.steps_since(looks);
            *left = left.saturating_sub(steps);
            intake.taken += 1;
            let is_look_due = intake.taken.is_multiple_of(LOOK_RECORDS);
            let mut eviction = self.eviction();
            if eviction.enforce_author(index) || (is_look_due && eviction.enforce_total(index)) {
                return Some(Applied::OverBudget);
            }
        }
        None
    }

    /// Returns whether the log will match its head with these records. Returns `true` if this
    /// cannot be known in advance, and `None` if the check continues in the next turn.
    fn check_some(&mut self, intake: &mut Intake, left: &mut usize) -> Option<bool> {
        let log = self.logs.log_mut(intake.index);
        let is_anew = intake.anew.is_some();
        if !intake.last || !(is_anew || log.pull.complete) {
            return Some(true);
        }
        let fresh = || {
            if is_anew {
                LogSum::default()
            } else {
                LogSum::of(log)
            }
        };
        let mut sum = intake.sum.take().unwrap_or_else(fresh);
        intake.progress = IntakeState::Checks;
        let came = (intake.records.as_slice(), &intake.head.head);
        let fits = sum.add_next(self.logs, (intake.index, is_anew), came, left);
        intake.sum = Some(sum);
        fits
    }

    /// Replaces the digest of a log by the sum that was checked before, if there is one.
    fn close_sum(&mut self, intake: &mut Intake) {
        let log = self.logs.log_mut(intake.index);
        log.totals.is_summed = false;
        if let Some(sum) = intake.sum.take() {
            log.totals.digest = sum.digest;
        }
    }

    /// Prepares a log for its first record. Returns `false` if this continues in the next turn.
    fn begin_intake(&mut self, intake: &mut Intake, left: &mut usize) -> bool {
        intake.progress = IntakeState::Clears;
        if let Some(base) = intake.anew {
            // No pull confirms these rows any longer.
            if !self.remove_old_rows_down_to(intake.index, 0, left) {
                return false;
            }
            // The previous rows stay listed until the new log is complete.
            let log = self.logs.log_mut(intake.index);
            let outdated = log.begin(intake.head.head.epoch);
            log.pull.staging = true;
            log.pull.base = base;
            self.logs.drop_rows(outdated);
        }
        self.logs
            .merge
            .node_names()
            .set(intake.index, &intake.head.head.name);
        self.logs.log_mut(intake.index).totals.is_summed = intake.sum.is_some();
        intake.progress = IntakeState::Takes;
        true
    }

    fn end_intake(&mut self, intake: &Intake) -> Applied {
        if self.eviction().enforce_total(intake.index) {
            return Applied::OverBudget;
        }
        let log = self.logs.log_mut(intake.index);
        if intake.last {
            let older = log.rows.len().saturating_sub(intake.taken);
            let applied = self.conclude(intake.index, intake.head.clone());
            let is_listed = self.logs.log_mut(intake.index).old.len() > older;
            if is_listed && matches!(applied, Applied::Mismatch { .. }) {
                self.queue.wrong = Some((intake.index, older));
            }
            return applied;
        }
        log.pull.complete = false;
        Applied::More(Pull {
            author: intake.author,
            epoch: log.epoch,
            after: log.sequence,
        })
    }

    /// Compares a log with its head after the last part.
    fn conclude(&mut self, index: NodeIndex, signed: SignedHead) -> Applied {
        let head = signed.head.clone();
        let log = self.logs.log_mut(index);
        if !log.fits(&head) {
            self.logs.discard(index);
            // `advance` drops the newest rows first, so the rows that were just applied go first.
            self.logs.advance_step();
            return self.logs.log_mut(index).count_mismatch(&head);
        }
        // The author was live again, or another node knew a newer head.
        self.logs.forgotten.refused_to.remove(&head.author);
        let log = self.logs.log_mut(index);
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
        self.logs.raise_floor(index, head.floor);
        self.logs.advance_step();
        match newer.filter(|_| !is_hopeless) {
            Some(wanted) => Applied::More(self.logs.log_mut(index).pull_to(head.author, &wanted)),
            None => Applied::Complete,
        }
    }

    /// Removes old rows of a log from the merge, the last first, until `count` are left or no steps
    /// remain. Returns `false` if no steps remain.
    fn remove_old_rows_down_to(
        &mut self,
        index: NodeIndex,
        count: usize,
        left: &mut usize,
    ) -> bool {
        while *left > 0 {
            if self.logs.log_mut(index).old.len() <= count {
                return true;
            }
            *left = left.saturating_sub(self.logs.remove_old_row(index));
        }
        false
    }
}
