//! Answers about this node's shares.

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::names::{kind_of, named_as};
use super::writing::refuse_second_writable;
use super::{Asked, Services, Sight, Viewer, calendar_time, failed};
use crate::daemon::config::{
    ALL_NODES, Group, ShareSettings, check_readers, folder_names, missing_group, saved,
};
use crate::daemon::control::{
    Answer, Failure, FailureKind, LS_PAGE_MAX_ENTRIES, LeftOutCount, Mine, MyEntry, Named,
    PROBLEMS_MAX, Problem, ShareChange, ShareInfo, ShareReader, ShareState, Shares, parameters,
};
use crate::daemon::service::node_config::{inbox_shares, share_spec};
use crate::daemon::service::{former_names, sharing};
use p2pfs_node::api;
use p2pfs_types::files::trusted_way::reach;

/// Origin of a share that a flag set.
const BY_FLAG: &str = "set by --share";
/// Origin of a share that a variable set.
const BY_ENVIRONMENT: &str = "set in the environment";

impl Answer<Asked> for parameters::Mine {
    async fn answer(self, asked: &mut Asked) -> Result<Mine, Failure> {
        let viewer = asked.viewer;
        asked
            .blocking(move |services| mine(services, self.after, &viewer))
            .await
    }
}

impl Answer<Asked> for parameters::ShareAdd {
    async fn answer(self, asked: &mut Asked) -> Result<Shares, Failure> {
        asked
            .blocking(move |services| add_share(services, self.dir.as_local(), self.how))
            .await
    }
}

impl Answer<Asked> for parameters::ShareRemove {
    async fn answer(self, asked: &mut Asked) -> Result<Shares, Failure> {
        asked
            .blocking(move |services| remove_share(services, self.dir.as_local()))
            .await
    }
}

impl Answer<Asked> for parameters::Shares {
    async fn answer(self, asked: &mut Asked) -> Result<Shares, Failure> {
        let sight = asked.viewer.sight;
        asked
            .blocking(move |services| Ok(shares(services, sight)))
            .await
    }
}

/// Returns the shares. Only root and the daemon's user see the names of left out files, because
/// these reveal private files. Other users see only the number of left out files.
pub(super) fn shares(services: &Services, sight: Sight) -> Shares {
    let list = services.node.shares().list().into_iter();
    let mut shares: Vec<ShareInfo> = list
        .map(|share| share_with_readers(services, share))
        .collect();
    if sight != Sight::All {
        shares.iter_mut().for_each(|share| share.problems.clear());
    }
    Shares {
        shares,
        read_bytes: services.node.shares().hashed_bytes(),
        missing: not_shared_yet(services, sight),
    }
}

/// Returns the shares that are configured or were added by command and that are not possible yet,
/// each with the reason.
fn not_shared_yet(services: &Services, sight: Sight) -> Vec<Problem> {
    if sight != Sight::All {
        return Vec::new();
    }
    let missing = services.shares.missing.lock();
    let problem = |(dir, why): &(PathBuf, String)| Problem {
        path: Named::from_local(dir),
        why: why.clone(),
    };
    missing.known().iter().map(problem).collect()
}

/// Returns a page of the entries of this node's shares that other nodes can read.
fn mine(services: &Services, after: Option<u32>, viewer: &Viewer) -> Result<Mine, Failure> {
    viewer.check_list(&Named::default())?;
    let (given, next) = services.node.shares().given(after, LS_PAGE_MAX_ENTRIES);
    let entry = |given: api::GivenName| {
        let (kind, size_bytes, _) = kind_of(&given.kind);
        MyEntry {
            path: named_as(&given.path),
            kind,
            size_bytes,
            modified: calendar_time(given.mtime),
            share: Named::from_local(&given.share),
        }
    };
    let entries = given.into_iter().map(entry).collect();
    Ok(Mine { entries, next })
}

