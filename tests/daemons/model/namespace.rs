//! Computes the merged namespace from scratch, by the rules as a user reads them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::share::{Share, Thing, Time, now};

/// The expected state of a name.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    File {
        bytes: Vec<u8>,
        executable: bool,
        mtime: Time,
    },
    Directory {
        mtime: Time,
        /// Latest allowed time. If a file in the directory is dated in the future, the time at
        /// which the node first saw it counts.
        until: Time,
    },
    Link {
        target: PathBuf,
        mtime: Time,
    },
}

pub(super) type Namespace = BTreeMap<PathBuf, Shown>;

/// A node and the content of one of its shares.
#[derive(Clone, Copy)]
pub(super) struct Sharer<'a> {
    pub name: &'a str,
    pub key: &'a str,
    pub share: &'a Share,
    /// Its peers consider the node alive.
    pub alive: bool,
}

/// Hashes of contents, as hex.
pub(super) type Contents = BTreeSet<String>;

struct Version<'a> {
    by: Sharer<'a>,
    thing: &'a Thing,
}

/// The order of versions: living nodes first (`true` means dead), then the newest, then by content,
/// then by key.
type Rank = (bool, Reverse<Time>, Content, String);
type Content = (bool, String);

impl Version<'_> {
    /// Sorts files before links, and smaller hashes or targets first.
    fn content(&self) -> Content {
        match self.thing {
            Thing::File { bytes, .. } => (false, blake3::hash(bytes).to_hex().to_string()),
            Thing::Link { target, .. } => (true, target.to_str().unwrap().to_owned()),
            Thing::Directory { .. } => unreachable!("a directory has no versions"),
        }
    }

    fn rank(&self) -> Rank {
        let version = match self.thing {
            Thing::File { version, .. } => *version,
            Thing::Link { mtime, .. } | Thing::Directory { mtime, .. } => *mtime,
        };
        let key = self.by.key.to_owned();
        (!self.by.alive, Reverse(version), self.content(), key)
    }

    /// Returns whether a living node can give the version.
    fn is_givable(&self, available: &Contents) -> bool {
        let is_kept =
            || matches!(self.thing, Thing::File { .. }) && available.contains(&self.content().1);
        self.by.alive || is_kept()
    }

    fn shown(&self) -> Shown {
        match self.thing {
            Thing::File {
                bytes, mode, mtime, ..
            } => Shown::File {
                bytes: bytes.clone(),
                executable: mode & 0o100 != 0,
                mtime: *mtime,
            },
            Thing::Link { target, mtime, .. } => Shown::Link {
                target: target.clone(),
                mtime: *mtime,
            },
            Thing::Directory { mtime, .. } => Shown::Directory {
                mtime: *mtime,
                until: *mtime,
            },
        }
    }
}

