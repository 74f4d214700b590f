//! The versions of a path, and the rule that decided about each.

use super::dir::Dir;
use super::merged::Merged;
use super::orders::{Alias, Named};
use super::row::{Class, DirId, Row};
use super::rules;
use super::view::View;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of candidates of a name that are examined for its authors.
const NAME_AUTHORS_MAX: usize = 64;

/// The rule that decided about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It has the name: live nodes can give no other version.
    Only,
    /// It has the name: its version time is the newest.
    Newest,
    /// It has the name: its version time is the newest, and it precedes the others of that time. A
    /// file precedes a link, then the smaller hash or link target precedes.
    SmallestHash,
    /// It lost: another version is newer.
    Older,
    /// It lost: another version is as new and precedes it.
    LargerHash,
    /// A listed directory keeps the name. The version of the directory itself has this rule too.
    DirectoryKeeps,
    /// It has the name although another version is newer: no live node shares that version under
    /// this name.
    AuthorLives,
    /// It lost although it is newer: no live node shares it under this name.
    AuthorGone,
    /// It has the name: a version that would precede it proved unserved.
    OthersUnserved,
    /// It lost: its holders left a reader without it, or its author left several other versions
    /// unserved, or left readers without its former versions of the name.
    Unserved,
    /// It waits: its time is more than [`EARLY_TOLERANCE_SECONDS`](super::EARLY_TOLERANCE_SECONDS)
    /// ahead of this node's clock.
    Early,
    /// No live node can give it.
    NotGivable,
    /// It has the name: its author owns the path, and another node has another version.
    Owner,
    /// It lost: another node owns the path. Or it is a link, and another node owns a path below it.
    NotOwner,
}

/// One version of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// A file with its hash and size, a link with its target, or a directory.
    pub kind: Kind,
    /// The modification time of the candidate that ranks first.
    pub mtime: Timestamp,
    /// The time by which it is ranked.
    pub version_time: Timestamp,
    /// The authors that share it under this name, live or not, with their shares.
    pub authors: Vec<(NodeId, ShareIndex)>,
    /// The live nodes that can give it. For a file, also under another name or from their caches.
    pub holders: Vec<NodeId>,
    /// The path under which it is listed. `None` if it is not listed.
    pub listed_as: Option<SharedPath>,
    /// The rule that decided about it.
    pub rule: Rule,
}

/// The authors of the versions of a name that has versions of several authors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAuthors {
    /// The name among the files of the authors.
    pub path: SharedPath,
    /// Authors of a file with this name, at most `NAME_AUTHORS_MAX`. Those of the content that
    /// was asked about come first.
    pub authors: Vec<NodeId>,
}

/// A name in a directory, with the versions that any log has of it.
pub(super) struct NameVersions<'a> {
    view: &'a View,
    dir: DirId,
    /// The version with this conflict name, if the name is one.
    alias: Option<&'a Row>,
    /// The name, or the one from which the conflict name was derived.
    name: &'a [u8],
}

impl<'a> NameVersions<'a> {
    /// Returns the name at a path. A conflict name stands for the path from which it was derived.
    /// Returns `None` if no log has the directory.
    pub(super) fn at(view: &'a View, path: &'a SharedPath) -> Option<Self> {
        let dir = view.merged.find_dir(&path.parent()?)?;
        let alias = view.merged.dir(dir).aliases.get(&Named(path.file_name()));
        let alias = alias.map(Alias::row);
        Some(Self {
            view,
            dir,
            alias,
            name: alias.map_or(path.file_name(), Row::name),
        })
    }

    /// Returns the authors of the name if it has files of several authors.
    pub(super) fn authors(&self, hash: &ContentHash) -> Option<NameAuthors> {
        let merged = &self.view.merged;
        let here = merged.dir(self.dir);
        // This avoids the search if no name in the directory has several candidates.
        if here.rest.is_empty() {
            return None;
        }
        let files = here.candidates(self.name).take(NAME_AUTHORS_MAX);
        let files = files.filter(|row| row.class == Class::File);
        let mut files: Vec<&Row> = self.alias.into_iter().chain(files).collect();
        files.sort_by_key(|row| row.hash() != *hash);
        let mut authors: Vec<NodeId> = Vec::new();
        for author in files.iter().map(|row| *merged.node_of(row)) {
            if !authors.contains(&author) {
                authors.push(author);
            }
        }
        (authors.len() > 1).then(|| NameAuthors {
            path: merged.path_of(self.dir, self.name),
            authors,
        })
    }

