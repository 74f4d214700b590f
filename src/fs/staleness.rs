//! What the kernel must forget when the namespace or the cache changed.

use std::collections::HashMap;

use super::filesystem::Filesystem;
use super::inode::{Name, Node};
use super::names;
use super::traits::Stale;
use crate::catalogue::Change;
use crate::digest::ContentHash;

impl Filesystem {
    /// Tells the kernel of changes of the namespace, once the view that shows them is the one
    /// that [`Content::view`] gives. Never waits.
    ///
    /// [`Content::view`]: super::traits::Content::view
    pub fn namespace_changed(&self, changes: &[Change]) {
        self.forget_places();
        let open = self.open_inodes();
        for change in changes {
            match change {
                Change::Listing(path) => self.listing_changed(Name::Union(path.clone())),
                Change::Entry(path) => {
                    let name = Name::Union(path.clone());
                    self.name_changed(&name);
                    // what lost its name has no links from now on
                    let files = open.get(&name).into_iter().flatten().copied();
                    let lost = files.chain(self.inodes.number_of_directory(name));
                    lost.for_each(|ino| self.invalidate(Stale::Attributes { ino }));
                }
                Change::Everything => self.everything_changed(),
            }
        }
        self.hidden_listings_changed();
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

    /// Tells the kernel that another share of a content is cached now.
    pub fn cached_changed(&self, hash: &ContentHash) {
        for ino in self.inodes.files_of(hash) {
            self.invalidate(Stale::Attributes { ino });
        }
    }

    /// Every name that the kernel may hold, as far as we know of it, and what is open.
    pub fn known_names(&self) -> Vec<Stale> {
        let directories = self
            .inodes
            .directories()
            .into_iter()
            .map(|ino| Stale::Listing { ino });
        let mut stale: Vec<Stale> = directories.collect();
        let names = self.inodes.names().into_iter();
        stale.extend(names.map(|(parent, name)| Stale::Name { parent, name }));
        let open = self.handles.inodes().into_iter();
        stale.extend(open.map(|ino| Stale::Attributes { ino }));
        stale
    }

    /// What a change of the union does to the hidden folders is not worked out: programs look into
    /// few of them.
    fn hidden_listings_changed(&self) {
        for ino in self.inodes.hidden_directories() {
            self.invalidate(Stale::Listing { ino });
        }
    }

    fn everything_changed(&self) {
        self.invalidate(Stale::Everything);
    }

    /// The listing and the attributes; what is not known to the kernel needs no word.
    fn listing_changed(&self, directory: Name) {
        if let Some(ino) = self.inodes.number_of_directory(directory) {
            self.invalidate(Stale::Listing { ino });
        }
    }

    /// What the name stands for, and the listing that it is in: a new name is not seen through a
    /// cached listing by a word about the name alone.
    fn name_changed(&self, name: &Name) {
        let view = self.content.view();
        if let Some(listed) = names::resolve(&view, name) {
            let inode = super::inode::Inode {
                name: name.clone(),
                node: listed.node,
            };
            if let Some(ino) = self.inodes.number_of(&inode) {
                // The same version by a new mtime or mode.
                let stale = match inode.node {
                    Node::Directory => Stale::Listing { ino },
                    _ => Stale::Attributes { ino },
                };
                self.invalidate(stale);
            }
        }
        if let Some(stale) = self.stale_name(name) {
            self.listing_changed(names::parent(name));
            self.invalidate(stale);
        }
    }

    fn stale_name(&self, name: &Name) -> Option<Stale> {
        let Name::Union(path) = name else { return None };
        if path.is_root() {
            return None;
        }
        let parent = self.inodes.number_of_directory(names::parent(name))?;
        Some(Stale::Name {
            parent,
            name: path.file_name().into(),
        })
    }
}
