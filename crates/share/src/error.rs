//! Errors of the shares.

use std::io;
use std::path::{Path, PathBuf};

use p2pfs_types::digest::DigestError;
use p2pfs_types::files::is_want;
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};
use p2pfs_types::files::trusted_way::PlantedLink;

/// Why a call on a share failed.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The directory does not exist; the owner must fix it.
    #[error("the share {dir:?} does not exist{}", missing(dir))]
    NotFound {
        /// Path as given.
        dir: PathBuf,
    },
    /// The path is not a directory; the owner must fix it.
    #[error("the share {dir:?} is not a directory")]
    NotDirectory {
        /// Path as given.
        dir: PathBuf,
    },
    /// The path contains a link now and contained none when it was chosen to be shared.
    #[error(
        "the share {dir:?} leads to {to:?} by now, through a link that was none when it was added; \
         put the folder back, or take the share out and share the other by its own name"
    )]
    LeadsElsewhere {
        /// Path as given.
        dir: PathBuf,
        /// Directory that the path leads to now.
        to: PathBuf,
    },
    /// Another user could have put a link that is on the path.
    #[error(
        "the share {dir:?} leads elsewhere: {link}; share the folder that it leads to by its own \
         name, or take the link away"
    )]
    Planted {
        /// Path as given.
        dir: PathBuf,
        /// The link.
        link: Box<PlantedLink>,
    },
    /// The directory may not be read; the owner must fix it.
    #[error("the share {dir:?} cannot be read ({error}); let the daemon's user read it")]
    Unreadable {
        /// Path as given.
        dir: PathBuf,
        /// Error of the system call.
        error: io::Error,
    },
    /// The daemon's user may not pass a directory above the folder.
    #[error("{dir:?} cannot be shared: {why}")]
    Closed {
        /// Path as given.
        dir: PathBuf,
        /// The closed directory and the remedy.
        why: String,
    },
    /// The directory lies at or below a mount of p2pfs, or the node's own state or cache. Sharing
    /// it could deadlock or reveal secrets.
    #[error(
        "{dir:?} cannot be shared: {refused:?} is the mount, or holds the node's own state or \
         cache; share another folder"
    )]
    Refused {
        /// Directory that was to be shared.
        dir: PathBuf,
        /// Protected path that contains it.
        refused: PathBuf,
    },
    /// The directory lies in a share or contains one. Some files would be listed twice.
    #[error("{dir:?} and the share {other:?} overlap; share the outer one alone")]
    Overlaps {
        /// Directory that was to be shared.
        dir: PathBuf,
        /// Existing share that overlaps it.
        other: PathBuf,
    },
    /// The mount cannot write into the folder; the owner must fix it.
    #[error("cannot write into {dir:?}: {why}")]
    NotWritable {
        /// Folder that was to be written.
        dir: PathBuf,
        /// Cause and remedy.
        why: String,
    },
    /// An exclude pattern is not valid; the owner must fix it.
    #[error("exclude: {why}")]
    BadPattern {
        /// Pattern and its error.
        why: String,
    },
    /// All share numbers of this node are in use. That of a removed share is free again once the
    /// removal of its entries is stored.
    #[error("there are {limit} shares already, the most that one node can have")]
    TooMany {
        /// Maximum number of shares.
        limit: usize,
    },
    /// The directory is not shared.
    #[error("{dir:?} is not shared; p2pfs share lists the shared folders")]
    NotShared {
        /// Path as given.
        dir: PathBuf,
    },
    /// The share number is not in use. Either the caller is wrong or the share was removed
    /// meanwhile.
    #[error("the share number {index} is not in use")]
    NoSuchIndex {
        /// Number as given.
        index: u16,
    },
    /// The content was not found, but the node is starting and may not have added all of its shares
    /// yet. A retry may succeed soon.
    #[error("the shares are being added")]
    Beginning,
    /// The content was not found under its listed names, which may have changed just now. A check
    /// that is already requested finds out whether the file has a new name.
    #[error("the file is looked for under another name")]
    Missed,
    /// The name or the content is not shared, or not any longer.
    #[error("the name is not shared any more")]
    NotHere,
    /// The bytes of the file changed since it was hashed, or its outboard is damaged. All listed
    /// files with this content are hashed again. Until then they stay listed, but do not serve the
    /// content.
    #[error("the file changed since it was hashed")]
    Gone,
    /// The range is not within the file; the requester is at fault.
    #[error("the range asked for is not within the file")]
    OutOfRange,
    /// A system call failed. If it was a read, another holder may be able to serve the range.
    #[error("cannot read the shared file: {0}")]
    Io(#[from] io::Error),
    /// The state directory is in use by another process.
    #[error("{path:?} is in use by another p2pfs daemon; stop it, or set another state directory")]
    Locked {
        /// Locked file.
        path: PathBuf,
    },
    /// The file of the shares' state cannot be opened, read or written.
    #[error("cannot keep the state of the shares in {path:?}: {reason}")]
    State {
        /// File of the state.
        path: PathBuf,
        /// Error of the system call.
        reason: String,
    },
    /// The state of the shares cannot be read; a restart moves it aside.
    #[error(
        "the state of the shares in {path:?} is damaged: {reason}; restart p2pfs, and every share \
         is hashed anew"
    )]
    Damaged {
        /// File of the state.
        path: PathBuf,
        /// Error of the database.
        reason: String,
    },
}

