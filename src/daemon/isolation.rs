//! What cuts this node off from the others, watched while it runs, for `p2pfs status` and the log.

use std::sync::Arc;
use std::time::Duration;

use super::answers::Service;
use super::control::{Check, CheckState};
use super::journal::{self, message};

/// How long after the start the others have to be heard of.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether anybody is there.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Looks between two questions to a peer whether it reaches this node.
const LOOKS_A_QUESTION: u32 = 6;

/// Looks for ever; each new finding goes to the log once.
pub(super) async fn watch(service: Arc<Service>) {
    tokio::time::sleep(FIRST_LOOK).await;
    let mut tick = tokio::time::interval(LOOK_PERIOD);
    for look in 0_u32.. {
        tick.tick().await;
        let found = match service.is_alone().await {
            true => service.check_why_alone().await,
            false if look.is_multiple_of(LOOKS_A_QUESTION) => service.check_reached().await,
            false => continue,
        };
        tell(&service, &found);
    }
}

fn tell(service: &Service, found: &[Check]) {
    let failed = found
        .iter()
        .filter(|check| check.state == CheckState::Failed);
    let now: Vec<String> = failed.map(Check::sentence).collect();
    let before = service.isolation.swap(Arc::new(now.clone()));
    for new in now.iter().filter(|sentence| !before.contains(sentence)) {
        journal::warn(message::WARNING, new);
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("the others are reached again");
    }
}
