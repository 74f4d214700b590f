//! The settings in force: the settings of the start, with the changes of reloads.

use crate::daemon::config::{Config, Loaded, ShareSettings};
use crate::daemon::control::Settings;

/// The settings in force.
#[derive(Debug, Clone)]
pub(super) struct EffectiveConfig {
    /// All settings as they were last read. For settings that need a restart,
    /// `ActiveSettings::at_start` holds the values in force.
    pub config: Config,
    /// The settings as the control socket shows them, each with its origin.
    pub shown: Settings,
}

impl EffectiveConfig {
    /// Returns the settings of a start.
    pub(super) fn at_start(loaded: &Loaded) -> Self {
        Self {
            config: loaded.config.clone(),
            shown: loaded.settings(),
        }
    }

    /// Returns the origin of the first configured share that matches; `None` if no share matches.
    pub(super) fn origin_of_share(&self, is_it: impl Fn(&ShareSettings) -> bool) -> Option<&str> {
        let shown = self.shown.settings.iter();
        let origins = shown.filter(|info| info.key == "share");
        let mut shares = self.config.share.iter().zip(origins);
        let found = shares.find(|(share, _)| is_it(share));
        found.map(|(_, info)| info.origin.as_str())
    }

    /// Returns the settings after a reload. For each key in `restart`, `shown` keeps the value and
    /// its origin, and has the new value as `after_restart`.
    pub(super) fn reloaded(&self, loaded: &Loaded, restart: &[&str]) -> Self {
        let old = |key: &str| self.shown.settings.iter().find(|info| info.key == key);
        let mut shown = loaded.settings();
        let waiting = shown.settings.iter_mut();
        for new in waiting.filter(|new| restart.contains(&&*new.key)) {
            if let Some(old) = old(&new.key).cloned() {
                new.after_restart = Some(std::mem::replace(&mut new.value, old.value));
                new.origin = old.origin;
            }
        }
        Self {
            config: loaded.config.clone(),
            shown,
        }
    }
}
