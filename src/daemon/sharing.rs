//! What this node is to share, by the configuration or by command, and cannot yet.
//!
//! Owns which shares those are: each is tried again now and then, and told of in the warnings,
//! until it is shared or nobody wants it any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::answers::Service;
use super::config::ShareSettings;
use super::node_config::share_spec;

/// Shares these, on a thread that may wait for the disk, and what was missing, which whoever asks
/// for more may have mended; what cannot be shared is missing from now on.
pub(super) async fn share_all(service: &Arc<Service>, wanted: Vec<ShareSettings>) {
    {
        let mut missing = service.missing_shares.lock();
        missing.retain(|old| !wanted.iter().any(|new| new.dir == old.dir));
        missing.extend(wanted);
    }
    share_missing(service).await;
}

/// Tries those again that are missing.
pub(super) async fn share_missing(service: &Arc<Service>) {
    let service = service.clone();
    let work = spawn_blocking(move || {
        let tried = service.missing_shares.lock().clone();
        tried
            .into_iter()
            .filter(|share| service.is_missing(share))
            .for_each(|share| service.try_to_share(&share));
    });
    let _stopping = work.await;
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
    /// Whether something is missing that is to be shared.
    pub(super) fn has_missing_shares(&self) -> bool {
        !self.missing_shares.lock().is_empty()
    }

    /// Nobody wants this folder shared any more, or it is shared now; whether it was missing.
    pub(super) fn want_no_more(&self, dir: &Path) -> bool {
        let mut missing = self.missing_shares.lock();
        let before = missing.len();
        missing.retain(|share| share.dir != dir);
        self.node.settle_warnings(&not_shared(dir));
        missing.len() < before
    }

    fn is_missing(&self, share: &ShareSettings) -> bool {
        self.missing_shares.lock().contains(share)
    }

    /// Nothing is locked while the disk is asked, which may hang: other shares are added and
    /// removed beside it.
    fn try_to_share(&self, share: &ShareSettings) {
        let groups = self.in_force.load().config.groups.clone();
        let outcome = self.node.add_share(share_spec(share, &groups));
        if !self.is_missing(share) {
            // wanted no more since
            if outcome.is_ok() {
                let _ = self.node.remove_share(&share.dir);
            }
            return;
        }
        match outcome {
            Ok(()) => drop(self.want_no_more(&share.dir)),
            Err(error) => {
                let beginning = not_shared(&share.dir);
                let warning = format!("{beginning}{error}");
                self.node.warn_owner_instead(&beginning, warning);
            }
        }
    }
}

/// How the warning about a missing share begins.
fn not_shared(dir: &Path) -> String {
    format!("{} is not shared: ", dir.display())
}
