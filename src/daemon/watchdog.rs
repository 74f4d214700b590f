//! The keep-alive for the service manager's watchdog: it is sent only while the node's loop and the
//! mount answer, so that a daemon that stands still is started again.
//!
//! The mount is asked without touching the folder: a process that waits for its own mount could
//! not even be killed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answers::Service;
use super::systemd;

/// How long either may take to answer: both do so from memory.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// How much more often the proof is made than the manager wants to hear of it, so that one that
/// came late on a busy machine is no end.
const PROOFS_PER_PERIOD: u32 = 2;

/// Proves and tells, where the manager watches; forever.
pub(super) async fn keep(service: Arc<Service>) {
    let Some(period) = systemd::watchdog_period() else {
        return;
    };
    let mut due = tokio::time::interval(period / PROOFS_PER_PERIOD);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match stuck(&service).await {
            None => systemd::alive(),
            Some(what) => tracing::error!("{what} does not answer; the watchdog will see to it"),
        }
    }
}

/// What does not answer, if anything.
async fn stuck(service: &Arc<Service>) -> Option<&'static str> {
    if !matches!(
        timeout(ANSWER_TIME, service.node.members()).await,
        Ok(Ok(_))
    ) {
        return Some("the node's loop");
    }
    let asked = service.clone();
    let mount = spawn_blocking(move || asked.served.answers(ANSWER_TIME));
    match mount.await {
        Ok(true) => None,
        _ => Some("the mount"),
    }
}