/// Shares a folder from now on, or changes the settings of a shared folder. Saves the settings only
/// after the node has accepted them.
fn add_share(services: &Services, dir: &Path, how: ShareChange) -> Result<Shares, Failure> {
    let real = real_name(services, dir);
    refuse_configured(services, &[dir, &real])?;
    let named = how.readers.clone().unwrap_or_default();
    let before = added_before(services, dir, &real);
    let was_writable = before.writable;
    let settings = changed(before, how)?;
    if settings.writable {
        refuse_second_writable(services, &settings)?;
    }
    let groups = services.settings.in_force.load().config.groups.clone();
    refuse_readers(&settings, &groups)?;
    Handle::current().block_on(former_names::confirm(services, named))?;
    apply(services, settings, was_writable)?;
    Ok(shares(services, Sight::All))
}

/// Shares a folder with these settings, and saves them. A folder that becomes writable is tried
/// first.
pub(super) fn apply(
    services: &Services,
    settings: ShareSettings,
    was_writable: bool,
) -> Result<(), Failure> {
    let groups = services.settings.in_force.load().config.groups.clone();
    let spec = api::ShareSpec {
        is_resolved: true,
        is_by_command: true,
        ..share_spec(&settings, &groups)
    };
    let refused = |error: api::ShareError| {
        let kind = if error.is_denied() {
            FailureKind::Failed
        } else {
            FailureKind::Invalid
        };
        Failure::new(kind, error.to_string())
    };
    let node_shares = services.node.shares();
    if settings.writable && !was_writable {
        node_shares.try_to_write(&spec).map_err(refused)?;
    }
    node_shares.add(spec).map_err(refused)?;
    sharing::want_no_more(services, &settings.dir);
    let mut kept = services.shares.saved.lock();
    kept.retain(|other| other.dir != settings.dir);
    kept.push(settings);
    drop(kept);
    keep(services)
}

/// Returns the settings of a folder that was added by command, as `dir` or as its canonical path
/// `real`. Without `real`, an update through another name of the folder would lose the share's
/// readers. Returns the defaults for a new folder.
pub(super) fn added_before(services: &Services, dir: &Path, real: &Path) -> ShareSettings {
    let kept = services.shares.saved.lock();
    let found = kept.iter().find(|it| it.dir == dir || it.dir == real);
    found.map_or_else(|| ShareSettings::new(real.to_owned()), ShareSettings::clone)
}

/// Returns the canonical path of a folder. Returns `dir` itself if it is the name of a known share,
/// without an access to the disk, which may hang, and if another user could have put a link on it.
pub(super) fn real_name(services: &Services, dir: &Path) -> PathBuf {
    let mut saved = services.shares.saved.lock().clone().into_iter();
    let in_force = services.settings.in_force.load();
    let configured = in_force.origin_of_share(|share| share.dir == dir);
    if configured.is_some() || saved.any(|share| share.dir == dir) {
        return dir.to_owned();
    }
    reach(dir).map_or_else(|_| dir.to_owned(), |reached| reached.path().to_owned())
}

pub(super) fn remove_share(services: &Services, dir: &Path) -> Result<Shares, Failure> {
    let real = real_name(services, dir);
    refuse_configured(services, &[dir, &real])?;
    refuse_inbox(services, &[dir, &real])?;
    let was_missing = sharing::want_no_more(services, dir) | sharing::want_no_more(services, &real);
    let removed = services.node.shares().remove(dir);
    let removed = removed.or_else(|_| services.node.shares().remove(&real));
    let mut kept = services.shares.saved.lock();
    let kept_before = kept.len();
    kept.retain(|other| other.dir != dir && other.dir != real);
    let was_kept = kept.len() < kept_before;
    if let Err(error) = removed
        && !was_missing
        && !was_kept
    {
        return Err(Failure::new(FailureKind::NotFound, error.to_string()));
    }
    drop(kept);
    keep(services)?;
    Handle::current().block_on(former_names::drop_names_not_given(services));
    Ok(shares(services, Sight::All))
}

