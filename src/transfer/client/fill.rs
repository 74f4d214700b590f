//! A whole file on its way into the cache.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{oneshot, watch};

use super::Fetcher;
use crate::digest::ContentHash;
use crate::transfer::TransferError;

/// Tells fills apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How far a fill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillProgress {
    /// Verified and here.
    pub ready_bytes: u64,
    /// All that there is.
    pub size_bytes: u64,
}

/// A whole file on its way into the cache. Dropping it cancels it, unless another wants the same.
#[must_use = "dropping a fill cancels it"]
pub struct Fill {
    hash: ContentHash,
    number: u64,
    fetcher: Fetcher,
    progress: watch::Receiver<FillProgress>,
    outcome: oneshot::Receiver<Result<(), TransferError>>,
}

/// The other end of a [`Fill`].
pub(super) struct Filler {
    pub number: u64,
    pub progress: watch::Sender<FillProgress>,
    pub outcome: oneshot::Sender<Result<(), TransferError>>,
}

impl Fill {
    /// Both ends of a fill that has yet to begin.
    pub(super) fn new(fetcher: Fetcher, hash: ContentHash, size_bytes: u64) -> (Self, Filler) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (told, progress) = watch::channel(FillProgress {
            ready_bytes: 0,
            size_bytes,
        });
        let (ended, outcome) = oneshot::channel();
        let filler = Filler {
            number,
            progress: told,
            outcome: ended,
        };
        (
            Self {
                hash,
                number,
                fetcher,
                progress,
                outcome,
            },
            filler,
        )
    }

    /// How far it is, now and whenever that changes.
    pub fn progress(&self) -> watch::Receiver<FillProgress> {
        self.progress.clone()
    }

    /// Waits for the end: `Ok` once the cache holds every byte.
    ///
    /// # Errors
    /// [`TransferError::CacheFull`], [`TransferError::Plan`] after the fill's patience without
    /// progress, [`TransferError::Stopped`]. What came stays in the cache.
    pub async fn done(mut self) -> Result<(), TransferError> {
        (&mut self.outcome)
            .await
            .unwrap_or(Err(TransferError::Stopped))
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.fetcher.cancel_fill(&self.hash, self.number);
    }
}
