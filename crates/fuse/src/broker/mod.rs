//! The mount broker: a process that has the right to mount, and does nothing else.
//!
//! Owns which mounts are kept from one daemon to the next, whom it hears, and what its process may
//! ask of the kernel. Never opens anything beneath a mount, starts no program, and reads no
//! configuration.
//!
//! To know what runs with the right to mount, read `process` and `kept_mount`, which decide (under
//! 300 lines of code together), `protocol`, which is all that it hears and says, and `filter`, a
//! list of system calls; then the calls themselves, which a daemon that is root makes too: the
//! module [`crate::mounting`], with `files::mountinfo`. All of it together is under 1000 lines,
//! which `tests/text/tidy.rs` holds. What the daemon says to it is the daemon's: `fuse::mounter`.

mod filter;
mod kept_mount;
pub mod process;
pub mod protocol;

/// The mount broker's socket, unless `P2PFS_BROKER` names another.
pub const SOCKET: &str = "/run/p2pfs-broker.sock";
