//! What the kernel must forget when the namespace or the cache changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::filesystem::Filesystem;
use super::inherited::Inherited;
use super::inode::{Inode, Name, Node};
use super::names;
use super::traits::Stale;
use p2pfs_catalogue::{Change, View};
use p2pfs_types::digest::ContentHash;

/// What is to be forgotten, each once, in the order in which it was found.
#[derive(Default)]
struct Outdated {
    order: Vec<Stale>,
    known: HashSet<Stale>,
}

impl Outdated {
    fn add(&mut self, stale: Stale) {
        if self.known.insert(stale.clone()) {
            self.order.push(stale);
        }
    }
}

impl Filesystem {
    /// Tells the kernel of changes of the namespace, and then shows it the one that has them; none
    /// where the changes are of what legacy peers have. Never waits.
    pub fn namespace_changed(self: &Arc<Self>, view: Option<Arc<View>>, changes: Vec<Change>) {
        let newest = view.clone().unwrap_or_else(|| self.content.view());
        let stale = self.outdated_by(&newest, &changes);
        let fs = Arc::downgrade(self);
        let show = move || {
            let Some(fs) = fs.upgrade() else {
                return Vec::new();
            };
            view.into_iter().for_each(|view| fs.shown.show(view));
            fs.forget_places();
            // also of names that the kernel has asked for meanwhile
            fs.outdated_by(&newest, &changes)
        };
        match self.invalidator.get() {
            Some(invalidator) => invalidator.invalidate_around(stale, Box::new(show)),
            None => drop(show()),
        }
    }

    /// The same of everything, and of the newest namespace.
    pub fn everything_changed(self: &Arc<Self>) {
        self.namespace_changed(Some(self.content.view()), vec![Change::Everything]);
    }

    /// What the kernel knows that these changes made wrong.
    fn outdated_by(&self, newest: &View, changes: &[Change]) -> Vec<Stale> {
        let mut stale = Outdated::default();
        let open = self.open_inodes();
        for change in changes {
            match change {
                Change::Listing(path) => {
                    self.listing_changed(Name::Union(path.clone()), &mut stale);
                }
                Change::Entry(path) => {
                    let name = Name::Union(path.clone());
                    self.name_changed(newest, &name, &mut stale);
                    // what lost its name has no links from now on
                    let files = open.get(&name).into_iter().flatten().copied();
                    let lost = files.chain(self.inodes.number_of_directory(name));
                    lost.for_each(|ino| stale.add(Stale::Attributes { ino }));
                }
                Change::Everything => stale.add(Stale::Everything),
            }
        }
        // What a change of the union does to the hidden folders is not worked out: programs look
        // into few of them.
        let hidden = self.inodes.hidden_directories().into_iter();
        hidden.for_each(|ino| stale.add(Stale::Listing { ino }));
        stale.order
    }

    /// What is open, by name: programs ask for its attributes whatever the name stands for.
    fn open_inodes(&self) -> HashMap<Name, Vec<u64>> {
        let mut open: HashMap<Name, Vec<u64>> = HashMap::new();
        for ino in self.handles.inodes() {
            if let Some(inode) = self.inodes.get(ino) {
                open.entry(inode.name).or_default().push(ino);
            }
        }
        open
    }

    /// Has the kernel look a name up when it is asked for next.
    pub(super) fn invalidate_name(&self, name: &Name) {
        if let Some(stale) = self.stale_name(name, false) {
            self.invalidate(stale);
        }
    }

    /// Tells the kernel that another share of a content is cached now.
    pub fn cached_changed(&self, hash: &ContentHash) {
        for ino in self.inodes.files_of(hash) {
            self.invalidate(Stale::Attributes { ino });
        }
    }

    /// Every name that the kernel may hold, as far as we know of it, and what is open. What it
    /// learned from the process before we do not know: that may be about any directory.
    pub fn known_names(&self) -> Vec<Stale> {
        let mut directories: BTreeSet<u64> = self.inodes.directories().into_iter().collect();
        if self.is_taken_over() {
            self.view().directories_and_links(|path, target| {
                let is_directory = target.is_none();
                let directory = Inode::directory(Name::Union(path));
                directories.extend(is_directory.then(|| directory.number()));
            });
        }
        let directories = directories.into_iter();
        let mut stale: Vec<Stale> = directories.map(|ino| Stale::Listing { ino }).collect();
        let names = self.inodes.names().into_iter();
        // one that stands for something else is found out when it is asked for
        stale.extend(names.map(|(parent, name)| Stale::Directory { parent, name }));
        let open = self.handles.inodes().into_iter();
        stale.extend(open.map(|ino| Stale::Attributes { ino }));
        stale
    }

    /// The number of a directory that the kernel may know: one that it learned from the process
    /// before is not among ours until it asks for that, and has the number that it had.
    fn number_of_directory(&self, directory: Name) -> Option<u64> {
        let known = self.inodes.number_of_directory(directory.clone());
        let number = || Inode::directory(directory).number();
        known.or_else(|| self.is_taken_over().then(number))
    }

    /// Whether the kernel may know what the process before told it, and we do not know of.
    fn is_taken_over(&self) -> bool {
        self.inherited.get().is_some_and(Inherited::is_believed)
    }

    /// The listing and the attributes; what is not known to the kernel needs no word.
    fn listing_changed(&self, directory: Name, stale: &mut Outdated) {
        if let Some(ino) = self.number_of_directory(directory) {
            stale.add(Stale::Listing { ino });
        }
    }

    /// What the name stands for, and the listing that it is in: a new name is not seen through a
    /// cached listing by a word about the name alone.
    fn name_changed(&self, view: &View, name: &Name, stale: &mut Outdated) {
        let mut is_directory = false;
        if let Some(listed) = names::resolve(view, name) {
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
                // The same version by a new mtime or mode.
                stale.add(match inode.node {
                    Node::Directory => Stale::Listing { ino },
                    _ => Stale::Attributes { ino },
                });
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