fn share_with_readers(services: &Services, status: api::ShareStatus) -> ShareInfo {
    let readers = status.spec.readers.clone().map(|readers| {
        let info = |reader: String| ShareReader {
            node: services
                .node
                .shares()
                .member_meant(&reader)
                .map(|node| node.to_string()),
            former: services
                .node
                .membership()
                .view()
                .former_names()
                .contains(&reader),
            reader,
        };
        readers.into_iter().map(info).collect()
    });
    ShareInfo {
        readers,
        ..share_info(status)
    }
}

/// Refuses a folder that the configuration shares, by the given name or its canonical one. Such
/// a share can be changed only in its file or on the command line.
pub(super) fn refuse_configured(services: &Services, names: &[&Path; 2]) -> Result<(), Failure> {
    let Some(origin) = configured_by(services, names) else {
        return Ok(());
    };
    let (by, remedy) = match &*origin {
        BY_FLAG => (
            "the daemon's command line (--share)",
            "start the daemon without that, and add it with p2pfs share add",
        ),
        BY_ENVIRONMENT => (
            "a variable of the daemon's environment",
            "start the daemon without that, and add it with p2pfs share add",
        ),
        _ => (
            "the configuration",
            "change it in the configuration file and reload the daemon",
        ),
    };
    let message = format!("{} is shared by {by}", names[0].display());
    Err(Failure::new(FailureKind::Invalid, message).with_remedy(remedy))
}

/// Returns the origin of the configured share whose directory, as written or as canonical path, is
/// one of these names.
fn configured_by(services: &Services, names: &[&Path]) -> Option<String> {
    let in_force = services.settings.in_force.load();
    let by_name = |share: &ShareSettings| names.contains(&share.dir.as_path());
    if let Some(origin) = in_force.origin_of_share(by_name) {
        return Some(origin.to_owned());
    }
    let dirs: Vec<PathBuf> = in_force
        .config
        .share
        .iter()
        .map(|it| it.dir.clone())
        .collect();
    let mut folders = dirs.iter().zip(folder_names(dirs.clone()));
    let (dir, _) = folders.find(|(_, folder)| names.contains(&folder.as_path()))?;
    let origin = in_force.origin_of_share(|share| share.dir == *dir);
    origin.map(str::to_owned)
}

/// Refuses to remove the share of an inbox, because an inbox that accepts files is always shared.
fn refuse_inbox(services: &Services, names: &[&Path; 2]) -> Result<(), Failure> {
    let configured = &services.settings.in_force.load().config.share;
    let mut inboxes = inbox_shares(&services.settings.at_start, configured).into_iter();
    if !inboxes.any(|inbox| names.contains(&inbox.dir.as_path())) {
        return Ok(());
    }
    let message = format!("{} is this node's inbox", names[0].display());
    let remedy = "take from out of [inbox] in the configuration, or put the inbox elsewhere \
                  with its dir; then restart the daemon";
    Err(Failure::new(FailureKind::Invalid, message).with_remedy(remedy))
}

/// Saves the shares that were added by command. Waits for the disk, and holds no lock meanwhile that
/// another task takes.
fn keep(services: &Services) -> Result<(), Failure> {
    let _one_at_a_time = services.shares.saving.lock();
    let kept = services.shares.saved.lock().clone();
    saved::save_shares(&services.settings.at_start.state_dir, &kept)
        .map_err(|error| failed(format!("done, but not kept for the next start: {error}")))
}

