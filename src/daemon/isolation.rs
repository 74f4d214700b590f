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

/// Looks for ever; each new finding goes to the log once, and so does its end.
pub(super) async fn watch(service: Arc<Service>) {
    tokio::time::sleep(FIRST_LOOK).await;
    let mut tick = tokio::time::interval(LOOK_PERIOD);
    for look in 0_u32.. {
        tick.tick().await;
        // what was found is to be told no longer than it is so
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

/// What is among these and was not before, whatever is counted in it: the time by which a clock is
/// wrong is another at each look.
fn changes<'a>(before: &'a [Check], now: &'a [Check]) -> impl Iterator<Item = &'a Check> {
    let is_same = |a: &Check, b: &Check| (&a.name, &a.remedy) == (&b.name, &b.remedy);
    now.iter()
        .filter(move |new| !before.iter().any(|old| is_same(old, new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_new_once_whatever_is_counted_in_it() {
        let clock = |ahead: &str| Check::failed("clock", format!("{ahead} ahead"), "set it");
        let seed = |remedy: &str| Check::failed("seed", "nobody answers", remedy);
        let before = [clock("2 h"), seed("start it")];
        let now = [clock("3 h"), seed("give it the same secret")];
        let new: Vec<_> = changes(&before, &now).cloned().collect();
        assert_eq!(new, now[1..]);
    }
}
