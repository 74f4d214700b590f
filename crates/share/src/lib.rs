//! The folders that this node shares: scanned, watched, hashed and served.
//!
//! This crate owns the listing of the local shares, the events that describe its changes
//! ([`ShareEvent`]), the hashes that are kept across restarts, and the outboards of shared files.
//! It opens shared names only beneath their folder, without following symbolic links and without
//! entering mounts of p2pfs (`openat2`). It never reads a fifo or a device, and does not
//! depend on the network. It writes into a share only to try whether the mount can (`writable`).
//!
//! The `scanner` is one thread. It reads the kernel's `reports`, checks the reported names
//! (`checking`), and has the `walker` read the directories. It passes each finding to the
//! `ListingState`, which alone decides what is listed and which puts files into the hash queue.
//! The states of a name and all their transitions are one table, drawn in `name_state`. `hasher`
//! threads read the queued files. Each change of the `ShareListing` is a [`ShareEvent`]. The
//! `order` module holds the event while an earlier change blocks it, then the scanner sends it.
//!
//! `proof` has the one rule that decides whether a file must be read: neither its times nor the
//! kernel's reports prove that its bytes are those of a known hash. Many filesystems have an identity
//! that survives a mount under another device number (`filesystems`). A file that was just written
//! is listed at once; its hash is *doubted* until it is proven, or until the file is read again at
//! rest. A hash taken while a process had the file open for writing is valid until that process
//! closes the file. The hash of a large file that only grew is made from the outboard of its listed
//! version (`extension`). Such a hash is in doubt until the file is read whole at rest. The former
//! versions of a file that grew are still served (`former`), each proven against its own hash.
//!
//! # Places
//!
//! A share may have a place: a path in the listing below which its files appear. Inside this crate,
//! every name is relative to the folder of its share. The place is put in front of a name where an
//! event is made (`ShareListing::listed_path`), and taken off where a path of the listing arrives
//! ([`SharedBytes::own`] and its neighbours). So no file is read to announce a change of the place:
//! each listed name is announced under its new path, and each path that is no longer listed as
//! removed.
//!
//! # Disks that do not answer
//!
//! A call on a filesystem may block forever after the server of the filesystem has gone away. So
//! the scanner accesses filesystems that may have a server through a `disk_thread`, and abandons
//! that thread when a call makes no progress. Hashers that read nothing for a long time, on any
//! disk, are abandoned and replaced (`at_work`). The share is skipped until the abandoned thread's
//! call returns, and is then walked.
//!
//! # The path of a new file
//!
//! The section of this name in `docs/architecture.md` follows a file from the kernel's report to
//! the log. `Scanner::round` makes the calls of the scanner there.
//!
//! # Errors
//!
//! A problem with one name leaves that name out, with a reason in [`ShareStatus`]. If the folder of
//! a share is gone or unreadable, nothing in the share is listed until the folder can be read
//! again. If its disk does not answer, its names stay listed.

mod absent;
mod at_work;
mod beneath;
mod checking;
mod checks;
mod config;
mod dependent_names;
mod disk_thread;
mod error;
mod exclude;
mod extension;
mod filesystems;
mod folder;
mod former;
mod former_numbers;
mod hasher;
mod identity;
mod kept;
mod ledger;
mod left_out;
mod links;
mod listing;
mod mounts;
mod name_arena;
mod name_state;
mod observe;
mod offer_rule;
mod offered;
mod order;
mod outboards;
mod outcome;
mod pace;
mod packed;
mod part;
mod place;
mod proof;
mod queue;
mod reading;
mod renamed;
mod reports;
mod round_robin;
mod runs;
mod scanner;
mod set;
mod shared;
mod shares;
mod source;
mod state;
mod status;
mod tidying;
mod tree;
mod underway;
mod version_clock;
mod walk;
mod walker;
mod watch;
mod watch_warning;
mod writable;

#[cfg(test)]
mod tests;

pub use config::{
    Attributes, EVENT_QUEUE_EVENTS, Form, HASH_THREADS_DEFAULT, Known, MissingShare,
    OUTBOARD_BUDGET_DEFAULT_BYTES, QUIET_DEFAULT, RESCAN_DEFAULT, ShareConfig, ShareEvent,
    ShareProgress, ShareSpec, ShareStatus, ShareTotals,
};
pub use error::ShareError;
pub use exclude::{EXCLUDE_MAX_PATTERNS, EXCLUDED_BY_DEFAULT, PATTERN_MAX_BYTES, check_patterns};
pub use former_numbers::FormerNumbers;
pub use ledger::{ShareLedger, open_sound};
pub use left_out::{FILE_MAX_BYTES, LEFT_OUT_LIST_MAX, LeftOut, LeftOutWhy};
pub use offer_rule::DefaultOfferRule;
pub use place::{PLACE_MAX_BYTES, PLACE_MAX_DEPTH, PlaceError, SharePlace};
pub use set::{ShareSet, SharedBytes};
pub use source::ShareFile;
pub use status::SharedFor;
pub use writable::WritableFolder;
