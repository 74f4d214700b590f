//! Taking in by turns what has come of a log.
//!
//! A record of some hundred bytes can ask for hundreds of directories, one name can have thousands
//! of versions, each of which is looked at with the next, and a log that waited for
//! its last part can have hundreds of thousands of records: at once, that would keep whoever owns
//! the catalogue from its gossip for seconds. So a turn ends after [`TURN_STEPS`]. One log is taken
//! in after the other, in the order in which they came. Between two turns of one no view should be
//! taken ([`Catalogue::is_taking_in`]) and nothing of it is stored, so that it is listed and kept
//! as if it had been taken in at once.

use std::collections::VecDeque;

use super::budget::LOOK_RECORDS;
use super::checked::{Sum, steps_of};
use super::row::NodeIndex;
use super::staged::STAGED_MAX_PARTS;
use super::{Applied, Catalogue, LogPart, Pull};
use p2pfs_proto::wire::native::record::{Record, SignedHead};
use p2pfs_types::id::NodeId;

/// Records and directories above them that are taken in or let go in one turn, but for those of
/// the last record: some 20 ms of work.
pub(super) const TURN_STEPS: usize = 8192;

/// A stretch of a log that is being taken in, or waits for that.
struct Intake {
    index: NodeIndex,
    author: NodeId,
    head: SignedHead,
    last: bool,
    /// The log begins anew with it: the base that it has then.
    anew: Option<u64>,
    progress: Progress,
    records: std::vec::IntoIter<Record>,
    taken: usize,
    /// What the log sums up to with them, where all came that its head counts.
    sum: Option<Sum>,
    /// How many parts it came in.
    parts: usize,
}

/// How far the first of those that wait is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waits,
    /// Whether it is what its head says is looked at.
    Checks,
    /// What an earlier life left is let go.
    Clears,
    Takes,
}

impl Intake {
    /// Whether the log is between its head of before and that of what is taken in of it.
    fn is_amid(&self) -> bool {
        matches!(self.progress, Progress::Clears | Progress::Takes)
    }
}

/// What is being taken in, in the order in which it came: at most one stretch of each author.
pub(super) struct Intakes {
    waiting: VecDeque<Intake>,
    /// What became of them, until somebody asks.
    done: VecDeque<(NodeId, Applied)>,
    /// A log that was not what its head says, until nothing is listed of what was just taken in,
    /// and how many of its rows are older.
    wrong: Option<(NodeIndex, usize)>,
    /// [`TURN_STEPS`], but for tests.
    pub steps: usize,
}

impl Default for Intakes {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            wrong: None,
            steps: TURN_STEPS,
        }
    }
}

impl Intakes {
    pub(crate) fn has(&self, index: NodeIndex) -> bool {
        self.waiting.iter().any(|it| it.index == index)
    }

    /// Whether a log is between its head of before and that of what is taken in of it.
    pub(crate) fn is_amid(&self, index: NodeIndex) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|it| it.index == index && it.is_amid())
    }

    /// How many parts of logs wait.
    pub(crate) fn parts(&self) -> usize {
        self.waiting.iter().map(|it| it.parts).sum()
    }

    /// A stretch of a log that came in so many parts is to be taken in; `base` is that of a log
    /// which begins anew with it.
    pub(crate) fn push(&mut self, index: NodeIndex, part: LogPart, base: u64, parts: usize) {
        self.waiting.push_back(Intake {
            index,
            author: part.head.head.author,
            head: part.head,
            last: part.last,
            anew: part.fresh.then_some(base),
            progress: Progress::Waits,
            records: part.records.into_iter(),
            taken: 0,
            sum: None,
            parts,
        });
    }

    /// What waits of a log is not taken in any more, since its log was dropped.
    pub(crate) fn cancel(&mut self, index: NodeIndex) {
        self.wrong.take_if(|(wrong, _)| *wrong == index);
        let position = self.waiting.iter().position(|it| it.index == index);
        if let Some(gone) = position.and_then(|at| self.waiting.remove(at)) {
            self.done.push_back((gone.author, Applied::OverBudget));
        }
    }
}

impl Catalogue {
    /// Takes in the next turn of what was handed to [`Catalogue::begin_apply`]; whether there was
    /// any. Call it between other work until there is none; [`Catalogue::poll_taken`] tells what
    /// came of it.
    pub fn take_turn(&mut self) -> bool {
        let mut left = self.intakes.steps;
        left -= self.refresh_if_many(left).min(left);
        if let Some((index, older)) = self.intakes.wrong {
            if self.let_go_down_to(index, older, &mut left) {
                self.intakes.wrong = None;
            }
            return true;
        }
        let Some(mut intake) = self.intakes.waiting.pop_front() else {
            return false;
        };
        match self.take_some(&mut intake, &mut left) {
            Some(applied) => self.intakes.done.push_back((intake.author, applied)),
            None => self.intakes.waiting.push_front(intake),
        }
        true
    }

    /// Whether so much waits to be taken in that no more should be asked for.
    pub fn is_behind(&self) -> bool {
        self.intakes.parts() >= STAGED_MAX_PARTS
    }

