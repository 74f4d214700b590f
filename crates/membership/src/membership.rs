//! Exchange of member lists, removal of nodes that the keyring does not admit, and spreading of new
//! membership statements.

use super::*;
use p2pfs_proto::wire::native::udp::STATEMENT_MAX_BYTES;

// Gossip carries every statement that a member may sign.
const _: () = assert!(STATEMENT_MAX_BYTES == p2pfs_proto::trust::STATEMENT_MAX_BYTES);

impl Cluster {
    /// Returns this node and all known members that did not say farewell, for another member to
    /// merge.
    pub fn export_members(&self) -> Bytes {
        // The list would only say that such a member is down. Its farewell, which spreads by
        // itself, also says why.
        self.roster.export(|m| {
            self.spreading
                .rumors
                .farewell_of(&m.node, m.generation)
                .is_some()
        })
    }

    /// Merges the list that another member exported.
    ///
    /// # Errors
    /// [`ClusterError::BadMemberList`], [`ClusterError::ForgedMemberList`].
    pub fn merge_members(&mut self, now: Instant, list: &[u8]) -> Result<(), ClusterError> {
        if self.absences.leaving.is_some() {
            return Ok(());
        }
        let keyring = &self.admission.keyring;
        let is_member = |node: &NodeId| keyring.is_member(node);
        let counters = &mut self.links.counters;
        let merged = self.roster.merge(now, list, is_member, counters);
        self.settle(now);
        merged
    }

    /// Sets the wall clock in seconds since 1970, or that it is unknown. Lives that begin more than
    /// [`GENERATION_AHEAD_MAX_S`] later are refused.
    pub fn set_clock(&mut self, unix_s: Option<u64>) {
        self.admission.vouchers.set_clock(unix_s);
    }

    /// Spreads a membership statement that the owner has verified or made.
    pub fn spread_statement(&mut self, now: Instant, bytes: Bytes) {
        if bytes.len() <= STATEMENT_MAX_BYTES && self.spreading.rumors.state(now, bytes) {
            self.spread(now);
        }
    }

    /// Removes members that the keyring no longer has, together with their sessions, at once.
    pub fn enforce_membership(&mut self, now: Instant) {
        let keyring = Arc::clone(&self.admission.keyring);
        let is_gone = |node: &NodeId| !keyring.is_member(node);
        self.links.forget_strangers();
        let live = self.roster.live().values().copied();
        let gone: Vec<_> = live.filter(|member| is_gone(&member.node)).collect();
        for member in gone {
            self.roster.mark_down_silently(now, member);
        }
        let away: Vec<_> = self
            .absences
            .away
            .keys()
            .filter(|node| is_gone(node))
            .copied()
            .collect();
        for node in away {
            self.absences.away.remove(&node);
            let why = DownReason::Expelled;
            self.events.push_back(Event::Down { node, why });
        }
        self.settle(now);
    }
}
