//! The effective settings, each with its origin.

use std::collections::BTreeMap;

use super::sections::ShareSettings;
use super::setting::SETTINGS;
use super::settings::Config;
use crate::daemon::control::SettingInfo;

/// Origin of a setting that has its default.
pub(super) const DEFAULT: &str = "the default";

/// Returns all settings in the order of the manual; the shares are last.
pub(super) fn shown(config: &Config, origins: &BTreeMap<String, String>) -> Vec<SettingInfo> {
    let table = config.to_table();
    let origin = |key: &str| {
        let known = origins.get(key).cloned();
        known.unwrap_or_else(|| DEFAULT.to_owned())
    };
    let settings = SETTINGS
        .iter()
        .filter(|setting| setting.section() != "share");
    let one_by_one = settings.map(|setting| SettingInfo {
        key: setting.key.to_owned(),
        value: setting
            .of(&table)
            .map(ToString::to_string)
            .unwrap_or_default(),
        origin: origin(setting.key),
        after_restart: None,
    });
    let shares = config.share.iter().map(|share| SettingInfo {
        key: "share".to_owned(),
        value: share_value(share),
        origin: origin(&share_key(&share.dir.to_string_lossy())),
        after_restart: None,
    });
    one_by_one.chain(shares).collect()
}

/// Returns the key under which the origin of a share is stored.
pub(super) fn share_key(dir: &str) -> String {
    format!("share {dir}")
}

fn share_value(share: &ShareSettings) -> String {
    let mut value = toml::Value::from(share.dir.to_string_lossy().into_owned()).to_string();
    if !share.place.is_root() {
        let place = toml::Value::from(share.place.to_string());
        value.push_str(&format!(", as = {place}"));
    }
    let flags = [
        (share.include_private, ", include_private"),
        (share.legacy, ", legacy"),
        (share.writable, ", writable"),
    ];
    for (is_set, flag) in flags {
        if is_set {
            value.push_str(flag);
        }
    }
    if let Some(readers) = &share.readers {
        let readers = toml::Value::from(readers.clone());
        value.push_str(&format!(", readers = {readers}"));
    }
    if !share.exclude.is_empty() {
        let patterns = toml::Value::from(share.exclude.clone());
        value.push_str(&format!(", exclude = {patterns}"));
    }
    if let Some(open) = share.open {
        value.push_str(&format!(", open = {open}"));
    }
    if !share.default_excludes {
        value.push_str(", default_excludes = false");
    }
    value
}
