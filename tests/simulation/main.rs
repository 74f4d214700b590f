//! Many schedules in virtual time, each from one seed: a cluster's membership, whole nodes, swarms,
//! and the filesystem against a kernel that caches everything.

mod cluster;
#[path = "../support/fluid.rs"]
mod fluid;
mod kernel_caches;
mod nodes;
#[path = "../support/mod.rs"]
mod support;
mod swarm;
