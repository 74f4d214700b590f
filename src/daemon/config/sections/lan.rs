//! `[lan]`: discovery of nodes nearby.

use super::super::setting::{Setting, SettingKind, settings};

settings! {
    /// `[lan]`: discovery of nodes nearby.
    #[serde(default, deny_unknown_fields)]
    pub struct LanSettings in "lan" {
        /// Whether the node uses multicast DNS to find other nodes and to be found.
        pub mdns: bool = true,
            Setting::new("lan.mdns", SettingKind::Switch, "false");
    }
}
