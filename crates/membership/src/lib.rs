//! Cluster membership: the members that are alive, their addresses, and the news for every member.
//!
//! A pure state machine around the SWIM engine `foca`. It owns membership, the sealing of datagrams
//! and their sessions, seeds, farewells, and the spreading of log heads, which are opaque bytes
//! here. It never accesses a socket, a clock or a file. Its caller, the *owner*, passes in
//! datagrams and the time, and polls for datagrams to send, events, and the next wake-up. All
//! randomness derives from one seed. A whole cluster therefore runs in one test, in virtual time,
//! and replays exactly.
//!
//! | part | owns |
//! |---|---|
//! | `cluster` | the whole: calls of the owner, and changes of members |
//! | `lives` | proofs of other nodes: their links, lives and keys, and which of them are heard |
//! | `links` | sessions over sealed datagrams: challenge, replay window, queues, proven addresses |
//! | `reach` | the addresses that the owner was told, and NATs on the way |
//! | `vouch` | the statements that nodes have signed about themselves |
//! | `roster` | the engine: alive, suspect, down; generations; nodes that were only told of |
//! | `seeds` | the addresses to greet and when, without end |
//! | `spread`, `rumors` | heads, statements and departures, passed on for a few rounds |
//! | `sender_table` | news that members sent of other nodes; a sender displaces only its own |
//! | `push_pull` | when to exchange the whole member list |
//! | `farewell` | leaving, and members that are away |
//! | `offenders` | members that break the rules, and for how long they are ignored |
//! | `copies` | the processes that use each node's key, and keys that are used twice |
//!
//! A link authenticates the sender of a datagram. A node's life and departure are believed only if
//! that node signed them (`vouch`). Any member may claim that another one does not answer or is
//! gone. Such a claim makes the other member at most a suspect, which may contradict it.
//!
//! A call that returns [`ClusterError`] leaves the membership unchanged. Invalid datagrams are
//! dropped and counted ([`Counters`]).
//!
//! The owner's loop, after every call and until each poll returns nothing: send
//! [`Cluster::poll_transmit`] to the socket, handle [`Cluster::poll_event`], and sleep until
//! [`Cluster::poll_timeout`]. After a pause, queued datagrams should be handled before the timeout.
//! Otherwise answers that have already arrived may count as missing.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

use std::collections::BTreeMap;

use p2pfs_proto::wire::native::udp::{HEAD_MAX_BYTES, PAYLOAD_MAX_BYTES};

mod cluster;
mod config;
mod copies;
mod counters;
mod event;
mod farewell;
mod identity;
mod limits;
mod links;
mod lives;
mod offenders;
mod push_pull;
mod reach;
mod roster;
mod rumors;
mod seeds;
mod sender_table;
mod spread;
mod vouch;

pub use cluster::Cluster;
pub use config::{
    AWAY_GRACE, ClusterConfig, HEADS_MAX, LINKS_MAX, MEMBER_LIST_MAX_BYTES, MEMBERS_MAX,
    PROBE_PERIOD, SEEDS_MAX,
};
pub use counters::{Counters, ExcessCounters, UntrustedDatagrams, UnusableDatagrams};
pub use event::{DownReason, Event, Leave, Member, MemberState, MemberStatus, Offence, Transmit};
pub use limits::LIMITS;
pub use vouch::GENERATION_AHEAD_MAX_S;

/// The reason why a call is refused. The membership is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The body does not fit into a datagram.
    #[error("a message has at most {PAYLOAD_MAX_BYTES} bytes, this one {length_bytes}")]
    MessageTooLong {
        /// Length of the body.
        length_bytes: usize,
    },
    /// The head exceeds the size that gossip carries.
    #[error("a head has at most {HEAD_MAX_BYTES} bytes, this one {length_bytes}")]
    HeadTooLong {
        /// Length of the head.
        length_bytes: usize,
    },
    /// The node is not a living member. It may become one.
    #[error("not a living member")]
    NotAMember,
    /// The member list is malformed or longer than [`MEMBER_LIST_MAX_BYTES`].
    #[error("malformed member list")]
    BadMemberList,
    /// The member list has a life (a node and its generation) with a wrong signature.
    #[error("forged member list")]
    ForgedMemberList,
}

/// Returns the key of the entry with the smallest `since`, or `None` if the table is empty.
fn oldest<K: Copy, V, T: Ord>(table: &BTreeMap<K, V>, since: impl Fn(&V) -> T) -> Option<K> {
    let oldest = table.iter().min_by_key(|(_, it)| since(it));
    oldest.map(|(key, _)| *key)
}

#[cfg(test)]
mod tests;
