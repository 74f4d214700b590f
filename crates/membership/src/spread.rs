//! News, sent and received. This node's own log head goes at once to all members of a small
//! cluster. All news (`rumors`) goes in rounds to some random members. Occasional repetitions of
//! the own head reach members that were missed by chance.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{
    BROADCAST_DATAGRAMS_PER_S, BROADCAST_SUBSET, SMALL_CLUSTER, SMALL_CLUSTER_SLACK,
};
use super::event::{Event, Member};
use super::lives::NodeLives;
use super::rumors::{ROUND_FANOUT, Rumors};
use p2pfs_proto::wire::native::udp::{DatagramFrame, EncodedHead};
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::id::NodeId;

/// Minimum time between two transmissions of this node's own head to all members. A head in between
/// is sent at the end of the pause.
const DIRECT_GAP: Duration = Duration::from_millis(100);
/// Time between two repetitions of this node's own head. Each goes to one member, in the order of
/// node ids, so one pass over all members repeats the head to each of them.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);

/// Schedule of this node's own head.
struct OwnHead {
    direct: Option<Instant>,
    earliest: Instant,
    refresh: Option<Instant>,
    refreshed: Option<NodeId>,
}

impl OwnHead {
    fn new(now: Instant) -> Self {
        Self {
            direct: None,
            earliest: now,
            refresh: None,
            refreshed: None,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.direct.into_iter().chain(self.refresh).min()
    }
}

/// The news that this node spreads, and to how many members at once.
pub(super) struct Spreading {
    pub(super) rumors: Rumors,
    broadcasts: TokenBucket,
    head: OwnHead,
    /// Whether the cluster is small, so that heads and broadcasts go to each member.
    pub(super) small: bool,
}

impl Spreading {
    pub(super) fn new(now: Instant) -> Self {
        let per_s = BROADCAST_DATAGRAMS_PER_S;
        Self {
            rumors: Rumors::new(),
            broadcasts: TokenBucket::per_second(per_s, per_s, now),
            head: OwnHead::new(now),
            small: true,
        }
    }

    /// Schedules the transmission of a new head of this node.
    pub(super) fn schedule_own_head(&mut self, now: Instant) {
        self.head.direct = Some(self.head.earliest.max(now));
        self.head.refresh.get_or_insert(now + REFRESH_PERIOD);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let rounds = self.rumors.poll_timeout();
        rounds.into_iter().chain(self.head.poll_timeout()).min()
    }

    /// Sends the news that is due.
    pub(super) fn send_due(&mut self, now: Instant, lives: &mut NodeLives) {
        if self.head.direct.is_some_and(|at| at <= now) {
            self.head.direct = None;
            self.head.earliest = now + DIRECT_GAP;
            if self.small {
                let all: Vec<_> = lives.roster.live().values().copied().collect();
                self.send_head(now, &all, lives);
            }
        }
        if self.head.refresh.is_some_and(|at| at <= now) {
            self.head.refresh = Some(now + REFRESH_PERIOD);
            let next = self.next_to_refresh(lives.roster.live());
            self.head.refreshed = next.map(|member| member.node);
            self.send_head(now, next.as_slice(), lives);
        }
        let frames = self.rumors.round(now);
        if frames.is_empty() {
            return;
        }
        for member in lives.some_members(ROUND_FANOUT) {
            for frame in &frames {
                lives.links.send_to(now, &member, frame.clone());
            }
        }
    }

    /// Reports a head that a member sent to the owner, if it is news and its author is a member.
    pub(super) fn receive_head(&mut self, from: NodeId, head: EncodedHead, lives: &mut NodeLives) {
        let is_member = lives.admission.trust.is_member(&head.author);
        if is_member && self.rumors.is_news(from, &head) {
            lives.push_bounded(Event::Head { from, head });
        }
    }

    /// Reports a statement that a member sent to the owner, if it was not heard before.
    pub(super) fn receive_statement(&mut self, from: NodeId, bytes: Bytes, lives: &mut NodeLives) {
        if self.rumors.is_unheard_statement(from, &bytes) {
            lives.push_bounded(Event::Statement { from, bytes });
        }
    }

    /// Sends this node's head to a new member of a small cluster.
    pub(super) fn introduce_head(&self, now: Instant, member: Member, lives: &mut NodeLives) {
        if self.small {
            self.send_head(now, &[member], lives);
        }
    }

    /// Sends a message to every member of a small cluster, otherwise to some random ones. Returns
    /// the number of members to which it was queued.
    pub(super) fn broadcast(&mut self, now: Instant, body: &Bytes, lives: &mut NodeLives) -> usize {
        let count = if self.small {
            usize::MAX
        } else {
            BROADCAST_SUBSET
        };
        let mut reached = 0;
        for member in lives.some_members(count) {
            if !self.broadcasts.take(1, now) {
                lives.links.counters.excess.overflow += 1;
                break;
            }
            let message = DatagramFrame::Message(body.clone());
            lives.links.send_to(now, &member, message);
            reached += 1;
        }
        reached
    }

    /// Updates whether the cluster is small or large. The slack prevents frequent changes between
    /// the two.
    pub(super) fn resize(&mut self, members: usize) {
        if self.small && members > SMALL_CLUSTER + SMALL_CLUSTER_SLACK {
            self.small = false;
        } else if !self.small && members < SMALL_CLUSTER - SMALL_CLUSTER_SLACK {
            self.small = true;
        }
    }

    fn next_to_refresh(&self, live: &BTreeMap<NodeId, Member>) -> Option<Member> {
        let after = |node| (Bound::Excluded(node), Bound::Unbounded);
        let last = self.head.refreshed;
        let next = last.and_then(|last| live.range(after(last)).next());
        next.or_else(|| live.first_key_value())
            .map(|(_, member)| *member)
    }

    fn send_head(&self, now: Instant, members: &[Member], lives: &mut NodeLives) {
        let Some(head) = self.rumors.head(&lives.links.process.me().node) else {
            return;
        };
        for member in members {
            let head = DatagramFrame::Rumors(vec![head.clone()]);
            lives.links.send_to(now, member, head);
        }
    }
}
