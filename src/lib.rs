//! The program p2pfs: [`daemon`] runs a node with its configuration and control socket, and [`cli`]
//! has the commands.
//!
//! `docs/architecture.md` describes the crates that implement the node. A program that embeds a
//! node uses the crate `p2pfs-node`.

pub mod cli;
pub mod daemon;
