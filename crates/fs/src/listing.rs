//! Directory listings, and their continuation.
//!
//! The kernel opens and closes directories itself, so a listing that it caches costs no call. A
//! listing that the kernel reads in parts is found again by the number of its directory. Cookies
//! have the same meaning in every listing.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Attributes, FileKind};
use super::directory::{DOT_COOKIE, DOT_DOT_COOKIE, Listing, Listings};
use super::error::FsError;
use super::inode::{Inode, Name, Node};
use super::names::{self, ResolvedName};
use super::namespace::MountNamespace;
use super::own_attributes::LiveLooks;
use super::resolver::InodeResolver;
use super::staleness::KernelCaches;
use super::stat::AttributeReader;
use super::traits::{FileVersion, Stale};
use p2pfs_catalogue::{NameHandle, View};

/// How long the kernel may cache the listed attributes of an own file, which are live. It is long
/// enough for the `stat` that follows at once in `ls -l`.
pub const LISTED_LIVE_LIFETIME: Duration = Duration::from_secs(1);

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The inode number.
    pub ino: u64,
    /// The cookie after which the listing continues behind this name.
    pub cookie: u64,
    /// The type of the inode.
    pub kind: FileKind,
    /// The listed name, at most 255 bytes.
    pub name: &'a [u8],
}

/// Receives entries until it returns `true` because it is full. The entry for which it returns
/// `true` was not accepted.
pub type Sink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>) -> bool;
/// Receives entries with their attributes until it returns `true`, as a [`Sink`] does.
pub type PlusSink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>, &Attributes) -> bool;

/// The directories of the mount, and their listings that are being read in parts.
pub struct Directories {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) inodes: Arc<InodeResolver>,
    pub(super) attributes: Arc<AttributeReader>,
    pub(super) caches: Arc<KernelCaches>,
    pub(super) listings: Listings,
}

