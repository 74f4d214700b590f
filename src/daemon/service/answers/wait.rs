//! Waits for conditions, for scripts.

use std::time::{Duration, Instant};

use super::network::{alive_of, is_alive};
use super::paths::{mount_path, trimmed};
use super::{Asked, Services, Viewer, legacy, network};
use crate::daemon::control::parameters::Wait;
use crate::daemon::control::{Answer, Failure, FailureKind, Named, Nothing};
use p2pfs_node::api::Hidden;
use p2pfs_types::path::escape;

/// Shortest and longest interval between checks of the conditions. Between these bounds, the
/// interval grows with the time waited so far. So a short wait ends soon after the conditions hold,
/// and a long wait costs the daemon little.
const LOOK_PERIOD: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];
/// The interval between two checks is the time waited so far, divided by this number.
const LOOK_SHARE: u32 = 16;

/// Returns how long to wait for the next check.
fn look_period(waited: Duration) -> Duration {
    let [shortest, longest] = LOOK_PERIOD;
    (waited / LOOK_SHARE).clamp(shortest, longest)
}
/// Maximum duration of one call: a day.
const WAIT_MAX_MS: u64 = 24 * 3600 * 1000;

impl Answer<Asked> for Wait {
    async fn answer(self, asked: &mut Asked) -> Result<Nothing, Failure> {
        let waiting = wait(&asked.services, self, &asked.viewer);
        asked.while_heard(waiting).await
    }
}

/// Returns once all conditions of a caller hold at the same time; fails after the caller's timeout
/// or [`WAIT_MAX_MS`].
async fn wait(services: &Services, wanted: Wait, viewer: &Viewer) -> Result<Nothing, Failure> {
    if let Some(file) = &wanted.file {
        viewer.check_find(file)?;
    }
    let limit = Duration::from_millis(wanted.timeout_ms.min(WAIT_MAX_MS));
    let begun = Instant::now();
    let so = async {
        while missing(services, &wanted).await?.is_some() {
            tokio::time::sleep(look_period(begun.elapsed())).await;
        }
        Ok(Nothing {})
    };
    let asking = legacy::keep_asking(services, wanted.file.as_ref(), viewer.uid);
    let so = async {
        tokio::select! {
            outcome = so => outcome,
            never = asking => match never {},
        }
    };
    match tokio::time::timeout(limit, so).await {
        Ok(outcome) => outcome,
        Err(_) => Err(timed_out(services, &wanted).await),
    }
}

async fn timed_out(services: &Services, wanted: &Wait) -> Failure {
    let missing = missing(services, wanted).await.ok().flatten();
    let what = missing.unwrap_or_else(|| "it became so just now".to_owned());
    Failure::new(FailureKind::TimedOut, what)
        .with_remedy("p2pfs status and p2pfs peers show how things stand")
}

/// Returns the first condition that does not hold yet.
async fn missing(services: &Services, wanted: &Wait) -> Result<Option<String>, Failure> {
    if wanted.mounted && !services.lifecycle.mount.borrow().mounted {
        return Ok(Some("the folder is not mounted".to_owned()));
    }
    if wanted.peers > 0 {
        let members = network::members(services).await?;
        let count = alive_of(&members) as u64;
        if count < wanted.peers {
            return Ok(Some(format!(
                "{count} of {} other nodes are alive",
                wanted.peers
            )));
        }
        // A caller that lists the folder next must see all entries.
        let unread = members.iter().filter(|it| is_alive(it) && !it.is_read);
        if let Some(unread) = unread.map(|it| it.status.member.node).next() {
            let name = services.node.peers().name_of(&unread);
            return Ok(Some(format!("not all that {name} lists is here yet")));
        }
        if !services.activity.served.is_up_to_date() {
            let late = "not all that the others list is in the folder yet";
            return Ok(Some(late.to_owned()));
        }
    }
    match &wanted.file {
        Some(named) => missing_file(services, named),
        None => Ok(None),
    }
}

fn missing_file(services: &Services, named: &Named) -> Result<Option<String>, Failure> {
    let said = |path: &[u8], what| Ok(Some(format!("{} {what}", escape(path))));
    if let Some(hidden) = services.node.names().hidden(trimmed(named)) {
        return match hidden {
            Hidden::Nothing => said(trimmed(named), "is not there"),
            Hidden::File(_) | Hidden::Directory | Hidden::Other
                if !services.activity.served.is_up_to_date() =>
            {
                said(trimmed(named), "is not in the folder yet")
            }
            Hidden::File(_) | Hidden::Directory | Hidden::Other => Ok(None),
        };
    }
    let path = mount_path(services, named)?;
    if services.node.names().entry(&path).is_none() {
        return said(path.as_bytes(), "is not listed");
    }
    if !services.activity.served.shows(&path) {
        return said(path.as_bytes(), "is not in the folder yet");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_checks_rarely_and_ends_little_late() {
        let (mut waited, mut checks) = (Duration::ZERO, 0);
        while waited < Duration::from_secs(60) {
            let period = look_period(waited);
            assert!(period <= (waited / 10).max(LOOK_PERIOD[0]));
            waited += period;
            checks += 1;
        }
        assert!(checks <= 300, "{checks}");
    }
}
