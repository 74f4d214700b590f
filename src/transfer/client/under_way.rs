//! Requests that were sent and may be taken back.

use tokio::task::AbortHandle;

use super::asking::TakeBack;

/// A request on its way, by which it can be taken back.
pub(super) enum UnderWay {
    Task(AbortHandle),
    Sent(TakeBack),
}

impl UnderWay {
    /// To be called without the lock.
    pub fn take_back(self) {
        match self {
            Self::Task(task) => task.abort(),
            Self::Sent(take_back) => take_back(),
        }
    }
}
