//! What this node is to share, by the configuration or by command, and cannot yet.
//!
//! Owns which shares those are: each is tried again now and then, and told of in the warnings,
//! until it is shared or nobody wants it any more.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answers::Service;
use super::config::{ShareSettings, folder_names};
use super::missing::Missing;
use super::node_config::share_spec;
use p2pfs_node::door::ShareSpec;

/// How long those who add shares wait for their disks: one that was at rest turns later, and is
/// not waited for by all else.
const DISKS_WITHIN: Duration = Duration::from_secs(3);
/// What each share has of that at least, so that one disk that stands still does not make others
/// late that are well.
const DISK_WITHIN: Duration = Duration::from_millis(200);

/// Shares these, and what was missing, which whoever asks for more may have mended; what cannot be
/// shared is missing from now on. Waits for disks that answer soon: the others' shares come once
/// they do.
pub(super) async fn share_all(service: &Arc<Service>, wanted: Vec<ShareSettings>) {
    service.missing_shares.lock().want(wanted);
    share_missing(service).await;
}

/// What was added by command, but for the folders of which the configuration says something by
/// whatever name: that counts before.
pub(super) async fn added_by_command(service: &Arc<Service>) -> Vec<ShareSettings> {
    let mut added = service.saved_shares();
    if added.is_empty() {
        return added;
    }
    let in_force = service.in_force.load_full();
    // it asks disks
    let naming = spawn_blocking(move || {
        let shares = in_force.config.share.iter();
        let dirs: Vec<PathBuf> = shares.map(|share| share.dir.clone()).collect();
        [dirs.clone(), folder_names(dirs)].concat()
    });
    let configured = naming.await.unwrap_or_default();
    added.retain(|share| !configured.contains(&share.dir));
    added
}

/// Tries those again that are missing, in their order: of shares within each other the first
/// counts.
pub(super) async fn share_missing(service: &Arc<Service>) {
    // what nobody wants is gone before any disk is waited for
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

/// What was shared in an earlier run, and is wanted no more or cannot be shared, is listed no more:
/// nobody can be given it, and whoever took it out may have had reasons. What is on a disk that
/// does not answer stays listed.
async fn forget_absent(service: &Arc<Service>) {
    let missing = service.missing_shares.lock().outlook();
    let node = service.node.clone();
    let _done = spawn_blocking(move || node.forget_absent_shares(&missing)).await;
}

/// Shares these no more, whether they were shared or missing, on a thread that may wait for the
/// disk.
pub(super) async fn unshare_all(service: &Arc<Service>, dirs: Vec<PathBuf>) {
    let service = service.clone();
    let work = spawn_blocking(move || {
        for dir in dirs {
            service.want_no_more(&dir);
            // what was missing was not shared
            let _was_missing = service.node.remove_share(&dir);
        }
    });
    let _stopping = work.await;
}

impl Service {
    /// Nobody wants this folder shared any more, or it is shared now; whether it was missing.
    pub(super) fn want_no_more(&self, dir: &Path) -> bool {
        let mut missing = self.missing_shares.lock();
        let was_missing = missing.want_no_more(dir);
        self.node.settle_warnings(&not_shared(dir));
        was_missing
    }

    /// Nothing is locked while the disk is asked, which may hang: other shares are added and
    /// removed beside it.
    fn try_to_share(&self, share: &ShareSettings) {
        let groups = self.in_force.load().config.groups.clone();
        // whoever wrote the configuration may have meant a link
        let is_resolved = self.saved_shares().contains(share);
        let spec = share_spec(share, &groups);
        let outcome = self.node.add_share(ShareSpec {
            is_resolved,
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

    /// Says that a disk keeps a share waiting, if it still does.
    fn tell_of_disk(&self, dir: &Path) {
        let mut missing = self.missing_shares.lock();
        if missing.is_awaited(dir) {
            let why = "its disk does not answer; look at it, or stop sharing it";
            self.tell_not_shared(&mut missing, dir, &why);
        }
    }

    /// The list stays locked, so that it is not told of what is shared by then.
    fn tell_not_shared(&self, missing: &mut Missing, dir: &Path, why: &dyn Display) {
        let beginning = not_shared(dir);
        let warning = format!("{beginning}{why}");
        self.node.warn_owner_instead(&beginning, warning);
        missing.tell(dir, why.to_string());
    }
}

/// How the warning about a missing share begins.
fn not_shared(dir: &Path) -> String {
    format!("{} is not shared: ", dir.display())
}
