//! What a kernel keeps of a filesystem, and asks it: names, attributes, listings and pages, all
//! believed for ever until it is told otherwise: what is wrong after a minute was wrong before.
//!
//! After fs/fuse of Linux 6.9 and later: `dir.c` (lookup, revalidation, notifications),
//! `readdir.c` (listings), `iomode.c` (which opens may be together), `inode.c` (forgetting).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use p2pfs::fs::{
    Around, Attributes, BackingFile, BackingFiles, Caching, FileKind, Filesystem, FsError,
    Invalidator, ROOT_INO, Reach, ReadStep, Stale,
};
use p2pfs::path::SharedPath;
use parking_lot::Mutex;

use crate::kernel_caches::world::{World, stored};

/// What holds for longer is taken to hold for ever, what holds no longer not at all.
const BELIEVED: Duration = Duration::from_secs(1);
const PAGE_BYTES: usize = 4096;

/// What the filesystem wants the kernel to forget, in order.
#[derive(Default)]
pub struct Notifications(Mutex<Vec<Word>>);

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

/// Files that the kernel reads by itself, by their numbers.
#[derive(Default)]
pub struct Backings(Mutex<(u32, HashMap<u32, File>)>);

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

    pub fn count(&self) -> usize {
        self.0.lock().1.len()
    }
}

/// What a number stands for: the same for as long as there is a filesystem, and after.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
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
pub struct KnownInode {
    lookups: u64,
    attributes: Option<Attributes>,
    listing: Option<BTreeSet<(Vec<u8>, u64)>>,
    /// How often its listing was said to be stale.
    listings_dropped: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Dentry {
    /// None: there is no such name.
    ino: Option<u64>,
    believed: bool,
}

/// A file that somebody has open.
struct OpenFile {
    ino: u64,
    handle: u64,
    caching: Caching,
    /// The own file that it is, where it is one.
    live: Option<Arc<File>>,
    hash: String,
}

/// A directory that somebody is reading.
struct Stream {
    ino: u64,
    cookie: u64,
    plus: bool,
    listings_dropped: u64,
    seen: Vec<(Vec<u8>, u64)>,
    always: BTreeSet<Vec<u8>>,
}

pub struct Kernel {
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
    pub fn new(fs: Filesystem, world: Arc<World>, passthrough: bool) -> Self {
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
        self.fs.set_invalidator(self.notifications.clone());
        if self.passthrough {
            self.fs.set_backing_files(self.backings.clone());
        }
    }

    /// What the filesystem was goes without a word.
    pub fn serve_by(&mut self, fs: Filesystem) {
        self.fs = Arc::new(fs);
        self.prepare();
    }

    fn inode(&mut self, ino: u64) -> &mut KnownInode {
        self.inodes.get_mut(&ino).unwrap()
    }

    /// What the filesystem says that the number stands for.
    pub fn identify(&self, ino: u64, kind: FileKind, path: Vec<u8>) -> Identity {
        let version = match kind {
            FileKind::Regular => self
                .fs
                .getxattr(ino, b"user.p2pfs.hash")
                .unwrap_or_default(),
            FileKind::Symlink => self.fs.readlink(ino).unwrap().to_vec(),
            FileKind::Directory => vec![],
        };
        Identity {
            path,
            kind,
            version,
        }
    }

    /// A name and its attributes came, with one more lookup.
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
        match self.fs.lookup(parent, name) {
            Ok(entry) => {
                self.take_entry(at, entry.attributes, entry.lifetime);
                self.forget_unused();
                Some(entry.attributes.ino)
            }
            Err(FsError::NotFound) => {
                self.drop_name(&at);
                if self.fs.absence_lifetime(parent) > BELIEVED {
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
    pub fn walk(&mut self, path: &str) -> Option<u64> {
        path.split('/').try_fold(ROOT_INO, |at, name| {
            let is_directory = self.identities[&at].kind == FileKind::Directory;
            is_directory.then(|| self.look_up(at, name.as_bytes()))?
        })
    }

    pub fn stat(&mut self, ino: u64) -> Attributes {
        if let Some(known) = self.inode(ino).attributes {
            return known;
        }
        let asked = self.fs.getattr(ino).unwrap();
        self.inode(ino).attributes = (asked.lifetime > BELIEVED).then_some(asked);
        asked
    }

    /// The name goes, and with a directory's all below it.
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

    /// Memory is short: some name without names below it goes.
    pub fn shrink(&mut self, nth: usize) {
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
            self.fs.forget(ino, known.lookups);
        }
    }

    /// Takes in so many notifications; true where there was one.
    pub fn hear(&mut self, count: usize) -> bool {
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
                // as `fuse::notify` sends it
                for known in self.fs.known_names() {
                    if !matches!(known, Stale::Directory { .. }) {
                        self.apply(&known);
                    }
                }
            }
        }
    }

