//! The turn of a user, which bounds how many of its calls are at work at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of one ordinary user at work at a time. Its other calls wait, whatever connections they
/// arrive on, so that one user cannot take all threads of the daemon.
const CALLS_AT_WORK: usize = 1;

/// The right of one user's calls to be parsed and answered. Clones are the same turn.
#[derive(Debug, Clone)]
pub struct Turn(Option<Arc<Semaphore>>);

impl Turn {
    /// Returns the turn of an ordinary user.
    pub fn of_a_user() -> Self {
        Self(Some(Arc::new(Semaphore::new(CALLS_AT_WORK))))
    }

    /// Returns a turn without a limit, for root and the daemon's user.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Waits for the turn, which lasts until the value is dropped.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        // it is never closed
        self.0.clone()?.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_of_an_ordinary_user_take_turns_and_those_of_root_do_not() {
        let turn = Turn::of_a_user();
        let first = turn.take().await;
        let same = turn.clone();
        let second = tokio::spawn(async move { same.take().await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap().is_some());
        let free = Turn::unlimited();
        assert!(free.take().await.is_none() && free.take().await.is_none());
    }
}
