//! Which log is being pulled from whom.
//!
//! Owns the schedule of catalogue pulls: one at a time for each author, a bounded number at once,
//! another member after a failure, and a growing pause when nobody had it. Pure: it learns of time,
//! members and answers, and says whom to ask next. It never sees a record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use p2pfs_types::id::NodeId;

/// How many logs are pulled at once. A part is at most 1 MiB of records, so this bounds what is in
/// flight; further logs wait their turn.
pub(crate) const PULLS_AT_ONCE_MAX: usize = 8;
/// The pause after the first failure; it doubles to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two tries for one log.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// After so many failures in a row nobody waits for a log; it is asked for all the same.
const HOPELESS: u32 = 3;

/// How long one member may take for one part (1 MiB at most, so 100 KiB/s) before another is asked
/// as well: one that lives and does not answer must not keep a log from us. What it sends later is
/// taken all the same.
const PART_PATIENCE: Duration = Duration::from_secs(10);

/// For how long a member that was asked in vain is asked after the others: each try of a node that
/// cannot be dialled takes seconds, which every change of its log would wait for.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// What is known to fail within this time holds up nobody.
const SOON: Duration = Duration::from_secs(1);

/// Among the first so many tries for a change nobody is asked who was silent lately: perhaps only
/// such a one has it.
const TRIES_OF_OTHERS: u32 = 2;

/// How long a log that had no room is not asked for, whatever its author says: what it costs to
/// find out again is then a small part of the time.
pub(crate) const PUT_OFF: Duration = Duration::from_secs(10 * 60);

/// Where the next part of a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Which life of the log.
    pub epoch: u64,
    /// The last sequence that we hold.
    pub after: u64,
}

/// One question to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullStep {
    /// Whose log.
    pub author: NodeId,
    /// Whom to ask.
    pub from: NodeId,
    /// From where on.
    pub position: LogPosition,
}

#[derive(Debug)]
struct Pull {
    position: LogPosition,
    /// Who told us of the head: has the log most likely, after the author.
    told_by: Option<NodeId>,
    failures: u32,
    /// Who was asked last in vain: not the next to be asked, where there is another.
    avoided: Option<NodeId>,
    state: PullState,
}

#[derive(Debug, PartialEq, Eq)]
enum PullState {
    Waiting { until: Instant },
    Asked { from: NodeId, since: Instant },
    PutOff { until: Instant },
}

/// The schedule.
#[derive(Debug)]
pub(crate) struct Pulls {
    pulls: BTreeMap<NodeId, Pull>,
    /// Members that gave no answer lately, each until when it is asked last.
    silent: BTreeMap<NodeId, Instant>,
    rng: StdRng,
}

impl Pulls {
    /// An empty schedule; `rng` chooses whom to ask where several may have a log.
    pub(crate) fn new(rng: StdRng) -> Self {
        Self {
            pulls: BTreeMap::new(),
            silent: BTreeMap::new(),
            rng,
        }
    }

    /// A newer head of `author` was seen: its log is wanted from `position` on.
    pub(crate) fn want(
        &mut self,
        now: Instant,
        author: NodeId,
        position: LogPosition,
        told_by: Option<NodeId>,
    ) {
        let fresh = Pull {
            position,
            told_by,
            failures: 0,
            avoided: None,
            state: PullState::Waiting { until: now },
        };
        let pull = self.pulls.entry(author).or_insert(fresh);
        match pull.state {
            PullState::Waiting { .. } => {
                pull.position = position;
                pull.told_by = told_by.or(pull.told_by);
                pull.state = PullState::Waiting { until: now };
            }
            PullState::PutOff { .. } => pull.position = position,
            PullState::Asked { .. } => {}
        }
    }

    /// There was no room for a log: it is not asked for before [`PUT_OFF`] is over.
    pub(crate) fn put_off(&mut self, now: Instant, author: NodeId) {
        let until = now + PUT_OFF;
        self.pulls.insert(
            author,
            Pull {
                position: LogPosition { epoch: 0, after: 0 },
                told_by: None,
                failures: 0,
                avoided: None,
                state: PullState::PutOff { until },
            },
        );
    }

    /// An answer came and more of the log is to come. One that brought nothing nearer came from a
    /// node that has not what is wanted: another is asked, after a pause.
    pub(crate) fn advance(&mut self, now: Instant, author: NodeId, position: LogPosition) {
        if let Some(pull) = self.pulls.get_mut(&author) {
            if pull.position == position {
                return self.fail(now, author);
            }
            pull.position = position;
            pull.failures = 0;
            pull.state = PullState::Waiting { until: now };
        }
    }

    /// The log is as new as the newest head.
    pub(crate) fn finish(&mut self, author: NodeId) {
        self.pulls.remove(&author);
    }

    /// No answer came of whoever was asked, or can come: where that took its time, others are asked
    /// before it for a while.
    pub(crate) fn fail_silently(&mut self, now: Instant, author: NodeId) {
        let state = self.pulls.get(&author).map(|pull| &pull.state);
        if let Some(PullState::Asked { from, since }) = state
            && now.saturating_duration_since(*since) > SOON
        {
            self.silent.insert(*from, now + SILENT_FOR);
        }
        self.fail(now, author);
    }

