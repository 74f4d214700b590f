//! The files offered to legacy peers. They are found by base name, because the discovery protocol
//! has no folders.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::RefusalLog;
use crate::wire::discovery::{Name, SIZE_MAX_BYTES};
use p2pfs_catalogue::{Change, Found, View};
use p2pfs_content::{Asker, ContentStore};
use p2pfs_fs::{FileVersion, FsError};
use p2pfs_node::OfferSources;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of indexed paths. Further ones are not offered.
const INDEXED_MAX: usize = 1_000_000;
/// Maximum number of paths that may change while the index is rebuilt. After more changes it is
/// rebuilt again.
const MEANWHILE_MAX: usize = 1 << 14;
/// Maximum number of paths with one base name that are examined for one answer.
const SAME_NAME_MAX: usize = 64;
/// Number of names read from a directory at once.
const CHILDREN_BATCH: usize = 4096;
/// Maximum age of the list of shares: legacy peers see a new share up to a second later.
const SHARES_AGE: Duration = Duration::from_secs(1);

/// Base names and the paths that end in them, the shallowest first, then by path.
#[derive(Default)]
struct NameIndex {
    paths: BTreeMap<Name, BTreeSet<(usize, SharedPath)>>,
    count: usize,
}

/// The index, and the changes that a running rebuild may miss.
#[derive(Default)]
struct IndexState {
    index: NameIndex,
    is_being_made: bool,
    /// Whether changes were missed since the last rebuild began.
    is_stale: bool,
    /// Paths that changed since the rebuild began. If there are more than [`MEANWHILE_MAX`], some
    /// changed paths are missing here.
    meanwhile: HashSet<SharedPath>,
}

/// The files that can be served, by the current namespace and the contents of this node.
pub(super) struct OfferedFiles {
    me: NodeId,
    bridge: bool,
    view: Arc<ArcSwap<View>>,
    addresses: Arc<ArcSwap<BTreeMap<NodeId, SocketAddr>>>,
    contents: ContentStore,
    refusals: RefusalLog,
    indexed: Mutex<IndexState>,
    legacy_shares: Mutex<Option<(Instant, Vec<ShareIndex>)>>,
}

impl OfferedFiles {
    /// Creates an empty index of the files of `me` and, with `bridge`, of other nodes.
    pub(super) fn new(
        me: NodeId,
        bridge: bool,
        sources: OfferSources,
        refusals: RefusalLog,
    ) -> Self {
        Self {
            me,
            bridge,
            view: sources.view,
            addresses: sources.addresses,
            contents: sources.contents,
            refusals,
            indexed: Mutex::default(),
            legacy_shares: Mutex::default(),
        }
    }

    /// Updates the index for changed names, or rebuilds it if the changes do not name every changed
    /// path. Warns about changed files in the own shares that cannot be served to legacy peers.
    pub(super) fn apply_changes(self: &Arc<Self>, changes: &[Change]) {
        if changes.contains(&Change::Everything) {
            self.index_anew();
        }
        let view = self.view.load();
        let label = view.label(&self.me);
        for change in changes {
            let Change::Entry(path) = change else {
                continue;
            };
            let is_here = is_file(&view, label.as_deref(), path);
            self.indexed.lock().apply_change(path, is_here);
            let own = label.as_ref();
            if let Some(found) = own.and_then(|label| view.peers().lookup(label, path)) {
                self.warn_if_refused(path, &found);
            }
        }
    }

    /// Rebuilds the index on a blocking thread, or once more if that is under way.
    pub(super) fn index_anew(self: &Arc<Self>) {
        let mut indexed = self.indexed.lock();
        indexed.is_stale = true;
        if !indexed.is_being_made {
            indexed.is_being_made = true;
            let this = self.clone();
            tokio::task::spawn_blocking(move || while this.index_if_stale() {});
        }
    }

    /// Rebuilds the index if it is stale; the time is proportional to the size of the namespace.
    /// Returns false if the index missed no change.
    fn index_if_stale(&self) -> bool {
        {
            let mut indexed = self.indexed.lock();
            indexed.is_being_made = std::mem::take(&mut indexed.is_stale);
            if !indexed.is_being_made {
                return false;
            }
        }
        let made = self.make();
        self.install_index(made);
        true
    }

    /// Makes an index of the current namespace. Changes during that time may be missing in it.
    fn make(&self) -> NameIndex {
        let view = self.view.load_full();
        let mut index = NameIndex::default();
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
                            self.warn_if_refused(&path, &child.found);
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
        index
    }

    /// Installs the new index and applies the changes recorded during the rebuild.
    fn install_index(&self, made: NameIndex) {
        let mut indexed = self.indexed.lock();
        let view = self.view.load();
        let label = view.label(&self.me);
        indexed.index = made;
        let meanwhile = std::mem::take(&mut indexed.meanwhile);
        indexed.is_stale |= meanwhile.len() > MEANWHILE_MAX;
        for path in &meanwhile {
            let is_here = is_file(&view, label.as_deref(), path);
            indexed.index.set(path, is_here);
        }
    }

