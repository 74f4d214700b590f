//! Sockets: the connections between nodes and their time limits.
//!
//! This module owns the TCP connections between nodes (`peer`: TLS, membership, lanes, limits), the
//! UDP socket of the gossip (`gossip`), the search for nodes on the local network (`lan`), and the way
//! of connections to the owner of the ledger (`ledger`). It
//! carries the messages of members, catalogues and files and decides nothing about them. An error
//! of one connection ends no other connection.

mod error;
pub mod gossip;
pub mod lan;
mod ledger;
mod lookup;
pub mod peer;
mod port;
pub mod socket;

pub use error::NetError;
pub use ledger::{LedgerHandle, LedgerStopped};
pub use lookup::resolve_host;
pub use port::PortPair;
pub use socket::is_own;