    /// A member answered.
    pub(crate) fn note_answer(&mut self, from: &NodeId) {
        self.silent.remove(from);
    }

    /// Whoever was asked had not what was asked.
    pub(crate) fn fail(&mut self, now: Instant, author: NodeId) {
        if let Some(pull) = self.pulls.get_mut(&author) {
            pull.failures = pull.failures.saturating_add(1);
            if let PullState::Asked { from, .. } = pull.state {
                pull.avoided = Some(from);
            }
            let pause = RETRY_MIN * 2u32.saturating_pow(pull.failures.min(10) - 1);
            pull.state = PullState::Waiting {
                until: now + pause.min(RETRY_MAX),
            };
            pull.told_by = None;
        }
    }

    /// The log did not fit its head: it is asked for anew, of another node where there is one.
    pub(crate) fn restart(&mut self, now: Instant, author: NodeId, position: LogPosition) {
        self.fail(now, author);
        if let Some(pull) = self.pulls.get_mut(&author) {
            pull.position = position;
        }
    }

    /// The member `node` is gone: what it was asked is asked of another at once.
    pub(crate) fn forget_member(&mut self, now: Instant, node: NodeId) {
        self.silent.remove(&node);
        for pull in self.pulls.values_mut() {
            if matches!(pull.state, PullState::Asked { from, .. } if from == node) {
                pull.state = PullState::Waiting { until: now };
            }
            if pull.told_by == Some(node) {
                pull.told_by = None;
            }
        }
    }

    /// The next question, given who can be asked. The author is asked first, then who told of the
    /// head, then anyone.
    pub(crate) fn next_step(&mut self, now: Instant, members: &[NodeId]) -> Option<PullStep> {
        self.give_up_on_the_silent(now);
        if self.is_busy() {
            return None;
        }
        let due = |pull: &Pull| match pull.state {
            PullState::Waiting { until } | PullState::PutOff { until } => until <= now,
            PullState::Asked { .. } => false,
        };
        let author = *self.pulls.iter().find(|(_, pull)| due(pull))?.0;
        let Some(from) = self.choose_source(now, author, members) else {
            self.fail(now, author);
            return self.next_step(now, members);
        };
        let pull = self.pulls.get_mut(&author)?;
        pull.state = PullState::Asked { from, since: now };
        Some(PullStep {
            author,
            from,
            position: pull.position,
        })
    }

    /// Whether some log is on its way, those left out that cannot be had at the moment.
    pub(crate) fn is_any_coming(&self) -> bool {
        let is_coming = |pull: &Pull| {
            pull.failures < HOPELESS && !matches!(pull.state, PullState::PutOff { .. })
        };
        self.pulls.values().any(is_coming)
    }

    /// When [`Self::next_step`] should be asked again, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        // a log that is due while no more may be asked for waits for an answer, not for a time
        let waits = !self.is_busy();
        let until = |pull: &Pull| match pull.state {
            PullState::Waiting { until } | PullState::PutOff { until } => waits.then_some(until),
            PullState::Asked { since, .. } => Some(since + PART_PATIENCE),
        };
        self.pulls.values().filter_map(until).min()
    }

    /// Whether so many logs are on their way that no further one may be asked for.
    fn is_busy(&self) -> bool {
        let asked = |pull: &&Pull| matches!(pull.state, PullState::Asked { .. });
        self.pulls.values().filter(asked).count() >= PULLS_AT_ONCE_MAX
    }

    fn give_up_on_the_silent(&mut self, now: Instant) {
        let is_over = |pull: &Pull| match pull.state {
            PullState::Asked { since, .. } => since + PART_PATIENCE <= now,
            _ => false,
        };
        let pulls = self.pulls.iter();
        let over: Vec<NodeId> = pulls
            .filter(|(_, pull)| is_over(pull))
            .map(|(author, _)| *author)
            .collect();
        over.into_iter()
            .for_each(|author| self.fail_silently(now, author));
    }

    fn choose_source(
        &mut self,
        now: Instant,
        author: NodeId,
        members: &[NodeId],
    ) -> Option<NodeId> {
        self.silent.retain(|_, until| *until > now);
        let pull = self.pulls.get(&author)?;
        let speaks = |node: &NodeId| !self.silent.contains_key(node);
        let wanted = [Some(author), pull.told_by]
            .into_iter()
            .flatten()
            .find(|node| members.contains(node) && speaks(node));
        if let Some(node) = wanted.filter(|_| pull.failures == 0) {
            return Some(node);
        }
        let all_count = pull.failures >= TRIES_OF_OTHERS;
        let is_other = |node: &&NodeId| Some(**node) != pull.avoided;
        let is_first = |node: &&NodeId| is_other(node) && (all_count || speaks(node));
        let first: Vec<NodeId> = members.iter().filter(is_first).copied().collect();
        let others: Vec<NodeId> = members.iter().filter(is_other).copied().collect();
        let choices = [&first, &others, members];
        let choice = choices.into_iter().find(|choice| !choice.is_empty())?;
        choice.choose(&mut self.rng).copied()
    }
}

#[cfg(test)]
mod tests;
