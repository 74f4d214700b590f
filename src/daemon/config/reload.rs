//! The settings that a running daemon can change.

use std::path::PathBuf;

use super::group::readers_of;
use super::program_budget::ProgramBudget;
use super::sections::{LimitSettings, LogLevel, ShareSettings};
use super::seed::Seed;
use super::setting::SETTINGS;
use super::settings::Config;

/// The changes of a reload, for all settings that are live. A field is empty, `None` or `false` if
/// there is nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Shares to add, and shares whose settings or readers changed.
    pub shares_added: Vec<ShareSettings>,
    /// Shares to remove.
    pub shares_removed: Vec<PathBuf>,
    /// Whether the members of groups changed, which also affects shares that were added by command.
    pub has_other_groups: bool,
    /// The new seeds.
    pub seeds: Option<Vec<Seed>>,
    /// The new budget of the cache.
    pub cache_size_bytes: Option<u64>,
    /// The new rate limits in both directions, and whether the network is metered.
    pub limits: Option<LimitSettings>,
    /// The programs that may read cached bytes only.
    pub cached_only: Option<Vec<String>>,
    /// The fetch budgets of programs.
    pub budgets: Option<Vec<ProgramBudget>>,
    /// The new log level.
    pub log_level: Option<LogLevel>,
    /// Keys of settings that changed and need a restart.
    pub restart: Vec<&'static str>,
}

/// Returns the differences between two configurations.
pub fn compare(old: &Config, new: &Config) -> Changes {
    let is_as_before = |share: &&ShareSettings| {
        let readers = |config: &Config| readers_of(share.readers.as_deref(), &config.groups);
        old.share.contains(share) && readers(old) == readers(new)
    };
    let added = new.share.iter().filter(|share| !is_as_before(share));
    let is_new = |dir: &PathBuf| new.share.iter().any(|share| share.dir == *dir);
    let removed = old.share.iter().filter(|share| !is_new(&share.dir));
    let (before, after) = (old.to_table(), new.to_table());
    let restart = SETTINGS
        .iter()
        .filter(|setting| !setting.is_live)
        .filter(|setting| setting.of(&before) != setting.of(&after))
        .map(|setting| setting.key)
        .collect();
    Changes {
        shares_added: added.cloned().collect(),
        shares_removed: removed.map(|share| share.dir.clone()).collect(),
        has_other_groups: old.groups != new.groups,
        seeds: changed(&old.seeds, &new.seeds),
        cache_size_bytes: changed(&old.cache.size_bytes, &new.cache.size_bytes),
        limits: changed_limits(&old.limits, &new.limits),
        budgets: changed(&old.readers.budgets, &new.readers.budgets),
        cached_only: changed(&old.readers.cached_only, &new.readers.cached_only),
        log_level: changed(&old.log.level, &new.log.level),
        restart,
    }
}

/// Returns the limits if `up`, `down` or `metered` differs. The other limits cannot change while
/// the daemon runs.
fn changed_limits(old: &LimitSettings, new: &LimitSettings) -> Option<LimitSettings> {
    let live = |limits: &LimitSettings| (limits.up, limits.down, limits.metered);
    (live(old) != live(new)).then(|| new.clone())
}

fn changed<T: PartialEq + Clone>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}
