//! What legacy peers are offered: base names, since their protocol knows no folders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Refusals;
use crate::cache::Cache;
use crate::catalogue::{Change, Found, View};
use crate::fs::{FileVersion, FsError};
use crate::id::NodeId;
use crate::path::SharedPath;
use crate::share::ShareSet;
use crate::wire::legacy::{Name, SIZE_MAX_BYTES};
use crate::wire::native::record::{Kind, ShareIndex};

/// Paths that are known by their base names; what is beyond is not offered.
const INDEXED_MAX: usize = 1_000_000;
/// Paths of one base name that are looked at for one answer.
const SAME_NAME_MAX: usize = 64;
/// Names read from a directory at a time.
const CHILDREN_BATCH: usize = 4096;
/// How old the list of shares may be: adding one is seen by legacy peers a second later.
const SHARES_AGE: Duration = Duration::from_secs(1);

/// Base names and the paths that have them, the shallowest first, then by path.
#[derive(Default)]
struct Index {
    paths: BTreeMap<Name, BTreeSet<(usize, SharedPath)>>,
    count: usize,
}

/// What can be given, as the namespace, the shares and the cache are now.
pub(super) struct Offered {
    me: NodeId,
    bridge: bool,
    view: Arc<ArcSwap<View>>,
    addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    shares: ShareSet,
    cache: Cache,
    refusals: Refusals,
    index: Mutex<Index>,
    legacy_shares: Mutex<Option<(Instant, Vec<ShareIndex>)>>,
}

/// What a [`Offered`] looks at.
pub(in crate::node) struct Sources {
    pub(in crate::node) me: NodeId,
    pub(in crate::node) bridge: bool,
    pub(in crate::node) view: Arc<ArcSwap<View>>,
    pub(in crate::node) addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    pub(in crate::node) shares: ShareSet,
    pub(in crate::node) cache: Cache,
}

impl Offered {
    pub(super) fn new(sources: Sources, refusals: Refusals) -> Self {
        Self {
            me: sources.me,
            bridge: sources.bridge,
            view: sources.view,
            addresses: sources.addresses,
            shares: sources.shares,
            cache: sources.cache,
            refusals,
            index: Mutex::default(),
            legacy_shares: Mutex::default(),
        }
    }

    /// Takes note of names that came, went or changed.
    pub(super) fn note(&self, changes: &[Change]) {
        if changes.contains(&Change::Everything) {
            return self.index_all();
        }
        let view = self.view.load();
        let label = view.label(&self.me);
        let mut index = self.index.lock();
        for change in changes {
            let Change::Entry(path) = change else {
                continue;
            };
            let own = label.as_ref().and_then(|me| view.peer_lookup(me, path));
            let is_file = |found: &Found| matches!(found.kind, Kind::File { .. });
            let here =
                view.lookup(path).is_some_and(|f| is_file(&f)) || own.as_ref().is_some_and(is_file);
            index.set(path, here);
        }
    }

    /// Makes the index anew; takes as long as the namespace is large.
    pub(super) fn index_all(&self) {
        let view = self.view.load_full();
        let mut index = Index::default();
        let mut folders = vec![SharedPath::root()];
        while let Some(folder) = folders.pop() {
            let mut after: Option<Box<[u8]>> = None;
            loop {
                let children = view.children(&folder, after.as_deref(), CHILDREN_BATCH);
                after = children.last().map(|last| last.name.clone());
                for child in &children {
                    let Ok(path) = folder.join(&child.name) else {
                        continue;
                    };
                    match child.found.kind {
                        Kind::Directory => folders.push(path),
                        Kind::File { .. } => {
                            self.tell_if_refused(&path, &child.found);
                            index.set(&path, true);
                        }
                        Kind::Symlink { .. } => {}
                    }
                }
                if children.len() < CHILDREN_BATCH {
                    break;
                }
            }
        }
        *self.index.lock() = index;
    }

    /// The file that a legacy peer gets for a name, if it could be delivered now: one of our own
    /// before others', the shallowest, then the first by path.
    pub(super) fn find(&self, name: &Name) -> Option<FileVersion> {
        let paths = self.paths(name);
        if paths.is_empty() {
            return None;
        }
        let view = self.view.load();
        let label = view.label(&self.me);
        let shares = self.legacy_shares();
        let own = paths
            .iter()
            .filter_map(|path| Some((path, view.peer_lookup(label.as_ref()?, path)?)));
        let mut own = own.filter_map(|(path, found)| self.own(path, &found, &shares));
        let others = || {
            let found = paths
                .iter()
                .filter_map(|path| Some((path, view.lookup(path)?)));
            let mut good = found.filter_map(|(path, found)| self.others(path, &found, &view));
            good.next()
        };
        own.next().or_else(others)
    }

    fn paths(&self, name: &Name) -> Vec<SharedPath> {
        let index = self.index.lock();
        let paths = index.paths.get(name).into_iter().flatten();
        paths
            .take(SAME_NAME_MAX)
            .map(|(_, path)| path.clone())
            .collect()
    }

