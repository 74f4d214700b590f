//! Leaving, and members that announced their return.
//!
//! A farewell is sent several times to each member directly, or to many random ones in a large
//! cluster. Each member to which it is news passes it on, so few members miss it. A member that
//! hears its own farewell although it has not left contradicts it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::{SMALL_CLUSTER, SMALL_CLUSTER_SLACK};
use super::event::{DownReason, Event, Leave, Member};
use super::lives::NodeLives;
use p2pfs_proto::wire::native::udp::{DatagramFrame, Farewell, Rumor};
use p2pfs_types::id::{Generation, NodeId};

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

impl OngoingFarewell {
    /// Creates a farewell. Its first transmission is due at once.
    pub(super) fn new(now: Instant, how: Leave) -> Self {
        Self {
            how,
            left: FAREWELLS,
            next: Some(now),
        }
    }

    /// Sends the farewell if that is due. Reports [`Event::Left`] after the last transmission.
    pub(super) fn send_due(&mut self, now: Instant, lives: &mut NodeLives) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        let me = lives.links.process.me();
        let departure = lives.admission.vouchers.sign_departure(me, self.how);
        let farewell = || DatagramFrame::Rumors(vec![Rumor::Departure(departure)]);
        self.left -= 1;
        let last = self.left == 0 || lives.roster.live().is_empty();
        self.next = (!last).then(|| now + FAREWELL_GAP);
        for member in lives.some_members(SMALL_CLUSTER + SMALL_CLUSTER_SLACK) {
            lives.links.send_to(now, &member, farewell());
        }
        for address in lives.copies.addresses_of(&me.node) {
            lives.links.send(now, address, farewell());
        }
        if last {
            lives.events.push_back(Event::Left);
        }
    }
}

/// A member that announced its return.
struct MemberAbsence {
    generation: Generation,
    until: Instant,
}

/// The members that announced their return.
pub(super) struct Absences {
    away: BTreeMap<NodeId, MemberAbsence>,
    grace: Duration,
}

impl Absences {
    /// Creates an empty table. `grace` is the time within which a member should return.
    pub(super) fn new(grace: Duration) -> Self {
        let away = BTreeMap::new();
        Self { away, grace }
    }

    pub(super) fn is_away(&self, node: &NodeId) -> bool {
        self.away.contains_key(node)
    }

    /// Returns the generation in which a member went away.
    pub(super) fn generation_of(&self, node: &NodeId) -> Option<Generation> {
        self.away.get(node).map(|absence| absence.generation)
    }

    /// Records that a member went away.
    pub(super) fn add(&mut self, now: Instant, member: &Member) {
        let absence = MemberAbsence {
            generation: member.generation,
            until: now + self.grace,
        };
        self.away.insert(member.node, absence);
    }

    /// Forgets a member that has returned or that left for good.
    pub(super) fn remove(&mut self, node: &NodeId) {
        self.away.remove(node);
    }

    /// Returns when [`Self::end_due`] has something to report.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.away.values().map(|absence| absence.until).min()
    }

    /// Forgets members that did not return within the time of grace. Returns their ends.
    pub(super) fn end_due(&mut self, now: Instant) -> Vec<Event> {
        self.end(DownReason::Away, |_, absence| absence.until <= now)
    }

    /// Forgets members that are expelled. Returns their ends.
    pub(super) fn expel(&mut self, is_gone: impl Fn(&NodeId) -> bool) -> Vec<Event> {
        self.end(DownReason::Expelled, |node, _| is_gone(node))
    }

    fn end(
        &mut self,
        why: DownReason,
        is_over: impl Fn(&NodeId, &MemberAbsence) -> bool,
    ) -> Vec<Event> {
        let ended = self
            .away
            .extract_if(.., |node, absence| is_over(node, absence));
        ended.map(|(node, _)| Event::Down { node, why }).collect()
    }
}
