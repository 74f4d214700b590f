//! Invalidations of the kernel's caches after the namespace or the cache changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::handles::Handles;
use super::inherited::Inherited;
use super::inode::{Inode, Name, Node};
use super::inodes::Inodes;
use super::names;
use super::namespace::MountNamespace;
use super::recall;
use super::traits::{Invalidator, Stale};
use p2pfs_catalogue::{Change, View};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// The objects to invalidate, each once, in the order in which they were found.
#[derive(Default)]
struct Invalidations {
    order: Vec<Stale>,
    known: HashSet<Stale>,
}

impl Invalidations {
    fn add(&mut self, stale: Stale) {
        if self.known.insert(stale.clone()) {
            self.order.push(stale);
        }
    }
}

/// Finds in the tables of the mount what the kernel may have cached of a changed file or name, and
/// makes the kernel drop it.
pub struct KernelCaches {
    pub(super) invalidator: OnceLock<Arc<dyn Invalidator>>,
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) handles: Arc<Handles>,
    pub(super) inherited: Arc<OnceLock<Inherited>>,
}

impl KernelCaches {
    /// Sets the invalidator of the kernel's caches, and begins to drop the kernel's pages of
    /// damaged bytes. Only the first call counts.
    pub fn set_invalidator(self: &Arc<Self>, invalidator: Arc<dyn Invalidator>) {
        if self.invalidator.set(invalidator).is_err() {
            return;
        }
        let caches = Arc::downgrade(self);
        let listener = move |hash: &ContentHash, range, dropped| {
            let caches = caches.upgrade();
            caches.is_some_and(|caches| {
                caches.drop_damaged(hash, range, dropped);
                true
            })
        };
        self.namespace.content.watch_damage(Box::new(listener));
    }

