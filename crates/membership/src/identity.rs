//! Identity of a member in the membership engine.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

use p2pfs_proto::wire::native::udp::Contact;
use p2pfs_types::id::{Generation, NodeId};

/// One life of a node. Two lives are equal if node and generation are equal. A node that moves to
/// another address takes a new generation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct MemberLife(pub(super) Contact);

impl PartialEq for MemberLife {
    fn eq(&self, other: &Self) -> bool {
        (self.0.node, self.0.generation) == (other.0.node, other.0.generation)
    }
}

impl Eq for MemberLife {}

impl MemberLife {
    /// Returns the same node and address with the generation after `heard` or its own, whichever is
    /// later. Returns `None` after the last generation.
    pub(super) fn after(&self, heard: Generation) -> Option<Self> {
        let next = self.0.generation.max(heard).0.checked_add(1)?;
        Some(Self(Contact {
            generation: Generation(next),
            ..self.0
        }))
    }

    /// Returns the next life, at another address.
    pub(super) fn moved_to(&self, address: SocketAddr) -> Option<Self> {
        let next = self.after(self.0.generation)?;
        Some(Self(Contact { address, ..next.0 }))
    }
}

/// Returns whether the life `heard` is later than the life `than`, or has another known address in
/// the same generation. A process takes a new generation with each address, so such a life belongs
/// to another process.
pub(super) fn is_beyond(heard: &Contact, than: &Contact) -> bool {
    let is_known = |it: &Contact| !it.address.ip().is_unspecified();
    let elsewhere = is_known(heard) && is_known(than) && heard.address != than.address;
    heard.generation > than.generation || (heard.generation == than.generation && elsewhere)
}

impl Identity for MemberLife {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        self.after(self.0.generation)
    }

    fn addr(&self) -> NodeId {
        self.0.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.0.generation > adversary.0.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(generation: u64) -> MemberLife {
        let address = "10.0.0.1:1378".parse().unwrap();
        let generation = Generation(generation);
        MemberLife(Contact {
            node: NodeId::new([1; 32]),
            address,
            generation,
        })
    }

    #[test]
    fn a_renewed_generation_wins_over_the_previous_one() {
        let renewed = life(3).renew().unwrap();
        assert!(renewed.win_addr_conflict(&life(3)));
        assert!(!life(3).win_addr_conflict(&renewed));
        assert_ne!(renewed, life(3));
    }

    #[test]
    fn a_generation_after_a_ghost_is_above_both() {
        assert_eq!(
            life(3).after(Generation(9)).map(|l| l.0.generation),
            Some(Generation(10))
        );
        assert_eq!(
            life(9).after(Generation(3)).map(|l| l.0.generation),
            Some(Generation(10))
        );
        assert_eq!(life(3).after(Generation(u64::MAX)), None);
    }
}
