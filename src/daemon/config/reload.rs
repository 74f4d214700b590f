//! Which settings there are, and which of them a running daemon can take.

use std::path::PathBuf;

use super::program_budget::ProgramBudget;
use super::seed::Seed;
use super::settings::{Config, LimitSettings, LogLevel, ShareSettings};

/// How a setting is written in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A path; a relative one is absolute from the working directory.
    Path,
    /// Several, with commas between (folders to share: with colons).
    List,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file, with its section: `cache.size`.
    pub key: &'static str,
    /// How the environment says it.
    pub kind: Kind,
    /// Whether a reload applies a change of it to the running daemon.
    pub live: bool,
}

/// Every setting, in the order of the manual.
pub const SETTINGS: &[Setting] = &[
    fixed("name", Kind::Text),
    fixed("listen", Kind::Text),
    live("seeds", Kind::List),
    fixed("secret_file", Kind::Path),
    fixed("state_dir", Kind::Path),
    fixed("cache_dir", Kind::Path),
    fixed("socket", Kind::Path),
    live("cache.size", Kind::Text),
    fixed("cache.floor", Kind::Text),
    fixed("mount.enabled", Kind::Switch),
    fixed("mount.dir", Kind::Path),
    fixed("mount.uid", Kind::Text),
    fixed("mount.gid", Kind::Text),
    fixed("mount.umask", Kind::Text),
    fixed("mount.fmask", Kind::Text),
    fixed("mount.dmask", Kind::Text),
    fixed("mount.read_deadline", Kind::Text),
    live("readers.cached_only", Kind::List),
    live("readers.budgets", Kind::List),
    fixed("lan.mdns", Kind::Switch),
    fixed("membership.period", Kind::Text),
    fixed("membership.away_grace", Kind::Text),
    fixed("legacy.enabled", Kind::Switch),
    fixed("legacy.members", Kind::List),
    fixed("legacy.period", Kind::Text),
    fixed("legacy.waiting", Kind::Text),
    fixed("legacy.lookup", Kind::Text),
    fixed("legacy.responder_delay", Kind::Text),
    fixed("legacy.bridge", Kind::Switch),
    fixed("mesh.listen", Kind::Text),
    fixed("mesh.peers", Kind::List),
    fixed("mesh.max_peers", Kind::Number),
    fixed("mesh.inbox", Kind::Path),
    fixed("inbox.dir", Kind::Path),
    fixed("inbox.from", Kind::List),
    fixed("inbox.budget", Kind::Text),
    fixed("inbox.floor", Kind::Text),
    live("limits.up", Kind::Text),
    live("limits.down", Kind::Text),
    fixed("limits.peer_connections", Kind::Number),
    fixed("limits.control_connections", Kind::Number),
    fixed("metrics.listen", Kind::Text),
    live("log.level", Kind::Text),
    live("share.dir", Kind::List),
    live("share.include_private", Kind::Switch),
    live("share.legacy", Kind::Switch),
    live("share.exclude", Kind::List),
    live("share.default_excludes", Kind::Switch),
];

const fn fixed(key: &'static str, kind: Kind) -> Setting {
    Setting {
        key,
        kind,
        live: false,
    }
}

const fn live(key: &'static str, kind: Kind) -> Setting {
    Setting {
        key,
        kind,
        live: true,
    }
}

impl Setting {
    /// Its environment variable: `cache.size` is `P2PFS_CACHE_SIZE`.
    pub fn variable(&self) -> String {
        format!("P2PFS_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// The section of the file that it is in; empty above the first.
    pub(super) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }
}

/// What a reload changes. Where nothing is to be done, all is empty or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Shares to add, and those whose settings changed.
    pub shares_added: Vec<ShareSettings>,
    /// Shares to remove.
    pub shares_removed: Vec<PathBuf>,
    /// The new seeds.
    pub seeds: Option<Vec<Seed>>,
    /// The new budget of the cache.
    pub cache_size_bytes: Option<u64>,
    /// How much may go each way a second.
    pub limits: Option<LimitSettings>,
    /// Who is given cached bytes only.
    pub cached_only: Option<Vec<String>>,
    /// Who may have how much fetched a second.
    pub budgets: Option<Vec<ProgramBudget>>,
    /// The new log level.
    pub log_level: Option<LogLevel>,
    /// Keys of settings that changed and need a restart.
    pub restart: Vec<&'static str>,
}

/// What lies between two configurations.
pub fn compare(old: &Config, new: &Config) -> Changes {
    let added = new.share.iter().filter(|share| !old.share.contains(share));
    let is_new = |dir: &PathBuf| new.share.iter().any(|share| share.dir == *dir);
    let removed = old.share.iter().filter(|share| !is_new(&share.dir));
    let (before, after) = (old.to_table(), new.to_table());
    let restart = SETTINGS
        .iter()
        .filter(|setting| !setting.live && setting.of(&before) != setting.of(&after))
        .map(|setting| setting.key)
        .collect();
    Changes {
        shares_added: added.cloned().collect(),
        shares_removed: removed.map(|share| share.dir.clone()).collect(),
        seeds: changed(&old.seeds, &new.seeds),
        cache_size_bytes: changed(&old.cache.size_bytes, &new.cache.size_bytes),
        limits: changed_limits(&old.limits, &new.limits),
        budgets: changed(&old.readers.budgets, &new.readers.budgets),
        cached_only: changed(&old.readers.cached_only, &new.readers.cached_only),
        log_level: changed(&old.log.level, &new.log.level),
        restart,
    }
}

/// Of the limits, the rates alone can change while the daemon runs.
fn changed_limits(old: &LimitSettings, new: &LimitSettings) -> Option<LimitSettings> {
    let rates = |limits: &LimitSettings| (limits.up, limits.down);
    (rates(old) != rates(new)).then(|| new.clone())
}

fn changed<T: PartialEq + Clone>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

impl Setting {
    pub(super) fn of<'a>(&self, table: &'a toml::Table) -> Option<&'a toml::Value> {
        match self.key.split_once('.') {
            None => table.get(self.key),
            Some((section, key)) => table.get(section)?.get(key),
        }
    }
}

impl Config {
    pub(super) fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).unwrap_or_default()
    }
}