    /// Requests one invalidation.
    pub(super) fn invalidate(&self, stale: Stale) {
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.invalidate(stale);
        }
    }

    /// Notifies the kernel of changes of the namespace, and then shows the namespace that includes
    /// them. `view` is `None` for changes of foreign peers. This never waits.
    pub fn namespace_changed(self: &Arc<Self>, view: Option<Arc<View>>, changes: Vec<Change>) {
        let newest = view
            .clone()
            .unwrap_or_else(|| self.namespace.content.view());
        let stale = self.outdated_by(&newest, &changes);
        let caches = Arc::downgrade(self);
        let show = move || {
            let Some(caches) = caches.upgrade() else {
                return Vec::new();
            };
            caches.namespace.show(view);
            // This includes names that the kernel has requested in the meantime.
            caches.outdated_by(&newest, &changes)
        };
        match self.invalidator.get() {
            Some(invalidator) => invalidator.invalidate_around(stale, Box::new(show)),
            None => drop(show()),
        }
    }

    /// Notifies the kernel that everything changed, and then shows the newest namespace.
    pub fn everything_changed(self: &Arc<Self>) {
        self.namespace_changed(
            Some(self.namespace.content.view()),
            vec![Change::Everything],
        );
    }

    /// Returns the kernel's cached objects that these changes made stale.
    fn outdated_by(&self, newest: &View, changes: &[Change]) -> Vec<Stale> {
        let mut stale = Invalidations::default();
        let open = self.open_inodes();
        for change in changes {
            match change {
                Change::Listing(path) => {
                    self.listing_changed(Name::Union(path.clone()), &mut stale);
                }
                Change::Entry(path) => {
                    let name = Name::Union(path.clone());
                    self.name_changed(newest, &name, &mut stale);
                    // A version that lost its name has no links from now on.
                    let files = open.get(&name).into_iter().flatten().copied();
                    let lost = files.chain(self.inodes.number_of_directory(name));
                    lost.for_each(|ino| stale.add(Stale::Attributes { ino }));
                }
                Change::Everything => stale.add(Stale::Everything),
            }
        }
        // The effect of a change on the hidden folders is not computed, because programs rarely
        // read them. All hidden directories are invalidated.
        let hidden = self.inodes.hidden_directories().into_iter();
        hidden.for_each(|ino| stale.add(Stale::Listing { ino }));
        stale.order
    }

    /// Returns the open inodes by name. Programs query their attributes whatever the name stands
    /// for.
    fn open_inodes(&self) -> HashMap<Name, Vec<u64>> {
        let mut open: HashMap<Name, Vec<u64>> = HashMap::new();
        for ino in self.handles.inodes() {
            if let Some(inode) = self.inodes.get(ino) {
                open.entry(inode.name).or_default().push(ino);
            }
        }
        open
    }

    /// Makes the kernel look up a name again at its next use.
    pub(super) fn invalidate_name(&self, name: &Name) {
        if let Some(stale) = self.stale_name(name, false) {
            self.invalidate(stale);
        }
    }

    /// Notifies the kernel that the cached part of a content changed.
    pub fn cached_changed(&self, hash: &ContentHash) {
        for ino in self.inodes.files_of(hash) {
            self.invalidate(Stale::Attributes { ino });
        }
    }

    /// Makes the kernel drop its pages of a damaged range of a content, and calls `dropped` after
    /// that. A page that a read in progress fills is dropped after that read.
    fn drop_damaged(
        &self,
        hash: &ContentHash,
        range: ByteRange,
        dropped: Box<dyn FnOnce() + Send>,
    ) {
        let numbers = self.numbers_of_content(hash).into_iter();
        let pages: Vec<Stale> = numbers
            .map(|ino| Stale::PagesWithin { ino, range })
            .collect();
        let after = move || {
            dropped();
            Vec::new()
        };
        match self.invalidator.get() {
            Some(invalidator) if !pages.is_empty() => {
                invalidator.invalidate_around(pages, Box::new(after));
            }
            _ => drop(after()),
        }
    }

    /// Returns the numbers under which the kernel may have pages of a content. An inode that it
    /// learned from the previous process may not be in the table. It has one of the numbers of its
    /// name, or was open with that process.
    fn numbers_of_content(&self, hash: &ContentHash) -> BTreeSet<u64> {
        let mut numbers: BTreeSet<u64> = self.inodes.files_of(hash).into_iter().collect();
        if let Some(inherited) = self.inherited.get().filter(|it| it.has_predecessor()) {
            numbers.extend(inherited.inodes_of(hash));
            let inodes = recall::inodes_of_content(&self.namespace.view(), hash).into_iter();
            numbers.extend(inodes.flat_map(|inode| inode.numbers().collect::<Vec<_>>()));
        }
        numbers
    }

    /// Returns all names that the kernel may have cached, as far as they are known here, and the
    /// open inodes. Names that the kernel learned from the previous process are not known, and may
    /// be in any directory.
    pub fn known_names(&self) -> Vec<Stale> {
        let mut directories: BTreeSet<u64> = self.inodes.directories().into_iter().collect();
        if self.is_taken_over() {
            self.namespace.view().directories_and_links(|path, target| {
                let is_directory = target.is_none();
                let directory = Inode::directory(Name::Union(path));
                directories.extend(is_directory.then(|| directory.number()));
            });
        }
        let directories = directories.into_iter();
        let mut stale: Vec<Stale> = directories.map(|ino| Stale::Listing { ino }).collect();
        let names = self.inodes.names().into_iter();
        // A name that stands for another version by now is found at its next lookup.
        stale.extend(names.map(|(parent, name)| Stale::Directory { parent, name }));
        let open = self.handles.inodes().into_iter();
        stale.extend(open.map(|ino| Stale::Attributes { ino }));
        stale
    }

    /// Returns the number of a directory that the kernel may know. A directory that it learned from
    /// the previous process is not in the table before its first request, and has its regular
    /// number.
    fn number_of_directory(&self, directory: Name) -> Option<u64> {
        let known = self.inodes.number_of_directory(directory.clone());
        let number = || Inode::directory(directory).number();
        known.or_else(|| self.is_taken_over().then(number))
    }

    /// Returns whether the kernel may still cache names from the previous process that are not
    /// known here.
    fn is_taken_over(&self) -> bool {
        self.inherited.get().is_some_and(Inherited::is_believed)
    }

    /// Adds the listing and the attributes of a directory. A directory that the kernel does not
    /// know needs no invalidation.
    fn listing_changed(&self, directory: Name, stale: &mut Invalidations) {
        if let Some(ino) = self.number_of_directory(directory) {
            stale.add(Stale::Listing { ino });
        }
    }

    /// Adds a name and its parent's listing. An invalidation of the name alone does not make a new
    /// name visible in a cached listing.
    fn name_changed(&self, view: &View, name: &Name, stale: &mut Invalidations) {
        let mut is_directory = false;
        if let Some(listed) = self.namespace.native(view, name) {
            is_directory = listed.node == Node::Directory;
            let inode = Inode {
                name: name.clone(),
                node: listed.node,
            };
            let known = match inode.node {
                Node::Directory => self.number_of_directory(name.clone()),
                _ => self.inodes.number_of(&inode),
            };
            if let Some(ino) = known {
                // This is the same version with a new mtime or mode.
                stale.add(match inode.node {
                    Node::Directory => Stale::Listing { ino },
                    _ => Stale::Attributes { ino },
                });
                // The kernel knows a file by its name since a program wrote it.
                if matches!(inode.node, Node::Written(_)) {
                    return;
                }
            }
        }
        if let Some(lost) = self.stale_name(name, is_directory) {
            self.listing_changed(names::parent(name), stale);
            stale.add(lost);
        }
    }

    fn stale_name(&self, name: &Name, is_directory: bool) -> Option<Stale> {
        let Name::Union(path) = name else { return None };
        if path.is_root() {
            return None;
        }
        let parent = self.number_of_directory(names::parent(name))?;
        let name = path.file_name().into();
        Some(if is_directory {
            Stale::Directory { parent, name }
        } else {
            Stale::Name { parent, name }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use parking_lot::Mutex;

    use super::*;
    use crate::standin::Names;
    use crate::traits::{Around, FileVersion};
    use crate::{Filesystem, Options};
    use p2pfs_types::path::SharedPath;

    /// Records what is to be dropped, and drops it at once.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<Stale>>);

    impl Invalidator for Recorder {
        fn invalidate(&self, stale: Stale) {
            self.0.lock().push(stale);
        }

        fn invalidate_around(&self, stale: Vec<Stale>, change: Around) {
            self.0.lock().extend(stale);
            drop(change());
        }
    }

    fn filesystem(names: Names) -> (Filesystem, Arc<Recorder>) {
        let options = Options {
            uid: 0,
            gid: 0,
            file_mask: 0o022,
            directory_mask: 0o022,
        };
        let fs = Filesystem::new(Arc::new(names), options);
        let recorder = Arc::new(Recorder::default());
        fs.caches.set_invalidator(recorder.clone());
        (fs, recorder)
    }

    /// Returns the inodes whose pages are dropped if this content is found damaged.
    fn dropped((fs, recorder): &(Filesystem, Arc<Recorder>), content: &[u8]) -> Vec<u64> {
        let (told, heard) = std::sync::mpsc::channel();
        let range = ByteRange::new(0, 4096);
        let dropped = Box::new(move || told.send(()).unwrap());
        let hash = ContentHash::of(content);
        fs.caches.drop_damaged(&hash, range, dropped);
        heard.try_recv().unwrap();
        let stale = std::mem::take(&mut *recorder.0.lock());
        let ino = |stale| match stale {
            Stale::PagesWithin { ino, range: part } if part == range => ino,
            other => panic!("{other:?}"),
        };
        stale.into_iter().map(ino).collect()
    }

    #[test]
    fn damaged_bytes_lose_their_pages_of_known_inodes_and_of_those_of_the_previous_process() {
        let names = Names::none();
        names.put("file", b"content");
        let path = SharedPath::new(&b"file"[..]).unwrap();
        let version = FileVersion {
            path: path.clone(),
            hash: ContentHash::of(b"content"),
            size_bytes: 7,
            mtime: Default::default(),
            executable: false,
            own: None,
        };
        let name = Name::Union(path);
        let node = Node::File(version);
        let number = Inode { name, node }.number();
        let fs = filesystem(names);
        assert_eq!(dropped(&fs, b"content"), Vec::<u64>::new(), "no inode");

        let names = Names::none();
        names.put("file", b"content");
        let fs = filesystem(names);
        let table = tempfile::tempfile().unwrap();
        table.write_all_at(&[0; 8], 0).unwrap();
        fs.0.files.inherit(table).unwrap();
        assert!(dropped(&fs, b"content").contains(&number));
        assert!(!dropped(&fs, b"other").contains(&number));
    }
}
