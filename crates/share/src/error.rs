//! What can go wrong with a share.

use std::io;
use std::path::{Path, PathBuf};

use p2pfs_types::digest::DigestError;
use p2pfs_types::files::is_want;
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};

/// Why a call on a share failed. No call that fails changes what is shared, but for
/// [`ShareError::Gone`], which withdraws the content that was found changed.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The directory is not there; the owner's to mend.
    #[error("the share {dir:?} does not exist{}", missing(dir))]
    NotFound {
        /// As given.
        dir: PathBuf,
    },
    /// It is something else; the owner's to mend.
    #[error("the share {dir:?} is not a directory")]
    NotDirectory {
        /// As given.
        dir: PathBuf,
    },
    /// There is a link in the path now, which had none when it was chosen to be shared.
    #[error(
        "the share {dir:?} leads to {to:?} by now, through a link that was none when it was added; \
         put the folder back, or take the share out and share the other by its own name"
    )]
    LeadsElsewhere {
        /// As given.
        dir: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// It may not be read; the owner's to mend.
    #[error("the share {dir:?} cannot be read ({error}); let the daemon's user read it")]
    Unreadable {
        /// As given.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is a mount of p2pfs or the node's own state; sharing it could deadlock or tell secrets.
    #[error(
        "{dir:?} cannot be shared: {refused:?} is the mount, or holds the node's own state or \
         cache; share another folder"
    )]
    Refused {
        /// What was to be shared.
        dir: PathBuf,
        /// What it lies in.
        refused: PathBuf,
    },
    /// It lies in a share or holds one: each of its files would be listed twice.
    #[error("{dir:?} and the share {other:?} overlap; share the outer one alone")]
    Overlaps {
        /// What was to be shared.
        dir: PathBuf,
        /// The share in the way.
        other: PathBuf,
    },
    /// What is to be kept back is not said so that it can be; the owner's to mend.
    #[error("exclude: {why}")]
    BadPattern {
        /// Which pattern, and what is wrong with it.
        why: String,
    },
    /// All share numbers of this node were given out.
    #[error("there are {limit} shares already, the most that one node can have")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// No such share.
    #[error("{dir:?} is not shared; p2pfs share lists what is")]
    NotShared {
        /// As given.
        dir: PathBuf,
    },
    /// No such share number; the caller's mistake, or the share was removed meanwhile.
    #[error("the share number {index} is not in use")]
    NoSuchIndex {
        /// As given.
        index: u16,
    },
    /// The node begins, and not all of its shares were added yet; soon it is known.
    #[error("the shares are being added")]
    Beginning,
    /// Its name is gone, or was taken by another, a moment ago; soon it is known whether it has a
    /// new one.
    #[error("the file is looked for under another name")]
    Missed,
    /// The name is not, or no longer, a thing that is shared.
    #[error("the name is not shared any more")]
    NotHere,
    /// The file changed since it was hashed; its entries are withdrawn until it is hashed again.
    #[error("the file changed since it was hashed")]
    Gone,
    /// The range is not within the file; whoever asked is at fault.
    #[error("the range asked for is not within the file")]
    OutOfRange,
    /// Reading failed; another holder may do.
    #[error("cannot read the shared file: {0}")]
    Io(#[from] io::Error),
    /// The state directory is in use by another process.
    #[error("{path:?} is in use by another p2pfs daemon; stop it, or set another state directory")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// What is known of the shares cannot be kept; hashing still works where this comes later.
    #[error("cannot keep the state of the shares in {path:?}: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// What is known of the shares cannot be read; a restart moves it aside.
    #[error(
        "the state of the shares in {path:?} is damaged: {reason}; restart p2pfs, and every share \
         is hashed anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
}

impl ShareError {
    /// Whether it was this process's want alone: the same call may succeed a moment later.
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

/// What helps where a folder is not there.
fn missing(dir: &Path) -> &'static str {
    let mounts = std::fs::read(MOUNTINFO).unwrap_or_default();
    if is_in_own_tmp(&mounts, dir) {
        " for the daemon, which has a /tmp of its own (PrivateTmp= of its unit); move it, or \
         name another"
    } else {
        "; make it, or name another"
    }
}

/// Whether what is at `dir` is hidden by a directory that the service manager made in its place,
/// by a list as of `proc_pid_mountinfo(5)`.
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
    fn a_folder_that_is_hidden_by_a_tmp_of_ones_own_is_told_from_one_that_is_not_there() {
        let mounts = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n\
            40 22 0:21 /tmp/systemd-private-1f-p2pfs.service-x/tmp /tmp rw shared:3 - ext4 x rw\n\
            41 22 0:46 / /srv rw - tmpfs none rw\n";
        assert!(is_in_own_tmp(mounts, Path::new("/tmp/foo")));
        assert!(!is_in_own_tmp(mounts, Path::new("/srv/tmp/foo")));
        assert!(!is_in_own_tmp(mounts, Path::new("/tmpfoo")));
        assert!(!is_in_own_tmp(b"torn line", Path::new("/tmp/foo")));
    }
}
