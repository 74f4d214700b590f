//! `[write]`: writing into the mount.

use std::time::Duration;

use serde::{Deserializer, Serializer};

use super::super::account::group;
use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[write]`: writing into the mount.
    ///
    /// Programs can write where this node has a writable share: `p2pfs write on`, or `writable` of
    /// a `[[share]]`.
    #[serde(default, deny_unknown_fields)]
    pub struct WriteSettings in "write" {
        /// The group of the files in the mount, by name or by number, whose members may write there.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "group")]
        pub group: Option<u32> = None,
            Setting::new("write.group", SettingKind::Text, "6")
                .by_default("`gid` of `[mount]`")
                .shown_as("0");

        /// Maximum size of all files in the writable shares together.
        ///
        /// A write beyond it fails with ENOSPC. Files that are kept after their removal do not
        /// count. With a budget each write passes through the daemon, which costs speed.
        #[serde(
            rename = "budget",
            skip_serializing_if = "Option::is_none",
            deserialize_with = "budget",
            serialize_with = "budget_text"
        )]
        pub budget_bytes: Option<u64> = None,
            Setting::new("write.budget", SettingKind::Size, "7GB")
                .refuses("0B")
                .by_default("none")
                .shown_as("\"100GiB\"");

        /// Space that writes leave free on the filesystem of a writable share, but at most a
        /// twentieth of the filesystem.
        ///
        /// A write below it fails with ENOSPC. A file that was opened while 1 GiB more was free is
        /// written by the kernel itself (see `no-passthrough` in `p2pfs(8)`), and may use the rest.
        #[serde(rename = "floor", with = "units::size")]
        pub floor_bytes: u64 = defaults::WRITE_FLOOR_BYTES,
            Setting::new("write.floor", SettingKind::Size, "0B");

        /// Maximum size of another node's file that is copied before a program changes it.
        ///
        /// The program waits for the copy when it opens the file. The open of a larger file fails
        /// with EFBIG, unless it empties the file.
        #[serde(rename = "copy_up_max", with = "units::size")]
        pub copy_up_max_bytes: u64 = defaults::COPY_UP_MAX_BYTES,
            Setting::new("write.copy_up_max", SettingKind::Size, "1GiB");

        /// How long a file that a program removes or replaces in a writable share is kept for
        /// `p2pfs restore`.
        #[serde(with = "units::positive_duration")]
        pub keep_replaced: Duration = defaults::KEEP_REPLACED,
            Setting::new("write.keep_replaced", SettingKind::Duration, "7d").refuses("0s");
    }
}

/// Deserializes a budget, for serde's `deserialize_with`.
fn budget<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    units::positive_size::deserialize(from).map(Some)
}

/// Serializes a budget, for serde's `serialize_with`. A missing one is skipped.
fn budget_text<S: Serializer>(budget: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    units::positive_size::serialize(&budget.unwrap_or_default(), to)
}