    /// Returns the file to serve for a name, if this node could deliver one now. Prefers own files
    /// to those of other nodes, then the shallowest path, then the first by path.
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
            .filter_map(|path| Some((path, view.peers().lookup(label.as_ref()?, path)?)));
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
        let indexed = self.indexed.lock();
        let paths = indexed.index.paths.get(name).into_iter().flatten();
        paths
            .take(SAME_NAME_MAX)
            .map(|(_, path)| path.clone())
            .collect()
    }

    fn own(&self, path: &SharedPath, found: &Found, shares: &[ShareIndex]) -> Option<FileVersion> {
        let (share, _) = found.own.as_ref()?;
        let file = self.carried(path, found)?;
        // `shares` may be a second old. The admission is current, so that a share that gets readers
        // is closed to legacy peers at once.
        let is_offered = shares.contains(share)
            && self.contents.may_have(Asker::Stranger, &file.hash)
            && self.contents.has_unchanged_file(&file.hash);
        is_offered.then_some(file)
    }

    /// Returns a file of another node, if the bridge is on, strangers may have the content, and it
    /// is complete here or has a live holder. A private content is refused even if it is here.
    fn others(&self, path: &SharedPath, found: &Found, view: &View) -> Option<FileVersion> {
        if !self.bridge || found.own.is_some() || found.author == self.me {
            return None;
        }
        let file = self.carried(path, found)?;
        if !self.contents.may_have(Asker::Stranger, &file.hash) {
            return None;
        }
        if self.contents.is_whole(&file.hash) {
            return Some(file);
        }
        let addresses = self.addresses.load();
        let is_there = |node: &NodeId| *node != self.me && addresses.contains_key(node);
        let holders = view.contents().holders(&file.hash);
        holders.iter().any(is_there).then_some(file)
    }

    /// Returns the version if the protocol can express its size.
    fn carried(&self, path: &SharedPath, found: &Found) -> Option<FileVersion> {
        let file = FileVersion::found(path, found)?;
        if file.size_bytes > SIZE_MAX_BYTES {
            self.refusals.warn_too_large(path, file.size_bytes);
            return None;
        }
        // Without `own`, reads return the verified bytes and not the current own file.
        Some(FileVersion { own: None, ..file })
    }

    fn legacy_shares(&self) -> Vec<ShareIndex> {
        let mut known = self.legacy_shares.lock();
        if let Some((at, shares)) = &*known
            && at.elapsed() < SHARES_AGE
        {
            return shares.clone();
        }
        let all = self.contents.shares().list();
        let legacy = all
            .iter()
            .filter(|share| share.spec.foreign && share.spec.readers.is_none());
        let shares: Vec<ShareIndex> = legacy.map(|share| share.index).collect();
        *known = Some((Instant::now(), shares.clone()));
        shares
    }

    /// Warns that a legacy peer did not receive a whole file, through no fault of its own.
    pub(super) fn warn_unfinished(&self, path: &SharedPath, why: FsError) {
        self.refusals.warn_unfinished(path, why);
    }

    fn warn_if_refused(&self, path: &SharedPath, found: &Found) {
        let (Kind::File { size_bytes, .. }, Some((share, _))) = (&found.kind, &found.own) else {
            return;
        };
        let name = Name::new(path.file_name());
        if (name.is_ok() && *size_bytes <= SIZE_MAX_BYTES) || !self.legacy_shares().contains(share)
        {
            return;
        }
        match name {
            Err(why) => self.refusals.warn_not_given(path, why),
            Ok(_) => self.refusals.warn_too_large(path, *size_bytes),
        }
    }
}

/// Returns whether a path is a file in the merged namespace or among the files of this node.
/// `label` is the label of this node.
fn is_file(view: &View, label: Option<&str>, path: &SharedPath) -> bool {
    let own = || view.peers().lookup(label?, path);
    let is_file = |found: &Found| matches!(found.kind, Kind::File { .. });
    view.lookup(path).is_some_and(|found| is_file(&found))
        || own().is_some_and(|found| is_file(&found))
}

impl IndexState {
    fn apply_change(&mut self, path: &SharedPath, is_here: bool) {
        if self.is_being_made && self.meanwhile.len() <= MEANWHILE_MAX {
            self.meanwhile.insert(path.clone());
        }
        self.index.set(path, is_here);
    }
}

impl NameIndex {
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
    use p2pfs_catalogue::Catalogue;
    use p2pfs_content::PublishedNames;
    use p2pfs_content::sample::store_in;
    use p2pfs_content::shares::ShareSpec;
    use p2pfs_node::EventLog;
    use p2pfs_proto::wire::native::record::{Entry, Timestamp};
    use p2pfs_types::digest::ContentHash;

