//! `[membership]`: detection of live nodes.

use std::time::Duration;

use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[membership]`: detection of live nodes.
    #[serde(default, deny_unknown_fields)]
    pub struct MembershipSettings in "membership" {
        /// Interval between probes of other nodes, at least `"100ms"`.
        ///
        /// A dead node is noticed within a few such periods.
        #[serde(with = "units::positive_duration")]
        pub period: Duration = defaults::PROBE_PERIOD,
            Setting::new("membership.period", SettingKind::Duration, "2s").refuses("99ms");

        /// How long a node that stopped cleanly still counts as live.
        #[serde(with = "units::duration")]
        pub away_grace: Duration = defaults::AWAY_GRACE,
            Setting::new("membership.away_grace", SettingKind::Duration, "0s");
    }
}