impl Directories {
    /// Lists names after a cookie (0: from the start), without counting lookups.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] for another type of inode.
    pub fn readdir(&self, ino: u64, cookie: u64, full: Sink<'_>) -> Result<(), FsError> {
        let view = self.namespace.view();
        let reader = self.reader(&view, ino, cookie)?;
        for (dot, _) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot) {
                return Ok(());
            }
        }
        let mut is_end = true;
        for (cookie, name) in reader.listing.after(cookie.max(DOT_DOT_COOKIE)) {
            // Names that vanished since the listing was taken are left out.
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let kind = listed.node.kind();
            let name = name.as_bytes();
            let inode = Inode {
                name: child,
                node: listed.node,
            };
            let ino = self.inodes.number(&inode);
            if full(DirectoryEntry {
                ino,
                cookie,
                kind,
                name,
            }) {
                return Ok(());
            }
            is_end = false;
        }
        if is_end {
            self.end_of(&reader);
        }
        Ok(())
    }

    /// Lists names with their attributes after a cookie. It counts a lookup of each accepted name,
    /// except `.` and `..`.
    ///
    /// # Errors
    /// The errors of [`Directories::readdir`].
    pub fn readdir_plus(&self, ino: u64, cookie: u64, full: PlusSink<'_>) -> Result<(), FsError> {
        let view = self.namespace.view();
        let reader = self.reader(&view, ino, cookie)?;
        for (dot, attributes) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot, &attributes) {
                return Ok(());
            }
        }
        let mut is_end = true;
        let cookie = cookie.max(DOT_DOT_COOKIE);
        let mut looks = LiveLooks::new(&self.namespace.content, &reader.listing);
        let first = reader.listing.place_after(cookie);
        for (at, (cookie, name)) in (first..).zip(reader.listing.after(cookie)) {
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let name = name.as_bytes();
            let is_own = match &listed.node {
                Node::File(file) => file.own.is_some(),
                node => matches!(node, Node::Written(_)),
            };
            let mut age = Duration::ZERO;
            let look = |file: &FileVersion| {
                let (look, looked) = looks.attributes_at(at, file)?;
                age = looked;
                Some(look)
            };
            let attributes = self.attributes.attributes_by(&child, &listed, look);
            let entry = self.inodes.enter_with(Some(ino), child, listed, attributes);
            let mut attributes = entry.attributes;
            if is_own {
                reader.listing.record_live();
                attributes.lifetime = LISTED_LIVE_LIFETIME.saturating_sub(age);
            }
            let Attributes {
                ino: child, kind, ..
            } = attributes;
            if full(
                DirectoryEntry {
                    ino: child,
                    cookie,
                    kind,
                    name,
                },
                &attributes,
            ) {
                self.inodes.forget(child, 1);
                return Ok(());
            }
            is_end = false;
        }
        if is_end {
            self.end_of(&reader);
        }
        Ok(())
    }

    /// Forgets a listing after a reader reached its end. If it showed attributes of own files, the
    /// kernel must list it again next time. Their attributes are valid only for a moment, so each
    /// name in a cached listing would cost one GETATTR.
    fn end_of(&self, reader: &ListingReader) {
        self.listings.forget(reader.ino);
        if reader.listing.shows_live() {
            self.caches.invalidate(Stale::Listing { ino: reader.ino });
        }
    }

    /// Returns the directory and its names, as they were when a reader last began to list it. The
    /// cookie 0 begins a new listing.
    fn reader(&self, view: &View, ino: u64, cookie: u64) -> Result<ListingReader, FsError> {
        let inode = self.inodes.directory(ino)?;
        let taken = self.listings.get(ino).filter(|_| cookie != 0);
        let listing = taken.unwrap_or_else(|| {
            let taken = Arc::new(Listing::new(
                view,
                self.namespace.names_in(view, &inode.name),
            ));
            self.listings.put(ino, taken.clone());
            taken
        });
        Ok(ListingReader {
            ino,
            inode,
            listing,
        })
    }

    /// Returns a name of a listing and what it stands for now. If the namespace has not changed
    /// since the listing was taken, the recorded result is used.
    fn child(
        &self,
        view: &View,
        reader: &ListingReader,
        name: &NameHandle,
    ) -> Option<(Name, ResolvedName)> {
        let child = names::child(&reader.inode.name, name.as_bytes())?;
        let listed = match (name, &child) {
            (NameHandle::Said(said), Name::Union(path)) if reader.listing.is_of(view) => {
                let found = view.found_of(said);
                self.namespace.merged(view, path, found)?
            }
            _ => self.namespace.resolve(view, &child)?,
        };
        Some((child, listed))
    }

    fn dots(
        &self,
        view: &View,
        reader: &ListingReader,
    ) -> [(DirectoryEntry<'static>, Attributes); 2] {
        let attributes = |ino: u64, name: &Name| {
            let gone = || ResolvedName::last_known(&Node::Directory, self.namespace.started);
            let listed = self.namespace.native(view, name).unwrap_or_else(gone);
            Attributes {
                ino,
                ..self.attributes.attributes(name, &listed)
            }
        };
        let above = names::parent(&reader.inode.name);
        let above_ino = Inode::directory(above.clone()).number();
        let entry = |ino, cookie, name| DirectoryEntry {
            ino,
            cookie,
            kind: FileKind::Directory,
            name,
        };
        [
            (
                entry(reader.ino, DOT_COOKIE, &b"."[..]),
                attributes(reader.ino, &reader.inode.name),
            ),
            (
                entry(above_ino, DOT_DOT_COOKIE, b".."),
                attributes(above_ino, &above),
            ),
        ]
    }
}

/// A directory and its names.
struct ListingReader {
    ino: u64,
    inode: Inode,
    listing: Arc<Listing>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    use super::*;
    use crate::inode::ROOT_INO;
    use crate::names::RESOLVED;
    use crate::own_attributes::USED_FOR;
    use crate::standin::Names;
    use crate::traits::Content;
    use crate::{DEFAULT_MASK, Filesystem, Options};

    const FILES: usize = 100;

