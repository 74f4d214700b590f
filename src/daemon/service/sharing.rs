//! Shares that the configuration or a command requests and that are not possible yet.
//!
//! Each of these shares ([`Missing`]) is retried from time to time and reported as a condition,
//! until it is shared or no longer wanted.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::missing::Missing;
use super::node_config::share_spec;
use super::services::Services;
use crate::daemon::config::{ShareSettings, folder_names};
use p2pfs_node::api::ShareSpec;
use p2pfs_node::{Condition, Finding};
use p2pfs_types::files::make_open_dir;

/// How long adding several shares waits for their disks in total, apart from [`DISK_WITHIN`] for
/// each. A disk at rest takes longer to spin up, and must not delay all other work.
const DISKS_WITHIN: Duration = Duration::from_secs(3);
/// Minimum wait for each share. It lets a share on a working disk be added at once, even if hung
/// disks have used up [`DISKS_WITHIN`].
const DISK_WITHIN: Duration = Duration::from_millis(200);

/// Adds shares, and retries the missing shares, because the user may have corrected their cause.
/// Shares that cannot be added are missing from now on. Waits only for disks that answer soon; a
/// share on a slower disk is added in the background once its disk answers.
pub(super) async fn share_all(services: &Arc<Services>, wanted: Vec<ShareSettings>) {
    services.shares.missing.lock().want(wanted);
    share_missing(services).await;
}

/// Returns the shares that were added by command, except for folders that the configuration names
/// under any spelling, because the configuration takes precedence.
pub(super) async fn added_by_command(services: &Arc<Services>) -> Vec<ShareSettings> {
    let mut added = services.shares.all_saved();
    if added.is_empty() {
        return added;
    }
    let in_force = services.settings.in_force.load_full();
    // `folder_names` accesses disks.
    let naming = spawn_blocking(move || {
        let shares = in_force.config.share.iter();
        let dirs: Vec<PathBuf> = shares.map(|share| share.dir.clone()).collect();
        [dirs.clone(), folder_names(dirs)].concat()
    });
    let configured = naming.await.unwrap_or_default();
    added.retain(|share| !configured.contains(&share.dir));
    added
}

/// Retries the missing shares in their order. If one share lies within another, the first of the
/// two is shared and the second stays missing.
pub(super) async fn share_missing(services: &Arc<Services>) {
    // Entries of unwanted shares are removed before any disk is waited for.
    forget_absent(services).await;
    let until = Instant::now() + DISKS_WITHIN;
    let wanted = services.shares.missing.lock().wanted().to_vec();
    for share in wanted {
        let (of_thread, dir) = (services.clone(), share.dir.clone());
        if !services.shares.missing.lock().begin_to_try(&dir) {
            continue;
        }
        let trying = spawn_blocking(move || try_to_share(&of_thread, &share));
        let left = until.saturating_duration_since(Instant::now());
        if timeout(left.max(DISK_WITHIN), trying).await.is_err() {
            tell_of_disk(services, &dir);
        }
    }
    forget_absent(services).await;
}

/// Removes the listed entries of shares from an earlier run, if the shares are not wanted now or
/// cannot be shared. Their files cannot be given to other nodes, and the user may have had reasons
/// to remove them. Entries on a disk that does not answer stay listed.
async fn forget_absent(services: &Arc<Services>) {
    let missing = services.shares.missing.lock().outlook();
    let node = services.node.clone();
    let _done = spawn_blocking(move || node.shares().forget_absent(&missing)).await;
}

/// Stops sharing these folders, whether they were shared or missing, on a thread that may wait for
/// the disk.
pub(super) async fn unshare_all(services: &Arc<Services>, dirs: Vec<PathBuf>) {
    let services = services.clone();
    let work = spawn_blocking(move || {
        for dir in dirs {
            want_no_more(&services, &dir);
            // A missing share was not shared.
            let _was_missing = services.node.shares().remove(&dir);
        }
    });
    let _stopping = work.await;
}

/// Removes a folder from the missing shares, because it is not wanted or is shared now. Returns
/// whether it was missing.
pub(super) fn want_no_more(services: &Services, dir: &Path) -> bool {
    let mut missing = services.shares.missing.lock();
    let was_missing = missing.want_no_more(dir);
    services
        .node
        .events()
        .end(Condition::ShareMissing, &dir.display().to_string());
    was_missing
}

/// Tries to add a share, and accesses its disk, which may hang. Holds no lock meanwhile, so that
/// other shares can be added and removed.
fn try_to_share(services: &Services, share: &ShareSettings) {
    let groups = services.settings.in_force.load().config.groups.clone();
    // A folder in the configuration may deliberately be a link; a saved share is already
    // resolved.
    let is_resolved = services.shares.all_saved().contains(share);
    let configured = services.settings.in_force.load().config.share.clone();
    let is_configured = configured.iter().any(|it| it.dir == share.dir);
    let spec = share_spec(share, &groups);
    if share.writable && share.dir == services.settings.at_start.files_dir() {
        // If it cannot be made, the share is missing and the reason is reported.
        let _made = make_open_dir(&share.dir);
    }
    let outcome = services.node.shares().add(ShareSpec {
        is_resolved,
        is_by_command: is_resolved && !is_configured,
        ..spec
    });
    let mut missing = services.shares.missing.lock();
    missing.end_try(&share.dir);
    let is_wanted = missing.wanted().contains(share);
    match outcome {
        Ok(()) if is_wanted => {
            drop(missing);
            want_no_more(services, &share.dir);
        }
        Ok(()) => {
            drop(missing);
            let _wanted_no_more_since = services.node.shares().remove(&share.dir);
        }
        Err(error) if is_wanted => tell_not_shared(services, &mut missing, &share.dir, &error),
        Err(_) => {}
    }
}

/// Reports that the disk of a share does not answer, if a thread still waits for it.
fn tell_of_disk(services: &Services, dir: &Path) {
    let mut missing = services.shares.missing.lock();
    if missing.is_awaited(dir) {
        let why = "its disk does not answer; look at it, or stop sharing it";
        tell_not_shared(services, &mut missing, dir, &why);
    }
}

/// Reports a missing share. The caller has locked the list `missing`, so that no report follows
/// after the share was added.
fn tell_not_shared(services: &Services, missing: &mut Missing, dir: &Path, why: &dyn Display) {
    let subject = dir.display().to_string();
    let said = format!("{subject} is not shared: {why}");
    let found = Finding::with_own_remedy(&said).for_owner();
    services
        .node
        .events()
        .begin(Condition::ShareMissing, &subject, found);
    missing.record(dir, why.to_string());
}
