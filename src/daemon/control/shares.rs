//! The replies about what this node shares: its folders, and what of them leaves the machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::{EntryKind, Named, Problem};

/// How a folder is to be shared; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareChange {
    /// Whether to share what others may not read; of a new one absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_private: Option<bool>,
    /// Whether to give its files to legacy peers; of a new one absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legacy: Option<bool>,
    /// Who reads it: names and keys of nodes, and groups behind `@`, or `*` alone: all
    /// members, as of a new one absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Vec<String>>,
    /// Patterns of what is kept back, all of them; of a new one absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<String>>,
    /// Whether to share also what is kept back by default; of a new one absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_default_excludes: Option<bool>,
}

/// The reply to [`super::Call::Shares`], [`super::Call::ShareAdd`] and
/// [`super::Call::ShareRemove`]: what is shared now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// In the order of their adding.
    pub shares: Vec<ShareInfo>,
    /// Bytes that were read to be hashed since the start, of all shares.
    #[serde(default)]
    pub read_bytes: u64,
    /// What is to be shared and cannot be yet, with what helps; root and the daemon's user are
    /// told.
    #[serde(default)]
    pub missing: Vec<Problem>,
}

/// One folder that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareInfo {
    /// The folder.
    #[serde(flatten)]
    pub dir: Named,
    /// What is going on with it.
    pub state: ShareState,
    /// Whether files that others may not read are shared as well.
    pub include_private: bool,
    /// Whether legacy peers are given its files.
    pub legacy: bool,
    /// Who reads it, groups by their members; absent where everybody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Vec<ShareReader>>,
    /// Files listed from it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that wait to be hashed.
    pub pending_files: u64,
    /// Their bytes.
    #[serde(default)]
    pub pending_bytes: u64,
    /// What its patterns keep back, as configured.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether what hardly anybody means to share is kept back, too.
    #[serde(default)]
    pub default_excludes: bool,
    /// Names left out: what others may not read, links that lead out, what is no file.
    pub left_out_files: u64,
    /// Names that a pattern keeps back; of a directory, what is in it is not counted.
    #[serde(default)]
    pub excluded_files: u64,
    /// All of both, counted by the reason.
    #[serde(default)]
    pub left_out: Vec<LeftOutCount>,
    /// Up to [`super::PROBLEMS_MAX`] of what is wrong, the left out ones included; told to root
    /// and the daemon's user alone.
    pub problems: Vec<Problem>,
}

/// Who may read a share, within [`ShareInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReader {
    /// As it was written: a node's name or key.
    pub reader: String,
    /// The key of the member that is meant; absent where nobody is, or several could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// How many names are left out for one reason, within [`ShareInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutCount {
    /// Why, in a sentence.
    pub why: String,
    /// How many.
    pub count: u64,
}

/// What is going on with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareState {
    /// Being read for the first time since the start.
    Scanning,
    /// Listed, and watched.
    Ready,
    /// Cannot be read; its entries are not listed.
    Unreadable,
}

/// The reply to [`super::Call::Mine`]: some of what leaves this machine, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mine {
    /// At most [`super::LS_PAGE_MAX_ENTRIES`] names.
    pub entries: Vec<MyEntry>,
    /// Where to go on from; absent after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A name that this node gives to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MyEntry {
    /// As the others see it, unless somebody else's version has the name.
    #[serde(flatten)]
    pub path: Named,
    /// What it is.
    pub kind: EntryKind,
    /// Its length.
    pub size_bytes: u64,
    /// The mtime.
    pub modified: Timestamp,
    /// The folder that it is shared from.
    pub share: Named,
}