    /// Opens, and holds the kernel's own rule of which opens of an inode may be together.
    pub fn open(&mut self, ino: u64) {
        let kind = self.identities[&ino].kind;
        if kind != FileKind::Regular {
            return;
        }
        let others: Vec<Caching> = (self.files.iter())
            .filter(|it| it.ino == ino)
            .map(|it| it.caching)
            .collect();
        let backed = |it: &Caching| matches!(it, Caching::Backed(_));
        let opened = match self.fs.open(ino, libc::O_RDONLY, Reach::Everything) {
            Ok(opened) => opened,
            Err(FsError::Gone) if others.iter().any(backed) => return,
            Err(error) => panic!("open of {:?}: {error}", self.identities[&ino]),
        };
        let fits = others.iter().all(|other| match (other, opened.caching) {
            (Caching::Backed(one), Caching::Backed(two)) => *one == two,
            (Caching::Backed(_), _) | (_, Caching::Backed(_)) => false,
            // pages of a version and bytes that change under the same inode
            (one, two) => *one == two,
        });
        assert!(
            fits,
            "{others:?} are open of {:?}, then {:?}",
            self.identities[&ino], opened.caching
        );
        assert!(self.passthrough || !backed(&opened.caching));
        let live = self.world.take_last_opened();
        let live = match others.is_empty() {
            true => live,
            // who joins reads what those before read
            false => live.and_then(|_| {
                let first = self.files.iter().find(|it| it.ino == ino);
                first.and_then(|first| first.live.clone())
            }),
        };
        let hash = self.identities[&ino].version.clone();
        self.files.push(OpenFile {
            ino,
            handle: opened.handle,
            caching: opened.caching,
            live,
            hash: String::from_utf8(hash).unwrap(),
        });
    }

    /// Reads a range of a file, as an ordinary read or through a mapping.
    pub fn read(&mut self, nth: usize, offset: u64, length: usize, mapped: bool) {
        if self.files.is_empty() {
            return;
        }
        let at = nth % self.files.len();
        let file = &self.files[at];
        let expected = |offset: u64, length: usize| -> Vec<u8> {
            let all = match &file.live {
                Some(live) => {
                    let mut bytes = vec![0; live.metadata().unwrap().size() as usize];
                    live.read_exact_at(&mut bytes, 0).unwrap();
                    bytes
                }
                None => stored(&file.hash.parse().unwrap()).bytes.clone(),
            };
            let start = (offset as usize).min(all.len());
            all[start..(start + length).min(all.len())].to_vec()
        };
        let wanted = expected(offset, length);
        let got = match file.caching {
            Caching::Backed(backing) => {
                let mut bytes = vec![0; length];
                let got = self.backings.get(backing).read_at(&mut bytes, offset);
                bytes.truncate(got.unwrap());
                bytes
            }
            Caching::Direct if !mapped => self.ask(at, offset, length),
            _ => self.read_pages(at, offset, wanted.len(), mapped),
        };
        let file = &self.files[at];
        assert!(
            got == wanted,
            "{:?} reads other bytes than it opened: {} at {offset} of {:?}",
            file.caching,
            got.len(),
            self.identities[&file.ino]
        );
    }

    fn ask(&self, at: usize, offset: u64, length: usize) -> Vec<u8> {
        let handle = self.fs.handle(self.files[at].handle).unwrap();
        let mut bytes = vec![0; length];
        let reach = Reach::Everything;
        match self
            .fs
            .read_now(&handle, offset, &mut bytes, reach)
            .unwrap()
        {
            ReadStep::Done(got) => bytes.truncate(got),
            ReadStep::Wait(range) => {
                let (sender, receiver) = std::sync::mpsc::channel();
                let reply = Box::new(move |result| sender.send(result).unwrap());
                self.fs.read(&handle, range, reach, reply);
                bytes = receiver.try_recv().unwrap().unwrap().to_vec();
            }
        }
        bytes
    }

    /// Through the pages that the inode has; a mapping of a direct file drops them first
    /// (`fuse_file_mmap`), which does not keep others from finding what it reads in.
    fn read_pages(&mut self, at: usize, offset: u64, length: usize, mapped: bool) -> Vec<u8> {
        let ino = self.files[at].ino;
        if mapped && self.files[at].caching == Caching::Direct {
            self.inode(ino).pages.clear();
        }
        let end = offset as usize + length;
        let first = offset as usize / PAGE_BYTES;
        let mut bytes = vec![];
        for page in first..end.div_ceil(PAGE_BYTES) {
            let known = self.inode(ino).pages.get(&(page as u64)).cloned();
            let there = match known {
                Some(there) => there,
                None => self.ask(at, (page * PAGE_BYTES) as u64, PAGE_BYTES),
            };
            bytes.extend(&there);
            self.inode(ino).pages.insert(page as u64, there);
        }
        let start = offset as usize - first * PAGE_BYTES;
        bytes[start.min(bytes.len())..(start + length).min(bytes.len())].to_vec()
    }

    pub fn close(&mut self, nth: usize) {
        if !self.files.is_empty() {
            let file = self.files.swap_remove(nth % self.files.len());
            self.fs.release(file.handle);
            self.forget_unused();
        }
    }

    fn shared_path(&self, ino: u64) -> SharedPath {
        SharedPath::new(self.identities[&ino].path.clone()).unwrap_or_else(|_| SharedPath::root())
    }

