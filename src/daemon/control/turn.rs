//! The turn of a user, which limits how many of its calls are parsed, or answered if they are
//! prompt, at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum calls of one ordinary user that are parsed, or answered if `CallInfo::is_prompt`, at the
/// same time. Its other calls wait, on whatever connection they arrive, so that one user cannot
/// occupy all threads of the daemon.
const CALLS_AT_WORK: usize = 1;

/// The right to parse and answer a call of one user. All clones stand for the same right.
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

    /// Waits for the turn, which lasts until the returned permit is dropped. Returns `None` at once
    /// if the turn has no limit.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
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
