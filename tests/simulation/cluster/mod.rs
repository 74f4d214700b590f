//! A cluster of nodes in one thread, over a simulated network, in virtual time, from one seed.
//!
//! `network` loses, delays, reorders, duplicates and partitions. `world` runs the machines. The
//! other modules are the promises. No code here reads a clock or depends on the order of a hash
//! map, so a seed replays exactly and is the whole report of a failure.

mod chaos;
mod copies;
mod hearsay;
mod membership;
mod network;
mod world;
