//! The replies about the setup of a node: a ping, a check-up, and the settings in force.

use serde::{Deserialize, Serialize};

use super::described::described;
use super::types::ServiceState;

described! {
    /// The reply to [`super::Call::Ping`].
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    pub struct Pong as "Pong" {
        /// The name of the other node.
        pub name: String,
        /// Its key, 64 hexadecimal digits.
        pub node: String,
        /// Its address, `ADDR:PORT`.
        pub address: String,
        /// Round trip of a question on an established connection.
        pub tcp_ms: f64,
        /// Usual round trip of a datagram; absent if none was measured.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub udp_ms: Option<f64>,
    }
}

described! {
    /// The reply to [`super::Call::Doctor`], and what `p2pfs doctor` prints.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Checkup as "Checkup" {
        /// One entry for each check.
        pub checks: Vec<Check>,
    }
}

described! {
    /// The result of one check.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Check as "Check" {
        /// The checked thing in a word. For seeds, peers and shares it includes their name.
        pub name: String,
        /// The verdict. Text output has `error` for `failed`.
        pub state: CheckState,
        /// The finding.
        pub found: String,
        /// The remedy.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub remedy: Option<String>,
        /// The cause, if `found` has figures that change while the cause stays.
        #[serde(skip)]
        pub cause: Option<String>,
        /// Whether the warning stands as a condition until a later check finds it mended.
        #[serde(skip)]
        pub is_condition: bool,
    }
}

described! {
    /// The verdict of a check.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum CheckState {
        /// The thing is as it should be.
        Ok,
        /// The thing works, and its owner may want to know this.
        Note,
        /// It works, but its owner should know.
        Warning,
        /// It does not work.
        Failed,
    }
}

/// Name of the check of the daemon itself.
pub const DAEMON_CHECK: &str = "daemon";

impl Check {
    /// Returns the only check of a daemon that is starting or stopping. Other checks would fail
    /// then, without a fault. Returns `None` for a daemon that serves.
    pub fn of_phase(state: ServiceState) -> Option<Self> {
        let (found, remedy) = match state {
            ServiceState::Serving => return None,
            ServiceState::Starting => (
                "is starting, so nothing else was checked",
                "run it again once the daemon serves (p2pfs wait returns then)",
            ),
            ServiceState::Stopping => (
                "is stopping, so nothing else was checked",
                "run it again after the next start",
            ),
        };
        Some(Self::warning(DAEMON_CHECK, found, remedy))
    }

    /// Creates a check that passed.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: CheckState::Ok,
            found: found.into(),
            remedy: None,
            cause: None,
            is_condition: false,
        }
    }

    /// Makes a warning stand as a condition until a later check finds it mended.
    #[must_use]
    pub fn as_condition(self) -> Self {
        Self {
            is_condition: true,
            ..self
        }
    }

    /// Names the cause of a finding with figures. A condition with other figures and the same cause
    /// is not told again.
    #[must_use]
    pub fn of_cause(self, cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..self
        }
    }

    /// Creates a note.
    pub fn note(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            state: CheckState::Note,
            ..Self::ok(name, found)
        }
    }

    /// Creates a warning.
    pub fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: CheckState::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    /// Creates a check that failed.
    pub fn failed(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: CheckState::Failed,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    /// Formats the check in one line.
    pub fn sentence(&self) -> String {
        let remedy = self.remedy.iter().map(|remedy| format!("; {remedy}"));
        format!(
            "{}: {}{}",
            self.name,
            self.found,
            remedy.collect::<String>()
        )
    }
}

described! {
    /// The reply to [`super::Call::Limits`] and [`super::Call::SetLimits`]. An absent rate means no
    /// limit.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Limits as "Limits" {
        /// Upper limit of the rate to other nodes.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub up_bytes_per_s: Option<u64>,
        /// Upper limit of the rate from other nodes.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub down_bytes_per_s: Option<u64>,
        /// Upper limit of the rate to other nodes at the next start.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub configured_up_bytes_per_s: Option<u64>,
        /// Upper limit of the rate from other nodes at the next start.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub configured_down_bytes_per_s: Option<u64>,
        /// Whether the network is metered, so that only data that a user requested is fetched.
        #[serde(default)]
        pub metered: bool,
        /// Whether the network is metered at the next start.
        #[serde(default)]
        pub configured_metered: bool,
    }
}

described! {
    /// The reply to [`super::Call::Settings`].
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Settings as "Settings" {
        /// The configuration files that were read, in order.
        pub files: Vec<String>,
        /// The settings in the order of the manual; the shares of the configuration last.
        pub settings: Vec<SettingInfo>,
    }
}

described! {
    /// One setting in force.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct SettingInfo as "Setting" {
        /// Its key with its section, such as `cache.size`.
        pub key: String,
        /// The value as it is written in a file; empty if it is not set.
        pub value: String,
        /// The source that set it.
        pub origin: String,
        /// The value at the next start, if it differs.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub after_restart: Option<String>,
    }
}
