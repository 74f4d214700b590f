//! Tells the mount what the kernel must look at again.
//!
//! Of names at once. How much of a file is cached shows in its blocks alone, and is told a moment
//! later and once: who copies small files that came ahead of him has each of them opened by then,
//! and the kernel did not have to ask about it again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use p2pfs_fuse::Mount;
use p2pfs_node::Outdated;

/// For how long what is cached may show as it was.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Beyond so many contents they are told of at once.
const GATHERED_MAX: usize = 4096;

/// Tells the newest mount until the node is gone.
pub(super) async fn tell(
    mounts: watch::Receiver<Arc<Mount>>,
    mut changes: mpsc::Receiver<Outdated>,
) {
    let mount = || mounts.borrow().clone();
    let mut cached = HashSet::new();
    let mut due = Instant::now();
    loop {
        let wait = sleep_until(due);
        let change = tokio::select! {
            change = changes.recv() => change,
            () = wait, if !cached.is_empty() => {
                let mount = mount();
                cached.drain().for_each(|hash| mount.cached_changed(&hash));
                continue;
            }
        };
        match change {
            None => return,
            Some(Outdated::Names { view, changes }) => mount().invalidate(view, changes),
            Some(Outdated::CachedBytes(hash)) => {
                if cached.is_empty() {
                    due = Instant::now() + GATHERED_FOR;
                }
                cached.insert(hash);
                if cached.len() >= GATHERED_MAX {
                    due = Instant::now();
                }
            }
        }
    }
}