/// Applies a change to a share; absent fields keep their values.
fn changed(before: ShareSettings, how: ShareChange) -> Result<ShareSettings, Failure> {
    let place = how
        .place
        .map(|text| api::SharePlace::new(&text))
        .transpose();
    let place = place.map_err(invalid_place)?;
    let readers = match how.readers {
        None => before.readers,
        Some(all) if all == [ALL_NODES] => None,
        listed => listed,
    };
    let default_excludes = how.no_default_excludes.map(|it| !it);
    Ok(ShareSettings {
        dir: before.dir,
        place: place.unwrap_or(before.place),
        include_private: how.include_private.unwrap_or(before.include_private),
        legacy: how.legacy.unwrap_or(before.legacy),
        readers,
        exclude: how.exclude.unwrap_or(before.exclude),
        default_excludes: default_excludes.unwrap_or(before.default_excludes),
        writable: how.writable.unwrap_or(before.writable),
        open: how.open.or(before.open),
    })
}

/// Reports an invalid place. The text of the error ends with the remedy, after a semicolon.
fn invalid_place(error: api::PlaceError) -> Failure {
    let said = error.to_string();
    let (why, remedy) = said.rsplit_once("; ").unwrap_or((&said, ""));
    Failure::new(
        FailureKind::Invalid,
        format!("cannot share it there: {why}"),
    )
    .with_remedy(remedy)
}

/// Refuses invalid readers before anything is shared.
fn refuse_readers(settings: &ShareSettings, groups: &[Group]) -> Result<(), Failure> {
    let invalid = |why: String| Failure::new(FailureKind::Invalid, why);
    let Some(readers) = &settings.readers else {
        return Ok(());
    };
    check_readers(readers).map_err(|error| invalid(error.to_string()))?;
    if settings.legacy {
        let why =
            "a share with readers cannot be offered to legacy peers: they cannot be identified";
        return Err(invalid(why.to_owned())
            .with_remedy("say which it is to be: --readers '*' or --legacy=off"));
    }
    match missing_group(readers, groups) {
        None => Ok(()),
        Some(name) => {
            let remedy = "write it into groups in the configuration, and reload the daemon";
            Err(invalid(format!("there is no group {name:?}")).with_remedy(remedy))
        }
    }
}

fn share_info(status: api::ShareStatus) -> ShareInfo {
    let (state, pending_files) = match status.state {
        api::ShareProgress::Scanning => (ShareState::Scanning, 0),
        api::ShareProgress::Hashing { files_left } => (ShareState::Scanning, files_left),
        api::ShareProgress::Ready => (ShareState::Ready, 0),
        api::ShareProgress::Vanished => (ShareState::Unreadable, 0),
    };
    let whole = status.warning.iter().map(|why| Problem {
        path: Named::from_local(&status.dir),
        why: why.clone(),
    });
    let said = |left: &&api::LeftOut| status.warning.is_none() || left.path != status.dir;
    let parts = status.left_out.iter().filter(said).map(|left| Problem {
        path: Named::from_local(&left.path),
        why: if left.remedy.is_empty() {
            left.why.to_string()
        } else {
            format!("{}: {}", left.why, left.remedy)
        },
    });
    let problems = whole.chain(parts).take(PROBLEMS_MAX).collect();
    let counts = status.left_out_counts.iter();
    let of_all: u64 = counts.clone().map(|(_, count)| count).sum();
    let is_excluded = |(why, _): &&(api::LeftOutWhy, u64)| *why == api::LeftOutWhy::Excluded;
    let excluded = counts
        .clone()
        .find(is_excluded)
        .map_or(0, |(_, count)| *count);
    ShareInfo {
        place: (!status.spec.place.is_root()).then(|| status.spec.place.to_string()),
        state,
        pending_files,
        pending_bytes: status.bytes_left,
        problems,
        include_private: status.spec.include_private,
        legacy: status.spec.foreign,
        writable: status.spec.writable,
        open: status.spec.open,
        readers: None,
        files: status.totals.files,
        bytes: status.totals.bytes,
        exclude: status.spec.exclude,
        default_excludes: status.spec.default_excludes,
        left_out_files: of_all - excluded,
        excluded_files: excluded,
        left_out: counts
            .map(|(why, count)| LeftOutCount {
                why: why.to_string(),
                count: *count,
            })
            .collect(),
        dir: Named::from_local(&status.dir),
    }
}
