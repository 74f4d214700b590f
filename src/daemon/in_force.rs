//! The settings in force: those of the start, and what reloads changed of them.

use super::config::{Config, Loaded, ShareSettings};
use super::control::Settings;

/// The settings as they are used now.
#[derive(Debug, Clone)]
pub(super) struct InForce {
    /// All of them, as they were read last: of what needs a restart `Service` has what holds.
    pub config: Config,
    /// As they are shown.
    pub shown: Settings,
}

impl InForce {
    /// Those of a start.
    pub(super) fn at_start(loaded: &Loaded) -> Self {
        Self {
            config: loaded.config.clone(),
            shown: loaded.settings(),
        }
    }

    /// What set a share of the configuration; none where it has no such share.
    pub(super) fn origin_of_share(&self, is_it: impl Fn(&ShareSettings) -> bool) -> Option<&str> {
        let shown = self.shown.settings.iter();
        let origins = shown.filter(|info| info.key == "share");
        let mut shares = self.config.share.iter().zip(origins);
        let found = shares.find(|(share, _)| is_it(share));
        found.map(|(_, info)| info.origin.as_str())
    }

    /// Those after a reload, of which the keys in `restart` wait for the next start.
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
