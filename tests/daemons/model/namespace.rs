//! The merged namespace worked out from scratch, by the rules as a user reads them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::share::{Share, Thing, Time, now};

/// What a name must show.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    File {
        bytes: Vec<u8>,
        executable: bool,
        mtime: Time,
    },
    Directory {
        mtime: Time,
        /// It may be any from `mtime` to this: it is when the node first saw a file in it that is
        /// dated in the future.
        until: Time,
    },
    Link {
        target: PathBuf,
        mtime: Time,
    },
}

pub(super) type Namespace = BTreeMap<PathBuf, Shown>;

/// A node and what is in one of its shares.
#[derive(Clone, Copy)]
pub(super) struct Sharer<'a> {
    pub name: &'a str,
    pub key: &'a str,
    pub share: &'a Share,
    /// The others hold the node for alive.
    pub alive: bool,
}

/// Hashes of contents, as hex.
pub(super) type Contents = BTreeSet<String>;

struct Version<'a> {
    by: Sharer<'a>,
    thing: &'a Thing,
}

/// The order of versions: those of the living first (true is of the dead), of these the newest,
/// then by content, then by key.
type Rank = (bool, Reverse<Time>, Content, String);
type Content = (bool, String);

impl Version<'_> {
    /// A file before a link, the smaller hash or target first.
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

    /// Whether somebody alive can give it.
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

/// The contents that living nodes share, and those that their caches hold whole.
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

/// What all nodes show together, where living nodes have these contents in their caches.
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
    // a directory is there for what is listed in it, whoever recorded it
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

/// What one node shares, by itself: there a directory has the time that it has on that node.
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

/// The newest time of the directory on any node, of the directories in it, and of what it lists,
/// none of which is later than it was first seen: at least and at most.
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
    // it may be seen a while after this is asked
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

/// The name with `~label` before its last extension; a dot at the front begins none.
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
