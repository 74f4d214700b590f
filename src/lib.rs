//! p2pfs: the files that a group of machines share, as one folder on each of them.

pub mod broker;
pub mod cache;
pub mod catalogue;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod digest;
pub mod extent;
pub mod fs;
pub mod fuse;
pub mod id;
pub mod net;
pub mod node;
pub mod path;
pub mod share;
pub mod transfer;
pub mod trust;
pub mod wire;
