//! Tells the mount which data the kernel must invalidate.
//!
//! Changes of names are reported at once. A change of a file's cached bytes shows only in the block
//! count of the file, so such changes are gathered for a short time and reported once for each
//! file. By then, a program that copies prefetched small files has opened each of them, and the
//! kernel did not have to ask for their attributes again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use p2pfs_fuse::Mount;
use p2pfs_node::Outdated;

/// Maximum delay of reports about cached bytes.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Number of changed contents that ends the delay early.
const GATHERED_MAX: usize = 4096;

/// Reports changes to the current mount until the node ends.
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
