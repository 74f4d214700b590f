//! Queries for a program that writes into the namespace: the versions of a path, and the facts that
//! decide whether a new version or a deletion counts there.

use std::collections::BTreeSet;

use super::dir::Dir;
use super::orders::{Alias, DirRef, Named};
use super::row::{Class, DirId, NO_SHARE, Row};
use super::rules::Replacements;
use super::view::View;
use p2pfs_proto::wire::native::record::{REPLACES_MAX, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// The contents of a path that a new version replaces, or that a deletion deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentsAt {
    /// The contents of all versions and directories at the path, then those that versions replace
    /// and deletions delete, each in descending order of its version time. At most
    /// [`REPLACES_MAX`], each once.
    pub hashes: Vec<ContentHash>,
    /// The latest time of the versions, directories and deletions at the path, except those that
    /// are dated ahead of the clock. 1970 if there are none. A later version is superseded by none
    /// of them.
    pub newest: Timestamp,
}

/// The facts that decide whether a new version of a path, or a deletion, counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether another node owns the path.
    pub owned_elsewhere: bool,
    /// Whether another node has a version that is listed under some name, or a directory, in a
    /// share that is not open or that has readers.
    pub closed: bool,
    /// Whether another node has a version that is listed under some name, or a directory.
    pub others: bool,
    /// Whether one of these is in a share with readers.
    pub for_readers: bool,
}

/// The version under a conflict name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictName {
    /// The path that the version lost.
    pub path: SharedPath,
    /// The content of the version ([`Kind::content`]).
    ///
    /// [`Kind::content`]: p2pfs_proto::wire::native::record::Kind::content
    pub hash: ContentHash,
    /// Whether this node has the version in one of its shares, under the lost path.
    pub is_own: bool,
}

/// A file of this node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    /// The share.
    pub share: ShareIndex,
    /// The path in the namespace.
    pub path: SharedPath,
    /// The content.
    pub hash: ContentHash,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Time by which the version is ranked.
    pub version_time: Timestamp,
    /// Contents that the version replaces.
    pub replaces: Vec<ContentHash>,
}

