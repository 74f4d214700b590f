//! Open directories: opening, listing, and where a listing goes on.

use std::sync::{Arc, Mutex, PoisonError};

use super::attributes::{Attributes, FileKind};
use super::directory::{DOT_COOKIE, DOT_DOT_COOKIE, Listing};
use super::error::FsError;
use super::filesystem::{Filesystem, LISTED_LIVE_LIFETIME};
use super::handles::{Handle, OpenDirectory};
use super::inode::{Inode, Name, Node};
use super::names::{self, Listed};
use crate::catalogue::View;

/// What opening a directory tells the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDirectoryReply {
    /// The handle's number.
    pub handle: u64,
    /// Whether the kernel may keep the listing until it is told otherwise.
    pub cache: bool,
}

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The inode's number.
    pub ino: u64,
    /// The listing goes on after this name from here.
    pub cookie: u64,
    /// What it is.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
}

/// Takes entries until it says that it is full; the entry that it says so for was not taken.
pub type Sink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>) -> bool;
/// The same, with attributes.
pub type PlusSink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>, &Attributes) -> bool;

impl Filesystem {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] for anything else.
    pub fn opendir(&self, ino: u64) -> Result<OpenDirectoryReply, FsError> {
        let inode = self.directory(ino)?;
        let open = Handle::Directory(OpenDirectory {
            ino,
            listing: Mutex::default(),
        });
        let handle = self.handles.insert(open).map_err(|(_, error)| error)?;
        Ok(OpenDirectoryReply {
            handle,
            cache: matches!(inode.name, Name::Union(_)),
        })
    }

    /// Lists names from a cookie on (0: from the start), without counting lookups.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] where no directory is open under that number.
    pub fn readdir(&self, handle: u64, cookie: u64, full: Sink<'_>) -> Result<(), FsError> {
        let view = self.content.view();
        let reader = self.reader(&view, handle, cookie)?;
        for (dot, _) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot) {
                return Ok(());
            }
        }
        for (cookie, name) in reader.listing.after(cookie.max(DOT_DOT_COOKIE)) {
            // What vanished since the listing was taken is left out.
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let kind = listed.node.kind();
            let ino = Inode {
                name: child,
                node: listed.node,
            }
            .number();
            if full(DirectoryEntry {
                ino,
                cookie,
                kind,
                name,
            }) {
                break;
            }
        }
        Ok(())
    }

    /// Lists names with their attributes from a cookie on, counting a lookup of each name that was
    /// taken (not of the dots).
    ///
    /// # Errors
    /// As [`Filesystem::readdir`].
    pub fn readdir_plus(
        &self,
        handle: u64,
        cookie: u64,
        full: PlusSink<'_>,
    ) -> Result<(), FsError> {
        let view = self.content.view();
        let reader = self.reader(&view, handle, cookie)?;
        for (dot, attributes) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot, &attributes) {
                return Ok(());
            }
        }
        for (cookie, name) in reader.listing.after(cookie.max(DOT_DOT_COOKIE)) {
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let is_own = matches!(&listed.node, Node::File(file) if file.own.is_some());
            let mut attributes = self.enter(child, listed).attributes;
            if is_own {
                attributes.lifetime = LISTED_LIVE_LIFETIME;
            }
            let Attributes { ino, kind, .. } = attributes;
            if full(
                DirectoryEntry {
                    ino,
                    cookie,
                    kind,
                    name,
                },
                &attributes,
            ) {
                self.forget(ino, 1);
                break;
            }
        }
        Ok(())
    }

    /// The directory that is open, and its names: as they were when its reader began, unless it
    /// begins anew.
    fn reader(&self, view: &View, handle: u64, cookie: u64) -> Result<Reader, FsError> {
        let handle = self.handle(handle)?;
        let Handle::Directory(open) = &*handle else {
            return Err(FsError::BadHandle);
        };
        let inode = self.directory(open.ino)?;
        let lock = || open.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().clone().filter(|_| cookie != 0);
        let listing = match taken {
            Some(listing) => listing,
            None => {
                let taken = Arc::new(Listing::new(self.names_in(view, &inode.name)));
                *lock() = Some(taken.clone());
                taken
            }
        };
        Ok(Reader {
            ino: open.ino,
            inode,
            listing,
        })
    }

    fn child(&self, view: &View, reader: &Reader, name: &[u8]) -> Option<(Name, Listed)> {
        let child = names::child(&reader.inode.name, name)?;
        let listed = self.resolve(view, &child)?;
        Some((child, listed))
    }

    fn dots(&self, view: &View, reader: &Reader) -> [(DirectoryEntry<'static>, Attributes); 2] {
        let attributes = |ino: u64, name: &Name| {
            let gone = || Listed::last_known(&Node::Directory, self.started);
            let listed = names::resolve(view, name).unwrap_or_else(gone);
            Attributes {
                ino,
                ..self.attributes(name, &listed)
            }
        };
        let above = names::parent(&reader.inode.name);
        let above_ino = Inode {
            name: above.clone(),
            node: Node::Directory,
        }
        .number();
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

/// An open directory and where its reader stands.
struct Reader {
    ino: u64,
    inode: Arc<Inode>,
    listing: Arc<Listing>,
}
