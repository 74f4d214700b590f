//! Answers of members: their delay, and whether members are heard at all. A link with seconds of
//! queued data delivers every answer, but each too late for its probe.
//!
//! This module owns the outstanding probes, the round trips, and how long the end of a suspect is
//! postponed ([`ProbeAnswers::postpone`]). The end is the moment at which the engine declares the
//! suspect down. It is postponed if the suspect was heard since this node last asked it, if this
//! node's own link is late, or if this node still has questions to a suspect that other members
//! call gone. [`PUT_OFF_MAX`] bounds the postponements, because a suspect that is heard but
//! receives nothing never contradicts.
//!
//! A queue delivers in order. The latest probe that any member answered therefore shows how far
//! this node's own link is: answers to later questions may still be on their way
//! ([`ProbeAnswers::latest`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use foca::{Incarnation, ProbeNumber};

use super::super::config::{MEMBERS_MAX, PROBE_PERIOD};
use p2pfs_types::id::NodeId;

/// Inverse weight of the newest sample in the moving average of round trips. The weight is 1/8, as
/// in RFC 6298.
const ROUND_TRIP_WEIGHT: u32 = 8;
/// Maximum number of unanswered probes of one member that are remembered: those of some seconds if
/// there is only one member to probe. Beyond it the oldest is forgotten.
const PROBES_MAX: usize = 8;
/// Maximum number of measured nodes, members included. Beyond it, the round trip of a further node
/// is recorded only once this node probes it, and only members are probed. Without this limit, a
/// peer that greets with ever new keys would make the table grow without bound.
const MEASURED_MAX: usize = 2 * MEMBERS_MAX;
/// Time after which a suspect that was heard is asked again. It exceeds the queueing delay of a
/// link that is still usable (seconds in routers with too much memory; Gettys and Nichols 2011).
const ASK_AGAIN: Duration = Duration::from_secs(4);
/// Time since the first postponement after which declaring a suspect down is not postponed again.
/// The suspect hears of the suspicion and contradicts within a round trip or two, or it is
/// unreachable.
const PUT_OFF_MAX: Duration = Duration::from_secs(12);
/// Time to wait for an answer, as a multiple of the delay of the member's last answer, or of the
/// delay of the latest answered probe of any member if that is longer.
const LATE_MULTIPLE: u32 = 2;
/// Time from the probe of a suspect until the suspect counts as down, as a multiple of the time to
/// wait for an answer: one wait for the answer to the probe, and one for the contradiction.
const CONTRADICTION_MULTIPLE: u32 = 2;
/// Number of unanswered questions of this node to a member that others call gone, before the member
/// counts as down. A single question is easily lost.
pub(super) const OWN_QUESTIONS: u32 = 4;
/// Time after which a suspect is judged again if this node's own link was in doubt. The next probe
/// is the next chance of an answer.
const JUDGE_AGAIN: Duration = PROBE_PERIOD;

/// Measurements of one member.
#[derive(Debug, Default)]
struct MemberMeasurements {
    probes: VecDeque<(ProbeNumber, Instant)>,
    average: Option<Duration>,
    /// Delay of the member's last answer.
    last: Duration,
    heard: Option<Instant>,
    suspicion: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// Incarnation of the suspicion. A member that contradicts has a higher one.
    incarnation: Incarnation,
    /// When the member was last probed, suspected or asked a question, whichever is latest.
    asked: Instant,
    /// When the end of the suspect was first postponed.
    put_off: Option<Instant>,
    /// For a member that others call gone: how many more questions this node asks it, and the
    /// minimum time to wait for each answer. A question is a probe of a suspect. With none left,
    /// the member counts as down.
    questions: Option<(u32, Duration)>,
}

/// Measurements of all members.
#[derive(Default)]
pub(crate) struct ProbeAnswers {
    members: BTreeMap<NodeId, MemberMeasurements>,
    /// Of the answered probes of all members, the one that was sent last. If a probe sent later is
    /// answered earlier, the cause of the older probe's delay is its member, and not this node's
    /// own link.
    latest: Option<AnsweredProbe>,
}