impl View {
    /// Returns the contents that a new version of a path replaces.
    pub fn contents_at(&self, path: &SharedPath) -> ContentsAt {
        let Some((_, here, name)) = self.known_place(path) else {
            return ContentsAt::default();
        };
        let objects = here.candidates(name).filter(|row| row.is_named_object());
        let mut objects: Vec<&Row> = objects.collect();
        let mut all: Vec<&Row> = objects.iter().copied().chain(here.gone_at(name)).collect();
        let newest_first = |rows: &mut Vec<&Row>| {
            rows.sort_by_key(|row| {
                let author = self.merged.node_of(row);
                (std::cmp::Reverse(row.version_time()), author, row.share)
            });
        };
        newest_first(&mut objects);
        newest_first(&mut all);
        let named = all.iter().flat_map(|row| row.replaces());
        let contents = objects.iter().filter_map(|row| row.content());
        let mut hashes: Vec<ContentHash> = Vec::new();
        for hash in contents.chain(named.copied().map(ContentHash::new)) {
            if hashes.len() < REPLACES_MAX && !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        let past = all.iter().filter(|row| !self.merged.is_ahead(row));
        let newest = past.map(|row| row.version_time()).max();
        ContentsAt {
            hashes,
            newest: newest.unwrap_or_default(),
        }
    }

    /// Returns the facts that decide whether a new version of a path, or a deletion, counts.
    pub fn standing(&self, path: &SharedPath) -> Standing {
        let state = &self.merged;
        let me = state.node(state.me).id;
        let owner = state.owners.owner_of(path);
        let mut standing = Standing {
            owned_elsewhere: owner.is_some_and(|owner| owner != me),
            ..Standing::default()
        };
        let Some((_, here, name)) = self.known_place(path) else {
            return standing;
        };
        let versions = here.candidates(name).filter(|row| state.is_listable(row));
        let versions: Vec<&Row> = versions.collect();
        let replacements = Replacements::of(state, &versions);
        let versions = versions.into_iter();
        let versions = versions.filter(|row| replacements.of_row(row).is_none());
        let directories = here
            .candidates(name)
            .filter(|row| state.lists_directory(row));
        for row in versions
            .chain(directories)
            .filter(|row| row.author != state.me)
        {
            standing.others = true;
            standing.for_readers |= row.share.is_sealed();
            standing.closed |= row.share.is_sealed() || !state.is_open(row);
        }
        standing
    }

    /// Returns the version that is listed under a conflict name, or `None` if the path is not one.
    pub fn behind_conflict_name(&self, path: &SharedPath) -> Option<ConflictName> {
        let (dir, here, name) = self.known_place(path)?;
        let row = here.aliases.get(&Named(name))?.row();
        let me = self.merged.me;
        let mut same = here.candidates(row.name());
        Some(ConflictName {
            path: self.merged.path_of(dir, row.name()),
            hash: row.content()?,
            is_own: same.any(|it| it.author == me && it.same_content(row)),
        })
    }

    /// Returns the file that this node shares under a path, whether or not it has the name. If
    /// several shares have one, returns the newest version.
    pub fn own_file(&self, path: &SharedPath) -> Option<OwnFile> {
        let (_, here, name) = self.known_place(path)?;
        let own = here
            .candidates(name)
            .filter(|row| row.author == self.merged.me);
        let files = own.filter(|row| row.class == Class::File);
        let row = files.max_by_key(|row| (row.version_time(), std::cmp::Reverse(row.share)))?;
        let (share, path) = self.place_of(row);
        Some(OwnFile {
            share,
            path,
            hash: row.hash(),
            size_bytes: row.size_bytes(),
            mtime: row.mtime(),
            version_time: row.version_time(),
            replaces: row.replaced_contents(),
        })
    }

    /// Returns whether this node shares an object under a path, whether or not it is listed.
    pub fn has_own(&self, path: &SharedPath) -> bool {
        self.own_rows(path).next().is_some()
    }

    /// Returns whether this node shares an object with this mtime under a path, whether or not it is
    /// listed.
    pub fn has_own_of(&self, path: &SharedPath, mtime: Timestamp) -> bool {
        self.own_rows(path).any(|row| row.mtime() == mtime)
    }

    /// Returns whether this node shares a directory under a path with a later version time than this,
    /// whether or not it is listed.
    pub fn has_own_directory_after(&self, path: &SharedPath, time: Timestamp) -> bool {
        let mut rows = self.own_rows(path);
        rows.any(|row| row.class == Class::Directory && row.version_time() > time)
    }

    fn own_rows<'a>(&'a self, path: &'a SharedPath) -> impl Iterator<Item = &'a Row> {
        let place = self.known_place(path).into_iter();
        let rows = place.flat_map(|(_, here, name)| here.candidates(name));
        rows.filter(|row| row.author == self.merged.me && row.is_named_object())
    }

    /// Returns the contents of the versions of a path that are listed under conflict names.
    pub fn contents_beside(&self, path: &SharedPath) -> Vec<ContentHash> {
        let Some((_, here, name)) = self.known_place(path) else {
            return Vec::new();
        };
        let beside = here.aliases.iter().map(Alias::row);
        let beside = beside.filter(|row| row.name() == name);
        beside.filter_map(Row::content).collect()
    }

    /// Returns whether this node's log has a deletion of a content at a path.
    pub fn deletes(&self, path: &SharedPath, content: &ContentHash) -> bool {
        let Some((_, here, name)) = self.known_place(path) else {
            return false;
        };
        let own = here.row_of(name, self.merged.me, NO_SHARE);
        own.is_some_and(|own| own.replaces().contains(content.as_bytes()))
    }

    /// Returns the paths at and below a path with files or links that any log has and that do not
    /// have their names. Its cost grows with the number of such versions and of directories.
    pub fn unlisted_at_and_below(&self, path: &SharedPath) -> BTreeSet<SharedPath> {
        let mut paths = BTreeSet::new();
        let is_object = |row: &&Row| matches!(row.class, Class::File | Class::Symlink);
        if let Some((_, here, name)) = self.known_place(path) {
            let mut unlisted = here.rest.iter().map(|row| &row.0).filter(is_object);
            if unlisted.any(|row| row.name() == name) {
                paths.insert(path.clone());
            }
        }
        let mut waiting: Vec<_> = self.merged.find_dir(path).into_iter().collect();
        while let Some(id) = waiting.pop() {
            let dir = self.merged.dir(id);
            let unlisted = dir.rest.iter().map(|row| &row.0).filter(is_object);
            paths.extend(unlisted.map(|row| self.merged.path_of(id, row.name())));
            waiting.extend(dir.all_dirs().map(DirRef::id));
        }
        paths
    }

    /// Returns whether a path is a listed directory of one share of this node, in which neither
    /// another node nor another share has a name or directory. Its cost grows with the number of
    /// names.
    pub fn is_only_of(&self, path: &SharedPath, share: ShareIndex) -> bool {
        let Some(top) = path.parent().and_then(|above| self.listed_dir(&above)) else {
            return false;
        };
        let top = self.merged.dir(top).dirs.get(&Named(path.file_name()));
        let mut waiting: Vec<_> = top.map(DirRef::id).into_iter().collect();
        let is_own = |row: &Row| row.author == self.merged.me;
        let is_of_share = |row: &Row| self.merged.share_of(row) == share;
        let has_other_share = self.own_rows(path).any(|row| !is_of_share(row));
        if waiting.is_empty() || has_other_share || self.standing(path).others {
            return false;
        }
        while let Some(id) = waiting.pop() {
            let dir = self.merged.dir(id);
            let mut listed = dir.listed.iter().map(|row| &row.0);
            if listed.any(|row| !is_own(row) || !is_of_share(row)) {
                return false;
            }
            let mut rest = dir.rest.iter().map(|row| &row.0);
            if rest.any(|row| is_own(row) && row.is_named_object() && !is_of_share(row)) {
                return false;
            }
            let names = dir.rest.iter().map(|row| row.0.name());
            let mut names = names.map(|name| self.merged.path_of(id, name));
            if names.any(|path| self.standing(&path).others) {
                return false;
            }
            waiting.extend(dir.dirs.iter().map(DirRef::id));
        }
        true
    }

    /// Returns the directory around a path if any log has it, and the name in it.
    fn known_place<'a>(&'a self, path: &'a SharedPath) -> Option<(DirId, &'a Dir, &'a [u8])> {
        let dir = self.merged.find_dir(&path.parent()?)?;
        Some((dir, self.merged.dir(dir), path.file_name()))
    }
}
