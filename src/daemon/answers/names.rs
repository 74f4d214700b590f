//! Answers about names: listings, and why a name shows what it shows.

use super::legacy::older_entry;
use super::{Service, calendar_time};
use crate::catalogue::{Found, Rule, Version, View};
use crate::daemon::control::{
    EntryKind, Failure, FailureKind, LS_PAGE_MAX_ENTRIES, Listing, LsEntry, Named, Plane,
    Provenance, VersionInfo,
};
use crate::digest::ContentHash;
use crate::id::NodeId;
use crate::path::SharedPath;
use crate::share::ShareStatus;
use crate::wire::native::record::Kind;

/// The path that a user named, as in the mount; a slash at either end is forgiven.
pub(super) fn shared_path(named: &Named) -> Result<SharedPath, Failure> {
    let mut bytes = named.as_bytes();
    while let [b'/', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b'/'] = bytes {
        bytes = rest;
    }
    SharedPath::new(bytes).map_err(|error| {
        let message = format!("{}: {error}", named.as_bytes().escape_ascii());
        Failure::new(FailureKind::Invalid, message)
            .with_remedy("name a path as p2pfs ls shows it, from the root of the mount")
    })
}

pub(super) fn not_found(path: &SharedPath) -> Failure {
    let message = format!(
        "{}: no node shares such a name",
        path.as_bytes().escape_ascii()
    );
    Failure::new(FailureKind::NotFound, message).with_remedy("p2pfs ls shows what there is")
}

impl Service {
    pub(super) fn list(&self, named: &Named, after: Option<&Named>) -> Result<Listing, Failure> {
        let path = shared_path(named)?;
        let view = self.node.view();
        let Some(found) = view.lookup(&path) else {
            let older = self
                .older_file(&path)
                .ok_or_else(|| self.not_listed(&path))?;
            return Ok(Listing {
                entries: vec![older_entry(&older)],
                ..Listing::default()
            });
        };
        if !matches!(found.kind, Kind::Directory) {
            return Ok(Listing {
                entries: vec![self.ls_entry(&path, &found)],
                ..Listing::default()
            });
        }
        let after = after.map(shared_path).transpose()?;
        let after_name = after.as_ref().map(SharedPath::file_name);
        let children = view.children(&path, after_name, LS_PAGE_MAX_ENTRIES);
        let mut more = children.len() == LS_PAGE_MAX_ENTRIES;
        let entry = |child: crate::catalogue::Child| {
            let path = path.join(&child.name).ok()?;
            Some(self.ls_entry(&path, &child.found))
        };
        let mut entries: Vec<LsEntry> = children.into_iter().filter_map(entry).collect();
        if path.is_root() {
            let last = entries
                .last()
                .filter(|_| more)
                .map(|last| last.path.clone());
            let is_here = |older: &LsEntry| {
                let name = older.path.as_bytes();
                after_name.is_none_or(|after| name > after)
                    && last.as_ref().is_none_or(|last| name < last.as_bytes())
            };
            entries.extend(self.older_entries(&view).into_iter().filter(is_here));
            entries.sort_by(|one, other| one.path.as_bytes().cmp(other.path.as_bytes()));
            more |= entries.len() > LS_PAGE_MAX_ENTRIES;
            entries.truncate(LS_PAGE_MAX_ENTRIES);
        }
        let being_read = match after_name {
            None => self.being_read_in(&path, &view),
            Some(_) => Vec::new(),
        };
        Ok(Listing {
            entries,
            being_read,
            more,
        })
    }

    fn being_read_in(&self, directory: &SharedPath, view: &View) -> Vec<Named> {
        let unread = self.node.shares().unread_in(directory).into_iter();
        let unlisted = unread.filter(|path| view.lookup(path).is_none());
        unlisted.map(|path| Named::new(path.as_bytes())).collect()
    }