#[derive(Clone, Copy, Debug)]
struct AnsweredProbe {
    asked: Instant,
    round_trip: Duration,
}

impl ProbeAnswers {
    /// Records that a member is probed.
    pub(super) fn record_probe(&mut self, node: NodeId, number: ProbeNumber, now: Instant) {
        let probes = &mut self.members.entry(node).or_default().probes;
        probes.push_back((number, now));
        if probes.len() > PROBES_MAX {
            probes.pop_front();
        }
    }

    /// Returns the last probe of a member that it has not answered yet.
    pub(super) fn unanswered(&self, node: &NodeId) -> Option<ProbeNumber> {
        let (number, _) = self.members.get(node)?.probes.back()?;
        Some(*number)
    }

    /// Records the answer to a probe, in time or late.
    pub(super) fn record_answer(&mut self, node: NodeId, number: ProbeNumber, now: Instant) {
        let probes = &mut self.members.entry(node).or_default().probes;
        let Some(place) = probes.iter().position(|probe| probe.0 == number) else {
            return;
        };
        // Earlier probes were answered too late, or never.
        let answered = probes.drain(..=place).next_back();
        if let Some((_, asked)) = answered {
            let round_trip = now.saturating_duration_since(asked);
            self.record_round_trip(node, round_trip);
            if self.latest.is_none_or(|latest| latest.asked <= asked) {
                self.latest = Some(AnsweredProbe { asked, round_trip });
            }
        }
    }

    /// Records a measured round trip.
    pub(crate) fn record_round_trip(&mut self, node: NodeId, round_trip: Duration) {
        if self.members.len() >= MEASURED_MAX && !self.members.contains_key(&node) {
            return;
        }
        let known = self.members.entry(node).or_default();
        let average = known.average.unwrap_or(round_trip);
        known.average = Some((average * (ROUND_TRIP_WEIGHT - 1) + round_trip) / ROUND_TRIP_WEIGHT);
        known.last = round_trip;
    }

