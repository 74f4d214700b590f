//! Checks of this node's setup: its mount, its rights, its shares.

use std::sync::Arc;

use super::pace::CHECKUP_PROBES;
use super::{Asked, Services, Sight, membership, network, shares, told};
use crate::daemon::config::units::write_count;
use crate::daemon::control::{
    Answer, Check, CheckState, Checkup, Failure, Named, Problem, ShareInfo, ShareReader,
    ShareState, Shares, parameters,
};
use crate::daemon::service::conditions;
use crate::daemon::service::conditions::check_of;
use crate::daemon::service::users::user_name;
use p2pfs_node::{CLOCK_CAUSE, Condition, StandingCondition};

/// Name of the check of the mount.
const MOUNT_CHECK: &str = "mount";
/// Name of the note about reads of cached files.
const WARM_READS: &str = "warm reads";
/// Name of the check of a node without live peers, and part of the conditions about them.
const PEERS_CHECK: &str = "peers";
/// Start of the name of the check of a share. The path of the share follows.
const SHARE_CHECK: &str = "share ";

impl Answer<Asked> for parameters::Doctor {
    /// Runs all checks for one caller at a time. A caller that disconnects while it waits loses its
    /// place. A run that has begun is completed even if its caller disconnects. Otherwise callers
    /// that disconnect early could start run after run and keep the other nodes busy.
    async fn answer(self, asked: &mut Asked) -> Result<Checkup, Failure> {
        let (services, sight) = (&asked.services, asked.viewer.sight);
        let turn = async {
            services.rights.pace(sight, CHECKUP_PROBES).await;
            Ok(services.health.checking.lock().await)
        };
        let _turn = asked.while_heard(turn).await?;
        doctor(services, sight).await
    }
}

/// Runs all checks of a daemon that serves. If the daemon is starting or stopping, also at the end
/// of the checks, reports only that.
async fn doctor(services: &Arc<Services>, sight: Sight) -> Result<Checkup, Failure> {
    let phase = || {
        let state = *services.lifecycle.state.borrow();
        Check::of_phase(state).map(|check| Checkup {
            checks: vec![check],
        })
    };
    if let Some(phase) = phase() {
        return Ok(phase);
    }
    let checkup = check_all(services, sight).await;
    phase().map_or(checkup, Ok)
}

/// Runs all checks. Takes up to 2 seconds if other nodes do not answer.
async fn check_all(services: &Arc<Services>, sight: Sight) -> Result<Checkup, Failure> {
    conditions::review(services).await;
    let network = network::check_network(services);
    let (network, absent) = tokio::join!(network, network::check_absent(services));
    // Read after the checks of the network, which end conditions that no longer hold.
    let standing = conditions::standing(services, sight.audience());
    let stands = |part: &str| standing.iter().any(|it| it.condition.text().part == part);
    let mut checks = vec![rights(), check_mount(services)];
    checks.extend(note_slow_cache(services));
    for (part, found) in [("cache", "has room"), ("state", "is stored")] {
        checks.extend((!stands(part)).then(|| Check::ok(part, found)));
    }
    checks.extend(network?);
    checks.extend(check_shares(services, sight));
    let (mut absent, is_alone) = absent?;
    // A seed that is given by a name has the same finding.
    absent.retain(|it| checks.iter().all(|check| check.found != it.found));
    let is_peerless = is_alone && absent.is_empty();
    checks.extend(absent);
    let seedless = services.settings.in_force.load().config.seeds.is_empty();
    // The condition says the same of nodes that were there.
    if is_peerless && seedless && !stands(PEERS_CHECK) {
        let is_member = membership::check_membership(services).is_none();
        checks.extend(is_member.then(|| membership::check_peerless(services, PEERS_CHECK)));
    }
    let checks = with_conditions(checks, &standing);
    Ok(Checkup { checks })
}

/// Puts the standing conditions before the checks. Leaves out each condition that one of the checks
/// reports in more detail.
fn with_conditions(mut checks: Vec<Check>, standing: &[StandingCondition]) -> Vec<Check> {
    // A clock that is years behind differs from all others. Its line has the remedy.
    if standing
        .iter()
        .any(|it| it.condition == Condition::ClockBehind)
    {
        checks.retain(|check| check.cause.as_deref() != Some(CLOCK_CAUSE));
    }
    let is_reported = |it: &&StandingCondition| checks.iter().any(|check| reports(check, it));
    let unreported = standing.iter().filter(|it| !is_reported(it));
    let unreported: Vec<_> = unreported.map(check_of).collect();
    checks.splice(..0, unreported);
    checks
}