    /// Whether a name that is not listed is there in a share of this node, to be listed soon.
    fn is_being_read(&self, path: &SharedPath) -> bool {
        let shares = self.node.shares();
        let is_there = |share: ShareStatus| shares.stat(share.index, path).is_ok();
        !path.is_root() && shares.list().into_iter().any(is_there)
    }

    /// Why there is no such name.
    pub(super) fn not_listed(&self, path: &SharedPath) -> Failure {
        if !self.is_being_read(path) {
            return not_found(path);
        }
        let message = format!(
            "{} is being read: this node lists it once it is hashed",
            path.as_bytes().escape_ascii()
        );
        Failure::new(FailureKind::NotFound, message)
            .with_remedy("p2pfs wait --file waits for it, p2pfs share tells how much is left")
    }

    fn ls_entry(&self, path: &SharedPath, found: &Found) -> LsEntry {
        let (kind, size_bytes, executable, hash) = match &found.kind {
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => (EntryKind::File, *size_bytes, *executable, Some(*hash)),
            Kind::Directory => (EntryKind::Directory, 0, false, None),
            Kind::Symlink { target } => (EntryKind::Symlink, target.len() as u64, false, None),
        };
        LsEntry {
            path: Named::new(path.as_bytes()),
            kind,
            size_bytes,
            modified: calendar_time(found.mtime),
            executable,
            hash: hash.map(|hash| hash.to_string()),
            holders: hash
                .map(|hash| self.holder_names(&hash))
                .unwrap_or_default(),
            cached_bytes: hash.map_or(0, |hash| self.node.here_bytes(&hash, size_bytes)),
            pinned: hash.is_some_and(|hash| self.node.is_pinned(&hash)),
            plane: Plane::Native,
        }
    }

    pub(super) fn holder_names(&self, hash: &ContentHash) -> Vec<String> {
        self.names_in_order(&self.node.view().holders(hash))
    }

    fn names_in_order(&self, nodes: &[NodeId]) -> Vec<String> {
        let mut names: Vec<String> = nodes.iter().map(|node| self.name_of(node)).collect();
        names.sort();
        names
    }

    pub(super) fn why(&self, named: &Named) -> Result<Provenance, Failure> {
        let path = shared_path(named)?;
        let view = self.node.view();
        let found = view.lookup(&path);
        let versions = view.versions(&path);
        if found.is_none() && versions.is_empty() {
            if let Some(older) = self.older_file(&path) {
                return Ok(self.older_provenance(&older));
            }
            return match self.is_being_read(&path) {
                true => Ok(unread_provenance(&path)),
                false => Err(not_found(&path)),
            };
        }
        let rule = deciding_rule(&versions);
        Ok(Provenance {
            path: Named::new(path.as_bytes()),
            listed: found.is_some(),
            rule: rule_sentence(rule).to_owned(),
            sent_by: self.sender_of(&path, found.as_ref()),
            next_read: found.map_or_else(
                || "nothing: no live node can give it".to_owned(),
                |found| self.next_read(&found),
            ),
            versions: versions
                .iter()
                .map(|version| self.version_info(version))
                .collect(),
        })
    }

    fn version_info(&self, version: &Version) -> VersionInfo {
        let (kind, hash, size_bytes) = match &version.kind {
            Kind::File {
                hash, size_bytes, ..
            } => (EntryKind::File, Some(*hash), *size_bytes),
            Kind::Directory => (EntryKind::Directory, None, 0),
            Kind::Symlink { target } => (EntryKind::Symlink, None, target.len() as u64),
        };
        let author = version.authors.first().map(|(node, _)| *node);
        VersionInfo {
            shown_as: version
                .listed_as
                .as_ref()
                .map(|path| Named::new(path.as_bytes())),
            won: has_name(version),
            author: author.map(|node| self.name_of(&node)).unwrap_or_default(),
            author_node: author.map(|node| node.to_string()).unwrap_or_default(),
            kind,
            hash: hash.map(|hash| hash.to_string()),
            size_bytes,
            modified: calendar_time(version.mtime),
            version_time: calendar_time(version.version_time),
            holders: self.names_in_order(&version.holders),
            cached_bytes: hash.map_or(0, |hash| self.node.here_bytes(&hash, size_bytes)),
            verified: "blake3".to_owned(),
        }
    }

