//! The program p2pfs: the daemon with its configuration and control socket, and the commands.
//!
//! `docs/architecture.md` describes the crates behind it. A program that embeds a node uses the
//! crate `p2pfs-node`.

pub mod cli;
pub mod daemon;
