//! `[metrics]`: the endpoint for Prometheus.

use super::super::metrics::MetricsAddress;
use super::super::setting::{Setting, SettingKind, settings};

settings! {
    /// `[metrics]`: the endpoint for Prometheus.
    #[serde(default, deny_unknown_fields)]
    pub struct MetricsSettings in "metrics" {
        /// The address at which Prometheus reads metrics, on this machine only:
        /// `"127.0.0.1:PORT"`, `"[::1]:PORT"` (path _`/metrics`_) or the absolute path of a Unix
        /// socket.
        ///
        /// The metrics contain the names of peers and counts, but no names of files. A dashboard
        /// for Grafana is _`/usr/share/doc/p2pfs/grafana/p2pfs.json`_.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub listen: Option<MetricsAddress> = None,
            Setting::new("metrics.listen", SettingKind::Text, "[::1]:9")
                .refuses("0.0.0.0:9")
                .shown_as("\"127.0.0.1:9178\"");
    }
}
