//! `[log]`: the log.

use serde::{Deserialize, Serialize};

use super::super::setting::{Setting, SettingKind, settings};

settings! {
    /// `[log]`: the log.
    #[serde(default, deny_unknown_fields)]
    pub struct LogSettings in "log" {
        /// The least severe level that is logged: `"error"`, `"warn"`, `"info"`, `"debug"` or
        /// `"trace"`.
        pub level: LogLevel = LogLevel::Info,
            Setting::new("log.level", SettingKind::Text, "trace").refuses("loud").live();
    }
}

/// A level of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// Also conditions that the user should know.
    Warn,
    /// Also normal events.
    Info,
    /// Also details of events.
    Debug,
    /// Also everything else.
    Trace,
}