    pub fn open_directory(&mut self, ino: u64, plus: bool) {
        if self.identities[&ino].kind != FileKind::Directory {
            return;
        }
        self.streams.push(Stream {
            ino,
            cookie: 0,
            plus,
            listings_dropped: self.inodes[&ino].listings_dropped,
            seen: vec![],
            always: self.shown_children(ino),
        });
    }

    /// A reader of a directory goes on by a few names, to the end.
    pub fn read_directory(&mut self, nth: usize, count: usize) {
        if self.streams.is_empty() {
            return;
        }
        let at = nth % self.streams.len();
        let Stream {
            ino, cookie, plus, ..
        } = self.streams[at];
        let mut got: Vec<(Vec<u8>, u64, u64, Option<Attributes>)> = vec![];
        let mut take = |name: &[u8], ino, cookie, attributes| {
            let is_full = got.len() == count;
            if !is_full {
                got.push((name.to_vec(), ino, cookie, attributes));
            }
            is_full
        };
        let listed = if plus {
            self.fs.readdir_plus(ino, cookie, &mut |entry, it| {
                take(entry.name, entry.ino, entry.cookie, Some(*it))
            })
        } else {
            self.fs.readdir(ino, cookie, &mut |entry| {
                take(entry.name, entry.ino, entry.cookie, None)
            })
        };
        listed.unwrap();
        for (name, entry_ino, cookie, attributes) in &got {
            self.streams[at].cookie = *cookie;
            if name == b"." || name == b".." {
                continue;
            }
            self.streams[at].seen.push((name.clone(), *entry_ino));
            if let Some(attributes) = attributes {
                self.take_entry((ino, name.clone()), *attributes, attributes.lifetime);
            }
        }
        if got.is_empty() {
            self.end_stream(at);
        }
        self.forget_unused();
    }

    fn end_stream(&mut self, at: usize) {
        let stream = self.streams.swap_remove(at);
        let names: Vec<&Vec<u8>> = stream.seen.iter().map(|it| &it.0).collect();
        let distinct: BTreeSet<&Vec<u8>> = names.iter().copied().collect();
        assert_eq!(distinct.len(), names.len(), "a name is listed twice");
        if !self.identities[&stream.ino].path.starts_with(b".p2pfs") {
            let missing = stream.always.iter().find(|name| !distinct.contains(name));
            assert_eq!(missing, None, "was there all the while and is not listed");
        }
        let known = self.inode(stream.ino);
        if known.listings_dropped == stream.listings_dropped {
            known.listing = Some(stream.seen.into_iter().collect());
        }
    }

    /// The names in a directory that are shown already and are still there.
    fn shown_children(&self, ino: u64) -> BTreeSet<Vec<u8>> {
        let dir = self.shared_path(ino);
        let mut names = self.world.children(&dir);
        names.retain(|name| dir.join(name).is_ok_and(|path| self.fs.shows(&path)));
        names
    }

    /// The view is another one: who reads a directory may miss what left it.
    pub fn view_changed(&mut self) {
        for at in 0..self.streams.len() {
            let now = self.shown_children(self.streams[at].ino);
            self.streams[at].always.retain(|name| now.contains(name));
        }
    }

    pub fn close_files(&mut self) {
        while !self.files.is_empty() {
            self.close(0);
        }
        self.streams.clear();
        self.forget_unused();
    }

    pub fn close_all(&mut self) {
        self.close_files();
        let names: Vec<_> = self.names.keys().cloned().collect();
        names.iter().for_each(|name| self.drop_name(name));
        self.forget_unused();
    }

    /// Everything was told and heard: what is believed must be what is so.
    pub fn expect_nothing_stale(&self) {
        let mut reached = vec![ROOT_INO];
        let mut next = 0;
        while let Some(ino) = reached.get(next).copied() {
            next += 1;
            let below = self.names.iter().filter(|((parent, _), _)| *parent == ino);
            for ((_, name), dentry) in below.filter(|it| it.1.believed) {
                let fresh = self.fs.lookup(ino, name).map(|entry| entry.attributes.ino);
                if let Ok(fresh) = fresh {
                    self.fs.forget(fresh, 1);
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
        let fresh = self.fs.getattr(ino).unwrap();
        let version = &self.identities[&ino].version;
        if self.files.iter().any(|it| it.hash.as_bytes() == version) {
            // what is read is counted when it is closed
            believed.blocks = fresh.blocks;
        }
        assert_eq!(believed, fresh, "of {:?}", self.identities[&ino]);
    }

    fn expect_fresh_listing(&self, ino: u64) {
        let Some(believed) = &self.inodes[&ino].listing else {
            return;
        };
        let mut fresh = BTreeSet::new();
        let mut take = |entry: p2pfs::fs::DirectoryEntry<'_>| {
            if entry.name != b"." && entry.name != b".." {
                fresh.insert((entry.name.to_vec(), entry.ino));
            }
            false
        };
        self.fs.readdir(ino, 0, &mut take).unwrap();
        assert_eq!(*believed, fresh, "listing of {:?}", self.identities[&ino]);
    }
}