    fn own(&self, path: &SharedPath, found: &Found, shares: &[ShareIndex]) -> Option<FileVersion> {
        let (share, _) = found.own.as_ref()?;
        let file = self.carried(path, found)?;
        // a share for some nodes alone is none for legacy peers, whatever it says
        let is_offered = shares.contains(share) && self.shares.source(&file.hash).is_ok();
        is_offered.then_some(file)
    }

    /// A file of another node, over the bridge alone, where that is allowed: from our cache where
    /// it is complete there, else from somebody alive who has it. That it lies in the cache says
    /// nothing about what its owner lets legacy peers have.
    fn others(&self, path: &SharedPath, found: &Found, view: &View) -> Option<FileVersion> {
        if !self.bridge || found.own.is_some() || found.author == self.me {
            return None;
        }
        let file = self.carried(path, found)?;
        if view.is_private(&file.hash) {
            return None;
        }
        if self.cache.is_complete(&file.hash) {
            return Some(file);
        }
        let addresses = self.addresses.load();
        let is_there = |node: &NodeId| *node != self.me && addresses.contains_key(node);
        let holders = view.holders(&file.hash);
        holders.iter().any(is_there).then_some(file)
    }

    /// The version, where its size is one that the protocol can say.
    fn carried(&self, path: &SharedPath, found: &Found) -> Option<FileVersion> {
        let file = FileVersion::found(path, found)?;
        if file.size_bytes > SIZE_MAX_BYTES {
            self.refusals.too_large(path, file.size_bytes);
            return None;
        }
        // also of an own file, its verified bytes are read and not the file itself
        Some(FileVersion { own: None, ..file })
    }

    fn legacy_shares(&self) -> Vec<ShareIndex> {
        let mut known = self.legacy_shares.lock();
        if let Some((at, shares)) = &*known
            && at.elapsed() < SHARES_AGE
        {
            return shares.clone();
        }
        let all = self.shares.list();
        let legacy = all
            .iter()
            .filter(|share| share.legacy && share.readers.is_none());
        let shares: Vec<ShareIndex> = legacy.map(|share| share.index).collect();
        *known = Some((Instant::now(), shares.clone()));
        shares
    }

    /// Says which files of our own legacy peers cannot be given.
    pub(super) fn tell_refused(&self, changes: &[Change]) {
        let view = self.view.load();
        let Some(label) = view.label(&self.me) else {
            return;
        };
        for change in changes {
            if let Change::Entry(path) = change
                && let Some(found) = view.peer_lookup(&label, path)
            {
                self.tell_if_refused(path, &found);
            }
        }
    }

    /// Says that a legacy peer did not get the whole of a file, through no fault of its own.
    pub(super) fn tell_unfinished(&self, path: &SharedPath, why: FsError) {
        self.refusals.unfinished(path, why);
    }

    fn tell_if_refused(&self, path: &SharedPath, found: &Found) {
        let (Kind::File { size_bytes, .. }, Some((share, _))) = (&found.kind, &found.own) else {
            return;
        };
        let name = Name::new(path.file_name());
        if (name.is_ok() && *size_bytes <= SIZE_MAX_BYTES) || !self.legacy_shares().contains(share)
        {
            return;
        }
        match name {
            Err(why) => self.refusals.not_given(path, why),
            Ok(_) => self.refusals.too_large(path, *size_bytes),
        }
    }
}

impl Index {
    fn set(&mut self, path: &SharedPath, is_here: bool) {
        let Ok(name) = Name::new(path.file_name()) else {
            return;
        };
        let key = (path.components().count(), path.clone());
        if is_here {
            if self.count < INDEXED_MAX && self.paths.entry(name).or_default().insert(key) {
                self.count += 1;
            }
        } else if let Some(paths) = self.paths.get_mut(&name)
            && paths.remove(&key)
        {
            self.count -= 1;
            if paths.is_empty() {
                self.paths.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_base_name_the_shallowest_comes_first_then_the_first_by_path() {
        let mut index = Index::default();
        let path = |text: &str| SharedPath::new(text.as_bytes()).unwrap();
        for text in ["z/a.txt", "b/c/a.txt", "b/a.txt", "other"] {
            index.set(&path(text), true);
            index.set(&path(text), true);
        }
        let name = Name::new(b"a.txt").unwrap();
        let order = |index: &Index| -> Vec<String> {
            let paths = index.paths.get(&name).into_iter().flatten();
            paths.map(|(_, path)| path.to_string()).collect()
        };
        assert_eq!(order(&index), ["b/a.txt", "z/a.txt", "b/c/a.txt"]);
        for text in ["z/a.txt", "b/c/a.txt", "b/a.txt", "b/a.txt"] {
            index.set(&path(text), false);
        }
        assert_eq!((order(&index).len(), index.count), (0, 1));
    }
}