    /// Returns the moving average of a member's answers.
    pub(super) fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        self.members.get(node)?.average
    }

    /// Records that a datagram sealed by a member arrived.
    pub(crate) fn record_arrival(&mut self, node: NodeId, now: Instant) {
        // A node without an entry has no suspicion here, for which the time would matter.
        if let Some(known) = self.members.get_mut(&node) {
            known.heard = Some(now);
        }
    }

    /// Records that the engine suspects a member, usually because the last probe was not answered
    /// in time. Changes nothing if this node already asks the member because of
    /// [`Self::called_gone`].
    pub(super) fn suspect(&mut self, node: NodeId, incarnation: Incarnation, now: Instant) {
        if self.is_called_gone(&node, incarnation) {
            return;
        }
        let known = self.members.entry(node).or_default();
        let asked = known.probes.back().map_or(now, |(_, sent)| *sent);
        known.suspicion = Some(Suspicion {
            incarnation,
            asked,
            put_off: None,
            questions: None,
        });
    }

    /// Returns whether this node asks a suspect because other members call the suspect gone.
    pub(super) fn is_called_gone(&self, node: &NodeId, incarnation: Incarnation) -> bool {
        let suspicion = self.members.get(node).and_then(|known| known.suspicion);
        suspicion.is_some_and(|it| it.incarnation == incarnation && it.questions.is_some())
    }

    /// Clears the suspicion of a member that has begun another life.
    pub(super) fn clear_suspicion(&mut self, node: &NodeId) {
        if let Some(known) = self.members.get_mut(node) {
            known.suspicion = None;
        }
    }

    /// Records that other members call `node` gone. The node has at least `patience` to answer each
    /// question of this node.
    pub(super) fn called_gone(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        patience: Duration,
        now: Instant,
    ) {
        let known = self.members.entry(node).or_default();
        known.suspicion = Some(Suspicion {
            incarnation,
            asked: now,
            put_off: None,
            questions: Some((OWN_QUESTIONS, patience)),
        });
    }

    /// Forgets everything about a former member except its delays, because it may return over the
    /// same link.
    pub(super) fn ended(&mut self, node: &NodeId) {
        if let Some(known) = self.members.get_mut(node) {
            *known = MemberMeasurements {
                average: known.average,
                last: known.last,
                ..MemberMeasurements::default()
            };
        }
    }

    /// Forgets a member.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.members.remove(node);
    }

    /// Returns until when the end of a suspect is postponed, or `None` if it is not. If it is, the
    /// caller must ask the suspect again now. `others_live` says whether there is a member that is
    /// not a suspect.
    ///
    /// If no member has answered since the suspect was asked, this node's own link may be at fault
    /// (the local health of Lifeguard, Dadgar et al. 2018, by another measure). The silence then
    /// counts only if all members are suspects.
    pub(super) fn postpone(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        others_live: bool,
        now: Instant,
    ) -> Option<Instant> {
        let latest = self.latest;
        let known = self.members.get_mut(node)?;
        let suspicion = known.suspicion.as_mut();
        let suspicion = suspicion.filter(|it| it.incarnation == incarnation)?;
        let end = *suspicion.put_off.get_or_insert(now) + PUT_OFF_MAX;
        if now >= end {
            return None;
        }
        let is_heard = known.heard > Some(suspicion.asked);
        let is_link_late = latest.is_none_or(|latest| latest.asked < suspicion.asked);
        if others_live && is_link_late && !is_heard && suspicion.questions.is_none() {
            return Some(end.min(now + JUDGE_AGAIN));
        }
        let own = latest.map(|latest| latest.round_trip).unwrap_or_default();
        let as_late = known.last.max(own) * LATE_MULTIPLE;
        let until = match (is_heard, &mut suspicion.questions) {
            (true, _) => now + ASK_AGAIN,
            // This wait begins at the last question. If it began now, each call would extend it, up
            // to `PUT_OFF_MAX`.
            (false, None) => {
                let until = suspicion.asked + as_late * CONTRADICTION_MULTIPLE;
                return (until > now).then_some(until.min(end));
            }
            (false, Some((0, _))) => return None,
            (false, Some((left, patience))) => {
                *left -= 1;
                now + as_late.max(*patience)
            }
        };
        suspicion.asked = now;
        (until > now).then_some(until.min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn node() -> NodeId {
        NodeId::new([7; 32])
    }

    #[test]
    fn a_late_answer_still_measures_its_own_probe() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        for number in 0..4 {
            let at = start + u32::from(number) * SECOND;
            answers.record_probe(node(), number, at);
        }
        answers.record_answer(node(), 1, start + 3 * SECOND);
        assert_eq!(answers.round_trip(&node()), Some(2 * SECOND));
        answers.record_answer(node(), 0, start + 100 * SECOND);
        answers.record_answer(node(), 1, start + 100 * SECOND);
        assert_eq!(answers.round_trip(&node()), Some(2 * SECOND));
        assert_eq!(answers.unanswered(&node()), Some(3));
    }

    #[test]
    fn nodes_that_greet_and_never_join_are_remembered_up_to_a_limit() {
        let (mut answers, now) = (ProbeAnswers::default(), Instant::now());
        answers.record_round_trip(node(), SECOND);
        for n in 0..2 * MEASURED_MAX as u64 {
            let mut bytes = [9; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            answers.record_round_trip(NodeId::new(bytes), SECOND);
            answers.record_arrival(NodeId::new(bytes), now);
        }
        assert_eq!(answers.members.len(), MEASURED_MAX);
        answers.record_round_trip(node(), 9 * SECOND);
        assert_eq!(answers.round_trip(&node()), Some(2 * SECOND));
    }

    #[test]
    fn a_node_unheard_since_the_probe_gets_no_extension() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        answers.record_round_trip(node(), Duration::from_millis(1));
        answers.record_arrival(node(), start);
        answers.record_probe(node(), 1, start);
        answers.suspect(node(), 0, start + SECOND);
        assert_eq!(
            answers.postpone(&node(), 0, false, start + 2 * SECOND),
            None
        );
        let stranger = NodeId::new([8; 32]);
        assert_eq!(answers.postpone(&stranger, 0, false, start), None);
    }

    #[test]
    fn a_node_declared_down_is_probed_some_times_before_removal() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        answers.record_arrival(node(), start);
        answers.called_gone(node(), 0, SECOND, start);
        let mut now = start + SECOND;
        for _ in 0..OWN_QUESTIONS {
            assert_eq!(answers.postpone(&node(), 0, false, now), Some(now + SECOND));
            now += SECOND;
        }
        assert_eq!(answers.postpone(&node(), 0, false, now), None);
    }

    #[test]
    fn a_node_heard_since_the_probe_gets_a_bounded_extension() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        answers.record_probe(node(), 1, start);
        answers.suspect(node(), 0, start + SECOND);
        let (first, mut rounds) = (start + 2 * SECOND, 0);
        let mut now = first;
        loop {
            answers.record_arrival(node(), now);
            let Some(until) = answers.postpone(&node(), 0, false, now) else {
                break;
            };
            (now, rounds) = (until, rounds + 1);
        }
        assert_eq!((now - first, rounds), (PUT_OFF_MAX, 3));
        // The member contradicted, and is suspected again.
        answers.record_probe(node(), 9, now);
        answers.suspect(node(), 1, now);
        answers.record_arrival(node(), now + SECOND);
        assert!(answers.postpone(&node(), 1, false, now + SECOND).is_some());
        assert_eq!(answers.postpone(&node(), 0, false, now + SECOND), None);
    }

    #[test]
    fn the_latest_answered_probe_shows_the_delay_of_the_own_link() {
        let ms = Duration::from_millis;
        let other = |n| NodeId::new([n; 32]);
        // The second probe's answer overtakes the first one's in the second case alone.
        for (second, expected) in [(2000, Some(8000)), (1, None)] {
            let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
            answers.record_probe(node(), 1, start);
            answers.record_probe(other(1), 2, start);
            answers.record_probe(other(2), 3, start + ms(1));
            answers.suspect(node(), 0, start + SECOND);
            answers.record_answer(other(2), 3, start + ms(1 + second));
            answers.record_answer(other(1), 2, start + ms(2000));
            let until = answers.postpone(&node(), 0, true, start + ms(2200));
            assert_eq!(until, expected.map(|after| start + ms(after)));
        }
    }

    #[test]
    fn silence_counts_after_an_answer_to_a_later_probe_or_if_all_are_suspects() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        let other = NodeId::new([8; 32]);
        answers.record_probe(other, 1, start);
        answers.record_probe(node(), 2, start + SECOND / 2);
        answers.suspect(node(), 0, start + SECOND);
        answers.record_answer(other, 1, start);
        let now = start + 2 * SECOND;
        let until = Some(now + JUDGE_AGAIN);
        assert_eq!(answers.postpone(&node(), 0, true, now), until);
        assert_eq!(answers.postpone(&node(), 0, false, now), None);
        answers.record_probe(other, 3, now);
        answers.record_answer(other, 3, now);
        assert_eq!(answers.postpone(&node(), 0, true, now), None);
    }

    #[test]
    fn silence_of_all_is_excused_for_a_bounded_time() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        answers.suspect(node(), 0, start);
        let mut now = start;
        while let Some(until) = answers.postpone(&node(), 0, true, now) {
            now = until;
        }
        assert_eq!(now, start + PUT_OFF_MAX);
    }

    #[test]
    fn a_node_that_answered_late_before_gets_time_to_contradict_once() {
        let (mut answers, start) = (ProbeAnswers::default(), Instant::now());
        answers.record_round_trip(node(), 2 * SECOND);
        answers.record_probe(node(), 1, start);
        answers.suspect(node(), 0, start + SECOND);
        let until = start + 8 * SECOND;
        assert_eq!(
            answers.postpone(&node(), 0, false, start + 3 * SECOND),
            Some(until)
        );
        assert_eq!(answers.postpone(&node(), 0, false, until), None);
        // However late the answers were, the time is bounded.
        answers.record_round_trip(node(), 60 * SECOND);
        answers.record_probe(node(), 2, until);
        answers.suspect(node(), 0, until);
        let end = until + PUT_OFF_MAX;
        assert_eq!(answers.postpone(&node(), 0, false, until), Some(end));
        assert_eq!(answers.postpone(&node(), 0, false, end), None);
    }
}