    fn next_read(&self, found: &Found) -> String {
        let Kind::File {
            hash, size_bytes, ..
        } = &found.kind
        else {
            return "nothing is fetched: it is no file".to_owned();
        };
        if found.own.is_some() || self.node.shares().holds(hash) {
            return "read from this node's own share".to_owned();
        }
        let cached = self.node.here_bytes(hash, *size_bytes);
        if cached >= *size_bytes {
            return "read from the local cache".to_owned();
        }
        let me = self.node.id();
        let holders: Vec<_> = self
            .node
            .view()
            .holders(hash)
            .into_iter()
            .filter(|node| *node != me)
            .collect();
        let rates = self.node.fetcher().peers();
        let known_first = rates
            .iter()
            .map(|rate| rate.node)
            .find(|node| holders.contains(node));
        match known_first.or(holders.first().copied()) {
            Some(first) => format!(
                "fetch {} of {size_bytes} bytes, asking {} first",
                size_bytes - cached,
                self.name_of(&first)
            ),
            None => "ask the cluster who has it: no holder is reachable".to_owned(),
        }
    }
}

/// Of a file that this node shares and has not hashed yet.
fn unread_provenance(path: &SharedPath) -> Provenance {
    Provenance {
        path: Named::new(path.as_bytes()),
        listed: false,
        rule: "being read: this node lists it once it is hashed".to_owned(),
        sent_by: None,
        versions: Vec::new(),
        next_read: "nothing yet: p2pfs wait --file waits for it".to_owned(),
    }
}

/// Whether the plain name shows this version.
fn has_name(version: &Version) -> bool {
    match version.rule {
        Rule::Only | Rule::Newest | Rule::SmallestHash | Rule::AuthorLives => true,
        Rule::DirectoryKeeps => version.kind == Kind::Directory,
        Rule::Older | Rule::LargerHash | Rule::AuthorGone | Rule::Early | Rule::NotGivable => false,
    }
}

/// A directory by itself took its name from no file.
fn deciding_rule(versions: &[Version]) -> Rule {
    let rule = versions.first().map_or(Rule::Only, |version| version.rule);
    let contested = versions.iter().any(|v| v.kind != Kind::Directory);
    match rule {
        Rule::DirectoryKeeps if !contested => Rule::Only,
        rule => rule,
    }
}

fn rule_sentence(rule: Rule) -> &'static str {
    match rule {
        Rule::Only => "there is one version",
        Rule::Newest => "the newest version time wins",
        Rule::SmallestHash => "version times are equal: the smaller hash wins",
        Rule::Older => "another version is newer",
        Rule::LargerHash => "another version is as new and has a smaller hash",
        Rule::DirectoryKeeps => "a directory keeps the name, the file stands beside it",
        Rule::AuthorLives => "its author is live, those of newer versions are gone",
        Rule::AuthorGone => "only caches have it: its author is gone",
        Rule::Early => "its time is ahead of this node's clock: it waits until then",
        Rule::NotGivable => "no live node can give it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_either_end_is_forgiven_and_nothing_else() {
        let path = |text: &str| shared_path(&Named::new(text)).map(|p| p.as_bytes().to_vec());
        assert_eq!(path("/a/b/").unwrap(), b"a/b");
        assert_eq!(path("").unwrap(), b"");
        assert_eq!(path("/").unwrap(), b"");
        assert_eq!(path("a/../b").unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(path(".p2pfs/peers").unwrap_err().kind, FailureKind::Invalid);
    }
}
