//! Compares the merge with a merge from scratch, for random logs, deliveries and departures.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::worlds::{CONTENTS, NAMES, NODES, Said, World, node_id, owners, steps};
use super::*;
use crate::{Owners, Rule, Totals, Version, conflict_name};

struct Model<'a> {
    said: &'a [Said],
    live: &'a BTreeSet<usize>,
    owners: &'a Owners,
    unserved: &'a BTreeSet<ContentKey>,
}

type Candidate<'a> = (usize, ShareIndex, &'a Entry);
/// Kind, mtime and author of each path.
type Listing = BTreeMap<SharedPath, (Kind, Timestamp, Option<NodeId>)>;

impl<'a> Model<'a> {
    fn all(&self) -> impl Iterator<Item = (&'a SharedPath, Candidate<'a>)> {
        self.said.iter().enumerate().flat_map(|(author, said)| {
            said.entries
                .iter()
                .map(move |((share, path), entry)| (path, (author, *share, entry)))
        })
    }

    fn holders(&self, hash: &ContentHash) -> BTreeSet<NodeId> {
        let has = |author: &&usize| {
            let said = &self.said[**author];
            said.haves.contains_key(hash)
                || said
                    .entries
                    .values()
                    .any(|entry| file_hash(entry) == Some(*hash))
        };
        self.live
            .iter()
            .filter(has)
            .map(|author| node_id(*author))
            .collect()
    }

    fn owner_of(&self, path: &SharedPath) -> Option<NodeId> {
        let mut above = std::iter::successors(Some(path.clone()), SharedPath::parent);
        above.find_map(|path| self.owners.get(&path).copied())
    }

    /// Returns whether a path has no owner or belongs to this author.
    fn may_have(&self, author: usize, path: &SharedPath) -> bool {
        let owner = self.owner_of(path);
        owner.is_none_or(|owner| owner == node_id(author))
    }

    /// Returns whether an entry's author may have a path. A link also needs that no other node owns
    /// a path below it.
    fn may_have_as(&self, author: usize, entry: &Entry, path: &SharedPath) -> bool {
        let is_link = matches!(entry.kind, Kind::Symlink { .. });
        let mut below = self
            .owners
            .iter()
            .filter(|(owned, _)| owned.is_beneath(path));
        let is_free = !is_link || below.all(|(_, owner)| *owner == node_id(author));
        is_free && self.may_have(author, path)
    }

    /// Returns whether replacements and deletions of an author count against a candidate.
    fn admits(&self, (author, share, _): &Candidate<'_>, by: usize) -> bool {
        *author == by || self.said[*author].open.contains(share)
    }

    fn is_deleted(&self, path: &SharedPath, candidate: &Candidate<'_>) -> bool {
        let entry = candidate.2;
        let deletes = |(by, said): (usize, &Said)| {
            let gone = said.gone.get(path);
            gone.is_some_and(|(contents, at)| {
                contents.contains(&entry.kind.content()) && entry.version_time <= *at
            }) && self.admits(candidate, by)
                && self.may_have(by, path)
        };
        self.said.iter().enumerate().any(deletes)
    }

