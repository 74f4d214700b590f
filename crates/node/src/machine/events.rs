//! The events and tasks for the owner of the machine, and the counts of dropped input.
//!
//! Behaviour that no honest node shows becomes a [`NodeEvent::Offended`].

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::EVENTS_MAX;
use crate::offence::Offence;
use p2pfs_catalogue::CatalogueError;
use p2pfs_membership::{ClusterError, DownReason, Member};
use p2pfs_proto::trust::{Fault, SignedStatement};
use p2pfs_proto::wire::native::tcp::Lane;
use p2pfs_proto::wire::native::udp::{Message, OfferSummary};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{Generation, NodeId};

/// An event or a task for the owner of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Another node is alive.
    PeerUp(Member),
    /// A live node is now reached at another address.
    PeerMoved(Member),
    /// Another node is no longer live, and its entries are removed from the namespace.
    PeerDown {
        /// The node that is no longer live.
        node: NodeId,
        /// The reason.
        why: DownReason,
    },
    /// Another node stopped cleanly and announced its return. Its entries stay. If it does not
    /// return within the time of grace, [`NodeEvent::PeerDown`] follows.
    PeerAway {
        /// The stopped node.
        node: NodeId,
    },
    /// Another node asks which nodes have these contents. Send it an offer of each content that
    /// this node has with [`Machine::send`](super::Machine::send).
    Wanted {
        /// The asking node.
        from: NodeId,
        /// Hashes of the contents.
        hashes: Vec<ContentHash>,
    },
    /// Another node offers a content.
    Offered {
        /// The offering node.
        from: NodeId,
        /// Address of the offering node.
        address: SocketAddr,
        /// The offer.
        offer: OfferSummary,
    },
    /// Another node cannot dial this one and asks to be dialled.
    Called {
        /// The calling node.
        from: NodeId,
        /// Address of the calling node.
        address: SocketAddr,
        /// Lane of the connection.
        lane: Lane,
    },
    /// This node has a new generation: store it as the lower bound for the next start.
    Renewed {
        /// The new generation.
        generation: Generation,
    },
    /// Two machines use one key, and a person must act. Repeated when one of them is heard at
    /// another address.
    CopiedKey {
        /// The node whose key is copied, possibly this one.
        node: NodeId,
        /// The known addresses of the other machine if the key is this node's, else those of both
        /// machines.
        addresses: Vec<SocketAddr>,
    },
    /// One of the two machines with this key has been silent for a while.
    CopyGone {
        /// The node whose key was copied.
        node: NodeId,
    },
    /// Another node breaks the rules of the cluster, and a person should know.
    Offended {
        /// The node that broke a rule.
        node: NodeId,
        /// The broken rule.
        what: Offence,
    },
    /// The ledger has a new statement of this node or another member. It admits or expels a node,
    /// or sets the cluster's secret or the owner of a path.
    Stated(Box<SignedStatement>),
    /// The keyring has changed, and nodes may have ceased to be members: end the connections with
    /// former members.
    MembershipChanged,
    /// Find out over TCP which node is at this address, and report it with
    /// [`AddressNews::Member`](super::AddressNews::Member).
    Knock {
        /// The address to probe.
        address: SocketAddr,
    },
    /// This node has more names than other nodes keep of one node. The excess is not announced.
    NamesRefused,
    /// The farewell is sent.
    Left,
}

/// Counts of dropped input, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineCounters {
    /// Heads that did not decode or whose signature is wrong.
    pub bad_heads: u64,
    /// Parts of logs that did not decode or had no valid head, that the catalogue refused, or after
    /// which the log did not match its head.
    pub bad_parts: u64,
    /// Own names that the own log could not take.
    pub refused_names: u64,
    /// Announcements of cached contents that the own log could not take.
    pub refused_haves: u64,
    /// Lists of readers of own shares that the own log could not take.
    pub refused_lists: u64,
    /// Refused heads of non-members, and heads or live nodes refused because of the limits on nodes
    /// and records.
    pub refused_heads: u64,
    /// Member lists that did not decode or contain forged claims.
    pub bad_member_lists: u64,
    /// Application messages that did not decode.
    pub bad_messages: u64,
}

/// The queued events and the counts of dropped input.
#[derive(Default)]
pub(super) struct MachineEvents {
    pub(super) queue: VecDeque<NodeEvent>,
    pub(super) counters: MachineCounters,
}

impl MachineEvents {
    pub(super) fn push(&mut self, event: NodeEvent) {
        self.queue.push_back(event);
    }

    pub(super) fn report_offence(&mut self, node: NodeId, what: Offence) {
        if self.queue.len() < EVENTS_MAX {
            self.push(NodeEvent::Offended { node, what });
        }
    }

    /// Reports the offence, if any, of a part of `author`'s log that the catalogue refused. A
    /// malformed part is an offence of its sender `from`, too many records are one of `author`.
    pub(super) fn report_bad_part(&mut self, author: NodeId, from: NodeId, why: &CatalogueError) {
        match why {
            CatalogueError::WrongAuthor
            | CatalogueError::BadOrder
            | CatalogueError::PartTooLong { .. }
            | CatalogueError::BadFact => self.report_offence(from, Offence::BadLog),
            CatalogueError::TooManyRecords { .. } => {
                self.report_offence(author, Offence::ListsTooMuch)
            }
            CatalogueError::Stale
            | CatalogueError::TooManyNodes
            | CatalogueError::TooManyReaders
            | CatalogueError::OverBudget => {}
        }
    }

    /// Reports the fault, if any, in statements that `from` sent.
    pub(super) fn report_bad_statement(&mut self, from: NodeId, fault: Option<Fault>) {
        match fault {
            Some(Fault::Garbage) => self.report_offence(from, Offence::Garbage),
            // An honest node verifies statements before it forwards them.
            Some(Fault::Forged) => self.report_offence(from, Offence::SpeaksForOthers),
            Some(Fault::Over(signer)) => self.report_offence(signer, Offence::StatesTooMuch),
            None => {}
        }
    }

    /// Counts and reports a list of members of `from` that was refused.
    pub(super) fn report_member_list(&mut self, from: NodeId, merged: Result<(), ClusterError>) {
        let offence = match merged {
            Ok(()) => return,
            Err(ClusterError::ForgedMemberList) => Offence::SpeaksForOthers,
            Err(_) => Offence::Garbage,
        };
        self.counters.bad_member_lists += 1;
        self.report_offence(from, offence);
    }

    /// Queues the request, offer or call in a datagram of `from`, or reports a datagram that does not
    /// decode. Drops an offer or a call if `address` is `None`, because its sender is not live.
    pub(super) fn receive_message(
        &mut self,
        from: NodeId,
        address: Option<SocketAddr>,
        body: &[u8],
    ) {
        let event = match (Message::decode(body), address) {
            (Ok(Message::Get { hashes }), _) => NodeEvent::Wanted { from, hashes },
            (Ok(Message::Offer(offer)), Some(address)) => NodeEvent::Offered {
                from,
                address,
                offer,
            },
            (Ok(Message::Call { lane }), Some(address)) => NodeEvent::Called {
                from,
                address,
                lane,
            },
            (Ok(Message::Offer(_) | Message::Call { .. }), None) => return,
            (Err(_), _) => {
                self.counters.bad_messages += 1;
                return self.report_offence(from, Offence::Garbage);
            }
        };
        if self.queue.len() < EVENTS_MAX {
            self.push(event);
        }
    }
}
