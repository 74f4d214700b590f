//! Whole nodes in one thread, over a simulated network, in virtual time, from one seed.
//!
//! Each node is the pure machine of production (membership, catalogue, pulls) with the session of
//! its fetches. Proofs are encoded and decoded as on the wire, and requests travel as frames. The
//! harness replaces little: sockets (`network`), the disk (`disk`), the folder and the cache
//! (`contents`), and the glue of a node's loop (`running`, `fetching`). `model` is the merge to
//! which views are compared. The other modules are promises, each tested with many seeds.
//! `P2PFS_SEEDS` changes their number, and a failure names its seed.

mod chaos;
pub(crate) mod contents;
mod disk;
mod expulsion;
mod fetching;
mod identity;
mod model;
mod namespace;
mod network;
mod ownership;
mod reading;
mod running;
mod statements;
mod strangers;
mod turns;
mod world;
