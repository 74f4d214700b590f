//! Sample entries for the tests of several crates.

use p2pfs_proto::wire::native::record::{Entry, Kind, Timestamp};

/// Returns the entry of a directory that was changed and listed at `time`.
pub fn directory(time: Timestamp) -> Entry {
    Entry {
        kind: Kind::Directory,
        mtime: time,
        version_time: time,
        sent_by: None,
        replaces: Vec::new(),
    }
}
