//! Mount broker: a process that has the permission to mount and does nothing else.
//!
//! The module decides which mounts are kept from one daemon to the next, which clients are served,
//! and which system calls the process may make. It never opens anything beneath a mount, starts no
//! program, and reads no configuration.
//!
//! To review the code that runs with the permission to mount, read `process` and `kept_mount`,
//! which make the decisions (under 300 lines of code together), `protocol`, which has all messages,
//! `notifier`, which passes messages to the kernel,
//! and `filter`, a list of system calls. Then read the calls themselves, which a daemon that runs
//! as root makes too: the module [`crate::mounting`], with `files::mountinfo`. All of it is about
//! 1000 lines, and `tests/text/tidy.rs` enforces the limits. The client side is in the daemon:
//! `fuse::mounter`.

mod filter;
mod kept_mount;
mod notifier;
pub mod process;
pub mod protocol;

/// Path of the mount broker's socket, unless `P2PFS_BROKER` names another.
pub const SOCKET: &str = "/run/p2pfs-broker.sock";
