//! Directories that programs read in the model: the names that a listing must contain despite
//! concurrent changes.

use std::collections::BTreeSet;

use p2pfs_fs::{Attributes, FileKind};

use super::{Kernel, Stream};

impl Kernel {
    pub(crate) fn open_directory(&mut self, ino: u64, plus: bool) {
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

    /// Continues a reader of a directory by a few names, or to the end.
    pub(crate) fn read_directory(&mut self, nth: usize, count: usize) {
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
            self.fs
                .directories
                .readdir_plus(ino, cookie, &mut |entry, it| {
                    take(entry.name, entry.ino, entry.cookie, Some(*it))
                })
        } else {
            self.fs.directories.readdir(ino, cookie, &mut |entry| {
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

    /// Returns the names in a directory that are already and still shown.
    fn shown_children(&self, ino: u64) -> BTreeSet<Vec<u8>> {
        let dir = self.shared_path(ino);
        let mut names = self.world.children(&dir);
        names.retain(|name| {
            dir.join(name)
                .is_ok_and(|path| self.fs.namespace.shows(&path))
        });
        names
    }

    /// Records a new view. A listing in progress may miss names that have left it.
    pub(crate) fn view_changed(&mut self) {
        for at in 0..self.streams.len() {
            let now = self.shown_children(self.streams[at].ino);
            self.streams[at].always.retain(|name| now.contains(name));
        }
    }
}
