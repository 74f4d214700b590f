//! Identities, names, byte ranges and content hashes, and small mechanisms that several crates of
//! p2pfs share.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

pub mod age;
pub mod bucket;
pub mod digest;
pub mod extent;
pub mod file_name;
pub mod files;
pub mod host;
pub mod id;
pub mod keyed_buckets;
pub mod least;
pub mod limit;
mod limits;
pub mod offences;
pub mod path;
pub mod pool;
pub mod read;
pub mod stall;
pub mod utc;

pub use limits::LIMITS;
