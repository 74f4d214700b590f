//! SIGHUP: applies a changed configuration to the running daemon.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::answers::limits;
use super::logging::LogHandle;
use super::node_config::inbox_shares;
use super::services::Services;
use super::sharing::{added_by_command, share_all, unshare_all};
use super::{former_names, seeds};
use crate::daemon::config::{Changes, Config, ConfigError, ShareSettings, Sources, compare, load};
use p2pfs_node::{Condition, Finding};

/// Reads the configuration again, applies the settings that can change, and reports the settings
/// that need a restart. Returns the configuration as read, with which the next reload compares.
///
/// # Errors
/// [`ConfigError`]; nothing was changed then.
pub(super) async fn apply(
    services: &Arc<Services>,
    old: &Config,
    sources: &Sources,
    log: &LogHandle,
) -> Result<Config, Box<ConfigError>> {
    let loaded = load(sources).map_err(Box::new)?;
    let new = loaded.config.clone();
    let mut changes = compare(old, &new);
    change_inboxes(&mut changes, &services.settings.at_start, [old, &new]);
    // Compares with the configuration of the start, because settings that need a restart still have
    // these values, whatever earlier reloads requested.
    let restart = compare(&services.settings.at_start, &new).restart;
    let in_force = services
        .settings
        .in_force
        .load()
        .reloaded(&loaded, &restart);
    services.settings.in_force.store(Arc::new(in_force));
    if let Some(level) = changes.log_level {
        log.set_level(level);
    }
    if let Some(programs) = changes.cached_only.clone() {
        services.activity.served.set_cached_only(programs);
    }
    if changes.limits.is_some() {
        limits::limit_as_configured(services);
    }
    if let Some(budgets) = &changes.budgets {
        services.activity.served.set_budgets(budgets);
    }
    if let Some(budget_bytes) = changes.cache_size_bytes {
        let node = services.node.clone();
        let _resized = spawn_blocking(move || node.cache().resize(budget_bytes)).await;
    }
    for address in seeds::addresses(changes.seeds.as_deref().unwrap_or_default()) {
        let _stopping = services.node.peers().add_seed(address).await;
    }
    change_shares(services, &changes).await;
    former_names::drop_names_not_given(services).await;
    let settings = restart.join(", ");
    let found = Finding::new(format!("these settings need a restart: {settings}"));
    let found = (!restart.is_empty()).then_some((settings, found));
    let found = found.into_iter().collect();
    services
        .node
        .events()
        .replace(Condition::RestartNeeded, found);
    Ok(new)
}

/// Adds and removes the shares of inboxes. An inbox has a share of its own while no configured
/// share covers it. A reload changes the configured shares and not the inboxes, and each inbox must
/// stay shared.
fn change_inboxes(changes: &mut Changes, at_start: &Config, old_and_new: [&Config; 2]) {
    let [old, new] = old_and_new.map(|config| inbox_shares(at_start, &config.share));
    let gone = old.iter().filter(|inbox| !new.contains(inbox));
    changes
        .shares_removed
        .extend(gone.map(|inbox| inbox.dir.clone()));
    let come = new.into_iter().filter(|inbox| !old.contains(inbox));
    changes.shares_added.extend(come);
    // A folder that is an inbox and a share is one share with changed settings.
    let added = &changes.shares_added;
    let is_added = |dir: &PathBuf| added.iter().any(|share| share.dir == *dir);
    changes.shares_removed.retain(|dir| !is_added(dir));
}

async fn change_shares(services: &Arc<Services>, changes: &Changes) {
    let mut saved = added_by_command(services).await;
    let mut removed = changes.shares_removed.clone();
    removed.retain(|dir| !saved.iter().any(|share| share.dir == *dir));
    unshare_all(services, removed).await;
    // `saved` has the shares that were added by command and that no configured share replaces. Such
    // a share is added again if the members of groups changed, or if the configuration has dropped
    // its folder, so that the settings of the command apply. It is also added again if it is not
    // shared now, because the configuration had named its folder through a link.
    let shared = services.node.shares().list();
    let is_shared = |share: &ShareSettings| shared.iter().any(|it| it.dir == share.dir);
    let was_configured = |share: &ShareSettings| changes.shares_removed.contains(&share.dir);
    saved.retain(|it| changes.has_other_groups || was_configured(it) || !is_shared(it));
    // A command may have removed a share meanwhile.
    let still = services.shares.all_saved();
    saved.retain(|share| still.contains(share));
    let mut added = changes.shares_added.clone();
    added.extend(saved);
    share_all(services, added).await;
}
