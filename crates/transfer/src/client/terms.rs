//! The words of fetching: what the owner of a fetcher gives it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::UNCACHED_WINDOW_BYTES;
use p2pfs_fetch::plan::{DemandId, PlanConfig};
use p2pfs_fetch::{Holder, TransferError};
use p2pfs_types::digest::ContentHash;

/// Who has all of a content, as the catalogue and the cluster know it, whatever size they say that
/// it has. Called without any lock held, often; only the first
/// [`HOLDERS_MAX`](p2pfs_fetch::plan::HOLDERS_MAX) of one size count.
pub type HoldersOf = Arc<dyn Fn(&ContentHash) -> Vec<Holder> + Send + Sync>;

/// What to do with a read's outcome. Called once, from any thread, without any lock held.
pub type ReadReply = Box<dyn FnOnce(Result<Bytes, TransferError>) + Send>;

/// Settings of a [`Fetcher`](super::Fetcher).
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// The plan's settings.
    pub plan: PlanConfig,
    /// Seeds the plan's choices.
    pub seed: u64,
    /// See [`UNCACHED_WINDOW_BYTES`].
    pub uncached_window_bytes: u64,
    /// How long a fill goes on without progress.
    pub fill_patience: Duration,
}

impl FetchConfig {
    /// The defaults, with choices from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            plan: PlanConfig::default(),
            seed,
            uncached_window_bytes: UNCACHED_WINDOW_BYTES,
            fill_patience: Duration::from_secs(10),
        }
    }
}

/// One read, for [`Fetcher::cancel`](super::Fetcher::cancel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchTicket(pub(super) Option<DemandId>);

impl FetchTicket {
    /// The ticket as a number, for whoever keeps tickets of several kinds; 0 for a read that is
    /// over already.
    pub fn number(self) -> u64 {
        self.0.map_or(0, |id| id.0 + 1)
    }

    /// The ticket that had this [`number`](Self::number).
    pub fn from_number(number: u64) -> Self {
        Self(number.checked_sub(1).map(DemandId))
    }
}
