//! The replies about this node's shares: its folders, and the entries that other nodes can read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;
use super::names::{EntryKind, Named, Problem};

described! {
    /// A change to the settings of a share; absent fields keep their values.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ShareChange as "ShareChange" {
        /// The path from the top of the mount below which its files appear; `""` is the top, the
        /// default of a new share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
        /// Whether to share files that other users may not read. A new share defaults to `false`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub include_private: Option<bool>,
        /// Whether to give its files to legacy peers. A new share defaults to `false`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub legacy: Option<bool>,
        /// The readers: names and keys of nodes, and groups behind `@`; or `*` alone for all members,
        /// the default of a new share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub readers: Option<Vec<String>>,
        /// All patterns of excluded files. A new share has none by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exclude: Option<Vec<String>>,
        /// Whether to share files that are excluded by default, too. A new share defaults to `false`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub no_default_excludes: Option<bool>,
        /// Whether programs can write into the folder through the mount. A new share defaults to
        /// `false`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub writable: Option<bool>,
        /// Whether versions and deletions of other nodes replace its files. A new share defaults to
        /// `writable`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub open: Option<bool>,
    }
}

described! {
    /// The reply to [`super::Call::Writing`], [`super::Call::WriteOn`] and
    /// [`super::Call::WriteOff`]: where programs can write in the mount.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Writing as "Writing" {
        /// The writable shares. A path belongs to the one with the longest place that contains it.
        pub folders: Vec<WritableShare>,
        /// Why the mount is not writable although a folder is, or not read-only although no folder
        /// is writable, with the remedy; absent if it is as it should be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub problem: Option<String>,
    }
}

described! {
    /// A share that takes what programs write into the mount, within [`Writing`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct WritableShare as "WritableShare" {
        /// The folder.
        #[serde(flatten)]
        pub dir: Named,
        /// The path from the top of the mount below which its files appear; absent for the top.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
        /// Why the folder cannot be written now, with the remedy; absent if it can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub problem: Option<String>,
    }
}

described! {
    /// The reply to [`super::Call::Shares`], [`super::Call::ShareAdd`] and
    /// [`super::Call::ShareRemove`]: the current shares.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Shares as "Shares" {
        /// The shares in the order in which they were added.
        pub shares: Vec<ShareInfo>,
        /// Bytes read for hashing since the start, over all shares.
        #[serde(default)]
        pub read_bytes: u64,
        /// Requested folders that cannot be shared yet, with the remedy. Shown only to root and the
        /// daemon's user.
        #[serde(default)]
        pub missing: Vec<Problem>,
    }
}

described! {
    /// One folder that this node shares.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ShareInfo as "Share" {
        /// The folder.
        #[serde(flatten)]
        pub dir: Named,
        /// The state of the share.
        pub state: ShareState,
        /// The path from the top of the mount below which its files appear; absent if they appear
        /// at the top.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
        /// Whether files that other users may not read are shared, too.
        pub include_private: bool,
        /// Whether legacy peers receive its files.
        pub legacy: bool,
        /// Whether programs can write into it through the mount.
        #[serde(default)]
        pub writable: bool,
        /// Whether versions and deletions of other nodes replace its files.
        #[serde(default)]
        pub open: bool,
        /// The readers, with groups expanded to their members; absent if all members are readers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub readers: Option<Vec<ShareReader>>,
        /// Number of files listed from it.
        pub files: u64,
        /// Total bytes of the listed files.
        pub bytes: u64,
        /// Number of files that wait to be hashed.
        pub pending_files: u64,
        /// Total bytes of the files that wait to be hashed.
        #[serde(default)]
        pub pending_bytes: u64,
        /// The exclude patterns, as configured.
        #[serde(default)]
        pub exclude: Vec<String>,
        /// Whether the default excludes apply, too.
        #[serde(default)]
        pub default_excludes: bool,
        /// Number of names left out: files that other users may not read, links that lead out of the
        /// share, and entries that are not files.
        pub left_out_files: u64,
        /// Number of names that a pattern excludes. An excluded directory counts as one; its contents
        /// are not counted.
        #[serde(default)]
        pub excluded_files: u64,
        /// The numbers of left out and excluded names for each reason.
        #[serde(default)]
        pub left_out: Vec<LeftOutCount>,
        /// Up to 20 problems, including the left out names. Shown only to root and
        /// the daemon's user.
        pub problems: Vec<Problem>,
    }
}

described! {
    /// A reader of a share, within [`ShareInfo`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ShareReader as "ShareReader" {
        /// The reader as it was configured: a node's name or key.
        pub reader: String,
        /// The key of the member that this means; absent if it matches no member, or several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub node: Option<String>,
        /// Whether the name was given in an earlier cluster, so that it means no member until it is
        /// confirmed; absent if not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub former: bool,
    }
}

described! {
    /// How many names are left out for one reason, within [`ShareInfo`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct LeftOutCount as "LeftOut" {
        /// The reason, in a sentence.
        pub why: String,
        /// Number of names.
        pub count: u64,
    }
}

described! {
    /// The state of a share.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum ShareState {
        /// It is being scanned for the first time since the start.
        Scanning,
        /// It is listed and watched.
        Ready,
        /// It cannot be read; its entries are not listed.
        Unreadable,
    }
}

described! {
    /// The reply to [`super::Call::Mine`]: one page of the entries that other nodes can read, in no
    /// order.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Mine as "Mine" {
        /// Up to 1000 names.
        pub entries: Vec<MyEntry>,
        /// The start of the next page; absent on the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub next: Option<u32>,
    }
}

described! {
    /// A name that this node gives to others.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct MyEntry as "MyEntry" {
        /// The path at other nodes, unless another node's version has won the name.
        #[serde(flatten)]
        pub path: Named,
        /// The type of the entry.
        pub kind: EntryKind,
        /// Its length.
        pub size_bytes: u64,
        /// The mtime.
        pub modified: Timestamp,
        /// The folder that the entry is shared from.
        pub share: Named,
    }
}
