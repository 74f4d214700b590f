//! What the tests and the benches stand on: daemons and their clusters, a mount of a content in
//! memory, a stand-in for a legacy peer, and how tests are found and run.

#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "each binary uses its own part"
)]

pub mod content;
pub mod daemon;
pub mod hostile;
pub mod lab;
pub mod legacy_peer;
pub mod memory;
pub mod mesh_peer;
pub mod mounted;
pub mod ports;
pub mod process;
pub mod promise;
pub mod seeds;
pub mod shell;
mod two_catalogues;
