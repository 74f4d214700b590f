//! The schedule of log pulls: which member is asked next for which author's log, and when.
//!
//! There is one pull at a time for each author and a bounded number at once. After a failure,
//! another member is asked, if there is one. The pause before it grows with each failure. Pure:
//! [`Pulls`] receives the time, members and results, and returns the next request. It never sees a
//! record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use p2pfs_types::id::NodeId;

/// Maximum number of logs pulled at once from their authors, and also from other members; further
/// logs wait. A part is at most 1 MiB of records.
pub(crate) const PULLS_AT_ONCE_MAX: usize = 8;
/// Maximum number of logs of other authors pulled at once from one member. A member that announces
/// many logs and gives none delays only as many.
pub(crate) const PULLS_PER_MEMBER_MAX: usize = 4;
/// Pause after the first failure. It doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Maximum pause between two tries for one log.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Number of consecutive failures after which a log no longer counts as in transfer. It is still
/// requested.
const HOPELESS: u32 = 3;

/// How long one member may take for one part (at most 1 MiB, so 100 KiB/s) before another member is
/// asked too. A live member that does not answer must not keep a log away. A late answer is still
/// used.
const PART_PATIENCE: Duration = Duration::from_secs(10);

/// How long a member that did not answer is asked only after other members. Connecting to an
/// unreachable node takes seconds. Without this preference, each change of a log could be delayed
/// by that time.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// A request that fails within this time hardly delays its pull, so it does not mark the member as
/// silent.
const SOON: Duration = Duration::from_secs(1);

/// Number of tries for a part that skip members that were silent lately, if there are others. Later
/// tries choose among all members, because a silent one may be the only one with the log.
const TRIES_OF_OTHERS: u32 = 2;

/// How long a log that had no room is not requested, whatever its author announces. So this node
/// spends little of its time on pulling a log only to find again that it has no room for it.
pub(crate) const PUT_OFF: Duration = Duration::from_secs(10 * 60);

/// The position at which the next part of a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// Epoch of the log.
    pub epoch: u64,
    /// The last sequence that is here.
    pub after: u64,
}

/// One request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullStep {
    /// The author of the log.
    pub author: NodeId,
    /// The member to ask.
    pub from: NodeId,
    /// The position to continue from.
    pub position: LogPosition,
}

#[derive(Debug)]
struct LogPull {
    position: LogPosition,
    /// The node that announced the head. After the author it is the most likely to have the log.
    told_by: Option<NodeId>,
    failures: u32,
    /// The last member that failed. The next request goes to another member if there is one.
    avoided: Option<NodeId>,
    state: PullState,
}

#[derive(Debug, PartialEq, Eq)]
enum PullState {
    Waiting { until: Instant },
    Asked { from: NodeId, since: Instant },
    PutOff { until: Instant },
}

/// The schedule of pulls.
#[derive(Debug)]
pub(crate) struct Pulls {
    pulls: BTreeMap<NodeId, LogPull>,
    /// Members that did not answer lately. Until the given time, other members are preferred.
    silent: BTreeMap<NodeId, Instant>,
    /// When the last search found no request to send, if nothing has changed since then.
    searched: Option<Instant>,
    rng: StdRng,
}

impl Pulls {
    /// Creates an empty schedule. `rng` chooses among members that may have a log.
    pub(crate) fn new(rng: StdRng) -> Self {
        Self {
            pulls: BTreeMap::new(),
            silent: BTreeMap::new(),
            searched: None,
            rng,
        }
    }

    /// Requests the log of `author` from `position` on, after a newer head was seen. A postponed log
    /// stays postponed. An open request is left as it is, unless the asked member is silent and
    /// another one has the log. Then the other is asked too.
    pub(crate) fn want(
        &mut self,
        now: Instant,
        author: NodeId,
        position: LogPosition,
        told_by: Option<NodeId>,
    ) {
        self.searched = None;
        let fresh = LogPull {
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
            PullState::Asked { from, .. } => {
                let is_silent = self.silent.contains_key(&from);
                if is_silent && told_by.is_some_and(|other| other != from) {
                    pull.position = position;
                    pull.told_by = told_by;
                    pull.state = PullState::Waiting { until: now };
                }
            }
        }
    }

    /// Delays the log of an author for [`PUT_OFF`], because there was no room for it.
    pub(crate) fn postpone(&mut self, now: Instant, author: NodeId) {
        self.searched = None;
        let until = now + PUT_OFF;
        self.pulls.insert(
            author,
            LogPull {
                position: LogPosition { epoch: 0, after: 0 },
                told_by: None,
                failures: 0,
                avoided: None,
                state: PullState::PutOff { until },
            },
        );
    }

    /// Continues after an answer with more to come. An answer without progress came from a node
    /// that lacks the wanted records. It counts as a failure, and another node is asked after a
    /// pause.
    pub(crate) fn advance(&mut self, now: Instant, author: NodeId, position: LogPosition) {
        self.searched = None;
        if let Some(pull) = self.pulls.get_mut(&author) {
            if pull.position == position {
                return self.fail(now, author);
            }
            pull.position = position;
            pull.failures = 0;
            pull.state = PullState::Waiting { until: now };
        }
    }

    /// Ends the pull of a log.
    pub(crate) fn finish(&mut self, author: NodeId) {
        self.searched = None;
        self.pulls.remove(&author);
    }

