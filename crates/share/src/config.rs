//! The configuration of the shares, and the events and status that they report.

use std::path::PathBuf;
use std::time::Duration;

use super::left_out::{LeftOut, LeftOutWhy};
use super::place::SharePlace;
use p2pfs_proto::wire::native::record::{Entry, ShareIndex, Timestamp};
use p2pfs_types::path::SharedPath;

/// Interval between two full walks through every share, regardless of the watches.
pub const RESCAN_DEFAULT: Duration = Duration::from_secs(60);
/// How long a file rests before it is read if a write and no close was reported (p2pfs(7)). A hash
/// is racy if the file was modified less than this before it was read (git's rule for racily clean
/// files).
pub const QUIET_DEFAULT: Duration = Duration::from_secs(2);
/// Maximum bytes of all finished outboards on disk: enough for a tebibyte of files of up to 256
/// MiB, or for four tebibytes of files over 512 MiB.
pub const OUTBOARD_BUDGET_DEFAULT_BYTES: u64 = 4 << 30;
/// Number of hasher threads. One of them takes no file over 64 MiB, because smaller files must be
/// listed within 2 s (`queue::PROMISED_MAX_BYTES`).
pub const HASH_THREADS_DEFAULT: usize = 2;
/// Capacity of the event queue. When the queue is full, the scan pauses and loses nothing.
pub const EVENT_QUEUE_EVENTS: usize = 1024;

/// Configuration of a [`super::ShareSet`].
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// Directory of `shares.redb` and `outboards/`; created with mode 0700 if it is missing.
    pub state_dir: PathBuf,
    /// See [`RESCAN_DEFAULT`].
    pub rescan: Duration,
    /// See [`QUIET_DEFAULT`].
    pub quiet: Duration,
    /// See [`OUTBOARD_BUDGET_DEFAULT_BYTES`].
    pub outboard_budget_bytes: u64,
    /// See [`HASH_THREADS_DEFAULT`]; less than 2 counts as 2.
    pub hash_threads: usize,
    /// Maximum number of watched directories. Changes in the others are found only by walks.
    pub watch_limit: usize,
    /// Paths at or beneath which nothing is ever shared or opened: the node's own mounts, state and
    /// cache. The state directory is always added.
    pub refuse_beneath: Vec<PathBuf>,
    /// Folders within `refuse_beneath` that may be shared all the same.
    pub allow_beneath: Vec<PathBuf>,
    /// Folders that receive files from other nodes. An incomplete file there is not part of the
    /// share yet, and is not reported as left out either.
    pub inboxes: Vec<PathBuf>,
    /// Entries of the node's log for its shares. An unchanged entry produces no event; a vanished
    /// one produces a [`ShareEvent::Removed`].
    pub known: Vec<Known>,
}

impl ShareConfig {
    /// Returns the defaults, with state in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            rescan: RESCAN_DEFAULT,
            quiet: QUIET_DEFAULT,
            outboard_budget_bytes: OUTBOARD_BUDGET_DEFAULT_BYTES,
            hash_threads: HASH_THREADS_DEFAULT,
            watch_limit: usize::MAX,
            refuse_beneath: Vec::new(),
            allow_beneath: Vec::new(),
            inboxes: Vec::new(),
            known: Vec::new(),
        }
    }
}

/// A listed name: one that the node's log still has from an earlier run ([`ShareConfig::known`]),
/// or one that is listed now ([`super::ShareSet::listed`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Number of the share that contains it.
    pub share: ShareIndex,
    /// Path in the listing.
    pub path: SharedPath,
    /// Entry with which the name is listed.
    pub entry: Entry,
}

/// A folder to share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// An existing directory.
    pub dir: PathBuf,
    /// Whether the path had no links when it was chosen. In that case, a path that contains a link
    /// now is refused, because the creator of the link may point it at any folder.
    pub is_resolved: bool,
    /// Whether its settings are changed by commands, and not in a configuration file. Remedies name
    /// one or the other.
    pub is_by_command: bool,
    /// Path in the listing below which the files appear.
    pub place: SharePlace,
    /// Also share files and directories that others may not read.
    pub include_private: bool,
    /// Also offer the share to foreign peers. The flag is only passed through to
    /// [`super::ShareSet::list`].
    pub foreign: bool,
    /// Nodes that may read the share; `None` means every node. The list is passed through unchanged
    /// and reported before any of the share's entries ([`ShareEvent::Readers`]).
    pub readers: Option<Vec<String>>,
    /// Patterns of excluded names, as in a `.gitignore` at the top of the share.
    pub exclude: Vec<String>,
    /// Exclude [`super::EXCLUDED_BY_DEFAULT`] too; `exclude` can revert that.
    pub default_excludes: bool,
    /// Whether what programs write into the mount at or below the place goes into this folder.
    pub writable: bool,
    /// Whether versions and deletions of other nodes replace what the share lists. The flag is
    /// passed through unchanged and reported before any of the share's entries
    /// ([`ShareEvent::Terms`]).
    pub open: bool,
}