/// Returns whether a check of the doctor reports a standing condition in more detail. A condition
/// that is not named here has no such check.
fn reports(check: &Check, standing: &StandingCondition) -> bool {
    let (subject, is_ok) = (&*standing.subject, check.state == CheckState::Ok);
    match standing.condition {
        // The subject of these conditions is the name of the periodic check that began them. The
        // doctor has just repeated that check, so its result counts, even if it is good.
        Condition::CutOff | Condition::Unreached => check.name == subject,
        // The subject of this condition is the name of the peer.
        Condition::PeerMute => !is_ok && check.name.strip_prefix("peer ") == Some(subject),
        Condition::FolderGone => !is_ok && check.name == MOUNT_CHECK,
        Condition::ShareSilent | Condition::ShareMissing => {
            !is_ok && check.name.strip_prefix(SHARE_CHECK) == Some(subject)
        }
        // Its subject begins with the path of the share or of a file in the share.
        Condition::ShareProblem | Condition::ShareUnreadable => {
            let dir = check.name.strip_prefix(SHARE_CHECK);
            let rest = dir.and_then(|dir| subject.strip_prefix(dir.trim_end_matches('/')));
            !is_ok && rest.is_some_and(|rest| rest.starts_with(['/', ':']))
        }
        _ => false,
    }
}

/// Returns the name of the check of a share.
fn share_check(dir: &Named) -> String {
    format!("{SHARE_CHECK}{}", String::from_utf8_lossy(dir.as_bytes()))
}

fn check_mount(services: &Services) -> Check {
    let mount = services.lifecycle.mount.borrow().clone();
    let dir = String::from_utf8_lossy(mount.dir.as_bytes()).into_owned();
    match (mount.enabled, mount.mounted) {
        (false, _) => Check::ok(MOUNT_CHECK, "none, by configuration"),
        (true, true) if mount.writable => {
            Check::ok(MOUNT_CHECK, format!("mounted at {dir}, writable"))
        }
        (true, true) => {
            let found =
                format!("mounted at {dir}, read-only; to let programs write: p2pfs write on");
            Check::ok(MOUNT_CHECK, found)
        }
        (true, false) => {
            let problem = mount.problem.unwrap_or_else(|| "not yet".to_owned());
            let (why, own_remedy) = told(&problem);
            let own_remedy = own_remedy.unwrap_or("restart the daemon: systemctl restart p2pfs");
            let remedy = services.activity.served.device_trouble();
            let remedy = remedy.unwrap_or_else(|| own_remedy.to_owned());
            Check::failed(MOUNT_CHECK, format!("{dir} is not mounted: {why}"), remedy)
        }
    }
}

/// Notes that the kernel cannot read the files of the cache itself. Everything works, so this is a
/// note.
fn note_slow_cache(services: &Services) -> Option<Check> {
    let why = services.activity.served.slow_cache()?;
    let found = format!(
        "slower than possible, because the daemon reads cached files for the kernel: {why}; to \
         speed them up, put cache_dir on ext4, xfs or btrfs"
    );
    Some(Check::note(WARM_READS, found))
}

fn check_shares(services: &Services, sight: Sight) -> Vec<Check> {
    let Shares {
        shares, missing, ..
    } = shares::shares(services, sight);
    if shares.is_empty() && missing.is_empty() {
        let nothing = "this node shares nothing; to give files to the others: p2pfs share add DIR";
        return vec![Check::note("share", nothing)];
    }
    let standing = services.node.shares().standing();
    let saved = services.shares.saved.lock();
    let is_saved = |share: &ShareInfo| {
        let dir = share.dir.as_local();
        saved.iter().any(|saved| saved.dir.as_path() == dir)
    };
    shares
        .iter()
        .map(|share| {
            if standing.contains(share.dir.as_local()) {
                stands_still(share)
            } else {
                check_share(share, is_saved(share))
            }
        })
        .chain(missing.iter().map(check_missing))
        .collect()
}

fn check_missing(share: &Problem) -> Check {
    let name = share_check(&share.path);
    let (why, remedy) = told(&share.why);
    let found = format!("it is not shared: {why}");
    Check::failed(name, found, remedy.unwrap_or("see the daemon's log"))
}

fn stands_still(share: &ShareInfo) -> Check {
    let name = share_check(&share.dir);
    let remedy = "look at that disk, or at the server that it is of; or stop sharing it";
    Check::failed(name, "its disk does not answer", remedy)
}

fn check_share(share: &ShareInfo, is_saved: bool) -> Check {
    let dir = String::from_utf8_lossy(share.dir.as_bytes());
    let name = share_check(&share.dir);
    let problem = share.problems.first();
    if share.state == ShareState::Unreadable {
        let why = problem.map_or("it cannot be read", |problem| &problem.why);
        let (why, own_remedy) = told(why);
        let away = if is_saved {
            format!("p2pfs share remove {dir}")
        } else {
            "take it out of the configuration".to_owned()
        };
        let remedy = own_remedy.unwrap_or("make it, or let the daemon's user read it");
        return Check::failed(name, why, format!("{remedy}; or {away}"));
    }
    if let Some(whole) = problem.filter(|it| it.path.as_local() == share.dir.as_local()) {
        let (why, remedy) = told(&whole.why);
        return Check::warning(name, why, remedy.unwrap_or("see p2pfs share"));
    }
    if share.left_out_files > 0 {
        let count = share.left_out_files;
        let found = format!(
            "{count} left out: not readable by others, links that lead out, or special files"
        );
        let remedy = match problem {
            Some(problem) => format!(
                "{}: {}; see p2pfs share",
                String::from_utf8_lossy(problem.path.as_bytes()),
                problem.why
            ),
            None if is_saved => format!(
                "ask as root which: p2pfs share; or p2pfs share add {dir} --include-private"
            ),
            None => "ask as root which: p2pfs share; or include_private = true".to_owned(),
        };
        return Check::warning(name, found, remedy);
    }
    let unknown = share.readers.iter().flatten();
    // A former name is a condition of its own, with its own line.
    let unknown = unknown.clone().find(|it| it.node.is_none() && !it.former);
    if let Some(ShareReader { reader, .. }) = unknown {
        let found = format!("its reader {reader} is not a member, or several have that name");
        let remedy = "see p2pfs trust; write the node's key instead of its name";
        return Check::warning(name, found, remedy);
    }
    let files = write_count(share.files, "file", "files");
    match share.state {
        ShareState::Scanning => Check::ok(name, format!("{files} so far, being read")),
        _ => Check::ok(name, files),
    }
}

