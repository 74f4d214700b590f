//! Answers about where programs can write in the mount.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::shares::{added_before, apply, real_name, refuse_configured};
use super::{Asked, Services, failed};
use crate::daemon::config::ShareSettings;
use crate::daemon::control::{
    Answer, Failure, FailureKind, MountStatus, Named, WritableShare, Writing, parameters,
};
use p2pfs_node::{Condition, api};
use p2pfs_types::files::make_open_dir;

/// How long a command waits for the mount to become writable or read-only. The mount follows at
/// once, unless the kernel refuses.
const MOUNT_FOLLOWS_WITHIN: Duration = Duration::from_secs(5);
/// Interval between looks for a refusal of the kernel.
const REFUSAL_PERIOD: Duration = Duration::from_millis(50);

impl Answer<Asked> for parameters::Writing {
    async fn answer(self, asked: &mut Asked) -> Result<Writing, Failure> {
        asked.blocking(move |services| Ok(writing(services))).await
    }
}

impl Answer<Asked> for parameters::WriteOn {
    async fn answer(self, asked: &mut Asked) -> Result<Writing, Failure> {
        let done = asked
            .blocking(move |services| write_on(services, self.dir.as_ref().map(Named::as_local)));
        done.await?;
        answer_after_mount(asked).await
    }
}

impl Answer<Asked> for parameters::WriteOff {
    async fn answer(self, asked: &mut Asked) -> Result<Writing, Failure> {
        asked.blocking(write_off).await?;
        answer_after_mount(asked).await
    }
}

/// Returns the writable shares once the mount is writable or read-only as they require, so that a
/// program that starts after the command can write. Does not wait for a mount that cannot change,
/// such as one with a file that is open for writing.
async fn answer_after_mount(asked: &Asked) -> Result<Writing, Failure> {
    let services = &asked.services;
    let mut mount = services.lifecycle.mount.clone();
    let is_done = |mount: &MountStatus| {
        let wanted = !services.node.shares().writable().is_empty();
        !mount.mounted || mount.writable == wanted
    };
    let followed = timeout(MOUNT_FOLLOWS_WITHIN, mount.wait_for(is_done));
    let refused = async {
        let events = services.node.events();
        while events.standing_of(Condition::NotWritable).is_empty() {
            sleep(REFUSAL_PERIOD).await;
        }
    };
    tokio::select! {
        _ = followed => {}
        () = refused => {}
    }
    asked.blocking(|services| Ok(writing(services))).await
}

/// Returns the writable shares, also those that cannot be shared or written at present.
fn writing(services: &Services) -> Writing {
    let place = |place: &api::SharePlace| (!place.is_root()).then(|| place.to_string());
    let shares = services.node.shares();
    let written = shares.writable();
    let listed = shares.list().into_iter().filter(|it| it.spec.writable);
    let listed = listed.map(|share| {
        let is_written = written.iter().any(|folder| folder.share == share.index);
        let unknown = || "it is being looked at; try again".to_owned();
        WritableShare {
            dir: Named::from_local(&share.dir),
            place: place(&share.spec.place),
            problem: (!is_written).then(|| share.warning.unwrap_or_else(unknown)),
        }
    });
    let missing = services.shares.missing.lock();
    let wanted = missing.wanted().iter().filter(|share| share.writable);
    let problem = |dir: &Path| {
        let mut known = missing.known().iter();
        let known = known.find(|(missing, _)| missing == dir);
        known
            .map_or("it is not shared yet", |(_, why)| why)
            .to_owned()
    };
    let missing_shares = wanted.map(|share| WritableShare {
        dir: Named::from_local(&share.dir),
        place: place(&share.place),
        problem: Some(problem(&share.dir)),
    });
    let mut folders: Vec<WritableShare> = listed.chain(missing_shares).collect();
    let depth = |share: &WritableShare| share.place.as_ref().map_or(0, |it| it.split('/').count());
    folders.sort_by_key(|share| std::cmp::Reverse(depth(share)));
    let standing = services.node.events().standing_of(Condition::NotWritable);
    let problem = standing.first();
    let problem = problem.map(|it| format!("{}; {}", it.finding.found, it.remedy()));
    Writing { folders, problem }
}

