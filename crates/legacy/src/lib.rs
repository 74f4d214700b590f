//! The two older text protocols: the discovery protocol (UDP questions, plain TCP transfers) and
//! the mesh (chat and pushed files). The *original programs* are the two older programs that speak
//! these protocols; *legacy peers* are running instances of them.
//!
//! Start at [`LegacyPeers`]: it implements [`ForeignPeers`](p2pfs_node::ForeignPeers), so that a
//! node has the peers of both protocols. [`mesh`] is the whole mesh but its formats. Of the
//! discovery protocol, [`discovery_plane`] has the tasks and sockets, and [`discovery`] the pure
//! state machine that they drive. [`wire`] has the formats of both and their limits.

pub mod discovery;
pub mod discovery_plane;
mod limits;
pub mod mesh;
mod peers;
pub mod wire;

use std::net::SocketAddrV4;

pub use limits::LIMITS;
pub use peers::{LegacyPeers, LegacyPeersSettings};

/// Callback that returns whether an address belongs to this node.
pub type IsOwn = Box<dyn Fn(SocketAddrV4) -> bool + Send>;
