//! Sockets: what goes over the wire, to whom, over which connection, and how long we wait for it.
//!
//! Owns the TCP connections between nodes (`peer`: TLS, membership, lanes, limits), the UDP socket
//! of the gossip (`gossip`), the search for nodes on the local network (`lan`), the legacy peers'
//! transfers (`legacy`) and their mesh (`mesh`). Decides nothing about members, catalogues or
//! files: it carries their messages. An error of one connection ends that connection and the
//! requests on it, and nothing else.

mod error;
pub mod gossip;
pub mod lan;
pub mod peer;
mod port;
pub mod socket;

pub use error::NetError;
pub use port::PortPair;
pub use socket::is_own;
