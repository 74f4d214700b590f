//! Answers that fetch content into the cache and pin it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::paths::{mount_path, nothing_hidden, shared_path, trimmed};
use super::{Asked, Services, Viewer, failed, told};
use crate::daemon::config::units::write_size;
use crate::daemon::control::{
    Answer, CallerGone, Failure, FailureKind, Named, Problem, Progress, ReplySink, Touched,
    parameters,
};
use p2pfs_node::FileError;
use p2pfs_node::api::{
    Contents, FILES_MAX, Hidden, Kind, Lack, NameEntry, PrefetchedFile, WhyNotPinned,
};
use p2pfs_types::path::{SharedPath, escape};

/// Interval between progress reports: as short as a person can notice.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Minimum hexadecimal digits of a hash that `p2pfs unpin` accepts in place of a path.
const HASH_START_MIN: usize = 8;
/// Reason for refusing a prefetch on a metered network.
const METERED: &str = "the network is metered, so nothing is fetched that no program reads";
const METERED_REMEDY: &str = "p2pfs prefetch --anyway, or p2pfs limits --metered off";

impl Answer<Asked> for parameters::Pin {
    async fn answer(self, asked: &mut Asked) -> Result<Touched, Failure> {
        pin(&asked.services, self.paths, true, asked.viewer).await
    }
}

impl Answer<Asked> for parameters::Unpin {
    async fn answer(self, asked: &mut Asked) -> Result<Touched, Failure> {
        pin(&asked.services, self.paths, false, asked.viewer).await
    }
}

impl Answer<Asked> for parameters::Prefetch {
    async fn answer(self, asked: &mut Asked) -> Result<Touched, Failure> {
        let Self { paths, anyway } = self;
        prefetch(&asked.services, paths, anyway, asked.viewer, &asked.reply).await
    }
}

/// Pins the contents that `paths` show now. If `pinned` is `false`, unpins the pinned contents that
/// `paths` name by path or by hash.
async fn pin(
    services: &Arc<Services>,
    paths: Vec<Named>,
    pinned: bool,
    viewer: Viewer,
) -> Result<Touched, Failure> {
    let pinning = move |services: &Services| {
        let by_name = |named: &&Named| pinned || hash_start(named).is_none();
        check_may_fetch(services, paths.iter().filter(by_name), &viewer)?;
        let (contents, touched) = if pinned {
            contents_of(services, &paths)?
        } else {
            kept_of(services, &paths)?
        };
        let (_, not_pinned) = services.node.pins().set_contents(contents, pinned);
        Ok((not_pinned, touched))
    };
    // `NodePins::maintain` fetches the missing bytes.
    let (not_pinned, mut touched) = super::blocking(services, pinning).await?;
    for it in not_pinned {
        let why = match it.why {
            WhyNotPinned::Cache(error) => error.to_string(),
            WhyNotPinned::Lack(lack) => {
                let (found, remedy) = lack_words(&lack);
                format!("it does not fit: {found}; {remedy}")
            }
        };
        touched.without(problem(&it.path, why), it.size_bytes);
    }
    Ok(touched)
}

/// Fetches the contents that `paths` show now into the cache. Before any fetch, refuses the call if
/// the contents cannot fit, or if the network is metered and `anyway` is not set. Cancels the
/// fetches when the caller disconnects.
async fn prefetch(
    services: &Arc<Services>,
    paths: Vec<Named>,
    anyway: bool,
    viewer: Viewer,
    reply: &ReplySink,
) -> Result<Touched, Failure> {
    if services.node.traffic().is_metered() && !anyway {
        return Err(failed(METERED.to_owned()).with_remedy(METERED_REMEDY));
    }
    let checking = move |services: &Services| {
        check_may_fetch(services, paths.iter(), &viewer)?;
        let (contents, touched) = contents_of(services, &paths)?;
        Ok((check_room(services, contents)?, touched))
    };
    let (contents, mut touched) = super::blocking(services, checking).await?;
    let mut fetches = services.node.files().fetch(contents);
    let here_bytes = touched.bytes - fetches.bytes();
    let mut progress = Progress {
        done_files: touched.files - fetches.files() as u64,
        total_files: touched.files,
        done_bytes: here_bytes,
        total_bytes: touched.bytes,
    };
    let mut look = tokio::time::interval(PROGRESS_PERIOD);
    loop {
        tokio::select! {
            ended = fetches.next() => {
                let Some(ended) = ended else { break };
                progress.done_files += 1;
                if let Err(error) = &ended.outcome {
                    let why = why_not_fetched(services, &ended, error);
                    touched.without(problem(&ended.path, why), ended.size_bytes);
                }
            }
            _ = look.tick() => {}
            () = reply.closed() => return Err(CallerGone.into()),
        }
        progress.done_bytes = here_bytes + fetches.ready_bytes();
        reply.more(&progress).await?;
    }
    Ok(touched)
}

