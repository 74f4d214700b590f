//! Other lives of this node, and members that refuse the present life because they know a later
//! one.
//!
//! A member that refuses this node's life does not answer its probes. The refusal therefore counts
//! as an answer. Otherwise each of two processes with one key would in turn believe the other
//! members gone, and pass that on.

use super::super::identity::is_beyond;
use super::*;

/// Interval at which members may force this node into one more new generation. A restart after a
/// crash needs some at once, so a burst of [`RENEWALS_AT_ONCE`] is allowed. The limit keeps two
/// processes with one key from flooding the network with contradictions.
pub(super) const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
pub(super) const RENEWALS_AT_ONCE: u32 = 6;
/// Minimum time between two forced new generations while another process is known to use this
/// node's key. Each of the two processes is then heard for a while.
const QUARREL_PERIOD: Duration = Duration::from_secs(30);
/// Factor by which a suspect has longer to contradict while another process is known to use this
/// node's key. A suspect that refuses this node's life contradicts by its refusal, and the refusal
/// arrives only after this node sends it something again.
const QUARREL_PATIENCE: u32 = 5;
/// Maximum number of other lives of this node that wait to be examined. Further ones are dropped,
/// because members report them again.
const OTHER_LIVES_MAX: usize = 8;

/// A later life of this node that a member reported, and whether this node continues after it.
pub(in super::super) type OtherLife = (Contact, bool);

impl Roster {
    /// Continues with the life after `heard`, if `heard` is not older than the present life.
    pub(in super::super) fn outlive(&mut self, now: Instant, heard: Generation) {
        let me = *self.engine.identity();
        if heard < me.0.generation {
            return;
        }
        if let Some(next) = me.after(heard) {
            self.become_life(now, next);
        }
    }

    /// Returns whether a contradiction is allowed now, and consumes the allowance.
    pub(in super::super) fn take_renewal(&mut self, now: Instant) -> bool {
        self.own_key.renewals.take(1, now)
    }

    /// Returns the next later life of this node that members reported.
    pub(in super::super) fn poll_other_life(&mut self) -> Option<OtherLife> {
        self.own_key.other_lives.pop_front()
    }

    /// Records that another process has begun to use this node's key (`begins`), or that no other
    /// process uses it any longer.
    pub(in super::super) fn quarrel(&mut self, now: Instant, begins: bool) {
        self.own_key.quarrels = begins;
        self.own_key.renewals = if begins {
            TokenBucket::one_in(QUARREL_PERIOD, 1, now)
        } else {
            TokenBucket::one_in(RENEWAL_PERIOD, RENEWALS_AT_ONCE, now)
        };
        self.tuning.tuned_for = 0;
        self.tune();
    }

    /// Returns the time for which a suspect of a small cluster can contradict.
    pub(super) fn patience(&self) -> Duration {
        if self.own_key.quarrels {
            self.tuning.suspicion * QUARREL_PATIENCE
        } else {
            self.tuning.suspicion
        }
    }

    /// Records that a member refused this node's life. The refusal counts as its answer.
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

    /// If a renewal is allowed (`may`), continues with a later generation than `later`, a life of
    /// this node that a member reported. Whether allowed or not, queues `later` for
    /// [`Self::poll_other_life`], unless [`OTHER_LIVES_MAX`] lives are queued already.
    pub(super) fn go_on_after(&mut self, now: Instant, later: Contact, may: bool) {
        if may {
            self.outlive(now, later.generation);
        }
        if self.own_key.other_lives.len() < OTHER_LIVES_MAX {
            self.own_key.other_lives.push_back((later, may));
        }
    }

    /// Returns false if a packet would force this node into another generation and that is not
    /// allowed now. In that case removes the updates about this node.
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

    /// Returns the latest life of this node among the updates that is beyond the present one
    /// ([`is_beyond`]).
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
