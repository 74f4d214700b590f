//! The versions of a path, and the decision about each.

use super::dir::Dir;
use super::merged::Merged;
use super::orders::{Alias, Named};
use super::row::{Class, DirId, Row};
use super::rules::{self, DecidedVersion, Rule};
use super::view::View;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of candidates of a name that are examined for its authors.
const NAME_AUTHORS_MAX: usize = 64;

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
    /// Whether it has the name.
    pub has_name: bool,
    /// The reason why it has the name or not. If several rules decided, the first of them.
    pub rule: Rule,
    /// The version or deletion that hides it, if the rule is [`Rule::Replaced`] or [`Rule::Deleted`].
    pub superseded_by: Option<Supersession>,
    /// Contents that the candidate which ranks first replaces, the newest first.
    pub replaces: Vec<ContentHash>,
}

/// The version that replaces another, or the deletion of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supersession {
    /// Author of the version or of the deletion.
    pub author: NodeId,
    /// Version time, or time of the deletion.
    pub time: Timestamp,
    /// The content of the replacing version. `None` for a deletion.
    pub hash: Option<ContentHash>,
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
        let rows = here.candidates(self.name);
        let rows = rows.filter(|row| matches!(row.class, Class::File | Class::Symlink));
        let rows: Vec<Row> = rows.cloned().collect();
        let directory_has_it = here.dirs.contains(&Named(self.name));
        let decided = rules::decide(merged, rows.iter().cloned(), directory_has_it);
        let directory = directory_has_it.then(|| self.directory(decided.is_empty()));
        let versions = decided.iter().filter_map(|it| version(merged, it, &rows));
        directory.flatten().into_iter().chain(versions).collect()
    }

    /// Returns the listed directory of the name as a version.
    fn directory(&self, is_only: bool) -> Option<Version> {
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
            has_name: true,
            rule: if is_only { Rule::Only } else { Rule::Directory },
            superseded_by: None,
            replaces: Vec::new(),
        })
    }
}

/// Returns the version of a file or link. `all` are the rows of its name.
fn version(merged: &Merged, decided: &DecidedVersion, all: &[Row]) -> Option<Version> {
    let row = &decided.row;
    let mut same: Vec<&Row> = all.iter().filter(|r| r.same_content(row)).collect();
    same.sort_by(|a, b| rules::order(merged, a, b));
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
        has_name: decided.has_name,
        rule: decided.rule,
        superseded_by: decided.superseded_by.as_ref().map(|by| Supersession {
            author: *merged.node_of(by),
            time: by.version_time(),
            hash: (by.class == Class::File).then(|| by.hash()),
        }),
        replaces: row.replaced_contents(),
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
