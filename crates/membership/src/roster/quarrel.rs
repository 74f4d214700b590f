//! Other lives of this very node: going on after them, and what becomes of the others' standing
//! while they talk to another process with the same key.
//!
//! Who is refused as a life that is over gets no answer to its probes. So what refuses it is taken
//! for the answer that it is, or two processes with one key would take the others for gone by
//! turns, and tell them so.

use super::super::identity::is_beyond;
use super::*;

/// How fast this node may go on as a new generation: some at once for a hard restart, then slowly,
/// so that two processes with one key do not fill the network with their quarrel.
pub(super) const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
pub(super) const RENEWALS_AT_ONCE: u32 = 6;
/// The same once the other process is known: each of the two is then heard for a while.
const QUARREL_PERIOD: Duration = Duration::from_secs(30);
/// So many times longer may a suspect contradict then: who is refused hears of it only when it
/// speaks to the suspect again.
const QUARREL_PATIENCE: u32 = 5;
/// Other lives of this node that wait to be looked for; a further one is told again.
const OTHER_LIVES_MAX: usize = 8;

/// A later life of this node that somebody told of, and whether this node goes on after it.
pub(in super::super) type OtherLife = (Contact, bool);

impl Roster {
    /// Goes on as the life after `heard`, where that is a later one than this.
    pub(in super::super) fn outlive(&mut self, now: Instant, heard: Generation) {
        let me = *self.engine.identity();
        if heard < me.0.generation {
            return;
        }
        if let Some(next) = me.after(heard) {
            self.become_life(now, next);
        }
    }

    /// Whether a contradiction is allowed now; takes it from the allowance.
    pub(in super::super) fn take_renewal(&mut self, now: Instant) -> bool {
        self.renewals.take(1, now)
    }

    /// The next later life of this node that members told of.
    pub(in super::super) fn poll_other_life(&mut self) -> Option<OtherLife> {
        self.other_lives.pop_front()
    }

    /// Another process uses this node's key, or does no more.
    pub(in super::super) fn quarrel(&mut self, now: Instant, begins: bool) {
        self.quarrels = begins;
        self.renewals = if begins {
            TokenBucket::one_in(QUARREL_PERIOD, 1, now)
        } else {
            TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now)
        };
        self.tuned_for = 0;
        self.tune();
    }

    /// How long a suspect of a small cluster may contradict.
    pub(super) fn patience(&self) -> Duration {
        if self.quarrels {
            self.suspicion * QUARREL_PATIENCE
        } else {
            self.suspicion
        }
    }

    /// A member answers that this life is over, and by that it answers.
    pub(in super::super) fn refused_by(&mut self, now: Instant, member: &NodeId) {
        let is_it = |it: &&Update| it.id().0.node == *member && it.state() != State::Down;
        let known = self.engine.iter_membership_state().find(is_it).cloned();
        let Some(known) = known else {
            return;
        };
        let mut incarnation = known.incarnation();
        if known.state() == State::Suspect {
            incarnation = incarnation.saturating_add(1);
            let there = Update::new(*known.id(), incarnation, State::Alive);
            let _ = self
                .engine
                .apply_many(std::iter::once(there), false, &mut self.runtime);
        }
        if let Some(number) = self.answers.unanswered(member) {
            let answer = Header {
                src: *known.id(),
                src_incarnation: incarnation,
                dst: *self.engine.identity(),
                message: foca::Message::Ack(number),
            };
            let answer = encode(&answer, &[], &self.vouchers);
            let _ = self.engine.handle_data(&answer, &mut self.runtime);
        }
        self.drain(now);
    }

    /// Goes on after a later life that was told, where it `may`.
    pub(super) fn go_on_after(&mut self, now: Instant, later: Contact, may: bool) {
        if may {
            self.outlive(now, later.generation);
        }
        if self.other_lives.len() < OTHER_LIVES_MAX {
            self.other_lives.push_back((later, may));
        }
    }

    /// Whether a packet that makes us go on as another generation comes when that is allowed; where
    /// not, what makes us is taken out of it.
    pub(super) fn contradicts_in_time(
        &mut self,
        now: Instant,
        header: &Header,
        updates: &mut Vec<Update>,
    ) -> bool {
        let me = *self.engine.identity();
        let later = self.later_self(updates);
        let forced = header.message == foca::Message::TurnUndead
            || updates.iter().any(|u| self.ends_this_life(u))
            || later.is_some();
        if !forced || self.take_renewal(now) {
            return true;
        }
        if let Some(later) = later {
            self.go_on_after(now, later, false);
        }
        updates.retain(|u| u.id().0.node != me.0.node);
        false
    }

    /// A later life of this very node among the updates.
    pub(super) fn later_self(&self, updates: &[Update]) -> Option<Contact> {
        let me = self.engine.identity().0;
        let own = updates
            .iter()
            .map(|u| u.id().0)
            .filter(|contact| contact.node == me.node);
        own.filter(|contact| is_beyond(contact, &me))
            .max_by_key(|contact| contact.generation)
    }
}
