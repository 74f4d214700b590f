//! Replies about deleted and replaced versions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::described::described;
use super::names::Named;

described! {
    /// The reply to [`super::Call::Deleted`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct DeletedFiles as "Deleted" {
        /// The versions in the order of their paths, those of one path with the last lost one first;
        /// up to 1000.
        pub versions: Vec<DeletedVersion>,
        /// Whether there are more.
        pub more: bool,
    }
}

described! {
    /// A version that was deleted or replaced, within [`DeletedFiles`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct DeletedVersion as "DeletedVersion" {
        /// Its path from the root of the mount.
        #[serde(flatten)]
        pub path: Named,
        /// Its length.
        pub size_bytes: u64,
        /// The mtime.
        pub modified: Timestamp,
        /// When it was deleted or replaced.
        pub lost: Timestamp,
        /// The name of the node that deleted or replaced it.
        pub by: String,
        /// Whether the path has another version now.
        pub replaced: bool,
    }
}

described! {
    /// The reply to [`super::Call::Restore`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Restored as "Restored" {
        /// Number of versions that were brought back.
        pub restored: u64,
        /// Versions that were not, up to 1000.
        pub failed: Vec<NotRestored>,
        /// Number of versions that were not brought back.
        pub failures: u64,
    }
}

described! {
    /// The reply to [`super::Call::Adopt`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Adopted as "Adopted" {
        /// Number of files that this node lists now.
        pub adopted: u64,
        /// Number of files of the departed node of which this node has no complete copy.
        pub missing: u64,
        /// Files that were not adopted although there is a copy, up to 1000.
        pub failed: Vec<NotRestored>,
        /// Number of such files.
        pub failures: u64,
    }
}

described! {
    /// A version that was not brought back or adopted, within [`Restored`] and [`Adopted`].
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct NotRestored as "NotRestored" {
        /// Its path from the root of the mount.
        #[serde(flatten)]
        pub path: Named,
        /// The reason, in a sentence.
        pub why: String,
    }
}
