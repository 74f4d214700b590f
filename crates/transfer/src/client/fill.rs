//! Fill of a whole file into the cache.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{oneshot, watch};

use super::Fetcher;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::session::{FillId, FillProgress};
use p2pfs_types::digest::ContentKey;

/// Next id of a fill.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Fill of a whole file into the cache. Dropping it cancels this fill. Other fills of the file go
/// on.
#[must_use = "dropping a fill cancels it"]
pub struct Fill {
    content: ContentKey,
    id: FillId,
    fetcher: Fetcher,
    progress: watch::Receiver<FillProgress>,
    outcome: oneshot::Receiver<Result<(), TransferError>>,
}

/// Sending end of a [`Fill`].
pub(super) struct FillSender {
    pub progress: watch::Sender<FillProgress>,
    pub outcome: oneshot::Sender<Result<(), TransferError>>,
}

impl Fill {
    /// Creates both ends of a fill that has not begun.
    pub(super) fn new(fetcher: Fetcher, content: ContentKey) -> (Self, FillId, FillSender) {
        let id = FillId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (told, progress) = watch::channel(FillProgress {
            ready_bytes: 0,
            size_bytes: content.size_bytes,
        });
        let (ended, outcome) = oneshot::channel();
        let sender = FillSender {
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
        (fill, id, sender)
    }

    /// Returns a receiver of the current progress and its changes.
    pub fn progress(&self) -> watch::Receiver<FillProgress> {
        self.progress.clone()
    }

    /// Waits for the end: `Ok` once the cache holds every byte.
    ///
    /// # Errors
    /// [`TransferError::CacheFull`] if the cache does not store all bytes, [`TransferError::Plan`]
    /// if the plan gave up, [`TransferError::Stopped`]. Stored bytes stay in the cache.
    pub async fn done(mut self) -> Result<(), TransferError> {
        (&mut self.outcome)
            .await
            .unwrap_or(Err(TransferError::Stopped))
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        // prevents the fill from beginning if its file is not open yet
        self.outcome.close();
        self.fetcher.cancel_fill(&self.content, self.id);
    }
}