/// Refuses the call if the mount does not let the caller read files, or if one of `paths` is a
/// directory and the mount does not let the caller list directories.
fn check_may_fetch<'a>(
    services: &Services,
    mut paths: impl Iterator<Item = &'a Named>,
    viewer: &Viewer,
) -> Result<(), Failure> {
    paths.try_for_each(|named| {
        viewer.check_read(named)?;
        let is_directory = match services.node.names().hidden(trimmed(named)) {
            Some(hidden) => matches!(hidden, Hidden::Directory),
            None => {
                let found = services.node.names().find(&mount_path(services, named)?);
                found.is_ok_and(|found| found.kind == Kind::Directory)
            }
        };
        if is_directory {
            viewer.check_list(named)?;
        }
        Ok(())
    })
}

fn why_not_fetched(services: &Services, ended: &PrefetchedFile, error: &impl Display) -> String {
    let trouble = services.node.health().trouble_with_caching();
    match trouble.filter(|_| ended.is_not_kept()) {
        Some(trouble) => format!("{}: p2pfs doctor says what helps", told(&trouble).0),
        None => format!("{error}: p2pfs why says who has it"),
    }
}

/// Checks that the cache can hold all contents at once, beside the contents that are pinned or open
/// already.
fn check_room(services: &Services, contents: Contents) -> Result<Contents, Failure> {
    let needed_bytes = services.node.cache().room_needed(&contents);
    let Some(lack) = services.node.cache().lack_of_room(needed_bytes) else {
        return Ok(contents);
    };
    let (found, remedy) = lack_words(&lack);
    let message = format!(
        "they take {} with their proofs, which do not fit: {found}",
        write_size(needed_bytes)
    );
    Err(failed(message).with_remedy(remedy))
}

fn contents_of(services: &Services, paths: &[Named]) -> Result<(Contents, Touched), Failure> {
    let mut all = Found::default();
    let mut touched = Touched::default();
    for named in paths {
        if let Some(hidden) = hidden_contents(services, named)? {
            all.add(hidden)?;
            continue;
        }
        let path = shared_path(named)?;
        match services.node.names().contents_of(&path) {
            Ok(found) => all.add(found)?,
            Err(FileError::TooMany) => return Err(too_many()),
            Err(error) => {
                let why = match (services.node.names().entry(&path), error) {
                    (Some(NameEntry::Foreign(_, file)), _) => format!(
                        "only the legacy peer {} has it, and bytes without a hash are not kept in \
                         the cache: p2pfs get copies it",
                        file.holder
                    ),
                    (_, FileError::TooManyLinks { .. }) => "its links lead on and on".to_owned(),
                    (_, FileError::LinkToNothing { target, .. }) => {
                        format!("a link to nothing: no node shares {}", escape(&target))
                    }
                    _ => "no node shares it: p2pfs ls shows what there is".to_owned(),
                };
                touched.failed.push(problem(&path, why));
            }
        }
    }
    Ok(count(all.contents, touched))
}

