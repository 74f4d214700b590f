//! Leaving, and members that announced their return.
//!
//! A farewell is sent several times to each member directly, or to many random ones in a large
//! cluster. Each member that hears of it passes it on, so loss does not keep it from any member. A
//! member that hears its own farewell although it has not left contradicts it.

use super::*;
use p2pfs_proto::wire::native::udp::{Departure, Farewell};

/// Number of times that a farewell is sent, and the time between.
const FAREWELLS: u32 = 3;
const FAREWELL_GAP: Duration = Duration::from_millis(60);

/// A farewell that is being sent.
pub(super) struct OngoingFarewell {
    how: Farewell,
    left: u32,
    /// Time of the next transmission, or none after the last one.
    pub(super) next: Option<Instant>,
}

/// A member that announced its return.
pub(super) struct MemberAbsence {
    generation: Generation,
    until: Instant,
}

impl Cluster {
    /// Sends the farewell: at once and twice more, until [`Event::Left`] (120 ms later) says that
    /// the process may end. From now on membership packets and rumors are ignored.
    pub fn leave(&mut self, now: Instant, how: Leave) {
        if self.absences.leaving.is_none() {
            self.absences.leaving = Some(OngoingFarewell {
                how,
                left: FAREWELLS,
                next: Some(now),
            });
            self.send_farewell(now);
        }
    }

    pub(super) fn send_farewell(&mut self, now: Instant) {
        let Some(leaving) = self.absences.leaving.as_mut() else {
            return;
        };
        if leaving.next.is_none_or(|at| now < at) {
            return;
        }
        let departure = self
            .admission
            .vouchers
            .sign_departure(self.links.me(), leaving.how);
        leaving.left -= 1;
        let last = leaving.left == 0 || self.roster.live().is_empty();
        leaving.next = (!last).then(|| now + FAREWELL_GAP);
        for member in self.some_members(SMALL_CLUSTER + SMALL_CLUSTER_SLACK) {
            let farewell = Frame::Rumors(vec![Rumor::Departure(departure)]);
            self.links.send_to(now, &member, farewell);
        }
        for address in self.own_copies() {
            self.links.send(
                now,
                address,
                Frame::Rumors(vec![Rumor::Departure(departure)]),
            );
        }
        if last {
            self.events.push_back(Event::Left);
        }
    }

    /// Returns whether a farewell, if it is genuine, ends the present life of this node, of a
    /// living member or of an absent one.
    pub(super) fn is_news_of(&self, departure: &Departure) -> bool {
        let Departure { who, .. } = departure;
        let me = self.links.me();
        let live = self.roster.live().get(&who.node);
        let away = self
            .absences
            .away
            .get(&who.node)
            .map(|absence| absence.generation);
        let here = live.map(|member| member.generation).or(away);
        let here = here.or((who.node == me.node).then_some(me.generation));
        here.is_some_and(|generation| generation <= who.generation)
    }

    /// Handles a farewell that is news and is signed by its node.
    pub(super) fn handle_departure(&mut self, now: Instant, departure: Departure) {
        let Departure { who, how, .. } = departure;
        if who.node == self.links.me().node {
            self.contradict(now, who.generation);
            return;
        }
        if !self.spreading.rumors.depart(now, departure) {
            return;
        }
        if self.roster.live().contains_key(&who.node) {
            self.roster.mark_down_silently(now, who);
        } else if how == Farewell::Final {
            self.absences.away.remove(&who.node);
            self.seeds.remove_lost(&who.node);
            self.events.push_back(Event::Down {
                node: who.node,
                why: DownReason::Left,
            });
        }
    }

    /// Reports how a membership that the engine ended has ended.
    pub(super) fn end_membership(&mut self, now: Instant, member: Member) {
        let node = member.node;
        let farewell = self.spreading.rumors.farewell_of(&node, member.generation);
        if farewell != Some(Farewell::Final) {
            self.seeds.add_lost(node, self.links.addresses(&member));
        }
        let event = match farewell {
            _ if !self.admission.keyring.is_member(&node) => Event::Down {
                node,
                why: DownReason::Expelled,
            },
            Some(Farewell::Away) => {
                let until = now + self.config.away_grace;
                let absence = MemberAbsence {
                    generation: member.generation,
                    until,
                };
                self.absences.away.insert(node, absence);
                Event::Away { node }
            }
            Some(Farewell::Final) => Event::Down {
                node,
                why: DownReason::Left,
            },
            None => Event::Down {
                node,
                why: DownReason::Failed,
            },
        };
        self.events.push_back(event);
    }

    pub(super) fn absence_timeout(&self) -> Option<Instant> {
        self.absences
            .away
            .values()
            .map(|absence| absence.until)
            .min()
    }

    pub(super) fn end_absences(&mut self, now: Instant) {
        let over = |absence: &MemberAbsence| absence.until <= now;
        let ended: Vec<_> = self
            .absences
            .away
            .iter()
            .filter(|(_, a)| over(a))
            .map(|(node, _)| *node)
            .collect();
        for node in ended {
            self.absences.away.remove(&node);
            self.events.push_back(Event::Down {
                node,
                why: DownReason::Away,
            });
        }
    }
}
