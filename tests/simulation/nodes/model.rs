//! The expected namespace: a merge from scratch of all nodes' entries, without the catalogue's
//! optimisations. Also the content of a view in the same form.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use p2pfs_catalogue::{Catalogue, View, conflict_name};
use p2pfs_proto::wire::native::record::{Entry, Fact, Kind, Record, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

use crate::nodes::world::World;

/// The state of one name. A directory has only its kind.
pub(super) type Shown = (Kind, Option<(Timestamp, NodeId)>);
/// All names below the root.
pub(super) type Listing = BTreeMap<SharedPath, Shown>;

/// The entries of one node.
#[derive(Debug, Default)]
struct Said {
    name: String,
    entries: BTreeMap<(ShareIndex, SharedPath), Entry>,
    haves: BTreeSet<ContentHash>,
    /// The deleted contents of each path, and the time of the deletion.
    gone: BTreeMap<SharedPath, (Vec<ContentHash>, Timestamp)>,
    /// The shares in which the replacements and deletions of other nodes count.
    open: BTreeSet<ShareIndex>,
    live: bool,
}

type Saids = BTreeMap<NodeId, Said>;

/// Returns the listing of a view.
pub(super) fn listing(view: &View) -> Listing {
    let mut listing = Listing::new();
    let mut dirs = vec![SharedPath::root()];
    while let Some(dir) = dirs.pop() {
        for child in view.children(&dir, None, usize::MAX) {
            let path = dir.join(&child.name).expect("a listed name is one");
            let found = child.found;
            if found.kind == Kind::Directory {
                dirs.push(path.clone());
                listing.insert(path, (Kind::Directory, None));
            } else {
                let shown = Some((found.mtime, found.author));
                listing.insert(path, (found.kind, shown));
            }
        }
    }
    listing
}

/// Returns the listing that every running node should have: from the shares and caches of running
/// nodes, and from the stored logs of those that are gone.
pub(super) fn expected(world: &World) -> Listing {
    let mut saids = Saids::new();
    for node in world.nodes.iter().filter(|n| n.secret == 1) {
        let said = if let Some(running) = &node.running {
            let complete = node.cache.iter().filter(|(_, c)| c.is_complete());
            Said {
                name: node.name.to_string(),
                entries: node.shares.clone(),
                haves: complete.map(|(hash, _)| *hash).collect(),
                live: true,
                // No share has the deletions, only the log.
                ..told(node.name.to_string(), running.machine.known(), &node.id)
            }
        } else {
            remembered(world, &node.id)
        };
        saids.insert(node.id, said);
    }
    merge(&saids)
}

/// Returns the newest log that any running node holds of a gone node.
fn remembered(world: &World, author: &NodeId) -> Said {
    let catalogues = world.nodes.iter().filter_map(|n| n.running.as_ref());
    let mut said = Said::default();
    let mut newest = (0, 0);
    for running in catalogues {
        let catalogue = running.machine.known();
        let Some(signed) = catalogue.logs().head_of(author) else {
            continue;
        };
        let rank = (signed.head.epoch, signed.head.sequence);
        if rank <= newest {
            continue;
        }
        newest = rank;
        said = told(signed.head.name.to_string(), catalogue, author);
    }
    said
}

/// Returns the log of a node as a catalogue has it.
fn told(name: String, catalogue: &Catalogue, author: &NodeId) -> Said {
    let mut said = Said {
        name,
        ..Said::default()
    };
    for record in records_of(catalogue, author) {
        match record.fact {
            Fact::Entry { share, path, entry } => {
                said.entries.insert((share, path), entry);
            }
            Fact::Have { hash, .. } => drop(said.haves.insert(hash)),
            Fact::Gone {
                path,
                replaces,
                time,
            } => drop(said.gone.insert(path, (replaces, time))),
            Fact::Terms { share, open } => {
                said.open.retain(|it| *it != share);
                said.open.extend(open.then_some(share));
            }
            Fact::Removed { .. } | Fact::HaveNot { .. } => {}
            // These nodes have no restricted shares, and keep no files of others.
            Fact::Readers { .. }
            | Fact::Sealed { .. }
            | Fact::SealedRemoved { .. }
            | Fact::Keeps(_) => {}
        }
    }
    said
}

/// Returns the whole log of a node as another node holds it.
fn records_of(catalogue: &Catalogue, author: &NodeId) -> Vec<Record> {
    let (mut records, mut epoch): (Vec<Record>, u64) = (Vec::new(), 0);
    loop {
        let after = records.last().map_or(0, |record| record.sequence);
        let Some(part) = catalogue.logs().part(author, epoch, after) else {
            return records;
        };
        epoch = part.head.head.epoch;
        records.extend(part.records);
        if part.last {
            return records;
        }
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

fn is_given(saids: &Saids, hash: &ContentHash) -> bool {
    let gives = |said: &Said| {
        let mut hashes = said.entries.values().filter_map(file_hash);
        said.live && (said.haves.contains(hash) || hashes.any(|own| own == *hash))
    };
    saids.values().any(gives)
}

type Candidate<'a> = (&'a NodeId, ShareIndex, &'a Entry);

/// Returns whether the replacements and deletions of a node count in a share of another.
fn admits(saids: &Saids, (author, share): (&NodeId, ShareIndex), by: &NodeId) -> bool {
    author == by || saids[author].open.contains(&share)
}

/// Returns whether a version or directory is deleted.
fn is_deleted(saids: &Saids, path: &SharedPath, (author, share, entry): Candidate<'_>) -> bool {
    saids.iter().any(|(by, said)| {
        said.gone.get(path).is_some_and(|(contents, time)| {
            entry.version_time <= *time
                && contents.contains(&entry.kind.content())
                && admits(saids, (author, share), by)
        })
    })
}

/// Returns whether a version is replaced by one of the versions of its path.
fn is_replaced(saids: &Saids, old: Candidate<'_>, all: &[Candidate<'_>]) -> bool {
    let (author, share, old) = old;
    let content = old.kind.content();
    all.iter().any(|(by, _, new)| {
        let is_first = || old.replaces.is_empty() || content_key(new) < content_key(old);
        let is_later = new.version_time > old.version_time
            || new.version_time == old.version_time && is_first();
        is_later
            && new.replaces.contains(&content)
            && new.kind.content() != content
            && admits(saids, (author, share), by)
    })
}

/// Returns the versions of each name that a live node can give and that are neither deleted nor
/// replaced, best first.
fn versions(saids: &Saids) -> BTreeMap<&SharedPath, Vec<Candidate<'_>>> {
    let mut versions: BTreeMap<&SharedPath, Vec<Candidate<'_>>> = BTreeMap::new();
    for (author, said) in saids {
        for ((share, path), entry) in &said.entries {
            let givable = match &entry.kind {
                Kind::File { hash, .. } => is_given(saids, hash),
                Kind::Symlink { .. } => said.live,
                Kind::Directory => false,
            };
            if givable && !is_deleted(saids, path, (author, *share, entry)) {
                let candidates = versions.entry(path).or_default();
                candidates.push((author, *share, entry));
            }
        }
    }
    for candidates in versions.values_mut() {
        let all = candidates.clone();
        candidates.retain(|candidate| !is_replaced(saids, *candidate, &all));
        candidates.sort_by_key(|(author, share, entry)| {
            (
                !saids[*author].live,
                Reverse(entry.version_time),
                content_key(entry),
                **author,
                *share,
            )
        });
        let mut seen = Vec::new();
        candidates.retain(|(_, _, entry)| {
            let is_new = !seen.contains(&content_key(entry));
            seen.push(content_key(entry));
            is_new
        });
    }
    versions
}

fn merge(saids: &Saids) -> Listing {
    let versions = versions(saids);
    let mut dirs = BTreeSet::new();
    for (author, said) in saids.iter().filter(|(_, said)| said.live) {
        let entries = said.entries.iter();
        let explicit = entries.filter(|(_, entry)| entry.kind == Kind::Directory);
        let explicit = explicit
            .filter(|((share, path), entry)| !is_deleted(saids, path, (author, *share, entry)));
        dirs.extend(explicit.map(|((_, path), _)| path.clone()));
    }
    let named: Vec<SharedPath> = dirs
        .iter()
        .chain(versions.keys().copied())
        .cloned()
        .collect();
    for path in named {
        let mut at = path.parent();
        while let Some(dir) = at.filter(|dir| !dir.is_root()) {
            at = dir.parent();
            dirs.insert(dir);
        }
    }
    let mut listing = Listing::new();
    let mut lost = Vec::new();
    for (path, candidates) in &versions {
        let winners = usize::from(!dirs.contains(path));
        for (author, _, entry) in &candidates[..winners] {
            listing.insert((*path).clone(), shown(author, entry));
        }
        lost.extend(candidates[winners..].iter().map(|lost| (*path, *lost)));
    }
    let all = dirs.into_iter().map(|dir| (dir, (Kind::Directory, None)));
    listing.extend(all);
    for (path, (author, _, entry)) in lost {
        let label = saids[author].name.clone();
        let by_key = format!("{label}-{}", author.short(8));
        let dir = path.parent().expect("a file has a parent");
        let free = [label, by_key]
            .iter()
            .filter_map(|label| conflict_name(path.file_name(), label))
            .filter_map(|name| dir.join(&name).ok())
            .find(|path| !listing.contains_key(path));
        if let Some(path) = free {
            listing.insert(path, shown(author, entry));
        }
    }
    listing
}

fn shown(author: &NodeId, entry: &Entry) -> Shown {
    (entry.kind.clone(), Some((entry.mtime, *author)))
}

/// Returns whether every running member sees every other and lists exactly what it should.
pub(super) fn agrees(world: &World) -> bool {
    if !world.is_met() {
        return false;
    }
    let expected = expected(world);
    let members = world.nodes.iter().filter(|node| node.secret == 1);
    let mut running = members.filter_map(|node| node.running.as_ref());
    running.all(|running| listing(&running.view) == expected)
}

/// Describes the differences when [`agrees`] stays false.
pub(super) fn explain(world: &World) -> String {
    let expected = expected(world);
    let mut text = format!("met: {}\n", world.is_met());
    for node in world.nodes.iter() {
        let Some(running) = &node.running else {
            text += &format!("{} is down\n", node.name);
            continue;
        };
        let listed = listing(&running.view);
        text += &format!(
            "{} {:?} {:?}\n",
            node.name,
            node.id,
            running.machine.counters()
        );
        for (path, shown) in &expected {
            if listed.get(path) != Some(shown) {
                text += &format!("  lacks {path:?} {shown:?}, has {:?}\n", listed.get(path));
            }
        }
        let extra = listed
            .iter()
            .filter(|(path, _)| !expected.contains_key(path));
        extra.for_each(|(path, shown)| text += &format!("  lists {path:?} {shown:?}\n"));
    }
    text
}
