//! Support for tests and benches: daemons and their clusters, a mount of contents in memory,
//! stand-ins for legacy and hostile peers, and the discovery and running of tests.

#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "each binary uses its own part"
)]

pub(crate) mod content;
pub(crate) mod daemon;
pub(crate) mod hostile;
pub(crate) mod lab;
pub(crate) mod legacy_peer;
pub(crate) mod memory;
pub(crate) mod mesh_peer;
pub(crate) mod mounted;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod promise;
pub(crate) mod seeds;
pub(crate) mod shell;
mod two_catalogues;
