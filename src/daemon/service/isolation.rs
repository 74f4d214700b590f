//! Detects causes that cut this node off from the others, for `p2pfs status` and the log.

use std::sync::Arc;
use std::time::Duration;

use super::answers::network;
use super::conditions::finding_of;
use super::services::Services;
use crate::daemon::control::{Check, CheckState};
use p2pfs_node::Condition;

/// How long the other nodes have after the start before the first check.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Interval between checks whether another node is there.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// One check in this many also asks peers whether they reach this node.
const LOOKS_A_QUESTION: u32 = 6;

/// The conditions that the checks begin and end.
pub(super) const CONDITIONS: [Condition; 2] = [Condition::CutOff, Condition::Unreached];

/// Checks forever. Each new finding and its end are logged once.
pub(super) async fn watch(services: Arc<Services>) {
    tokio::time::sleep(FIRST_LOOK).await;
    let mut tick = tokio::time::interval(LOOK_PERIOD);
    for look in 0_u32.. {
        tick.tick().await;
        // An open finding is checked each time, so that it is not reported longer than it holds. So
        // is a peer that leaves requests unanswered, because a reader has just failed.
        let mut standing = services.node.events().standing().into_iter();
        let stands = standing.any(|it| CONDITIONS.contains(&it.condition));
        let is_any_mute = !services.node.peers().mute().is_empty();
        let is_due = look.is_multiple_of(LOOKS_A_QUESTION) || stands || is_any_mute;
        let found = if network::is_alone(&services).await {
            network::check_why_alone(&services).await
        } else if is_due {
            network::check_reached(&services).await
        } else {
            continue;
        };
        tell(&services, found);
    }
}

/// Makes exactly the failed ones of these checks, and the warnings among them that are conditions,
/// stand as conditions. Does nothing while the daemon stops, because checks then fail without a
/// fault.
pub(super) fn tell(services: &Services, found: Vec<Check>) {
    if services.lifecycle.is_stopping() {
        return;
    }
    for condition in CONDITIONS {
        let begun = found.iter().filter(|it| begun_by(it) == Some(condition));
        let begun = begun.map(|it| (it.name.clone(), finding_of(it)));
        services.node.events().replace(condition, begun.collect());
    }
}

/// Returns the condition that a check begins.
fn begun_by(check: &Check) -> Option<Condition> {
    match check.state {
        CheckState::Failed => Some(Condition::CutOff),
        _ => check.is_condition.then_some(Condition::Unreached),
    }
}