impl ShareError {
    /// Returns whether the daemon's user may not reach or read the folder.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Unreadable { error, .. } => error.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// Returns whether the same call may succeed a moment later: a system call failed for a
    /// temporary reason, a share may not be added yet, or the new name of a renamed file is not
    /// known yet.
    pub fn is_want(&self) -> bool {
        match self {
            Self::Io(error) => is_want(error),
            Self::Beginning | Self::Missed => true,
            _ => false,
        }
    }
}

impl From<DigestError> for ShareError {
    fn from(error: DigestError) -> Self {
        match error {
            DigestError::OutOfRange { .. } => Self::OutOfRange,
            DigestError::Io(error) => Self::Io(error),
            _ => Self::Gone,
        }
    }
}

impl From<rustix::io::Errno> for ShareError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Returns the remedy for a missing folder.
fn missing(dir: &Path) -> &'static str {
    let mounts = std::fs::read(MOUNTINFO).unwrap_or_default();
    if is_in_own_tmp(&mounts, dir) {
        " for the daemon, which has a /tmp of its own (PrivateTmp= of its unit); move it, or \
         name another"
    } else {
        "; make it, or name another"
    }
}

/// Returns whether the service manager mounted a private directory over `dir` or a directory above
/// `dir`, and so hides it. `mounts` is a list in the format of `proc_pid_mountinfo(5)`.
fn is_in_own_tmp(mounts: &[u8], dir: &Path) -> bool {
    let mut lines = mounts.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let root = line.split(|byte| *byte == b' ').nth(3).unwrap_or_default();
        let is_private = String::from_utf8_lossy(root).contains("/systemd-private-");
        is_private && mountinfo::point(line).is_some_and(|point| dir.starts_with(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_hidden_by_a_private_tmp_is_distinguished_from_a_missing_one() {
        let mounts = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n\
            40 22 0:21 /tmp/systemd-private-1f-p2pfs.service-x/tmp /tmp rw shared:3 - ext4 x rw\n\
            41 22 0:46 / /srv rw - tmpfs none rw\n";
        assert!(is_in_own_tmp(mounts, Path::new("/tmp/foo")));
        assert!(!is_in_own_tmp(mounts, Path::new("/srv/tmp/foo")));
        assert!(!is_in_own_tmp(mounts, Path::new("/tmpfoo")));
        assert!(!is_in_own_tmp(b"torn line", Path::new("/tmp/foo")));
    }
}
