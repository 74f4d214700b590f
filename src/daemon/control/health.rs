//! The replies about how well a node is placed: a ping, a check-up, and the settings in force.

use serde::{Deserialize, Serialize};

/// The reply to [`super::Call::Ping`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// What the other node calls itself.
    pub name: String,
    /// Its key, 64 hexadecimal digits.
    pub node: String,
    /// Where it answers, `ADDR:PORT`.
    pub address: String,
    /// The round trip of a question on a connection that stands.
    pub tcp_ms: f64,
    /// The usual round trip of a datagram; absent where none was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub udp_ms: Option<f64>,
}

/// The reply to [`super::Call::Doctor`], and what `p2pfs doctor` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// One for each thing that was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a word; seeds, peers and shares are named with it.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, and its owner should know.
    Warning,
    /// It does not work.
    Failed,
}

impl Check {
    /// One that is as it should be.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: CheckState::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// One that works all the same.
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

    /// One that does not work.
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

    /// What it says, in one line.
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

/// The reply to [`super::Call::Limits`] and [`super::Call::SetLimits`]; absent is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most that is sent to other nodes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub up_bytes_per_s: Option<u64>,
    /// The most that is fetched from them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub down_bytes_per_s: Option<u64>,
    /// The same at the next start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub configured_up_bytes_per_s: Option<u64>,
    /// The same at the next start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub configured_down_bytes_per_s: Option<u64>,
    /// Whether nothing is fetched that nobody asked for.
    #[serde(default)]
    pub metered: bool,
    /// The same at the next start.
    #[serde(default)]
    pub configured_metered: bool,
}

/// The reply to [`super::Call::Settings`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The files that were read, in order.
    pub files: Vec<String>,
    /// In the order of the manual; the shares of the configuration last.
    pub settings: Vec<SettingInfo>,
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingInfo {
    /// Its key with its section, such as `cache.size`.
    pub key: String,
    /// As a file would say it; empty where it is not set.
    pub value: String,
    /// What set it.
    pub origin: String,
    /// What it will be at the next start, where that differs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after_restart: Option<String>,
}
