//! A model of the kernel's caches: names, attributes, listings and pages. It keeps each for ever
//! until it is notified. An answer that would be wrong within its lifetime is wrong here too.
//!
//! Follows fs/fuse of Linux 6.9 and later: `dir.c` (lookup, revalidation, notifications),
//! `readdir.c` (listings), `iomode.c` (compatible opens), `inode.c` (forgetting).

mod files;
mod listings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use p2pfs_fs::{
    Around, Attributes, BackingFile, BackingFiles, Caching, FileKind, Filesystem, FsError,
    Invalidator, ROOT_INO, Stale,
};
use p2pfs_types::path::SharedPath;
use parking_lot::Mutex;

use crate::kernel_caches::world::World;

/// Lifetime above which the model caches an answer for ever. It does not cache answers with a
/// shorter lifetime.
const BELIEVED: Duration = Duration::from_secs(1);
const PAGE_BYTES: usize = 4096;

/// Entries that the filesystem wants the kernel to forget, in order.
#[derive(Default)]
pub(super) struct Notifications(Mutex<Vec<Word>>);

enum Word {
    Forget(Stale),
    Then(Around),
}

impl Invalidator for Notifications {
    fn invalidate(&self, stale: Stale) {
        self.0.lock().push(Word::Forget(stale));
    }

    fn invalidate_around(&self, stale: Vec<Stale>, change: Around) {
        let words = stale.into_iter().map(Word::Forget);
        let words = words.chain([Word::Then(change)]);
        self.0.lock().extend(words);
    }
}

/// Files that the kernel reads by itself, by number.
#[derive(Default)]
pub(super) struct Backings(Mutex<(u32, HashMap<u32, File>)>);

impl BackingFiles for Backings {
    fn register(&self, file: &File) -> io::Result<BackingFile> {
        let (last, open) = &mut *self.0.lock();
        *last += 1;
        open.insert(*last, file.try_clone()?);
        Ok(BackingFile(*last))
    }

    fn release(&self, file: BackingFile) {
        let known = self.0.lock().1.remove(&file.0);
        assert!(known.is_some(), "a backing file is released twice");
    }
}

impl Backings {
    fn get(&self, file: BackingFile) -> File {
        self.0.lock().1[&file.0].try_clone().unwrap()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().1.len()
    }
}

/// The object that an inode number denotes. It stays the same during a filesystem's life and after
/// it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub path: Vec<u8>,
    kind: FileKind,
    version: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, version) = (self.path.escape_ascii(), self.version.escape_ascii());
        write!(to, "{:?} {path}, {version}", self.kind)
    }
}

#[derive(Default)]
pub(super) struct KnownInode {
    lookups: u64,
    attributes: Option<Attributes>,
    listing: Option<BTreeSet<(Vec<u8>, u64)>>,
    /// How often its listing was reported stale.
    listings_dropped: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Dentry {
    /// `None` for a negative entry.
    ino: Option<u64>,
    believed: bool,
}

/// A file that a program has open.
struct OpenFile {
    ino: u64,
    handle: u64,
    caching: Caching,
    /// The own file, if this is one.
    live: Option<Arc<File>>,
    hash: String,
}

/// A directory that a program is reading.
struct Stream {
    ino: u64,
    cookie: u64,
    plus: bool,
    listings_dropped: u64,
    seen: Vec<(Vec<u8>, u64)>,
    always: BTreeSet<Vec<u8>>,
}

pub(super) struct Kernel {
    pub fs: Arc<Filesystem>,
    world: Arc<World>,
    notifications: Arc<Notifications>,
    pub backings: Arc<Backings>,
    passthrough: bool,
    names: BTreeMap<(u64, Vec<u8>), Dentry>,
    pub inodes: HashMap<u64, KnownInode>,
    pub identities: HashMap<u64, Identity>,
    files: Vec<OpenFile>,
    streams: Vec<Stream>,
}

impl Kernel {
    pub(super) fn new(fs: Filesystem, world: Arc<World>, passthrough: bool) -> Self {
        let (notifications, backings) = (Arc::<Notifications>::default(), Arc::default());
        let mut kernel = Self {
            fs: Arc::new(fs),
            world,
            notifications,
            backings,
            passthrough,
            names: BTreeMap::new(),
            inodes: HashMap::new(),
            identities: HashMap::new(),
            files: vec![],
            streams: vec![],
        };
        kernel.prepare();
        kernel.inodes.entry(ROOT_INO).or_default().lookups = 1;
        let root = Identity {
            path: vec![],
            kind: FileKind::Directory,
            version: vec![],
        };
        kernel.identities.insert(ROOT_INO, root);
        kernel
    }

    fn prepare(&self) {
        self.fs.caches.set_invalidator(self.notifications.clone());
        if self.passthrough {
            self.fs.files.set_backing_files(self.backings.clone());
        }
    }

