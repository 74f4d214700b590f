//! When the loop of a plane is woken.

use std::time::Instant;

/// Waits until then; for ever where there is no time.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
