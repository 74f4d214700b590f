//! `[legacy]`: the legacy text protocol. Its default durations, except `lookup`, are
//! those of the legacy programs.

use std::time::Duration;

use super::super::seed::Seed;
use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;

settings! {
    /// `[legacy]`: the legacy text protocol.
    ///
    /// The legacy text protocol.
    ///
    /// It uses the address of `listen`, which must be IPv4, and only if it is enabled: by
    /// `enabled`, by `--legacy`, or by `P2P_CLUSTER`. The other keys alone do not enable it. See
    /// LEGACY PEERS in `p2pfs-legacy(7)`.
    #[serde(default, deny_unknown_fields)]
    pub struct LegacySettings in "legacy" {
        /// Whether the protocol is enabled.
        pub enabled: bool = false,
            Setting::new("legacy.enabled", SettingKind::Switch, "yes");

        /// Legacy peers to contact first, a list of `"HOST:PORT"`.
        pub members: Vec<Seed> = Vec::new(),
            Setting::new("legacy.members", SettingKind::List, "x:1").refuses("x");

        /// Interval at which the list of members is sent.
        #[serde(with = "units::positive_duration")]
        pub period: Duration = Duration::from_secs(20),
            Setting::new("legacy.period", SettingKind::Duration, "21s").refuses("0s");

        /// Maximum duration of a search for a file.
        #[serde(with = "units::positive_duration")]
        pub waiting: Duration = Duration::from_secs(100),
            Setting::new("legacy.waiting", SettingKind::Duration, "101s").refuses("0s");

        /// How long the lookup of a name that only a legacy peer may have waits once it is
        /// requested.
        ///
        /// The default outlasts the ten seconds after which a legacy program answers.
        #[serde(with = "units::duration")]
        pub lookup: Duration = Duration::from_secs(12),
            Setting::new("legacy.lookup", SettingKind::Duration, "13s");

        /// Delay of this node's answer to a peer that it does not know.
        #[serde(with = "units::duration")]
        pub responder_delay: Duration = Duration::from_secs(10),
            Setting::new("legacy.responder_delay", SettingKind::Duration, "11s");

        /// Whether files of other native nodes are offered to legacy peers.
        pub bridge: bool = false,
            Setting::new("legacy.bridge", SettingKind::Switch, "true");
    }
}