    /// Replaces the filesystem without any notification from the old one.
    pub(super) fn serve_by(&mut self, fs: Filesystem) {
        self.fs = Arc::new(fs);
        self.prepare();
    }

    fn inode(&mut self, ino: u64) -> &mut KnownInode {
        self.inodes.get_mut(&ino).unwrap()
    }

    /// Returns the object that the number denotes according to the filesystem.
    pub(super) fn identify(&self, ino: u64, kind: FileKind, path: Vec<u8>) -> Identity {
        let version = match kind {
            FileKind::Regular => self
                .fs
                .inodes
                .getxattr(ino, b"user.p2pfs.hash")
                .unwrap_or_default(),
            FileKind::Symlink => self.fs.inodes.readlink(ino).unwrap().to_vec(),
            FileKind::Directory => vec![],
        };
        Identity {
            path,
            kind,
            version,
        }
    }

    /// Caches a name and its attributes, and counts one more lookup.
    fn take_entry(&mut self, at: (u64, Vec<u8>), attributes: Attributes, lifetime: Duration) {
        let ino = attributes.ino;
        if self.names.get(&at).is_some_and(|old| old.ino != Some(ino)) {
            self.drop_name(&at);
        }
        let mut path = self.identities[&at.0].path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(&at.1);
        let identity = self.identify(ino, attributes.kind, path);
        let before = self.identities.insert(ino, identity.clone());
        if let Some(before) = before {
            assert_eq!(before, identity, "inode {ino} stands for two things");
        }
        let known = self.inodes.entry(ino).or_default();
        known.lookups += 1;
        known.attributes = (attributes.lifetime > BELIEVED).then_some(attributes);
        let dentry = Dentry {
            ino: Some(ino),
            believed: lifetime > BELIEVED,
        };
        self.names.insert(at, dentry);
    }

    fn look_up(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let at = (parent, name.to_vec());
        if let Some(Dentry {
            ino,
            believed: true,
        }) = self.names.get(&at)
        {
            return *ino;
        }
        match self.fs.inodes.lookup(parent, name, 0) {
            Ok(entry) => {
                self.take_entry(at, entry.attributes, entry.lifetime);
                self.forget_unused();
                Some(entry.attributes.ino)
            }
            Err(FsError::NotFound) => {
                self.drop_name(&at);
                if self.fs.inodes.absence_lifetime(parent) > BELIEVED {
                    let believed = true;
                    self.names.insert(
                        at,
                        Dentry {
                            ino: None,
                            believed,
                        },
                    );
                }
                None
            }
            Err(error) => panic!("lookup of {}: {error}", name.escape_ascii()),
        }
    }

    /// Follows a path as `stat` does.
    pub(super) fn walk(&mut self, path: &str) -> Option<u64> {
        path.split('/').try_fold(ROOT_INO, |at, name| {
            let is_directory = self.identities[&at].kind == FileKind::Directory;
            is_directory.then(|| self.look_up(at, name.as_bytes()))?
        })
    }

    pub(super) fn stat(&mut self, ino: u64) -> Attributes {
        if let Some(known) = self.inode(ino).attributes {
            return known;
        }
        let asked = self.fs.inodes.getattr(ino).unwrap();
        self.inode(ino).attributes = (asked.lifetime > BELIEVED).then_some(asked);
        asked
    }

    /// Drops a name, and all names below a directory.
    fn drop_name(&mut self, at: &(u64, Vec<u8>)) {
        let Some(dentry) = self.names.remove(at) else {
            return;
        };
        let Some(ino) = dentry.ino else { return };
        let below: Vec<_> = self
            .names
            .keys()
            .filter(|it| it.0 == ino)
            .cloned()
            .collect();
        below.iter().for_each(|name| self.drop_name(name));
        self.forget_unused();
    }

    /// Drops a name without names below it, as under memory pressure.
    pub(super) fn shrink(&mut self, nth: usize) {
        let leaf = |dentry: &Dentry| {
            let below = |ino| self.names.keys().any(|it| it.0 == ino);
            dentry.ino.is_none_or(|ino| !below(ino))
        };
        let leaves: Vec<_> = self.names.iter().filter(|it| leaf(it.1)).collect();
        if let Some((name, _)) = leaves.get(nth % leaves.len().max(1)) {
            let name = (*name).clone();
            self.drop_name(&name);
        }
    }

    fn forget_unused(&mut self) {
        let mut used: BTreeSet<u64> = self.names.values().filter_map(|it| it.ino).collect();
        used.extend(self.names.keys().map(|name| name.0));
        used.extend(self.files.iter().map(|it| it.ino));
        used.extend(self.streams.iter().map(|it| it.ino));
        used.insert(ROOT_INO);
        let unused: Vec<u64> = (self.inodes.keys().copied())
            .filter(|ino| !used.contains(ino))
            .collect();
        for ino in unused {
            let known = self.inodes.remove(&ino).unwrap();
            self.fs.inodes.forget(ino, known.lookups);
        }
    }

