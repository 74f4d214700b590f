//! `[cache]`: the local cache.

use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[cache]`: the local cache.
    #[serde(default, deny_unknown_fields)]
    pub struct CacheSettings in "cache" {
        /// Maximum size of the fetched files with their proofs. Directories and marks of the cache
        /// itself, about 1 MiB at most, do not count.
        #[serde(rename = "size", with = "units::positive_size")]
        pub size_bytes: u64 = defaults::CACHE_BYTES,
            Setting::new("cache.size", SettingKind::Size, "7MB").refuses("0B").live();

        /// Space that the cache leaves free on its filesystem.
        ///
        /// With `"0B"` it may fill the filesystem; old files are then evicted for new ones.
        #[serde(rename = "floor", with = "units::size")]
        pub floor_bytes: u64 = defaults::FLOOR_BYTES,
            Setting::new("cache.floor", SettingKind::Size, "0B");
    }
}