/// Returns the contents that living nodes share or hold whole in their caches.
fn available(sharers: &[Sharer<'_>], cached: &Contents) -> Contents {
    let alive = sharers.iter().filter(|by| by.alive);
    let shown = alive.flat_map(|by| {
        let things = by.share.things.iter();
        things.filter(|(path, _)| by.share.is_shown(path))
    });
    let shared = shown.filter_map(|(_, thing)| match thing {
        Thing::File { bytes, .. } => Some(blake3::hash(bytes).to_hex().to_string()),
        _ => None,
    });
    shared.chain(cached.iter().cloned()).collect()
}

/// Returns the namespace of all nodes together, if living nodes cache these contents.
pub(super) fn merged(sharers: &[Sharer<'_>], cached: &Contents) -> Namespace {
    let available = available(sharers, cached);
    let mut directories: BTreeSet<&Path> = BTreeSet::new();
    let mut versions: BTreeMap<&Path, Vec<Version<'_>>> = BTreeMap::new();
    for by in sharers.iter().copied() {
        let things = by.share.things.iter();
        for (path, thing) in things.filter(|(path, _)| by.share.is_shown(path)) {
            match thing {
                Thing::Directory { .. } if by.alive => drop(directories.insert(path)),
                Thing::Directory { .. } => {}
                _ => {
                    let version = Version { by, thing };
                    if version.is_givable(&available) {
                        versions.entry(path).or_default().push(version);
                    }
                }
            }
        }
    }
    // A directory exists if a name in it is listed, whether or not a living node recorded it.
    let implied = versions.keys().flat_map(|path| path.ancestors().skip(1));
    directories.extend(implied.filter(|path| *path != Path::new("")));
    let mut namespace = Namespace::new();
    let mut lost: Vec<(&Path, Version<'_>)> = vec![];
    for (path, mut candidates) in versions {
        candidates.sort_by_key(Version::rank);
        let mut contents = BTreeSet::new();
        candidates.retain(|version| contents.insert(version.content()));
        let mut candidates = candidates.into_iter();
        if !directories.contains(path) {
            namespace.insert(path.to_owned(), candidates.next().unwrap().shown());
        }
        lost.extend(candidates.map(|version| (path, version)));
    }
    let times: Vec<(Time, Time)> = directories
        .iter()
        .map(|directory| newest_change(directory, sharers, &namespace))
        .collect();
    for (directory, (mtime, until)) in directories.into_iter().zip(times) {
        namespace.insert(directory.to_owned(), Shown::Directory { mtime, until });
    }
    for (path, version) in lost {
        let label = version.by.name.to_owned();
        let by_key = format!("{label}-{}", &version.by.key[..8]);
        let free = [label, by_key]
            .iter()
            .map(|label| conflict_name(path.file_name().unwrap(), label))
            .map(|name| path.with_file_name(name))
            .find(|path| path.file_name().unwrap().len() <= 255 && !namespace.contains_key(path));
        if let Some(free) = free {
            namespace.insert(free, version.shown());
        }
    }
    namespace
}

/// Returns the view of one node alone. There a directory has its time on that node.
pub(super) fn of_peer(sharer: Sharer<'_>) -> Namespace {
    let mut namespace = merged(&[sharer], &Contents::new());
    for (path, shown) in &mut namespace {
        if let (Shown::Directory { mtime, until }, Some(Thing::Directory { mtime: own, .. })) =
            (shown, sharer.share.things.get(path))
        {
            (*mtime, *until) = (*own, *own);
        }
    }
    namespace
}

/// Returns bounds of the newest time among the directory on all nodes, its subdirectories, and its
/// listed names. No time is later than its first sight.
fn newest_change(directory: &Path, sharers: &[Sharer<'_>], winners: &Namespace) -> (Time, Time) {
    let recorded = sharers.iter().filter(|by| by.alive).flat_map(|by| {
        let things = by
            .share
            .things
            .iter()
            .filter(|(path, _)| by.share.is_shown(path));
        things.filter_map(|(path, thing)| match thing {
            Thing::Directory { mtime, .. } => Some((path, mtime)),
            _ => None,
        })
    });
    let recorded = recorded
        .filter(|(path, _)| *path == directory || path.parent() == Some(directory))
        .map(|(_, mtime)| *mtime);
    let listed = winners
        .iter()
        .filter(|(path, _)| path.parent() == Some(directory));
    let listed = listed.map(|(_, shown)| match shown {
        Shown::File { mtime, .. } | Shown::Directory { mtime, .. } | Shown::Link { mtime, .. } => {
            *mtime
        }
    });
    // A node may see the file some time after this call.
    let (seconds, nanoseconds) = now();
    let seen_by = (seconds + 3600, nanoseconds);
    let (dated_ahead, dated): (Vec<Time>, Vec<Time>) =
        recorded.chain(listed).partition(|time| *time > seen_by);
    let newest = dated.into_iter().max().unwrap_or((0, 0));
    if dated_ahead.is_empty() {
        (newest, newest)
    } else {
        (newest, seen_by)
    }
}

/// Returns the name with `~label` before its last extension. A leading dot does not begin an
/// extension.
fn conflict_name(name: &OsStr, label: &str) -> OsString {
    let whole = Path::new(name);
    let mut listed = whole.file_stem().unwrap().to_owned();
    listed.push("~");
    listed.push(label);
    if let Some(extension) = whole.extension() {
        listed.push(".");
        listed.push(extension);
    }
    listed
}