    /// Returns every version of the name, the one with the name first. An unlisted directory is
    /// left out.
    pub(super) fn all(&self) -> Vec<Version> {
        let merged = &self.view.merged;
        let here = merged.dir(self.dir);
        let rows: Vec<Row> = here
            .candidates(self.name)
            .filter(|row| matches!(row.class, Class::File | Class::Symlink))
            .cloned()
            .collect();
        let (givable, gone): (Vec<Row>, Vec<Row>) =
            rows.iter().cloned().partition(|row| merged.is_givable(row));
        let (ranked, lost) = (merged.rank(givable), merged.rank(gone));
        let lost = lost
            .into_iter()
            .filter(|row| !ranked.iter().any(|r| r.same_content(row)));
        let is_contested = lost.clone().any(|row| !merged.may_have(&row, row.name()));
        let kept = here.dirs.contains(&Named(self.name));
        let mut versions: Vec<Version> = self.directory().into_iter().filter(|_| kept).collect();
        for (at, row) in ranked.iter().enumerate() {
            let rule = if kept {
                Rule::DirectoryKeeps
            } else if at == 0 && is_contested {
                Rule::Owner
            } else {
                rule_of(merged, at, &ranked)
            };
            versions.extend(version(merged, row, &rows, rule));
        }
        versions.extend(lost.filter_map(|row| {
            let rule = if !merged.may_have(&row, row.name()) {
                Rule::NotOwner
            } else if merged.is_early(&row) {
                Rule::Early
            } else {
                Rule::NotGivable
            };
            version(merged, &row, &rows, rule)
        }));
        versions
    }

    /// Returns the directory of the name as a version, listed or not.
    fn directory(&self) -> Option<Version> {
        let merged = &self.view.merged;
        let here = merged.dir(self.dir);
        let found = self.view.directory(here.child(self.name)?);
        let rows: Vec<&Row> = here
            .candidates(self.name)
            .filter(|row| row.class == Class::Directory)
            .collect();
        let live = rows.iter().filter(|row| merged.is_live(row));
        Some(Version {
            kind: Kind::Directory,
            mtime: found.mtime,
            version_time: found.version_time,
            authors: rows
                .iter()
                .map(|row| (*merged.node_of(row), merged.share_of(row)))
                .collect(),
            holders: live.map(|row| *merged.node_of(row)).collect(),
            listed_as: Some(merged.path_of(self.dir, self.name)),
            rule: Rule::DirectoryKeeps,
        })
    }
}

/// Returns the version of a file or link. `all` are the rows of its name.
fn version(merged: &Merged, row: &Row, all: &[Row], rule: Rule) -> Option<Version> {
    let mut same: Vec<&Row> = all.iter().filter(|r| r.same_content(row)).collect();
    same.sort_by(|a, b| rules::precedence((a, merged.node_of(a)), (b, merged.node_of(b))));
    let holders = match row.class {
        Class::File => merged.holder_ids(row.hash()),
        _ => {
            let live = same.iter().filter(|r| merged.is_live(r));
            live.map(|r| *merged.node_of(r)).collect()
        }
    };
    Some(Version {
        kind: row.kind()?,
        mtime: row.mtime(),
        version_time: row.version_time(),
        authors: same
            .iter()
            .map(|r| (*merged.node_of(r), merged.share_of(r)))
            .collect(),
        holders,
        listed_as: listed_path(merged, row),
        rule,
    })
}

/// Returns the path under which a file or link is listed: its own name or a conflict name.
pub(super) fn listed_path(merged: &Merged, row: &Row) -> Option<SharedPath> {
    let name = listed_name(merged.dir(row.dir), row)?;
    Some(merged.path_of(row.dir, name))
}

pub(super) fn listed_name<'a>(dir: &'a Dir, row: &'a Row) -> Option<&'a [u8]> {
    let own = dir
        .listed
        .get(&Named(row.name()))
        .is_some_and(|listed| listed.0.is(row));
    if own {
        return Some(row.name());
    }
    dir.aliases
        .iter()
        .find(|alias| alias.row().is(row))
        .map(|alias| alias.name())
}

/// Returns the rule for the version at an index of the ranking.
fn rule_of(merged: &Merged, at: usize, ranked: &[Row]) -> Rule {
    let (first, row) = (&ranked[0], &ranked[at]);
    let lives = |row: &Row| merged.is_live(row);
    let overrules = |winner: &Row, loser: &Row| {
        lives(winner) && !lives(loser) && loser.version_time() > winner.version_time()
    };
    let served_instead = |winner: &Row, loser: &Row| {
        let unserved = |row| merged.is_unserved(row);
        unserved(loser) && !unserved(winner) && merged.order_if_served(loser, winner).is_lt()
    };
    if at > 0 {
        return if served_instead(first, row) {
            Rule::Unserved
        } else if overrules(first, row) {
            Rule::AuthorGone
        } else if row.version_time() == first.version_time() {
            Rule::LargerHash
        } else {
            Rule::Older
        };
    }
    match ranked.get(1) {
        None => Rule::Only,
        _ if ranked.iter().any(|other| served_instead(first, other)) => Rule::OthersUnserved,
        _ if ranked.iter().any(|other| overrules(first, other)) => Rule::AuthorLives,
        Some(second) if second.version_time() == first.version_time() => Rule::SmallestHash,
        Some(_) => Rule::Newest,
    }
}
