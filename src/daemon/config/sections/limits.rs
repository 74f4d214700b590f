//! `[limits]`: limits on this machine's traffic and connections.

use super::super::dscp::Dscp;
use super::super::fields::positive;
use super::super::rate_limit::RateLimit;
use super::super::setting::{Setting, SettingKind, settings};
use p2pfs_node::api::defaults;

settings! {
    /// `[limits]`: limits on this machine's traffic and connections.
    #[serde(default, deny_unknown_fields)]
    pub struct LimitSettings in "limits" {
        /// Maximum rate of sending to all other nodes together: a size and /s, such as
        /// `"10MiB/s"`, at least `"64KiB/s"`, or `"none"`.
        ///
        /// The rate counts the bytes that nodes fetch from each other and the files that `p2pfs
        /// send` transfers, including the older protocols (`[legacy]`, `[mesh]`). Lines of talk,
        /// and the lists of files that nodes exchange, are not counted. Bytes that a reader waits
        /// for go first; cache filling is delayed in return. `p2pfs limits` sets the rate until
        /// the next start or a reload with other configured limits.
        pub up: RateLimit = RateLimit(None),
            Setting::new("limits.up", SettingKind::Rate, "1MiB/s").refuses("63KiB/s").live();

        /// Maximum rate of receiving from all other nodes together, written and counted like `up`.
        pub down: RateLimit = RateLimit(None),
            Setting::new("limits.down", SettingKind::Rate, "2MB/s").refuses("63KiB/s").live();

        /// Whether the network charges by the byte, so that nothing is fetched without a request.
        ///
        /// See `p2pfs limits` in `p2pfs(1)`.
        pub metered: bool = false,
            Setting::new("limits.metered", SettingKind::Switch, "true").live();

        /// The mark of bulk packets for the network (the Differentiated Services field): `"le"`
        /// (Lower Effort, RFC 8622, which yields to all other traffic), `"cs1"`, a code point from
        /// 0 to 63, or `"none"`.
        ///
        /// `"cs1"` is the earlier mark for the same purpose, which older routers and Wi-Fi know.
        /// Two nodes have two connections each way: one for data that a program waits for, up to
        /// 128 KiB per request, and one for everything else (larger reads, read-ahead, whole
        /// files, lists of names). Only the second is marked, at both ends. It also comes last in
        /// this machine's own queues, so that a call or a game beside it goes first.
        pub dscp: Dscp = Dscp::default(),
            Setting::new("limits.dscp", SettingKind::Text, "cs1").refuses("64");

        /// Maximum number of connections from other nodes at one time.
        #[serde(deserialize_with = "positive")]
        pub peer_connections: u32 = defaults::PEER_CONNECTIONS,
            Setting::new("limits.peer_connections", SettingKind::Number, "12").refuses("0");

        /// Maximum number of connections to the control socket at one time.
        ///
        /// A user who is neither root nor the daemon's own has a quarter of them. All users that
        /// the service of the whole machine cannot distinguish have a quarter together.
        #[serde(deserialize_with = "positive")]
        pub control_connections: u32 = 64,
            Setting::new("limits.control_connections", SettingKind::Number, "13").refuses("0");
    }
}
