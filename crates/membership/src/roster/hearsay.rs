//! Claims against a node, which any member may make: that the node does not answer, or is gone.
//!
//! Either claim makes a living member at most a suspect. If other members call a member gone, this
//! node asks that member itself, and declares it down soon if it does not answer.

use super::answers::OWN_QUESTIONS;
use super::*;

/// Incarnation of a suspicion that a node can contradict only with its next life.
const LAST_INCARNATION: Incarnation = Incarnation::MAX;

impl Roster {
    /// Returns a claim reduced to what its teller can know. A claim against this node's present
    /// life becomes a suspicion. The claim that another node is gone becomes a suspicion if this
    /// node counts the other node as live, in that life or an earlier one. Otherwise returns
    /// `None`: if such a claim were passed on, members would keep reminding each other of nodes
    /// that are gone.
    pub(super) fn as_hearsay(&self, told: &Update) -> Option<Update> {
        let (life, incarnation) = (*told.id(), told.incarnation());
        let suspected = |incarnation| Update::new(life, incarnation, State::Suspect);
        let me = self.engine.identity();
        if life == *me && told.state() != State::Alive {
            // After a suspicion of the last incarnation but one, a contradiction would need the
            // last. No higher one would be left to contradict a further suspicion, however old. So
            // the suspicion is raised to the last incarnation, which ends this life at once.
            return Some(suspected(if incarnation >= LAST_INCARNATION - 1 {
                LAST_INCARNATION
            } else {
                incarnation
            }));
        }
        if told.state() != State::Down || life.0.node == me.0.node {
            return Some(told.clone());
        }
        let known = self.live.get(&life.0.node);
        let lives = known.is_some_and(|known| known.generation <= life.0.generation);
        lives.then(|| suspected(incarnation))
    }

    /// Returns whether a later life of another node is known, so that claims about `life` do not
    /// matter.
    pub(super) fn is_over(&self, life: &Contact) -> bool {
        let is_other = life.node != self.engine.identity().0.node;
        is_other && self.vouchers.is_over(life)
    }

    /// Returns whether a claim is about this node's present life and forces it into its next one.
    pub(super) fn ends_this_life(&self, told: &Update) -> bool {
        let is_last = told.incarnation() == LAST_INCARNATION;
        told.id() == self.engine.identity() && told.state() == State::Suspect && is_last
    }

    /// Runs `hand_over`, which passes the believed part of `told` to the engine. Then asks the
    /// nodes that `told` calls gone.
    pub(super) fn accept_hearsay(
        &mut self,
        now: Instant,
        told: &[Update],
        hand_over: impl FnOnce(&mut Self),
    ) {
        hand_over(self);
        self.drain(now);
        let me = self.engine.identity().0.node;
        let is_over = |it: &&Update| it.state() == State::Down && it.id().0.node != me;
        for it in told.iter().filter(is_over) {
            self.doubt(now, &it.id().0.node);
        }
    }

    /// Begins to ask a suspect that other members call gone.
    fn doubt(&mut self, now: Instant, node: &NodeId) {
        if !self.live.contains_key(node) {
            return;
        }
        let is_it = |it: &&Update| it.id().0.node == *node && it.state() == State::Suspect;
        let suspect = self.engine.iter_membership_state().find(is_it);
        let (Some(suspect), Some(token)) = (suspect, self.token) else {
            return;
        };
        let (member_id, incarnation) = (*suspect.id(), suspect.incarnation());
        let timer = Timer::ChangeSuspectToDown {
            member_id,
            incarnation,
            token,
        };
        let is_asked = self.answers.is_called_gone(node, incarnation);
        if !is_asked || !self.timers.holds(&timer) {
            // The teller has already waited for the suspect. In a large cluster not all members
            // have met, and an answer takes longer.
            let (all, small) = (self.time_to_contradict(), self.patience());
            let usual = all.saturating_sub(small) / 2 + small / 24;
            // The round trip to a node that never answered is unknown, but no path takes as long as
            // half of `small`.
            let patience = match self.answers.round_trip(node) {
                Some(_) => usual,
                None => usual.max(small / 2),
            };
            let patience = patience / OWN_QUESTIONS;
            self.answers.called_gone(*node, incarnation, patience, now);
            self.timers.hasten(now, timer);
        }
    }

    /// If this timer would declare a suspect down and that is postponed, returns until when. The
    /// suspect is then asked again.
    pub(super) fn puts_off(&mut self, now: Instant, timer: &Timer<MemberLife>) -> Option<Instant> {
        let Timer::ChangeSuspectToDown {
            member_id: MemberLife(suspect),
            incarnation,
            ..
        } = timer
        else {
            return None;
        };
        let as_told = (*suspect, *incarnation, State::Suspect);
        let is_it = |it: &Update| (it.id().0, it.incarnation(), it.state()) == as_told;
        let is_suspect = self.engine.iter_membership_state().any(is_it);
        let node = is_suspect.then_some(suspect.node)?;
        let me = self.engine.identity().0.node;
        let others_live = self
            .engine
            .iter_membership_state()
            .any(|it| it.state() == State::Alive && it.id().0.node != me);
        let until = self
            .answers
            .postpone(&node, *incarnation, others_live, now)?;
        self.confront(now, *suspect, *incarnation);
        Some(until)
    }

    /// Tells a suspect about the suspicion and asks it for an answer. The answer has a higher
    /// incarnation, which contradicts the suspicion.
    fn confront(&mut self, now: Instant, suspect: Contact, incarnation: Incarnation) {
        let header = Header {
            src: *self.engine.identity(),
            // The suspect knows this incarnation of this node, the lowest, or a later one, so the
            // packet tells it nothing new about this node.
            src_incarnation: Incarnation::default(),
            dst: MemberLife(suspect),
            message: foca::Message::Gossip,
        };
        let suspicion = Update::new(MemberLife(suspect), incarnation, State::Suspect);
        let told = encode(&header, &[suspicion], &self.vouchers);
        self.sends.push_back((suspect, told.into()));
        self.announce(now, suspect);
    }

    /// Removes the updates that do not fit into the table of members. Returns whether there is room
    /// for the teller.
    pub(super) fn make_fit(
        &self,
        teller: Option<&NodeId>,
        told: &mut Vec<Update>,
        counters: &mut Counters,
    ) -> bool {
        let held = self.engine.iter_membership_state().len();
        let mut room = MEMBERS_MAX.saturating_sub(held);
        if told.len() < room {
            return true;
        }
        let me = self.engine.identity().0.node;
        let is_new = |node: &NodeId| *node != me && self.generation_of(node).is_none();
        let mut fits = |node: &NodeId| {
            let is_new = is_new(node);
            let fits = !is_new || room > 0;
            room -= usize::from(is_new && fits);
            fits
        };
        let knows_teller = teller.is_none_or(&mut fits);
        let all = told.len();
        told.retain(|it| fits(&it.id().0.node));
        counters.excess.too_many_members += u64::from(!knows_teller || told.len() < all);
        knows_teller
    }
}