    fn mounted() -> (Arc<Names>, Filesystem) {
        mounted_with(FILES)
    }

    fn mounted_with(files: usize) -> (Arc<Names>, Filesystem) {
        let names = Names::none();
        (0..files).for_each(|n| names.put(&format!("f{n}"), b"1"));
        let names = Arc::new(names);
        let options = Options {
            uid: 0,
            gid: 0,
            file_mask: DEFAULT_MASK,
            directory_mask: DEFAULT_MASK,
        };
        (names.clone(), Filesystem::new(names, options))
    }

    /// Lists at most `most` names of the root after a cookie, with their attributes. Returns the
    /// attributes by inode number, and the last name's cookie.
    fn list(fs: &Filesystem, from: u64, most: usize) -> (BTreeMap<u64, Attributes>, u64) {
        let (mut shown, mut last) = (BTreeMap::new(), from);
        let full: PlusSink<'_> = &mut |entry, attributes| {
            let is_full = shown.len() == most;
            if !is_full && entry.name != b"." && entry.name != b".." {
                shown.insert(entry.ino, *attributes);
            }
            last = if is_full { last } else { entry.cookie };
            is_full
        };
        fs.directories.readdir_plus(ROOT_INO, from, full).unwrap();
        (shown, last)
    }

    #[test]
    fn a_listing_with_attributes_looks_each_name_up_once() {
        let (_, fs) = mounted();
        let found_before = RESOLVED.get();
        let (shown, _) = list(&fs, 0, FILES);
        for (ino, attributes) in &shown {
            assert_eq!(fs.inodes.getattr(*ino).unwrap().mtime, attributes.mtime);
        }
        let of_dots = 2;
        assert_eq!(shown.len(), FILES);
        assert_eq!(RESOLVED.get() - found_before, FILES + of_dots);
    }

    #[test]
    fn a_long_listing_shows_own_files_as_on_disk_with_their_validity() {
        let (names, fs) = mounted_with(5000);
        names.1.store(77, Relaxed);
        let (mut shown, mut cookie) = (BTreeMap::new(), 0);
        while shown.len() < 5000 {
            let (part, last) = list(&fs, cookie, 100);
            assert!(!part.is_empty() && last > cookie);
            shown.extend(part);
            cookie = last;
        }
        let oldest = LISTED_LIVE_LIFETIME.saturating_sub(USED_FOR);
        for attributes in shown.values() {
            assert_eq!(attributes.size_bytes, 77);
            assert!((oldest..=LISTED_LIVE_LIFETIME).contains(&attributes.lifetime));
        }
    }

    #[test]
    fn a_paused_long_listing_shows_own_files_as_they_are_when_it_resumes() {
        let (names, fs) = mounted_with(5000);
        names.1.store(77, Relaxed);
        let (_, cookie) = list(&fs, 0, 600);
        names.1.store(78, Relaxed);
        let rested = Instant::now();
        while rested.elapsed() <= USED_FOR {
            std::thread::yield_now();
        }
        let (shown, _) = list(&fs, cookie, 5000);
        assert_eq!(shown.len(), 4400);
        assert!(shown.values().all(|it| it.size_bytes == 78));
    }

    #[test]
    fn a_listing_resumed_after_a_change_shows_the_current_entries() {
        let (names, fs) = mounted();
        let (before, cookie) = list(&fs, 0, FILES / 2);
        (0..FILES).for_each(|n| names.put(&format!("f{n}"), b"longer"));
        fs.namespace.show(Some(names.view()));
        let (after, _) = list(&fs, cookie, FILES);
        assert_eq!((before.len(), after.len()), (FILES / 2, FILES - FILES / 2));
        assert!(before.values().all(|it| it.size_bytes == 1));
        assert!(after.values().all(|it| it.size_bytes == 6));
        // An own file that was written to is the same file, and shows its present size.
        let now = before.keys().map(|ino| fs.inodes.getattr(*ino).unwrap());
        assert!(now.into_iter().all(|it| it.size_bytes == 6));
    }
}