    /// Handles up to `count` notifications. Returns whether there was one.
    pub(super) fn hear(&mut self, count: usize) -> bool {
        let words: Vec<Word> = {
            let mut waiting = self.notifications.0.lock();
            let count = count.min(waiting.len());
            waiting.drain(..count).collect()
        };
        let heard = !words.is_empty();
        for word in words {
            match word {
                Word::Forget(stale) => self.apply(&stale),
                Word::Then(change) => {
                    let again = change();
                    self.view_changed();
                    again.iter().for_each(|stale| self.apply(stale));
                }
            }
        }
        heard
    }

    fn apply(&mut self, stale: &Stale) {
        match stale {
            Stale::Attributes { ino } => {
                if let Some(known) = self.inodes.get_mut(ino) {
                    known.attributes = None;
                }
            }
            // The bytes of an inode never change, so the model has no pages.
            Stale::Pages { .. } | Stale::PagesWithin { .. } => {}
            Stale::Listing { ino } => {
                if let Some(known) = self.inodes.get_mut(ino) {
                    known.attributes = None;
                    known.listing = None;
                    known.listings_dropped += 1;
                }
            }
            Stale::Name { parent, name } => {
                if let Some(known) = self.inodes.get_mut(parent) {
                    known.attributes = None;
                }
                self.drop_name(&(*parent, name.to_vec()));
            }
            Stale::PossibleName { name } => {
                self.drop_name(&(ROOT_INO, name.to_vec()));
            }
            Stale::Directory { parent, name } => {
                if let Some(known) = self.inodes.get_mut(parent) {
                    known.attributes = None;
                }
                if let Some(dentry) = self.names.get_mut(&(*parent, name.to_vec())) {
                    dentry.believed = false;
                }
            }
            Stale::Everything => {
                self.names.values_mut().for_each(|it| it.believed = false);
                // `fuse::notify` sends the same notifications.
                for known in self.fs.caches.known_names() {
                    if !matches!(known, Stale::Directory { .. }) {
                        self.apply(&known);
                    }
                }
            }
        }
    }

    fn shared_path(&self, ino: u64) -> SharedPath {
        SharedPath::new(self.identities[&ino].path.clone()).unwrap_or_else(|_| SharedPath::root())
    }

    pub(super) fn close_all(&mut self) {
        self.close_files();
        let names: Vec<_> = self.names.keys().cloned().collect();
        names.iter().for_each(|name| self.drop_name(name));
        self.forget_unused();
    }

    /// Asserts after all notifications that every cached answer equals a fresh one.
    pub(super) fn expect_nothing_stale(&self) {
        let mut reached = vec![ROOT_INO];
        let mut next = 0;
        while let Some(ino) = reached.get(next).copied() {
            next += 1;
            let below = self.names.iter().filter(|((parent, _), _)| *parent == ino);
            for ((_, name), dentry) in below.filter(|it| it.1.believed) {
                let fresh = self
                    .fs
                    .inodes
                    .lookup(ino, name, 0)
                    .map(|entry| entry.attributes.ino);
                if let Ok(fresh) = fresh {
                    self.fs.inodes.forget(fresh, 1);
                }
                let at = &self.identities[&ino];
                let name = name.escape_ascii();
                assert_eq!(dentry.ino, fresh.ok(), "{name} in {at:?} is stale");
                reached.extend(dentry.ino);
            }
            self.expect_fresh_listing(ino);
        }
        reached.extend(self.files.iter().map(|file| file.ino));
        reached.extend(self.streams.iter().map(|stream| stream.ino));
        reached
            .iter()
            .for_each(|ino| self.expect_fresh_attributes(*ino));
    }

    fn expect_fresh_attributes(&self, ino: u64) {
        let Some(mut believed) = self.inodes[&ino].attributes else {
            return;
        };
        let fresh = self.fs.inodes.getattr(ino).unwrap();
        let version = &self.identities[&ino].version;
        if self.files.iter().any(|it| it.hash.as_bytes() == version) {
            // Blocks that a read added are counted when the file is closed.
            believed.blocks = fresh.blocks;
        }
        assert_eq!(believed, fresh, "of {:?}", self.identities[&ino]);
    }

    fn expect_fresh_listing(&self, ino: u64) {
        let Some(believed) = &self.inodes[&ino].listing else {
            return;
        };
        let mut fresh = BTreeSet::new();
        let mut take = |entry: p2pfs_fs::DirectoryEntry<'_>| {
            if entry.name != b"." && entry.name != b".." {
                fresh.insert((entry.name.to_vec(), entry.ino));
            }
            false
        };
        self.fs.directories.readdir(ino, 0, &mut take).unwrap();
        assert_eq!(*believed, fresh, "listing of {:?}", self.identities[&ino]);
    }
}
