//! The two older text protocols: the discovery protocol (UDP questions, plain TCP transfers) and
//! the mesh (chat and pushed files).
//!
//! [`LegacyPeers`] gives a node the peers of both: it implements
//! [`ForeignPeers`](p2pfs_node::ForeignPeers). [`discovery_plane`] and [`mesh_plane`] have the
//! tasks, [`discovery`] and [`mesh`] the pure state machines that they drive, [`wire`] the formats
//! and their limits, and [`net`] the sockets.

pub mod discovery;
pub mod discovery_plane;
mod limits;
pub mod mesh;
pub mod mesh_plane;
pub mod net;
mod peers;
pub mod wire;

pub use limits::LIMITS;
pub use peers::{LegacyPeers, LegacyPeersSettings};