/// Has what programs write at the top of the mount go into a folder.
fn write_on(services: &Services, dir: Option<&Path>) -> Result<(), Failure> {
    let present = at_place(services, &api::SharePlace::default());
    let dir = match (dir, present.is_empty()) {
        (Some(dir), _) => dir.to_owned(),
        (None, false) => return Ok(()),
        (None, true) => files_dir(services)?,
    };
    let real = real_name(services, &dir);
    if present.contains(&real) {
        return Ok(());
    }
    refuse_configured(services, &[&dir, &real])?;
    let by_command = services.shares.saved.lock().clone();
    let former = by_command
        .into_iter()
        .filter(|it| present.contains(&it.dir));
    let former: Vec<ShareSettings> = former.collect();
    if let Some(other) = present
        .iter()
        .find(|dir| former.iter().all(|it| it.dir != **dir))
    {
        return Err(configured(services, other));
    }
    let before = added_before(services, &dir, &real);
    if !before.place.is_root() {
        let message = format!("{} is shared as {}", dir.display(), before.place);
        let remedy = "p2pfs share add DIR --writable makes that place writable; p2pfs share add \
                      DIR --as '' moves it to the top";
        return Err(Failure::new(FailureKind::Invalid, message).with_remedy(remedy));
    }
    let settings = ShareSettings {
        writable: true,
        ..before
    };
    apply(services, settings, false)?;
    for share in former {
        make_read_only(services, share)?;
    }
    Ok(())
}

/// Makes every folder read-only that a command made writable.
fn write_off(services: &Services) -> Result<(), Failure> {
    let in_force = services.settings.in_force.load_full();
    if let Some(share) = in_force.config.share.iter().find(|share| share.writable) {
        return Err(configured(services, &share.dir));
    }
    let saved = services.shares.saved.lock().clone();
    for share in saved.into_iter().filter(|share| share.writable) {
        make_read_only(services, share)?;
    }
    Ok(())
}

/// Refuses a share that is to be writable at the place of another writable share.
pub(super) fn refuse_second_writable(
    services: &Services,
    settings: &ShareSettings,
) -> Result<(), Failure> {
    let others = at_place(services, &settings.place);
    let Some(other) = others.iter().find(|other| **other != settings.dir) else {
        return Ok(());
    };
    let message = format!(
        "what is written there goes into {} already",
        other.display()
    );
    let remedy = "choose another place with --as, or make that folder read-only first: p2pfs share \
                  add DIR --writable=off";
    Err(Failure::new(FailureKind::Invalid, message).with_remedy(remedy))
}

/// Keeps a folder shared, and lets no program write into it through the mount. Whether versions of
/// other nodes count in it stays as it was.
fn make_read_only(services: &Services, share: ShareSettings) -> Result<(), Failure> {
    let settings = ShareSettings {
        writable: false,
        open: Some(share.is_open()),
        ..share
    };
    apply(services, settings, true)
}

/// Returns the folders of the writable shares at a place, also of those that are missing.
fn at_place(services: &Services, place: &api::SharePlace) -> Vec<PathBuf> {
    let listed = services.node.shares().list().into_iter();
    let listed = listed.filter(|share| share.spec.writable && share.spec.place == *place);
    let missing = services.shares.missing.lock().wanted().to_vec();
    let missing = missing.into_iter();
    let missing = missing.filter(|share| share.writable && share.place == *place);
    let missing = missing.map(|share| share.dir);
    listed.map(|share| share.dir).chain(missing).collect()
}

fn configured(services: &Services, dir: &Path) -> Failure {
    let in_force = services.settings.in_force.load();
    let origin = in_force.origin_of_share(|share| share.dir == dir);
    let origin = origin.unwrap_or("by the configuration");
    let message = format!("{} is writable: {origin}", dir.display());
    let remedy = "write writable = false in its [[share]] and reload the daemon";
    Failure::new(FailureKind::Invalid, message).with_remedy(remedy)
}

/// Returns the folder for written files, and creates it if it is missing.
fn files_dir(services: &Services) -> Result<PathBuf, Failure> {
    let dir = services.settings.at_start.files_dir();
    make_open_dir(&dir).map_err(|error| failed(format!("cannot make {}: {error}", dir.display())))
}