    /// The offers from a catalogue whose own files have their hashes made from their names.
    struct OfferBench {
        catalogue: Catalogue,
        offered: Arc<OfferedFiles>,
        home: tempfile::TempDir,
    }

    impl OfferBench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let me = NodeId::new([1; 32]);
            let mut catalogue = Catalogue::new(me, "me".parse().unwrap());
            let names = PublishedNames::new(catalogue.view());
            let view = names.view.clone();
            let contents = store_in(home.path(), names);
            let sources = OfferSources {
                view,
                addresses: Arc::default(),
                contents,
            };
            Self {
                offered: Arc::new(OfferedFiles::new(
                    me,
                    false,
                    sources,
                    RefusalLog::new(EventLog::default()),
                )),
                catalogue,
                home,
            }
        }

        /// Adds or removes a file and returns the change.
        fn change(&mut self, name: &str, is_there: bool) -> Change {
            let path = SharedPath::new(name.as_bytes()).unwrap();
            let at = Timestamp {
                seconds: 1,
                nanoseconds: 0,
            };
            let entry = Entry {
                kind: Kind::File {
                    hash: ContentHash::of(name.as_bytes()),
                    size_bytes: 1,
                    executable: false,
                },
                mtime: at,
                version_time: at,
                sent_by: None,
                replaces: Vec::new(),
            };
            if is_there {
                assert!(
                    self.catalogue
                        .own_mut()
                        .put(ShareIndex(0), &path, entry)
                        .unwrap()
                )
            } else {
                assert!(self.catalogue.own_mut().remove(ShareIndex(0), &path))
            }
            self.offered.view.store(self.catalogue.view());
            Change::Entry(path)
        }

        /// Shares the folder `share` with legacy peers, or only with these readers.
        fn share(&self, readers: Option<Vec<String>>) {
            let spec = ShareSpec {
                foreign: true,
                readers,
                ..ShareSpec::new(self.home.path().join("share"))
            };
            let added = self.offered.contents.shares().add(spec).unwrap();
            assert_eq!(added, ShareIndex(0));
        }

        fn has(&self, name: &str) -> bool {
            !self
                .offered
                .paths(&Name::new(name.as_bytes()).unwrap())
                .is_empty()
        }
    }

    #[test]
    fn a_newly_restricted_file_is_no_longer_offered_to_legacy_peers() {
        let mut bench = OfferBench::new();
        let dir = bench.home.path().join("share");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("file"), "file").unwrap();
        bench.share(None);
        assert!(
            bench
                .offered
                .contents
                .shares()
                .wait_settled(Duration::from_secs(30))
        );
        let change = bench.change("file", true);
        bench.offered.apply_changes(&[change]);
        let name = Name::new(b"file").unwrap();
        assert!(bench.offered.find(&name).is_some());
        bench.share(Some(vec!["somebody".to_owned()]));
        assert_eq!(bench.offered.find(&name), None);
    }

    #[test]
    fn changes_made_during_indexing_are_in_the_index() {
        let mut bench = OfferBench::new();
        bench.change("goes", true);
        bench.offered.indexed.lock().is_being_made = true;
        let made = bench.offered.make();
        let changes = [bench.change("comes", true), bench.change("goes", false)];
        bench.offered.apply_changes(&changes);
        assert!(bench.has("comes"), "meanwhile too");
        bench.offered.install_index(made);
        assert!(bench.has("comes") && !bench.has("goes"));
        assert!(!bench.offered.index_if_stale());
        assert!(bench.offered.indexed.lock().meanwhile.is_empty());
    }

    #[tokio::test]
    async fn the_index_is_rebuilt_after_too_many_or_unnamed_changes() {
        let mut bench = OfferBench::new();
        bench.offered.indexed.lock().is_being_made = true;
        let made = bench.offered.make();
        let name = |n: usize| Change::Entry(SharedPath::new(n.to_string().into_bytes()).unwrap());
        let many: Vec<Change> = (0..2 * MEANWHILE_MAX).map(name).collect();
        bench.offered.apply_changes(&many);
        assert_eq!(
            bench.offered.indexed.lock().meanwhile.len(),
            MEANWHILE_MAX + 1
        );
        bench.offered.install_index(made);
        assert!(bench.offered.index_if_stale() && !bench.offered.index_if_stale());
        bench.change("unnamed", true);
        bench.offered.apply_changes(&[Change::Everything]);
        while !bench.has("unnamed") {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn of_equal_base_names_the_shallowest_then_the_first_path_wins() {
        let mut index = NameIndex::default();
        let path = |text: &str| SharedPath::new(text.as_bytes()).unwrap();
        for text in ["z/a.txt", "b/c/a.txt", "b/a.txt", "other"] {
            index.set(&path(text), true);
            index.set(&path(text), true);
        }
        let name = Name::new(b"a.txt").unwrap();
        let order = |index: &NameIndex| -> Vec<String> {
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
