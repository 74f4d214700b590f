//! Detects causes that cut this node off from the others, for `p2pfs status` and the log.

use std::sync::Arc;
use std::time::Duration;

use super::answers::Service;
use super::journal::{self, message};
use crate::daemon::control::{Check, CheckState};

/// How long the other nodes have after the start before the first check.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Interval between checks whether another node is there.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Checks per question to a peer whether it reaches this node.
const LOOKS_A_QUESTION: u32 = 6;

/// Checks forever. Each new finding and its end are logged once.
pub(super) async fn watch(service: Arc<Service>) {
    tokio::time::sleep(FIRST_LOOK).await;
    let mut tick = tokio::time::interval(LOOK_PERIOD);
    for look in 0_u32.. {
        tick.tick().await;
        // An open finding is checked each time, so that it is not reported longer than it holds.
        let is_due = look.is_multiple_of(LOOKS_A_QUESTION) || !service.isolation.load().is_empty();
        let found = match service.is_alone().await {
            true => service.check_why_alone().await,
            false if is_due => service.check_reached().await,
            false => continue,
        };
        tell(&service, found);
    }
}

fn tell(service: &Service, mut found: Vec<Check>) {
    found.retain(|check| check.state == CheckState::Failed);
    let before = service.isolation.swap(Arc::new(found.clone()));
    for new in changes(&before, &found) {
        journal::warn(message::WARNING, &new.sentence());
    }
    for over in changes(&found, &before) {
        tracing::info!("no longer so: {}", over.sentence());
    }
}

/// Returns the findings of `now` that `before` lacks. Compares name and remedy only, because a
/// counted value, such as the error of a clock, differs at each check.
fn changes<'a>(before: &'a [Check], now: &'a [Check]) -> impl Iterator<Item = &'a Check> {
    let is_same = |a: &Check, b: &Check| (&a.name, &a.remedy) == (&b.name, &b.remedy);
    now.iter()
        .filter(move |new| !before.iter().any(|old| is_same(old, new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_with_changed_counts_is_not_new() {
        let clock = |ahead: &str| Check::failed("clock", format!("{ahead} ahead"), "set it");
        let seed = |remedy: &str| Check::failed("seed", "nobody answers", remedy);
        let before = [clock("2 h"), seed("start it")];
        let now = [clock("3 h"), seed("give it the same secret")];
        let new: Vec<_> = changes(&before, &now).cloned().collect();
        assert_eq!(new, now[1..]);
    }
}
