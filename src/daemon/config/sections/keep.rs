//! `[keep]`: copies of the files of other nodes.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::kept_path::KeptPath;
use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[keep]`: copies of the files of other nodes.
    ///
    /// Every version that is listed below the paths is fetched and kept, so that it stays readable
    /// when the node that wrote it is gone. A newer version replaces the older one.
    #[serde(default, deny_unknown_fields)]
    pub struct KeepSettings in "keep" {
        /// The paths of the folder, a list such as `"docs/**"`. A path stands for all that is at
        /// and below it, and `"**"` for everything.
        pub paths: Vec<KeptPath> = Vec::new(),
            Setting::new("keep.paths", SettingKind::List, "docs, photos/2026").refuses("*.jpg");

        /// Maximum size of the kept files with their proofs. They are part of the cache.
        ///
        /// If it is too small, the files of each node that wrote some get the same part of it.
        /// Files without room are not kept, and `p2pfs status` says so. In a day, at most four
        /// times this size is fetched of the files of one node.
        #[serde(
            rename = "budget",
            skip_serializing_if = "Option::is_none",
            with = "units::optional_size"
        )]
        pub budget_bytes: Option<u64> = None,
            Setting::new("keep.budget", SettingKind::Size, "7MB")
                .refuses("0B")
                .by_default("`size` of `[cache]`")
                .shown_as("\"5GiB\"");

        /// How many of the nodes that keep a path keep each file there.
        ///
        /// They choose among themselves, by a hash of the path and their keys. By default this node
        /// keeps all files of its paths. Set it alike on all nodes that keep a path.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub copies: Option<NonZeroU32> = None,
            Setting::new("keep.copies", SettingKind::Number, "2")
                .refuses("0")
                .by_default("this node keeps all")
                .shown_as("2");

        /// How long another node that keeps files may be absent before the next one takes over.
        #[serde(with = "units::duration")]
        pub takeover: Duration = defaults::TAKEOVER,
            Setting::new("keep.takeover", SettingKind::Duration, "2m");
    }
}
