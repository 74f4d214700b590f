//! A cluster of nodes in one thread, over a simulated network, in virtual time, from one seed.
//!
//! `network` loses, delays, reorders, doubles and parts; `world` runs the machines; the other
//! modules are the promises that are held there. Nothing in here reads a clock or a hash map's
//! order, so the same seed replays exactly, and a failing seed is the whole report.

mod chaos;
mod copies;
mod hearsay;
mod membership;
mod network;
mod world;
