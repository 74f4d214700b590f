//! Types that the owner of a fetcher passes in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::UNCACHED_MAX_BYTES;
use p2pfs_fetch::plan::PlanConfig;
use p2pfs_fetch::{Holder, TransferError};
use p2pfs_types::digest::ContentHash;

/// Returns the nodes that have all of a content according to the catalogue and the cluster,
/// whatever size they claim. Called often and without any lock held. A fetch uses only the first
/// [`HOLDERS_MAX`](p2pfs_fetch::plan::HOLDERS_MAX) of one size.
pub type HoldersOf = Arc<dyn Fn(&ContentHash) -> Vec<Holder> + Send + Sync>;

/// Callback for the result of a read. Called once, from any thread, without any lock held.
pub type ReadReply = Box<dyn FnOnce(Result<Bytes, TransferError>) + Send>;

/// Settings of a [`Fetcher`](super::Fetcher).
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Settings of the plan.
    pub plan: PlanConfig,
    /// Seed of the plan's random choices.
    pub seed: u64,
    /// Maximum bytes in memory that the cache refused; see [`UNCACHED_MAX_BYTES`].
    pub uncached_max_bytes: u64,
    /// How long a fill goes on without progress.
    pub fill_patience: Duration,
}

impl FetchConfig {
    /// Returns the defaults, with random choices from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            plan: PlanConfig::default(),
            seed,
            uncached_max_bytes: UNCACHED_MAX_BYTES,
            fill_patience: Duration::from_secs(10),
        }
    }
}
