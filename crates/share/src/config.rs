//! What the caller tells the shares, and what they tell the caller.

use std::path::PathBuf;
use std::time::Duration;

use super::left_out::{LeftOut, LeftOutWhy};
use p2pfs_proto::wire::native::record::{Entry, ShareIndex, Timestamp};
use p2pfs_types::path::SharedPath;

/// How often every share is walked again, whatever the watches said.
pub const RESCAN_DEFAULT: Duration = Duration::from_secs(60);
/// How long a file must rest before it is read where no close was seen (p2pfs(7)), and how far
/// back a modification makes a hash racy (git's rule for racily clean files).
pub const QUIET_DEFAULT: Duration = Duration::from_secs(2);
/// What the outboards on disk may take together: enough for a tebibyte of files of up to 256 MiB,
/// or four of files over 512 MiB.
pub const OUTBOARD_BUDGET_DEFAULT_BYTES: u64 = 4 << 30;
/// Files hashed at a time: one thread is kept for small files, which are promised to be listed
/// within 2 s.
pub const HASH_THREADS_DEFAULT: usize = 2;
/// Events that wait for the node; when they are this many, the scan pauses and loses nothing.
pub const EVENT_QUEUE_EVENTS: usize = 1024;

/// How a [`super::ShareSet`] works.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// Holds `shares.redb` and `outboards/`; made where it is missing, mode 0700.
    pub state_dir: PathBuf,
    /// See [`RESCAN_DEFAULT`].
    pub rescan: Duration,
    /// See [`QUIET_DEFAULT`].
    pub quiet: Duration,
    /// See [`OUTBOARD_BUDGET_DEFAULT_BYTES`].
    pub outboard_budget_bytes: u64,
    /// See [`HASH_THREADS_DEFAULT`]; less than 2 counts as 2.
    pub hash_threads: usize,
    /// At most this many directories are watched; the others are seen by the rescan alone.
    pub watch_limit: usize,
    /// Nothing at or beneath these is ever shared or opened: our own mounts, state and cache. The
    /// state directory is always added.
    pub refuse_beneath: Vec<PathBuf>,
    /// Where files of others come in: what is not whole there is no part of the share yet, and is
    /// not told to be left out either.
    pub inboxes: Vec<PathBuf>,
    /// What the node's log says that its shares hold: what is unchanged makes no event, what is
    /// gone makes a [`ShareEvent::Removed`].
    pub known: Vec<Known>,
}

impl ShareConfig {
    /// The defaults, with state in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            rescan: RESCAN_DEFAULT,
            quiet: QUIET_DEFAULT,
            outboard_budget_bytes: OUTBOARD_BUDGET_DEFAULT_BYTES,
            hash_threads: HASH_THREADS_DEFAULT,
            watch_limit: usize::MAX,
            refuse_beneath: Vec::new(),
            inboxes: Vec::new(),
            known: Vec::new(),
        }
    }
}

/// One entry that the node's log still has from an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// In which share.
    pub share: ShareIndex,
    /// Under which name.
    pub path: SharedPath,
    /// What was last put.
    pub entry: Entry,
}

/// A folder to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// An existing directory.
    pub dir: PathBuf,
    /// Whether its path had no links when it was chosen: one with a link in it is refused then, as
    /// whoever put that there may mean any folder.
    pub is_resolved: bool,
    /// Offer what others than its owner may not read, too.
    pub include_private: bool,
    /// Offer it to legacy peers, too; only carried here for [`super::ShareSet::list`].
    pub legacy: bool,
    /// Who reads it, where not everybody does: only carried here, as it was written, to be told
    /// before any of its entries ([`ShareEvent::Readers`]).
    pub readers: Option<Vec<String>>,
    /// What is kept back: patterns as in a `.gitignore` at the top of it.
    pub exclude: Vec<String>,
    /// Keep back what [`super::EXCLUDED_BY_DEFAULT`] says; `exclude` can take that back.
    pub default_excludes: bool,
}

/// A folder that is to be offered, and could not be added yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingShare {
    /// As it is given when it is added.
    pub dir: PathBuf,
    /// Whether nobody knows yet that it cannot be: it was not tried, or its disk does not answer.
    pub is_awaited: bool,
}

impl ShareSpec {
    /// A share of what others may read, native plane only.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            is_resolved: false,
            include_private: false,
            legacy: false,
            readers: None,
            exclude: Vec::new(),
            default_excludes: true,
        }
    }
}

/// What happened in the shares, in the order in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareEvent {
    /// Who reads a share from now on; all do where there is no list.
    Readers {
        /// Which share.
        share: ShareIndex,
        /// As it was given.
        readers: Option<Vec<String>>,
    },
    /// The name has this content or these attributes now.
    Put {
        /// In which share.
        share: ShareIndex,
        /// Never the root.
        path: SharedPath,
        /// What is there.
        entry: Entry,
    },
    /// The name is gone, or may not be shared any more. Each name beneath a directory has its own.
    Removed {
        /// From which share.
        share: ShareIndex,
        /// What is gone.
        path: SharedPath,
    },
    /// A walk through the whole share has ended; files may still wait to be hashed.
    Scanned {
        /// Which share.
        share: ShareIndex,
    },
    /// Something that its owner should know; at most a few a walk.
    Warning {
        /// Which share.
        share: ShareIndex,
        /// The absolute path that it is about.
        path: PathBuf,
        /// What is the matter, with the remedy where there is one.
        why: String,
    },
    /// What such a warning told of is over; said also where the budget of a walk let nobody be
    /// told of it.
    Settled {
        /// Which share.
        share: ShareIndex,
        /// The path of the warning.
        path: PathBuf,
        /// Its words.
        why: String,
    },
}

/// What a share is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareProgress {
    /// Walking through it.
    Scanning,
    /// Walked; this many files wait to be hashed or to come to rest.
    Hashing {
        /// How many.
        files_left: u64,
    },
    /// All that it has is listed.
    Ready,
    /// The directory is gone or unreadable; it is looked for again all the time.
    Vanished,
}

/// A share as `p2pfs share` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// The canonical directory.
    pub dir: PathBuf,
    /// Its number, the same after a restart.
    pub index: ShareIndex,
    /// As given to `add`.
    pub include_private: bool,
    /// As given to `add`.
    pub legacy: bool,
    /// As given to `add`.
    pub readers: Option<Vec<String>>,
    /// As given to `add`.
    pub exclude: Vec<String>,
    /// As given to `add`.
    pub default_excludes: bool,
    /// What it is doing.
    pub state: ShareProgress,
    /// Files listed.
    pub files: u64,
    /// Directories listed, the share's own not counted.
    pub directories: u64,
    /// Symbolic links listed.
    pub symlinks: u64,
    /// Bytes in the listed files.
    pub bytes: u64,
    /// Bytes in the files that wait to be hashed, those that are being hashed included.
    pub bytes_left: u64,
    /// The first [`super::LEFT_OUT_LIST_MAX`] of what is left out.
    pub left_out: Vec<LeftOut>,
    /// How many are left out, for each reason that there is; of a directory that is left out, what
    /// is in it is not counted.
    pub left_out_counts: Vec<(LeftOutWhy, u64)>,
    /// Whether its disk does not answer, so that what is listed may not be true any more.
    pub stands_still: bool,
    /// What is the matter with the share as a whole.
    pub warning: Option<String>,
}

/// What a live `stat` of a shared name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub form: Form,
    /// Bytes of a file, length of a link's target.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// What kinds of thing are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}