    /// Returns whether a version is replaced by one of the versions of its path.
    fn is_replaced(&self, candidate: &Candidate<'_>, all: &[Candidate<'_>]) -> bool {
        let old = candidate.2;
        all.iter().any(|by| {
            let new = by.2;
            let is_later = match new.version_time.cmp(&old.version_time) {
                std::cmp::Ordering::Equal => {
                    old.replaces.is_empty() || content_key(new) < content_key(old)
                }
                order => order.is_gt(),
            };
            let content = old.kind.content();
            is_later
                && new.kind.content() != content
                && new.replaces.contains(&content)
                && self.admits(candidate, by.0)
                && !self.is_unserved(new)
        })
    }

    fn is_unserved(&self, entry: &Entry) -> bool {
        let is_unserved = |hash| self.unserved.iter().any(|it| it.hash == hash);
        file_hash(entry).is_some_and(is_unserved)
    }

    fn lists_directory(&self, path: &SharedPath, candidate: &Candidate<'_>) -> bool {
        let (author, _, entry) = candidate;
        entry.kind == Kind::Directory
            && self.live.contains(author)
            && self.may_have(*author, path)
            && !self.is_deleted(path, candidate)
    }

    fn is_givable(&self, path: &SharedPath, candidate: &Candidate<'_>) -> bool {
        let (author, _, entry) = candidate;
        if !self.may_have_as(*author, entry, path) || self.is_deleted(path, candidate) {
            return false;
        }
        match &entry.kind {
            Kind::File { hash, .. } => !self.holders(hash).is_empty(),
            Kind::Symlink { .. } => self.live.contains(author),
            Kind::Directory => false,
        }
    }

    fn directories(&self) -> BTreeSet<SharedPath> {
        let mut dirs = BTreeSet::from([SharedPath::root()]);
        for (path, candidate) in self.all() {
            let explicit = self.lists_directory(path, &candidate);
            if explicit {
                dirs.insert(path.clone());
            }
            if explicit || self.is_givable(path, &candidate) {
                let mut at = path.parent();
                while let Some(dir) = at {
                    at = dir.parent();
                    dirs.insert(dir);
                }
            }
        }
        dirs
    }

    /// Returns the versions of each path that a live node can give and that are neither deleted nor
    /// replaced, the best first.
    fn versions(&self) -> BTreeMap<&'a SharedPath, Vec<Candidate<'a>>> {
        let mut versions: BTreeMap<&SharedPath, Vec<Candidate<'_>>> = BTreeMap::new();
        for (path, candidate) in self.all().filter(|(p, c)| self.is_givable(p, c)) {
            versions.entry(path).or_default().push(candidate);
        }
        for candidates in versions.values_mut() {
            let all = candidates.clone();
            candidates.retain(|candidate| !self.is_replaced(candidate, &all));
            candidates.sort_by_key(|(author, share, entry)| {
                let time = std::cmp::Reverse(entry.version_time);
                let gone = !self.live.contains(author);
                (
                    self.is_unserved(entry),
                    gone,
                    time,
                    content_key(entry),
                    node_id(*author),
                    *share,
                )
            });
            let mut seen = Vec::new();
            candidates.retain(|(_, _, entry)| {
                let new = !seen.contains(&content_key(entry));
                seen.push(content_key(entry));
                new
            });
        }
        versions
    }

    fn label(&self, author: usize) -> String {
        match NAMES.iter().filter(|name| **name == NAMES[author]).count() {
            1 => NAMES[author].to_owned(),
            _ => format!("{}-{}", NAMES[author], node_id(author).short(4)),
        }
    }

    /// Returns everything below the root, and the root's own time.
    fn listing(&self) -> (Listing, Totals, Timestamp) {
        let dirs = self.directories();
        let mut listing = Listing::new();
        let mut lost: Vec<(&SharedPath, Candidate<'_>)> = Vec::new();
        let mut changed: BTreeMap<SharedPath, Timestamp> = BTreeMap::new();
        for (path, versions) in self.versions() {
            let mut versions = versions.into_iter();
            if !dirs.contains(path) {
                let (author, _, entry) = versions.next().unwrap();
                let shown = (entry.kind.clone(), entry.mtime, Some(node_id(author)));
                listing.insert(path.clone(), shown);
                changed.insert(path.clone(), entry.version_time);
            }
            lost.extend(versions.map(|version| (path, version)));
        }
        let root_time = self.directory_time(&SharedPath::root(), &changed, &dirs);
        for dir in &dirs {
            let mtime = self.directory_time(dir, &changed, &dirs);
            if !dir.is_root() {
                listing.insert(dir.clone(), (Kind::Directory, mtime, None));
            }
        }
        let totals = Totals {
            entries: listing.len() as u64,
            unique_bytes: self.unique_bytes(),
        };
        for (path, (author, _, entry)) in lost {
            let label = self.label(author);
            let by_key = format!("{label}-{}", node_id(author).short(8));
            let free = [label, by_key]
                .iter()
                .filter_map(|label| conflict_name(path.file_name(), label))
                .map(|name| path.parent().unwrap().join(&name).unwrap())
                .find(|path| !listing.contains_key(path) && self.may_have_as(author, entry, path));
            if let Some(path) = free {
                listing.insert(
                    path,
                    (entry.kind.clone(), entry.mtime, Some(node_id(author))),
                );
            }
        }
        (listing, totals, root_time)
    }

    /// Returns the time of a directory's newest record, or of a later change in it. Without either,
    /// returns the newest time of its subdirectories.
    fn directory_time(
        &self,
        dir: &SharedPath,
        changed: &BTreeMap<SharedPath, Timestamp>,
        dirs: &BTreeSet<SharedPath>,
    ) -> Timestamp {
        let is_record = |(path, candidate): &(&SharedPath, Candidate<'_>)| {
            self.lists_directory(path, candidate)
        };
        let records = || self.all().filter(is_record);
        let is_within = |path: &SharedPath| path.parent().as_ref() == Some(dir);
        let below = records().filter(|(path, _)| is_within(path));
        let below = below.map(|(_, (_, _, entry))| entry.version_time);
        let files = changed.iter().filter(|(path, _)| is_within(path));
        let inside = below.chain(files.map(|(_, version)| *version)).max();
        let own = records().filter(|(path, _)| *path == dir);
        let own = own.map(|(_, (_, _, entry))| (entry.version_time, entry.mtime));
        match (own.max(), inside) {
            (Some((version, mtime)), inside) if Some(version) >= inside => mtime,
            (_, Some(inside)) => inside,
            (_, None) => {
                let below = dirs.iter().filter(|path| is_within(path));
                let times = below.map(|path| self.directory_time(path, changed, dirs));
                times.max().unwrap_or_default()
            }
        }
    }

    fn unique_bytes(&self) -> u64 {
        let mut sizes = BTreeMap::new();
        for (_, (_, _, entry)) in self.all() {
            let Kind::File {
                hash, size_bytes, ..
            } = &entry.kind
            else {
                continue;
            };
            if !self.holders(hash).is_empty() {
                sizes.insert(*hash, *size_bytes);
            }
        }
        sizes.values().sum()
    }
}