    /// What became of a log that was taken in; ask until there is none.
    pub fn poll_taken(&mut self) -> Option<(NodeId, Applied)> {
        self.intakes.done.pop_front()
    }

    /// What became of this author's, where that is known.
    pub(super) fn take_outcome(&mut self, author: &NodeId) -> Option<Applied> {
        let done = &mut self.intakes.done;
        let at = done.iter().position(|(of, _)| of == author)?;
        done.remove(at).map(|(_, applied)| applied)
    }

    /// Whether a view would show a part of what is being taken in.
    pub fn is_taking_in(&self) -> bool {
        let first = self.intakes.waiting.front();
        first.is_some_and(Intake::is_amid) || self.intakes.wrong.is_some()
    }

    /// Goes on with an intake; what came of it, once it ends.
    fn take_some(&mut self, intake: &mut Intake, left: &mut usize) -> Option<Applied> {
        let index = intake.index;
        if !intake.is_amid() && !self.check_some(intake, left)? {
            return Some(self.refuse(index, &intake.head.head));
        }
        if intake.progress != Progress::Takes && !self.begin_intake(intake, left) {
            return None;
        }
        while *left > 0 {
            let Some(record) = intake.records.next() else {
                self.close_sum(intake);
                let is_wrong = intake.last && !self.log_mut(index).fits(&intake.head.head);
                // nothing of a wrong log stays: what is left of an earlier life goes first
                if is_wrong && !self.let_go_down_to(index, 0, left) {
                    return None;
                }
                return Some(self.end_intake(intake));
            };
            let is_superseded = |sum: &Sum| sum.is_superseded(intake.taken);
            if intake.sum.as_ref().is_some_and(is_superseded) {
                intake.taken += 1;
                *left -= 1;
                continue;
            }
            let looks = self.merge.looks;
            self.take_record(index, record.sequence, &record.fact);
            let steps = steps_of(&record.fact) + self.merge.steps_since(looks);
            *left = left.saturating_sub(steps);
            intake.taken += 1;
            let is_look_due = intake.taken.is_multiple_of(LOOK_RECORDS);
            if self.hold_author(index) || (is_look_due && self.hold_total(index)) {
                return Some(Applied::OverBudget);
            }
        }
        None
    }

    /// Looks whether what came is what its head says, where all came; none where that goes on in
    /// the next turn.
    fn check_some(&mut self, intake: &mut Intake, left: &mut usize) -> Option<bool> {
        let log = self.log_mut(intake.index);
        let is_anew = intake.anew.is_some();
        if !intake.last || !(is_anew || log.complete) {
            return Some(true);
        }
        let fresh = || {
            if is_anew {
                Sum::default()
            } else {
                Sum::of(log)
            }
        };
        let mut sum = intake.sum.take().unwrap_or_else(fresh);
        intake.progress = Progress::Checks;
        let came = (intake.records.as_slice(), &intake.head.head);
        let fits = self.sum_up((intake.index, is_anew), came, &mut sum, left);
        intake.sum = Some(sum);
        fits
    }

    /// The digest is that which was summed up before.
    fn close_sum(&mut self, intake: &mut Intake) {
        let log = self.log_mut(intake.index);
        log.is_summed = false;
        if let Some(sum) = intake.sum.take() {
            log.digest = sum.digest;
        }
    }

    /// Makes the log ready for the first record; false where that goes on in the next turn.
    fn begin_intake(&mut self, intake: &mut Intake, left: &mut usize) -> bool {
        intake.progress = Progress::Clears;
        if let Some(base) = intake.anew {
            // nothing confirms them any more
            if !self.let_go_down_to(intake.index, 0, left) {
                return false;
            }
            self.begin(intake.index, &intake.head.head, base);
        }
        self.merge.set_name(intake.index, &intake.head.head.name);
        self.log_mut(intake.index).is_summed = intake.sum.is_some();
        intake.progress = Progress::Takes;
        true
    }

    fn end_intake(&mut self, intake: &Intake) -> Applied {
        if self.hold_total(intake.index) {
            return Applied::OverBudget;
        }
        let log = self.log_mut(intake.index);
        if intake.last {
            let older = log.rows.len().saturating_sub(intake.taken);
            let applied = self.conclude(intake.index, intake.head.clone());
            let is_listed = self.log_mut(intake.index).old.len() > older;
            if is_listed && matches!(applied, Applied::Mismatch { .. }) {
                self.intakes.wrong = Some((intake.index, older));
            }
            return applied;
        }
        log.complete = false;
        Applied::More(Pull {
            author: intake.author,
            epoch: log.epoch,
            after: log.sequence,
        })
    }

    /// Takes old rows of a log out of the merge, the last first, until so many are there or no
    /// steps are left; whether so many are there.
    fn let_go_down_to(&mut self, index: NodeIndex, count: usize, left: &mut usize) -> bool {
        while *left > 0 {
            if self.log_mut(index).old.len() <= count {
                return true;
            }
            *left = left.saturating_sub(self.let_go_of_one(index));
        }
        false
    }
}
