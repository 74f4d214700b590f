//! Shares that the configuration or a command requests and that are not possible yet.
//!
//! Owns the list of these shares. Each is retried from time to time and reported in the warnings,
//! until it is shared or no longer wanted.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answers::Service;
use super::missing::Missing;
use super::node_config::share_spec;
use crate::daemon::config::{ShareSettings, folder_names};
use p2pfs_node::api::ShareSpec;
use p2pfs_node::{Condition, Finding};

/// How long adding shares waits for their disks in total. A disk at rest takes longer to spin up,
/// and must not delay all other work.
const DISKS_WITHIN: Duration = Duration::from_secs(3);
/// Minimum wait for each share, so that one hung disk does not delay shares on working disks.
const DISK_WITHIN: Duration = Duration::from_millis(200);

/// Adds shares, and retries the missing ones, because the user may have corrected their cause.
/// Shares that cannot be added are missing from now on. Waits only for disks that answer soon;
/// other shares are added once their disks answer.
pub(super) async fn share_all(service: &Arc<Service>, wanted: Vec<ShareSettings>) {
    service.missing_shares.lock().want(wanted);
    share_missing(service).await;
}

/// Returns the shares that were added by command, except for folders that the configuration names
/// under any spelling, because the configuration takes precedence.
pub(super) async fn added_by_command(service: &Arc<Service>) -> Vec<ShareSettings> {
    let mut added = service.saved_shares();
    if added.is_empty() {
        return added;
    }
    let in_force = service.in_force.load_full();
    // It accesses disks.
    let naming = spawn_blocking(move || {
        let shares = in_force.config.share.iter();
        let dirs: Vec<PathBuf> = shares.map(|share| share.dir.clone()).collect();
        [dirs.clone(), folder_names(dirs)].concat()
    });
    let configured = naming.await.unwrap_or_default();
    added.retain(|share| !configured.contains(&share.dir));
    added
}

/// Retries the missing shares in their order. Of nested shares, the first counts.
pub(super) async fn share_missing(service: &Arc<Service>) {
    // Unwanted shares are forgotten before any disk is waited for.
    forget_absent(service).await;
    let until = Instant::now() + DISKS_WITHIN;
    let wanted = service.missing_shares.lock().wanted().to_vec();
    for share in wanted {
        let (of_thread, dir) = (service.clone(), share.dir.clone());
        if !service.missing_shares.lock().begin_to_try(&dir) {
            continue;
        }
        let trying = spawn_blocking(move || of_thread.try_to_share(&share));
        let left = until.saturating_duration_since(Instant::now());
        if timeout(left.max(DISK_WITHIN), trying).await.is_err() {
            service.tell_of_disk(&dir);
        }
    }
    forget_absent(service).await;
}

/// Removes the entries of shares from an earlier run that are not wanted now or cannot be shared.
/// Their files cannot be given to other nodes, and the user may have had reasons to remove them.
/// Entries on a disk that does not answer stay listed.
async fn forget_absent(service: &Arc<Service>) {
    let missing = service.missing_shares.lock().outlook();
    let node = service.node.clone();
    let _done = spawn_blocking(move || node.forget_absent_shares(&missing)).await;
}

/// Stops sharing these folders, whether they were shared or missing, on a thread that may wait for
/// the disk.
pub(super) async fn unshare_all(service: &Arc<Service>, dirs: Vec<PathBuf>) {
    let service = service.clone();
    let work = spawn_blocking(move || {
        for dir in dirs {
            service.want_no_more(&dir);
            // A missing share was not shared.
            let _was_missing = service.node.remove_share(&dir);
        }
    });
    let _stopping = work.await;
}

impl Service {
    /// Removes a folder from the missing shares, because it is not wanted or is shared now. Returns
    /// whether it was missing.
    pub(super) fn want_no_more(&self, dir: &Path) -> bool {
        let mut missing = self.missing_shares.lock();
        let was_missing = missing.want_no_more(dir);
        self.node
            .end(Condition::ShareMissing, &dir.display().to_string());
        was_missing
    }

    /// Tries to add a share. Holds no lock during the disk access, which may hang, so that other
    /// shares can be added and removed meanwhile.
    fn try_to_share(&self, share: &ShareSettings) {
        let groups = self.in_force.load().config.groups.clone();
        // A folder in the configuration may deliberately be a link; a saved share is already
        // resolved.
        let is_resolved = self.saved_shares().contains(share);
        let configured = self.in_force.load().config.share.clone();
        let is_configured = configured.iter().any(|it| it.dir == share.dir);
        let spec = share_spec(share, &groups);
        let outcome = self.node.add_share(ShareSpec {
            is_resolved,
            is_by_command: is_resolved && !is_configured,
            ..spec
        });
        let mut missing = self.missing_shares.lock();
        missing.end_try(&share.dir);
        let is_wanted = missing.wanted().contains(share);
        match outcome {
            Ok(()) if is_wanted => {
                drop(missing);
                self.want_no_more(&share.dir);
            }
            Ok(()) => {
                drop(missing);
                let _wanted_no_more_since = self.node.remove_share(&share.dir);
            }
            Err(error) if is_wanted => self.tell_not_shared(&mut missing, &share.dir, &error),
            Err(_) => {}
        }
    }

    /// Reports that a disk delays a share, if it still does.
    fn tell_of_disk(&self, dir: &Path) {
        let mut missing = self.missing_shares.lock();
        if missing.is_awaited(dir) {
            let why = "its disk does not answer; look at it, or stop sharing it";
            self.tell_not_shared(&mut missing, dir, &why);
        }
    }

    /// Reports a missing share. The list stays locked, so that no report follows after the share
    /// was added.
    fn tell_not_shared(&self, missing: &mut Missing, dir: &Path, why: &dyn Display) {
        let subject = dir.display().to_string();
        let said = format!("{subject} is not shared: {why}");
        let found = Finding::with_own_remedy(&said).for_owner();
        self.node.begin(Condition::ShareMissing, &subject, found);
        missing.record(dir, why.to_string());
    }
}
