//! A whole file on its way into the cache.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{oneshot, watch};

use super::Fetcher;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::session::{FillId, FillProgress};
use p2pfs_types::digest::ContentKey;

/// Tells fills apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A whole file on its way into the cache. Dropping it cancels it, unless another wants the same.
#[must_use = "dropping a fill cancels it"]
pub struct Fill {
    content: ContentKey,
    id: FillId,
    fetcher: Fetcher,
    progress: watch::Receiver<FillProgress>,
    outcome: oneshot::Receiver<Result<(), TransferError>>,
}

/// The other end of a [`Fill`].
pub(super) struct Filler {
    pub progress: watch::Sender<FillProgress>,
    pub outcome: oneshot::Sender<Result<(), TransferError>>,
}

impl Fill {
    /// Both ends of a fill that has yet to begin.
    pub(super) fn new(fetcher: Fetcher, content: ContentKey) -> (Self, FillId, Filler) {
        let id = FillId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (told, progress) = watch::channel(FillProgress {
            ready_bytes: 0,
            size_bytes: content.size_bytes,
        });
        let (ended, outcome) = oneshot::channel();
        let filler = Filler {
            progress: told,
            outcome: ended,
        };
        let fill = Self {
            content,
            id,
            fetcher,
            progress,
            outcome,
        };
        (fill, id, filler)
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
        // where its file is yet to be opened, this keeps it from beginning
        self.outcome.close();
        self.fetcher.cancel_fill(&self.content, self.id);
    }
}