    /// Records a request to `from` that ended without an answer. If it took longer than [`SOON`],
    /// the member counts as silent for [`SILENT_FOR`]. Has no effect if another member is asked
    /// meanwhile.
    pub(crate) fn fail_silently(&mut self, now: Instant, author: NodeId, from: NodeId) {
        let Some(since) = self.asked_since(author, from) else {
            return;
        };
        if now.saturating_duration_since(since) > SOON {
            self.mark_silent(now, from);
        }
        self.fail(now, author);
    }

    /// Records that `from` answered a request without a part of the log. Has no effect if another
    /// member is asked meanwhile.
    pub(crate) fn refuse(&mut self, now: Instant, author: NodeId, from: NodeId) {
        if self.asked_since(author, from).is_some() {
            self.fail(now, author);
        }
    }

    /// Returns since when a member is asked for a log, or `None` if it is not asked now.
    fn asked_since(&self, author: NodeId, member: NodeId) -> Option<Instant> {
        match self.pulls.get(&author)?.state {
            PullState::Asked { from, since } if from == member => Some(since),
            _ => None,
        }
    }

    /// Records that a member did not answer another request. It counts as silent for
    /// [`SILENT_FOR`].
    pub(crate) fn mark_silent(&mut self, now: Instant, node: NodeId) {
        self.silent.insert(node, now + SILENT_FOR);
    }

    /// Records that a member answered.
    pub(crate) fn mark_answered(&mut self, from: &NodeId) {
        self.searched = None;
        self.silent.remove(from);
    }

    /// Records a failed try. The next try follows after a pause.
    pub(crate) fn fail(&mut self, now: Instant, author: NodeId) {
        self.searched = None;
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

    /// Restarts a pull at `position`, because the log did not match its head. The next try goes to
    /// another member if there is one.
    pub(crate) fn restart(&mut self, now: Instant, author: NodeId, position: LogPosition) {
        self.fail(now, author);
        if let Some(pull) = self.pulls.get_mut(&author) {
            pull.position = position;
        }
    }

    /// Forgets a member that is gone. The requests that it has not answered become due at once.
    pub(crate) fn forget_member(&mut self, now: Instant, node: NodeId) {
        self.searched = None;
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

    /// Returns the next request, given the live members, or `None` if none is due or too many are
    /// in flight. The first try for a part goes to the author, if that is live and not silent.
    /// Otherwise it goes to the node that announced the head, if that is live and not silent. All
    /// other tries go to random members. Of several logs that are due, the one with the fewest
    /// failures goes first, then the one that is due for longest.
    pub(crate) fn next_step(&mut self, now: Instant, members: &[NodeId]) -> Option<PullStep> {
        self.expire_silent(now);
        let due = |(author, pull): (&NodeId, &LogPull)| match pull.state {
            PullState::Waiting { until } | PullState::PutOff { until } if until <= now => {
                Some((pull.failures, until, *author))
            }
            _ => None,
        };
        let mut due: Vec<_> = self.pulls.iter().filter_map(due).collect();
        due.sort_unstable();
        for (_, _, author) in due {
            let Some(from) = self.choose_source(now, author, members) else {
                self.fail(now, author);
                continue;
            };
            if self.is_busy(&author, &from) {
                continue;
            }
            let pull = self.pulls.get_mut(&author)?;
            pull.state = PullState::Asked { from, since: now };
            return Some(PullStep {
                author,
                from,
                position: pull.position,
            });
        }
        self.searched = Some(now);
        None
    }

    /// Returns whether any log is wanted, leaving out postponed logs and those that failed
    /// [`HOPELESS`] times in sequence.
    pub(crate) fn is_any_coming(&self) -> bool {
        let is_coming = |pull: &LogPull| {
            pull.failures < HOPELESS && !matches!(pull.state, PullState::PutOff { .. })
        };
        self.pulls.values().any(is_coming)
    }

    /// Returns when [`Self::next_step`] should be called again, if nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        // A log that was due at the last search waits for the end of another pull.
        let is_new = |until: &Instant| self.searched.is_none_or(|searched| *until > searched);
        let until = |pull: &LogPull| match pull.state {
            PullState::Waiting { until } | PullState::PutOff { until } => {
                Some(until).filter(is_new)
            }
            PullState::Asked { since, .. } => Some(since + PART_PATIENCE),
        };
        self.pulls.values().filter_map(until).min()
    }

    /// Returns whether no further log may be requested from this member now. Logs from their authors
    /// and logs from other members do not delay each other.
    fn is_busy(&self, author: &NodeId, from: &NodeId) -> bool {
        let is_direct = author == from;
        let asked = self
            .pulls
            .iter()
            .filter_map(|(of, pull)| match &pull.state {
                PullState::Asked { from, .. } if (of == from) == is_direct => Some(from),
                _ => None,
            });
        let (mut all, mut of_member) = (0, 0);
        for member in asked {
            all += 1;
            of_member += usize::from(member == from);
        }
        all >= PULLS_AT_ONCE_MAX || (!is_direct && of_member >= PULLS_PER_MEMBER_MAX)
    }

    fn expire_silent(&mut self, now: Instant) {
        let over = |(author, pull): (&NodeId, &LogPull)| match pull.state {
            PullState::Asked { from, since } if since + PART_PATIENCE <= now => {
                Some((*author, from))
            }
            _ => None,
        };
        let over: Vec<(NodeId, NodeId)> = self.pulls.iter().filter_map(over).collect();
        over.into_iter()
            .for_each(|(author, from)| self.fail_silently(now, author, from));
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
