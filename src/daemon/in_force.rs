//! The settings in force: those of the start, and what reloads changed of them.

use super::config::{Config, Loaded, ShareSettings, Shown};
use super::control::{SettingInfo, Settings};

/// The settings as they are used now.
#[derive(Debug, Clone)]
pub struct InForce {
    /// All of them, as they were read last: of what needs a restart `Service` has what holds.
    pub config: Config,
    /// As they are shown.
    pub shown: Settings,
}

impl InForce {
    /// Those of a start.
    pub fn at_start(loaded: &Loaded) -> Self {
        Self {
            config: loaded.config.clone(),
            shown: Settings {
                files: files_of(loaded),
                settings: loaded.shown.iter().map(|shown| info(shown, None)).collect(),
            },
        }
    }

    /// What set a share of the configuration; none where it has no such share.
    pub fn origin_of_share(&self, is_it: impl Fn(&ShareSettings) -> bool) -> Option<&str> {
        let shown = self.shown.settings.iter();
        let origins = shown.filter(|info| info.key == "share");
        let mut shares = self.config.share.iter().zip(origins);
        let found = shares.find(|(share, _)| is_it(share));
        found.map(|(_, info)| info.origin.as_str())
    }

    /// Those after a reload, of which the keys in `restart` wait for the next start.
    pub fn reloaded(&self, loaded: &Loaded, restart: &[&str]) -> Self {
        let old = |key: &str| self.shown.settings.iter().find(|info| info.key == key);
        let settings = loaded.shown.iter().map(|new| {
            let waiting = old(&new.key).filter(|_| restart.contains(&&*new.key));
            match waiting {
                None => info(new, None),
                Some(old) => SettingInfo {
                    after_restart: Some(new.value.clone()),
                    ..old.clone()
                },
            }
        });
        Self {
            config: loaded.config.clone(),
            shown: Settings {
                files: files_of(loaded),
                settings: settings.collect(),
            },
        }
    }
}

fn files_of(loaded: &Loaded) -> Vec<String> {
    let files = loaded.files.iter();
    files.map(|file| file.display().to_string()).collect()
}

fn info(shown: &Shown, after_restart: Option<String>) -> SettingInfo {
    SettingInfo {
        key: shown.key.clone(),
        value: shown.value.clone(),
        origin: shown.origin.clone(),
        after_restart,
    }
}