/// A configured folder that could not be added yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingShare {
    /// Path as it is given when it is added.
    pub dir: PathBuf,
    /// Whether the folder may still be added: it was not tried yet, or its disk does not answer.
    pub is_awaited: bool,
}

impl ShareSpec {
    /// Returns a share of the files that others may read, native plane only.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            is_resolved: false,
            is_by_command: false,
            place: SharePlace::default(),
            include_private: false,
            foreign: false,
            readers: None,
            exclude: Vec::new(),
            default_excludes: true,
            writable: false,
            open: false,
        }
    }
}

/// A change in the shares. Events of one name arrive in order. [`Self::Put`] and [`Self::Removed`]
/// of different names arrive about in the order of their changes: around a new directory they
/// arrive together, removals last. A file that is large, is still being written or was found by a
/// walk may arrive after names that were changed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareEvent {
    /// A share was added or got new settings, and has these readers. Without a list, every node is
    /// a reader.
    Readers {
        /// Number of the share.
        share: ShareIndex,
        /// List of readers as it was given.
        readers: Option<Vec<String>>,
    },
    /// A share was added or got new settings.
    Terms {
        /// Number of the share.
        share: ShareIndex,
        /// Whether versions and deletions of other nodes count in the share.
        open: bool,
    },
    /// The name now has this content or these attributes.
    Put {
        /// Number of the share.
        share: ShareIndex,
        /// Path of the name in the listing; never the root.
        path: SharedPath,
        /// Entry that is at the path now.
        entry: Entry,
    },
    /// The path is no longer listed: the name is gone, may no longer be shared, or has another path
    /// in the listing. Each name beneath a directory gets its own event.
    Removed {
        /// Number of the share.
        share: ShareIndex,
        /// Path of the removed name in the listing.
        path: SharedPath,
    },
    /// All entries of a removed share were announced as removed. Its number stays in use until the
    /// receiver has stored that ([`super::FormerNumbers::release`]).
    Vacated {
        /// Number of the share.
        share: ShareIndex,
        /// Number of this removal, unlike that of any other removal in this run.
        removal: u64,
    },
    /// A walk through the whole share has ended; files may still wait to be hashed.
    Scanned {
        /// Number of the share.
        share: ShareIndex,
    },
    /// A problem that the owner should know about. For left-out names, at most 32 per walk of a
    /// share.
    Warning {
        /// Number of the share.
        share: ShareIndex,
        /// Absolute path that the warning is about.
        path: PathBuf,
        /// Problem, and its remedy if there is one.
        why: String,
        /// Whether the share's own directory cannot be opened, so that nothing in it is offered.
        is_withdrawn: bool,
    },
    /// The cause of a warning is resolved. Also sent if the walk's budget suppressed the warning.
    Settled {
        /// Number of the share.
        share: ShareIndex,
        /// Path of the warning.
        path: PathBuf,
        /// Text of the warning.
        why: String,
    },
}

/// Current activity of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareProgress {
    /// A walk is running.
    Scanning,
    /// The share is walked; some files wait to be hashed or to come to rest.
    Hashing {
        /// Number of these files.
        files_left: u64,
    },
    /// All files of the share are listed.
    Ready,
    /// The directory is gone or unreadable. It is checked again every second.
    Vanished,
}

/// Counts of what a share lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareTotals {
    /// Number of listed files.
    pub files: u64,
    /// Number of listed directories, without the share's own.
    pub directories: u64,
    /// Number of listed symbolic links.
    pub symlinks: u64,
    /// Total bytes of the listed files.
    pub bytes: u64,
}

/// Status of a share as `p2pfs share` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// Canonical directory.
    pub dir: PathBuf,
    /// Number of the share, the same after a restart.
    pub index: ShareIndex,
    /// Settings with which the share was last added. Use [`Self::dir`] instead of their `dir`,
    /// which is the path as given and may contain a link.
    pub spec: ShareSpec,
    /// Current activity.
    pub state: ShareProgress,
    /// Counts of the listed names.
    pub totals: ShareTotals,
    /// Total bytes of the files that wait to be hashed or are being hashed.
    pub bytes_left: u64,
    /// First [`super::LEFT_OUT_LIST_MAX`] names that are left out.
    pub left_out: Vec<LeftOut>,
    /// Number of names left out, by reason. Names inside a directory that is left out are not
    /// counted.
    pub left_out_counts: Vec<(LeftOutWhy, u64)>,
    /// Whether the disk does not answer, so that the listing may be stale.
    pub stands_still: bool,
    /// Problem that affects the whole share.
    pub warning: Option<String>,
}

/// Live attributes of a shared name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Kind of the name.
    pub form: Form,
    /// Bytes of a file, or length of a link's target.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Whether the owner may execute it.
    pub executable: bool,
}

/// Kind of a shared name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}
