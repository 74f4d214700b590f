//! The process around a node: its configuration, its control socket, and the service that runs
//! them.
//!
//! [`config`] reads the settings, [`control`] is the interface for local programs, and `service` is
//! the daemon's life. Knows the node only through the interface of [`p2pfs_node::Node`], and decides
//! nothing about names, peers or bytes.

pub mod config;
pub mod control;
mod service;

pub use service::{copies, logging, run, systemd};
