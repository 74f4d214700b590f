//! Whole nodes in one thread, over a simulated network, in virtual time, from one seed.
//!
//! Each node is the pure machine of production (membership, catalogue, pulls) beside the session of
//! its fetches; proofs are encoded and decoded as on the wire, and questions travel as frames. What
//! the harness stands for itself is small: sockets (`network`), the disk (`disk`), the folder and
//! the cache (`contents`), and the glue that a node's loop is (`running`, `fetching`). `model` is
//! the merge that the views are held to. The other modules are promises, each held over many
//! seeds; `P2PFS_SEEDS` asks for another number of them, and a failure names its seed.

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
mod strangers;
mod turns;
mod world;