/// Returns the contents below a path in `.p2pfs`; `None` if the path is elsewhere.
fn hidden_contents(services: &Services, named: &Named) -> Result<Option<Contents>, Failure> {
    let path = trimmed(named);
    if services.node.names().hidden(path).is_none() {
        return Ok(None);
    }
    match services.node.names().hidden_contents(path) {
        Ok(None) => Err(nothing_hidden(path)),
        Ok(found) => Ok(found),
        Err(_) => Err(too_many()),
    }
}

/// Returns the pinned contents that `paths` name: by path, or by hash as `p2pfs cache ls` shows it.
fn kept_of(services: &Services, paths: &[Named]) -> Result<(Contents, Touched), Failure> {
    let mut all = Found::default();
    let mut touched = Touched::default();
    for named in paths {
        let by_hash = hash_start(named).map(|start| services.node.pins().with_hash(start));
        if let Some(kept) = by_hash.filter(|kept| !kept.is_empty()) {
            all.add(kept)?;
            continue;
        }
        if let Ok(Some(mut hidden)) = hidden_contents(services, named) {
            hidden.retain(|hash, _| services.node.pins().is_pinned(hash));
            all.add(hidden)?;
            continue;
        }
        match shared_path(named).map(|path| services.node.pins().at(&path)) {
            Ok(Ok(kept)) => all.add(kept)?,
            Ok(Err(FileError::TooMany)) => return Err(too_many()),
            Ok(Err(_)) | Err(_) => touched.failed.push(Problem {
                path: named.clone(),
                why: "it is not pinned: p2pfs cache ls lists the pinned files".to_owned(),
            }),
        }
    }
    Ok(count(all.contents, touched))
}

/// Describes why bytes do not fit into the cache, and the remedy.
pub(super) fn lack_words(lack: &Lack) -> (String, &'static str) {
    match lack {
        Lack::Budget {
            budget_bytes,
            kept_bytes,
        } => {
            let (budget, kept) = (write_size(*budget_bytes), write_size(*kept_bytes));
            let found = format!("the cache has {budget}, of which {kept} are pinned or in use");
            (found, "name less, or give it room: p2pfs cache resize SIZE")
        }
        Lack::Disk {
            free_bytes,
            floor_bytes,
        } => {
            let (free, floor) = (write_size(*free_bytes), write_size(*floor_bytes));
            let found =
                format!("the cache's disk has {free} for it, and {floor} of them stay free");
            (
                found,
                "name less, free some of that disk, or name another with cache_dir",
            )
        }
        Lack::Refused { why } => {
            let found = format!("the cache's disk takes no writes: {why}");
            (found, "make it writable, or name another with cache_dir")
        }
    }
}

/// Returns the name as the start of a hash, without the folder `.p2pfs/by-hash/`. Returns `None` if
/// the name has other characters than hexadecimal digits, or fewer than [`HASH_START_MIN`] digits.
fn hash_start(named: &Named) -> Option<&str> {
    let text = str::from_utf8(named.as_bytes()).ok()?.trim_matches('/');
    let start = text.strip_prefix(".p2pfs/by-hash/").unwrap_or(text);
    let is_hash = start.len() >= HASH_START_MIN && start.bytes().all(|it| it.is_ascii_hexdigit());
    is_hash.then_some(start)
}

/// The contents that the names of one call stand for.
#[derive(Default)]
struct Found {
    contents: Contents,
    /// Number of files including repetitions, because these cost work, too.
    files: usize,
}

impl Found {
    fn add(&mut self, more: Contents) -> Result<(), Failure> {
        self.files += more.len();
        self.contents.extend(more);
        if self.files > FILES_MAX {
            Err(too_many())
        } else {
            Ok(())
        }
    }
}

fn count(contents: Contents, mut touched: Touched) -> (Contents, Touched) {
    touched.files = contents.len() as u64;
    touched.bytes = contents.values().map(|(size, _)| size).sum();
    (contents, touched)
}

fn problem(path: &SharedPath, why: String) -> Problem {
    Problem {
        path: Named::new(path.as_bytes()),
        why,
    }
}

fn too_many() -> Failure {
    Failure::new(FailureKind::Invalid, FileError::TooMany.to_string())
        .with_remedy("name fewer directories at a time")
}
