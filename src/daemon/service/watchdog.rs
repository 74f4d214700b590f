//! The keep-alive for the service manager's watchdog. It is sent only while the node's loop and the
//! mount answer, so that the manager restarts a hung daemon.
//!
//! The check of the mount does not access the folder, because a process that waits for its own
//! mount could not even be killed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::services::Services;
use super::systemd;

/// How long the node's loop and the mount may each take to answer. Both answer from memory.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// Checks per keep-alive interval, so that one late check on a busy machine does not end the
/// daemon.
const PROOFS_PER_PERIOD: u32 = 2;

/// Checks and sends the keep-alive forever; returns at once if the watchdog is off.
pub(super) async fn keep(services: Arc<Services>) {
    let Some(period) = systemd::watchdog_period() else {
        return;
    };
    let mut due = tokio::time::interval(period / PROOFS_PER_PERIOD);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match stuck(&services).await {
            None => systemd::alive(),
            Some(what) => tracing::error!("{what} does not answer; the watchdog will see to it"),
        }
    }
}

/// Returns the part that does not answer, if any.
async fn stuck(services: &Arc<Services>) -> Option<&'static str> {
    if !matches!(
        timeout(ANSWER_TIME, services.node.peers().members()).await,
        Ok(Ok(_))
    ) {
        return Some("the node's loop");
    }
    let asked = services.clone();
    let mount = spawn_blocking(move || asked.activity.served.answers(ANSWER_TIME));
    match mount.await {
        Ok(true) => None,
        _ => Some("the mount"),
    }
}