fn file_hash(entry: &Entry) -> Option<ContentHash> {
    match &entry.kind {
        Kind::File { hash, .. } => Some(*hash),
        _ => None,
    }
}

fn content_key(entry: &Entry) -> (bool, Option<ContentHash>, Vec<u8>) {
    match &entry.kind {
        Kind::Symlink { target } => (true, None, target.to_vec()),
        _ => (false, file_hash(entry), Vec::new()),
    }
}

fn plain(view: &View) -> Listing {
    let listed = listing(view).into_iter().map(|(name, found)| {
        let author = (found.kind != Kind::Directory).then_some(found.author);
        (path(&name), (found.kind, found.mtime, author))
    });
    listed.collect()
}

fn check(view: &View, model: &Model<'_>) {
    let (expected, totals, root_time) = model.listing();
    assert_eq!(plain(view), expected);
    assert_eq!(view.totals(), totals);
    let root = view.lookup(&SharedPath::root()).unwrap();
    assert_eq!(root.mtime, root_time);
    for content in CONTENTS {
        let holders: BTreeSet<NodeId> = view
            .contents()
            .holders(&hash(content))
            .into_iter()
            .collect();
        assert_eq!(holders, model.holders(&hash(content)));
    }
    for (path, versions) in model.versions() {
        let known = view.versions(path);
        let unlisted = [Rule::Owner, Rule::Givable, Rule::Deleted, Rule::Replaced];
        let is_listable = |it: &&Version| it.has_name || !unlisted.contains(&it.rule);
        let listable = known.iter().filter(is_listable);
        let listable = listable.filter(|it| it.kind != Kind::Directory);
        let kinds: Vec<Kind> = listable.map(|it| it.kind.clone()).collect();
        let expected = versions.iter().map(|(_, _, entry)| entry.kind.clone());
        assert_eq!(kinds, expected.collect::<Vec<_>>(), "{path:?}: {known:?}");
    }
}

proptest! {
    #[test]
    fn any_order_of_facts_and_deaths_equals_the_merge_from_scratch(
        steps in proptest::collection::vec(steps(), 1..60),
        live in proptest::collection::btree_set(0..NODES, 0..=NODES),
        owners in owners(),
        unserved in proptest::option::of(0..CONTENTS.len()),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.settle(&live, &owners);
        let unserved: BTreeSet<ContentKey> = unserved.map(|nth| key(CONTENTS[nth])).into_iter().collect();
        world.mark_unserved(&unserved);
        let model = Model { said: &world.said, live: &live, owners: &owners, unserved: &unserved };
        let views = world.observers.each_mut().map(|observer| observer.catalogue.view());
        views.iter().for_each(|view| check(view, &model));
        prop_assert_eq!(plain(&views[0]), plain(&views[1]));
        for (path, (kind, _, author)) in plain(&views[0]) {
            let owner = model.owner_of(&path).filter(|_| kind != Kind::Directory);
            prop_assert!(owner.is_none() || owner == author, "{path} is another's");
        }
    }

    #[test]
    fn forgetting_every_node_leaves_nothing_behind(
        steps in proptest::collection::vec(steps(), 1..40),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.settle(&(0..NODES).collect(), &Owners::new());
        let [observer, _] = &mut world.observers;
        (0..NODES).for_each(|author| observer.catalogue.forget(&node_id(author)));
        while observer.catalogue.advance(5) {}
        let state = &observer.catalogue.logs.merge.state();
        prop_assert_eq!(state.dirs.iter().flatten().count(), 1, "only the root is left");
        prop_assert!(state.contents.rows.is_empty());
        prop_assert!(state.terms.is_empty());
        prop_assert_eq!(state.totals, Totals::default());
        prop_assert_eq!(state.known().count(), 1);
        prop_assert!(names(&observer.catalogue.view()).is_empty());
    }
}
