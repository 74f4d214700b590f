//! The process around a node: its configuration, its control socket, its mount, its log, and its
//! messages to the service manager.
//!
//! Owns the daemon's life ([`run`]) and the settings that it is started with. Knows the node only
//! through the interface of [`p2pfs_node::Node`], and decides nothing about names, peers or bytes.

mod answers;
pub mod config;
mod confine;
pub mod control;
pub mod copies;
mod fd_store;
mod folder;
mod in_force;
mod isolation;
mod journal;
#[cfg(feature = "legacy")]
mod legacy_peers;
mod limits;
pub mod logging;
mod memory;
mod metrics;
mod missing;
mod mount_rights;
mod node_config;
mod paced;
pub mod pieces;
mod rates;
mod reload;
pub mod run;
mod run_error;
mod seeds;
mod served;
mod sharing;
pub mod systemd;
mod telling;
mod watchdog;
