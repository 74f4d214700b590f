//! Sending of news. This node's own log head goes at once to all members of a small cluster. All
//! news (`rumors`) goes in rounds to some random members. Occasional repetitions of the own head
//! reach members that were missed by chance.

use std::ops::Bound;

use super::*;
use rumors::ROUND_FANOUT;

/// Minimum time between two transmissions of this node's own head to all members. A head in between
/// is sent at the end of the pause.
const DIRECT_GAP: Duration = Duration::from_millis(100);
/// Time between two repetitions of this node's own head. Each goes to one member, in the order of
/// node ids. A member that missed the head therefore receives it within one pass over all members.
const REFRESH_PERIOD: Duration = Duration::from_secs(5);

/// Schedule of this node's own head.
pub(super) struct OwnHead {
    direct: Option<Instant>,
    earliest: Instant,
    refresh: Option<Instant>,
    refreshed: Option<NodeId>,
}

impl OwnHead {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            direct: None,
            earliest: now,
            refresh: None,
            refreshed: None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.direct.into_iter().chain(self.refresh).min()
    }
}

impl Cluster {
    /// Makes `bytes` the newest head of `author` and spreads it. Returns false if a head of the
    /// same or a higher rank is stored. The owner calls this for this node's own heads, and for a
    /// head of another author after it has verified the signature ([`Event::Head`]).
    ///
    /// # Errors
    /// [`ClusterError::HeadTooLong`].
    pub fn set_head(
        &mut self,
        now: Instant,
        author: NodeId,
        rank: (u64, u64),
        bytes: Bytes,
    ) -> Result<bool, ClusterError> {
        let length_bytes = bytes.len();
        if length_bytes > HEAD_MAX_BYTES {
            return Err(ClusterError::HeadTooLong { length_bytes });
        }
        let head = Head {
            author,
            rank,
            bytes,
        };
        if !self.spreading.rumors.confirm(now, head) {
            return Ok(false);
        }
        if author == self.links.me().node {
            self.spreading.head.direct = Some(self.spreading.head.earliest.max(now));
            self.spreading
                .head
                .refresh
                .get_or_insert(now + REFRESH_PERIOD);
        }
        if self.absences.leaving.is_none() {
            self.spread(now);
        }
        Ok(true)
    }

    /// Sends the news that is due.
    pub(super) fn spread(&mut self, now: Instant) {
        if self.spreading.head.direct.is_some_and(|at| at <= now) {
            self.spreading.head.direct = None;
            self.spreading.head.earliest = now + DIRECT_GAP;
            if self.spreading.small {
                let all: Vec<_> = self.roster.live().values().copied().collect();
                self.send_head(now, &all);
            }
        }
        if self.spreading.head.refresh.is_some_and(|at| at <= now) {
            self.spreading.head.refresh = Some(now + REFRESH_PERIOD);
            let next = self.next_to_refresh();
            self.spreading.head.refreshed = next.map(|member| member.node);
            self.send_head(now, next.as_slice());
        }
        let frames = self.spreading.rumors.round(now);
        if frames.is_empty() {
            return;
        }
        for member in self.some_members(ROUND_FANOUT) {
            for frame in &frames {
                self.links.send_to(now, &member, frame.clone());
            }
        }
    }

    /// Sends this node's head to a new member of a small cluster.
    pub(super) fn introduce_head(&mut self, now: Instant, member: Member) {
        if let Some(head) = self.spreading.rumors.head(&self.links.me().node)
            && self.spreading.small
        {
            self.links.send_to(now, &member, Frame::Rumors(vec![head]));
        }
    }

    fn next_to_refresh(&self) -> Option<Member> {
        let live = self.roster.live();
        let after = |node| (Bound::Excluded(node), Bound::Unbounded);
        let next = self
            .spreading
            .head
            .refreshed
            .and_then(|last| live.range(after(last)).next());
        next.or_else(|| live.first_key_value())
            .map(|(_, member)| *member)
    }

    fn send_head(&mut self, now: Instant, members: &[Member]) {
        let Some(head) = self.spreading.rumors.head(&self.links.me().node) else {
            return;
        };
        for member in members {
            self.links
                .send_to(now, member, Frame::Rumors(vec![head.clone()]));
        }
    }
}
