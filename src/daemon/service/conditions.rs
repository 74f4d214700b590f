//! Conditions of the daemon: checks them, and shows those that stand.
//!
//! The table of all conditions is [`Condition`] of the node.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answers::membership;
use super::former_names;
use super::services::Services;
use crate::daemon::control::Check;
use p2pfs_node::{Audience, Condition, Finding, Severity, StandingCondition};

/// How long an answer waits for a review. The disks of state and cache may not answer in that time.
/// The answer then shows the conditions of the last review.
const REVIEW_PATIENCE: Duration = Duration::from_millis(500);

/// End of a remedy that refers to the doctor.
const ASK_DOCTOR: &str = ": p2pfs doctor looks for the reason";

/// Start of the name of the check of another node's clock.
pub(super) const CLOCK_CHECK: &str = "clock of ";

/// Returns the line of a condition in `p2pfs doctor`.
pub(super) fn check_of(standing: &StandingCondition) -> Check {
    let text = standing.condition.text();
    let found = standing.finding.found.clone();
    // Within the doctor, this remedy would refer to the doctor's own lines.
    let remedy = standing.remedy();
    let remedy = remedy.strip_suffix(ASK_DOCTOR).unwrap_or(remedy);
    match text.severity {
        Severity::Warning => Check::warning(text.part, found, remedy),
        Severity::Error => Check::failed(text.part, found, remedy),
    }
}

/// Returns the finding of a check that begins a condition.
pub(super) fn finding_of(check: &Check) -> Finding {
    let finding = Finding {
        cause: check.cause.clone(),
        ..Finding::new(format!("{}: {}", check.name, check.found))
    };
    match &check.remedy {
        Some(remedy) => finding.remedy(remedy),
        None => finding,
    }
}

/// Runs [`review_now`] on a blocking thread. Waits for its end for at most [`REVIEW_PATIENCE`].
pub(super) async fn review(services: &Arc<Services>) {
    let (services, reviewing) = (services.clone(), services.health.reviewing.clone());
    let reviewed = async {
        let turn = reviewing.lock_owned().await;
        spawn_blocking(move || {
            let _turn = turn;
            review_now(&services);
        })
        .await
    };
    let _slow_disk = timeout(REVIEW_PATIENCE, reviewed).await;
}

fn review_now(services: &Services) {
    services.node.health().review();
    services.node.files().lost().sweep();
    former_names::review(services);
    let events = services.node.events();
    events.replace(Condition::PeerMute, mute_peers(services));
    events.replace(Condition::WriteFull, full_folders(services));
    let refused = refused_config_finding(services);
    let expelled = membership::check_membership(services);
    let expelled = expelled.map(|check| {
        let remedy = check.remedy.unwrap_or_default();
        Finding::new(check.found).remedy(remedy)
    });
    for (condition, found) in [
        (Condition::ConfigurationRefused, refused),
        (Condition::Expelled, expelled),
    ] {
        let found = found.map(|found| (String::new(), found));
        services
            .node
            .events()
            .replace(condition, found.into_iter().collect());
    }
}

/// Returns a finding for each node that is alive and leaves requests for files unanswered, by the
/// name of the node.
fn mute_peers(services: &Services) -> Vec<(String, Finding)> {
    let peers = services.node.peers();
    let mute = peers.mute().into_iter().map(|node| {
        let name = peers.name_of(&node);
        let found =
            format!("{name} is alive, but left the last questions for files without an answer");
        (name, Finding::new(found))
    });
    mute.collect()
}

/// Returns a finding for each folder of a writable share that has no room, by its path.
fn full_folders(services: &Services) -> Vec<(String, Finding)> {
    let full = services.node.files().full_folders().into_iter();
    let full = full.map(|dir| {
        let dir = dir.display().to_string();
        let found = format!("programs cannot write: {dir} has no room");
        let others = "programs cannot write: a writable share has no room";
        (dir, Finding::new(found).for_owner_else(others))
    });
    full.collect()
}

/// Returns the finding for a refused configuration. Only root and the daemon's user see the reason.
fn refused_config_finding(services: &Services) -> Option<Finding> {
    let why = services.settings.refused.load_full()?;
    let stays = "the configuration was read again and refused, and the one before is in force";
    let finding = Finding::new(format!("{stays}: {why}"));
    Some(finding.for_owner_else(format!("{stays}; its owner sees the reason")))
}

/// Returns the standing conditions that these users may see.
pub(super) fn standing(services: &Services, audience: Audience) -> Vec<StandingCondition> {
    let standing = services.node.events().standing().into_iter();
    standing.filter_map(|it| it.seen_by(audience)).collect()
}