/// Reports the user that this process runs as.
fn rights() -> Check {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Check::ok("rights", "the daemon runs as root");
    }
    let name = user_name(user.as_raw());
    Check::ok("rights", format!("the daemon runs as user {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_node::Finding;

    const FOUND: &str = "the finding of the condition";

    fn standing(condition: Condition, subject: &str) -> StandingCondition {
        StandingCondition {
            condition,
            subject: subject.to_owned(),
            finding: Finding::new(FOUND),
        }
    }

    /// Returns how many lines of the doctor report a trouble, if all checks pass except `failed`.
    fn troubles(failed: Option<Check>, standing: &StandingCondition) -> usize {
        let passed = [
            "rights", "mount", "cache", "address", "peer two", "share /b",
        ];
        let passed = passed.map(|name| Check::ok(name, "it is well"));
        let checks: Vec<_> = passed.into_iter().chain(failed).collect();
        let count = checks.len();
        let shown = with_conditions(checks, std::slice::from_ref(standing));
        assert!(shown.len() - count <= 1);
        let troubles = shown.iter().filter(|it| it.state != CheckState::Ok);
        troubles.count()
    }

    #[test]
    fn doctor_shows_every_standing_condition_exactly_once() {
        for condition in Condition::ALL {
            let name = condition.text().name;
            assert_eq!(troubles(None, &standing(*condition, "")), 1, "{name}");
        }
    }

    #[test]
    fn a_clock_that_is_years_behind_is_the_only_line_about_clocks() {
        let off = Check::failed("clock of one", "it is behind", "set one").of_cause(CLOCK_CAUSE);
        let shown = with_conditions(vec![off], &[standing(Condition::ClockBehind, "")]);
        assert_eq!(shown.len(), 1);
        assert!(shown[0].sentence().starts_with("clock: "), "{shown:?}");
    }

    #[test]
    fn no_remedy_within_the_doctor_refers_to_the_doctor() {
        for condition in Condition::ALL {
            let shown = with_conditions(vec![], &[standing(*condition, "")]);
            let remedy = shown[0].remedy.as_deref().unwrap();
            assert!(!remedy.contains("p2pfs doctor"), "{remedy}");
            assert!(!remedy.is_empty() && !remedy.ends_with(':'), "{remedy}");
        }
    }

    #[test]
    fn doctor_shows_a_condition_once_if_a_check_reports_it() {
        for (condition, subject, check) in [
            (Condition::CutOff, "seed s:1", "seed s:1"),
            (Condition::FolderGone, "", "mount"),
            (Condition::PeerMute, "one", "peer one"),
            (Condition::ShareSilent, "/a", "share /a"),
            (Condition::ShareMissing, "/a", "share /a"),
            (Condition::ShareUnreadable, "/a: it is gone", "share /a"),
            (Condition::ShareProblem, "/a/x: it is private", "share /a"),
            (Condition::ShareProblem, "/x: it is private", "share /"),
        ] {
            let failed = Check::failed(check, "the details", "mend it");
            let standing = standing(condition, subject);
            assert_eq!(troubles(Some(failed), &standing), 1, "{subject}");
        }
    }

    #[test]
    fn doctor_shows_a_condition_beside_the_failed_check_of_another_subject() {
        for (condition, subject, check) in [
            (Condition::NoPassthrough, "", "mount"),
            (Condition::CutOff, "peer one", "peer three"),
            (Condition::PeerMute, "two", "peer three"),
            (Condition::ShareSilent, "/a", "share /c"),
            (Condition::ShareProblem, "/ab/x: it is private", "share /a"),
            (Condition::FormerNames, "/a", "share /a"),
        ] {
            let failed = Check::failed(check, "the details", "mend it");
            let standing = standing(condition, subject);
            assert_eq!(troubles(Some(failed), &standing), 2, "{subject}");
        }
    }

    #[test]
    fn repeated_check_that_passes_outdates_the_condition_of_its_earlier_failure() {
        assert_eq!(troubles(None, &standing(Condition::CutOff, "peer two")), 0);
    }
}
