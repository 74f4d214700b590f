//! Sessions: the runs of peers' processes that proved their membership.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::ended::EndedSessions;
use super::pair::PairKey;
use super::seal::SealKey;
use super::window::ReplayWindow;
use crate::config::MESSAGES_PER_S;
use crate::counters::DatagramDropCause;
use p2pfs_proto::trust::TrustView;
use p2pfs_proto::wire::native::udp::{Contact, Header, Salt};
use p2pfs_types::bucket::TokenBucket;

/// A session: one run of a peer's process.
pub(super) struct LinkSession {
    pub(super) who: Contact,
    pub(super) key: SealKey,
    pub(super) pair: PairKey,
    pub(super) window: ReplayWindow,
    pub(super) messages: TokenBucket,
    /// Number of links at which the process is proven.
    links: usize,
}

/// The sessions by the salts of their processes, and those that ended. Only
/// [`LinkTable`](super::table::LinkTable) changes the set, so that each session counts its links.
pub(super) struct Sessions {
    current: BTreeMap<Salt, LinkSession>,
    ended: EndedSessions,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            current: BTreeMap::new(),
            ended: EndedSessions::new(),
        }
    }

    pub(super) fn get(&self, salt: &Salt) -> Option<&LinkSession> {
        self.current.get(salt)
    }

    pub(super) fn get_mut(&mut self, salt: &Salt) -> Option<&mut LinkSession> {
        self.current.get_mut(salt)
    }

    /// Returns whether the session of a datagram, current or ended, has not seen its counter.
    pub(super) fn is_fresh(&self, header: &Header) -> bool {
        match self.current.get(&header.salt) {
            Some(session) => session.window.is_fresh(header.counter),
            None => self.ended.is_fresh(&header.salt, header.counter),
        }
    }

    /// Begins the session of a process that proved itself with the datagram of this header, or
    /// updates the contact of a session. Either way the session counts one more link.
    pub(super) fn add_link(
        &mut self,
        now: Instant,
        header: &Header,
        who: Contact,
        (key, pair): (Option<SealKey>, PairKey),
    ) -> Result<(), DatagramDropCause> {
        if let Some(session) = self.current.get_mut(&header.salt) {
            if session.who.node != who.node {
                return Err(DatagramDropCause::TwoFaced);
            }
            session.who = who;
            session.links += 1;
            return Ok(());
        }
        let key = key.ok_or(DatagramDropCause::Unproven)?;
        let mut window = self.ended.resume(&header.salt);
        window.mark(header.counter);
        let session = LinkSession {
            who,
            key,
            pair,
            window,
            messages: TokenBucket::per_second(MESSAGES_PER_S, MESSAGES_PER_S, now),
            links: 1,
        };
        self.current.insert(header.salt, session);
        Ok(())
    }

    /// Counts one link less. A session without a link ends.
    pub(super) fn remove_link(&mut self, salt: Salt) {
        let Some(session) = self.current.get_mut(&salt) else {
            return;
        };
        session.links -= 1;
        if session.links == 0
            && let Some(ended) = self.current.remove(&salt)
        {
            self.ended.add(salt, ended.window);
        }
    }

    /// Returns the sessions of nodes that are not members any longer.
    pub(super) fn of_former_members(&self, trust: &TrustView) -> BTreeSet<Salt> {
        let sessions = self.current.iter();
        let gone = sessions.filter(|(_, session)| !trust.is_member(&session.who.node));
        gone.map(|(salt, _)| *salt).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::pair::KeyExchange;
    use p2pfs_proto::trust::{EpochSecret, TestKeyring};
    use p2pfs_types::id::{Generation, NodeId};

    fn who(n: u8) -> Contact {
        Contact {
            node: NodeId::new([n; 32]),
            address: ([10, 0, 0, n], 1378).into(),
            generation: Generation(1),
        }
    }

    /// Returns a header with this counter, and the keys of its process.
    fn proof(counter: u64) -> (Header, SealKey, PairKey) {
        let ring = TestKeyring::in_memory(EpochSecret::new([1; 32])).reader();
        let header = Header {
            epoch: ring.view().epochs().sealing().id(),
            salt: [7; 16],
            counter,
        };
        let theirs = KeyExchange::new([2; 32]);
        let pair = KeyExchange::new([1; 32]).with(theirs.public(), &who(1).node, &who(2).node);
        let key = SealKey::of(&ring, &header);
        (header, key.unwrap(), pair.unwrap())
    }

    #[test]
    fn a_session_ends_with_its_last_link_and_its_counters_stay_known() {
        let now = Instant::now();
        let mut sessions = Sessions::new();
        let (first, key, pair) = proof(5);
        assert!(sessions.is_fresh(&first));
        let begun = sessions.add_link(now, &first, who(2), (Some(key), pair));
        assert_eq!(begun, Ok(()));
        let (_, _, pair) = proof(5);
        let moved = sessions.add_link(now, &first, who(2), (None, pair));
        assert_eq!(moved, Ok(()));
        sessions.remove_link(first.salt);
        assert_eq!(sessions.len(), 1, "it has another link");
        sessions.remove_link(first.salt);
        assert_eq!((sessions.len(), sessions.is_fresh(&first)), (0, false));
        let (next, key, pair) = proof(6);
        let begun = sessions.add_link(now, &next, who(2), (Some(key), pair));
        assert_eq!(begun, Ok(()));
        assert!(!sessions.is_fresh(&first) && !sessions.is_fresh(&next));
    }

    #[test]
    fn a_session_belongs_to_one_node_and_begins_with_its_key() {
        let now = Instant::now();
        let mut sessions = Sessions::new();
        let (header, key, pair) = proof(5);
        let begun = sessions.add_link(now, &header, who(2), (None, pair));
        assert_eq!(begun, Err(DatagramDropCause::Unproven));
        assert_eq!(sessions.len(), 0);
        let (_, _, pair) = proof(5);
        let begun = sessions.add_link(now, &header, who(2), (Some(key), pair));
        assert_eq!(begun, Ok(()));
        let (_, key, pair) = proof(5);
        let other = sessions.add_link(now, &header, who(3), (Some(key), pair));
        assert_eq!(other, Err(DatagramDropCause::TwoFaced));
        assert_eq!(sessions.get(&header.salt).map(|it| it.who), Some(who(2)));
    }
}
