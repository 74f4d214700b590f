//! Checks of this node's setup: its mount, its rights, its shares.

use std::sync::Arc;

use super::pace::CHECKUP_PROBES;
use super::{Services, Sight, membership, network, shares, told};
use crate::daemon::config::units::write_count;
use crate::daemon::control::{
    CallerGone, Check, Checkup, Failure, Problem, ReplySink, ShareInfo, ShareReader, ShareState,
    Shares,
};
use crate::daemon::service::conditions;
use crate::daemon::service::conditions::check_of;

/// Runs all checks for one caller at a time. A caller that disconnects while it waits loses its
/// place. A run that has begun is completed even if its caller disconnects. Otherwise callers that
/// disconnect early could start run after run and keep the other nodes busy.
pub(super) async fn doctor_in_turn(
    services: &Arc<Services>,
    sight: Sight,
    reply: &ReplySink,
) -> Result<Checkup, Failure> {
    let turn = async {
        services.rights.pace(sight, CHECKUP_PROBES).await;
        services.health.checking.lock().await
    };
    let _turn = reply.while_heard(turn).await.ok_or(CallerGone)?;
    doctor(services, sight).await
}

/// Runs all checks. Takes up to 2 seconds if other nodes do not answer.
async fn doctor(services: &Arc<Services>, sight: Sight) -> Result<Checkup, Failure> {
    conditions::review(services).await;
    let standing = conditions::standing(services, sight.audience());
    let stands = |part: &str| standing.iter().any(|it| it.condition.text().part == part);
    let mut checks = vec![rights(), check_mount(services)];
    for (part, found) in [("cache", "has room"), ("state", "is stored")] {
        checks.extend((!stands(part)).then(|| Check::ok(part, found)));
    }
    let network = network::check_network(services);
    let (network, last_known) = tokio::join!(network, network::check_last_known(services));
    checks.extend(network?);
    checks.extend(check_shares(services, sight));
    if let Some(last_known) = last_known? {
        let seedless = services.settings.in_force.load().config.seeds.is_empty();
        match membership::check_membership(services) {
            None if last_known.is_empty() && seedless => {
                checks.push(membership::check_peerless(services))
            }
            _ => checks.extend(last_known),
        }
    }
    // The standing conditions come first in the answer. Conditions of the network, of shares and of
    // the mount are left out, because the checks above report them in detail.
    let detailed = ["network", "share", "mount"];
    let standing = standing.iter();
    let standing = standing.filter(|it| !detailed.contains(&it.condition.text().part));
    checks.splice(..0, standing.map(check_of));
    Ok(Checkup { checks })
}

fn check_mount(services: &Services) -> Check {
    let mount = services.lifecycle.mount.borrow().clone();
    let dir = String::from_utf8_lossy(mount.dir.as_bytes()).into_owned();
    match (mount.enabled, mount.mounted) {
        (false, _) => Check::ok("mount", "none, by configuration"),
        (true, true) => Check::ok("mount", format!("mounted at {dir}")),
        (true, false) => {
            let problem = mount.problem.unwrap_or_else(|| "not yet".to_owned());
            let (why, own_remedy) = told(&problem);
            let own_remedy = own_remedy.unwrap_or("restart the daemon: systemctl restart p2pfs");
            let remedy = services.activity.served.device_trouble();
            let remedy = remedy.unwrap_or_else(|| own_remedy.to_owned());
            Check::failed("mount", format!("{dir} is not mounted: {why}"), remedy)
        }
    }
}

fn check_shares(services: &Services, sight: Sight) -> Vec<Check> {
    let Shares {
        shares, missing, ..
    } = shares::shares(services, sight);
    if shares.is_empty() && missing.is_empty() {
        let remedy = "to give files to the others: p2pfs share add DIR";
        return vec![Check::warning("share", "this node shares nothing", remedy)];
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
    let name = format!("share {}", String::from_utf8_lossy(share.path.as_bytes()));
    let (why, remedy) = told(&share.why);
    let found = format!("it is not shared: {why}");
    Check::failed(name, found, remedy.unwrap_or("see the daemon's log"))
}

fn stands_still(share: &ShareInfo) -> Check {
    let name = format!("share {}", String::from_utf8_lossy(share.dir.as_bytes()));
    let remedy = "look at that disk, or at the server that it is of; or stop sharing it";
    Check::failed(name, "its disk does not answer", remedy)
}

fn check_share(share: &ShareInfo, is_saved: bool) -> Check {
    let dir = String::from_utf8_lossy(share.dir.as_bytes());
    let name = format!("share {dir}");
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
        let found = format!("{count} left out: private, special or links that lead out");
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
    let name = uzers::get_user_by_uid(user.as_raw());
    let name = name.map_or_else(
        || user.as_raw().to_string(),
        |user| user.name().to_string_lossy().into_owned(),
    );
    Check::ok("rights", format!("the daemon runs as user {name}"))
}
